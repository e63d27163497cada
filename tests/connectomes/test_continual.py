"""Several texts in sequence: measures against loops, lives against the run's own, kill and resume, refusals."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evonb.cli import main
from evonb.connectomes import continual as module
from evonb.connectomes.continual import chosen_rates, continual_dataset, continual_verdicts, learn_tasks
from evonb.connectomes.experiments import developed_config
from evonb.connectomes.generations import life_folder, read_life
from evonb.connectomes.wiring import prune
from evonb.core import InputError, RunExistsError, Seeds, Stopped, StopRequest
from evonb.statistics import verdict
from evonb.store import open_run, read_dataset, read_tensors
from evonb.training.connectome import check_sparse, inherit, sign_flips
from evonb.training.continual import SEQUENCE_MEASURES, live_tasks
from evonb.training.curriculum import CurriculumConfig
from evonb.training.gpt import GPTConfig, new_gpt
from evonb.training.lifetime import Lifetime, LifetimeConfig, Optimizers

pytestmark = pytest.mark.numerics

RUN = Path(__file__).parents[1] / "runs" / "connectome.zip"
SIZES = GPTConfig(vocab_size=40, n_layer=1, n_head=2, n_embd=16, block_size=16)
LIFE = LifetimeConfig(steps=6, batch_size=4, context=16, lr=1e-2, warmup=2, eval_every=6, eval_windows=4,
                      checkpoint_every=2)


def changed(**kw):
    return LifetimeConfig(**vars(LIFE) | kw)


def texts(n=3):
    rng = np.random.default_rng(0)
    return {f"t{i}": (rng.integers(0, 40, 900).astype(np.uint16), rng.integers(0, 40, 200)) for i in range(n)}


def newborn(wired):
    wiring = prune(new_gpt(SIZES, Seeds(0)), 0.6) if wired else None
    return (inherit(new_gpt(SIZES, Seeds(1)), wiring) if wired else new_gpt(SIZES, Seeds(1))), wiring


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(2, 5), st.integers(0, 99))
def test_measures_are_those_of_plain_loops(n, seed):
    "Lopez-Paz and Ranzato 2017, equations 2 to 4; Chaudhry et al. 2018, equation 3; a = minus the loss."
    losses = np.random.default_rng(seed).normal(size=(3, n + 1, n))
    found = {m: f(losses) for m, (f, _) in SEQUENCE_MEASURES.items()}
    for k, rows in enumerate(losses):
        a = {(i, j): -rows[i, j - 1] for i in range(n + 1) for j in range(1, n + 1)}  # tasks counted from 1
        drops = [max(a[i, j] for i in range(1, n)) - a[n, j] for j in range(1, n)]
        back = [a[n, j] - a[j, j] for j in range(1, n)]
        ahead = [a[j - 1, j] - a[0, j] for j in range(2, n + 1)]
        assert found["forgetting"][k] == pytest.approx(sum(drops) / (n - 1))
        assert found["backward"][k] == pytest.approx(sum(back) / (n - 1))
        assert found["forward"][k] == pytest.approx(sum(ahead) / (n - 1))
        assert found["final"][k] == pytest.approx(-sum(a[n, j] for j in range(1, n + 1)) / n)
        assert found["learned"][k] == pytest.approx(-sum(a[j, j] for j in range(1, n + 1)) / n)


class After(StopRequest):
    def __init__(self, n):
        self.left, self.reason = n, "a test"

    def __bool__(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("kw, at", [({}, 0), ({}, 26), (dict(slow_share=0.2, fast_decay=0.1), 5),
                                    (dict(slow_share=0.2, fast_decay=0.1), 13), (dict(signs="kept"), 26)])  # fmt: skip
def test_a_stopped_sequence_goes_on_to_the_same_bit(tmp_path, kw, at):
    model, wiring = newborn(True)
    whole = live_tasks(model, texts(), changed(**kw), Seeds(2), wiring, show=False)
    with pytest.raises(Stopped):
        live_tasks(newborn(True)[0], texts(), changed(**kw), Seeds(2), wiring, tmp_path, show=False, stop=After(at))
    again, _ = newborn(True)
    assert np.array_equal(live_tasks(again, texts(), changed(**kw), Seeds(2), wiring, tmp_path, show=False), whole)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    check_sparse(again, wiring)
    assert "signs" not in kw or not any(sign_flips(again, wiring).values())
    assert [p.name for p in tmp_path.iterdir()] == ["after-0003.safetensors"]
    done, _ = newborn(True)  # nothing is lived twice
    assert np.array_equal(live_tasks(done, texts(), changed(**kw), Seeds(2), wiring, tmp_path, show=False), whole)


@pytest.mark.parametrize("wired", [True, False])
def test_slow_weights_go_on_from_task_to_task(tmp_path, wired):
    "With a share of 0 they stay those of birth, through all tasks; what acts doesn't."
    model, wiring = newborn(wired)
    born = Optimizers(model, LIFE, wiring)
    first = [p.detach().clone() for p in born.params]
    born.close()
    live_tasks(model, texts(), changed(slow_share=0.0, fast_decay=0.1), Seeds(2), wiring, tmp_path, show=False)
    kept, _ = read_tensors(tmp_path / "after-0003.safetensors")
    assert all(torch.equal(kept[f"slow.{j}"], p) for j, p in enumerate(first))
    end = Optimizers(model, LIFE, wiring).params
    assert not any(torch.equal(a, b) for a, b in zip(first, end))


def test_losses_are_those_of_lifetimes_one_by_one():
    tasks = texts(2)
    found = live_tasks(newborn(False)[0], tasks, LIFE, Seeds(2), show=False)
    first = Lifetime(newborn(False)[0], *tasks["t0"], LIFE, Seeds(2)).live(show=False)
    second = Lifetime(first.model, *tasks["t1"], LIFE, Seeds(2).child("task", 1)).live(show=False)
    assert found[0, 0] == first.val_loss[0] and found[1, 0] == first.val_loss[-1]
    assert found[1, 1] == second.val_loss[0] and found[2, 1] == second.val_loss[-1]


@pytest.mark.parametrize("tasks, kw, says", [
    (1, {}, "needs two"),
    (2, dict(curriculum=CurriculumConfig(order="given")), "tasks say what is read"),
    (2, dict(steps=0), "steps"),
])  # fmt: skip
def test_sequences_that_cannot_be_are_refused(tasks, kw, says):
    with pytest.raises(InputError, match=says):
        live_tasks(newborn(False)[0], texts(tasks), changed(**kw), Seeds(2), show=False)


@pytest.mark.parametrize("other", [dict(seeds=Seeds(3)), dict(config=changed(lr=2e-2)), dict(tasks=texts(2))], ids=str)
def test_a_folder_of_another_sequence_is_refused(tmp_path, other):
    given = dict(tasks=texts(), config=LIFE, seeds=Seeds(2))
    with pytest.raises(Stopped):
        live_tasks(newborn(False)[0], **given, folder=tmp_path, show=False, stop=After(13))
    with pytest.raises(InputError, match="another sequence"):
        live_tasks(newborn(False)[0], **given | other, folder=tmp_path, show=False)


def test_a_difference_that_is_there_is_told_and_none_where_none_is():
    rng = np.random.default_rng(0)

    def made(forgets, shape):
        at = np.array([[5, 5], [2, 5], [2 + forgets, 2.0]])
        return at + rng.normal(0, 0.02, (*shape, 3, 2))

    for shape in ((5,), (4, 2)):  # newborns; evolutions of two newborns
        told = continual_verdicts(continual_dataset({a: made(f, shape) for a, f in
                                  dict(connectome=1.0, random=1.5, dense=1.0).items()}, ["a", "b"]))  # fmt: skip
        assert told["forgetting", "connectome"]["own"]["mean"] == pytest.approx(1, abs=0.05)
        assert verdict(told["forgetting", "random"]["against"]) == "higher"
        assert verdict(told["backward", "random"]["against"]) == "lower"
        assert verdict(told["forgetting", "dense"]["against"]) == "not clearly different"
        unit = "evolution" if len(shape) == 2 else "seed"
        assert told["forgetting", "dense"]["against"]["units"] == {unit: shape[0]}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence") / "run"
    with zipfile.ZipFile(RUN) as z:
        z.extractall(folder)
    return folder


@pytest.fixture
def run(unpacked, tmp_path):
    return open_run(shutil.copytree(unpacked, tmp_path / "run"))


def short(run, **kw):
    life = developed_config(run).development.lifetime
    return LifetimeConfig(**vars(life) | dict(steps=2, warmup=1, eval_windows=8, batch_size=4, probes=(), keep=0) | kw)


def test_the_first_task_is_the_life_that_the_run_lived(run, one_thread):
    run_life = developed_config(run).development.lifetime
    found = learn_tasks(run.path, ("dyck",), ("random",), 1, None, show=False, device="cpu")
    rate = chosen_rates(run)["random"]
    lived, _ = read_life(life_folder(run, "random", 0, rate))
    at = [0, -1] if int(lived["val_step"][0]) == 0 else [-1]
    ours = found.loss.sel(arm="random", task=found.task.values[0]).isel(seed=0).values[:2]
    if "lineage" in found.dims:
        ours = found.loss.sel(arm="random", task=found.task.values[0]).isel(lineage=0, seed=0).values[:2]
    assert np.allclose(ours[-len(at):], [float(lived["val_loss"][i]) for i in at], atol=2e-3)
    assert found.attrs["steps"] == run_life.steps


def test_a_run_learns_tasks_from_the_command_line_and_takes_more(run, capsys):
    words = ["continual", str(run.path), "--tasks", "dyck,arithmetic", "--device", "cpu", "--seeds", "1",
             *(f"--set={s}" for s in ("steps=2", "warmup=1", "eval_windows=8", "batch_size=4"))]  # fmt: skip
    assert main([*words, "--arms", "connectome"]) == 0
    assert "connectome forgets" in capsys.readouterr().out
    before = read_dataset(run.file("continual-tasks.zarr.zip"))
    words[words.index("--seeds") + 1] = "2"
    assert main([*words, "--arms", "random"]) == 0
    out = capsys.readouterr().out
    assert "tasks in order: toy-english, dyck, arithmetic" in out and "2 seeds" in out
    both = read_dataset(run.file("continual-tasks.zarr.zip"))
    assert set(both.arm.values) == {"connectome", "random"} and both.sizes["seed"] == 2
    assert np.array_equal(both.loss.sel(arm="connectome").isel(seed=[0]), before.loss.sel(arm="connectome"))
    assert np.isfinite(both.loss).all() and both.loss.dims == ("arm", "seed", "after", "task")
    assert not list(run.file("continual", "tasks").rglob("task-*")) and not list(run.path.rglob("after-*"))
    with pytest.raises(RunExistsError, match="--name"):
        learn_tasks(run.path, ("dyck",), lifetime=short(run), show=False, device="cpu")
    from evonb.report import connectome_page, continual_html

    file = run.file("continual-tasks.zarr.zip")
    assert "connectome forgets" in continual_html([file]) and continual_html(None) is None
    assert "<h3>" not in continual_html([file]) and continual_html([file] * 2).count("<h3>tasks</h3>") == 2
    assert "Several texts in sequence" in [part.title for part in connectome_page]


def test_a_life_that_fails_is_on_record(run, monkeypatch):
    from evonb.core import NonFiniteLossError

    real, calls = module.live_tasks, []

    def sometimes(*a, **kw):
        calls.append(1)
        if len(calls) == 1:
            raise NonFiniteLossError("The training loss is nan.")
        return real(*a, **kw)

    monkeypatch.setattr(module, "live_tasks", sometimes)
    found = learn_tasks(run.path, ("dyck",), ("random",), 2, short(run), show=False, device="cpu")
    assert np.isnan(found.forgetting.values).sum() == 1 and np.isfinite(found.forgetting.values).sum() == 1
    assert len(list(run.path.rglob("failed.json"))) == 1


@pytest.mark.parametrize("kw, says", [
    (dict(tasks=()), "needs two"),
    (dict(tasks=("dyck", "dyck")), "same twice"),
    (dict(tasks=("toy-english",)), "run's own text"),
    (dict(tasks=("nowhere.txt",)), "nowhere.txt"),
    (dict(arms=("nobody",)), "nobody"),
    (dict(tasks=("",)), "without a name"),
    (dict(n_seeds=-1), "n_seeds"),
    (dict(n_seeds=0), "n_seeds is 0"),
    (dict(name="texts"), "name"),
    (dict(name="../x"), "name"),
    (dict(lifetime=dict(lr=0.5)), "Leave lr out"),
    (dict(lifetime=dict(curriculum=CurriculumConfig(order="given"))), "tasks say"),
])  # fmt: skip
def test_what_cannot_be_asked_of_a_run_is_refused(run, kw, says):
    given = dict(tasks=("dyck",), n_seeds=1, arms=("random",), show=False, device="cpu") | kw
    given["lifetime"] = short(run, **given.pop("lifetime", {}))
    with pytest.raises((InputError, FileNotFoundError), match=says):
        learn_tasks(run.path, **given)
    assert not list(run.path.glob("continual-*"))


def test_text_that_another_task_is_judged_by_is_refused(run, tmp_path):
    from evonb.core import CorpusError
    from evonb.text.tokens import open_prepared

    own = list(open_prepared(run.file("corpus")).texts("validation", "test"))
    (tmp_path / "mine.txt").write_text("\n".join(own * 8)[:300_000])
    with pytest.raises(CorpusError, match="newborns would read"):
        learn_tasks(run.path, (str(tmp_path / "mine.txt"),), ("random",), 1, short(run), show=False, device="cpu")

"""Both loops over one run folder: laws, resuming to the bit after kills, statistics with known truth, errors."""

import json
import math
import multiprocessing
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file

from evonb.connectomes.experiments import develop_run, experiment, grown_newborns, load_newborn
from evonb.connectomes.generations import choose_lr, inherited_connectome, life_folder, load_generation, read_life
from evonb.connectomes.settings import (
    DEFAULT_ARMS,
    PRESETS,
    DevelopmentConfig,
    EvolutionConfig,
    ExperimentConfig,
    preset,
)
from evonb.connectomes.wiring import prune
from evonb.core import (
    ConnectomeError,
    CorpusError,
    DamagedFileError,
    InputError,
    NonFiniteLossError,
    RunExistsError,
    Seeds,
    Stopped,
    StopRequest,
    from_dict,
    listening,
    to_dict,
)
from evonb.report import write_report
from evonb.store import open_run, read_dataset, read_json, read_tensors, write_tensors
from evonb.text.tokens import CorpusConfig
from evonb.training.base import load_model
from evonb.training.connectome import Connectome, check_sparse
from evonb.training.gpt import GPTConfig, ModelConfig, new_gpt
from evonb.training.lifetime import LifetimeConfig, validation_windows, window_losses

pytestmark = pytest.mark.numerics

LIFE = LifetimeConfig(
    steps=24, batch_size=8, context=16, lr=4e-3, warmup=4, eval_every=8, eval_windows=24, checkpoint_every=6
)


def tiny(**kw):
    config = ExperimentConfig(
        preset="tiny",
        corpus=CorpusConfig("toy-english", n_bytes=120_000, vocab_size=320),
        model=ModelConfig(1, 2, 16),
        evolution=EvolutionConfig(n_generations=3, prune_fraction=0.3, lifetime=LIFE),
        development=DevelopmentConfig(("connectome", "random"), 2, (2e-3, 4e-3), n_bootstrap=100, lifetime=LIFE),
    )
    return replace(config, **kw)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "An uninterrupted run with every arm."
    development = replace(tiny().development, arms=DEFAULT_ARMS)
    return experiment(tmp_path_factory.mktemp("whole") / "run", tiny(development=development), show=False)


def test_every_generation_keeps_its_share_and_inherits_from_the_one_before(whole):
    parent = None
    for g in range(3):
        wiring = load_generation(whole, g)
        for n, s in wiring.signs.items():
            before = int((parent.signs[n] != 0).sum()) if parent else s.numel()
            assert int((s != 0).sum()) == before - math.floor(0.3 * before)
            if parent:
                assert ((parent.signs[n] != 0) | (s == 0)).all()  # nothing is born that the parent hadn't
        grown = load_model(whole.file("evolution", f"gen-{g:02d}", "model"))
        if parent:
            check_sparse(grown, parent)
        parent = wiring
    evolution = read_dataset(whole.file("evolution.zarr.zip"))
    assert np.allclose(evolution.density, 0.7 ** np.arange(1, 4), atol=0.002)
    assert np.array_equal(evolution.born_density[1:], evolution.density[:-1])
    assert np.isfinite(evolution.train_loss).all() and (evolution.final_val_loss == evolution.val_loss[:, -1]).all()


def test_arms_are_born_with_what_they_promise(whole):
    inherited = inherited_connectome(whole)
    summary = read_json(whole.file("summary.json"))
    assert set(summary["arms"]) == set(DEFAULT_ARMS)
    for arm in ("random", "degree_preserving", "sign_shuffled"):
        for seed in range(2):
            folder = whole.file("development", arm, f"seed-{seed}")
            wiring = Connectome.load(folder / "connectome.safetensors")
            assert wiring.n_live == inherited.n_live and wiring.info["of"] == inherited.digest()
            check_sparse(load_model(life_folder(whole, arm, seed, summary["arms"][arm]["lr"]) / "model"), wiring)
        folders = [whole.file("development", arm, f"seed-{s}") for s in range(2)]
        pair = [Connectome.load(f / "connectome.safetensors") for f in folders]
        assert pair[0].digest() != pair[1].digest()
    dense = load_model(life_folder(whole, "dense", 0, summary["arms"]["dense"]["lr"]) / "model")
    assert all((p != 0).float().mean() > 0.99 for p in dense.parameters())
    n_live = {a: x["n_live"] for a, x in summary["arms"].items()}
    assert n_live["dense"] == sum(p.numel() for p in dense.parameters())
    assert n_live["random"] == n_live["connectome"] == inherited.n_trainable
    assert abs(n_live["dense_matched"] / n_live["connectome"] - 1) <= 0.05


def test_live_weights_are_told_on_tokens_that_occur(whole):
    from evonb.connectomes.experiments import newborn_table
    from evonb.text.tokens import open_prepared

    corpus, inherited = open_prepared(whole.file("corpus")), inherited_connectome(whole)
    occurs = np.isin(np.arange(320), np.unique(np.concatenate([t.ids for t in corpus.splits.values()])))
    assert 0 < occurs.sum() == corpus.info["n_occurring"] < 320
    assert f"vocabulary 320 ({occurs.sum()} occur)" in repr(corpus)
    told = {a: x["n_live_occurring"] for a, x in read_json(whole.file("summary.json"))["arms"].items()}
    idle = sum(int(inherited.signs[n][~occurs].count_nonzero()) for n in ("transformer.wte.weight", "lm_head.weight"))
    assert told["connectome"] == inherited.n_trainable - idle == told["degree_preserving"] == told["sign_shuffled"]
    lr = read_json(whole.file("summary.json"))["arms"]["dense_matched"]["lr"]
    dense = load_model(life_folder(whole, "dense_matched", 0, lr) / "model")
    width = dense.config.n_embd
    assert told["dense_matched"] == sum(p.numel() for p in dense.parameters()) - 2 * width * int((~occurs).sum())
    table = newborn_table(whole).set_index(["arm", "seed"])
    assert table.n_live_occurring["random", 1] == told["random"] < table.n_live["random", 0]


def test_an_arm_keeps_the_architecture_of_its_first_newborn(whole, tmp_path):
    from evonb.connectomes.arms import ARMS, Arm

    width = [8]
    ARMS.add("odd", Arm(config=lambda c, n: GPTConfig(**c.to_dict() | dict(n_embd=width[0]))))
    try:
        shutil.copytree(whole.path, tmp_path / "run")

        def widths(n_seeds, **changes):
            run = develop_run(tmp_path / "run", dict(arms=("odd",), n_seeds=n_seeds, **changes), show=False)
            lr = read_json(run.file("summary.json"))["arms"]["odd"]["lr"]
            return [load_model(life_folder(run, "odd", s, lr) / "model").config.n_embd for s in range(n_seeds)]

        assert widths(2) == [8, 8]
        width[0] = 4  # the rule has become another
        assert widths(3) == [8] * 3
        note = tmp_path / "run" / "development" / "odd" / "architecture.json"
        assert read_json(note) == dict(n_layer=1, n_head=2, n_embd=8)
        note.unlink()  # as runs of before are
        assert widths(4) == [8] * 4 and note.exists()
        home = tmp_path / "run" / "development" / "odd"
        shutil.rmtree(home)  # begun, and not over
        write_tensors(home / "seed-0" / "lr-0.002" / "checkpoint-000006.safetensors", dict(x=torch.zeros(1)),
                      dict(model=dict(n_layer=1, n_head=2, n_embd=8)))
        from evonb.connectomes.generations import _sizes_noted

        assert _sizes_noted(open_run(tmp_path / "run"), "odd")["n_embd"] == 8
    finally:
        ARMS.remove("odd")


def test_arms_of_a_seed_read_the_same_text(whole):
    "At step 0 every arm of a seed has read nothing; the order of text is the seed's, not the arm's."
    facts = [e for e in whole.events() if e["event"] == "lifetime"]
    assert len(facts) == len({e["folder"] for e in facts}) == 3 + 6 * (2 + 1)
    dense = [read_life(life_folder(whole, "dense", 0, lr))[0] for lr in (2e-3, 4e-3)]
    assert dense[0]["train_loss"][0] == dense[1]["train_loss"][0]  # same newborn, same first batch
    lr = read_json(whole.file("summary.json"))["arms"]["dense"]["lr"]
    other = read_life(life_folder(whole, "dense", 1, lr))[0]
    assert other["train_loss"][0] != dense[0]["train_loss"][0]


def test_the_rate_is_chosen_on_validation_and_the_test_split_opened_once(whole):
    ds = read_dataset(whole.file("development.zarr.zip"))
    for arm in ds.arm.values:
        sweep = ds.sweep_val_loss.sel(arm=arm)
        assert float(ds.chosen_lr.sel(arm=arm)) == float(sweep.lr[int(np.argmin(sweep.values))])
    opened = [(e["arm"], e["seed"]) for e in whole.events() if e["event"] == "test split opened"]
    assert sorted(opened) == sorted({(a, s) for a in DEFAULT_ARMS for s in range(2)})


def test_the_dataset_holds_what_the_models_really_do(whole):
    from evonb.text.tokens import open_prepared

    ds = read_dataset(whole.file("development.zarr.zip"))
    corpus = open_prepared(whole.file("corpus"))
    for arm in ("connectome", "dense_matched"):
        model = load_model(life_folder(whole, arm, 1, float(ds.chosen_lr.sel(arm=arm))) / "model")
        val = window_losses(model, *validation_windows(corpus.splits["validation"].ids, 16, 24))
        test = window_losses(model, *validation_windows(corpus.splits["test"].ids, 16, 512))
        one = ds.sel(arm=arm, seed=1)
        assert np.allclose(one.window_loss, val, atol=1e-6) and np.allclose(one.test_window_loss, test, atol=1e-6)
        assert float(one.final_val_loss) == pytest.approx(float(val.mean()), abs=1e-5)


def test_the_summary_is_plain_statistics_of_the_dataset(whole):
    ds, summary = read_dataset(whole.file("development.zarr.zip")), read_json(whole.file("summary.json"))
    for arm, x in summary["arms"].items():
        losses = ds.final_val_loss.sel(arm=arm).values
        assert x["val_loss"]["mean"] == pytest.approx(losses.mean()) and x["val_loss"]["n"] == 2
        assert x["val_loss"]["sd"] == pytest.approx(losses.std(ddof=1))
        assert x["val_loss"]["low"] <= x["val_loss"]["mean"] <= x["val_loss"]["high"]
        if arm != "connectome":
            gap = (ds.window_loss.sel(arm=arm) - ds.window_loss.sel(arm="connectome")).mean()
            assert x["difference"]["mean"] == pytest.approx(float(gap))
    assert json.dumps(summary) and summary["arms"]["connectome"]["difference"] is None


# Interruptions


def same_tensors(a, b):
    (x, mx), (y, my) = (read_tensors(p) for p in (a, b))
    mx, my = ({k: v for k, v in m.items() if k not in ("seconds", "tokens_per_s")} for m in (mx, my))
    return mx == my and set(x) == set(y) and all(torch.equal(x[k], y[k]) for k in x)


def assert_same_run(a, b):
    "Every file of two runs says the same, but for times."
    names = [{str(p.relative_to(r.path)) for p in r.path.rglob("*") if p.is_file()} for r in (a, b)]
    assert names[0] == names[1]
    clocks = ["wall_time", "tokens_per_s"]
    for name in sorted(names[0] - {"state.json", "log.jsonl", ".lock", "run.json", "summary.json"}):
        p, q = a.path / name, b.path / name
        if name.endswith("model.safetensors"):
            x, y = load_file(p), load_file(q)
            assert all(torch.equal(x[k], y[k]) for k in x), name
        elif name.endswith(".safetensors"):
            assert same_tensors(p, q), name
        elif name.endswith(".zarr.zip"):
            x, y = (read_dataset(f).drop_vars(clocks) for f in (p, q))
            assert x.identical(y), name
        elif name.endswith(".nc"):  # says when, where and under which name, too
            x, y = (xr.load_dataset(f).drop_vars(clocks) for f in (p, q))
            assert x.equals(y), name
        else:
            assert p.read_bytes() == q.read_bytes(), name
    assert read_json(a.file("summary.json"))["arms"] == read_json(b.file("summary.json"))["arms"]


def work(path, config):
    torch.set_num_threads(1)
    experiment(path, from_dict(ExperimentConfig, config), resume=True, show=False)


def attempt(context, path, config, delay=None):
    "Work in a process of its own; with a delay it is killed that long after it began."
    log = path / "log.jsonl"
    before = log.read_text().count('"start"') if log.exists() else 0
    p = context.Process(target=work, args=(path, config))
    p.start()
    while delay is not None and p.is_alive() and (not log.exists() or log.read_text().count('"start"') == before):
        time.sleep(0.002)
    p.join(delay)
    alive = p.is_alive()
    if alive:
        p.kill()
    p.join()
    return alive, p.exitcode


@pytest.mark.slow
def test_twenty_kills_and_resumes_equal_no_interruption_bit_for_bit(tmp_path):
    "SIGKILL at 20 random moments of a whole experiment, each resumed by a fresh process."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["evonb.connectomes.generations", "xarray", "zarr", "transformers.generation",
                                    "scipy.stats"])
    life = replace(LIFE, steps=60, checkpoint_every=5)
    config = tiny()
    config = to_dict(replace(config, evolution=replace(config.evolution, lifetime=life),
                             development=replace(config.development, lifetime=life)))  # fmt: skip
    began = time.perf_counter()
    assert attempt(context, tmp_path / "whole", config) == (False, 0)
    duration = time.perf_counter() - began
    rng, kills = np.random.default_rng(0), 0
    while kills < 20:  # the delays sum up to less than one run takes, so none can finish before the last kill
        killed, _ = attempt(context, tmp_path / "killed", config, delay=rng.uniform(0, duration / 22))
        kills += killed
        assert killed, f"the run ended after {kills} kills already"
        for _ in range(200):  # the lock of a killed process may outlive it by a moment on a busy machine
            if (status := open_run(tmp_path / "killed").state()["status"]) != "running":
                break
            time.sleep(0.05)
        assert status == "interrupted"
    assert attempt(context, tmp_path / "killed", config) == (False, 0)
    assert_same_run(open_run(tmp_path / "whole"), open_run(tmp_path / "killed"))
    starts = [e["after"] for e in open_run(tmp_path / "killed").events() if e["event"] == "start"]
    assert len(starts) == 21 and starts[1:] == ["interrupted"] * 20


def test_a_stop_request_from_another_thread_is_clean_and_resumable(tmp_path):
    whole = experiment(tmp_path / "whole", tiny(), show=False)
    stop, path = StopRequest(), tmp_path / "stopped"
    begun = threading.Event()
    threading.Thread(target=lambda: begun.wait(60) and stop.set()).start()
    with listening(lambda kind, _: kind == "generation" and begun.set()):
        with pytest.raises(Stopped, match="resume to go on"):
            experiment(path, tiny(), show=False, stop=stop)
    assert open_run(path).state()["status"] == "stopped"
    assert_same_run(whole, experiment(path, tiny(), resume=True, show=False))


def test_seeds_decide_everything(tmp_path):
    a, b = (experiment(tmp_path / n, tiny(), show=False, stages=("evolve",)) for n in "ab")
    assert_same_run(a, b)
    c = experiment(tmp_path / "c", tiny(seed=1), show=False, stages=("evolve",))
    assert load_generation(a).digest() != load_generation(c).digest()


def test_more_arms_and_seeds_add_to_a_run_without_doing_anything_again(tmp_path):
    run = experiment(tmp_path / "run", tiny(), show=False)
    before = read_dataset(run.file("development.zarr.zip"))
    n = len([e for e in run.events() if e["event"] == "lifetime"])
    develop_run(run.path, dict(arms=("connectome", "random", "sign_shuffled"), n_seeds=3), show=False)
    after = read_dataset(run.file("development.zarr.zip"))
    assert after.sizes["seed"] == 3 and list(after.arm.values) == ["connectome", "random", "sign_shuffled"]
    assert np.array_equal(after.final_val_loss.sel(arm=before.arm, seed=before.seed), before.final_val_loss)
    assert len([e for e in run.events() if e["event"] == "lifetime"]) == n + 2 + (2 + 2)


def test_a_finished_run_that_is_extended_is_whole_at_every_moment(tmp_path, monkeypatch):
    "Readers beside it see what there was until there is more; a kill at any newborn leaves that, models included."
    run = experiment(tmp_path / "run", tiny(), show=False)
    before, seen = read_json(run.file("summary.json")), []

    def look(kind, values):
        if kind != "newborn": return
        summary, ds = read_json(run.file("summary.json")), read_dataset(run.file("development.zarr.zip"))
        grown = grown_newborns(open_run(run.path))
        assert set(before["arms"]) <= set(summary["arms"]) == set(ds.arm.values)
        assert {(a, s) for a in before["arms"] for s in range(2)} <= {(a, s) for a, s, _ in grown}
        for a, s, _ in grown:
            load_newborn(open_run(run.path), a, s)
        write_report(run.path)
        seen.append((values["status"], summary["n_seeds"], len(summary["arms"])))

    changes = dict(arms=("connectome", "random", "sign_shuffled"), n_seeds=3, lrs=(2e-3, 4e-3, 8e-3))
    with listening(look):
        develop_run(run.path, changes, show=False)
    assert len(seen) > 12 and seen[0][1:] == (2, 2)
    after = read_dataset(run.file("development.zarr.zip"))
    assert after.sizes["seed"] == 3 and after.sizes["arm"] == 3
    lrs = {a: x["lr"] for a, x in read_json(run.file("summary.json"))["arms"].items()}
    kept = {p.parts[-4:-1] for p in run.path.glob("development/*/seed-*/lr-*/model")}
    assert kept == {(a, f"seed-{s}", life_folder(run, a, s, lr).name) for a, lr in lrs.items() for s in range(3)}


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_kill_during_an_extension_leaves_the_results_there_were(tmp_path, whole, after):
    shutil.copytree(whole.path, tmp_path / "run")
    before = read_json(whole.file("summary.json"))["arms"]
    left = [after]

    class Killed(BaseException): pass

    def kill(kind, values):
        left[0] -= kind == "newborn" and values["status"] == "finished"
        if not left[0]: raise Killed

    with pytest.raises(Killed), listening(kill):
        develop_run(tmp_path / "run", dict(n_seeds=3), show=False)
    run = open_run(tmp_path / "run")
    assert set(read_json(run.file("summary.json"))["arms"]) == set(before)
    assert set(read_dataset(run.file("development.zarr.zip")).arm.values) == set(before)
    assert "sign_shuffled" in write_report(run.path).read_text()


def test_a_moved_run_and_a_corpus_under_another_path_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n".join(f"line {i} of a text about {i * i}" for i in range(6000)))
    config = lambda source: tiny(corpus=CorpusConfig(source, vocab_size=320))
    experiment("run", config("text.txt"), show=False, stages=("evolve",))
    (tmp_path / "far").mkdir()
    shutil.move("text.txt", "far/renamed.txt")
    shutil.move("run", "far/run")
    run = experiment("far/run/", config("./far/renamed.txt"), resume=True, show=False)
    assert run.state()["status"] == "complete" and run.config["corpus"]["source"] == "text.txt"
    (tmp_path / "far" / "renamed.txt").write_text("another text")
    with pytest.raises(RunExistsError, match="corpus.source"):
        experiment("far/run", config("far/renamed.txt"), resume=True, show=False)


def test_a_run_never_shrinks(tmp_path):
    run = experiment(tmp_path / "run", tiny(), show=False)
    develop_run(run.path, dict(arms=("sign_shuffled",), lrs=(8e-3,)), show=False)
    experiment(run.path, tiny(), resume=True, show=False)
    ds, summary = read_dataset(run.file("development.zarr.zip")), read_json(run.file("summary.json"))
    assert list(ds.arm.values) == ["connectome", "random", "sign_shuffled"] and list(ds.lr.values) == [2e-3, 4e-3, 8e-3]
    assert np.isfinite(ds.sweep_val_loss).all() and np.isfinite(ds.test_window_loss).all()
    assert summary["arms"]["sign_shuffled"]["difference"]["n"] == 2 and "sealed test" in summary["statement"]


def test_following_the_advice_on_damage_mends_the_run_to_the_same_bits(tmp_path):
    whole = experiment(tmp_path / "whole", tiny(), show=False)
    shutil.copytree(whole.path, tmp_path / "run")
    run = open_run(tmp_path / "run")
    lr = read_json(run.file("summary.json"))["arms"]["random"]["lr"]
    shutil.rmtree(run.file("corpus"))
    shutil.rmtree(run.file("evolution", "gen-01", "model"))
    run.file("evolution", "gen-01", "connectome.safetensors").unlink()
    shutil.rmtree(life_folder(run, "random", 1, lr) / "model")
    (life_folder(run, "random", 1, lr) / "tested.safetensors").unlink()
    (life_folder(run, "connectome", 0, lr) / "lived.safetensors").unlink()
    run.file("development.zarr.zip").unlink()
    assert_same_run(whole, experiment(run.path, tiny(), resume=True, show=False))


def test_another_text_under_the_same_name_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"line {i} of a text about {i * i}" for i in range(6000)))
    config = tiny(corpus=CorpusConfig(str(tmp_path / "text.txt"), vocab_size=320))
    run = experiment(tmp_path / "run", config, show=False, stages=("evolve",))
    shutil.rmtree(run.file("corpus"))
    (tmp_path / "text.txt").write_text("\n".join(f"line {i} of another text about {i * i}" for i in range(6000)))
    with pytest.raises(CorpusError, match="isn't the text"):
        experiment(run.path, config, resume=True, show=False, stages=("evolve",))


def test_a_connectome_of_another_tokenizer_or_deal_is_refused(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"line {i} of a text about {i * i}" for i in range(6000)))
    text = CorpusConfig(str(tmp_path / "text.txt"), vocab_size=320)
    a = experiment(tmp_path / "a", tiny(corpus=text), show=False, stages=("evolve",))
    given = str(a.file("evolution", "gen-02", "connectome.safetensors"))
    with pytest.raises(ConnectomeError, match="another tokenizer"):
        experiment(tmp_path / "b", tiny(connectome=given, seed=1, corpus=text), show=False)
    same = replace(text, tokenizer=str(a.file("corpus", "tokenizer")))
    with pytest.raises(ConnectomeError, match="dealt otherwise.*seed: 0 there, 1 asked"):
        experiment(tmp_path / "c", tiny(connectome=given, seed=1, corpus=same), show=False)


def test_a_given_connectome_is_developed_with_and_rewinding_works(tmp_path):
    rewound = replace(tiny().evolution, inheritance="rewind", rewind_step=8)
    a = experiment(tmp_path / "a", tiny(evolution=rewound), show=False, stages=("evolve",))
    early = read_tensors(a.file("evolution", "gen-00", "rewind.safetensors"))[0]
    assert early["lm_head.weight"].shape == (320, 16)
    given = a.file("evolution", "gen-02", "connectome.safetensors")
    b = experiment(tmp_path / "b", tiny(connectome=str(given)), show=False)
    assert inherited_connectome(b).digest() == load_generation(a).digest()
    assert read_json(b.file("summary.json"))["generations"] == []
    wiring = load_generation(a)
    checkpoint = dict(weights={n: s * 0.02 for n, s in wiring.signs.items()},
                      mask={n: (s != 0).float() for n, s in wiring.signs.items()})  # fmt: skip
    torch.save(checkpoint, tmp_path / "model_generation_2.pt")
    c = experiment(tmp_path / "c", tiny(connectome=str(tmp_path / "model_generation_2.pt")), show=False, stages=())
    assert inherited_connectome(c).digest() == wiring.digest()


# What goes wrong


def test_a_rate_that_diverges_is_recorded_and_cannot_be_chosen(tmp_path, monkeypatch):
    from evonb.connectomes import settings as generations

    real = generations.Experiment.raise_newborn

    def diverging(self, folder, newborn, split, config, *args, **kw):
        if config.lr == 4e-3 and split == "development":
            with torch.no_grad():
                newborn.lm_head.weight.mul_(math.inf)
        return real(self, folder, newborn, split, config, *args, **kw)

    monkeypatch.setattr(generations.Experiment, "raise_newborn", diverging)
    config = tiny(development=replace(tiny().development, arms=("dense",)))
    run = experiment(tmp_path / "run", config, show=False)
    assert read_json(run.file("summary.json"))["arms"]["dense"]["lr"] == 2e-3
    assert "loss is nan" in read_json(run.file("development", "dense", "seed-0", "lr-0.004", "failed.json"))["reason"]
    ds = read_dataset(run.file("development.zarr.zip"))
    assert np.isnan(ds.sweep_val_loss.sel(arm="dense", lr=4e-3)) and np.isfinite(ds.final_val_loss).all()
    config = replace(config, development=replace(config.development, lrs=(4e-3,)))
    config = replace(config, development=replace(config.development, arms=("dense", "dense_matched")))
    with pytest.raises(NonFiniteLossError, match="dense, dense_matched failed at every learning rate"):
        experiment(tmp_path / "all", config, show=False)
    assert open_run(tmp_path / "all").state()["status"] == "failed"


@pytest.mark.parametrize("change, error, says", [
    (dict(evolution=EvolutionConfig(prune_fraction=1.0)), InputError, "prune_fraction is 1.0"),
    (dict(evolution=EvolutionConfig(prune_fraction=-0.1)), InputError, "prune_fraction"),
    (dict(evolution=EvolutionConfig(n_generations=0)), InputError, "n_generations is 0"),
    (dict(evolution=EvolutionConfig(inheritance="rewind", rewind_step=10**6)), InputError, "rewind_step"),
    (dict(evolution=EvolutionConfig(magnitude=0.0)), InputError, "magnitude is 0.0"),
    (dict(development=DevelopmentConfig(lrs=(1e-3, 1e-3))), InputError, "same twice"),
    (dict(corpus=CorpusConfig(fractions=(0.5, 0.5, 0.5, 0.5))), CorpusError, "sum to 1"),
    (dict(connectome="no/connectome.safetensors"), FileNotFoundError, "no/connectome"),
    (dict(development=DevelopmentConfig(arms=("conectome",))), InputError, "degree_preserving"),
    (dict(development=DevelopmentConfig(arms=())), InputError, "empty"),
    (dict(development=DevelopmentConfig(n_seeds=1, sweep_seeds=2)), InputError, "sweep_seeds"),
    (dict(corpus=CorpusConfig("no/such/file.txt")), FileNotFoundError, "no/such/file.txt"),
    (dict(corpus=CorpusConfig("toy-english", n_bytes=120_000, vocab_size=30_000)), CorpusError, "30,?000"),
    (dict(evolution=EvolutionConfig(lifetime=replace(LIFE, context=10**5))), CorpusError, "one window takes 100001"),
])  # fmt: skip
def test_bad_settings_stop_before_anything_is_trained(tmp_path, change, error, says):
    with pytest.raises(error, match=says):
        experiment(tmp_path / "run", tiny(**change), show=False)
    assert not list(tmp_path.rglob("checkpoint-*")) and not list(tmp_path.rglob("*.tmp"))


def test_a_connectome_of_another_architecture_is_refused(tmp_path):
    deeper = GPTConfig(vocab_size=320, n_layer=2, n_head=2, n_embd=16)
    prune(new_gpt(deeper, Seeds(0)), 0.5).save(tmp_path / "c.safetensors")
    with pytest.raises(ConnectomeError, match="another architecture"):
        experiment(tmp_path / "run", tiny(connectome=str(tmp_path / "c.safetensors")), show=False)


def test_an_unfinished_evolution_is_not_developed(tmp_path):
    stop = StopRequest()
    threading.Timer(0.4, stop.set).start()
    with pytest.raises(Stopped):
        experiment(tmp_path / "run", tiny(evolution=replace(tiny().evolution, n_generations=9)), show=False, stop=stop)
    with pytest.raises(ConnectomeError, match="of 9 generations"):
        develop_run(tmp_path / "run", show=False)


def test_another_run_in_the_folder_is_refused(whole):
    with pytest.raises(RunExistsError, match="seed: 0 there, 5 asked"):
        experiment(whole.path, tiny(seed=5, development=replace(tiny().development, arms=DEFAULT_ARMS)), resume=True)


def test_damaged_artefacts_are_named(whole, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(whole.path, copy)
    run = open_run(copy)
    for name, read in [
        ("evolution/gen-01/connectome.safetensors", lambda: load_generation(run, 1)),
        ("evolution/gen-01/lived.safetensors", lambda: read_life(run.file("evolution", "gen-01"))),
        ("evolution/gen-01/model/model.safetensors", lambda: load_model(run.file("evolution", "gen-01", "model"))),
        ("corpus/validation.bin", lambda: develop_run(copy, show=False)),
    ]:
        data = bytearray((copy / name).read_bytes())
        data[-10] ^= 4
        (copy / name).write_bytes(data)
        with pytest.raises(DamagedFileError, match=name.split("/")[-1]):
            read()


@pytest.mark.parametrize("name, change, says", [
    ("lived.safetensors", lambda t: t.pop("val_loss"), "val_loss is missing"),
    ("lived.safetensors", lambda t: t.update(train_loss=t["train_loss"][:, None]), "train_loss is of shape"),
    ("tested.safetensors", lambda t: t.pop("window_loss"), "window_loss is missing"),
    ("tested.safetensors", lambda t: t.update(window_loss=t["window_loss"][:3]), r"a curve has the shape \(3,\)")])
def test_curves_of_another_shape_with_a_right_checksum_are_named(whole, tmp_path, name, change, says):
    shutil.copytree(whole.path, tmp_path / "run")
    path = next((tmp_path / "run" / "development" / "dense" / "seed-0").glob(f"*/{name}"))
    tensors, about = read_tensors(path)
    change(tensors)
    write_tensors(path, tensors, about)
    with pytest.raises(DamagedFileError, match=says):
        develop_run(tmp_path / "run", show=False)


def test_a_rate_at_which_a_newborn_failed_is_not_chosen():
    assert choose_lr({1e-3: [3.0], 2e-3: [2.0, math.nan]}) == 1e-3


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound_and_survive_json(name):
    config = preset(name).check()
    assert from_dict(ExperimentConfig, json.loads(json.dumps(to_dict(config)))) == config
    if name == "paper":
        life, dev = config.evolution.lifetime, config.development.lifetime
        assert (life.steps, dev.steps, life.context, life.batch_size) == (7001, 2001, 1024, 512)
        assert (life.lr, life.warmup) == (1.8e-3, 250)
        assert (config.model.n_layer, config.model.n_embd, config.evolution.prune_fraction) == (12, 768, 0.2)

"""Baselines given as much as a connectome: their bytes and errors, one pretraining an evolution, kills, refusals."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_lineages import models, tiny

from evonb.cli import connectome_text
from evonb.connectomes.arms import find_arm
from evonb.connectomes.baselines import (
    NUMBER,
    Start,
    handed_on,
    low_rank_start,
    one_bit_start,
    pruned_at_once,
    ranks_within,
)
from evonb.connectomes.experiments import develop_run, experiment
from evonb.connectomes.generations import life_folder, load_generation, on_one_grid, read_life
from evonb.connectomes.planning import plan
from evonb.connectomes.settings import Experiment
from evonb.connectomes.wiring import prune
from evonb.connectomes.workers import PretrainingOrder
from evonb.core import ConnectomeError, DamagedFileError, InputError, Seeds, Stopped, StopRequest, listening
from evonb.report import write_report
from evonb.store import open_run, read_dataset
from evonb.text.tokens import open_prepared
from evonb.training.base import load_model
from evonb.training.gpt import GPTConfig, new_gpt
from evonb.training.lifetime import Lifetime

pytestmark = pytest.mark.numerics
PRETRAINED = "pretrained", "pretrained_low_rank", "pretrained_signs", "pretrained_pruned"
BASELINES = (*PRETRAINED, "dense_joint", "dense_longer")


def with_arms(*arms, n=2):
    config = tiny(n)
    return replace(config, development=replace(config.development, arms=arms, lrs=(4e-3,), n_seeds=1, test_windows=8))


def small():
    return new_gpt(GPTConfig(vocab_size=96, n_layer=1, n_head=2, n_embd=32, block_size=16), Seeds(3))


@pytest.fixture(scope="module")
def born():
    model = small()
    return prune(model, 0.7), {n: p.detach() for n, p in model.named_parameters()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("baselines") / "run"
    return experiment(path, with_arms("connectome", "dense", *BASELINES), show=False, workers=1)


def test_low_rank_is_the_truncation_that_fits_and_exact_where_ranks_suffice(born):
    wiring, pretrained = born
    made = low_rank_start(pretrained, wiring)
    assert set(made.weights) == set(wiring.signs) and made.n_bytes <= handed_on(wiring)
    for name, w in made.weights.items():
        s, rank = np.linalg.svd(pretrained[name].numpy(), compute_uv=False), torch.linalg.matrix_rank(w)
        assert float(((pretrained[name] - w) ** 2).sum()) == pytest.approx((s[rank:] ** 2).sum(), rel=1e-3)
    rng = Seeds(0).numpy()
    simple = {n: np.outer(*(rng.normal(size=k) for k in p.shape)) for n, p in pretrained.items()}
    simple = {n: torch.from_numpy(w).float() for n, w in simple.items()}
    for name, w in low_rank_start(simple, wiring).weights.items():
        assert torch.allclose(w, simple[name], rtol=2e-3, atol=2e-3)  # rank 1, to float16


def test_ranks_leave_the_least_error_of_all_choices_and_never_cost_more():
    rng = Seeds(1).numpy()
    for n_numbers in range(1, 60, 7):
        singular = {k: -np.sort(-rng.exponential(size=3)) for k in "ab"}
        shapes = dict(a=(3, 5), b=(5, 3))
        left = lambda r, s=singular: sum((s[k][r[k] :] ** 2).sum() for k in "ab")  # noqa: E731
        every = [dict(a=i, b=j) for i, j in itertools.product(range(4), repeat=2) if 8 * (i + j) <= n_numbers]
        assert left(ranks_within(singular, shapes, NUMBER * n_numbers)) == pytest.approx(min(map(left, every)))
    with pytest.raises(ValueError, match="n_bytes"):
        ranks_within(dict(a=[1.0]), dict(a=(1, 1)), 0)


def test_one_bit_is_the_best_of_one_magnitude_and_pruned_at_once_the_strongest(born):
    wiring, pretrained = born
    made = one_bit_start(pretrained, wiring)
    assert made.n_bytes == 4 + sum(-(-s.numel() // 8) for s in wiring.signs.values()) <= handed_on(wiring)
    flat, bits = (torch.cat([x[n].reshape(-1) for n in wiring.signs]).double() for x in (pretrained, made.weights))
    assert float(bits.abs()[0]) == pytest.approx(float((flat @ bits.sign()) / len(flat)))  # least squares
    thin = prune(small(), 0.5, wiring)
    once = pruned_at_once(thin, None, pretrained)
    for name, s in once.signs.items():
        n = int((thin.signs[name] != 0).sum())
        order = pretrained[name].abs().reshape(-1).argsort(descending=True)[:n]
        assert set(s.reshape(-1).nonzero().squeeze(1).tolist()) == set(order.tolist())
        assert torch.equal(s, (pretrained[name].sign() * (s != 0)).to(torch.int8))
    assert once.info["control"] == "pretrained_pruned" and handed_on(once) == handed_on(thin)


def test_a_pretrained_newborn_goes_on_where_pretraining_ended(run):
    corpus, config = open_prepared(run.file("corpus")), with_arms("connectome")
    for k in range(2):
        exp = Experiment(run, corpus, config, show=False, lineage=k)
        folder = exp.file("pretraining")
        curves = read_life(folder)[0]
        first = read_life(exp.file("evolution", "gen-00"))[0]
        assert len(curves["train_loss"]) == 12 and curves["val_loss"][0] == first["val_loss"][0]  # the same start
        own = read_life(life_folder(run, "pretrained", 0, 4e-3, k))[0]
        assert own["val_loss"][0] == curves["val_loss"][-1]
        model = exp.new_model(exp.model_config(16), exp.seeds.child("generation", 0, "init"))
        life = Lifetime(model, corpus.ids("evolution"), corpus.ids("validation"), config.pretraining,
                        exp.seeds.child("pretraining"))  # fmt: skip
        assert life.live(show=False).train_loss == curves["train_loss"].tolist()
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), load_model(folder / "model").parameters()))
    digests = {tuple(p.sum().item() for p in load_model(e / "model").parameters())
               for e in (run.file("pretraining"), run.file("lineage-1", "pretraining"))}  # fmt: skip
    assert len(digests) == 2  # each evolution has its own


def test_what_each_arm_is_given_and_longer_curves_stand_in_table_report_and_data(run):
    ds, summary = read_dataset(run.file("development.zarr.zip")), run.summary()
    given = {a: tuple(x["given"].values()) for a, x in summary["arms"].items()}
    n_bytes = handed_on(load_generation(run))
    assert given["connectome"] == (6 * 64, 12 * 64, n_bytes) == given["pretrained_pruned"]
    assert given["dense"] == (6 * 64, 0, 0) and given["dense_joint"] == given["dense_longer"] == (18 * 64, 0, 0)
    n_weights = sum(p.numel() for p in load_model(run.file("pretraining", "model")).parameters())
    assert given["pretrained"][2] == 4 * n_weights
    assert 0 < given["pretrained_low_rank"][2] <= n_bytes > given["pretrained_signs"][2]
    assert ds.sizes["step"] == 18 and ds.eval_step.values.tolist() == [0, 3, 6, 9, 12, 15, 18]
    long = ds.val_loss.sel(arm=["dense_joint", "dense_longer"])
    assert np.isfinite(long).all() and np.isnan(ds.val_loss.sel(arm="dense", eval_step=[9, 18])).all()
    assert np.array_equal(ds.final_val_loss.sel(arm="dense"), ds.val_loss.sel(arm="dense", eval_step=6))
    assert np.array_equal(ds.final_val_loss.sel(arm="dense_joint"), long.sel(arm="dense_joint", eval_step=18))
    assert np.isfinite(ds.final_test_loss).all()
    assert "dense_joint          1.15k" in connectome_text(summary)
    usual = dict(summary, arms={a: x for a, x in summary["arms"].items() if a in ("connectome", "dense")})
    assert "newborns are given" not in connectome_text(usual)
    assert "tokens behind what it inherits" in write_report(run.path).read_text()


def test_longer_lives_read_what_they_say(run):
    corpus = open_prepared(run.file("corpus"))
    both = corpus.ids("evolution+development")
    parts = [np.asarray(corpus.ids(s)) for s in ("evolution", "development")]
    assert np.array_equal(np.asarray(both), np.concatenate(parts)) and both.dtype == parts[0].dtype
    edge = len(parts[0])
    assert np.array_equal(both[edge - 5 : edge + 5], np.concatenate([parts[0][-5:], parts[1][:5]]))
    with pytest.raises(InputError, match="split is 'testing'"):
        corpus.ids("evolution+testing")
    exp = Experiment(run, corpus, with_arms("dense_joint"), show=False)
    for arm, text in (("dense_joint", both), ("dense_longer", corpus.ids("development"))):
        model = exp.new_model(exp.model_config(16), exp.seeds.child("development", "init", 0))
        life = Lifetime(model, text, corpus.ids("validation"), exp.config.newborn_life(arm, 4e-3),
                        exp.seeds.child("development", 0))  # fmt: skip
        assert life.live(show=False).train_loss == read_life(life_folder(run, arm, 0, 4e-3))[0]["train_loss"].tolist()


def test_a_stopped_pretraining_goes_on_in_another_process_to_the_same_bits(run, tmp_path):
    config, stop = with_arms("connectome", "pretrained", n=1), StopRequest()

    def disturb(kind, values):
        if kind == "step" and values["folder"].name == "pretraining" and values["step"] >= 4:
            stop.set("a test")

    with listening(disturb), pytest.raises(Stopped, match="a test after step 4 of 12"):
        experiment(tmp_path / "run", config, show=False, workers=1, stop=stop)
    begun, order = open_run(tmp_path / "run"), PretrainingOrder(0)
    assert order.reached(begun)[0].parent.name == "pretraining" and order.reached(begun)[1] == 4
    assert not list(begun.path.glob("**/development/*/*/*/lived.safetensors"))
    beside = experiment(tmp_path / "run", config, resume=True, show=False, workers=2)
    begins = [e["from_step"] for e in beside.events() if e["event"] == "lifetime" and e["folder"] == "pretraining"]
    assert begins == [0, 4]
    assert len(found := models(beside.path)) == 2 * 2 + 1 + 2 * 2
    assert found == {k: v for k, v in models(run.path).items() if k in found}


def test_arms_come_later_and_plans_count_them(run, tmp_path):
    import shutil

    other = experiment(tmp_path / "run", with_arms("connectome", n=1), show=False)
    assert not other.file("pretraining").exists()
    other = develop_run(other.path, dict(arms=("connectome", "pretrained_signs")), show=False)
    there, here = (read_dataset(r.file("development.zarr.zip")).final_test_loss for r in (run, other))
    assert np.array_equal(here, there.sel(arm=here.arm, lineage=0))
    shutil.rmtree(other.file("pretraining", "model"))  # a model that is lost is made again, to the same bits
    develop_run(other.path, dict(arms=("connectome", "pretrained_signs", "pretrained")), show=False)
    assert models(other.path) == {k: v for k, v in models(run.path).items() if k in models(other.path)}
    config = with_arms("dense", "pretrained", "dense_joint")
    rows = {s.name: s for s in plan(config).stages}
    assert rows["pretraining"].tokens == 2 * 12 * 64 and rows["dense_joint"].tokens == 3 * rows["dense"].tokens
    assert "pretraining" not in {s.name for s in plan(with_arms("dense", "dense_joint")).stages}


def test_refusals(run, born, tmp_path, monkeypatch):
    wiring, pretrained = born
    path = tmp_path / "wiring.safetensors"
    wiring.save(path)
    for arm in BASELINES:
        with pytest.raises(InputError, match=f"{arm}.* the connectome was given"):
            replace(with_arms(arm), connectome=str(path)).check()
    corpus = open_prepared(run.file("corpus"))
    exp = Experiment(run, corpus, with_arms("pretrained"), show=False, lineage=2)
    with pytest.raises(ConnectomeError, match="holds no pretrained model yet"):
        exp.pretrained()
    for odd, said in ((torch.zeros(3, 3), "16"), (None, "absent")):
        name = "lm_head.weight" if odd is not None else "other.weight"
        start = Start({name: torch.zeros(3, 3)}, 1)
        monkeypatch.setattr("evonb.connectomes.generations.find_arm", lambda a, s=start: replace(
            find_arm("pretrained"), start=lambda *_: s))  # fmt: skip
        exp = Experiment(run, corpus, with_arms("pretrained"), show=False)
        with pytest.raises(ConnectomeError, match=f"pretrained {name} is \\(3, 3\\), but .*{said}"):
            exp.begin_with(exp.new_model(exp.model_config(16), exp.seeds), "pretrained", load_generation(run))
    with pytest.raises(ConnectomeError, match="isn't finite"):
        pruned_at_once(wiring, None, {n: p * torch.nan for n, p in pretrained.items()})


def test_a_curve_of_another_length_is_named(run):
    exp = Experiment(run, open_prepared(run.file("corpus")), with_arms("dense", "dense_joint"), show=False)
    rows = {a: [(*read_life(life_folder(run, a, 0, 4e-3)), {}, run.path)] for a in ("dense", "dense_joint")}
    assert len(on_one_grid(exp, rows)["dense"][0][0]["train_loss"]) == 18
    rows["dense"][0][0]["train_loss"] = rows["dense"][0][0]["train_loss"][:2]
    with pytest.raises(DamagedFileError, match="dense has 6 steps, but its curves have 2"):
        on_one_grid(exp, rows)

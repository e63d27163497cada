"""Moments of a lifetime that stay: the same life, opened as models, learning curves by arm."""

import numpy as np
import pytest
import torch

from evonb.connectomes.experiments import experiment, kept_newborns
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.core import InputError
from evonb.development.evaluation import EvaluationConfig, evaluate_run
from evonb.report import write_report
from evonb.store import read_dataset
from evonb.text.tokens import CorpusConfig
from evonb.training.base import open_base
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig, kept_moments, kept_steps


def tiny(keep, context=32):
    life = LifetimeConfig(steps=8, batch_size=4, context=context, lr=2e-2, warmup=1, eval_every=4, eval_windows=4,
                          checkpoint_every=4, keep=keep)
    return ExperimentConfig(
        corpus=CorpusConfig("toy-english", n_bytes=40_000, vocab_size=300),
        model=ModelConfig(n_layer=1, n_head=2, n_embd=16),
        evolution=EvolutionConfig(n_generations=1, lifetime=LifetimeConfig(**{**vars(life), "keep": 0})),
        development=DevelopmentConfig(arms=("connectome", "dense"), n_seeds=2, lrs=(1e-2, 2e-2), test_windows=4,
                                      lifetime=life))  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("moments") / "run", tiny(3), show=False, device="cpu", workers=1)


def test_kept_steps_are_even_in_the_logarithm():
    assert kept_steps(LifetimeConfig(steps=1000, keep=4)) == (0, 1, 10, 100)
    assert kept_steps(LifetimeConfig(steps=8, keep=3)) == (0, 1, 3) and kept_steps(LifetimeConfig()) == ()
    with pytest.raises(InputError, match="keep is -1"):
        LifetimeConfig(keep=-1).check()


def test_moments_stay_at_the_chosen_rate_and_change_nothing(run, tmp_path):
    found = kept_newborns(run)
    assert [x[:3] for x in found] == [(a, s, k) for a in ("connectome", "dense") for s in (0, 1) for k in (0, 1, 3)]
    rate = run.summary()["arms"]["dense"]["lr"]
    assert {p.parent.name for p in run.path.glob("development/*/seed-*/lr-*/kept")} == {f"lr-{rate!r}"} or len(
        {x["lr"] for x in run.summary()["arms"].values()}) == 2
    other = experiment(tmp_path / "other", tiny(0), show=False, device="cpu", workers=1)
    for k in ("val_loss", "train_loss", "test_window_loss"):
        assert np.array_equal(*(read_dataset(r.file("development.zarr.zip"))[k].values for r in (run, other)))
    assert not kept_newborns(other)
    with pytest.raises(InputError, match="none was: --set development.lifetime.keep=10"):
        open_base(f"{other.path}::dense/0@3", "cpu")


def test_moments_are_models(run):
    grown = run.path / "development" / "dense" / "seed-1" / f"lr-{run.summary()['arms']['dense']['lr']!r}"
    assert list(kept_moments(grown)) == [0, 1, 3]
    weights = [open_base(f"{run.path}::dense/1{at}", "cpu").model.lm_head.weight for at in ("@0", "@1", "@3", "")]
    assert all((a - b).abs().max() > 0 for a, b in zip(weights, weights[1:])) and torch.isfinite(weights[0]).all()
    for at, said in (("@2", "Step 2 of .*dense/1 wasn't kept; its steps that were are: 0, 1, 3"),
                     ("@x", "isn't a seed. Write RUN::ARM/SEED, or RUN::ARM/SEED@STEP")):
        with pytest.raises(InputError, match=said):
            open_base(f"{run.path}::dense/1{at}", "cpu")


def test_counts_are_compared_with_models_of_short_contexts(tmp_path):
    short = experiment(tmp_path / "run", tiny(0, 12), show=False, device="cpu", workers=1)
    config = EvaluationConfig(str(short.path), ("toy-agreement:2",), ("dense",), untrained=1, ngrams=(1, 2))
    found = evaluate_run(tmp_path / "out", config, show=False, cache=tmp_path / "cache")
    ds = read_dataset(found.file("toy-agreement.zarr.zip"))
    assert np.isfinite(ds.from_unigram.values[ds.kind.values == "newborn"]).all()


def test_curves_of_each_arm(run, tmp_path):
    config = EvaluationConfig(str(run.path), ("toy-agreement:3", "toy-tracking:3", "toy-words:2"), untrained=1,
                              ngrams=(1, 2))
    found = evaluate_run(tmp_path / "out", config, show=False, cache=tmp_path / "cache")
    ds = read_dataset(found.file("toy-agreement.zarr.zip"))
    own = ds.isel(model=ds.kind.values == "newborn")
    assert own.step.values.tolist() == [0, 1, 3, 8] * 4 and own.tokens.values[:4].tolist() == [0, 128, 384, 1024]
    assert ds["last"].values.tolist() == [3, 7, 11, 15, 16, 17, 18]
    assert np.isfinite(ds.from_unigram.values[:17]).all() and (ds.from_bigram.values[:17] > 0).all()
    assert ds.from_unigram.values[3] < ds.from_unigram.values[0]  # the first thing that is learned
    far = found.summary()["divergence_curves"]
    assert np.isclose(far["bigram"]["curves"]["dense"]["8"]["mean"], own.from_bigram.values[[11, 15]].mean())
    assert far["unigram"]["untrained"] == ds.from_unigram.values[16] and list(far) == ["unigram", "bigram"]
    page = write_report(found.path).read_text()
    assert "Divergence from counts of the text" in page and "KL(bigram" in page
    words = found.summary()["suites"]["toy-words"]
    assert words["chance"] is None and words["ages"] == {} and len(words["paradigms"]) > 5  # of four moments no curve
    told = found.summary()["suites"]["toy-agreement"]
    assert {a: list(v["curve"]) for a, v in told["curves"].items()} == dict.fromkeys(("connectome", "dense"),
                                                                                   ["0", "1", "3", "8"])
    assert told["tokens_per_step"] == 128 and not found.summary()["notes"]
    assert told["curves"]["connectome"]["reach"]["against"] == "dense"
    ends = own.score.mean("paradigm").values[3::4]
    assert np.isclose(told["curves"]["dense"]["curve"]["8"]["mean"], ends[2:].mean())
    assert evaluate_run(tmp_path / "ends", EvaluationConfig(str(run.path), ("toy-agreement:3",), untrained=0, ngrams=(),
                                                            checkpoints=False), show=False).summary()["notes"] == []

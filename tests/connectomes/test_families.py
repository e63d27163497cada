"""Whole evolutions of other families of decoders: two generations, three arms; killed and resumed; refused."""

import dataclasses
import logging

import numpy as np
import pytest

from evonb.cli import with_settings
from evonb.connectomes.experiments import experiment, load_newborn
from evonb.connectomes.generations import inherited_connectome, load_generation
from evonb.connectomes.planning import plan
from evonb.connectomes.settings import (
    DevelopmentConfig,
    EvolutionConfig,
    ExperimentConfig,
    experiment_command,
    preset,
)
from evonb.core import ConnectomeError, InputError, Stopped, StopRequest
from evonb.report import write_report
from evonb.text.tokens import CorpusConfig
from evonb.training.architectures import family_config
from evonb.training.connectome import check_sparse, matrix_roles
from evonb.training.gpt import ModelConfig, meta_model, n_parameters
from evonb.training.lifetime import Lifetime, LifetimeConfig

pytestmark = pytest.mark.numerics

FAMILIES = ("gpt2", "llama", "qwen3", "mistral", "gemma3", "phi", "phi3", "gpt_neox", "opt", "falcon", "bloom", "olmo2",
            "starcoder2")  # fmt: skip
LIFE = LifetimeConfig(
    steps=3, batch_size=4, context=8, lr=1e-2, warmup=1, eval_every=3, eval_windows=4, checkpoint_every=2
)


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    "Tokens without a tokenizer, so that runs begin at once."
    path = tmp_path_factory.mktemp("text") / "tokens.bin"
    ids = np.random.default_rng(0).integers(0, 60, 6000).astype(np.uint16)
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, len(ids)
    path.write_bytes(header.tobytes() + ids.tobytes())
    return str(path)


def settings(shard, family, arms=("connectome", "random", "dense_matched"), **model):
    return ExperimentConfig(
        preset="tiny",
        corpus=CorpusConfig(shard, vocab_size=257, block_bytes=64),
        model=ModelConfig(2, 4, 16, family, **model),
        evolution=EvolutionConfig(n_generations=2, prune_fraction=0.3, lifetime=LIFE),
        development=DevelopmentConfig(arms, 1, (1e-2,), test_windows=4, lifetime=LIFE),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_two_generations_and_three_arms_of(family, shard, tmp_path):
    run = experiment(tmp_path / "run", settings(shard, family), show=False)
    wiring, told = inherited_connectome(run), run.summary()["arms"]
    assert 0.45 < wiring.density < 0.55 and set(wiring.signs) == set(matrix_roles(wiring))
    for arm in ("connectome", "random"):
        model = load_newborn(run, arm)
        assert (
            model.config.model_type.startswith(family.removesuffix("3")) and told[arm]["n_live"] == wiring.n_trainable
        )
    check_sparse(load_newborn(run, "connectome"), wiring)
    # Bloom has no field for its MLP's width, so its weights come in steps
    small = n_parameters(load_newborn(run, "dense_matched"))
    assert small == told["dense_matched"]["n_live"] and abs(small / wiring.n_trainable - 1) < 0.1
    assert all(np.isfinite(a["test_loss"]["mean"]) for a in told.values())
    known = load_generation(run, 0)
    both = [known.signs[n] != 0 for n in wiring.signs], [s != 0 for s in wiring.signs.values()]
    assert all((b <= a).all() for a, b in zip(*both))  # pruning only takes away


def grown(run):
    return [p.detach() for arm in ("connectome", "dense_matched") for p in load_newborn(run, arm).parameters()]


def test_a_stopped_run_goes_on_to_the_same_bits_and_names_what_it_is(shard, tmp_path, monkeypatch):
    "With a tied head, Conv1D, dropout, and an architecture of an arm's own."
    config = settings(shard, "gpt2", config=dict(resid_pdrop=0.2))
    whole = experiment(tmp_path / "whole", config, show=False)
    plain_step = Lifetime.one_step
    for last in (2, 2, 1, 3):  # in the first generation, the second, the connectome's newborn, dense_matched's
        stop, done = StopRequest(), []

        def step(self, stop=stop, done=done, last=last):
            plain_step(self)
            done.append(1)
            if len(done) == last:
                stop.set("a test")

        with monkeypatch.context() as m:
            m.setattr(Lifetime, "one_step", step)
            with pytest.raises(Stopped):
                experiment(tmp_path / "run", config, resume=True, show=False, stop=stop)
    run = experiment(tmp_path / "run", config, resume=True, show=False)
    assert all((a == b).all() for a, b in zip(grown(run), grown(whole)))
    said = "gpt2, 2 layers, 4 heads, width 16, resid_pdrop 0.2"
    assert run.summary()["architecture"] == said and said in write_report(run.path).read_text()
    with pytest.raises(ConnectomeError, match="gpt2, where the model is llama"):
        given = str(run.file("evolution", "gen-01", "connectome.safetensors"))
        experiment(tmp_path / "other", dataclasses.replace(settings(shard, "llama"), connectome=given), show=False)


def test_families_that_cannot_be_wired_leave_nothing_behind(shard, tmp_path):
    for family, said in (("mamba", "mamba can't be wired"), ("bert", "isn't a causal"), ("lama", "Did you mean llama")):
        with pytest.raises(InputError, match=said):
            experiment(tmp_path / "run", settings(shard, family), show=False)
    assert not (tmp_path / "run").exists()


def test_the_command_makes_the_same_settings():
    config = preset("demo")
    config.model = dataclasses.replace(config.model, family="qwen3", config=dict(tie_word_embeddings=True, head_dim=8))
    words = [w.removeprefix("--set=") for w in experiment_command(config) if w.startswith("--set=")]
    assert with_settings(preset("demo"), words) == config


@pytest.mark.parametrize("family", ["gpt2", "llama", None])
def test_a_plan_counts_the_weights_of_the_real_configuration(family, shard):
    config = settings(shard, family)
    found = {s.name: s for s in plan(config, device=1e10).stages}
    made = family_config(config.model, config.corpus.vocab_size, 8)
    weights = n_parameters(made)
    assert found["generation 0"].state == 4 * 4 * weights + 4 * n_tensors(made)  # weights, gradient, two moments, steps
    dense = found["dense_matched"].disk / 4
    live = sum(n - int(0.3 * n) for n in (m - int(0.3 * m) for m in matrices(made)))
    vectors = weights - sum(matrices(made))
    assert abs(dense / (live + vectors) - 1) < 0.06


def n_tensors(config):
    return len(list(meta_model(config).parameters()))


def matrices(config):
    return [p.numel() for p in meta_model(config).parameters() if p.ndim == 2]

"""Whole evolutions of other families of decoders: two generations, three arms; killed and resumed; refused."""

import logging

import numpy as np
import pytest

from evonb.connectomes.experiments import experiment, load_newborn
from evonb.connectomes.generations import inherited_connectome, load_generation
from evonb.connectomes.settings import (
    DevelopmentConfig,
    EvolutionConfig,
    ExperimentConfig,
)
from evonb.text.tokens import CorpusConfig
from evonb.training.connectome import check_sparse, matrix_roles
from evonb.training.gpt import ModelConfig, n_parameters
from evonb.training.lifetime import LifetimeConfig

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

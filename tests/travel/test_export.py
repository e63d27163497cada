"""Models that travel: what is exported is the same model, and opens where evonb isn't."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import preset
from evonb.core import InputError, RunExistsError
from evonb.populations.breeding import BreedConfig, breed
from evonb.populations.experts import ExpertConfig, ExpertsConfig, ToyConfig, toy_base, train_experts
from evonb.training.base import open_base
from evonb.training.connectome import Connectome
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig
from evonb.training.stock import farthest_apart
from evonb.travel import export_model

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "Two evolutions of two newborns each."
    config = preset("demo")
    config.corpus.n_bytes, config.model = 150_000, ModelConfig(1, 2, 16)
    for life in (config.evolution.lifetime, config.development.lifetime):
        life.steps, life.warmup = 6, 2
    config.evolution.n_generations, config.evolution.n_evolutions = 1, 2
    config.development = replace(config.development, n_seeds=2, lrs=(0.01,), arms=("connectome", "random", "dense"))
    return experiment(tmp_path_factory.mktemp("run") / "run", config, show=False)


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    place = tmp_path_factory.mktemp("population")
    life = LifetimeConfig(steps=6, batch_size=4, context=32, warmup=2, eval_windows=8)
    size = ToyConfig(200, 400, model=ModelConfig(1, 2, 16), lifetime=life)
    base = toy_base(place / "bases", size, device="cpu", show=False)
    quick = ExpertConfig(rank=2, steps=6, warmup=1, batch_size=4, held_out=8)
    skills = dict(agreement="skill:agreement", count="skill:count_up")
    train_experts(place / "experts", ExpertsConfig(base.name, skills, "neutral", 40, 0, quick), base=base, show=False)
    config = BreedConfig(
        experts=str(place / "experts"), tasks=("skill:agreement",), methods=("genome", "coarse-to-fine"), budget=8,
        n_individuals=4, n_seeds=1, n_validation=10, n_test=10, ensemble_size=2,
    )  # fmt: skip
    return breed(place / "run", config, show=False, device="cpu")


def ids(n=2, most=64):
    return torch.randint(256, (n, most), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("which", ["connectome/0", "random/1001", "dense/1"])
@pytest.mark.parametrize("form", ["stock", "native"])
def test_an_exported_newborn_is_that_newborn(run, which, form, tmp_path):
    told = export_model(f"{run.path}::{which}", tmp_path / "out", form)
    own = open_base(f"{run.path}::{which}", "cpu")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    most = 48 if form == "native" else 64
    far = farthest_apart(own.model, opened, ids(most=min(most, own.model.config.block_size)))
    assert far == 0 if form == "native" else far < 1e-4
    assert told["source"] == f"run::{which}" and str(run.path) not in (tmp_path / "out" / "README.md").read_text()
    wiring = tmp_path / "out" / "connectome.safetensors"
    assert wiring.exists() == (not which.startswith("dense"))
    if wiring.exists():
        born, name = Connectome.load(wiring), "transformer.h.0.mlp.c_fc.weight"
        assert torch.equal(own.model.get_parameter(name) != 0, born.signs[name] != 0)


def test_it_opens_where_evonb_is_not(run, tmp_path):
    export_model(f"{run.path}::connectome/0", tmp_path / "out")
    code = """
import sys
sys.modules["evonb"] = None # as where it isn't installed
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (x.from_pretrained(sys.argv[1]) for x in (AutoModelForCausalLM, AutoTokenizer))
print(type(model).__name__, tokenizer.decode(tokenizer("the dog runs.")["input_ids"]))"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, env=dict(os.environ)
    )
    assert found.stdout == "ArceeForCausalLM the dog runs.\n", found.stderr


@pytest.mark.parametrize("method", ["genome", "coarse-to-fine"])
def test_an_individual_is_an_adapter_or_a_model(population, method, tmp_path):
    from peft import PeftModel

    source = f"{population.path}::{method}/0"
    export_model(source, tmp_path / "adapter", "adapter")
    export_model(source, tmp_path / "whole")
    base = open_base(population.config["base"] or json.loads(
        (tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"], "cpu")  # fmt: skip
    own = open_base(source, "cpu").model
    n = own.config.block_size
    assert farthest_apart(own, AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval(), ids(most=n)) < 1e-4
    changed = farthest_apart(own, base.model, ids(most=n))
    assert farthest_apart(own, PeftModel.from_pretrained(base.model, tmp_path / "adapter").eval(), ids(most=n)) < 1e-4
    assert changed > 1e-3  # so that this isn't the base


def test_what_can_not_be_is_said_and_nothing_is_left(run, population, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for source, form, masked, said in [
        (f"{run.path}::connectome/0", "gguf", False, "llama.cpp has no architecture"),
        (f"{run.path}::connectome/0", "stok", False, "Did you mean stock"),
        (f"{run.path}::connectome/0", "adapter", False, "a whole model"),
        (f"{run.path}::connectome/7", "stock", False, "no grown newborn connectome/7"),
        (f"{run.path}::conectome/0", "stock", False, "Did you mean connectome"),
        (f"{run.path}::connectome/0", "stock", True, "masked is for individuals"),
        (f"{population.path}", "stock", False, "Name one"),
        (f"{population.path}::genome/4", "stock", False, "a number from 0 to 0"),
    ]:
        with pytest.raises(InputError, match=said):
            export_model(source, tmp_path / "out", form, masked)
    with pytest.raises(RunExistsError, match="would be lost"):
        export_model(f"{run.path}::connectome/0", tmp_path / "mine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_a_model_that_came_out_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    import evonb.travel.export as export

    monkeypatch.setattr(export, "to_stock", lambda model: wrong(model))
    from evonb.training.stock import to_stock

    def wrong(model):
        made = to_stock(model)
        with torch.no_grad():
            made.model.layers[0].mlp.up_proj.weight.mul_(-1)
        return made

    with pytest.raises(InputError, match="differs from run::connectome/0 by up to"):
        export_model(f"{run.path}::connectome/0", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_masked_individual_keeps_the_zeros_of_its_base(population, tmp_path):
    "Its base as if half of its weights were never wired."
    from evonb.populations.chosen import base_of, chosen_individual, merge_into

    base = base_of(population, "cpu")
    individual = chosen_individual(population, "genome", 0, base)
    live = {n: torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) < 0.5
            for n, p in base.model.named_parameters()}  # fmt: skip
    for masked in (True, False):
        with torch.no_grad():
            for n, p in base.model.named_parameters():
                p.mul_(live[n])
        merge_into(base.model, individual, masked)
        filled = sum(int((p[~live[n]] != 0).sum()) for n, p in base.model.named_parameters())
        assert (filled == 0) == masked


def test_the_card_names_licence_and_command(run, tmp_path):
    export_model(f"{run.path}::connectome/0", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n") and "evonb run --preset demo" in text
    assert "licence: Apache-2.0" in text and run.summary()["statement"] in text
    assert len(load_file(tmp_path / "out" / "model.safetensors")) == 2 + 6 + 3  # embeddings, one block, its norms
    assert Path(tmp_path / "out" / "tokenizer.json").exists()

"""Runs of before (tests/runs): they are shown, reported and explored, other runs build on them, and they go on."""

import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import evonb as ev
from evonb.cli import main
from evonb.connectomes.experiments import develop_run, experiment
from evonb.connectomes.settings import ExperimentConfig
from evonb.core import InputError, file_sha256, from_dict
from evonb.store import open_run, read_dataset, read_json
from evonb.training.base import open_base
from evonb.training.connectome import Connectome
from evonb.widgets.explorers import explore_pages

RUNS = Path(__file__).parent / "runs"
KINDS = ("connectome", "alignment", "experts", "population")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "A fresh copy of the four, and the current folder: they know each other by relative names."
    for kind in KINDS:
        with zipfile.ZipFile(RUNS / f"{kind}.zip") as z:
            z.extractall(tmp_path / kind)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(path):
    "Checksums of what a run holds; its state, its log and locks may change without it."
    passing = ("state.json", "log.jsonl", ".lock")
    return {str(p.relative_to(path)): file_sha256(p) for p in sorted(path.rglob("*"))
            if p.is_file() and not p.name.endswith(passing)}


SHOWN = {
    "connectome": "random      5.040 ± 0.002 [5.025, 5.056]  +0.273 [+0.236, +0.301] p=0.016",
    "alignment": "random      2       0.473 [0.436, 0.505]",
    "experts": "count_up   skill:count_up   4.812        4.810",
    "population": "genome         0.550 ± 0.000  0.400 ± 0.111"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_before_is_shown_reported_and_explored(kind, folder, capsys):
    before = files(folder / kind)
    assert main(["show", kind]) == 0
    assert SHOWN[kind] in capsys.readouterr().out
    assert main(["report", kind]) == 0
    page = (folder / kind / "report.html").read_text()
    assert len(page) > 20_000 and "can't be shown" not in page
    if kind == "experts":
        assert main(["explore", kind]) == 2 and "evonb population experts" in capsys.readouterr().err
    else:
        assert f"explore/{kind}.html" in [str(p.relative_to(folder / kind)) for p in explore_pages(folder / kind)]
    assert {k: v for k, v in files(folder / kind).items() if k in before} == before


@pytest.mark.parametrize("arguments, says", [
    (["connectome", "--arms", "conectome"], "Did you mean connectome[?]"),
    (["population", "--seeds", "2"], "'population', but newborns are raised in one of kind 'connectome'"),
    (["experts"], "'experts', but newborns are raised in one of kind 'connectome'"),
])  # fmt: skip
def test_a_mistake_in_what_to_raise_leaves_a_run_as_it_was(arguments, says, folder, capsys):
    before = (folder / arguments[0] / "state.json").read_bytes()
    assert main(["develop", *arguments]) == 2 and re.search(says, capsys.readouterr().err)
    assert (folder / arguments[0] / "state.json").read_bytes() == before


def test_a_newborn_of_before_is_a_base_for_others(folder):
    base = open_base("connectome::random/1")
    assert base.name == "connectome::random/1" and base.model.config.n_embd == 16
    assert open_base("connectome").digest == read_json("experts/run.json")["config"]["base"]["digest"]


@pytest.mark.numerics
def test_a_run_of_before_goes_on_and_keeps_what_it_found(folder):
    before = read_dataset("connectome/development.zarr.zip").load()
    summary = read_json("connectome/summary.json")
    grown = files(folder / "connectome" / "development")
    experiment("connectome", from_dict(ExperimentConfig, open_run("connectome").config), resume=True, show=False)
    again = read_json("connectome/summary.json")  # judged anew, by today's tests, over the same losses
    assert files(folder / "connectome" / "development") == grown and again["generations"] == summary["generations"]
    for arm, x in summary["arms"].items():
        assert again["arms"][arm]["test_loss"]["mean"] == pytest.approx(x["test_loss"]["mean"], abs=1e-6)
    assert again["arms"]["random"]["test_difference"]["units"] == dict(seed=2, window=8)
    assert all(0 < a["n_live_occurring"] < a["n_live"] for a in again["arms"].values())  # told since
    arms = ["connectome", "random", "sign_shuffled", "dense_matched"]
    develop_run("connectome", dict(arms=tuple(arms), n_seeds=3), show=False)
    after = read_dataset("connectome/development.zarr.zip")
    assert after.arm.values.tolist() == arms
    assert np.isfinite(after.final_test_loss).all() and after.sizes["seed"] == 3
    for name in ("train_loss", "val_loss", "window_loss", "test_window_loss", "final_test_loss", "wall_time"):
        assert np.array_equal(after[name].sel(arm=before.arm, seed=before.seed), before[name]), name
    assert {k: v for k, v in files(folder / "connectome" / "development").items() if k in grown} == grown


@pytest.mark.numerics
def test_a_newborn_of_before_is_raised_again_as_it_was(folder):
    "Another processor rounds otherwise; the same wiring, start, text and rates must give the same curve within that."
    before = read_dataset("connectome/development.zarr.zip").load()
    shutil.rmtree("connectome/development/random/seed-1")
    develop_run("connectome", show=False)
    again = read_dataset("connectome/development.zarr.zip")
    assert np.allclose(again.train_loss, before.train_loss, rtol=0, atol=1e-3)
    assert np.array_equal(again.train_loss.sel(arm="connectome"), before.train_loss.sel(arm="connectome"))


@pytest.mark.parametrize("command", [
    "align connectome --data toy-reading --untrained 1 --out alignment --set n_bootstrap=20 --set n_permutations=20",
    "experts --base connectome --expert skill:agreement --expert skill:count_up --out experts --set training.steps=8 "
    "--set training.warmup=2 --set training.max_tokens=48",
    "population experts --task skill:agreement,count_up --methods genome --budget 8 --seeds 2 --out population "
    "--set n_validation=20 --set n_test=20"])
def test_the_commands_of_before_find_their_runs_done(command, folder):
    kind = next(k for k in KINDS if f"--out {k}" in command)
    before = read_json(f"{kind}/summary.json")
    assert main([*command.split(), "--resume"]) == 0
    after = read_json(f"{kind}/summary.json")  # may tell more than it did
    assert {k: after[k] for k in before} == before


def test_the_short_top_level_gives_models_and_tables(folder):
    run = ev.open_run("connectome")
    model = run.model("connectome", seed=1)
    assert model.config.n_embd == 16 and model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4).shape == (1, 7)
    born = Connectome.load(run.file("evolution", "gen-01", "connectome.safetensors"))
    assert all((model.get_parameter(n)[s == 0] == 0).all() for n, s in born.signs.items())
    table = run.scores()
    assert table[["arm", "seed"]].values.tolist() == [[a, s] for a in ("connectome", "random") for s in (0, 1)]
    told = read_json("connectome/summary.json")["arms"]
    means = table.groupby("arm")[["val_loss", "test_loss"]].mean()
    for arm in told:
        assert means.val_loss[arm] == pytest.approx(told[arm]["val_loss"]["mean"], abs=1e-6)
        assert means.test_loss[arm] == pytest.approx(told[arm]["test_loss"]["mean"], abs=1e-6)
    with pytest.raises(InputError, match="arm of connectome is 'rndom'.*Did you mean random"):
        run.model("rndom")
    with pytest.raises(InputError, match="no grown newborn random/5; its seeds of this arm are: 0, 1"):
        run.model("random", seed=5)
    with pytest.raises(InputError, match="device 'nonsense' can't be used"):
        run.model(device="nonsense")


@pytest.mark.parametrize("kind, rows, columns", [
    ("experts", ["agreement", "count_up"], {"expert", "loss_before", "loss"}),
    ("population", ["best-expert", "uniform", "sum", "random-search", "genome"], {"method", "seed", "test"}),
    ("alignment", ["connectome", "random", "untrained"], {"arm", "n_models", "gain", "gain_low", "difference"})])
def test_every_kind_gives_its_table_and_only_what_grows_models_gives_one(kind, rows, columns, folder):
    run = ev.open_run(kind)
    table = run.scores()
    assert list(dict.fromkeys(table.iloc[:, 0])) == rows and columns <= set(table.columns)
    with pytest.raises(InputError, match=f"{kind} is a run of kind '{kind}', but grown models are in one of kind "
                                         "'connectome'. Make one with evonb run"):
        run.model()

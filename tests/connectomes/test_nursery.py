"""Newborns of a run raised in litters: the records of one by one, through failures, stops and other settings."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_lineages import LIFE, tiny

from evonb.cli import main
from evonb.connectomes import nursery
from evonb.connectomes.attribution import attribute
from evonb.connectomes.experiments import computing_with, develop_run, experiment
from evonb.connectomes.generations import finished_life, generation_folder
from evonb.connectomes.nursery import Nursery, litters, side_by_side, wants_litters
from evonb.connectomes.settings import Experiment
from evonb.core import InputError, Remark, Stopped, StopRequest, listening
from evonb.store import open_run, read_dataset, read_json
from evonb.text.tokens import open_prepared
from evonb.training.lifetime import Compute
from evonb.training.parallel import World

pytestmark = pytest.mark.numerics
FIELDS = ("train_loss", "val_loss", "window_loss", "test_window_loss", "final_test_loss", "chosen_lr", "sweep_val_loss",
          "n_live", "density", "flips")  # fmt: skip
LITTER = Compute("cpu", litter=4)


def config():
    made, life = tiny(2), replace(LIFE, lr=1e-3)
    return replace(made, evolution=replace(made.evolution, n_generations=1, lifetime=life),
                   development=replace(made.development, arms=("connectome", "random"), lifetime=life,
                                       lrs=(1e-3, 2e-3)))  # fmt: skip


@pytest.fixture(scope="module")
def evolved(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("evolved") / "run", config(), show=False, compute=LITTER,
                      stages=("evolve",))  # fmt: skip


def spoilt(self, arm, seed, lr, *args, real=Experiment.arm_newborn):
    "As ever, but for one newborn, whose loss will be no number."
    told = real(self, arm, seed, lr, *args)
    if (arm, lr) == ("random", 2e-3):
        with torch.no_grad():
            w = told["newborn"].lm_head.weight
            w.masked_fill_(w != 0, math.inf)
    return told


def developed(path, **how):
    with pytest.MonkeyPatch.context() as m:
        m.setattr(Experiment, "arm_newborn", spoilt)
        return develop_run(path, show=False, **how)


@pytest.fixture(scope="module")
def alone(evolved, tmp_path_factory):
    return developed(shutil.copytree(evolved.path, tmp_path_factory.mktemp("alone") / "run"), workers=1)


def batched(run):
    "Folder -> whether its lifetime was one of a litter."
    return {e["folder"]: e["products"] == "litter" for e in run.events() if e["event"] == "lifetime"}


def test_generations_of_evolutions_live_in_a_litter(evolved, tmp_path):
    one = experiment(tmp_path / "run", config(), show=False, workers=1, stages=("evolve",))
    assert all(batched(evolved).values()) and not any(batched(one).values())
    for k in range(2):
        mine, other = (finished_life(generation_folder(r, 0, k))[0] for r in (evolved, one))
        for name in ("train_loss", "val_loss", "val_step", "window_loss"):
            assert torch.allclose(mine[name], other[name], rtol=0, atol=1e-5)
    ds = read_dataset(evolved.file("evolution.zarr.zip"))
    assert ds.sizes["lineage"] == 2 and np.allclose(ds.density, 0.7, atol=1e-3)


def test_a_sweep_in_litters_leaves_what_one_by_one_leaves(evolved, alone, tmp_path):
    "With one that fails, and a stop on the way."
    shutil.copytree(evolved.path, tmp_path / "run")
    stop, seen, told = StopRequest(), [], []

    def at_work(kind, values):
        if kind == "step" and values["step"] == 4:
            seen.append(values["folder"])
            stop.set("a test")

    with listening(at_work), pytest.raises(Stopped, match="3 newborns of a litter"):
        developed(tmp_path / "run", compute=LITTER, stop=stop)
    run = open_run(tmp_path / "run")
    assert run.state()["status"] == "stopped" and len(seen) == 3
    assert all((f / "checkpoint-00000004.safetensors").is_file() for f in seen)
    with listening(lambda kind, v: told.append((v["status"], str(v["folder"]))) if kind == "newborn" else None):
        developed(run.path, compute=LITTER)
    assert all(batched(run).values())
    for status, n in (("begun", 3 + 6), ("finished", 3 + 6)):  # the sweep, then the rest
        names = [f for s, f in told if s == status]
        assert len(names) == len(set(names)) == n
    failed = [r.file("development", "random", "seed-0", "lr-0.002", "failed.json") for r in (run, alone)]
    assert all("loss is nan" in read_json(f)["reason"] for f in failed)
    mine, other = (read_dataset(r.file("development.zarr.zip")) for r in (run, alone))
    for k in FIELDS:
        assert np.allclose(mine[k], other[k], rtol=0, atol=1e-5, equal_nan=True), k
    assert np.isnan(mine.sweep_val_loss.sel(arm="random", lr=2e-3)) and np.isfinite(mine.final_test_loss).all()
    left = [sorted(str(p.relative_to(r.path)) for p in r.path.rglob("*") if "development" in p.parts)
            for r in (run, alone)]  # fmt: skip
    assert left[0] == left[1] and not any("checkpoint-" in p for p in left[0][-9:])


def test_attribution_raises_its_newborns_in_litters(alone, tmp_path):
    shutil.copytree(alone.path, tmp_path / "run")
    run = attribute(tmp_path / "run", ("head",), changes=dict(lrs=(1e-3,)), show=False, compute=LITTER)
    found = {f: v for f, v in batched(run).items() if "attribution" in f}
    assert len(found) == 4 and not found.pop("attribution/random+head/seed-0/lr-0.001") and all(found.values())


def test_who_is_raised_with_whom(alone):
    corpus, three = open_prepared(alone.file("corpus")), replace(LITTER, litter=3)
    exp = Experiment(alone, corpus, config(), show=False, compute=three)
    items = [(a, s, 1e-3, k) for a in ("random", "dense_matched", "dense_longer") for s in range(2) for k in range(2)]
    dealt = litters(exp, items)
    assert sorted(len(x) for x in dealt) == [2] * 6 and sorted(sum(dealt, [])) == sorted(items)
    assert all(len({a for a, *_ in x}) == 1 for x in dealt)  # other sizes, other lengths: another litter
    shutil.rmtree(alone.file("development", "dense_matched"))


def test_who_does_it(alone, monkeypatch):
    exp = Experiment(alone, open_prepared(alone.file("corpus")), config(), show=False)

    def fleet(compute, workers="auto", **more):
        with side_by_side(replace(exp, compute=compute, **more), workers) as found:
            return found.fleet

    assert fleet(Compute("cpu")) is None and fleet(Compute("cpu", litter=0)) is None
    assert isinstance(fleet(LITTER), Nursery) and isinstance(fleet(LITTER, 1), Nursery)
    with pytest.raises(InputError, match="A litter of 4 and 2 workers"):
        fleet(LITTER, 2)
    monkeypatch.setattr(nursery, "litter_size", lambda compute, *_: 4)
    assert isinstance(fleet(Compute("cuda"), device="cuda"), Nursery)
    assert not wants_litters(replace(exp, device="cuda", group=World(0, 2)))


def test_where_it_cannot_be_that_is_said(alone):
    exp = Experiment(alone, open_prepared(alone.file("corpus")), config(), show=False, compute=LITTER)
    muon = replace(LIFE, optimizer="muon")
    by_muon = replace(exp.config, evolution=replace(exp.config.evolution, lifetime=muon),
                      development=replace(exp.config.development, lifetime=muon))  # fmt: skip
    with pytest.warns(Remark, match="litter of 4 was asked for, but newborns are raised one by one: Muon"):
        assert not wants_litters(replace(exp, config=by_muon))
    with pytest.raises(InputError, match="Leave --litter out"):
        computing_with("cpu", LITTER, object())


def test_the_command_takes_a_number_and_refuses_what_does_not_fit(alone, capsys):
    for words, said in ((["--litter", "few"], "neither auto nor a number"), (["--litter", "-1"], "neither auto nor"),
                        (["--litter", "4", "--workers", "2"], "leave one of them out"),
                        (["--litter", "4", "--compile"], "Leave one of them out")):  # fmt: skip
        try:
            assert main(["develop", str(alone.path), *words]) == 2
        except SystemExit as e:
            assert e.code == 2
        assert said in capsys.readouterr().err

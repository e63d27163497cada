"""A whole run over toy experts: what it stores, that it resumes to the bit, its statistics, and what it refuses."""

import json
import math
import multiprocessing
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import evonb.populations.breeding as breeding
from evonb.cli import population_text
from evonb.core import InputError, MachineError, Remark, RunExistsError, Seeds, to_dict
from evonb.datasets import MissingExtraError
from evonb.evolution.aims import AimsConfig
from evonb.evolution.archives import division_of
from evonb.evolution.method import METHODS, Objective, right_options
from evonb.evolution.methods.lorahub import LoraHubConfig
from evonb.evolution.operators import AllFailedError
from evonb.evolution.search import stored_state
from evonb.populations.breeding import (
    BASELINES,
    BreedConfig,
    RunCache,
    breed,
    breeding_statement,
    default_tasks,
    item_credit,
    item_texts,
    method_note,
)
from evonb.populations.experts import ExpertConfig, ExpertsConfig, ToyConfig, load_experts, toy_base, train_experts
from evonb.populations.spaces import AdapterSpace, CoefficientSpace
from evonb.report import methods_table, report_html, write_report
from evonb.store import create_run, open_run, read_dataset, read_json, read_tensors
from evonb.tasks.backends import InProcess
from evonb.tasks.engine import Engine
from evonb.tasks.fitness import Fitness
from evonb.tasks.tasks import (
    TASKS,
    Item,
    SealedTestError,
    Task,
    TaskFileError,
    mean_score,
    open_task,
    open_test,
    read_record,
)
from evonb.training.adapters import write_adapter
from evonb.training.base import open_base
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig
from evonb.widgets.population import distance_unit, genome_distance, kept_genomes, stored_genomes

EVONB = str(Path(sys.executable).with_name("evonb"))  # the installed command
TOY = ToyConfig(
    n_documents=300, vocab_size=400, model=ModelConfig(n_layer=2, n_head=2, n_embd=32),
    lifetime=LifetimeConfig(steps=20, batch_size=8, context=32, warmup=5, eval_windows=8),
)  # fmt: skip
QUICK = ExpertConfig(rank=2, steps=12, warmup=2, batch_size=6, lr=1e-2, held_out=8)
SKILLS = dict(agreement="skill:agreement", count="skill:count_up", tense="skill:tense")
pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_base(tmp_path_factory.mktemp("bases"), TOY, device="cpu", show=False)


@pytest.fixture(scope="module")
def experts(base, tmp_path_factory):
    path = tmp_path_factory.mktemp("experts") / "run"
    config = ExpertsConfig(base.name, SKILLS, "neutral", 60, 0, QUICK)
    return train_experts(path, config, show=False, base=base).path


@pytest.fixture(scope="module")
def config(experts):
    return BreedConfig(
        experts=str(experts), tasks=("skill:agreement,count_up", "skill:tense"), held_out=("skill:echo",),
        methods=("genome", "coarse-to-fine"), budget=12, n_individuals=4, n_seeds=2, n_validation=20, n_test=24,
        ensemble_size=3, n_bootstrap=200,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    "A run without interruption."
    return bred(tmp_path_factory.mktemp("done") / "run", config)


@pytest.fixture(scope="module")
def brief(config, tmp_path_factory):
    "A run of one seed without interruption, and its settings."
    small = replace(config, n_seeds=1)
    return bred(tmp_path_factory.mktemp("brief") / "run", small), small


def bred(path, config, **options):
    return breed(path, config, show=False, device="cpu", **options)


def same_results(a, b, clocks=("seconds",)):
    "Everything but the time it took."
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(k in clocks or same_results(a[k], b[k]) for k in a)
    return a == b or (a != a and b != b) or (isinstance(a, list) and all(map(same_results, a, b)) and len(a) == len(b))


def assert_same_run(a, b):
    "The same datasets, the same states, the same lineage, the same results."
    names = sorted(str(p.relative_to(a.path)) for p in a.path.rglob("*") if p.suffix in (".zip", ".safetensors"))
    found = sorted(str(p.relative_to(b.path)) for p in b.path.rglob("*") if p.suffix in (".zip", ".safetensors"))
    ours = [n for n in names if not n.startswith("cache")]
    assert ours == [n for n in found if not n.startswith("cache")] and len(ours) > 12
    for name in ours:
        p, q = a.path / name, b.path / name
        if name.endswith(".zip"):
            assert read_dataset(p).identical(read_dataset(q)), name
        else:
            (x, told), (y, told_too) = read_tensors(p), read_tensors(q)
            assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x), name
            assert same_results(told, told_too), name
    assert same_results(read_json(a.file("summary.json")), read_json(b.file("summary.json")))
    assert read_json(a.file("tasks.json")) == read_json(b.file("tasks.json"))


# what a run stores


def test_everything_is_there_and_the_baselines_are_beside(done, config):
    summary, data = read_json(done.file("summary.json")), read_dataset(done.file("population.zarr.zip"))
    assert done.kind == "population" and done.state()["status"] == "complete"
    assert tuple(summary["methods"]) == (*BASELINES, "genome", "coarse-to-fine") == tuple(data.method.values)
    for method, one in summary["methods"].items():
        assert one["evaluations"] <= config.budget and one["failed"] == 0
        references = {"best-expert"} if method in BASELINES else {"best-expert", "random-search", "sum"}
        assert set(one["versus"]) == references - {method}
        assert {d["family"] for d in one["versus"].values()} <= {10}  # what the table shows: 4 baselines, 2 x 3
        by_chance = method in ("random-search", "genome", "coarse-to-fine")
        assert ("search" in one["test"]["units"]) == by_chance and one["test"]["units"]["question"] == 48
        for s in range(config.n_seeds):
            history = read_dataset(done.file("evolve", method, f"seed-{s}", "history.zarr.zip"))
            assert (history.number >= 0).sum() <= config.budget
            assert list(history.task.values) == sorted(config.tasks)  # nothing held out was scored on the way
    assert summary["methods"]["best-expert"]["evaluations"] == 3 and summary["methods"]["sum"]["evaluations"] == 1
    tuned = data.coefficients.sel(dict(method="scaled-sum")).values  # one factor for all, not worse than the plain sum
    assert summary["methods"]["scaled-sum"]["evaluations"] == min(10, config.budget) and np.ptp(tuned[0]) == 0
    validation = {m: x["validation"]["mean"] for m, x in summary["methods"].items()}
    assert validation["scaled-sum"] >= validation["sum"]
    notes = {m: x["note"] for m, x in summary["methods"].items() if x["note"]}
    tuned_here = "designed and tuned on skill tasks, as they are here"
    assert notes == {"coarse-to-fine": tuned_here} and f"coarse-to-fine: {tuned_here}" in population_text(summary)
    assert f"coarse-to-fine: {tuned_here}." in methods_table(summary)
    assert summary["methods"]["genome"]["evaluations"] == config.budget
    assert [t["selected"] for t in summary["tasks"]] == [True, True, False]
    assert summary["tasks"][0] | dict(n_validation=20, n_test=24, chance=0.5) == summary["tasks"][0]
    assert summary["left_out"] == {} and summary["experts"] == list(SKILLS) and "genome" in summary["statement"]


def test_a_table_names_the_optimiser_and_who_was_developed_on_such_tasks():
    config = BreedConfig("experts", ("choice:mine.jsonl",))
    assert method_note("coarse-to-fine", config) == method_note("random-search", config) == ""
    held = replace(config, held_out=("skill:agreement",))
    assert method_note("coarse-to-fine", held) == "designed and tuned on skill tasks, as they are here"
    assert method_note("lorahub", config) == "optimiser: nevergrad's CMA (its public code has NGOpt)"
    assert "NGOpt (as in its public code)" in METHODS["lorahub"].note(LoraHubConfig(optimiser="NGOpt"))


def test_the_best_so_far_is_the_history(done, config):
    data = read_dataset(done.file("population.zarr.zip"))
    for method in data.method.values:
        for s in range(config.n_seeds):
            rows = stored_state(done.file("evolve", method, f"seed-{s}"))[1]["rows"]
            best, expected = -math.inf, []
            for row in rows:
                best = max(best, row["value"])
                expected.append(best)
            expected += [best] * (config.budget - len(expected))
            found = data.best_value.sel(dict(method=method, seed=s)).values
            assert found.tolist() == expected and (np.diff(found) >= 0).all()
            assert data.validation.sel(dict(method=method, seed=s)) <= best
    genome = read_dataset(done.file("evolve", "genome", "seed-0", "history.zarr.zip"))
    assert float(genome.best[-1]) == float(data.best_value.sel(dict(method="genome", seed=0))[-1])


def test_the_test_scores_are_those_of_the_chosen_individuals_scored_again(done, config, base, tmp_path):
    data, summary = read_dataset(done.file("population.zarr.zip")), read_json(done.file("summary.json"))
    experts = load_experts(config.experts)
    space, engine = CoefficientSpace(experts, config.by), Engine(base.model, base.tokenizer, method="merged")
    specs = (*config.tasks, *config.held_out)
    tasks = [open_task(t, Seeds(config.seed).child("tasks"), config.n_validation, config.n_test) for t in specs]
    opened = [open_test(t, tmp_path / "sealed.jsonl", "all again") for t in tasks]
    for method, one in summary["methods"].items():
        genomes = [data.coefficients.sel(dict(method=method, seed=s)).values for s in range(config.n_seeds)]
        scores = InProcess(engine).score([space.adapter(g) for g in genomes], opened, "test")
        means = np.array([[s[t.name].mean for t in opened] for s in scores])  # (n_seeds, n_tasks)
        assert np.allclose(data.task_test.sel(dict(method=method)), means)
        assert np.allclose([[s[t.name].se for t in opened] for s in scores], data.task_test_se.sel(dict(method=method)))
        assert np.allclose(data.test.sel(dict(method=method)), means[:, :2].mean(1))
        assert one["test"]["mean"] == pytest.approx(means[:, :2].mean())
        assert one["test"]["sd"] == pytest.approx(means[:, :2].mean(1).std(ddof=1))
        assert one["test"]["low"] <= one["test"]["mean"] <= one["test"]["high"]
        for t, mean in zip(opened, means.T):
            assert one["by_task"][t.name]["mean"] == pytest.approx(mean.mean())
        for other, d in one["versus"].items():
            assert d["mean"] == pytest.approx(one["test"]["mean"] - summary["methods"][other]["test"]["mean"])
    alone = InProcess(engine).score(list(experts.values()), opened, "test")
    assert np.allclose(data.expert_test, [[s[t.name].mean for t in opened] for s in alone])


def test_the_smooth_value_and_the_validation_score_are_recomputed_too(done, config, base):
    tasks = [open_task(t, Seeds(config.seed).child("tasks"), config.n_validation, config.n_test) for t in config.tasks]
    fitness = Fitness(InProcess(Engine(base.model, base.tokenizer)), tasks)
    space, objective = CoefficientSpace(load_experts(config.experts), config.by), Objective(right_options(tasks))
    history = read_dataset(done.file("evolve", "best-expert", "seed-1", "history.zarr.zip"))
    for i, e in enumerate(fitness([space.adapter(g) for g in space.start()])):
        assert float(history.value[0, i]) == e.value
        assert float(history.smooth[0, i]) == pytest.approx(objective.smooth(e), abs=1e-6)


def test_ensembles_of_one_are_the_chosen_member_and_the_oracle_bounds_all(done):
    data = read_dataset(done.file("population.zarr.zip"))
    votes, oracle = data.ensemble_test.sel(dict(method="genome")), data.oracle_test.sel(dict(method="genome"))
    assert np.isfinite(votes.values).all() and (votes.max("rule") <= oracle + 1e-12).all()
    assert (oracle.diff("size") >= 0).all()
    assert np.isnan(data.ensemble_test.sel(dict(method="sum")).values).all()  # it has no population
    assert np.allclose(votes.sel(rule="probability", size=1), votes.sel(rule="vote", size=1))


def test_the_same_settings_give_the_same_bits_and_other_seeds_do_not(brief, tmp_path):
    done, config = brief
    assert_same_run(done, bred(tmp_path / "again", config))
    other = bred(tmp_path / "other", replace(config, seed=1, methods=(), budget=3))
    assert read_json(other.file("tasks.json")) != read_json(done.file("tasks.json"))
    name = ("evolve", "random-search", "seed-0", "history.zarr.zip")
    found, before = (read_dataset(r.file(*name)).digest.values.ravel()[:3] for r in (other, done))
    assert not set(found) & set(before)


def test_held_out_tasks_and_further_seeds_change_nothing_in_the_search(done, config, brief, tmp_path):
    alone = bred(tmp_path / "run", replace(config, held_out=(), n_seeds=1, methods=("genome",)))
    for method in (*BASELINES, "genome"):
        name = ("evolve", method, "seed-0", "history.zarr.zip")
        for other in (done, brief[0]):
            assert read_dataset(alone.file(*name)).identical(read_dataset(other.file(*name)))


# the sealed test


def test_the_test_is_opened_once_and_a_complete_run_is_left_as_it_is(done, config):
    looked = read_record(done.file("sealed.jsonl"))
    assert [x["task"] for x in looked] == [*config.tasks, *config.held_out]
    assert all(x["opened_before"] == 0 and x["run"] == "run" and x["n_items"] == 24 for x in looked)
    assert all(n in looked[0]["individual"] for n in ("expert/tense", "genome/0", "random-search/1"))
    before = {p: p.stat().st_mtime_ns for p in done.path.rglob("*") if p.is_file()}
    again = bred(done.path, config, resume=True)
    changed = {p.name for p in done.path.rglob("*") if p.is_file() and p.stat().st_mtime_ns != before.get(p)}
    assert changed <= {"log.jsonl", "state.json", ".lock"} and again.state()["status"] == "complete"
    assert len(read_record(done.file("sealed.jsonl"))) == 3
    with pytest.raises(RunExistsError, match="budget: 12 there, 13 asked"):
        bred(done.path, replace(config, budget=13), resume=True)
    with pytest.raises(RunExistsError, match="--resume"):
        bred(done.path, config)


def test_selection_can_not_reach_the_test(config):
    task = open_task(config.tasks[0], Seeds(0), 20, 24)
    with pytest.raises(SealedTestError):
        task.items("test")


# interruptions


class Killed(BaseException):
    "Nothing catches this."


def crashing(monkeypatch, name, after):
    "Make a method of RunCache die at a call of it; the files are left as they are at that moment."
    whole, left = getattr(RunCache, name), [after]

    def dies(self, *given):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return whole(self, *given)

    monkeypatch.setattr(RunCache, name, dies)


def test_dying_again_and_again_in_the_middle_of_a_batch_changes_nothing(brief, tmp_path, monkeypatch):
    done, config = brief
    path, deaths, unfinished, n_scores = tmp_path / "run", 0, 0, 13
    while True:
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            crashing(patch, "put", n_scores)
            try:
                bred(path, config, resume=True)
                break
            except Killed:
                deaths += 1
        unfinished += bool(list(path.glob("evolve/*/*/unfinished.safetensors")))
        n_scores = n_scores * 4 // 3  # the scores of a batch that wasn't whole are lost
    assert deaths >= 5 and unfinished >= 1
    assert_same_run(done, open_run(path))


def settings(config):
    "The same run as a command line."
    sizes = ("n_individuals", "n_validation", "n_test", "ensemble_size", "n_bootstrap")
    return [config.experts, *[f"--task={t}" for t in config.tasks], *[f"--held-out={t}" for t in config.held_out],
            f"--methods={','.join(config.methods)}", f"--budget={config.budget}", f"--seeds={config.n_seeds}",
            "--device=cpu", *[f"--set={k}={getattr(config, k)}" for k in sizes]]  # fmt: skip


def command(arguments):
    torch.set_num_threads(1)
    from evonb.cli import main

    sys.exit(main(["population", *arguments]))


def work_done(path):
    "How many batches were scored."
    return len(list((path / "cache").glob("batch-*.safetensors")))


def kill_when(alive, kill, path, more, delay):
    "SIGKILL some time after so many more batches; whether it came before the end."
    goal = work_done(path) + more
    while alive() and work_done(path) < goal:
        time.sleep(0.001)
    time.sleep(delay)
    before_the_end = alive()
    kill()
    return before_the_end


def test_six_kills_and_resumes_equal_no_interruption(brief, tmp_path):
    "SIGKILL at random moments of the command, each resumed in a process of its own."
    done, config = brief
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["evonb.populations.breeding", "evonb.report", "xarray", "zarr", "scipy.optimize"])
    path, rng, kills = tmp_path / "run", np.random.default_rng(0), 0
    arguments = [*settings(config), f"--out={path}", "--resume"]
    for _ in range(6):
        p = context.Process(target=command, args=(arguments,))
        p.start()
        kills += kill_when(p.is_alive, p.kill, path, 1, rng.uniform(0, 0.04))
        p.join()
        assert open_run(path).state()["status"] != "failed"
    assert kills >= 5
    p = context.Process(target=command, args=(arguments,))
    p.start()
    p.join()
    assert p.exitcode == 0 and (path / "report.html").exists()
    assert_same_run(done, open_run(path))
    starts = [e["after"] for e in open_run(path).events() if e["event"] == "start"]
    assert starts.count("interrupted") == kills


def test_the_installed_command_is_killed_then_asked_to_stop(brief, tmp_path):
    done, config = brief
    path = tmp_path / "run"

    def sent(what, *more):
        p = subprocess.Popen([EVONB, "population", *settings(config), f"--out={path}", *more], stderr=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
        kill_when(lambda: p.poll() is None, lambda: p.send_signal(what), path, 3, 0)
        return p.communicate()[1], p.returncode

    assert sent(signal.SIGKILL)[1] == -signal.SIGKILL and open_run(path).state()["status"] == "interrupted"
    err, code = sent(signal.SIGTERM, "--resume")
    assert code == 130 and "Stopped by SIGTERM" in err and "with --resume goes on" in err, err
    assert open_run(path).state()["status"] == "stopped"
    assert_same_run(done, bred(path, config, resume=True))


def test_a_batch_of_scores_is_known_as_a_whole_or_not_at_all(tmp_path):
    cache = RunCache(tmp_path / "cache")
    scores = dict(a=mean_score([1.0, 0.0]), b=mean_score([0.5] * 3, option_scores=np.array([[1.0, np.nan]] * 3)))
    scores["c"] = mean_score([1.0], texts=["yes"], unparseable=0)
    for k, s in scores.items():
        cache.put(k, s)
    assert cache.get("a") is scores["a"] and RunCache(tmp_path / "cache").get("a") is None
    cache.keep()
    cache.keep()
    again = RunCache(tmp_path / "cache")
    assert len(again) == 3 and len(list(tmp_path.rglob("*.safetensors"))) == 1
    for k, s in scores.items():
        found = again.get(k)
        assert (found.mean, found.n, found.texts, found.unparseable) == (s.mean, s.n, s.texts, s.unparseable)
        assert np.array_equal(found.credit, s.credit) and (found.se == s.se or s.n == 1)
    assert np.array_equal(again.get("b").option_scores, scores["b"].option_scores, equal_nan=True)
    again.put("d", scores["a"])
    again.keep()
    first, second = sorted(tmp_path.rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-3])
    with pytest.warns(UserWarning, match=f"{first.name}.*computed again"):
        left = RunCache(tmp_path / "cache")
    assert left.get("a") is None and left.get("d").mean == 0.5


def test_a_batch_of_more_scores_than_are_held_is_read_once(tmp_path, monkeypatch):
    cache, read, files = RunCache(tmp_path), breeding.read_tensors, []
    for i in range(30):
        cache.put(f"score {i}", mean_score([1.0, i / 30]))
    cache.keep()
    again = RunCache(tmp_path, held=4)
    monkeypatch.setattr(breeding, "read_tensors", lambda path: files.append(path) or read(path))
    assert [again.get(f"score {i}").credit[1] for i in range(30)] == pytest.approx([i / 30 for i in range(30)])
    assert len(files) == 1


# adapters as individuals


@pytest.mark.parametrize("space", ["delta", "factors"])
def test_individuals_that_are_adapters(space, config, tmp_path):
    small = replace(config, space=space, methods=("genome",), n_seeds=1, budget=8)
    run = bred(tmp_path / "run", small)
    data, summary = read_dataset(run.file("population.zarr.zip")), read_json(run.file("summary.json"))
    assert "coefficients" not in data and "random-search" not in summary["methods"]
    assert set(summary["methods"]) == {"best-expert", "uniform", "sum", "scaled-sum", "genome"}
    full = {"best_value", "validation", "test", "task_test", "task_test_se", "task_validation", "expert_test",
            "base_test", "selected", "chance", "ensemble_test", "oracle_test", "drift", "from_start"}  # fmt: skip
    assert set(data.data_vars) == full and np.isfinite(data.test).all()
    assert summary["methods"]["genome"]["evaluations"] == 8
    assert set(summary["methods"]["genome"]["versus"]) == {"best-expert", "sum"}
    assert summary["space"] == space
    with pytest.raises(InputError, match="'cma' works on vectors of coefficients.*genome"):
        replace(small, methods=("cma",)).check()


@pytest.fixture(scope="module")
def whole(config, base, tmp_path_factory):
    "All weights of the base searched without experts, and the settings."
    small = replace(
        config, experts="", base=base.name, space="weights", methods=("es", "mezo"), rank=1, n_seeds=1, budget=7,
        tasks=config.tasks[1:], options={"mezo": {"sigma": 0.05}}, ensemble_size=2, n_test=12,
    )  # fmt: skip
    return bred(tmp_path_factory.mktemp("whole") / "run", small), small


def test_all_weights_of_a_base_are_searched_as_integers(whole, base):
    run, config = whole
    data, summary = read_dataset(run.file("population.zarr.zip")), read_json(run.file("summary.json"))
    assert list(summary["methods"]) == ["best-expert", "random-search", "es", "mezo"] and summary["space"] == "weights"
    assert summary["experts"] == ["base"] and np.isfinite(data.test).all() and "coefficients" not in data
    assert np.array_equal(data.expert_test.sel(expert="base"), data.base_test)
    table = breeding.drift_table(run).set_index("method")
    assert table.drift["best-expert"] == 0 < table.drift["random-search"]
    assert np.allclose(table.drift[["es", "mezo"]], table.from_start[["es", "mezo"]])  # they began at the base
    space = breeding.make_space({}, config, base)
    for method in ("es", "mezo", "random-search"):
        state, found = stored_state(run.file("evolve", method, "seed-0"))
        best = {k.split("|")[-1]: t for k, t in state.items() if k.startswith("best|")}
        genome = space.unpack(best)
        assert space.digest(genome) == found["best"][0]["digest"] and sum(t.nbytes for t in best.values()) < 2000
        assert {r for _, r, _ in genome.steps} <= {1}
        assert space.length(genome) == data.drift.sel(dict(method=method, seed=0))
    kept = stored_genomes(run.file("evolve", "es", "seed-0"))
    assert all(space.digest(g) == name for name, g in kept.items()) and len(kept) >= 2
    (a, b, *_), looked = kept, kept_genomes(run.file("evolve", "es", "seed-0"))  # as the explorer reads them
    assert genome_distance(kept[a], kept[b]) > 0 and "root mean squares" in distance_unit(looked[a])
    assert genome_distance(looked[a], looked[b]) == pytest.approx(genome_distance(kept[a], kept[b]))
    assert "from the base" in write_report(run.path).read_text()


def test_a_search_of_weights_that_dies_goes_on_to_the_bit(whole, tmp_path, monkeypatch):
    done, config = whole
    for n_scores in (9, 1000):
        with monkeypatch.context() as patch:
            crashing(patch, "put", n_scores)
            try:
                bred(tmp_path / "run", config, resume=True)
                break
            except Killed:
                continue
    assert_same_run(done, open_run(tmp_path / "run"))


@pytest.mark.parametrize("space, methods", [("delta", ("es", "mezo")), ("weights", ("es",))])
def test_steps_begin_at_the_experts_sum(space, methods, config, tmp_path, monkeypatch):
    small = replace(
        config, space=space, methods=methods, n_seeds=1, budget=6, tasks=config.tasks[1:], held_out=(), n_test=9,
    )  # fmt: skip
    if space == "delta":
        with monkeypatch.context() as patch, pytest.raises(Killed):
            crashing(patch, "put", 20)
            bred(tmp_path / "run", small)
    data = read_dataset(bred(tmp_path / "run", small, resume=True).file("population.zarr.zip"))
    for m in methods:
        history = read_dataset(tmp_path / "run" / "evolve" / m / "seed-0" / "history.zarr.zip")
        summed = data.validation.sel(dict(method="sum", seed=0))
        assert history.value[0, 0] == pytest.approx(float(summed), abs=0.051)  # one item of 20: it is rounded otherwise
        one = data.sel(dict(method=m, seed=0))
        assert one.from_start < one.drift


def test_whole_weights_are_not_sent_away(whole, tmp_path):
    with pytest.raises(InputError, match="scored in this process"):
        bred(tmp_path / "run", whole[1], open_backend=lambda *_: None)
    assert not (tmp_path / "run").exists()


def test_the_spaces_are_what_they_are_called(config):
    experts = load_experts(config.experts)
    assert isinstance(breeding.make_space(experts, config), CoefficientSpace)
    assert breeding.make_space(experts, replace(config, by="module")).shape[0] == 8  # 2 layers of 4 modules
    for on in ("delta", "factors"):
        space = breeding.make_space(experts, replace(config, space=on))
        assert isinstance(space, AdapterSpace) and space.on == on


# what is refused


@pytest.mark.parametrize("change, says", [
    (dict(methods=("annealing",)), "(?s)annealing.*genome\\+.*coarse-to-fine|must be one of"),
    (dict(tasks=()), "tasks is empty"),
    (dict(experts=""), "experts is empty"),
    (dict(held_out=("skill:tense",)), "'skill:tense' is selected on and held out"),
    (dict(tasks=("skill:tense",) * 2), "named twice"),
    (dict(held_out=("skill:echo",) * 2), "named twice"),
    (dict(n_individuals=1), "n_individuals.* 1"),
    (dict(methods=("differential-evolution",), n_individuals=3), "n_individuals of differential-evolution"),
    (dict(budget=0), "budget"),
    (dict(n_seeds=0), "n_seeds"),
    (dict(space="adapters"), "coefficients"),
    (dict(space="weights", methods=("cma",)), "'cma' works on vectors of coefficients, but space is 'weights'"),
    (dict(space="weights", methods=("sign-es",)), "can't search a space of 'weights', whose genomes have no signs"),
    (dict(space="weights", experts="", methods=("es",)), "experts is empty"),
    (dict(space="weights", experts="", base="toy"), "'genome' crosses founders, but without experts"),
    (dict(options=dict(es=dict(sigma=0.1))), "method of options is 'es'"),
    (dict(options=dict(genome=dict(sigma=0.1))), "unknown key 'sigma'"),
    (dict(methods=("es",), options=dict(es=dict(sigma=0.0))), "sigma of 'es' is 0.0, but must be"),
    (dict(by="head"), "layer"),
    (dict(space="delta", methods=("random-search",)), "'random-search' works on vectors"),
])  # fmt: skip
def test_settings_that_can_not_work_are_refused_before_anything_is_written(change, says, config, tmp_path):
    with pytest.raises(InputError, match=says):
        bred(tmp_path / "run", replace(config, **change))
    assert not (tmp_path / "run").exists()


def test_an_unknown_method_names_the_known_ones(config):
    with pytest.raises(InputError) as e:
        replace(config, methods=("annealing",)).check()
    assert all(m in str(e.value) for m in METHODS if m != "walk-uphill")


@pytest.mark.parametrize("option", ["methods", "space", "by", "preset"])
def test_an_unknown_name_is_told_before_experts_are_looked_for(option, tmp_path, monkeypatch, capsys):
    from evonb.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["population", f"--{option}", "foo"]) == 2
    assert f"{option.removesuffix('s')} is 'foo'" in capsys.readouterr().err


def test_a_search_that_ends_before_anything_is_bred_is_told(config):
    with pytest.warns(Remark, match="budget is 3, but a generation of genome has 4 individuals: the search ends"):
        replace(config, methods=("genome", "coarse-to-fine"), budget=3).check()
    with warnings.catch_warnings():
        warnings.simplefilter("error", Remark)
        replace(config, methods=("genome",), budget=4).check()
        replace(config, methods=("coarse-to-fine",), budget=3).check()  # it has no generations of that size


@pytest.mark.parametrize("change, kind, says", [
    (dict(base="no/such/base"), InputError, "'no/such/base' is no base model"),
    (dict(experts="no/such/folder"), FileNotFoundError, "no/such/folder"),
    (dict(tasks=("skill:flying",)), InputError, "flying.*agreement"),
    (dict(tasks=("chess:e4",)), InputError, "must be one of.*skill"),
    (dict(tasks=("skill",)), InputError, "names no task.*Did you mean skill:NAME,NAME[?]"),
    (dict(tasks=("choice:no/such.jsonl",)), Exception, "no/such.jsonl"),
])  # fmt: skip
def test_what_isnt_there_is_named(change, kind, says, config, tmp_path):
    with pytest.raises(kind, match=says):
        bred(tmp_path / "run", replace(config, held_out=(), **change))
    assert not (tmp_path / "run" / "summary.json").exists()
    with create_run(tmp_path / "run", {}, "population"):  # nothing was made there, so the folder can be used again
        pass


def write_items(path, n, **changes):
    rows = [dict(prompt=f"the number is {i} and", options=["so be it .", "not ."], answer=i % 2) for i in range(n)]
    path.write_text("\n".join(json.dumps(r | changes) for r in rows))
    return f"choice:{path}"


def test_task_files_that_can_not_be_asked(config, tmp_path):
    alone = replace(config, held_out=(), n_seeds=1, methods=(), budget=3)

    def refused(name, says, kind=TaskFileError, n=50, **changes):
        with pytest.raises(kind, match=says):
            bred(tmp_path / "run", replace(alone, tasks=(write_items(tmp_path / f"{name}.jsonl", n, **changes),)))

    refused("a", "line 1.*answer", answer="yes")
    refused("b", "line 1.*answer", answer=2)
    refused("c", "line 1.*options", options=3)
    refused("d", "a few|10 items|items for validation, but 20", InputError, n=10)
    (tmp_path / "e.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(TaskFileError, match="e.jsonl, line 1.*options"):
        bred(tmp_path / "run", replace(alone, tasks=(f"choice:{tmp_path / 'e.jsonl'}",)))


def test_a_task_file_that_changed_is_refused_on_resume(config, tmp_path, monkeypatch):
    spec = write_items(tmp_path / "mine.jsonl", 50)
    small = replace(config, tasks=(spec,), held_out=(), n_seeds=1, methods=("genome",), budget=6)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        crashing(patch, "keep", 3)
        bred(tmp_path / "run", small)
    whole = (tmp_path / "mine.jsonl").read_text()
    (tmp_path / "mine.jsonl").write_text(whole.replace("number", "digit"))
    with pytest.raises(InputError, match="began with other items: .*mine.jsonl.*Restore the task's file"):
        bred(tmp_path / "run", small, resume=True)
    assert open_run(tmp_path / "run").state()["status"] == "failed"
    (tmp_path / "mine.jsonl").write_text(whole)
    assert bred(tmp_path / "run", small, resume=True).state()["status"] == "complete"


def test_experts_and_tasks_under_another_path_are_the_same_run(experts, config, tmp_path, monkeypatch):
    "Stopped, everything moved and renamed, resumed: the items are those of before, and so is the result."
    monkeypatch.chdir(tmp_path)
    write_items(tmp_path / "mine.jsonl", 60)
    shutil.copytree(experts, tmp_path / "trained")
    small = replace(config, experts="trained", tasks=("choice:mine.jsonl",), held_out=(), n_seeds=1, budget=6)
    whole = bred("whole", small)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        crashing(patch, "keep", 2)
        bred("run", small)
    for a, b in (("mine.jsonl", "far/yours.jsonl"), ("trained", "far/experts"), ("run", "far/run")):
        (tmp_path / b).parent.mkdir(exist_ok=True)
        shutil.move(a, b)
    moved = replace(small, experts="./far/experts/", tasks=(f"choice:{tmp_path}/far/yours.jsonl",))
    run = bred("far/run", moved, resume=True)
    assert run.config["tasks"] == ["choice:mine.jsonl"]
    assert_same_run(whole, run)
    (tmp_path / "far" / "yours.jsonl").write_text((tmp_path / "far" / "yours.jsonl").read_text().replace("so", "to"))
    with pytest.raises(RunExistsError, match="tasks: .*there, .*asked"):
        bred("far/run", moved, resume=True)


def test_an_expert_that_has_read_an_item_is_refused(base, config, tmp_path):
    spec = write_items(tmp_path / "mine.jsonl", 50)
    item = open_task(spec, Seeds(0).child("tasks"), 20, 24)._splits["test"][0]
    assert item_texts(open_task(spec, Seeds(0), 20, 24), item)[2] == f"{item.prompt} so be it ."
    filler = [f"some text about {i} ." for i in range(20)]
    whole = f"{item.prompt} {item.options[1]}"
    for i, leak in enumerate((whole, (item.prompt, f" {item.options[0]}"))):
        texts = dict(fair=filler, reader=[*filler, leak])
        short = ExpertsConfig(base.name, texts, None, 60, 0, replace(QUICK, steps=2))
        path = train_experts(tmp_path / f"experts-{i}", short, show=False, base=base).path
        with pytest.raises(InputError, match="expert reader .* has read 2.3% of the items of choice:.*memory"):
            bred(tmp_path / "run", replace(config, experts=str(path), tasks=(spec,), held_out=()))
    with pytest.raises(InputError, match="has read"):  # a held-out task, too
        bred(tmp_path / "run", replace(config, experts=str(path), tasks=("skill:tense",), held_out=(spec,)))


def copy_of(experts, folder, change=lambda name, adapter: adapter):
    "A folder of adapters that isn't a run."
    for name, a in load_experts(experts).items():
        write_adapter(change(name, a), folder / name)
    return str(folder)


def spoiled(*names):
    def change(name, a):
        return replace(a, B={m: b * math.nan for m, b in a.B.items()}) if name in names else a

    return change


def test_an_expert_that_can_not_be_scored_is_left_out_with_its_reason(experts, base, config, tmp_path):
    folder = copy_of(experts, tmp_path / "adapters", spoiled("count"))
    small = replace(config, experts=folder, base=base.name, n_seeds=1, budget=8)
    run = bred(tmp_path / "run", small)
    summary, data = read_json(run.file("summary.json")), read_dataset(run.file("population.zarr.zip"))
    assert list(summary["left_out"]) == ["count"] and "NaN" in summary["left_out"]["count"]
    assert summary["experts"] == ["agreement", "tense"] == list(data.expert.values)
    assert re.search("count is left out: .*NaN", summary["statement"])
    assert np.isfinite(data.test).all() and data.coefficients.shape[-1] == 2
    for p in run.path.glob("evolve/*/*/history.zarr.zip"):
        assert not read_dataset(p).failed.any()
    folder = copy_of(experts, tmp_path / "most", spoiled("count", "tense"))
    with pytest.raises(InputError, match="has 1 expert.*tense is left out: .*at least two"):
        bred(tmp_path / "two", replace(small, experts=folder))
    folder = copy_of(experts, tmp_path / "all", spoiled(*SKILLS))
    with pytest.raises(AllFailedError, match="All 3 individuals failed.*NaN or infinite"):
        bred(tmp_path / "three", replace(small, experts=folder))


def test_an_individual_that_fails_is_recorded_and_never_chosen(config, tmp_path, monkeypatch):
    whole = Fitness.__call__

    def sometimes(self, adapters):
        found = whole(self, adapters)
        if self.split == "test" or len(adapters) != 4:
            return found
        return [found[0], replace(found[1], value=math.nan, reason="it was too hot"), *found[2:]]

    monkeypatch.setattr(Fitness, "__call__", sometimes)
    run = bred(tmp_path / "run", replace(config, n_seeds=1, methods=("genome",)))
    history = read_dataset(run.file("evolve", "genome", "seed-0", "history.zarr.zip"))
    failed = history.failed.values
    assert failed.any() and set(history.reason.values[failed]) == {"it was too hot"}
    bad = set(history.digest.values[failed]) - set(history.digest.values[~failed])
    assert bad and not bad & set(" ".join(history.parents.values[1:].ravel()).split())  # pairs of founders came before
    summary = read_json(run.file("summary.json"))
    assert summary["methods"]["genome"]["failed"] == failed.sum() > 0
    assert np.isfinite(summary["methods"]["genome"]["test"]["mean"])
    counted = f"{failed.sum()} of genome"
    assert counted in summary["statement"] and f", {failed.sum()} failed" in population_text(summary)


@pytest.mark.parametrize("error", [MemoryError("can't allocate memory"), OSError(5, "Input/output error")], ids=str)
def test_a_passing_failure_of_the_machine_changes_no_result(brief, tmp_path, monkeypatch, error):
    "The run stops by name and is resumed to what it would have been; no individual got a score of it."
    done, config = brief
    whole, calls = Engine.loglikelihoods, []

    def sometimes(self, adapters, choices):
        calls.append(len(adapters))
        if len(calls) > 4 and len(calls) % 3 == 0:
            raise error
        return whole(self, adapters, choices)

    stops = 0
    for _ in range(60):
        try:
            with monkeypatch.context() as patch:
                patch.setattr(Engine, "loglikelihoods", sometimes)
                bred(tmp_path / "run", config, resume=True)
            break
        except MachineError as e:
            stops += 1
            assert "no individual's" in str(e) and open_run(tmp_path / "run").state()["status"] == "failed"
    assert stops and open_run(tmp_path / "run").state()["status"] == "complete"
    assert_same_run(done, open_run(tmp_path / "run"))


def test_a_folder_of_adapters(experts, base, config, tmp_path):
    folder = copy_of(experts, tmp_path / "adapters")
    small = replace(config, experts=folder, n_seeds=1, methods=("genome",), budget=6, held_out=())
    with pytest.raises(InputError, match="doesn't say which base.*--base"):
        bred(tmp_path / "run", small)
    assert bred(tmp_path / "run", replace(small, base=base.name)).state()["status"] == "complete"
    assert default_tasks(folder) == ()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no adapters"):
        bred(tmp_path / "other", replace(small, experts=str(tmp_path / "empty"), base=base.name))


def test_adapters_of_another_base(experts, config, tmp_path):
    other = toy_base(tmp_path / "bases", TOY, Seeds(1), device="cpu", show=False)
    with pytest.raises(InputError, match="was trained on .* not on"):
        bred(tmp_path / "run", replace(config, base=other.name))

    def elsewhere(name, a):
        renamed = [{m.replace("h.1.", "h.9."): t for m, t in x.items()} for x in (a.A, a.B, a.scale)]
        return replace(a, A=renamed[0], B=renamed[1], scale=renamed[2], config=a.config | dict(revision=None))

    folder = copy_of(experts, tmp_path / "adapters", elsewhere)
    with pytest.raises(InputError, match="The expert agreement doesn't fit .*lacks the adapter's modules .*h.9"):
        bred(tmp_path / "run", replace(config, experts=folder, base=other.name))


def test_a_run_of_another_kind_and_an_unfinished_one(done, config, tmp_path):
    with pytest.raises(InputError, match="kind 'population', but experts are in one of kind 'experts'"):
        bred(tmp_path / "run", replace(config, experts=str(done.path)))
    with pytest.raises(InputError, match="kind 'population'"):
        default_tasks(done.path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        default_tasks(tmp_path / "nowhere")
    with create_run(tmp_path / "begun", dict(experts=dict(a="skill:tense"), base=dict(source="toy")), "experts"):
        pass
    with pytest.raises(InputError, match="has not trained a yet"):
        bred(tmp_path / "run", replace(config, experts=str(tmp_path / "begun")))


# tasks by name


@pytest.mark.parametrize("sources, expected", [
    (SKILLS, ("skill:agreement,count_up,tense",)),
    (dict(a="skill:echo-tense", b="skill:echo"), ("skill:echo",)),
    (dict(a="blimp:wh_island,irregular_past", b="blimp:wh_island"), ("blimp:wh_island,irregular_past",)),
    (dict(a="skill:echo", b="blimp:wh_island"), ()),
    (dict(a="corpus.txt"), ()),
    (dict(a=dict(n=3, sha256="0")), ()),
])  # fmt: skip
def test_default_tasks_are_what_the_experts_learned(sources, expected, tmp_path):
    with create_run(tmp_path / "run", dict(experts=sources, base=dict(source="toy")), "experts"):
        pass
    assert default_tasks(tmp_path / "run") == expected


def hellaswag(folder):
    row = dict(ctx_a="A man is sitting on a roof.", ctx_b="he", activity_label="Roof", source_id="activitynet~v_1")
    for name, n in (("train", 30), ("val", 20)):
        rows = [row | dict(ind=i, label=i % 4, ctx=f"{name} {i}. A man is sitting on a roof. he",
                           ctx_a=f"{name} {i}. A man is sitting on a roof.",
                           endings=["is using wrap.", "is ripping tiles off.", "is holding a cube.", "starts roofing."])
                for i in range(n)]  # fmt: skip
        (folder / f"hellaswag_{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def mmlu(folder):
    for split in ("dev", "val", "test"):
        (folder / split).mkdir()
        lines = [f'"{split} {i}, what is {i} plus 1?",{i},{i + 1},{i + 2},{i + 3},B' for i in range(12)]
        (folder / split / f"abstract_algebra_{split}.csv").write_text("\n".join(lines))


def lines(folder, kind):
    one = dict(
        choice=lambda i: dict(prompt=f"number {i} is", options=["odd", "even"], answer=1 - i % 2),
        pairs=lambda i: dict(sentence_good=f"the {i} cats sleep .", sentence_bad=f"the {i} cats sleeps ."),
        exact=lambda i: dict(prompt=f"say {i}:", answer=str(i)),
        numeric=lambda i: dict(prompt=f"{i} + 1 =", answer=str(i + 1)),
        perplexity=lambda i: dict(text=f"text number {i} is here ."),
    )[kind]
    (folder / f"{kind}.jsonl").write_text("\n".join(json.dumps(one(i)) for i in range(30)))
    return f"{kind}:{folder / f'{kind}.jsonl'}"


def test_every_form_of_task_opens(tmp_path):
    hellaswag(tmp_path)
    mmlu(tmp_path)
    opened = {"skill:echo,tense": "choice", f"hellaswag:{tmp_path}": "choice", f"mmlu:{tmp_path}": "choice"}
    opened |= {lines(tmp_path, k): k for k in ("choice", "pairs", "exact", "numeric", "perplexity")}
    published = {"gsm8k", "bbh", "mmlu-pro", "drop", "csqa", "mbpp", "flores", "meld", "emorynlp"}  # tests of their own
    tried = {f.partition(":")[0] for f in TASKS.spelled()} - {"blimp", "lm-eval"} - published
    assert {s.partition(":")[0] for s in opened} == tried
    for spec, kind in opened.items():
        task = open_task(spec, Seeds(0), n_validation=8, n_test=10)
        assert (task.name, task.kind, task.n("validation"), task.n("test")) == (spec, kind, 8, 10)
        assert task.digest() == open_task(spec, Seeds(0), n_validation=8, n_test=10).digest()
        assert task.digest() != open_task(spec, Seeds(1), n_validation=8, n_test=10).digest()
    assert open_task(f"hellaswag:{tmp_path}", Seeds(0), 8, None).n("test") == 20  # all of the published split
    assert open_task(f"mmlu:{tmp_path}", Seeds(0), 8, None).items()[0].options == ("A", "B", "C", "D")


def test_blimp_by_name_asks_what_experts_do_not_read(data_folder, monkeypatch):
    from evonb.populations.experts import expert_texts

    monkeypatch.setenv("EVONB_DATA", str(data_folder))
    task = open_task("blimp:wh_island,irregular_past_participle_adjectives", Seeds(0), 40, 60)
    assert task.kind == "pairs" and (task.n("validation"), task.n("test")) == (40, 60) and len(task.groups()) == 2
    read = set(expert_texts("blimp:wh_island", 5000))
    assert read and not read & {o for items in task._splits.values() for i in items for o in i.options}
    with pytest.raises(InputError, match="wh_continent"):
        open_task("blimp:wh_continent", Seeds(0), 4, 4)


def test_lm_eval_is_asked_for_by_its_extra():
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match=r"evonb\[lm-eval\]"):
            open_task("lm-eval:arc_easy", Seeds(0))
    else:
        with pytest.raises(InputError, match="no task 'no_such_task'"):
            open_task("lm-eval:no_such_task", Seeds(0))


def test_other_kinds_of_task_in_a_run(config, tmp_path):
    "Texts and generated answers: there are no ensembles, and a text counts by its bytes."
    specs = lines(tmp_path, "perplexity"), lines(tmp_path, "exact")
    sizes = dict(n_validation=8, n_test=10, n_seeds=1, budget=4)
    run = bred(tmp_path / "run", replace(config, tasks=specs, held_out=(), methods=("genome",), **sizes))
    data, summary = read_dataset(run.file("population.zarr.zip")), read_json(run.file("summary.json"))
    assert "ensemble_test" not in data and summary["methods"]["genome"]["ensemble"] is None
    assert summary["tasks"][0]["chance"] is None and summary["tasks"][1]["chance"] == 0
    for method, one in summary["methods"].items():
        found = data.sel(dict(method=method, seed=0))
        for t in specs:
            told = one["by_task"][t]
            assert told["mean"] == pytest.approx(float(found.task_test.sel(task=t)))
            assert told["se"] == pytest.approx(float(found.task_test_se.sel(task=t)))
        assert one["test"]["mean"] == pytest.approx(float(found.test))


# statistics


def test_texts_count_by_their_bytes():
    items = [Item("", (t,), 0) for t in ("a", "some longer text", "a text of middle size")]
    task = Task("texts", "perplexity", dict(validation=items))
    sums = [(np.array([x]), np.array([3])) for x in (-9.0, -20.0, -31.0)]
    score = task.grade("validation", sums)
    evaluation = type("E", (), dict(reason="", scores=dict(texts=score)))
    task.items, splits = (lambda split: items), task.items
    credit = item_credit(evaluation, task)
    task.items = splits
    assert credit.mean() == pytest.approx(score.mean) and credit.mean() != pytest.approx(score.credit.mean())
    assert credit.std(ddof=1) / math.sqrt(3) == pytest.approx(score.se)


def test_the_statement_names_the_best_by_validation_and_says_when_there_is_no_gain():
    def one(value, test, versus):
        return dict(validation=dict(mean=value), test=dict(mean=test, low=test - 0.1, high=test + 0.1), versus=versus)

    def versus(mean, p):
        told = dict(mean=mean, low=mean - 0.05, high=mean + 0.05, p=p / 3, p_adjusted=p, family=3, one=None)
        return dict(sum=told | dict(units=dict(search=5, question=60)))

    judged = dict(sum=one(0.9, 0.9, {}), a=one(0.7, 0.6, versus(0.0, 0.5)), b=one(0.6, 0.8, versus(0.1, 0.03)))
    said = breeding_statement(judged, ("a", "b"))
    assert said.startswith("On the sealed test a is not clearly different from sum (5 searches, 60 questions). ")
    assert "It is, by validation, the best of a, b, and scores 0.600" in said and "to sum (0.900) +0.000" in said
    said = breeding_statement(judged, ("b",))
    assert said.startswith("On the sealed test b scores higher than sum (5 searches, 60 questions).")
    assert "+0.100 [+0.050, +0.150], p = 0.03; corrected for 3 comparisons" in said
    judged["b"]["versus"] = versus(-0.1, 0.03)
    assert "b scores lower than sum" in breeding_statement(judged, ("b",))
    judged["b"]["versus"] = versus(0.1, 0.12)  # alone it would be clear, of three it isn't
    assert "b is not clearly different from sum" in breeding_statement(judged, ("b",))
    judged["b"]["versus"]["sum"] |= dict(p=None, p_adjusted=None, low=None, high=None, one="search")
    assert "whether b differs from sum can't be told from one search" in breeding_statement(judged, ("b",))
    judged["b"]["versus"] |= {"best-expert": versus(0.2, 0.01)["sum"], "random-search": versus(-0.2, 0.01)["sum"]}
    judged |= {r: one(0.5, 0.5, {}) for r in ("best-expert", "random-search")}
    said = breeding_statement(judged, ("b",))
    assert "b scores higher than best-expert and lower than random-search; whether b differs from sum" in said


def test_settings_go_through_json(config):
    from evonb.core import from_dict

    assert from_dict(BreedConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert replace(config, methods=("sum", "genome", "genome")).all_methods() == (*BASELINES, "genome")


def test_the_base_is_opened_from_the_run_of_experts(experts, base):
    assert open_base(breeding.expert_base(experts), "cpu").digest == base.digest


def test_the_rule_for_what_stands_before_texts_is_told_and_kept_by_every_backend(done, base, config, tmp_path):
    told = "stands before texts without context, nothing before a context (auto)"
    assert told in read_json(done.file("summary.json"))["begin"]
    assert told in read_dataset(done.file("population.zarr.zip")).attrs["begin"]
    usual = InProcess(Engine(base.model, base.tokenizer))
    says = "nothing stands before a text.*InProcess scores by another rule.*begin='none'"
    with pytest.raises(InputError, match=says):
        bred(tmp_path / "run", replace(config, begin="none"), open_backend=lambda name, device: usual)


def test_drift_and_forgetting_are_differences_to_the_base(done):
    data, table = read_dataset(done.file("population.zarr.zip")), breeding.drift_table(done).set_index("method")
    change = (data.task_test - data.base_test).mean("seed")
    for m in data.method.values:
        assert np.isclose(table.held_out[m], change.sel(dict(method=m, task="skill:echo")))
        assert np.isclose(table.forgotten[m], max(0.0, -float(change.sel(dict(method=m, task="skill:echo")))))
        assert np.isclose(table.gained[m], change.sel(dict(method=m)).where(data.selected).mean())
    assert np.isclose(table.drift["uniform"], table.drift["sum"] / 3)  # three experts
    assert table.from_start.isna().all()  # none of these begins at one place


def test_odd_populations_of_methods_in_pairs_are_refused_before_anything_runs(config):
    with pytest.raises(InputError, match="population_size is 5, but individuals of 'es' come in pairs"):
        replace(config, methods=("es",), n_individuals=5).check()
    assert breeding.method_settings(breeding.METHODS["mezo"], config) == {}
    with pytest.raises(InputError, match="'sign-es' can't search a space of 'delta', whose genomes have no signs"):
        replace(config, methods=("sign-es",), space="delta").check()


def test_fronts_and_archives_have_the_aims_of_the_run(config, tmp_path):
    aims = AimsConfig((config.tasks[0], "departure"), ("departure",), ("length", "balance"), (3,))
    small = replace(config, n_seeds=1, methods=("pareto", "map-elites"), budget=8, held_out=(), aims=aims)
    run = bred(tmp_path / "run", small)
    front, cells = (read_dataset(run.file("evolve", m, "seed-0", "history.zarr.zip")) for m in small.methods)
    assert json.loads(front.attrs["objectives"]) == [config.tasks[0], "departure"]
    assert json.loads(front.attrs["lower"]) == ["departure"] and front.front.any()
    assert [a.name for a in division_of(cells).axes] == ["length", "balance"] and division_of(cells).n_cells == 9
    assert {"departure", "length", "balance"} <= set(front.trait.values)
    page = report_html(run)
    assert "<h2>The front</h2>" in page and "<h2>The archive</h2>" in page
    for changes, said in ((dict(budget=3), "budget is 3, but a generation of 'pareto' has 4"),
                          (dict(aims=AimsConfig(("departure", "skill:echo"))), "'skill:echo', which this run can't"),
                          (dict(aims=aims, space="delta", methods=("pareto-bred", "map-elites")), "'balance', which"),
                          (dict(methods=("genome",)), "none of the methods reads them")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            replace(small, **changes).check()

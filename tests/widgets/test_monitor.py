"""Announcements, and the live monitor: what it hears, how it stops, resumes and fails, and what it draws."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest

from evonb.alignment.run import AlignConfig, align_run
from evonb.alignment.sources.toy_brain import toy_brain
from evonb.connectomes.experiments import develop_run, experiment
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.core import (
    InputError,
    NonFiniteLossError,
    RunBusyError,
    Seeds,
    Stopped,
    announce,
    listened,
    listening,
    to_dict,
)
from evonb.evolution.method import METHODS, Outcome
from evonb.evolution.operators import ArraySpace
from evonb.evolution.search import evolve
from evonb.populations.breeding import BreedConfig, breed
from evonb.populations.experts import ExpertConfig, ExpertsConfig, ToyConfig, toy_base, train_experts
from evonb.store import create_run, open_run, read_dataset
from evonb.text.tokens import CorpusConfig
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig
from evonb.widgets import monitor as monitoring
from evonb.widgets.monitor import Life, Live, Monitor, Picture, life_label, loss_figure, share_done, thinned, watch

LIFE = LifetimeConfig(
    steps=24, batch_size=8, context=16, lr=4e-3, warmup=4, eval_every=8, eval_windows=24, checkpoint_every=6
)
TINY = ExperimentConfig(
    preset="tiny", corpus=CorpusConfig("toy-english", n_bytes=120_000, vocab_size=320), model=ModelConfig(1, 2, 16),
    evolution=EvolutionConfig(n_generations=2, prune_fraction=0.3, lifetime=LIFE),
    development=DevelopmentConfig(("connectome", "random"), 2, (4e-3,), n_bootstrap=50, lifetime=LIFE),
)  # fmt: skip
SCRIPT = """
import json, sys, torch
torch.set_num_threads(1)
from evonb.core import from_dict
from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import ExperimentConfig
from evonb.widgets.monitor import Monitor
config = from_dict(ExperimentConfig, json.loads(sys.argv[2]))
"""
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "An uninterrupted run that nobody listened to."
    return experiment(tmp_path_factory.mktemp("whole") / "run", TINY, show=False)


def same(a, b):
    "Whether two runs came out the same to the bit."
    names = dict(evolution=("train_loss", "val_loss", "density"),
                 development=("train_loss", "val_loss", "test_window_loss", "chosen_lr"))  # fmt: skip
    for part, which in names.items():
        x, y = (read_dataset(r.file(f"{part}.zarr.zip")) for r in (a, b))
        assert all(np.array_equal(x[k], y[k]) for k in which)
    return True


def stopping(when):
    "A monitor that stops itself at an announcement, so that no test depends on time."

    class Stopping(Monitor):
        def _hear(self, kind, values):
            Monitor._hear(self, kind, values)
            if not self.request and when(kind, values):
                self.stop("a test")

    return Stopping


def at_step(label, step):
    return lambda kind, v: kind == "step" and v["label"] == label and v["step"] == step


# --- announcements --------------------------------------------------------------------------------------------------


def test_only_the_innermost_listener_of_the_same_thread_hears():
    outer, inner, other = [], [], []

    def elsewhere():
        announce("nobody")
        with listening(lambda kind, values: other.append(kind)):
            announce("there")

    with listening(lambda kind, values: outer.append(kind)):
        with listening(lambda kind, values: inner.append((kind, values))):
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            announce("here", step=1)
        announce("again")
        assert listened()
    announce("nobody")
    assert (outer, inner, other) == (["again"], [("here", dict(step=1))], ["there"]) and not listened()


def test_a_listener_that_fails_costs_the_run_nothing(tmp_path, whole):
    def broken(kind, values):
        raise KeyError("no curve")

    evolution = replace(TINY, development=replace(TINY.development, arms=("connectome",), n_seeds=1, lrs=(4e-3,)))
    with listening(broken), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = experiment(tmp_path / "run", evolution, stages=("evolve",), show=False)
    assert [str(w.message) for w in said if "listened" in str(w.message)] == [
        "Whoever listened to this work failed (KeyError: 'no curve') and is told no more; the work goes on."
    ]
    assert open_run(run.path).state()["status"] == "complete"


def test_a_run_announces_what_it_does_in_order_and_listening_changes_no_bit(tmp_path, whole):
    heard = []

    def hear(kind, v):
        about = {"step": lambda: (v["label"], v["step"]), "generation": lambda: (v["status"], v["generation"]),
                 "newborn": lambda: (v["status"], v["arm"], v["seed"], v["lr"])}  # fmt: skip
        if kind in about:
            heard.append((kind, *about[kind]()))

    with listening(hear):
        run = experiment(tmp_path / "run", TINY, show=False)
    assert same(run, whole)
    generations = []
    for g in range(2):
        generations += [("generation", "begun", g)]
        generations += [("step", f"generation {g}", i) for i in range(25)]
        generations += [("generation", "pruned", g)]
    assert heard[: len(generations)] == generations
    born = [e for e in heard if e[0] == "newborn"]
    assert [e[1] for e in born] == ["begun", "finished"] * 4 and len({e[2:] for e in born}) == 4
    steps = [e for e in heard[len(generations) :] if e[0] == "step"]
    assert [e[2] for e in steps] == [*range(25)] * 4


# --- the monitor ----------------------------------------------------------------------------------------------------


def test_a_background_run_gives_the_same_bits_and_draws_no_bars(tmp_path, whole, capfd):
    seen = Monitor(experiment, tmp_path / "run", TINY)
    run = seen.wait()
    assert same(run, whole) and seen.result is run and seen.status == "complete" and seen.error is None
    content = seen.reply("progress", {}).content
    assert content["share"] == 1 and content["words"] == "Complete" and content["disabled"] == ["stop", "resume"]
    assert len(seen.picture.lives) == 2 + 2 * 2 and all(x.ended == "over" for x in seen.picture.lives.values())
    assert share_done(seen.picture) == 1
    evolution = read_dataset(run.file("evolution.zarr.zip"))
    for g in range(2):
        life = seen.picture.lives[f"evolution/gen-0{g}"]
        assert life.train_loss == evolution.train_loss[g].values.tolist()
        assert life.val_loss == evolution.val_loss[g].values.tolist() and life.val_step == [0, 8, 16, 24]
        assert seen.picture.density[g] == float(evolution.density[g])
    for wrong in (seen.stop, seen.resume):
        with pytest.raises(InputError, match="The job is complete, so there is nothing to"):
            wrong()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("where", [at_step("generation 1", 13), at_step("random seed 1 lr 0.004", 3)])
def test_a_stopped_run_goes_on_to_the_same_end(tmp_path, whole, where):
    seen = stopping(where)(experiment, tmp_path / "run", TINY)
    with pytest.raises(Stopped, match="Stopped by a test after step"):
        seen.wait()
    content = seen.reply("progress", {}).content
    assert seen.status == "stopped" == open_run(tmp_path / "run").state()["status"]
    assert content["disabled"] == ["stop"] and "resume to go on" in content["message"] and 0 < content["share"] < 1
    seen.on_press("stop")
    assert seen.content()["said"] == "The job is stopped, so there is nothing to stop."
    again = Monitor(experiment, tmp_path / "run", TINY, resume=True)
    assert same(again.wait(), whole) and share_done(again.picture) == 1
    assert {k: x.val_loss for k, x in again.picture.lives.items()} == {
        k: x.val_loss for k, x in watch(whole).picture.lives.items()}  # fmt: skip


def test_resuming_the_same_monitor_goes_on(tmp_path, whole):
    class Once(Monitor):
        stops = 1

        def _hear(self, kind, values):
            Monitor._hear(self, kind, values)
            if self.stops and at_step("generation 0", 5)(kind, values):
                self.stops = 0
                self.stop("a test")

    seen = Once(experiment, tmp_path / "run", TINY)
    with pytest.raises(Stopped):
        seen.wait()
    seen.on_press("resume")
    assert same(seen.wait(), whole) and seen.status == "complete" and seen.error is None


def test_errors_are_shown_and_raised(tmp_path):
    def job(path, stop=None):
        raise NonFiniteLossError("The training loss is nan. <i>Lower</i> the learning rate.")

    seen = Monitor(job, tmp_path / "run")
    for _ in range(2):
        with pytest.raises(NonFiniteLossError, match="Lower"):
            seen.wait()
    content = seen.reply("progress", {}).content
    assert content["status"] == "failed" and content["message"] == str(seen.error) and content["disabled"] == ["stop"]
    with pytest.raises(InputError, match="n_generations"):
        Monitor(experiment, tmp_path / "other", replace(TINY, evolution=EvolutionConfig(n_generations=0))).wait()

    def broken(stop):
        return {}["curve"]

    other = Monitor(broken)
    with pytest.raises(KeyError):
        other.wait()
    assert other.message == "KeyError: 'curve'"


def test_what_cannot_be_started_is_refused(tmp_path):
    with pytest.raises(InputError, match="sorted takes no argument `stop`.*Give one of experiment, "):
        Monitor(sorted, [1])
    with pytest.raises(InputError, match="experiment can't be called so: got an unexpected keyword argument 'sed'"):
        Monitor(experiment, tmp_path / "run", TINY, sed=1)
    with pytest.raises(InputError, match="stop is the monitor's own"):
        Monitor(experiment, tmp_path / "run", TINY, stop=object())


def test_a_folder_at_work_is_busy(tmp_path):
    with create_run(tmp_path / "run", to_dict(TINY), "connectome"):
        seen = Monitor(develop_run, tmp_path / "run")
        with pytest.raises(RunBusyError, match="is being written by another process"):
            seen.wait()
        assert seen.status == "failed" and "is being written" in seen.content()["message"]


def waits(stop):
    "A job that does nothing until it is stopped."
    while not stop:
        time.sleep(0.01)
    raise Stopped(f"stopped by {stop.reason}")


def test_waiting_ends_in_time_and_an_interrupt_stops_the_job():
    seen = Monitor(waits)
    assert seen.status == "running" and seen.content()["disabled"] == ["resume"] and "running" in repr(seen)
    with pytest.raises(TimeoutError, match="still running after 0.01 s"):
        seen.wait(0.01)
    with pytest.raises(InputError, match="at work"):
        seen.resume()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell hands on SIGINT ignored
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(Stopped, match="stopped by an interrupt"):
            seen.wait(60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Press Resume to go on" in seen.message


def test_the_end_of_python_leaves_a_resumable_run(tmp_path, whole):
    ends = (
        SCRIPT
        + """
import threading
begun = threading.Event()
class Begun(Monitor):
    def _hear(self, kind, values):
        Monitor._hear(self, kind, values)
        if kind == "step" and values["step"] == 3: begun.set()
seen = Begun(experiment, sys.argv[1], config)
begun.wait()
"""
    )
    config = json.dumps(whole.config)
    subprocess.run([sys.executable, "-c", ends, str(tmp_path / "run"), config], check=True)
    state = open_run(tmp_path / "run").state()
    assert state["status"] == "stopped" and "the end of Python" in state["message"]
    assert same(Monitor(experiment, tmp_path / "run", TINY, resume=True).wait(), whole)


@pytest.mark.parametrize("after", ["", "import os, signal; os.kill(os.getpid(), signal.SIGINT)"])
def test_a_job_that_does_not_stop_ends_with_python_as_by_a_kill(tmp_path, after):
    "It computes in PyTorch's own threads, which would abort an interpreter that is taken down (SIGABRT)."
    script = f"""
import sys, threading, torch
from evonb.core import announce
from evonb.store import create_run
from evonb.widgets import monitor
monitor.PATIENCE = 0.5
begun = threading.Event()
def long_step(path, resume=False, stop=None):
    with create_run(path, dict(seed=0), "other", resume):
        x = torch.rand(600, 600)
        while True:
            x = torch.linalg.qr(x @ x.T)[0] + 1
            begun.set()
seen, looks = monitor.Monitor(long_step, sys.argv[1]), None
begun.wait()
looks = monitor.watch(sys.argv[1])
{after}
"""
    found = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True,
                           timeout=120)  # fmt: skip
    assert found.returncode == 1 and "hasn't stopped within 0.5 s" in found.stderr, found.stderr
    assert "Abort" not in found.stderr and "terminate called" not in found.stderr
    with create_run(tmp_path / "run", dict(seed=0), "other", resume=True) as run:  # nobody holds it any more
        assert run.state()["status"] == "running"


# --- populations, experts, alignments -------------------------------------------------------------------------------


def points(genomes):
    "Values of vectors that are best at a half; those with a large first entry fail."
    found = [-float(np.square(g - 0.5).sum()) for g in genomes]
    return [Outcome(float("nan"), reason="a test") if g.flat[0] > 0.9 else Outcome(v) for g, v in zip(genomes, found)]


def search(folder, stop=None, show=True):
    method = METHODS["genome"](ArraySpace([f"e{i}" for i in range(4)], 2), None, Seeds(1))
    return evolve(method, points, 60, folder, show=show, stop=stop, chunk=5)


def test_a_population_is_heard_stopped_and_resumed(tmp_path):
    alone = search(tmp_path / "alone" / "genome" / "seed-2", show=False)
    folder = tmp_path / "run" / "genome" / "seed-2"
    seen = stopping(lambda kind, v: kind == "search" and len(v["rows"]) + v["scored"] > 22)(search, folder)
    with pytest.raises(Stopped, match=r"after 2\d evaluations") as stopped:
        seen.wait()
    n = int(str(stopped.value).split(" evaluations")[0].split()[-1])
    assert seen.content()["share"] == n / 60 and ("evaluations", f"{n} of 60") in seen.content()["facts"]
    seen = Monitor(search, folder)
    result = seen.wait()
    assert result.history.identical(alone.history)
    (heard,) = seen.picture.searches.values()
    values, failed = alone.history.value.values, alone.history.failed.values
    assert heard.label == "genome, seed 2" and heard.share == 1 and 0 < failed.sum() < 60
    assert np.array_equal(heard.values, values[alone.history.number.values >= 0], equal_nan=True)
    drawn = {t["name"]: t for t in json.loads(seen.reply("search", dict(lives="all")).arrays[0])["data"]}
    best = drawn["genome, seed 2: best"]
    assert best["x"] == alone.history.evaluations.values.tolist()
    assert best["y"] == pytest.approx(alone.history.best.values, rel=1e-4)
    assert drawn["genome, seed 2: median"]["y"] == pytest.approx(alone.history["median"].values, rel=1e-4)
    assert len(drawn[f"genome, seed 2: failed ({failed.sum()})"]["x"]) == failed.sum()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    life = LifetimeConfig(steps=20, batch_size=8, context=32, warmup=5, eval_windows=8)
    config = ToyConfig(n_documents=300, vocab_size=400, model=ModelConfig(2, 2, 32), lifetime=life)
    seen = Monitor(toy_base, tmp_path_factory.mktemp("bases"), config, device="cpu")
    base = seen.wait()
    assert seen.picture.lives["toy base"].step == 20 and seen.content()["share"] == 1
    return base


def test_experts_and_their_population_are_heard_as_their_folders_tell(toy, tmp_path):
    quick = ExpertConfig(rank=2, steps=12, warmup=2, batch_size=6, lr=1e-2, held_out=8)
    config = ExpertsConfig(toy.name, dict(count="skill:count_up", tense="skill:tense"), "neutral", 60, 0, quick)
    seen = stopping(at_step("tense", 5))(train_experts, tmp_path / "experts", config, base=toy)
    with pytest.raises(Stopped):
        seen.wait()
    assert watch(tmp_path / "experts").picture.lives["working/tense"].step == 5
    assert seen.content()["share"] == pytest.approx((1 + 5 / 12) / 2)
    seen = Monitor(train_experts, tmp_path / "experts", config, resume=True, base=toy)
    run = seen.wait()
    told = watch(run).picture
    assert set(told.lives) == set(seen.picture.lives) == {"working/count", "working/tense"}
    for key, life in seen.picture.lives.items():
        assert (life.train_loss, life.val_loss, life.ended) == (
            told.lives[key].train_loss,
            told.lives[key].val_loss,
            "over",
        )
    config = BreedConfig(
        experts=str(run.path),
        tasks=("skill:count_up", "skill:tense"),
        methods=("genome",),
        budget=8,
        n_individuals=4,
        n_seeds=1,
        n_validation=10,
        n_test=10,
        ensemble_size=2,
        n_bootstrap=50,
    )
    seen = Monitor(breed, tmp_path / "population", config, device="cpu")
    told = watch(seen.wait()).picture
    assert set(told.searches) == set(seen.picture.searches) >= {"genome, seed 0", "random-search, seed 0"}
    assert all(told.searches[k].values == s.values for k, s in seen.picture.searches.items())
    assert share_done(told) == share_done(seen.picture) == 1


def test_an_alignment_is_heard_as_its_folder_tells(toy, tmp_path):
    data, _ = toy_brain(Seeds(3), n_subjects=2, n_rois=2, n_sentences=120)
    config = AlignConfig(toy.name, "toy-brain", untrained=1, n_permutations=20, n_bootstrap=50)
    given = dict(device="cpu", data=data, cache=tmp_path / "cache")
    seen = stopping(lambda kind, v: kind == "layer" and v["model"].startswith("untrained") and v["layer"] == 1)(
        align_run, tmp_path / "run", config, **given)  # fmt: skip
    with pytest.raises(Stopped, match="what was scored is kept"):
        seen.wait()
    assert seen.content()["share"] == pytest.approx((1 + 2 / 3) / 2) and seen.picture.stage.startswith(
        "model untrained/0"
    )
    seen = Monitor(align_run, tmp_path / "run", config, **given)
    brain = read_dataset(seen.wait().file("brain.zarr.zip"))
    told = watch(tmp_path / "run").picture
    assert told.models == seen.picture.models and share_done(told) == share_done(seen.picture) == 1
    assert told.layers == seen.picture.layers and [sorted(x) for x in told.layers.values()] == [[0, 1, 2]] * 2
    drawn = json.loads(seen.reply("layers", {}).arrays[0])["data"]
    assert [t["x"] for t in drawn] == [brain.layer.values.tolist()] * 2


# --- watching -------------------------------------------------------------------------------------------------------


def until(test):
    end = time.monotonic() + 120
    while not test():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_of_another_process_is_watched_and_stopped(tmp_path, whole):
    long = replace(TINY, evolution=replace(TINY.evolution, lifetime=replace(LIFE, steps=100_000)))
    work = SCRIPT + "experiment(sys.argv[1], config, show=False, device='cpu')"
    begun = subprocess.Popen([sys.executable, "-c", work, str(tmp_path / "run"), json.dumps(to_dict(long))],
                             stderr=subprocess.PIPE)  # fmt: skip
    try:
        until(lambda: list((tmp_path / "run").glob("evolution/gen-00/checkpoint-*")))
        seen = watch(tmp_path / "run")
        until(lambda: seen.picture.lives.get("evolution/gen-00", Life("")).step > 6)
        assert seen.status == "running" and seen.content()["disabled"] == [] and seen.picture.stage == "generation 0"
        life = seen.picture.lives["evolution/gen-00"]
        assert len(life.val_loss) == len(life.val_step) > 1 and life.steps == 100_000
        seen.on_press("stop")
        assert seen.content()["said"].startswith(f"Process {begun.pid} was asked to stop")
        assert b"Stopped by SIGTERM" in begun.communicate()[1]
        until(lambda: seen.status == "stopped")
        assert "Nobody is writing" in seen.stop()
    finally:
        begun.kill()


def test_watching_stops_only_what_it_may(tmp_path):
    with create_run(tmp_path / "run", {}, "connectome") as run:
        seen = watch(run)
        assert seen.stop() == "The run works in this very Python, in a cell: interrupt the kernel to stop it."
        state = json.loads((run.path / "state.json").read_text())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda: "elsewhere")
            run.set_state("running")
        assert state["host"] != "elsewhere" and seen.stop().startswith("The run works on elsewhere (pid ")
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        watch(tmp_path)


def test_watching_stops_the_monitor_of_the_same_kernel(tmp_path, whole):
    hold = threading.Event()

    class Held(Monitor):
        def _hear(self, kind, values):
            Monitor._hear(self, kind, values)
            if kind == "step" and values["step"] == 4:
                hold.wait(60)

    seen = Held(experiment, tmp_path / "run", TINY)
    until(lambda: seen.picture.lives)
    assert watch(tmp_path / "run").stop() == "Its monitor in this Python was asked to stop it."
    hold.set()
    with pytest.raises(Stopped, match="by the Stop button"):
        seen.wait()


def test_a_half_written_run_shows_what_is_there(tmp_path, whole):
    shutil.copytree(whole.path, tmp_path / "run")
    half = tmp_path / "run"
    (half / "state.json").unlink()
    shutil.rmtree(half / "evolution" / "gen-01")
    (half / "development" / "random" / "seed-0" / "lr-0.004" / "lived.safetensors").write_bytes(b"{")
    seen = watch(half)
    assert seen.status == "interrupted" and "evolution/gen-01" not in seen.picture.lives
    assert "development/random/seed-0/lr-0.004" not in seen.picture.lives and 0.5 < seen.content()["share"] < 1


# --- what is drawn --------------------------------------------------------------------------------------------------


def test_curves_are_thinned_to_means_that_keep_their_place():
    x, y = thinned(range(1, 12_346), np.arange(12_345) * 2.0)
    assert len(x) == len(y) <= 500 and np.allclose(np.array(y), 2 * (np.array(x) - 1), rtol=1e-3)
    assert thinned([], []) == ([], [])
    picture = Picture()
    picture.lives["a"] = Life("a", train_loss=[1.0] * 9000, val_step=[*range(3000)], val_loss=[2.0] * 3000)
    assert max(len(t["x"]) for t in loss_figure(picture)["data"]) <= 500


def test_only_what_changed_is_sent():
    live, sent = Live("x", "connectome", [], Picture()), []
    live.push = lambda view, reply: sent.append(view)
    live.draw()
    assert sent == ["progress", "loss", "generations", "newborns"]
    live.picture.density[0] = 0.5
    live.content = lambda: dict(status="running")
    live.draw()
    live.draw()
    assert sent[4:] == ["progress", "generations"]


def test_names_with_html_are_text():
    bad = "<img src=x onerror=alert(1)>"
    picture = Picture(now=bad)
    picture.lives[bad] = Life(bad, 1, 2, train_loss=[3.0], val_step=[0], val_loss=[3.0])
    rows = [dict(generation=0, value=1.0)]
    picture.hear("search", dict(method=bad, folder=None, rows=rows, scored=0, budget=2, ended=""))
    picture.layers[f"{bad}/0"] = {0: 0.1}
    for make in monitoring.FIGURES.values():
        assert "<img" not in json.dumps(make(picture))
    assert life_label(f"development/{bad}/seed-0/lr-0.1") == f"{bad} seed 0 lr 0.1"
    page = Live(bad, "other", [], picture).to_html()
    assert bad not in page


def test_an_empty_picture_says_what_is_missing():
    for make in monitoring.FIGURES.values():
        assert "yet" in make(Picture())["layout"]["annotations"][0]["text"]
    assert share_done(Picture()) is None and Live("x", "other", []).content()["facts"][0] == ("done", "not known")

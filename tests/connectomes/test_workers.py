"""Lifetimes side by side: the bits of one after another, killed and stopped processes, and how many there are."""

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from test_lineages import LIFE, models, tiny

from evonb.connectomes import workers
from evonb.connectomes.arms import ARMS
from evonb.connectomes.experiments import develop_run, experiment
from evonb.connectomes.generations import life_folder
from evonb.connectomes.settings import Experiment, preset
from evonb.connectomes.workers import LocalFleet, Order, n_workers, threads_of
from evonb.core import InputError, MachineError, Stopped, StopRequest, listening
from evonb.store import open_run, read_dataset, reopen_run
from evonb.training.lifetime import latest_checkpoint
from evonb.training.parallel import cores, lifetime_threads

pytestmark = pytest.mark.numerics
FIELDS = ("train_loss", "val_loss", "window_loss", "test_window_loss", "final_test_loss", "chosen_lr")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("alone") / "run", tiny(2), show=False, workers=1)


def same(a, b):
    mine, other = (read_dataset(r.file("development.zarr.zip")) for r in (a, b))
    evolutions = [read_dataset(r.file("evolution.zarr.zip")) for r in (a, b)]
    assert models(a.path) == models(b.path)
    assert all(np.array_equal(mine[k], other[k], equal_nan=True) for k in FIELDS)
    assert all(np.array_equal(*(e[k] for e in evolutions)) for k in ("train_loss", "val_loss", "density"))


def test_side_by_side_gives_the_bits_of_one_after_another_also_after_kills(alone, tmp_path, monkeypatch):
    "A process is killed in the midst of a lifetime, another while it is idle; each lifetime is done, none twice."
    killed, started, starts = [], [], LocalFleet.start
    monkeypatch.setattr(LocalFleet, "start", lambda s, p: started.append(w := starts(s, p)) or w)

    def kill_once(kind, values):
        path = str(values.get("folder", ""))
        if kind == "step" and "development" in path and values["step"] >= 3 and not killed:
            killed.append(path)
            for worker in started:
                os.kill(worker.process.pid, signal.SIGKILL)

    with listening(kill_once):
        beside = experiment(tmp_path / "run", tiny(2), show=False, workers=2)
    events = beside.events()
    with reopen_run(beside.path):  # a file that a killed process was writing is swept away
        pass
    same(alone, beside)
    assert killed and len(started) > 2 and any(e["event"] == "worker lost" for e in events)
    lived = {e["folder"] for e in events if e["event"] == "lifetime"}  # what a killed one had yet to say is lost
    assert {e["threads"] for e in events if e["event"] == "lifetime"} == {1}
    tested = [(e.get("lineage", 0), e["arm"], e["seed"]) for e in events if e["event"] == "test split opened"]
    assert len(tested) == len(set(tested)) == 2 * 3 * 2 and len(lived) >= 2 * 2 + 3 * 3 + 3 * 2 - 2  # two were killed


def test_a_stop_lets_all_store_their_state_and_the_run_goes_on_by_any_number(alone, tmp_path):
    stop = StopRequest()
    life = replace(LIFE, checkpoint_every=100)
    assert life.checkpoint_every > life.steps  # what is found was written because of the stop

    def at_work(kind, values):
        if kind == "step" and values["label"].startswith("evolution 1") and values["step"]:
            stop.set("a test")

    config = tiny(2)
    with listening(at_work), pytest.raises(Stopped, match="Stopped by a test"):
        experiment(tmp_path / "run", config, show=False, workers=2, stop=stop)
    run = open_run(tmp_path / "run")
    assert run.state()["status"] == "stopped"
    same(alone, experiment(run.path, config, resume=True, show=False, workers=1))


def test_sigterm_to_the_program_reaches_its_processes(tmp_path):
    def at_work(kind, values):
        if kind == "step" and values["step"]:
            os.kill(os.getpid(), signal.SIGTERM)

    with listening(at_work), pytest.raises(Stopped, match="SIGTERM"):
        experiment(tmp_path / "run", tiny(2), show=False, workers=2)
    assert not [t for t in threading.enumerate() if t.name.startswith("evonb")]
    assert open_run(tmp_path / "run").state()["status"] == "stopped"


def test_more_newborns_side_by_side_and_an_arm_that_only_this_program_knows(alone, tmp_path):
    import shutil

    from evonb.connectomes.controls import random_control

    shutil.copytree(alone.path, tmp_path / "run")
    if "mine" not in ARMS:
        ARMS.add("mine", random_control, "registered here only")
    try:
        run = develop_run(tmp_path / "run", dict(arms=("connectome", "random", "dense", "mine"), n_seeds=3), show=False,
                          workers=2)  # fmt: skip
        ds = read_dataset(run.file("development.zarr.zip"))
        assert ds.sizes["seed"] == 3 and np.isfinite(ds.final_test_loss).all() and "mine" in ds.arm.values
        before = read_dataset(alone.file("development.zarr.zip"))
        assert np.array_equal(ds.final_test_loss.sel(arm=before.arm, seed=[0, 1]), before.final_test_loss)
    finally:
        ARMS.known.pop("mine")


def test_a_lifetime_whose_process_dies_again_and_again_ends_the_work_by_name(alone):
    exp = Experiment(alone, None, tiny(2), show=False)
    with LocalFleet(1, max_tries=3) as fleet:
        work = workers._Work(fleet, exp, [order := Order(1, ("random", 0, 2e-3))])
        work.todo.clear()
        for n in (1, 2):
            work.lost(order, "its process died")
            assert work.todo.popleft() is order and order.tries == n and work.error is None
        folder = life_folder(alone, "random", 0, 2e-3, 1)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint-00000003.safetensors").touch()  # it got further: counted anew
        work.lost(order, "its process died")
        assert work.todo.popleft() is order and order.tries == 1
        latest_checkpoint(folder).unlink()
        for _ in range(2):
            work.lost(order, "its process died")
        assert isinstance(work.error, MachineError) and "random seed 0 lr 0.002 died 3 times" in str(work.error)


def test_how_many_processes_and_threads(alone, monkeypatch):
    exp = Experiment(alone, alone and _Corpus(512), preset("demo"), show=False)
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setattr(workers, "free_memory", lambda: 64e9)
    assert n_workers(exp) == 8 and n_workers(exp, 3) == 3
    assert n_workers(Experiment(alone, _Corpus(300), tiny(2))) == 1  # not worth a start
    assert n_workers(replace(exp, device="cuda")) == 1 and n_workers(replace(exp, fleet=object())) == 1
    monkeypatch.setattr(workers, "free_memory", lambda: 2.2e9)
    assert 1 <= n_workers(exp) <= 3  # as many as fit
    for wrong in (0, -1, 1.5, "many", True, None):
        with pytest.raises(InputError, match="must be auto or a number"):
            n_workers(exp, wrong)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads_of(exp) == threads_of(exp, 8) == 1  # small: the same bits in any case
    assert threads_of(replace(exp, device="cuda")) is None
    assert lifetime_threads(1e12) == cores() and lifetime_threads(1e12, 10**6) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of(exp) is None  # the user's


class _Corpus:
    def __init__(self, n):
        self.info = dict(vocab_size=n)


def test_a_process_that_lost_its_parent_ends(tmp_path, alone):
    fleet = LocalFleet(1)
    worker = fleet.start(alone.path)
    assert worker.conn.recv()[0] == "ready"
    worker.conn.close()
    until = time.monotonic() + 60
    while worker.process.is_alive() and time.monotonic() < until:
        time.sleep(0.05)
    assert not worker.process.is_alive()

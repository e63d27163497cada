"""Tracks: what trackers hold is what our store holds, once each, however often the run was killed."""

import csv
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.core import InputError, Remark, to_dict
from evonb.store import create_run, files_below, open_run, write_json
from evonb.text.tokens import CorpusConfig
from evonb.training.gpt import ModelConfig
from evonb.training.lifetime import LifetimeConfig
from evonb.travel import tracks as tracking_module
from evonb.travel.trackers import CsvTracker, MlflowTracker, plain_name
from evonb.travel.tracks import TRACKERS, Track, Tracker, fill_track, stored_series, track_of, tracking
from evonb.widgets.monitor import Picture, read_stored

RUNS = Path(__file__).parent.parent / "runs"
LIFE = LifetimeConfig(
    steps=120, batch_size=4, context=16, lr=4e-3, warmup=4, eval_every=5, eval_windows=8, checkpoint_every=4
)
TINY = ExperimentConfig(
    preset="tiny", corpus=CorpusConfig("toy-english", n_bytes=120_000, vocab_size=320), model=ModelConfig(1, 2, 16),
    evolution=EvolutionConfig(n_generations=3, prune_fraction=0.3, lifetime=LIFE),
    development=DevelopmentConfig(("connectome", "random"), 2, (4e-3,), n_bootstrap=20, lifetime=LIFE),
)  # fmt: skip
WORK = """
import json, sys, torch
torch.set_num_threads(1)
from evonb.core import from_dict
from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import ExperimentConfig
from evonb.travel.tracks import tracking
config = from_dict(ExperimentConfig, json.loads(sys.argv[2]))
with tracking(*sys.argv[3:], every=.02): experiment(sys.argv[1], config, resume=True, show=False, workers=1)
"""


def here(name):
    needs = TRACKERS.entry(name).about.get("needs")
    return needs is None or importlib.util.find_spec(needs) is not None


def read_csv(place):
    found = {}
    for series, step, value in list(csv.reader(open(place / "metrics.csv")))[1:]:
        found.setdefault(series, []).append((int(step), float(value)))
    return found


def read_tensorboard(place):
    "By TensorBoard's own reader, as its server uses it."
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(place), size_guidance=dict(scalars=0)).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def read_mlflow(place):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("evonb").experiment_id])
    return {k: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, k)] for k in run.data.metrics}


def read_trackio(place):
    "From its database, without its own functions."
    import sqlite3

    from trackio.utils import TRACKIO_DIR

    found, name = {}, f"{place.parent.parent.name}-"
    with sqlite3.connect(TRACKIO_DIR / "evonb.db") as db:
        for step, run, values in db.execute("select step, run_name, metrics from metrics order by step"):
            for k, v in json.loads(values).items() if run.startswith(name) else ():
                found.setdefault(k, []).append((step, v))
    return found


def read_wandb(place):
    "From the records of all sessions, by wandb's own messages."
    from wandb.proto import wandb_internal_pb2 as proto

    from evonb.travel.trackers import log_records

    found, at = {}, -1
    for path in sorted(place.glob("wandb/offline-run-*/*.wandb")):
        for data in log_records(path):
            (record := proto.Record()).ParseFromString(data)
            told = {"/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            if not told: continue  # fmt: skip
            assert told["_step"] > at, "wandb drops rows whose step doesn't rise"
            at = told["_step"]
            for k, v in told.items():
                home = k.rpartition("/")[0]
                if home and not k.endswith("/step"):
                    found.setdefault(k, []).append((told[f"{home}/step"], v))
    return found


READERS = dict(csv=read_csv, tensorboard=read_tensorboard, mlflow=read_mlflow, trackio=read_trackio, wandb=read_wandb)
EACH = [pytest.param(n, marks=pytest.mark.skipif(not here(n), reason=f"{n} isn't installed")) for n in READERS]
CALLED = dict(wandb=lambda n: plain_name(n, "/-"), mlflow=lambda n: plain_name(n, "./- "))


def stored(path):
    return stored_series(read_stored(Picture(open_run(path))))


def assert_equal_to_the_store(path, name):
    "Every series, every step once and in order, and the values."
    made, theirs = stored(path), READERS[name](Path(path) / "track" / name)
    names = {CALLED.get(name, str)(n): n for n in made}
    assert sorted(theirs) == sorted(names)
    for n, own in names.items():
        steps, values = made[own]
        assert [s for s, _ in theirs[n]] == list(steps), n
        np.testing.assert_allclose([v for _, v in theirs[n]], values, rtol=1e-6 if name == "tensorboard" else 0)


@pytest.fixture(params=["connectome", "population", "experts"])
def old(request, tmp_path, monkeypatch):
    "A run of before."
    with zipfile.ZipFile(RUNS / f"{request.param}.zip") as z:
        z.extractall(tmp_path / request.param)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    if "trackio" in sys.modules:
        from trackio import sqlite_storage, utils

        for module in (sqlite_storage, utils):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    return tmp_path / request.param


@pytest.mark.parametrize("name", EACH)
def test_a_finished_run_fills_a_track_once(old, name):
    n = fill_track(old, name)[1]
    assert n == sum(len(steps) for steps, _ in stored(old).values()) > 0
    assert_equal_to_the_store(old, name)
    assert fill_track(old, name)[1] == 0
    assert_equal_to_the_store(old, name)


@pytest.mark.parametrize("name", EACH)
def test_killed_three_times_at_random_the_track_is_one(tmp_path, name):
    run, env = tmp_path / "run", os.environ | dict(TRACKIO_DIR=str(tmp_path / "trackio"))
    env.pop("WANDB_SERVICE", None)  # this process's, which a killed run would stay open in
    tracks = (run / "track", tmp_path / "trackio")
    words = [sys.executable, "-c", WORK, str(run), json.dumps(to_dict(TINY)), name]
    chance, kept = random.Random(7), ("checkpoint-*.safetensors", "lived*.safetensors")
    lived = lambda: {p for p in files_below(run) if any(map(p.match, kept))}
    for n in (1, 2, 3):
        work = subprocess.Popen(words, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        before = lived()
        while (lived() <= before or not any(p.exists() for p in tracks)) and work.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.7))
        work.send_signal(signal.SIGKILL)
        assert work.wait() == -signal.SIGKILL, f"kill {n} came after the end"
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "is told no more" not in done.stderr, done.stderr
    assert open_run(run).state()["status"] == "complete"
    if name == "trackio":
        pytest.importorskip("trackio")
        from trackio import utils

        utils.TRACKIO_DIR = tmp_path / "trackio"
    assert_equal_to_the_store(run, name)


def test_the_id_is_one_and_settings_hold_no_place(old, tmp_path):
    import shutil

    copy = shutil.copytree(old, tmp_path / "elsewhere" / "copy")
    assert track_of(open_run(old)).id == track_of(open_run(copy)).id
    with create_run(tmp_path / "own", dict(corpus=dict(source=str(tmp_path / "secret" / "mine.txt")))) as run:
        told = track_of(run).settings
    assert told == {"corpus.source": "mine.txt", "kind": "other"}


class Failing(Tracker):
    "No network, a full disk."

    def begin(self):
        return {}

    def write(self, rows):
        raise ConnectionError("nobody answers\nat all")


def test_a_tracker_that_fails_ends_nothing_and_is_told_once(tmp_path):
    TRACKERS.add("failing", Failing, "fails")
    try:
        with pytest.warns(Remark) as told, tracking("failing", "csv", every=0.02):
            run = experiment(tmp_path / "run", TINY, show=False, workers=1)
    finally:
        TRACKERS.remove("failing")
    said = [str(w.message) for w in told if "is told no more" in str(w.message)]
    assert len(said) == 1 and "ConnectionError: nobody answers)" in said[0] and "evonb track" in said[0]
    assert run.state()["status"] == "complete"
    assert_equal_to_the_store(run.path, "csv")


def test_one_that_hangs_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_module, "LAST_LOOK", 0.2)
    monkeypatch.setattr(Failing, "write", lambda self, rows: time.sleep(3))
    TRACKERS.add("failing", Failing, "hangs")
    try:
        with pytest.warns(Remark, match="it took more than 0.2 s"), tracking("failing", every=0.02):
            experiment(tmp_path / "run", TINY, show=False, workers=1)
    finally:
        TRACKERS.remove("failing")


def test_nothing_is_imported_or_written_unless_asked(tmp_path):
    said = subprocess.run([sys.executable, "-c", """
import sys
from evonb.cli import main
assert main(sys.argv[1:]) == 0
print([m for m in ("tensorboard", "wandb", "mlflow", "trackio", "evonb.travel.trackers") if m in sys.modules])
""", "experts", "--out", str(tmp_path / "run"), "--expert", "skill:agreement", "--set", "training.steps=2", "--set",
        "training.warmup=1"], capture_output=True, text=True)  # fmt: skip
    assert said.stdout.endswith("[]\n"), said.stderr
    assert not (tmp_path / "run" / "track").exists()


def test_what_is_not_there_is_told_before_any_work(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="tracker is 'tensorbord', .*Did you mean tensorboard"):
        with tracking("tensorbord"): pass  # fmt: skip
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'wandb needs the package wandb: pip install "evonb\[track-wandb\]"'):
        with tracking("wandb"): pass  # fmt: skip
    with create_run(tmp_path / "new", dict(experts={}), kind="experts") as run:
        write_json(run.file("x.json"), {})
    with pytest.raises(InputError, match="holds no curve yet"):
        fill_track(run.path, "csv")


def test_every_package_of_a_tracker_is_an_extra():
    extras = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text())
    extras = extras["project"]["optional-dependencies"]
    for entry in map(TRACKERS.entry, TRACKERS):
        if entry.about: assert any(entry.about["needs"] in x for x in extras[entry.about["extra"]])  # fmt: skip


def test_a_cut_line_of_a_table_is_written_again(tmp_path):
    track = Track(tmp_path, "1", "x", {})
    first = CsvTracker(track)
    first.begin()
    first.write([("a", 1, dict(x=1.5)), ("a", 2, dict(x=0.1 + 0.2))])
    whole = Path(first.where).read_bytes()
    for cut in range(len(b"series,step,value\n"), len(whole)):
        Path(first.where).write_bytes(whole[:cut])
        again = CsvTracker(track)
        known = again.begin().get("a/x", 0)
        again.write([("a", s, dict(x=v)) for s, v in ((1, 1.5), (2, 0.1 + 0.2)) if s > known])
        assert Path(first.where).read_bytes() == whole


def test_names_stay_apart():
    names = ["genome", "genome+", "genome.", "genome_", "genome/x", "gen ome", "génome"]
    assert len({plain_name(n, "/-") for n in names}) == len(names) and MlflowTracker

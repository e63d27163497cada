"""The live monitor in a real JupyterLab: curves that grow, a stop that can be resumed, a notebook that stays usable."""

import json
import time

import pytest

from .waiting import RUN_SECONDS

SETUP = """import json, pathlib, time, torch
torch.set_num_threads(1)
from evonb.connectomes.experiments import experiment
from evonb.connectomes.settings import DevelopmentConfig, EvolutionConfig, ExperimentConfig
from evonb.text.tokens import CorpusConfig
from evonb.training.gpt import ModelConfig
from evonb.widgets.monitor import Monitor, watch
from evonb.store import open_run, read_dataset
from evonb.training import LifetimeConfig

def settings(steps, arms=("connectome", "random")):
    life = LifetimeConfig(steps=steps, batch_size=16, context=32, lr=4e-3, warmup=5, eval_every=10, eval_windows=32,
                          checkpoint_every=50)
    return ExperimentConfig("tiny", corpus=CorpusConfig("toy-english", n_bytes=200_000, vocab_size=384),
                            model=ModelConfig(2, 2, 64),
                            evolution=EvolutionConfig(n_generations=2, prune_fraction=.3, lifetime=life),
                            development=DevelopmentConfig(arms, 1, (4e-3,), lifetime=life))
config = settings(STEPS)
"""


def until(page, seen, test, what):
    "Waits until a test of the explorer is true, and gives what it gave."
    end = time.monotonic() + RUN_SECONDS
    while not (got := test(seen)):
        assert time.monotonic() < end, f"waited for {what}; the page says: {seen.text('progress')}"
        page.wait_for_timeout(100)
    return got


def status(seen):
    return seen.view("progress").locator("[data-status]").first.get_attribute("data-status")


def points(seen):
    "Points of the thin training curve, as drawn."
    if not seen.view("loss").locator(".js-plotly-plot .main-svg").count():
        return 0
    return max((len(t["x"]) for t in seen.plot("loss")["data"] if (t["name"] or "").endswith("training")), default=0)


def button_is_on(seen, name):
    return seen.control(name).is_enabled()


SLOW = """import threading

class Slow(Monitor):
    pause = .1 # s a step: what is pressed comes before the end
    begun = threading.Event() # the run is this monitor's, and learns

    def _hear(self, kind, values):
        Monitor._hear(self, kind, values)
        if kind == "step":
            Slow.begun.set()
            time.sleep(Slow.pause)

"""


def test_a_run_is_watched_stopped_and_resumed(notebook_page, run_more, explorer, assert_accessible, screenshot):
    shown = "monitor = Slow(experiment, 'runs/live', config)\nmonitor"
    page = notebook_page([SETUP.replace("STEPS", "80"), SLOW + shown], viewport=dict(width=1200, height=1600))
    seen = explorer(page)
    first = until(page, seen, points, "the first points of the curve")
    assert status(seen) == "running" and button_is_on(seen, "stop") and not button_is_on(seen, "resume")
    assert run_more(page, "print('meanwhile', 6 * 7, monitor.status)").strip() == "meanwhile 42 running"
    assert until(page, seen, lambda s: points(s) > first + 10, "more points")
    screenshot(seen.root, "monitor_running")
    assert_accessible(page, ".evonb-explorer")

    seen.press("stop")
    until(page, seen, lambda s: status(s) == "stopped", "the stop")
    assert "resume to go on" in seen.text("progress").lower() and button_is_on(seen, "resume")
    screenshot(seen.root, "monitor_stopped")
    told = run_more(page, "print(json.dumps([monitor.status, open_run('runs/live').state()['status'],"
                          " str(monitor.error), monitor.result]))")  # fmt: skip
    own, stored, error, result = json.loads(told)
    assert (own, stored, result) == ("stopped", "stopped", None) and "Stopped by the Stop button after step" in error

    run_more(page, "Slow.pause = 0")
    seen.press("resume")
    until(page, seen, lambda s: status(s) == "complete", "the end of the run")
    assert "100 %" in seen.text("progress") and not button_is_on(seen, "stop") and not button_is_on(seen, "resume")
    until(page, seen, lambda s: len(s.plot("newborns")["data"]) == 2, "the last drawing")
    assert [t["x"] for t in seen.plot("generations")["data"]] == [[0, 1], [0, 1]]
    screenshot(seen.root, "monitor_complete")
    compare = ("whole = experiment('runs/whole', config, show=False)\n"
               "a, b = (read_dataset(r.file('development.zarr.zip')) for r in (monitor.result, whole))\n"
               "print(all(a[k].equals(b[k]) for k in ('train_loss', 'val_loss', 'test_window_loss')))")  # fmt: skip
    assert run_more(page, compare).strip() == "True"
    last = json.loads(run_more(page, "print([float(a.val_loss.sel(arm=x)[0, -1]) for x in ('connectome', 'random')])"))
    assert [t["y"] for t in seen.plot("newborns")["data"]] == [[pytest.approx(v, abs=1e-9)] for v in last]

    run_more(page, "watch('runs/whole')")
    other = explorer(page, 1).ready()
    assert status(other) == "complete" and not button_is_on(other, "stop") and not other.control("resume").count()
    assert other.plot("newborns")["data"] == seen.plot("newborns")["data"]


def test_an_error_is_shown_and_an_interrupted_wait_stops(notebook_page, run_more, explorer):
    page = notebook_page(
        [
            SETUP.replace("STEPS", "4000"),
            SLOW + "monitor = Slow(experiment, 'runs/wait', config)\nassert Slow.begun.wait(60)",
            "second = Monitor(experiment, 'runs/wait', config, resume=True)\nsecond",
        ]
    )
    seen = explorer(page)
    until(page, seen, lambda s: status(s) == "failed", "the second monitor to fail")
    assert "is being written by another process" in seen.view("progress").get_by_role("alert").last.inner_text()
    wait = (
        "import os, signal, threading\n"
        "threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try: monitor.wait()\nexcept Exception as e: print(type(e).__name__, monitor.status)"
    )
    assert run_more(page, wait).strip() == "Stopped stopped"
    assert run_more(page, "print(open_run('runs/wait').state()['status'])").strip() == "stopped"


def test_the_last_picture_needs_no_python(
    notebook_page, run_more, offline_page, explorer, lab, screenshot, assert_accessible
):
    page = notebook_page(
        [
            SETUP.replace("STEPS", "30"),
            "monitor = Monitor(experiment, 'runs/<b>page', config)\n"
            "_ = monitor.wait(); print(monitor.to_html(pathlib.Path('monitor.html').resolve()))",
        ]
    )
    path = run_more(page, "print(pathlib.Path('monitor.html').resolve())").strip()
    for name, options in dict(
        light=dict(viewport=dict(width=1200, height=900)),
        dark=dict(color_scheme="dark"),
        narrow=dict(viewport=dict(width=400, height=900)),
    ).items():
        still = offline_page(path, **options)
        seen = explorer(still).ready()
        assert status(seen) == "complete" and "<b>page" in seen.root.inner_text() and not seen.control("stop").count()
        assert len(seen.plot("generations")["data"][0]["x"]) == 2
        screenshot(still, f"monitor_page_{name}")
        assert_accessible(still)

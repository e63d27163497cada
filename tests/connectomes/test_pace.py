"""How long known jobs take on a machine: the self-test, the range, the table, the command."""

import json
import re
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from evonb.connectomes import pace
from evonb.core import InputError

TUTORIALS = Path(__file__).resolve().parents[2] / "nbs" / "tutorials"


def test_the_self_test_works_on_one_thread_and_leaves_torch_as_it_was(monkeypatch):
    seen, before = [], torch.get_num_threads()
    tests = dict(a=lambda: seen.append(torch.get_num_threads()), b=lambda: sum(range(10**4)))
    monkeypatch.setattr(pace, "TESTS", tests)
    took = pace.speed_test(rounds=4)
    assert seen == [1] * 5 and torch.get_num_threads() == before
    assert {n: t.shape for n, t in took.items()} == dict(a=(4,), b=(4,)) and (took["b"] >= 0).all()
    monkeypatch.setattr(pace, "TESTS", dict(a=lambda: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        pace.speed_test()
    assert torch.get_num_threads() == before and pace.planning._clock is time.perf_counter


def test_a_range_goes_from_the_faster_test_to_the_slower_one():
    jobs, reference = dict(job=pace.KnownJob("A job", 100.)), dict(x=2., y=.5)
    took = dict(x=np.linspace(2, 4, 11), y=np.linspace(.25, .3, 11))
    for name, quantiles in pace.stretch(took, reference).items():
        assert quantiles == pytest.approx(np.quantile(took[name], (.1, .5, .9)) / reference[name])
    low, high = pace.expected(took, jobs, reference)["job"]
    assert (low, high) == pytest.approx((100 * .255 / .5, 100 * 3.8 / 2))


def test_every_tutorial_has_a_row_under_its_title():
    titles = {f"tutorial {p.name[0]}": nbformat.read(p, 4).cells[0].source.splitlines()[0].removeprefix("# ")
              for p in TUTORIALS.glob("[0-9]*.ipynb")}
    assert {n: j.what for n, j in pace.JOBS.items()} == titles and all(j.work > 0 for j in pace.JOBS.values())


def test_the_table_tells_each_job_and_where_it_was_measured():
    took = {n: np.full(3, 2 * t) for n, t in pace.TESTS_THERE.items()}
    text = pace.pace_text(took, dict(demo=90.))
    assert pace.MEASURED in text and "training   takes 2.00 [2.00, 2.00] times" in text
    assert re.search(r"^tutorial 7: Breed wirings +48\.6 s to 48\.6 s +24\.3 s$", text, re.M)
    assert re.search(r"^evonb run --preset demo +1 min 30 s, planned", text, re.M)


@pytest.mark.parametrize("rounds", [0, -1, 1.5, True])
def test_nonsense_is_refused_by_name(rounds):
    with pytest.raises(InputError, match=f"rounds is {rounds}"):
        pace.speed_test(rounds)


def test_the_command_gives_the_same_as_json(monkeypatch, capsys):
    from evonb.cli import main

    took = {n: np.full(3, t) for n, t in pace.TESTS_THERE.items()}
    monkeypatch.setattr(pace, "speed_test", lambda: took)
    monkeypatch.setattr(pace, "planned", lambda seconds: dict(demo=seconds))
    assert main(["plan", "--jobs", "--json", "--seconds", "3"]) in (0, None)
    told = json.loads(capsys.readouterr().out)
    assert told["seconds"] == {n: pytest.approx([j.work, j.work]) for n, j in pace.JOBS.items()}
    assert told["presets"] == dict(demo=3.)
    main(["plan", "--jobs"])
    assert capsys.readouterr().out.strip() == pace.pace_text(took, dict(demo=5))

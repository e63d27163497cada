"""The shelf: runs found, listed whatever their state, and compared."""

import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evonb.cli import main
from evonb.core import InputError
from evonb.store import create_run, open_run, write_json
from evonb.travel.shelf import (
    compare_runs,
    compared_curves,
    doctor,
    find_runs,
    leftovers,
    mean_curves,
    self_test,
    shelved,
)


@pytest.fixture
def lab(tmp_path):
    for name, rate in dict(a=0.1, b=0.2).items():
        with create_run(tmp_path / "lab" / name, dict(seed=0, life=dict(lr=rate, steps=9)), "connectome") as run:
            write_json(run.file("summary.json"), dict(statement="One. Two."))
    with pytest.raises(KeyboardInterrupt), create_run(tmp_path / "lab" / "deep" / "c", dict(seed=1), "population"):
        raise KeyboardInterrupt
    (tmp_path / "lab" / "d").mkdir()
    (tmp_path / "lab" / "d" / "run.json").write_text('{"format": 1')
    (tmp_path / "lab" / "a" / "inside").mkdir()
    (tmp_path / "lab" / "a" / "inside" / "run.json").write_text("{}")
    return tmp_path / "lab"


def test_every_run_is_listed_once_whatever_its_state(lab):
    found = {r.path.name: r for r in map(shelved, find_runs(lab))}
    assert sorted(found) == ["a", "b", "c", "d"]
    assert [found[n].status for n in "abd"] == ["complete", "complete", "damaged"] and found["c"].status != "complete"
    assert found["a"].headline == "One" and found["c"].kind == "population" and "run.json" in found["d"].headline


def test_the_command_prints_what_python_gives(lab, capsys, monkeypatch):
    monkeypatch.chdir(lab)
    assert main(["runs", "--json"]) in (None, 0)
    kinds = sorted(r["kind"] for r in json.loads(capsys.readouterr().out))
    assert kinds == ["", "connectome", "connectome", "population"]
    assert main(["runs", str(lab)]) in (None, 0)
    out = capsys.readouterr().out
    assert out.count("connectome") == 2 and "damaged" in out
    assert main(["compare", "a", "b"]) in (None, 0)
    out = capsys.readouterr().out
    assert "life.lr  0.1  0.2" in out and "steps" not in out


def test_settings_that_one_run_lacks_are_told(lab, tmp_path):
    with create_run(tmp_path / "e", dict(seed=0, life=dict(lr=0.1, steps=9, warm=True)), "connectome"):
        pass
    assert compare_runs([lab / "a", tmp_path / "e"]) == {"life.warm": ["(not there)", True]}
    assert compare_runs([lab / "a", lab / "a"]) == {}
    with pytest.raises(InputError, match="different kinds .connectome, population"):
        compare_runs([lab / "a", lab / "deep" / "c"])
    with pytest.raises(InputError, match="two or more"):
        compare_runs([lab / "a"])


def test_the_doctor_finds_what_is_wrong(monkeypatch):
    assert set(self_test().values()) == {"right"} and "torch" in doctor()
    import evonb.training.stock as stock

    monkeypatch.setattr(stock, "turned_back", lambda rows, n_head: -rows * 3)
    assert "nats from ours" in self_test()["stock model"]


RUNS = Path(__file__).parent.parent / "runs"


@pytest.fixture
def two(tmp_path):
    "A run of before, twice."
    for name in ("one", "other"):
        with zipfile.ZipFile(RUNS / "connectome.zip") as z:
            z.extractall(tmp_path / name)
    return [tmp_path / "one", tmp_path / "other"]


def test_curves_are_means_of_what_is_stored(two, tmp_path):
    from evonb.widgets.monitor import read_curves

    lived = [read_curves(p)[0] for p in sorted(two[0].glob("development/random/seed-*/lr-*/lived.safetensors"))]
    x, y, found = mean_curves(open_run(two[0]))
    assert (x, y, list(found)) == ("tokens", "validation loss (nats/token)", ["connectome", "random"])
    steps, mean, n = found["random"]
    assert n == 2 and np.allclose(mean, np.mean([c["val_loss"] for c in lived], 0))
    assert list(steps) == [4 * 48 * s for s in lived[0]["val_step"]]
    fig = compared_curves(two)
    assert [t.name for t in fig.data] == [f"{r}, {a} (2)" for r in ("one", "other") for a in ("connectome", "random")]


def test_the_curves_of_searches_are_the_best_so_far(tmp_path):
    with zipfile.ZipFile(RUNS / "population.zip") as z:
        z.extractall(tmp_path / "bred")
    x, y, found = mean_curves(open_run(tmp_path / "bred"))
    assert x.startswith("evaluations") and len(found["genome"][0]) == 8 and found["genome"][2] == 2
    assert all(np.all(np.diff(y) >= 0) for _, y, _ in found.values())


def test_clean_takes_what_can_be_made_again_and_nothing_else(two, monkeypatch, capsys):
    from evonb.store import locked

    run = two[0]
    before = {p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file()}
    (run / "report.html").write_text("x" * 1000)
    (run / "explore").mkdir()
    (run / "explore" / "a.html").write_text("x")
    (run / "mine.txt").write_text("x")
    assert [x.path.name for x in leftovers(run)] == ["report.html", "explore"]
    with locked(run):
        assert leftovers(run) == [], "a run that is being written is left alone"
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["clean", str(run.parent)]) == 2 and "Give --yes" in capsys.readouterr().err
    assert (run / "report.html").exists()
    assert main(["clean", str(run.parent), "--yes"]) == 0 and "kB were freed" in capsys.readouterr().out
    after = {p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    assert after == before | {Path("mine.txt"): b"x"}
    assert main(["clean", str(run.parent)]) == 0 and "Nothing below" in capsys.readouterr().out


def test_explore_without_a_run_offers_those_that_are_here(two, monkeypatch):
    from evonb.widgets.explorers import explore

    monkeypatch.chdir(two[0].parent)
    assert [str(r.path) for r in explore()] == ["one", "other"]
    (two[0].parent / "empty").mkdir()
    monkeypatch.chdir(two[0].parent / "empty")
    with pytest.raises(InputError, match="There is no run below"):
        explore()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_and_options():
    from evonb.cli import COMMANDS, completion_text

    ask = "COMP_WORDS=({}); COMP_CWORD={}; _evonb; echo ${{COMPREPLY[@]}}"

    def told(words, at):
        text = completion_text("bash") + "\n" + ask.format(words, at)
        return subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout.split()
    assert set(told("evonb ''", 1)) == set(COMMANDS) and told("evonb pub", 1) == ["publish"]
    assert set(told("evonb publish runs/x --t", 3)) == {"--title", "--text-licence"}
    assert told("evonb runs x", 2) == [], "files are bash's own"
    assert "-l text-licence" in completion_text("fish") and "bashcompinit" in completion_text("zsh")
    with pytest.raises(InputError, match="shell is 'tcsh'"):
        completion_text("tcsh")

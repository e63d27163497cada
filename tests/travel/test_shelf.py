"""The shelf: runs found, listed whatever their state, and compared."""

import json

import pytest

from evonb.cli import main
from evonb.core import InputError
from evonb.store import create_run, write_json
from evonb.travel.shelf import compare_runs, doctor, find_runs, self_test, shelved


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

"""Kinds of runs: whatever a kind names is there, and the store knows none of them."""

import inspect
import re
from dataclasses import fields

import pytest
import xarray as xr

from evonb import store
from evonb.core import InputError
from evonb.kinds import RUN_KINDS, ability, call, command_of, refusal, write_results
from evonb.report import Page
from evonb.store import content_digest, create_run, open_run
from evonb.widgets.explorers import EXPLORERS, explore, parts
from evonb.widgets.monitor import VIEWS, known_jobs

PLAIN = {"name", "made_by", "then", "jobs", "views", "also"}


@pytest.mark.parametrize("name", ["connectome", "experts", "population", "wirings", "alignment", "evaluation"])
def test_whatever_a_kind_names_is_there(name):
    kind = RUN_KINDS[name]
    found = {f: kind.load(f) for f in [*(f.name for f in fields(kind) if f.name not in PLAIN), *kind.also]}
    values = {k for k, v in found.items() if v is not None and not callable(v)}
    assert kind.name == name and values <= {"page", "devices", "presets"}
    assert {"config", "run", "table", "page", "stored", "work"} <= {k for k, v in found.items() if v is not None}
    assert isinstance(found["page"], Page) and found["page"] and set(kind.views) <= set(VIEWS)
    assert found["run"].__name__ in kind.jobs and {known_jobs()[j] for j in kind.jobs} == {name}


def test_the_store_knows_no_kind():
    words = set(re.findall(r"[a-z]+", inspect.getsource(store).lower()))
    assert not words & {*RUN_KINDS, "connectomes", "populations", "arm", "arms", "newborn", "expert", "generation"}


def test_a_run_of_the_wrong_kind_is_told_what_to_do(tmp_path):
    with create_run(tmp_path / "run", {}, "experts") as run:
        pass
    said = str(refusal(run, "a connectome is in", "connectome"))
    assert "of kind 'experts', but a connectome is in one of kind 'connectome'. Make one with evonb run" in said
    assert said.endswith(f"are bred by: evonb population {run.path} --out FOLDER")
    with pytest.raises(InputError, match="but a base comes from one of kind 'connectome'"):
        call(run, "base", "a base comes from", "runs/experts", "cpu")
    with pytest.raises(InputError, match="explorers show one of kind 'connectome' or 'population' or 'wirings' or "):
        explore(run)
    with create_run(tmp_path / "strange", {}, "of a package that isn't here") as run:
        pass
    assert ability(run.kind, "table") is None
    assert str(refusal(run, "experts are in", "experts")).endswith(f"evonb report {run.path}")


def test_an_explorer_of_one_s_own_fits_by_kind_or_by_file(tmp_path):
    EXPLORERS.add("words", "builtins:repr", "an explorer of my own", kinds=("experts",), files="words/*.txt")
    try:
        for kind, own in (("experts", ["words"]), ("connectome", ["connectome", "words"])):
            with create_run(tmp_path / kind, {}, kind) as run:
                (run.path / "words").mkdir()
                (run.path / "words" / "a.txt").write_text("a")
            assert parts(run) == own and explore(run, "words") == repr(run)
        with pytest.raises(InputError, match="'brain'.*connectome, words"):
            explore(run, "brain")
    finally:
        EXPLORERS.remove("words")


def test_a_results_command_is_told_from_the_log_while_the_settings_are_those(tmp_path, monkeypatch):
    config = dict(experts=["a"], seed=1)
    with create_run(tmp_path / "run", config, kind="experts") as run:
        monkeypatch.setattr("evonb.kinds.ability", lambda kind, what: None)  # of this kind nothing spells a command
        assert command_of(run) == ""
        run.log("result", name="x", command="evonb first", settings=content_digest(config))
        run.log("result", name="x", command="evonb experts a", settings=content_digest(config))
        run.log("result", name="x", command="evonb other", settings=content_digest(config | dict(seed=2)))
    assert command_of(open_run(tmp_path / "run")) == "evonb experts a"
    monkeypatch.undo()
    with create_run(tmp_path / "more", dict(command=["evonb", "more"]), kind="experts") as run:
        write_results(run, "more", xr.Dataset(dict(x=1.0)))
    assert [e["command"] for e in run.events() if e["event"] == "result"] == ["evonb more"]

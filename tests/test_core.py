"""core: what errors carry, and settings that have no effect any more."""

import json
import pickle
import warnings
from dataclasses import dataclass

import numpy as np
import pytest

from evonb import core
from evonb.alignment.run import AlignConfig
from evonb.connectomes.settings import preset
from evonb.core import DamagedFileError, InputError, Remark, noted, parsing, tell_inert
from evonb.populations.breeding import BreedConfig


def test_an_error_carries_values_that_would_do_between_processes():
    error = InputError("steps is 9. Give at most 5.", give=dict(steps=5))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.give) == (str(error), dict(steps=5)) and InputError("x").give == {}


def told(n_bootstrap):
    "What is remarked when each configuration that has the setting is looked at, three times."
    run = preset("demo")
    run.development.n_bootstrap = n_bootstrap
    breed = BreedConfig("runs/x", ("skill:agreement",), n_bootstrap=n_bootstrap)
    align = AlignConfig("runs/x", "toy-brain", n_bootstrap=n_bootstrap)
    with warnings.catch_warnings(), noted() as notes:
        warnings.simplefilter("ignore")
        for _ in range(3):
            for config in (run, breed, align):
                config.check()
    return notes


def test_a_setting_without_effect_says_so_once_for_each_kind_of_run(monkeypatch):
    monkeypatch.setattr(core, "_inert", set())
    assert told(2000) == []  # the default, as in all runs that never named it
    notes = told(100)
    assert len(notes) == 3 and told(100) == []
    for kind, note in zip(("DevelopmentConfig", "BreedConfig", "AlignConfig"), notes):
        assert note.startswith(f"n_bootstrap of {kind} is 100, but has no effect: intervals come from tests")


def test_it_is_a_remark(monkeypatch):
    @dataclass
    class Config:
        n_old: int = 3

    monkeypatch.setattr(core, "_inert", set())
    with pytest.warns(Remark, match="n_old of Config is 4, but has no effect: it was replaced. .* Leave it out."):
        tell_inert(Config(4), "n_old", "it was replaced")


def test_a_library_that_changed_is_not_taken_for_a_damaged_file():
    "What a module lacks is passed on; what a library can't take is told with its version."
    with pytest.raises(AttributeError, match="of_tomorrow"), parsing("x.npy"):
        np.load_of_tomorrow("x.npy")
    said = f"x.npy is damaged: .* numpy {np.__version__} may not be what"
    with pytest.raises(DamagedFileError, match=said), parsing("x.npy"):
        np.mean([1.0], out=3)
    with pytest.raises(DamagedFileError, match="a package may not be what evonb expects"), parsing("x.npy"):
        np.load("x.npy", of_tomorrow=True)
    for damaged in (lambda: json.loads("{"), lambda: dict(a=1)["b"], lambda: [1].__getitem__("a"), lambda: None.name):
        with pytest.raises(DamagedFileError) as told, parsing("x.json"):
            damaged()
        assert "may not be" not in str(told.value), told.value

"""The faces of the wings: what they promise is there, imported when it is used, and says what its parameters are."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FACES = sorted(p for p in (ROOT / "evonb").rglob("__init__.py") if "face(" in p.read_text(encoding="utf-8"))
PROMISED = {
    "text": "load_corpus prepare open_prepared CorpusConfig",
    "training": "GPT GPTConfig new_gpt load_published open_base Lifetime LifetimeConfig",
    "evolution": "evolve Method register_method",
    "connectomes": "Connectome prune inherit control compare preset experiment develop_run",
    "tasks": "Task Choice open_test Engine Fitness",
    "populations": "Adapter read_adapter write_adapter merge train_experts load_experts breed",
    "alignment": "read ReadConfig open_reader encode natural_stories alice align_run",
    "development": "credits open_suite SUITES evaluate_run EvaluationConfig",
    "widgets": "explore Monitor watch",
}


def name_of(path):
    return ".".join(path.parent.relative_to(ROOT).parts)


@pytest.mark.parametrize("path", FACES, ids=name_of)
def test_what_a_face_names_is_there_and_hidden_by_no_module(path):
    module = importlib.import_module(name_of(path))
    below = {p.stem for p in path.parent.glob("*.py")} | {p.name for p in path.parent.iterdir() if p.is_dir()}
    assert module.__all__ and not set(module.__all__) & below, "a submodule's name would hide the face's"
    for name in module.__all__:
        assert getattr(module, name) is not None and name in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'nothing_such'"):
        module.nothing_such  # noqa: B018
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize("wing", PROMISED)
def test_promised_names(wing):
    module = importlib.import_module(f"evonb.{wing}")
    assert set(PROMISED[wing].split()) <= set(module.__all__)


def test_every_wing_has_a_face():
    wings = {p.name for p in (ROOT / "evonb").iterdir() if (p / "__init__.py").exists()} - {"data"}
    assert {name_of(p).partition(".")[2] for p in FACES} == {"", *wings}


def test_a_face_imports_nothing_before_it_is_asked():
    code = f"""
import sys, importlib
for name in {[name_of(p) for p in FACES]}: importlib.import_module(name)
print(sorted(m for m in sys.modules if m.startswith("evonb.") and m.count(".") > 1 or m in ("torch", "numpy")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("path", FACES, ids=name_of)
def test_docstrings_tell_every_commented_parameter_at_run_time(path):
    module = importlib.import_module(name_of(path))
    for name in module.__all__:
        thing = getattr(module, name)
        if not inspect.isfunction(thing) or not inspect.signature(thing).parameters: continue  # fmt: skip
        assert "\nParameters\n----------\n" in thing.__doc__, name
        for parameter in inspect.signature(thing).parameters.values():
            assert f"\n{parameter.name}" in thing.__doc__ or parameter.kind in (2, 4), (name, parameter.name)


def test_help_tells_what_a_part_may_be():
    import evonb

    assert '"connectome", "population"' in inspect.getdoc(evonb.explore)
    assert "seed : int, default 0\n    which of them" in inspect.getdoc(evonb.Run.model)  # methods, too


def test_faces_are_no_place_for_code():
    for path in FACES:
        if path.parent.name == "evonb": continue  # fmt: skip
        kinds = {type(node).__name__ for node in ast.parse(path.read_text(encoding="utf-8")).body}
        assert kinds <= {"Expr", "ImportFrom", "Assign"}, path

"""Registries: names, lines, lazy targets, and the doors for packages and files of one's own."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from evonb import registry
from evonb.core import InputError, check_choice, near_miss, place_name
from evonb.datasets import MissingExtraError
from evonb.registry import REGISTRIES, SESSION, Entry, Registry, load_plugin, open_doors

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def doors(monkeypatch):
    "Afterwards the doors, the registries and what was imported are as before."
    monkeypatch.setenv("EVONB_PLUGINS", "")
    kinds, path, modules = dict(REGISTRIES), list(sys.path), set(sys.modules)
    state = registry._doors.opened, registry._doors.read, registry._doors.origin
    known = {r: dict(r.known) for r in kinds.values()}
    yield
    registry._doors.opened, registry._doors.read, registry._doors.origin = state
    for r, entries in known.items():
        r.known.clear()
        r.known.update(entries)
    REGISTRIES.clear()
    REGISTRIES.update(kinds)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("evonb_plugin_", "outside")): del sys.modules[name]


@pytest.fixture
def toys():
    made = Registry("toy")
    made.add("ball", "math:pi", "rolls")
    made.add("kite", len, "flies")
    return made


def plugin(folder, text, name="mine"):
    path = folder / f"{name}.py"
    path.write_text("from evonb.registry import REGISTRIES, Registry\ntoys = REGISTRIES['toy']\n" + text)
    return path


def package(folder, name, text, target=None):
    "A package with an entry point of the group evonb, as an installer leaves it, on the path of imports."
    (folder / f"{name}.py").write_text("from evonb.registry import REGISTRIES\ntoys = REGISTRIES['toy']\n" + text)
    info = folder / f"{name}_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[evonb]\nthings = {target or name}\n")
    sys.path.insert(0, str(folder))
    registry._doors.read = None


# Names and things

def test_things_by_name(toys):
    assert list(toys) == ["ball", "kite"] and len(toys) == 2 and toys["kite"] is len and toys["ball"] > 3.14
    assert dict(toys.items())["kite"] is len and toys.get("ball") > 3 and toys.get("top") is None
    assert "ball" in toys and "top" not in toys and ["ball"] not in toys and 3 not in toys
    assert REGISTRIES["toy"] is toys and repr(toys) == "Registry('toy': ball, kite)"
    assert toys == toys and toys != Registry("other") and {toys: 1}[toys] == 1
    assert toys.lines() == {"ball": "rolls", "kite": "flies"}


def test_an_unknown_name_is_refused_with_those_there_are_and_a_near_miss(toys):
    with pytest.raises(InputError, match="^toy is 'bal', but must be one of: ball, kite. Did you mean ball.$"):
        toys["bal"]
    with pytest.raises(InputError, match="must be one of: ball, kite.$"): toys["zebra"]
    with pytest.raises(InputError, match="toy is None, but must be"): toys.entry(None)
    with pytest.raises(InputError, match="toy is 'Ball'.*mean ball"): toys["Ball"]
    assert near_miss("GENOME", ["genome+", "genome"]) == " Did you mean genome?" and near_miss("x", []) == ""


def test_a_target_is_imported_when_it_is_used(tmp_path, toys):
    (tmp_path / "outside_lazy.py").write_text("class House:\n    @staticmethod\n    def door(): return 'open'\n")
    sys.path.insert(0, str(tmp_path))
    toys.add("door", "outside_lazy:House.door", "opens")
    assert toys.spelled() == ["ball", "kite", "door"] and "outside_lazy" not in sys.modules
    assert toys["door"]() == "open" and "outside_lazy" in sys.modules


def test_a_target_that_cannot_be_loaded_is_named(tmp_path, toys):
    toys.add("gone", "no_such_module_at_all:toy", "was never there")
    toys.add("lost", "math:no_such_attribute", "was never there")
    with pytest.raises(InputError, match="The toy 'gone' of this session can't be loaded .ModuleNotFoundError"):
        toys["gone"]
    with pytest.raises(InputError, match="The toy 'lost' .*AttributeError"): toys["lost"]
    (tmp_path / "outside_extra.py").write_text(
        "from evonb.datasets import MissingExtraError\nraise MissingExtraError('needs an extra')")
    sys.path.insert(0, str(tmp_path))
    toys.add("extra", "outside_extra:toy", "needs more")
    with pytest.raises(MissingExtraError, match="^needs an extra$"): toys["extra"]  # says itself what to do


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a:b", "a=b", "a/b", "-a", None, 3, "a\n"])
def test_names_that_cannot_be_typed_are_refused(toys, name):
    with pytest.raises(InputError, match="can't name a toy"): toys.add(name, len)


@pytest.mark.parametrize("target", ["math", "math:", ":pi", "math pi:x", "a/b.py:x"])
def test_targets_that_are_no_places_are_refused(toys, target):
    with pytest.raises(InputError, match="package.module:attribute"): toys.add("x", target)


def test_a_thing_that_is_not_of_the_kind_is_refused_when_it_is_used():
    def check(name, thing):
        if not callable(thing): raise InputError(f"{name} can't be called")
    tools = Registry("tool", check)
    tools.add("saw", "math:pi", "cuts")
    tools.add("file", len, "smooths")
    with pytest.raises(InputError, match="saw can't be called"): tools["saw"]
    assert tools["file"] is len


def test_a_name_that_is_taken_is_refused(toys):
    with pytest.raises(InputError, match="The toy 'ball' is there already, from this session"):
        toys.add("ball", "math:e", "another")

    def kite(): "Flies."
    toys.add("new", kite)
    toys.add("new", kite)  # the same again, as when a cell is run twice

    def other(): "Another."
    with pytest.raises(InputError, match="The toy 'new' is there already"): toys.add("new", other)
    toys.remove("new")
    toys.add("new", other)
    assert toys["new"] is other
    with pytest.raises(InputError, match="toy is 'gone'"): toys.remove("gone")


def test_a_module_brings_what_its_line_promised():
    kinds = Registry("toy")
    exec("r.add('fast', 'evonb.fast:Fast', 'goes fast', wheels=4)", {"r": kinds, "__name__": "evonb.home"})
    exec("class Fast: 'Something longer.'\nr.add('fast', Fast)", {"r": kinds, "__name__": "evonb.fast"})
    assert kinds["fast"].__name__ == "Fast"
    assert kinds.entry("fast").line == "goes fast" and kinds.entry("fast").about == dict(wheels=4)
    with pytest.raises(InputError, match="already, from evonb"):
        exec("class Slow: pass\nr.add('fast', Slow)", {"r": kinds, "__name__": "evonb.slow"})


def test_lines_and_how_things_are_written(toys):
    @toys.register("top", colour="red", spelled="top:COLOUR")
    def top():
        """Spins.

        For a long time."""
    assert toys["top"] is top and toys.entry("top") == Entry(
        "top", top, "Spins.", SESSION, dict(colour="red", spelled="top:COLOUR"))
    assert toys.spelled() == ["ball", "kite", "top:COLOUR"]
    with pytest.raises(InputError, match="one of: ball, kite, top:COLOUR. Did you mean top"): toys["topp"]


def test_the_text_for_help(toys):
    kinds = Registry("toy")
    exec("r.add('a', 'm:x', 'is short')\nr.add('longer', 'm:y', 'word ' * 30, spelled='longer:NAME')\n"
         "r.add('bare', 'm:z')", {"r": kinds, "__name__": "evonb.home"})
    exec("r.add('mine', 'm:x', 'is mine')", {"r": kinds, "__name__": "elsewhere.things"})
    lines = kinds.text(2, 60).split("\n")
    assert lines[0] == "  a            is short" and lines[1].startswith("  longer:NAME  word word")
    assert all(len(line) <= 60 for line in lines) and lines[2].startswith(" " * 15 + "word")
    assert lines[-2] == "  bare" and lines[-1] == "  mine         is mine (from elsewhere)"
    assert Registry("nothing").text() == ""


# Files

def test_a_file_registers_once(tmp_path, toys):
    path = plugin(tmp_path, "toys.add('drum', 'math:tau', 'makes noise')\nprint('ran')")
    load_plugin(path)
    load_plugin(str(path))
    assert toys["drum"] > 6 and toys.entry("drum").origin == str(path)
    assert "makes noise (from mine.py)" in toys.text()
    with pytest.raises(InputError, match=r"The toy 'drum' is there already, from .*mine.py"):
        load_plugin(plugin(tmp_path, "toys.add('drum', 'math:e', 'the same name')", "second"))


def test_files_named_by_the_environment_are_loaded_when_a_registry_is_asked(tmp_path, toys, monkeypatch):
    one = plugin(tmp_path, "toys.add('drum', 'math:tau')", "one")
    two = plugin(tmp_path, "toys.add('harp', 'math:e')", "two")
    monkeypatch.setenv("EVONB_PLUGINS", f"{one}{os.pathsep}{os.pathsep}{two}")
    assert list(toys) == ["ball", "kite", "drum", "harp"]
    monkeypatch.setenv("EVONB_PLUGINS", str(tmp_path / "missing.py"))
    with pytest.raises(InputError, match="missing.py is no plugin.*--plugin or in EVONB_PLUGINS"): list(toys)


def test_a_file_that_was_loaded_by_name_does_not_keep_other_doors_closed(tmp_path, toys):
    package(tmp_path, "outside_one", "toys.add('drum', 'math:tau')")
    load_plugin(plugin(tmp_path, "toys.add('harp', 'math:e')"))
    assert {"drum", "harp"} <= set(toys)


@pytest.mark.parametrize("text, why", [
    ("import a_module_that_is_not_there", "ModuleNotFoundError"), ("1 / 0", "ZeroDivisionError"),
    ("def (", "SyntaxError"), ("raise SystemExit(3)", "SystemExit: 3"),
    ("toys.add('ball', 'math:e')", "The toy 'ball' is there already, from this session. Give the one from .*mine.py"),
])
def test_a_plugin_that_fails_is_named_and_leaves_nothing(tmp_path, toys, monkeypatch, text, why):
    path = plugin(tmp_path, f"toys.add('drum', 'math:tau')\n{text}")
    with pytest.raises(InputError, match=f"The plugin .*mine.py can't be loaded .*{why}"): load_plugin(path)
    assert list(toys) == ["ball", "kite"]
    monkeypatch.setenv("EVONB_PLUGINS", str(path))
    for _ in range(2):  # it isn't forgotten that it failed
        with pytest.raises(InputError, match="mine.py can't be loaded"): toys["ball"]
    plugin(tmp_path, "toys.add('drum', 'math:tau')")  # mended
    assert "drum" in toys


@pytest.mark.parametrize("name", ["missing.py", "", "folder", "text.txt"])
def test_what_is_no_python_file_is_refused(tmp_path, toys, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("toys")
    with pytest.raises(InputError, match="is no plugin"): load_plugin(tmp_path / name)


def test_a_plugin_may_look_while_it_registers(tmp_path, toys, monkeypatch):
    path = plugin(tmp_path, "if 'drum' not in toys: toys.add('drum', toys['kite'], ', '.join(toys))\n")
    monkeypatch.setenv("EVONB_PLUGINS", str(path))
    assert toys["drum"] is len and toys.entry("drum").line == "ball, kite"


def test_what_a_plugin_is_the_first_to_import_stays_evonbs(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from evonb.evolution import Method, register_method\n\n@register_method('mine')\n"
                    "class Mine(Method):\n    'Proposes nothing.'\n    def propose(self): return []\n")
    code = ("from evonb.registry import load_plugin\nimport sys\nassert 'evonb.evolution.method' not in sys.modules\n"
            f"load_plugin({str(path)!r})\nfrom evonb.evolution import METHODS\n"
            "print(METHODS.entry('genome').origin, METHODS.entry('mine').origin, METHODS['genome'].__name__)\n"
            "print(METHODS.entry('genome').origin)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == [f"evonb {path} Genome", "evonb"], done.stderr


def test_another_thread_waits_until_a_plugin_is_done(tmp_path, toys, monkeypatch):
    path = plugin(tmp_path, "import threading, time\nthreading.Event().wait(.2)\ntoys.add('drum', 'math:tau')")
    monkeypatch.setenv("EVONB_PLUGINS", str(path))
    seen, threads = [], [threading.Thread(target=lambda: seen.append("drum" in toys)) for _ in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert seen == [True] * 3


# Packages

def test_a_package_with_an_entry_point(tmp_path, toys):
    package(tmp_path, "outside_pkg", "toys.add('drum', 'math:tau', 'makes noise')")
    assert toys["drum"] > 6 and toys.entry("drum").origin == "outside_pkg-dist"
    assert "makes noise (from outside_pkg-dist)" in toys.text()


def test_a_package_that_fails_is_named(tmp_path, toys):
    package(tmp_path, "outside_bad", "raise RuntimeError('no licence')")
    with pytest.raises(InputError, match="The plugin outside_bad-dist can't be loaded .RuntimeError: no licence.*"
                                         "uninstall it"): list(toys)
    with pytest.raises(InputError, match="outside_bad-dist"): toys["ball"]


def test_entry_points_that_are_not_there_are_named(tmp_path, toys):
    package(tmp_path, "outside_gone", "", "outside_gone.more:things")
    with pytest.raises(InputError, match="The plugin outside_gone-dist can't be loaded"): toys.lines()


# Worker processes

def test_worker_processes_know_what_was_loaded_here(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from evonb.evolution import METHODS\nMETHODS.add('mine', 'math:pi', 'a method of mine')\n")
    code = ("import multiprocessing, os\nfrom evonb.registry import load_plugin\nfrom evonb.evolution import METHODS\n"
            "def names(_): return 'mine' in METHODS\n"
            "if __name__ == '__main__':\n"
            f"    load_plugin({str(path)!r})\n"
            "    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(names, [0]))\n"
            "    print(os.environ['EVONB_PLUGINS'])\n")
    (tmp_path / "main.py").write_text(code)
    done = subprocess.run([sys.executable, tmp_path / "main.py"], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines() == ["[True]", str(path)], done.stderr


def test_loading_keeps_the_plugins_that_were_named_before(tmp_path, toys, monkeypatch):
    one, two = (plugin(tmp_path, f"toys.add('{n}', 'math:e')", n) for n in ("one", "two"))
    monkeypatch.setenv("EVONB_PLUGINS", str(one))
    load_plugin(two)
    load_plugin(one)
    assert os.environ["EVONB_PLUGINS"] == f"{one}{os.pathsep}{two}" and {"one", "two"} <= set(toys)
    assert open_doors("handed on") == "handed on"


@pytest.mark.parametrize("allowed", [[], (), {}, iter(())])
def test_an_empty_choice_says_what_to_do(allowed):
    with pytest.raises(InputError, match=r"is 'drift', but there is none to choose from here\. Leave it out\.$"):
        check_choice("drift", allowed, "nuisance")


def test_an_empty_registry_says_what_to_do(monkeypatch):
    monkeypatch.setattr(registry, "open_doors", lambda known: known)
    with pytest.raises(InputError, match=r"gadget is 'a', but there is none .*Register a gadget first"):
        Registry("gadget").entry("a")


def test_places_have_names(tmp_path, monkeypatch):
    (tmp_path / "a.b").mkdir()
    monkeypatch.chdir(tmp_path / "a.b")
    names = [place_name(p) for p in (".", "./", "", "..", "x/y.csv", "x/", "../a.b", Path("/"))]
    assert names == ["a.b", "a.b", "a.b", tmp_path.name, "y.csv", "x", "a.b", "root"]

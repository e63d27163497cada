"""What a light install can do: look at stored runs where nothing that trains is there, and say what is missing."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUNS = Path(__file__).parent / "runs"
HEAVY = ("torch", "transformers", "peft", "accelerate", "himalaya", "cma", "httpx", "ray", "gguf")
BLOCKED = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] in {HEAVY} else find(name, *more)
"""  # these packages aren't there


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("connectome", "alignment", "experts", "population"):
        with zipfile.ZipFile(RUNS / f"{kind}.zip") as z:
            z.extractall(folder / kind)
    return folder


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    "A folder for PYTHONPATH that says of evonb what pyproject.toml says now, whatever was installed before."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [f"Requires-Dist: {d}" for d in project["dependencies"]]
    for extra, wanted in project["optional-dependencies"].items():
        lines += [f"Provides-Extra: {extra}", *(f'Requires-Dist: {d}; extra == "{extra}"' for d in wanted)]
    folder = tmp_path_factory.mktemp("described")
    info = folder / f"evonb-{project['version']}.dist-info"
    info.mkdir()
    head = ["Metadata-Version: 2.4", "Name: evonb", f"Version: {project['version']}"]
    (info / "METADATA").write_text("\n".join([*head, *lines, ""]))
    return folder


def told(code, cwd, described, before=BLOCKED):
    "What a fresh interpreter prints, and its errors."
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(described), str(ROOT)]))
    done = subprocess.run([sys.executable, "-c", before + code], cwd=cwd, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


EVERY_VIEW = """
import evonb as ev
from evonb.plots.style import NothingToPlot
shown, seen = ev.explore({kind!r}), 0
for view in shown.views:
    try:
        reply = shown.ask(view)
        seen += bool(reply.content or reply.arrays)
    except NothingToPlot: pass  # of a part that this run hasn't
print(seen, "views")
"""


@pytest.mark.parametrize("kind", ["connectome", "alignment", "population"])
def test_every_view_of_a_stored_run_opens_where_torch_cant_be_imported(kind, runs, described):
    assert int(re.search(r"(\d+) views", told(EVERY_VIEW.format(kind=kind), runs, described))[1]) >= 4


@pytest.mark.parametrize("kind", ["connectome", "alignment", "experts", "population"])
def test_a_stored_run_is_shown_and_reported_where_torch_cant_be_imported(kind, runs, described):
    code = f"from evonb.cli import main\nassert main(['show', {kind!r}]) == 0 and main(['report', {kind!r}]) == 0"
    assert f"Run({kind}" in told(code, runs, described)
    page = (runs / kind / "report.html").read_text()
    assert len(page) > 20_000 and "can't be shown" not in page
    notes = re.findall("<p class='missing'>Not told here: (.+?)</p>", page)
    assert all("evonb[train]" in n for n in notes) and len(notes) <= 1, "only the command of a run of before"


@pytest.mark.parametrize("kind", ["connectome", "alignment", "population"])
def test_torch_isnt_loaded_to_look_where_it_can_be(kind, runs, described):
    code = EVERY_VIEW.format(kind=kind).replace("shown.views:", "[next(iter(shown.views))]:")
    code += "\nimport sys\nprint(sorted({'torch', 'transformers', 'peft', 'accelerate'} & set(sys.modules)))"
    assert told(code, runs, described, before="").endswith("[]\n")


LIGHT = """
from evonb.cli import main
assert main({command!r}) == 0
import re, sys
slow = {{"torch", "transformers", "scipy.stats", "scipy.optimize", "nbformat", "jsonschema", "sklearn"}}
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]  # getrusage's counts the parent's, too
print(sorted(slow & set(sys.modules)), int(peak) >> 10, "MiB")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak of memory is told in /proc")
@pytest.mark.parametrize("command, kind", [
    ("report", "connectome"), ("report", "population"), ("report", "alignment"), ("report", "experts"),
    ("explore", "connectome"), ("explore", "population"), ("explore", "alignment")])
def test_pages_of_a_small_run_take_little_memory(command, kind, runs, described):
    "At most 150 MiB at a fresh process's peak; what is slow or large to import stays out."
    words = [command, kind, *(("--out", f"pages-{kind}") if command == "explore" else ())]
    said = told(LIGHT.format(command=words), runs, described)
    loaded, peak = re.search(r"(\[.*\]) (\d+) MiB", said).groups()
    assert loaded == "[]" and int(peak) <= 150, said


@pytest.fixture(scope="module")
def evolutions(runs):
    "A run as the demo's: three evolutions of four generations, each with newborns of several arms, and a corpus."
    from evonb.core import Seeds
    from evonb.widgets.connectome import example_connectome_run

    arms = ("random", "degree_preserving", "sign_shuffled")
    path = example_connectome_run(runs / "evolutions", Seeds(0), n_layers=3, width=64, arms=arms)
    for number in (1, 2):
        for part in ("evolution", "development"):
            shutil.copytree(path / part, path / f"lineage-{number}" / part)
    shutil.copytree(runs / "connectome" / "corpus", path / "corpus")
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak of memory is told in /proc")
def test_the_page_of_several_evolutions_takes_little_memory_and_draws_controls_without_torch(evolutions, described):
    "Thousands of replies, of which none is held; wirings to compare with are drawn where torch isn't there."
    said = told(LIGHT.format(command=["explore", str(evolutions), "--out", "pages"]), evolutions, described)
    loaded, peak = re.search(r"(\[.*\]) (\d+) MiB", said).groups()
    assert loaded == "[]" and int(peak) <= 150, said
    page = (evolutions / "pages" / "connectome.html").read_text()
    assert len(re.findall(r'"mask:[\d,]+":', page)) > 5000 and "fresh signed-degree control" in page


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak of memory is told in /proc")
def test_torch_isnt_loaded_for_a_page_where_it_can_be(evolutions, described):
    code = f"import evonb as ev\nx = ev.explore({str(evolutions)!r}, 'connectome')"
    code += "\nx.to_html('page.html', dict(evolution=[0], generation=[3], layer=[1]))"
    code += "\nimport sys\nprint(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert told(code, evolutions, described, before="") == "[]\n"


def test_the_explorer_that_runs_a_model_is_left_out_of_pages_and_says_why(runs, described):
    code = "from evonb.cli import main\nassert main(['explore', 'connectome', '--out', 'pages']) == 0"
    said = told(code, runs, described)
    assert "tokens" in said and 'pip install "evonb[train]"' in said
    assert [p.name for p in (runs / "pages").glob("*.html")] == ["connectome.html"]


@pytest.mark.parametrize("command, extra", [
    (["demo"], "train"), (["run", "--help"], "train"), (["serve", "connectome"], "train"),
    (["align", "connectome", "--data", "toy-reading"], "train"),
    (["population", "experts", "--task", "skill:agreement"], "train")])
def test_a_command_that_needs_an_extra_names_it(command, extra, runs, described):
    code = f"from evonb.cli import main\nprint('ended with', main({command!r}))"
    said = told(code, runs, described)
    assert f'pip install "evonb[{extra}]"' in said and "ended with 2" in said and "Traceback" not in said


def test_faces_and_registries_name_the_extra_too(runs, described):
    code = """
from evonb.core import MissingExtraError
import evonb.training
from evonb.registry import KINDS
for door in (lambda: evonb.training.GPT, lambda: KINDS["base-model"], lambda: KINDS["arm"]["random"]):
    try: door()
    except MissingExtraError as e: print(e)
    else: raise AssertionError("it opened")
"""
    said = told(code, runs, described)
    assert said.count('pip install "evonb[train]"') == 3 and "needs the package torch" in said


def test_another_packages_missing_module_is_left_as_it_is(runs, described):
    code = """
from evonb.core import extras_named
try:
    with extras_named(): import nothing_such
except ModuleNotFoundError as e: print(type(e).__name__, e)
"""
    assert told(code, runs, described) == "ModuleNotFoundError No module named 'nothing_such'\n"


def test_an_extra_that_names_another_brings_its_packages(runs, described):
    code = """
from evonb.core import extras
told = extras()
assert next(iter(told)) == "" and "numpy" in told[""] and "torch" not in told[""]
for extra in ("train", "population", "alignment", "cluster", "lm-eval", "all"): assert "torch" in told[extra], extra
assert "evonb" not in sum(told.values(), []) and set(told["population"]) < set(told["all"])
"""
    assert told(code, runs, described) == ""


def test_the_doctor_tells_what_a_light_install_has(runs, described):
    said = told("from evonb.cli import main\nassert main(['doctor']) == 0", runs, described)
    for name in ("python", "numpy", "extras", "devices", "data", "found", "cache", "self-test, looking"):
        assert re.search(f"^{name} +\\S", said, re.M), (name, said)
    assert "torch isn't installed" in said and "self-test, training" not in said

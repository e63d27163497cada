"""The project's own hygiene: notebooks, exports, lock, layers, sizes, and the checks that guard them."""

import ast
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
CI = ROOT / ".ci"
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
GENERATED = sorted(p for p in (ROOT / "evonb").glob("*.py") if p.name != "_modidx.py")
PROJECT = ("settings.ini", "pyproject.toml", "requirements.lock", "README.md", "LICENSE", ".ci", "nbs", "evonb", "data")
SKIPPED_FOLDERS = (".git", ".venv", "runs", "build", "dist", "_docs", "_proc", "__pycache__", ".ipynb_checkpoints",
                   "_cache", ".egg-info", ".hypothesis")  # ends of names


def load(name):
    "A script of .ci as a module."
    sys.path.insert(0, str(CI))
    try:
        spec = importlib.util.spec_from_file_location(f"ci_{name}", CI / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(CI))


notebooks, export = load("notebooks"), load("export")


def run(*command, cwd=ROOT, **env):
    "A command's exit code and all it printed."
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env={**os.environ, **env},
                          capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


# Notebooks carry source only -------------------------------------------------------------------------------------

def clean_notebook():
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    cells = [dict(cell_type="markdown", id="a1", metadata={}, source=["# title\n", "\n", "> what it holds"]),
             dict(cell_type="code", id="b2", metadata={}, source=["1 + 1"], outputs=[], execution_count=None)]
    return dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)


def shown(data):
    return [dict(output_type="display_data", metadata={}, data=data)]


WIDGET_STATE = {"application/vnd.jupyter.widget-state+json": {"state": {"m1": {"model_name": "IntSliderModel"}}}}
WIDGET_VIEW = {"application/vnd.jupyter.widget-view+json": {"model_id": "m1", "version_major": 2, "version_minor": 0}}
PLOTLY_DIV = {"text/html": ["<div id='3f0c' class='plotly-graph-div'></div>"]}
DIRT = {  # kind of dirt -> (what puts it there, what the message says)
    "widget state": (lambda nb, c: nb["metadata"].update(widgets=WIDGET_STATE), "widget state"),
    "model_id": (lambda nb, c: c.update(outputs=shown(WIDGET_VIEW)), "model_id"),
    "plotly HTML": (lambda nb, c: c.update(outputs=shown(PLOTLY_DIV)), "plotly"),
    "printed output": (lambda nb, c: c.update(outputs=[dict(output_type="stream", name="stdout", text="2")]), "stream"),
    "execution count": (lambda nb, c: c.update(execution_count=7), "execution count 7"),
    "notebook metadata": (lambda nb, c: nb["metadata"].update(language_info={"name": "python"}), "language_info"),
    "other kernel": (lambda nb, c: nb["metadata"]["kernelspec"].update(name="my-env"), "only kernelspec"),
    "cell metadata": (lambda nb, c: c["metadata"].update(tags=["x"], collapsed=True), "cell metadata"),
    "duplicate id": (lambda nb, c: c.update(id="a1"), "used twice"),
    "no id": (lambda nb, c: c.pop("id"), "id None"),
    "old format": (lambda nb, c: nb.update(nbformat_minor=4), "4.4 instead of 4.5"),
    "stray key": (lambda nb, c: c.update(prompt_number=3), "prompt_number"),
}


def written(tmp_path, nb):
    path = tmp_path / "dirty.ipynb"
    path.write_text(json.dumps(nb))
    return path


def test_a_clean_notebook_passes_and_clean_leaves_it_alone(tmp_path):
    path = written(tmp_path, clean_notebook())
    before = path.read_bytes()
    assert notebooks.main(["check", str(path)]) == 0
    assert notebooks.main(["clean", str(path)]) == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", DIRT)
def test_dirt_is_named_and_mended(kind, tmp_path, capsys):
    soil, message = DIRT[kind]
    nb = clean_notebook()
    soil(nb, nb["cells"][1])
    path = written(tmp_path, nb)
    assert notebooks.main(["check", str(path)]) == 1
    said = capsys.readouterr().err
    assert message in said and str(path) in said and "make clean-notebooks" in said
    assert notebooks.main(["clean", str(path)]) == 0
    mended = json.loads(path.read_text())
    assert notebooks.dirt(mended) == []
    assert [notebooks.source(c) for c in mended["cells"]] == [notebooks.source(c) for c in nb["cells"]]


def test_the_cell_is_named(tmp_path, capsys):
    nb = clean_notebook()
    nb["cells"][1]["execution_count"] = 7
    notebooks.main(["check", str(written(tmp_path, nb))])
    assert "cell 1 (b2)" in capsys.readouterr().err


def test_what_is_no_notebook_is_refused_by_name(tmp_path):
    path = tmp_path / "broken.ipynb"
    path.write_text('{"cells": [')
    with pytest.raises(SystemExit, match="broken.ipynb: not a notebook"):
        notebooks.main(["check", str(path)])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebooks_are_clean(path):
    assert notebooks.dirt(notebooks.read(path)) == []


# What is generated matches the notebooks -------------------------------------------------------------------------

@pytest.fixture(scope="module")
def small_project(tmp_path_factory):
    "A small project of the same shape, exported."
    root = tmp_path_factory.mktemp("project")
    for name in ("settings.ini", "pyproject.toml", ".ci"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    for folder in ("nbs/tutorials", "evonb"):
        (root / folder).mkdir(parents=True)
    for name in ("00_core.ipynb", "index.ipynb"):
        shutil.copy(ROOT / "nbs" / name, root / "nbs" / name)
    (root / "nbs" / "tutorials" / "01_story.ipynb").write_text(json.dumps(clean_notebook()))
    assert run(".ci/export.py", "write", cwd=root) == (0, "")
    return root


@pytest.fixture
def project(small_project, tmp_path):
    return shutil.copytree(small_project, tmp_path / "copy")


def everything(root):
    return {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and "__pycache__" not in p.parts}


def stale(project):
    "What the export check prints; it must fail, and must not touch the work tree."
    before = everything(project)
    code, said = run(".ci/export.py", "check", cwd=project)
    assert everything(project) == before
    assert code == 1 and "make export" in said
    return said


def test_a_fresh_export_passes_without_git(project):
    before = everything(project)
    assert run(".ci/export.py", "check", cwd=project, IN_TEST="1") == (0, "")
    assert everything(project) == before


def test_a_module_edited_by_hand_is_named(project):
    with (project / "evonb" / "core.py").open("a") as f:
        f.write("\nby_hand = 1\n")
    said = stale(project)
    assert "evonb/core.py: differs" in said and "by_hand" in said and "README.md" not in said


def test_a_module_without_notebook_is_named(project):
    (project / "evonb" / "orphan.py").write_text("x = 1\n")
    assert "evonb/orphan.py: no notebook exports it" in stale(project)


def test_a_changed_notebook_is_named_with_all_it_makes(project):
    path = project / "nbs" / "00_core.ipynb"
    nb = json.loads(path.read_text())
    nb["cells"].append(dict(cell_type="code", id="new1", metadata={}, outputs=[], execution_count=None,
                            source=["#| export\n", "def newcomer(): return 1"]))
    path.write_text(json.dumps(nb))
    said = stale(project)
    assert "evonb/core.py: differs" in said and "evonb/_modidx.py: differs" in said


def test_a_stale_readme_is_named(project):
    path = project / "nbs" / "index.ipynb"
    path.write_text(path.read_text().replace("## Status", "## State"))
    said = stale(project)
    assert "README.md: differs" in said and "evonb/" not in said.replace(str(project), "")


def test_a_new_notebook_makes_the_readme_stale_and_needs_a_title(project):
    path = project / "nbs" / "tutorials" / "02_more.ipynb"
    path.write_text(json.dumps(clean_notebook()))
    assert "02_more.ipynb" in stale(project)
    nb = clean_notebook()
    nb["cells"][0]["source"] = ["no title"]
    path.write_text(json.dumps(nb))
    code, said = run(".ci/export.py", "check", cwd=project)
    assert code == 1 and "02_more.ipynb: must open with a title" in said


def test_the_tree_has_one_line_a_notebook():
    text = export.tree(ROOT)
    for path in NOTEBOOKS:
        assert [path.name in line for line in text.splitlines()].count(True) == 1, path.name


def test_prose_stays_and_code_is_fenced_without_directives():
    code = dict(cell_type="code", source=["#| eval: false\n", "x = 1"])
    assert export.as_markdown(code) == "```python\nx = 1\n```"
    assert export.as_markdown(dict(cell_type="markdown", source="## a\n\nb")) == "## a\n\nb"
    assert export.as_markdown(dict(cell_type="code", source="#| hide\nx = 1")) == ""


# Lock and packaging ----------------------------------------------------------------------------------------------

def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked():
    "Each name and version of the lock; a line that isn't `name==version` fails."
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), f"not name==version: {line!r}"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_the_lock_pins_every_dependency_of_pyproject():
    project, lock = pyproject(), locked()
    extras = project["project"]["optional-dependencies"]
    groups = [project["project"]["dependencies"], extras["lab"], extras["dev"], project["build-system"]["requires"]]
    for requirement in map(Requirement, sum(groups, [])):
        name = canonicalize_name(requirement.name)
        assert name in lock, f"requirements.lock has no {name}"
        assert requirement.specifier.contains(lock[name]), f"{requirement} excludes {name}=={lock[name]} of the lock"
    assert lock["torch"] == "2.13.0"


def test_what_is_installed_is_what_the_lock_says():
    lock = locked()
    code, said = run("-m", "pip", "list", "--format=json", "--disable-pip-version-check")
    have = {canonicalize_name(p["name"]): p["version"] for p in json.loads(said[said.index("["):said.rindex("]") + 1])}
    differ = [f"{n}: {have.get(n)} installed, {v} locked" for n, v in lock.items()
              if n not in have or Version(have[n]).public != Version(v).public]
    assert code == 0 and differ == [], "run make install"


def test_environment_yml_takes_python_3_11_and_the_lock():
    import yaml

    parts = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert parts["channels"] == ["conda-forge"] and "python=3.11" in parts["dependencies"]
    assert {"pip": ["-r requirements.lock", "-e ."]} in parts["dependencies"]


def test_settings_and_pyproject_agree():
    settings = (ROOT / "settings.ini").read_text()
    project = pyproject()["project"]
    assert re.search(rf"^version = {re.escape(project['version'])}$", settings, re.M)
    assert re.search("^update_pyproject = False$", settings, re.M)
    assert f'__version__ = "{project["version"]}"' in (ROOT / "evonb" / "__init__.py").read_text()


def test_a_wheel_holds_every_module_and_the_dataset_registry(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in PROJECT:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path)
    code, said = run("-m", "pip", "wheel", *options, ".", cwd=copy)
    assert code == 0, said
    names = set(zipfile.ZipFile(next(tmp_path.glob("evonb-*.whl"))).namelist())
    assert {"evonb/data/datasets.json", *(f"evonb/{p.name}" for p in GENERATED)} <= names


# Imports and sizes -----------------------------------------------------------------------------------------------

def test_core_imports_nothing_heavy():
    heavy = ["nbdev", "execnb", "IPython", "torch", "transformers", "pandas", "sklearn", "plotly", "xarray"]
    code, said = run("-c", f"import sys, evonb.core; print([m for m in {heavy} if m in sys.modules])")
    assert (code, said.strip()) == (0, "[]")


def test_the_library_does_without_the_development_tools():
    modules = [f"evonb.{p.stem}" for p in GENERATED if p.stem != "__init__"]
    script = f"import sys, importlib\nfor m in ('nbdev', 'execnb', 'ghapi', 'pytest'): sys.modules[m] = None\n" \
             f"for m in {modules}: importlib.import_module(m)"
    code, said = run("-c", script, HF_HUB_OFFLINE="1")
    assert code == 0, said


def bodies(path):
    "Each function's name and the lines of its body, without docstring."
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[1 if ast.get_docstring(node) is not None and len(node.body) > 1 else 0]
            yield node.name, node.end_lineno - first.lineno + 1


@pytest.mark.parametrize("path", [*GENERATED, *sorted(CI.glob("*.py")), *sorted((ROOT / "docs").rglob("*.py")),
                                  *sorted((ROOT / "tests").rglob("*.py"))],
                         ids=lambda p: p.relative_to(ROOT).as_posix())
def test_function_bodies_are_short(path):
    assert [(name, n) for name, n in bodies(path) if n > 45] == []


def exported_cells(path):
    "The source of each exported cell, without its directive."
    texts = [notebooks.source(c) for c in notebooks.read(path)["cells"] if c["cell_type"] == "code"]
    return [t.split("\n", 1)[1] for t in texts if re.match(r"#\| ?exporti?\n", t)]


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if exported_cells(p)], ids=lambda p: p.stem)
def test_exported_cells_are_short(path):
    cells = [c.strip().splitlines() for c in exported_cells(path)]
    assert statistics.median(map(len, cells)) <= 10
    assert [line for cell in cells for line in cell if len(line) > 120] == []


# Nothing of the machine it was made on ---------------------------------------------------------------------------

def project_files():
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if not f.endswith(SKIPPED_FOLDERS)]
        yield from (Path(folder) / f for f in files)


def machine_paths():
    "Absolute folders of this machine, and the usual homes of any."
    here = {str(ROOT), str(ROOT.parent), str(Path.home()), sys.base_prefix}
    here = [re.escape(p) + r"(?![\w-])" for p in sorted(here - {"/", "/usr", "/usr/local", "/opt", "/tmp"})]
    homes = [f"/{home}/[a-z]" for home in ("home", "Users", "root", "work")]
    return re.compile(r"(?<![\w.:/*~-])(" + "|".join([*here, *homes]) + ")")


def test_no_file_names_a_path_of_the_machine_it_was_made_on():
    pattern, found = machine_paths(), []
    for path in project_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in pattern.finditer(text)]
    assert found == []


def test_machine_paths_would_be_found():
    pattern = machine_paths()
    assert pattern.search(f'data = "{ROOT}/nbs"') and pattern.search("open('/ho" + "me/me/x')")
    assert not pattern.search("https://example.org/home/me") and not pattern.search("nbs/work/me")

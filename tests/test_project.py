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
LIBRARY = sorted(p for p in (ROOT / "evonb").rglob("*.py") if p.name != "_modidx.py")
FACES = [p for p in LIBRARY if p.name == "__init__.py"]
PROJECT = ("settings.ini", "pyproject.toml", "setup.py", "requirements.lock", "README.md", "LICENSE", ".ci", "nbs",
           "evonb", "data")
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


notebooks, export, house = load("notebooks"), load("export"), load("house")


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

def a_notebook(title, module=None, code="", more=""):
    "A notebook that exports a cell."
    nb = clean_notebook()
    nb["cells"][0]["source"] = [f"# {title}\n", "\n", "> what it holds\n", "\n", more]
    texts = [f"#| default_exp {module}", f"#| export\n{code}"] if module else []
    nb["cells"] += [dict(cell_type="code", id=f"e{n}", metadata={}, source=t.splitlines(keepends=True), outputs=[],
                         execution_count=None) for n, t in enumerate(texts)]
    return nb


LAZY = """"Training"
_where = {"GPT": "gpt"}
def __getattr__(name):
    from importlib import import_module
    return getattr(import_module("." + _where[name], __name__), name)
"""
SMALL = {  # notebook below nbs -> title, module, code
    "00_core": ("core", "core", "def base(): return 1"),
    "training/10_gpt": ("gpt", "training.gpt", "from evonb.core import base\nclass GPT: x = base()"),
    "evolution/methods/10_cma": ("cma", "evolution.methods.cma",
                                 "from evonb.training.gpt import GPT\nclass CMA: x = GPT"),
    "index": ("evonb", None, "", "<!-- tree -->\n\n<!-- /tree -->\n\n## Status"),
    "tutorials/01_story": ("story",)}


@pytest.fixture(scope="module")
def small_project(tmp_path_factory):
    "A small project of the same shape, with modules in folders and a face of two lines, exported."
    root = tmp_path_factory.mktemp("project")
    for name in ("settings.ini", "pyproject.toml", "setup.py", "LICENSE", ".ci"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    for name, parts in SMALL.items():
        path = root / "nbs" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(a_notebook(*parts)))
    (root / "evonb" / "training" / "static").mkdir(parents=True)
    (root / "evonb" / "training" / "__init__.py").write_text(LAZY)
    (root / "evonb" / "training" / "static" / "view.js").write_text("1")
    (root / "evonb" / "__init__.py").write_text('"evonb"\n__version__ = "0"\nfrom evonb.core import base\n')
    shutil.copytree(ROOT / "data", root / "data")
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


@pytest.mark.parametrize("place", ["orphan.py", "training/orphan.py", "evolution/methods/orphan.py"])
def test_a_module_without_notebook_is_named(project, place):
    (project / "evonb" / place).write_text("x = 1\n")
    assert f"evonb/{place}: no notebook exports it" in stale(project)


def test_faces_are_kept_whole_and_those_that_lack_are_made(project):
    face = project / "evonb" / "training" / "__init__.py"
    assert face.read_text() == LAZY and (project / "evonb" / "evolution" / "methods" / "__init__.py").read_text() == ""
    first = (project / "evonb" / "__init__.py").read_text()
    assert first == '"evonb"\n__version__ = "0"\nfrom evonb.core import base\n'
    done = "import evonb; from evonb.training import GPT; from evonb.evolution.methods.cma import CMA; print(CMA.x.x)"
    assert run("-c", done, cwd=project, PYTHONPATH=str(project)) == (0, "1\n")
    face.write_text(LAZY + "# by hand\n")
    assert run(".ci/export.py", "write", cwd=project) == run(".ci/export.py", "check", cwd=project) == (0, "")
    assert face.read_text() == LAZY + "# by hand\n"
    face.unlink()
    assert "evonb/training/__init__.py: missing, though its folder holds modules" in stale(project)


def test_a_face_that_a_notebook_exports_is_no_hand_written_one(project):
    path = project / "nbs" / "training" / "00_face.ipynb"
    path.write_text(json.dumps(a_notebook("face", "training.__init__", "y = 1")))
    assert "evonb/training/__init__.py: differs" in stale(project)
    assert run(".ci/export.py", "write", cwd=project) == (0, "")
    assert project / "evonb" / "training" / "__init__.py" not in export.faces(project)
    path.write_text(json.dumps(a_notebook("face", "training.__init__", "y = 2")))
    assert "evonb/training/__init__.py: differs" in stale(project)


def test_a_module_that_moves_leaves_nothing_behind_unseen(project):
    old = project / "nbs" / "training" / "10_gpt.ipynb"
    (project / "nbs" / "text").mkdir()
    old.rename(project / "nbs" / "text" / "10_gpt.ipynb")
    path = project / "nbs" / "text" / "10_gpt.ipynb"
    path.write_text(path.read_text().replace("training.gpt", "text.gpt"))
    said = stale(project)
    assert "evonb/training/gpt.py: no notebook exports it" in said and "evonb/text/gpt.py: missing, though a" in said
    assert "evonb/text/__init__.py: missing, though its folder holds modules" in said


@pytest.mark.parametrize("name, module", [("00_core", "core"), ("evolution/methods/10_cma", "evolution/methods/cma")])
def test_a_changed_notebook_is_named_with_all_it_makes(project, name, module):
    path = project / "nbs" / f"{name}.ipynb"
    nb = json.loads(path.read_text())
    nb["cells"].append(dict(cell_type="code", id="new1", metadata={}, outputs=[], execution_count=None,
                            source=["#| export\n", "def newcomer(): return 1"]))
    path.write_text(json.dumps(nb))
    said = stale(project)
    assert f"evonb/{module}.py: differs" in said and "evonb/_modidx.py: differs" in said


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
        name = path.relative_to(ROOT / "nbs").parts[-1]
        same = sum(p.name == name for p in NOTEBOOKS)
        assert [f"── {name} " in line for line in text.splitlines()].count(True) == same, path.name


def test_a_readme_without_the_trees_markers_has_no_tree_and_still_needs_titles(project):
    path = project / "nbs" / "index.ipynb"
    assert "10_cma.ipynb" in (project / "README.md").read_text()
    text = path.read_text()
    path.write_text(text.replace("<!-- tree -->", "").replace("<!-- /tree -->", ""))
    assert run(".ci/export.py", "write", cwd=project) == run(".ci/export.py", "check", cwd=project) == (0, "")
    readme = (project / "README.md").read_text()
    assert "10_cma.ipynb" not in readme and "## Status" in readme and "from nbs/index.ipynb" in readme
    other = project / "nbs" / "tutorials" / "02_more.ipynb"
    other.write_text(json.dumps(a_notebook("more")).replace("# more", "more"))
    assert "02_more.ipynb: must open with a title" in run(".ci/export.py", "check", cwd=project)[1]
    other.unlink()
    path.write_text(text.replace("<!-- /tree -->", ""))
    assert "once each, in this order, or neither" in run(".ci/export.py", "write", cwd=project)[1]


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


def test_every_extra_that_a_message_or_a_page_names_is_one_of_pyproject():
    "Within `evonb[...]`; what calls another package's extra names that package."
    known, named = set(pyproject()["project"]["optional-dependencies"]), {}
    for path in [*(ROOT / "nbs").rglob("*.ipynb"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]:
        for extras in re.findall(r"evonb\[([a-z][a-z,-]*)\]", path.read_text()):
            named |= {extra: path.name for extra in extras.split(",")}
    assert {"cluster", "population", "translation", "formats"} <= set(named), "the pattern finds these"
    assert {extra: where for extra, where in named.items() if extra not in known} == {}


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


def object_of(required, **properties):
    "A JSON schema of an object with these keys and no others."
    return dict(type="object", required=required.split(), properties=properties, additionalProperties=False)


TEXT, ADDRESS = dict(type="string", minLength=1), dict(type="string", pattern="^https://[^ ]+$")
DOI = dict(type="string", pattern=r"^10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-\.\(\)\[\]\\]+$")
PERSON = object_of("family-names given-names", **{"family-names": TEXT, "given-names": TEXT})
AUTHORS = dict(type="array", minItems=1, uniqueItems=True, items=dict(anyOf=[object_of("name", name=TEXT), PERSON]))
PAPER = object_of("authors title type", authors=AUTHORS, title=TEXT, type=dict(const="article"), url=ADDRESS, doi=DOI,
                  year=dict(type="integer"), month=dict(type="integer", minimum=1, maximum=12),
                  status=dict(enum="abstract advance-online in-preparation in-press preprint submitted".split()))
CITATION = object_of(  # the fields of the Citation File Format 1.2.0 that we use, as its schema wants them
    "authors cff-version message title", authors=AUTHORS, message=TEXT, title=TEXT, abstract=TEXT, url=ADDRESS,
    license=dict(const="Apache-2.0"), type=dict(enum=["software", "dataset"]), version=TEXT,
    keywords=dict(type="array", items=TEXT, minItems=1, uniqueItems=True), references=dict(type="array", items=PAPER),
    **{"cff-version": dict(const="1.2.0"), "repository-code": ADDRESS})


def test_the_citation_is_valid_and_of_this_version():
    import jsonschema
    import yaml

    said, settings = yaml.safe_load((ROOT / "CITATION.cff").read_text()), (ROOT / "settings.ini").read_text()
    jsonschema.validate(said, CITATION)
    project = pyproject()["project"]
    assert (said["version"], said["license"]) == (project["version"], project["license"])
    assert f"git_url = {said['repository-code']}\n" in settings
    assert f"author = {said['authors'][0]['name']}\n" in settings and said["authors"] == project["authors"]
    papers = {r["url"].rpartition("/")[2]: r for r in said["references"]}
    assert set(papers) == {"2504.21047", "2503.01155"}
    assert all(r["doi"] == f"10.48550/arXiv.{number}" for number, r in papers.items())
    for change in (dict(version=0.1), dict(authors=[]), dict(pages="1"), {"cff-version": "1.3.0"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**said, **change}, CITATION)


LISTING = """
import sys, distutils.core
dist = distutils.core.run_setup("setup.py", ["-q"], "commandline")
build = dist.get_command_obj("build_py")
build.ensure_finalized()
print(*build.get_outputs(include_bytecode=False), sep="\\n")
"""


def on_disk(root):
    "What a wheel must hold, by its name there: modules, what lies in folders `static`, and data."
    library = [p for p in (root / "evonb").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    found = {p.relative_to(root).as_posix() for p in library if p.suffix == ".py" or "static" in p.parts}
    return found | {f"evonb/data/{p.name}" for p in (root / "data").glob("*.json")}


def in_wheel(root):
    "What a wheel of this project would hold, as setuptools lists it without building."
    code, said = run("-W", "ignore", "-c", "import setuptools\n" + LISTING, cwd=root)
    assert code == 0, said
    return {Path(line).as_posix().partition("/lib/")[2] for line in said.splitlines() if "/lib/" in line}


def copy_of_the_project(to):
    "The project without what nobody ships."
    for name in PROJECT:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, to / name)
    return to


def test_every_module_and_static_file_on_disk_is_in_the_wheels_list(tmp_path):
    assert in_wheel(copy_of_the_project(tmp_path)) == on_disk(ROOT)


def test_modules_and_static_files_in_folders_are_in_the_wheels_list(project):
    assert {"evonb/training/static/view.js", "evonb/evolution/methods/cma.py", "evonb/training/__init__.py"} <= (
        in_wheel(project))
    deep = project / "evonb" / "training" / "static" / "more" / "deep.css"
    deep.parent.mkdir()
    deep.write_text("")
    assert in_wheel(project) == on_disk(project)
    (project / "evonb" / "loose").mkdir()
    (project / "evonb" / "loose" / "new.py").write_text("")  # no face: setuptools passes it by
    assert on_disk(project) - in_wheel(project) == {"evonb/loose/new.py"}


def test_a_wheel_holds_every_module_and_the_dataset_registry(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_of_the_project(copy)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path)
    code, said = run("-m", "pip", "wheel", *options, ".", cwd=copy)
    assert code == 0, said
    names = set(zipfile.ZipFile(next(tmp_path.glob("evonb-*.whl"))).namelist())
    assert on_disk(ROOT) <= names
    assert {n for n in names if n.endswith((".py", ".js", ".css", ".json"))} == on_disk(ROOT)


# Imports and sizes -----------------------------------------------------------------------------------------------

def test_core_imports_nothing_heavy():
    heavy = ["nbdev", "execnb", "IPython", "torch", "transformers", "pandas", "sklearn", "plotly", "xarray"]
    code, said = run("-c", f"import sys, evonb.core; print([m for m in {heavy} if m in sys.modules])")
    assert (code, said.strip()) == (0, "[]")


def test_the_library_does_without_the_development_tools():
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in LIBRARY if p not in FACES]
    script = f"import sys, importlib\nfor m in ('nbdev', 'execnb', 'ghapi', 'pytest'): sys.modules[m] = None\n" \
             f"for m in {modules}: importlib.import_module(m)"
    code, said = run("-c", script, HF_HUB_OFFLINE="1")
    assert code == 0, said


def test_no_module_escapes_the_checks():
    "Found in another way than the checks find them: by setuptools, and by what Python itself would import."
    import pkgutil

    import evonb

    bench = importlib.util.spec_from_file_location("bench_imports", ROOT / "tests" / "bench" / "imports.py")
    measured = importlib.util.module_from_spec(bench)
    bench.loader.exec_module(measured)
    files = {Path(folder) / n for folder, _, names in os.walk(ROOT / "evonb") for n in names if n.endswith(".py")}
    assert files == {*LIBRARY, ROOT / "evonb" / "_modidx.py"}
    walked = {m.name for m in pkgutil.walk_packages(evonb.__path__, "evonb.") if "_modidx" not in m.name}
    here = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in LIBRARY} - {"evonb"}
    assert walked - {"evonb.data"} == here
    faces = {".".join(p.parent.relative_to(ROOT).parts) for p in FACES}
    assert {f"evonb.{m}" for m in measured.MODULES} == here - faces


def test_the_style_of_generated_code_is_excused_in_folders_too():
    text = "# %% a\nimport os\nx = 1\nimport sys\n" + f"y = {'1 + ' * 60}1\n"
    for name in ("evonb/core.py", "evonb/training/gpt.py", "evonb/evolution/methods/cma.py"):
        command = [Path(sys.executable).with_name("ruff"), "check", f"--stdin-filename={name}", "-"]
        done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FACES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_face_is_short(path):
    assert len(path.read_text().splitlines()) <= 40


def test_faces_load_nothing_and_offer_what_they_say():
    names = [".".join(p.parent.relative_to(ROOT).parts) for p in FACES]
    script = f"""import importlib, sys
faces = [importlib.import_module(n) for n in {names}]
modules = [m for m in sys.modules if m.split(".")[0] == "evonb" and m not in {names} and m != "evonb.core"]
print(modules, [m for m in ("torch", "transformers", "pandas", "plotly", "xarray") if m in sys.modules])
print([f"{{f.__name__}}.{{n}}" for f in faces for n in getattr(f, "__all__", []) if not hasattr(f, n)])"""
    assert run("-c", script, HF_HUB_OFFLINE="1") == (0, "[] []\n[]\n")


def bodies(path):
    "Each function's name and the lines of its body, without docstring."
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[1 if ast.get_docstring(node) is not None and len(node.body) > 1 else 0]
            yield node.name, node.end_lineno - first.lineno + 1


@pytest.mark.parametrize("path", [*LIBRARY, *sorted(CI.rglob("*.py")), *sorted((ROOT / "docs").rglob("*.py")),
                                  *sorted((ROOT / "tests").rglob("*.py"))],
                         ids=lambda p: p.relative_to(ROOT).as_posix())
def test_function_bodies_are_short(path):
    assert [(name, n) for name, n in bodies(path) if n > 45] == []


def exported_cells(path):
    "The source of each exported cell, without its directive."
    texts = [notebooks.source(c) for c in notebooks.read(path)["cells"] if c["cell_type"] == "code"]
    return [t.split("\n", 1)[1] for t in texts if re.match(r"#\| ?exporti?\n", t)]


def lines_of_code(text):
    "A cell's lines without signatures, which give each parameter a line of its own, and docstrings."
    tree, left_out = ast.parse(text), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            says = ast.get_docstring(node) is not None
            begin, end = node.lineno, node.body[0].end_lineno if says else node.body[0].lineno - 1
            left_out |= set(range(begin + 1, end + 1))
    return sum(bool(line.strip()) for i, line in enumerate(text.splitlines(), 1) if i not in left_out)


TWO_HOMES = {  # public names that mean different things in two modules, and why they may
    "KIND": "each kind of run describes itself under this name, in the module that makes such runs",
}


def public_names(path):
    "What a module makes at its top level under names without an underscore."
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            patched = any("patch" in ast.unparse(d) for d in node.decorator_list)  # a method of a class
            yield from [] if patched else [node.name]
        assigned = isinstance(node, ast.Assign | ast.AnnAssign)
        for t in getattr(node, "targets", None) or [node.target] if assigned else []:
            yield from (n.id for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def test_a_public_name_has_one_home():
    homes = {}
    for path in set(LIBRARY) - set(FACES):
        for name in set(public_names(path)):
            if not name.startswith("_"):
                homes.setdefault(name, []).append(str(path.relative_to(ROOT)))
    twice = {n: sorted(p) for n, p in homes.items() if len(p) > 1 and n not in TWO_HOMES}
    assert not twice, f"Give each its own name, or one home: {twice}"
    assert len(homes) > 1000


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if exported_cells(p)], ids=lambda p: p.stem)
def test_exported_cells_are_short(path):
    cells = exported_cells(path)
    assert statistics.median(map(lines_of_code, cells)) <= 14
    assert [line for cell in cells for line in cell.splitlines() if len(line) > 120] == []


def test_files_of_tests_have_names_of_their_own():
    "pytest imports them by their names alone, unless they lie in a package."
    names = [p.name for p in (ROOT / "tests").rglob("test_*.py") if not (p.parent / "__init__.py").exists()]
    assert sorted(n for n in set(names) if names.count(n) > 1) == []


def test_a_cells_length_is_that_of_its_code():
    cell = 'def f(\n    a, # one\n    b # another\n): # -> more\n    "Says it."\n    c = a + b\n    return c\n'
    assert lines_of_code(cell) == 3 and lines_of_code("x = 1\n\ny = 2") == 2


# The house's measures --------------------------------------------------------------------------------------------

HOUSE = {
    "__init__.py": "", "core.py": "def base():\n    'One.'\n    def _in(): return 1\n    return _in()\n",
    "text/__init__.py": '_where = {"Corpus": "corpora"}\n',
    "text/corpora.py": "from ..core import base\nclass Corpus: pass\n",
    "training/__init__.py": '_where = dict(gpt=["GPT"])\n',
    "training/gpt.py": "from evonb.text import Corpus\nclass GPT:\n    def f(self):\n        from .late import g\n",
    "training/late.py": "from ..text.corpora import Corpus\ndef g(): pass\ndef _twice(): pass\n_twice, _twice\n"
                        "def _long():\n" + "    x = 1\n" * 5 + "_long()\n",
    "training/features.py": "from ..training import GPT\n"}  # fmt: skip


@pytest.fixture
def small_house(tmp_path):
    for name, text in HOUSE.items():
        (tmp_path / "evonb" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "evonb" / name).write_text(text)
    (tmp_path / "README.md").write_text("12345")
    exported = a_notebook("gpt", "training.gpt", "1")
    (tmp_path / "nbs" / "training").mkdir(parents=True)
    (tmp_path / "nbs" / "training" / "10_gpt.ipynb").write_text(json.dumps(exported))
    exported["cells"][1]["source"] = ["import os"]  # is no example
    (tmp_path / "nbs" / "training" / "20_late.ipynb").write_text(json.dumps(exported))
    return tmp_path


def test_the_house_is_measured_in_folders_and_through_faces(small_house):
    figures, behind = house.measures(small_house)
    lines = {n: len(t.splitlines()) for n, t in HOUSE.items() if "__init__" not in n}
    assert behind == ["the longest chain: core < text.corpora < training.gpt < training.features",
                      "the largest module: training.late", "short of examples: training/20_late.ipynb"]
    assert figures == {
        "modules": 5, "lines": sum(lines.values()), "layers": 4, "layers with functions' imports": 5,
        "largest module": lines["training/late.py"], "lines that features needs": sum(lines.values()),
        "lines that engine needs": None, "lines that alignment.run needs": None, "functions": 6,
        "private functions, %": 50.0, "crumbs": 1, "median body": 1.0, "longest body": 5,
        "notebooks short of examples": 1, "README, bytes": 5}  # fmt: skip


def test_the_houses_table_says_what_is_reached():
    shown = house.table({"layers": 8, "crumbs": 1000, "lines": 5, "lines that engine needs": None}, {"layers": 9})
    assert [line.split() for line in shown.splitlines()[1:]] == [
        ["layers", "9", "8", "at", "most", "9", "yes"], ["crumbs", "-", "1,000", "at", "most", "80", "no"],
        ["lines", "-", "5"], ["lines", "that", "engine", "needs", "-", "-"]]
    assert house.reached_aim("median body", 5.5) == "no" and house.reached_aim("median body", 6) == "yes"
    assert set(house.BEFORE) == set(house.measures(ROOT)[0]) and set(house.AIMS) <= set(house.BEFORE)


def test_modules_that_import_each_other_are_one_layer():
    assert house.chain({"a": {"b"}, "b": {"a", "c"}, "c": set(), "d": {"a"}}) == ["c", "a", "d"]
    assert house.chain({}) == []


def test_the_houses_imports_are_those_that_grimp_finds():
    import grimp

    project = house.Project(ROOT)
    mine = {(f"evonb.{a}", f"evonb.{b}") for a, found in house.edges(project, True).items() for b in found}
    graph, faces = grimp.build_graph("evonb", cache_dir=None), {f"evonb.{n}".rstrip(".") for n in project.faces()}
    theirs = {(a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)
              if "evonb._modidx" not in (a, b) and not {a, b} & faces}
    through = {a for a in graph.modules if graph.find_modules_directly_imported_by(a) & faces}
    assert len(mine) > 100 and theirs <= mine and {a for a, _ in mine - theirs} <= through


# Nothing of the machine it was made on ---------------------------------------------------------------------------

def project_files():
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if not f.endswith(SKIPPED_FOLDERS)]
        yield from (Path(folder) / f for f in files if f != ".git")  # in a second checkout it names the first's folder


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

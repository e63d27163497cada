"""The site's scripts: directives, what an execution depends on, failing cells, pages, the reference, links."""

import importlib.util
import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from threading import Thread

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from maker import (  # noqa: E402
    api,
    entries,
    execution,
    faces,
    figures,
    links,
    measured,
    pages,
    reach,
    serving,
    sources,
    writing,
)

code, prose = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
CORE = '''"""What everything rests on"""

LIMIT = 3 # metres

def base(
    x, # (n_rows, 2) metres
    scale: float = 1.5, # a factor
    *, # what follows is named
    how: str | None = None # "a" | "b"
) -> list: # (n_rows,) metres
    "Rows <b>scaled</b> by `scale`."
    return x

def _hidden(): pass
'''
SHAPES = '''"""Shapes"""
from dataclasses import dataclass, field
from fastcore.basics import patch
from small.core import base

@dataclass
class Shape:
    "A shape."
    sides: int # how many
    notes: dict = field(default_factory=dict) # anything

@patch
def area(self: Shape, unit="m"): # -> square metres
    "Its area."
    return base(1)

@patch(as_prop=True)
def empty(self: Shape) -> bool: return not self.sides
'''


@pytest.fixture
def project(tmp_path):
    "A small project: shapes uses core, alone uses nothing."
    for name, text in dict(core=CORE, shapes=SHAPES, alone="x = 1\n", __init__='__version__ = "1"\n').items():
        file = tmp_path / "small" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\ntst_flags = slow\nversion = 1\n")
    (tmp_path / "nbs").mkdir()
    return sources.Project(tmp_path, "small")


GPT = """"Models"
from ..text.corpora import Corpus
from ..core import base

class GPT:
    "A model."

def train(gpt: GPT, corpus: Corpus): # -> loss
    "Its loss."
    from small.plots import draw
    return draw
"""
LAZY = """def __getattr__(name):
    from importlib import import_module
    if name not in _where: raise AttributeError(name)
    return getattr(import_module("." + _where[name], __name__), name)
"""
WINGS = {  # a library in folders: what each file holds
    "__init__.py": '__version__ = "1"\n', "core.py": CORE, "_modidx.py": "d = {}\n", "cli.py": "def main(): pass\n",
    "text/__init__.py": '"Text"\nfrom .corpora import Corpus\n',
    "text/corpora.py": 'from ..core import base\n\nclass Corpus:\n    "Words."\n',
    "training/__init__.py": '"Training <i>models</i>"\n_where = {"GPT": "gpt", "fit": "lifetime"}\n'
                            f'__all__ = ["GPT", "fit"]\n{LAZY}',
    "training/gpt.py": GPT, "training/alone.py": "y = 1\n",
    "training/lifetime.py": '"""Lifetimes"""\nfrom . import gpt\nfrom .gpt import GPT\n'
                            'from fastcore.basics import patch\n\ndef fit(): pass\n\n'
                            '@patch\ndef grow(self: GPT): # -> older\n    "Grows."\n',
    "evolution/__init__.py": '"Evolution"\n_names = dict(search=["Search"], methods="CMA")\n'
                             '_where = {n: m for m, names in _names.items() for n in names}\n',
    "evolution/search.py": "class Search: pass\n", "evolution/methods/__init__.py": '_of = {"cma": "CMA"}\n',
    "evolution/methods/cma.py": "from ..search import Search\n\nclass CMA(Search): pass\n",
    "plots/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .lines import draw\n",
    "plots/lines.py": "from ..text import Corpus\n\ndef draw(): pass\n",
    "widgets/__init__.py": "", "widgets/view.py": 'CODE = open("static/view.js")\n', "widgets/static/view.js": "1",
    "widgets/static/more/deep.css": ""}  # fmt: skip


@pytest.fixture
def wings(tmp_path):
    "A small library in folders, each with its face; some faces are lazy."
    for name, text in WINGS.items():
        file = tmp_path / "small" / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(text)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nversion = 1\n")
    (tmp_path / "nbs").mkdir()
    return sources.Project(tmp_path, "small")


FRONT = """# Front

[First](nbs/tutorials/1_evolve_a_connectome.ipynb), [more](more.md).

```{toctree}
:hidden:

tutorials
modules
reference
gallery
measured
more
nbs/index
changelog
contributing
```
"""


def write_texts(project):
    "The texts that a site is made of besides notebooks."
    project.pages.mkdir(parents=True)
    (project.pages / "index.md").write_text(FRONT)
    (project.pages / "more.md").write_text("# More\n\nSee [how to change it](../../CONTRIBUTING.md).\n")
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        (project.root / name).write_text("# Text\n")


def notebook(project, name, *cells):
    nb = nbformat.v4.new_notebook(cells=[prose(f"# {name}\n\n> what it holds"), *cells])
    path = project.notebooks / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


def test_the_scripts_say_how_to_use_them():
    done = subprocess.run([sys.executable, ROOT / "docs" / "build.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "execute" in done.stdout and "serve" in done.stdout


# Directives ------------------------------------------------------------------------------------------------------

def test_directives_open_a_cell_and_are_taken_off():
    text = "#| export\n#|eval: false\n\nx = 1\n#| hide\ny = 2"
    assert sources.directives(text) == {"export": "", "eval": "false"}
    assert sources.without_directives(text) == "x = 1\n#| hide\ny = 2"
    assert sources.directives("#| default_exp core") == {"default_exp": "core"}


@pytest.mark.parametrize("text, runs", [("1", True), ("#| hide\n1", True), ("#| export\n1", True),
                                        ("#| slow\n1", False), ("#| eval: false\n1", False),
                                        ("#| eval: False\n1", False)])
def test_what_is_run_is_what_nbdev_runs(text, runs):
    assert sources.is_run(text, ("slow",)) is runs


def test_the_projects_test_flags_are_read(project):
    assert sources.test_flags(project) == ("slow",)


def test_a_notebook_that_is_none_is_named(project):
    (project.notebooks / "00_bad.ipynb").write_text("{")
    with pytest.raises(sources.BuildError, match="00_bad.ipynb: not a notebook"):
        sources.read_notebook(project.notebooks / "00_bad.ipynb")


def test_notebooks_are_found_by_name_and_unknown_ones_refused(project):
    first, second = notebook(project, "00_a"), notebook(project, "tutorials/1_b")
    notebook(project, "_draft"), notebook(project, ".ipynb_checkpoints/00_a")
    assert sources.notebook_paths(project) == [first, second]
    assert sources.notebook_paths(project, ["1_b"]) == [second]
    with pytest.raises(sources.BuildError, match="no notebook 2_c"):
        sources.notebook_paths(project, ["2_c"])


# What an execution depends on ------------------------------------------------------------------------------------

def key(project, *texts):
    nb = nbformat.v4.new_notebook(cells=[c if isinstance(c, dict) else code(c) for c in texts])
    return reach.cache_key(project, nb, skipped=("slow",))


def test_imports_reach_through_modules():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}
    assert reach.reached({"a"}, graph) == {"a", "b", "c"} and reach.reached({"numpy"}, graph) == set()


def test_every_form_of_import_and_mention_counts(project):
    names = faces.Names.of(project)
    for text in ("from small.core import base", "import small.core as c", "from small import core",
                 "def f():\n    from small.core import base", "%time x\nfrom small.core import base",
                 "run(['python', '-c', 'import small.core'])"):
        assert reach.used_by(text, names) & set(project.modules()) == {"core"}, text
    for text in ("!small demo", 'run(["small", "demo"])', "run('bin/small demo')"):
        assert "cli" in reach.used_by(text, names), text
    assert reach.used_by("from .core import base", names, here="small") == {"core"}


def test_the_key_reacts_to_the_notebook_and_to_what_it_reaches_only(project):
    text = "from small.shapes import Shape"
    before = key(project, text)
    assert key(project, text) == before and key(project, text + "\n1") != before
    (project.root / "small" / "alone.py").write_text("x = 2\n")
    assert key(project, text) == before, "alone.py isn't reached"
    (project.root / "small" / "core.py").write_text(CORE + "\n")
    assert key(project, text) != before, "core.py is, through shapes.py"


def test_prose_and_cells_that_dont_run_leave_the_key(project):
    assert key(project, "1", prose("a")) == key(project, "1", prose("b"), "#| eval: false\nx", "#| slow\ny")


@pytest.mark.parametrize("file", ["requirements.lock", "data/names.json", "small/static/view.js", "small/__init__.py"])
def test_what_modules_read_counts(project, file):
    (project.root / "small" / "core.py").write_text(CORE + '\nTEXT = open("static/view.js"), open("names.json")\n')
    before = key(project, "import small.core"), key(project, "import small.alone")
    path = project.root / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("new")
    assert key(project, "import small.core") != before[0]
    assert (key(project, "import small.alone") != before[1]) == (file in ("requirements.lock", "small/__init__.py"))


# A library in folders -------------------------------------------------------------------------------------------

def on_disk(project):
    "Modules and faces as they lie there, found in another way than the scripts do."
    found = subprocess.run(["find", project.package, "-name", "*.py"], cwd=project.root, capture_output=True, text=True)
    names = {line.removesuffix(".py").replace("/", ".") for line in found.stdout.split() if "_modidx" not in line}
    return {n.removesuffix(".__init__").partition(".")[2] for n in names}


def test_every_module_and_face_on_disk_is_in_the_graph(wings):
    assert set(reach.module_graph(wings)) == on_disk(wings)
    file = wings.root / "small" / "training" / "deep" / "deeper.py"
    file.parent.mkdir()
    file.write_text("")
    assert "training.deep.deeper" in reach.module_graph(wings)


def test_evonbs_own_library_is_whole():
    project = sources.Project(ROOT)
    assert set(reach.module_graph(project)) == on_disk(project) and faces.problems(project) == []
    told = {sources.module_of(sources.read_notebook(p)): p for p in sources.notebook_paths(project)}
    assert set(project.modules()) == set(told) - {None}, "each module has its notebook, each notebook its module"
    assert {p.relative_to(ROOT).as_posix() for p in project.static_files()} == {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "evonb").rglob("*")
        if p.is_file() and p.suffix not in (".py", ".pyc")}, "what is no code lies in a folder static"
    library = api.Library.of(project)
    for _, made in writing.PICTURES.values():
        assert not made or len(library.names.get(made, [])) == 1, f"no class {made}"


def test_nothing_is_defined_twice_and_no_heading_is_skipped():
    "What only a whole build of the site would find otherwise."
    project = sources.Project(ROOT)
    found = [d.full_name for m in api.Library.of(project).modules.values() for d in m.definitions]
    assert [name for name in set(found) if found.count(name) > 1] == []
    skipped = []
    for path in sources.notebook_paths(project):
        cells = [c.source for c in sources.read_notebook(path).cells if c.cell_type == "markdown"]
        plain = re.sub(r"^```.*?^```", "", "\n".join(cells), flags=re.M | re.S)
        levels = [0, *(len(m[1]) for m in re.finditer(r"^(#+) ", plain, re.M))]
        skipped += [path.name for a, b in zip(levels, levels[1:]) if b > a + 1]
    assert skipped == []


def shown_imports(path):
    "The imports of evonb that a file of the project holds or shows: full names of modules and what is taken from them."
    text = path.read_text()
    if path.suffix == ".ipynb":
        text = "\n".join(c.source for c in sources.read_notebook(path).cells)
    for found in re.finditer(r"\bfrom (evonb(?:\.\w+)*) import (\([^)]*\)|[\w, ]*\w)", text):
        names_ = re.sub(r"\bas \w+|#.*", "", found[2])
        yield from (f"{found[1]}.{n}" for n in re.findall(r"\w+", names_))
    yield from re.findall(r"\bimport (evonb(?:\.\w+)+)", text)


@pytest.mark.parametrize("folder", ["docs", "nbs", "tests", ".ci", ""], ids=lambda f: f or "texts")
def test_every_import_of_evonb_that_the_project_shows_exists(folder):
    names = faces.Names.of(sources.Project(ROOT))
    texts = [ROOT / f"{n}.md" for n in ("README", "CONTRIBUTING", "CHANGELOG")]
    files = (ROOT / folder).rglob("*") if folder else texts
    made_up = (Path(__file__).name, "test_project.py")  # of small projects
    files = [p for p in files if p.suffix in (".py", ".md", ".ipynb") and p.is_file() and p.name not in made_up]
    assert [f"{p.relative_to(ROOT)}: {n}" for p in files for n in shown_imports(p) if not names.is_there(n)] == []


@pytest.mark.parametrize("text, leads", [
    ("from small.training import GPT", {"training", "training.gpt"}),
    ("from small.training import fit", {"training", "training.lifetime"}),
    ("from small.training.gpt import GPT", {"training.gpt"}),
    ("import small.training.gpt", {"training.gpt"}),
    ("from small import training", {"training", "training.gpt", "training.lifetime"}),
    ("from small.training import *", {"training", "training.gpt", "training.lifetime"}),
    ("import small.training as t", {"training", "training.gpt", "training.lifetime"}),
    ("from small.training import gpt", {"training", "training.gpt"}),
    ("run('python -c \"import small.training.gpt\"')", {"training.gpt"}),
    ("small.training.GPT(1)", {"training", "training.gpt"}),
    ("run('from small.training import (fit as f,\\n x)')", {"training", "training.lifetime"}),
    ("from small.evolution import CMA", {"evolution", "evolution.methods", "evolution.methods.cma"}),
    ("from small.evolution.methods import CMA", {"evolution.methods", "evolution.methods.cma"}),
    ("from small.text import Corpus", {"text", "text.corpora"})])
def test_names_lead_through_faces_to_their_modules(wings, text, leads):
    assert reach.used_by(text, faces.Names.of(wings)) - {"training"} == leads - {"training"}
    reached = reach.reached(leads, reach.module_graph(wings))
    assert reached >= {".".join(m.split(".")[:n]) for m in leads for n in range(m.count(".") + 2)}, "faces above count"


def test_relative_imports_of_every_level_and_those_in_functions_are_edges(wings):
    graph = reach.module_graph(wings)
    assert graph["training.gpt"] == {"text.corpora", "core", "plots", "plots.lines", "training"}
    assert graph["evolution.methods.cma"] == {"evolution.methods", "evolution.search"}
    assert graph["training"] == {""}, "what a lazy face offers isn't loaded with it"
    assert graph["text"] == {"", "text.corpora"}, "what a face imports is"
    assert graph["plots"] == {""}, "what only type checkers import isn't"


def test_the_key_reacts_to_nested_modules_and_faces_and_their_static_files(wings):
    text = "from small.training import GPT"
    changes = {"training/gpt.py": True, "text/corpora.py": True, "plots/lines.py": True, "core.py": True,
               "training/__init__.py": True, "plots/__init__.py": True, "training/alone.py": False,
               "training/lifetime.py": False, "evolution/search.py": False, "widgets/static/view.js": False}
    for name, counts in changes.items():
        before, file = key(wings, text), wings.root / "small" / name
        file.write_text(file.read_text() + "\n# changed\n")
        assert (key(wings, text) != before) is counts, name
    for name in ("view.js", "more/deep.css"):
        before = key(wings, "import small.widgets.view")
        (wings.root / "small" / "widgets" / "static" / name).write_text("2")
        assert key(wings, "import small.widgets.view") != before, name


def test_a_module_that_moves_changes_the_key(wings):
    text, folder = "from small.training import GPT", wings.root / "small" / "training"
    before = key(wings, text)
    (folder / "gpt.py").rename(folder / "models.py")
    face = (folder / "__init__.py").read_text()
    (folder / "__init__.py").write_text(face.replace('"gpt"', '"models"'))
    assert key(wings, text) != before and "training.models" in reach.used_by(text, faces.Names.of(wings))


@pytest.mark.parametrize("file, text, said", [
    ("training/__init__.py", '_where = {"GPT": "gpt", "GTP": "gpt"}', "'GTP' stands for small.training.gpt.GTP, which"),
    ("training/__init__.py", '_where = {"GPT": "gtp"}', "'gtp' leads to no module"),
    ("training/__init__.py", '_where = {"gpt": ["GPT", "GTP"]}', "'GTP' stands for small.training.gpt.GTP, which"),
    ("training/__init__.py", "from .gpt import GTP", "'GTP' stands for small.training.gpt.GTP, which"),
    ("training/__init__.py", "from .gtp import GPT", "imports small.training.gtp, which doesn't exist"),
    ("training/__init__.py", "__all__ = ['GPT']", "__all__ names 'GPT', which it doesn't offer"),
    ("evolution/__init__.py", '_where = {"methods": ["CMB"]}', "'CMB' stands for small.evolution.methods.CMB, which"),
    ("training/lifetime.py", "def f():\n    from ..gpt import GPT", "lifetime.py: imports small.gpt, which"),
    ("training/lifetime.py", "from small.training import GTP", "lifetime.py: imports small.training.GTP, which"),
    ("loose/new.py", "", "loose/new.py is in a folder without __init__.py")])
def test_faces_and_imports_that_lead_nowhere_are_named(wings, file, text, said):
    assert faces.problems(wings) == []
    path = wings.root / "small" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    assert any(said in line for line in faces.problems(wings)), faces.problems(wings)
    with pytest.raises(sources.BuildError, match="small/"):
        writing.write_sources(wings, [])


def test_a_module_hidden_by_a_folder_is_refused(wings):
    (wings.root / "small" / "training.py").write_text("")
    with pytest.raises(sources.BuildError, match="small.training is a module and a folder"):
        faces.Names.of(wings)


def test_faces_that_lead_to_each_other_end(wings):
    (wings.root / "small" / "training" / "__init__.py").write_text("from ..text import a\n")
    (wings.root / "small" / "text" / "__init__.py").write_text("from ..training import a\n")
    assert len(faces.problems(wings)) > 0 and "text" in reach.used_by("import small.training", faces.Names.of(wings))


def test_names_are_linked_by_every_way_to_say_them(wings):
    from maker.sphinx_parts import resolved

    library = api.Library.of(wings)
    assert [d.full_name for d in library.by_owner["small.training.gpt"]] == [
        "small.training.gpt.GPT", "small.training.gpt.train", "small.training.gpt.GPT.grow"]
    objects = {d.full_name: 1 for found in library.by_owner.values() for d in found}
    for name in ("GPT", "gpt.GPT", "training.gpt.GPT", "training.GPT", "small.training.GPT", "small.training.gpt.GPT"):
        assert resolved(name, "small.text.corpora", objects, library.names) == "small.training.gpt.GPT", name
    assert resolved("gpt.train", "small.training.lifetime", objects, library.names) == "small.training.gpt.train"


def test_notebooks_are_listed_by_wing_and_the_reference_begins_with_faces(wings):
    made = {"00_core": "core", "70_cli": "cli", "text/10_corpora": "text.corpora", "training/10_gpt": "training.gpt",
            "training/20_lifetime": "training.lifetime", "evolution/10_search": "evolution.search",
            "evolution/methods/10_cma": "evolution.methods.cma", "novel/1_new": None, "tutorials/1_story": None}
    paths = [notebook(wings, name, *([code(f"#| default_exp {m}")] if m else [])) for name, m in made.items()]
    pages_ = [writing.described(wings, p) for p in paths]
    site = writing.Site(wings, api.Library.of(wings))
    groups = writing.by_wing(pages_)
    assert list(groups) == ["Foundations", "Text", "Training", "Evolution", "Novel", "Entry points"]
    assert [p.stem for p in groups["Evolution"]] == ["10_search", "10_cma"]
    writing.write_modules(site, pages_), writing.write_reference(site, pages_)
    listed = (site.source / "modules.md").read_text()
    assert all(f"]({p.name}.ipynb): what it holds" in listed for p in pages_ if not p.is_tutorial)
    assert "## Training\n\nTraining \\<i\\>models" in listed and "\nnbs/training/10_gpt\n" in listed
    reference = (site.source / "reference.md").read_text()
    order = ("core", "text", "text.corpora", "training", "training.gpt", "training.lifetime", "evolution",
             "evolution.search", "evolution.methods", "evolution.methods.cma", "cli")
    places = [reference.index(f"](api/{n}.md)") for n in order]
    assert places == sorted(places)
    face = (site.source / "api" / "training.md").read_text()
    assert "| `GPT` | A model. | `small.training.gpt.GPT` |" in face and "[small.training.gpt](training.gpt.md)" in face
    names = writing.page_names(pages_)
    assert "10_gpt" in names and "10_search" in names and names["training/10_gpt"] == "nbs/training/10_gpt"


def test_notebooks_of_the_same_name_are_called_with_their_folder(wings):
    pages_ = [writing.described(wings, notebook(wings, n)) for n in ("a/10_run", "b/10_run", "00_core")]
    assert writing.page_names(pages_) == {n: f"nbs/{n}" for n in ("00_core", "a/10_run", "b/10_run")}


def test_a_notebook_whose_module_isnt_there_ends_the_build(wings):
    page_ = writing.described(wings, notebook(wings, "training/10_gpt", code("#| default_exp training.gtp")))
    with pytest.raises(sources.BuildError, match="10_gpt.ipynb exports training.gtp, which isn't there"):
        writing.write_reference(writing.Site(wings, api.Library.of(wings)), [page_])


# Executing -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    "Two notebooks are executed: one is whole, one fails. (project, good path, bad path, what was said)"
    project = sources.Project(tmp_path_factory.mktemp("project"), "small")
    (project.root / "small").mkdir()
    good = notebook(project, "00_good", code("import os\nfrom pathlib import Path"), code("#| eval: false\n1/0"),
                    code("print(Path.cwd().name, os.environ['EVONB_STATIC'], 'PYTHONSTARTUP' in os.environ)"),
                    code("#| slow\n1/0"), code("6 * 7"))
    bad = notebook(project, "10_bad", code("a = 1"), code("#| hide\nvalues = {}\nvalues['<b>']"))
    (project.root / "settings.ini").write_text("[DEFAULT]\ntst_flags = slow\n")
    with pytest.raises(sources.BuildError) as e:
        execution.execute(project)
    return project, good, bad, str(e.value)


def test_a_failing_cell_is_named_with_its_traceback(executed):
    said = executed[3]
    assert "nbs/10_bad.ipynb: cell 2 (" in said and "values['<b>']" in said and "KeyError: '<b>'" in said
    assert "1 of 2 fail: 10_bad.ipynb" in said and "\x1b" not in said


def test_cells_run_in_the_notebooks_folder_and_skipped_ones_dont(executed):
    project, good, _, _ = executed
    nb = sources.read_notebook(good)
    done = execution.kept(execution.Cache.of(project), good, nb)
    shown = execution.with_outputs(nb, done)
    assert shown.cells[3].outputs[0].text.startswith("nbs 1 ") and shown.cells[5].outputs[0].data["text/plain"] == "42"
    assert shown.cells[2].outputs == [] and shown.cells[4].outputs == []


def test_what_ran_isnt_run_again_and_what_failed_isnt_kept(executed, monkeypatch):
    project, good, bad, _ = executed
    cache = execution.Cache.of(project)
    monkeypatch.setattr(execution, "executed", lambda *a: pytest.fail("run again"))
    assert execution.run_one(cache, good).cached
    assert execution.kept(cache, bad, sources.read_notebook(bad)) is None
    assert [p.name.split("@")[0] for p in sorted(cache.folder.iterdir())] == ["00_good"]


def test_a_truncated_execution_is_thrown_away(executed):
    project, good, _, _ = executed
    cache, nb = execution.Cache.of(project), sources.read_notebook(good)
    place = cache.place(good, nb)
    whole = place.read_bytes()
    place.write_bytes(whole[:100])
    assert execution.kept(cache, good, nb) is None and not place.exists()
    place.write_bytes(whole)


def test_the_oldest_executions_are_forgotten(project):
    path, cache = notebook(project, "00_a", code("1")), execution.Cache.of(project)
    for n in range(execution.KEPT + 2):
        execution.keep(cache, path, nbformat.v4.new_notebook(cells=[code(str(n))]), nbformat.v4.new_notebook())
    assert len(list(cache.folder.iterdir())) == execution.KEPT


# Pages -----------------------------------------------------------------------------------------------------------

FIGURE = dict(data=[dict(type="scatter", y=[1, 2])], layout=dict(title=dict(text="Loss <b>&lt;x&gt;</b>"), height=300))


def test_a_figure_becomes_a_place_and_a_script_that_cant_be_broken_out_of():
    made = figures.Figures("nbs-00_a")
    shown = figures.shown_data({figures.PLOTLY: dict(FIGURE, layout=dict(title='"><script>alert(1)</script>'))}, made)
    assert "<script" not in shown["text/html"] and 'data-figure="nbs-00_a-1"' in shown["text/html"]
    assert figures.title_of_figure(FIGURE) == "Loss  <x>"
    script = figures.script_of("nbs-00_a-1", made.specs["nbs-00_a-1"])
    assert json.loads(script[len("evonbFigure("):-3].split(", ", 1)[1])["data"] == FIGURE["data"]


def test_live_widgets_and_empty_streams_arent_shown():
    made = figures.Figures("p")
    assert figures.shown_output(nbformat.v4.new_output("display_data", {figures.WIDGET: {}}), made) is None
    assert figures.shown_output(nbformat.v4.new_output("stream", text="\x1b[1m\n"), made) is None
    bar = figures.shown_output(nbformat.v4.new_output("stream", text=" 10%\r 90%\rdone\n"), made)
    assert bar.text == "done\n"


def page(project, *cells):
    nb = nbformat.v4.new_notebook(cells=[prose("# core\n\n> x"), code("#| default_exp core"), *cells])
    return pages.page_of(nb, api.Library.of(project), figures.Figures("p"))


def test_exported_cells_give_way_to_what_they_define(project):
    exported = code("#| export\n" + CORE[CORE.index("def base"):CORE.index("def _hidden")])
    made = page(project, exported, code("#| hide\nsecret = 1"), code("#| echo: false\n1"), code("2"))
    kinds = [(c.cell_type, c.metadata.get("tags")) for c in made.cells]
    assert kinds == [("markdown", None), ("markdown", None), ("code", ["hide-input"]), ("code", ["remove-input"]),
                     ("code", [])]
    told = made.cells[1].source
    assert "{py:function} base(x, scale=1.5, *, how=None)" in told and ":no-index:" in told
    assert 'id="small.core.base"' in told and "secret" not in json.dumps(made)


def test_constants_stay_code(project):
    made = page(project, code("#| export\nLIMIT = 3 # metres"), code("#| export\nimport os"))
    assert [c.metadata.get("tags") for c in made.cells[1:]] == [[], ["hide-input"]]


@pytest.mark.parametrize("name, said, leads", [
    ("nbs/index.ipynb", "![p](images/p.png)", "![p](images/p.png)"),
    ("nbs/index.ipynb", "[f](../docs/pages/found.md#here), [c](../CONTRIBUTING.md)",
     "[f](../found.md#here), [c](../contributing.md)"),
    ("docs/pages/found.md", "[c](../../CONTRIBUTING.md) [n](../../nbs/a/1_b.ipynb)",
     "[c](contributing.md) [n](nbs/a/1_b.ipynb)"),
    ("docs/pages/found.md", "[h](#here) [w](https://x.org/nbs/a) [m](mailto:a@b.c)",
     "[h](#here) [w](https://x.org/nbs/a) [m](mailto:a@b.c)"),
    ("CONTRIBUTING.md", "[f](docs/pages/found.md)", "[f](found.md)"),
    ("nbs/a/1_b.ipynb", "[i](../index.ipynb), `d[0](x)`, [gone](gone.ipynb)",
     "[i](../index.ipynb), `d[0](x)`, [gone](gone.ipynb)")])
def test_links_to_the_projects_files_lead_to_their_pages(tmp_path, name, said, leads):
    for file in ("nbs/index.ipynb", "nbs/images/p.png", "nbs/a/1_b.ipynb", "docs/pages/found.md", "CONTRIBUTING.md"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    assert pages.linked(said, tmp_path, name) == leads


# The reference ---------------------------------------------------------------------------------------------------

def test_docments_are_read_with_types_and_defaults(project):
    base = api.Library.of(project).modules["core"].definitions[0]
    assert [(p.name, p.type, p.default, p.says) for p in base.parameters] == [
        ("x", "", None, "(n_rows, 2) metres"), ("scale", "float", "1.5", "a factor"), ("*", "", None, ""),
        ("how", "str | None", "None", '"a" | "b"')]
    assert (base.returns.type, base.returns.says) == ("list", "(n_rows,) metres")


def test_patched_methods_stand_under_their_class(project):
    found = {d.name: d for d in api.Library.of(project).by_owner["small.shapes"]}
    assert list(found) == ["Shape", "Shape.area", "Shape.empty"]
    assert [(p.name, p.default) for p in found["Shape"].parameters] == [("sides", None), ("notes", "{}")]
    assert found["Shape.area"].returns.says == "square metres" and found["Shape.empty"].kind == "property"


def test_the_reader_agrees_with_fastcore():
    from fastcore.docments import docments

    from evonb import core
    module = api.Module("core", "evonb", ROOT / "evonb" / "core.py")
    compared = 0
    for d in (d for d in module.definitions if d.kind == "function" and d.is_public):
        told = {k: v.docment for k, v in docments(getattr(core, d.name), full=True, returns=True).items()}
        mine = {p.name: p.says for p in d.parameters if not p.name.startswith("*")}  # fastcore leaves out *args
        assert {k: v for k, v in told.items() if k in mine and v} == {k: v for k, v in mine.items() if v}, d.name
        compared += sum(map(bool, mine.values()))
    assert compared > 20


def test_a_table_holds_parameters_and_keeps_text_as_text(project):
    base = api.Library.of(project).modules["core"].definitions[0]
    text = entries.entry(base)
    assert "| `scale` | `float` | `1.5` | a factor |" in text and "(n_rows" not in text.split("\n")[0]
    assert "\\<b\\>scaled" in text and "**Returns** `list`, \\(n\\_rows\\,\\) metres" in text
    assert entries.plain("<i>*a*</i> `b*`") == "\\<i\\>\\*a\\*\\<\\/i\\> `b*`"


@pytest.mark.parametrize("text, shown", [
    ("The GPT of *Model connectomes* as `*args*`.", "The GPT of *Model connectomes* as `*args*`."),
    ("a *b, 2*xx*y, <i>", r"a \*b, 2\*xx\*y, \<i\>")])
def test_a_docstring_may_stress_words_and_shows_the_rest_as_text(text, shown):
    assert entries.docstring(text) == shown


def test_unions_are_split_outside_brackets_only():
    assert entries.split_union("A | dict[str, B | C]") == ["A", "dict[str, B | C]"]
    assert entries.typed("Run | None") == "`Run` or `None`"


def test_names_become_links_only_where_they_mean_one_thing():
    from maker.sphinx_parts import resolved

    objects = {n: 1 for n in ("small.core.base", "small.core.make_task", "small.shapes.make_task",
                              "small.shapes.area_of", "small.core.rank", "small.core")}
    names = {"base": ["small.core.base"], "make_task": ["small.core.make_task", "small.shapes.make_task"],
             "area_of": ["small.shapes.area_of"], "rank": ["small.core.rank"]}
    def find(name, here="small.shapes", called=False): return resolved(name, here, objects, names, called)
    assert find("core.base") == "small.core.base" and find("area_of", "small.core") == "small.shapes.area_of"
    assert find("make_task") == "small.shapes.make_task", "the page's own module comes first"
    assert find("make_task", "small.other") is None, "two modules have it"
    assert find("rank") is None and find("rank", called=True) == "small.core.rank", "a plain word may be a parameter"
    assert find("core") == "small.core" and find("x") is None


# The whole, small ------------------------------------------------------------------------------------------------

def test_broken_and_outward_addresses_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<h2 id="x"></h2><a href="b.html#y"></a><a href="b.html#no"></a><a href="#x"></a>'
                                     '<a href="c%20d.html"></a><a href="https://arxiv.org"></a><a href="gone.html"></a>'
                                     '<script src="https://cdn.example.org/x.js"></script><img src="no.png">'
                                     '<link rel="stylesheet" href="//fonts.example.org/f.css">')
    (tmp_path / "b.html").write_text('<p id="y"></p><a href="../outside.html"></a>')
    (tmp_path / "c d.html").write_text("")
    assert links.broken(tmp_path) == [
        "a.html: loads https://cdn.example.org/x.js from elsewhere",
        "a.html: loads //fonts.example.org/f.css from elsewhere",
        "a.html: b.html#no: b.html has no place called no",
        "a.html: gone.html: there is no gone.html",
        "a.html: no.png: there is no no.png",
        "b.html: ../outside.html: there is no ../outside.html"]


def test_the_layers_follow_the_numbers():
    assert [writing.layer_of(n) for n in (0, 4, 10, 20, 21, 22, 32, 38, 48, 50, 59, 60)] == [
        "Foundations", "Foundations", "One lifetime", "Generations", "Generations", "Populations", "Populations",
        "Alignment", "Alignment", "Looking", "Looking", "Entry points"]


def test_files_that_didnt_change_arent_touched_and_old_ones_go(project):
    site = writing.Site(project, api.Library.of(project))
    site.write("a.md", "1"), site.write("b.md", "1")
    stamp = (site.source / "a.md").stat().st_mtime_ns
    again = writing.Site(project, site.library)
    again.write("a.md", "1")
    again.sweep()
    assert (site.source / "a.md").stat().st_mtime_ns == stamp and not (site.source / "b.md").exists()


def test_serving_is_for_this_machine_and_needs_a_site(project):
    with pytest.raises(sources.BuildError, match="run `make docs`"):
        serving.server_of(project, 0)
    (project.out / "html").mkdir(parents=True)
    (project.out / "html" / "index.html").write_text("here")
    with serving.server_of(project, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        Thread(target=server.serve_forever, daemon=True).start()
        assert urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/").read() == b"here"
        with pytest.raises(sources.BuildError, match=f"port {server.server_port} can't be used"):
            serving.server_of(project, server.server_port)
        server.shutdown()


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="Sphinx isn't installed (extra `docs`)")
@pytest.mark.parametrize("text, said", [("[gone](01_gone.ipynb)", "01_gone.ipynb"),
                                        ("[x](#no-such-place)", "no-such-place"), ("", "")])
def test_the_small_site_is_built_and_a_broken_link_ends_it(project, text, said, capfd):
    write_texts(project)
    notebook(project, "index", prose("[one](00_one.ipynb)"))
    tutorial = notebook(project, "tutorials/1_evolve_a_connectome", prose(f"See `base()`, $x^2$. {text}"))
    paths = [tutorial, project.notebooks / "index.ipynb",
             notebook(project, "00_one", code("#| default_exp core"), code("#| export\n" + CORE.partition("def base")[1]
                                                                       + CORE.partition("def base")[2]))]
    cache = execution.Cache.of(project)
    for path in paths:
        nb = sources.read_notebook(path)
        execution.keep(cache, path, nb, nb)
    if text:
        with pytest.raises(sources.BuildError, match="Sphinx found"):
            writing.build(project, paths)
        assert said in capfd.readouterr().err
        return
    front = writing.build(project, paths)
    page = (front.parent / "nbs/tutorials/1_evolve_a_connectome.html").read_text()
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in page and 'href="../../api/core.html#small.core.base"' in page
    assert 'href="contributing.html"' in (front.parent / "more.html").read_text()
    reference = (front.parent / "api/core.html").read_text()
    assert "_modules/small/core.html#base" in reference and "../nbs/00_one.html#small.core.base" in reference


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="Sphinx isn't installed (extra `docs`)")
def test_a_small_site_of_a_library_in_folders_is_built(wings):
    write_texts(wings)
    made = {"00_core": "core", "text/10_corpora": "text.corpora", "training/10_gpt": "training.gpt",
            "training/20_lifetime": "training.lifetime", "evolution/10_search": "evolution.search",
            "evolution/methods/10_cma": "evolution.methods.cma", "plots/10_lines": "plots.lines"}
    said = "See `training.GPT`, `10_gpt`, `evolution.CMA` and [this](../training/20_lifetime.ipynb)."
    paths = [notebook(wings, "index", prose("No tree.")),
             notebook(wings, "tutorials/1_evolve_a_connectome", prose(said))]
    paths += [notebook(wings, n, code(f"#| default_exp {m}"), code("#| export\n" + WINGS[m.replace(".", "/") + ".py"]))
              for n, m in made.items()]
    cache = execution.Cache.of(wings)
    for path in paths:
        execution.keep(cache, path, (nb := sources.read_notebook(path)), nb)
    html = writing.build(wings, paths).parent
    page = (html / "nbs/tutorials/1_evolve_a_connectome.html").read_text()
    for target in ("api/training.gpt.html#small.training.gpt.GPT", "nbs/training/10_gpt.html",
                   "api/evolution.methods.cma.html#small.evolution.methods.cma.CMA"):
        assert f'href="../../{target}"' in page or f'href="../{target.removeprefix("nbs/")}"' in page, target
    reference = (html / "api/training.gpt.html").read_text()
    assert "../_modules/small/training/gpt.html#GPT" in reference and "small.training.gpt.GPT.grow" in reference
    assert "../nbs/training/10_gpt.html#small.training.gpt.GPT" in reference
    assert 'href="training.gpt.html#small.training.gpt.GPT"' in (html / "api/training.html").read_text()
    assert 'id="small.evolution.methods.cma.CMA"' in (html / "nbs/evolution/methods/10_cma.html").read_text()


# what is promised, and what was measured


def test_the_recipes_page_lists_what_the_registries_have():
    from evonb.registry import KINDS

    assert writing.REGISTRIES in (ROOT / "docs" / "pages" / "recipes.md").read_text()
    tables = writing.registry_tables()
    assert tables.count("|---|---|") == len(KINDS)
    for name in ("sign_shuffled", "ties", "genome+", "skill:NAME,NAME", "childes", "alice", "toy"):
        assert f"| `{name}` |" in tables


def test_every_promise_names_a_test_that_there_is():
    promised = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "pages" / "reproducible.md").read_text())
    texts = "".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    assert len(promised) > 20 and not [name for name in promised if f"def {name}(" not in texts]


def bench_row(ratio, aim, reached, **more):
    machine = dict(processor="Z80", cores=1, memory_gb=1, gpu=False, system="CP/M", python="3.11", torch="2")
    return dict(ratio=ratio, aim=aim, reached=reached, what="a over `b`", part="training", machine=machine,
                date="2026-01-02", **more)  # fmt: skip


def test_what_was_measured_is_a_page(tmp_path):
    rows = dict(fast=bench_row(2.0, "at least 1.3", True, low=1.9, high=2.1, first_s=1.0, second_s=2.0),
                heavy=bench_row(0.73, "at most 0.6", False, why="kernels take it"),
                grown=bench_row(1.02, "at most 1.1", True, is_exponent=True, seconds={"1": 0.5, "2": 1.0}),
                ours=bench_row(0.9, "at most 0.6 s for ours", True, seconds=dict(core=0.1, gpt=2.0)))  # fmt: skip
    (tmp_path / "bench.json").write_text(json.dumps(dict(rows={name: [row] for name, row in rows.items()})))
    page = measured.measured_page(tmp_path)
    assert "<td>Z80</td><td>2 [1.9, 2.1]</td><td>at least 1.3</td><td>yes</td><td>1 against 2\u00a0s</td>" in page
    assert "work^1.02" in page and "- **heavy** on Z80 (0.73, aim at most 0.6): kernels take it" in page
    assert "`ours`: gpt 2\u00a0s, core 0.1\u00a0s" in page
    assert "<td>a over <code>b</code></td>" in page
    assert page.count("<circle") == 2, "neither an exponent nor an aim of another kind is drawn"
    assert "Z80, 1 cores" in page and "No fault suite has been kept yet" in page and "No fuzzing" in page


def test_every_part_that_was_measured_has_a_heading_and_a_range_two_ticks(tmp_path):
    kept = measured.rows_of(ROOT / "docs" / "results" / "bench.json")["rows"]
    assert {r["part"] for rows in kept.values() for r in rows} <= set(measured.PARTS)
    assert measured.aims(bench_row(1.0, "0.8 to 1.25", True)) == {0.8: "≥", 1.25: "≤"}
    rows = dict(plan=[bench_row(1.02, "0.8 to 1.25", True)], fast=[bench_row(2.0, "at least 1.3", True)])
    (tmp_path / "bench.json").write_text(json.dumps(dict(rows=rows)))
    page = measured.measured_page(tmp_path)
    assert page.count('class="aim"') == 3 and ">to</text>" not in page


def test_a_processor_has_its_own_row_beside_another_ones(tmp_path, monkeypatch):
    sys.path.insert(0, str(ROOT / "tests" / "bench"))
    import results

    path, machine = tmp_path / "bench.json", bench_row(1.0, "", True)["machine"]
    for processor, ratio in (("Z80", 2.0), ("6502", 0.9), ("Z80", 1.5)):
        monkeypatch.setattr(results, "machine", lambda p=processor: machine | dict(processor=p))
        row = dict(ratio=ratio, aim="at least 1.3", what="a over b", part="training", seconds=dict(core=ratio))
        results.keep(path, dict(fast=row, gone=row), ["fast"])
    kept = results.stored(path)
    assert list(kept) == ["fast"]
    assert [(r["machine"]["processor"], r["ratio"], r["reached"]) for r in kept["fast"]] == [
        ("6502", 0.9, False), ("Z80", 1.5, True)]
    page = measured.measured_page(tmp_path)
    assert page.count("<circle") == 2 and ">fast on 6502</text>" in page and "`fast` on Z80: core 1.5" in page
    assert "<td>6502</td><td>0.9</td>" in page and "- **fast** on 6502 (0.9" in page
    assert "seen on an Intel Xeon with AVX-512 and AMX, two cores" in page


def test_faults_are_counted_on_the_page(tmp_path):
    stage = dict(kills=3, by_signal=dict(SIGKILL=3), by_moment=dict(time=3), comparisons=2, failures=["x"])
    injected = dict(full_disk=dict(tried=2, failures=[]), read_only=dict(tried=0, failures=[], skipped="no <mounts>"))
    total = dict(kills=3, comparisons=2, stopped=0, failures=1)
    (tmp_path / "faults.json").write_text(json.dumps(dict(
        total=total, seconds=9, seed=4, stages=dict(evolve=stage), injected=injected, command="make faults",
        machine="2 <cores>", around={"open fails": dict(tried=7, failures=["y"])},
        using={"servers": dict(tried=3, failures=[], requests=1234)},
        hostile=dict(pipes=dict(tried=9, failures=[], line="a <pipe>")))))  # fmt: skip
    reader = dict(inputs=10_000, slowest_s=0.5, grown_mb=3, faults=1)
    (tmp_path / "fuzz.json").write_text(json.dumps(dict(
        readers={"a": reader, "b": reader, "evonb show: x": reader | dict(inputs=3, faults=0)},
        about=dict(seconds_per_input=5, bound_mb=400))))  # fmt: skip
    page = measured.measured_page(tmp_path)
    assert "3 kills in 9 s (seed 4); 2 runs" in page and "1 differed" in page
    assert "<td>full disk</td><td>2</td><td>0</td><td></td>" in page and "no &lt;mounts&gt;" in page
    assert "<td>open fails</td><td>7</td><td>1</td>" in page and "<td>1,234 requests</td>" in page
    assert "<td>pipes</td><td>9</td><td>0</td><td>a &lt;pipe&gt;</td>" in page
    assert "Counted by `make faults` on 2 &lt;cores&gt;." in page
    assert "20,003 inputs to 3 readers: 2 crashed" in page and "1 of them got 3 inputs" in page


def test_an_aim_is_met_or_missed():
    sys.path.insert(0, str(ROOT / "tests" / "bench"))
    from results import reached

    for ratio, aim, met in ((1.3, "at least 1.3", True), (1.2, "at least 1.3", False), (0.6, "at most 0.6", True),
                            (0.61, "at most 0.6", False), (1.2, "0.75 to 1.25", True), (0.7, "0.75 to 1.25", False),
                            (9, "reported", None), (9, "at most 0.6 s for ours", None)):  # fmt: skip
        assert reached(dict(ratio=ratio, aim=aim)) is met
    assert reached(dict(ratio=9, aim="at most 0.6 s for ours", reached=1)) is True

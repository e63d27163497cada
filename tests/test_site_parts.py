"""The site's parts around its pages: extracts, the live piece, cards, launch buttons, BibTeX, quoted errors."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from maker import cards, citing, extracts, front, launch, sources  # noqa: E402

FIRST = ROOT / "nbs" / "tutorials" / "1_evolve_a_connectome.ipynb"
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("[0-9]*.ipynb"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A project with nothing but settings."
    monkeypatch.delenv("EVONB_REPOSITORY", raising=False)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nbranch = main\ngit_url = https://github.com/some/where\n")
    return sources.Project(tmp_path, "small")


# Extracts for the search -----------------------------------------------------------------------------------------

PAGE = """<html><body><nav>menu</nav><main><article class="bd-article"><section id="top"><h1>Wiring<a class="headerlink"
href="#top">#</a></h1><p>What is <b>inherited</b>?<br>A sign.</p><script>const x = "<p>no</p>";</script>
<section id="more"><p>More &lt;b&gt;</p><svg><text>axis</text></svg></section>
<dl><dt id="evonb.prune">prune(x)</dt><dd>Cuts.</dd></dl></section><div class="prev-next-area">next page</div></article>
</main><footer>2026</footer></body></html>"""


def test_a_pages_text_is_kept_place_by_place():
    assert extracts.texts_of(PAGE) == [["top", "Wiring What is inherited ? A sign."], ["more", "More <b>"],
                                       ["evonb.prune", "prune(x) Cuts."]]


def test_the_texts_are_a_script_that_nothing_breaks_out_of(tmp_path):
    (tmp_path / "a.html").write_text(PAGE)
    script = extracts.extracts_script(tmp_path, ["a", "not/built"])
    assert "<" not in script
    said = json.loads(script.removeprefix("globalThis.evonbTexts = ").rstrip().removesuffix(";"))
    assert said == {"a": extracts.texts_of(PAGE)}


# The front page --------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def explored():
    "An explorer with two views and three controls, and the notebook that shows it."
    from evonb.widgets.explorer import Explorer, Reply, View, choice, slider, toggle

    class Sums(Explorer):
        def reply(self, view, values):
            return Reply(dict(view=view, **values), [json.dumps([view, values]).encode()])

    views = [View("sum", "text", "Sum", ("a", "b", "c"), uses=("far",)), View("other", "text", "Other", ("a",))]
    made = Sums("Sums", [slider("a", "A", 0, 2), choice("b", "B", ["x", "y"], "y"), choice("c", "C", [10, 20]),
                         toggle("far", "Far", local=True)], views)
    cell = nbformat.v4.new_code_cell("sums", outputs=[nbformat.v4.new_output(
        "execute_result", {"text/html": made.fragment()}, execution_count=1)])
    return made, nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1"), cell])


def test_one_view_of_an_explorer_moves_by_its_own(explored):
    import base64
    import zlib

    made, nb = explored
    piece = front.live_piece(nb, "sum", ["a", "c"], "T", "S", 380)
    stored = json.loads(front.STORED.search(piece)[2])
    (view,) = stored["spec"]["views"]
    assert (view["needs"], view["uses"], view["height"], stored["spec"]["title"]) == (["a", "c"], [], 380, "T")
    assert [c["name"] for c in stored["spec"]["controls"]] == ["a", "c"] and len(stored["replies"]) == 6
    for i, a in enumerate((0, 1, 2)):
        for k, c in enumerate((10, 20)):
            reply, asked = stored["replies"][f"sum:{i},{k}"], made.ask("sum", a=a, b="y", c=c)
            (blob,) = (stored["blobs"][n] for n in reply["arrays"])
            assert reply["content"] == asked.content and zlib.decompress(base64.b64decode(blob)) == asked.arrays[0]
    assert len(stored["blobs"]) == 6 and len(piece) < len(made.fragment())


def test_a_reply_that_is_another_s_is_found_where_a_view_stands_alone(explored):
    made, nb = explored
    made.controls["c"] = made.controls["c"]._replace(instead=dict(a={"2": "no choice"}))
    nb.cells[-1].outputs[0].data["text/html"] = made.fragment()
    replies = json.loads(front.STORED.search(front.live_piece(nb, "sum", ["a", "c"], "T", "S", 380))[2])["replies"]
    assert len(replies) == 6 and replies["sum:2,1"] == replies["sum:2,0"] != replies["sum:1,1"]


def test_a_notebook_without_such_a_view_gives_no_piece(explored):
    assert front.live_piece(explored[1], "mask", ["a"], "", "", 1) == ""


@pytest.mark.parametrize("shown, line", [
    ("make demo    # all of it", "make demo"),
    ('pip install "evonb[lab]"   # from PyPI\nmake demo', 'pip install "evonb[lab]"')])
def test_the_install_line_is_readmes(project, shown, line):
    project.notebooks.mkdir()
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# x\n\n```sh\n{shown}\n```")])
    nbformat.write(nb, project.notebooks / "index.ipynb")
    assert front.install_line(project) == line


def test_the_front_pages_numbers_are_readmes():
    page, readme = ((ROOT / name).read_text() for name in ("docs/pages/index.md", "README.md"))
    rows = re.findall(r"^(?:connectome|random) +([\d.]+) ± [\d.]+ (\[[\d., ]+\])", readme, re.M)
    assert len(rows) == 2 and all(f"{mean} {interval}" in page for mean, interval in rows)


# Cards -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seconds, said", [(.2, "1 s"), (59.4, "59 s"), (64.3, "1 min 4 s"), (120, "2 min"),
                                           (754, "12 min"), (7500, "2 h 05 min")])
def test_times_are_told_as_people_say_them(seconds, said):
    assert cards.spoken(seconds) == said


def test_a_time_beside_other_work_says_what_was_spent_computing():
    took = dict(processor="P", cores=2, load=8.0, seconds=142.4, work=64.3)
    assert cards.time_of(took) == "1 min 4 s of computing, 2 min 22 s beside other work"
    assert cards.time_of(took | dict(seconds=66)) == "1 min 6 s" and cards.time_of({}) == ""
    pages = [SimpleNamespace(took=took), SimpleNamespace(took=took | dict(load=1.5)), SimpleNamespace(took={})]
    assert "P, 2 cores, load 1.5 to 8." in cards.machines_of(pages) and cards.machines_of(pages[2:]) == ""


def test_a_card_shows_its_text_as_text():
    page = SimpleNamespace(name="nbs/a", title="<b>", line="a & `b`", figures={}, took={})
    shown = cards.notebook_card(page, "x.png")
    assert "&lt;b&gt;" in shown and "a &amp; <code>b</code>" in shown
    assert 'src="x.png"' in shown and "card-time" not in shown


# Launch buttons --------------------------------------------------------------------------------------------------

def test_buttons_come_with_the_repositorys_address(project, monkeypatch):
    path = project.notebooks / "tutorials" / "1_a b.ipynb"
    assert launch.places(project, "nbs/1_a b.ipynb") == {
        "Colab": "https://colab.research.google.com/github/some/where/blob/main/nbs/1_a%20b.ipynb",
        "Binder": "https://mybinder.org/v2/gh/some/where/main?urlpath=lab%2Ftree%2Fnbs%2F1_a%20b.ipynb"}
    monkeypatch.setenv("EVONB_REPOSITORY", "https://git.example.org/group/sub/name.git")
    found = launch.places(project, "nbs/1_a.ipynb")
    assert list(found) == ["Binder"]
    assert "/git/https%3A%2F%2Fgit.example.org%2Fgroup%2Fsub%2Fname/main?" in found["Binder"]
    monkeypatch.setenv("EVONB_REPOSITORY", "")
    assert launch.places(project, "nbs/1_a.ipynb") == {}
    assert launch.buttons(project, path, "../../") == (
        '<p class="evonb-launch"><a href="../../_static/notebooks/1_a b.ipynb" download>Notebook file</a></p>')


@pytest.mark.parametrize("address", ["github.com/a/b", "http://github.com/a/b", "https://github.com/a",
                                     "https://x/a/b?c"])
def test_an_address_that_is_none_is_refused(project, monkeypatch, address):
    monkeypatch.setenv("EVONB_REPOSITORY", address)
    with pytest.raises(sources.BuildError, match=re.escape(f"EVONB_REPOSITORY is {address!r}, but must be like https")):
        launch.repository(project)


def first_code(path: Path) -> str:
    return next(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code")


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_every_tutorial_begins_by_getting_evonb_where_it_isnt(path):
    first = first_code(path)
    assert "import evonb\nexcept ModuleNotFoundError" in first
    extra = re.search(r'%pip install -q "?evonb(?:\[(\w+)\])?"?$', first)[1]
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plain = any(n.startswith("torch") for n in told["dependencies"])  # then no extra is needed
    assert plain or extra in told["optional-dependencies"] or path.stem.startswith("0_")


def test_what_a_browsers_python_lacks_is_needed():
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(n.startswith("tokenizers") for n in needs), "JupyterLite: see ELSEWHERE in docs/maker/writing.py"


def test_binders_environment_holds_to_the_lock():
    import yaml

    made = yaml.safe_load((ROOT / ".binder" / "environment.yml").read_text())
    (pip,) = (d["pip"] for d in made["dependencies"] if isinstance(d, dict))
    assert pip == ["--extra-index-url https://download.pytorch.org/whl/cpu", "-c ../requirements.lock",
                   "-e ..[alignment,lab,population]"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"alignment", "lab", "population"} <= set(extras) and "python=3.11" in made["dependencies"]


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    "A Python that has evonb from a wheel and the packages beneath it, and an empty folder with the first tutorial."
    from sysconfig import get_paths

    folder = tmp_path_factory.mktemp("colab")
    source, content = folder / "source", folder / "content"
    source.mkdir(), content.mkdir()
    for name in ("evonb", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder,
                    source], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    shutil.unpack_archive(next(folder.glob("evonb-*.whl")), packages, "zip")
    (packages / "beneath.pth").write_text(get_paths()["purelib"] + "\n")
    shutil.copy(FIRST, content)
    return folder / "venv" / "bin" / "python", content


def test_the_first_tutorial_begins_from_a_wheel_in_an_empty_folder(colab):
    from IPython.core.inputtransformer2 import TransformerManager

    python, content = colab
    cells = [c.source for c in nbformat.read(FIRST, 4).cells if c.cell_type == "code"]
    until = next(i for i, c in enumerate(cells) if "Monitor(" in c)
    script = "".join(map(TransformerManager().transform_cell, cells[:until])) + "print(evonb.__file__, config.model)"
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "EVONB_DATA")}
    done = subprocess.run([python, "-c", script], cwd=content, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{python.parents[1]}/lib" in done.stdout.splitlines()[-1]
    assert [p.name for p in content.iterdir()] == [FIRST.name]


# BibTeX ----------------------------------------------------------------------------------------------------------

def test_bibtex_says_what_the_citation_file_says():
    import yaml

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    entries = citing.bibtex(ROOT / "CITATION.cff").split("\n\n")
    works = [cited, *cited["references"]]
    assert len(entries) == len(works) == 3
    for entry, work in zip(entries, works):
        fields = dict(re.findall(r"^  (\w+) = \{?(.*?)\}?,?$", entry, re.M))
        assert entry.count("{") == entry.count("}") and fields["title"].strip("{}") == work["title"]
        names = [a.get("family-names", a.get("name")) for a in work["authors"]]
        assert [a.split(",")[0].strip("{}") for a in fields["author"].split(" and ")] == names
        assert fields.get("doi") == work.get("doi") and fields.get("year", "") == str(work.get("year", ""))
    assert entries[1].startswith("@article{kotar2025model,") and "eprint = {2504.21047}" in entries[1]


# Quoted errors ---------------------------------------------------------------------------------------------------

def literals(text: str) -> list[str]:
    "Every text in Python's source, with … where something is put in."
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@pytest.fixture(scope="module")
def said():
    "All that evonb, its scripts and the tests of the browser can say."
    python = [*(ROOT / "evonb").rglob("*.py"), ROOT / "tests" / "browser" / "chromium.py"]
    shell = [(ROOT / ".ci" / name).read_text() for name in ("browser", "setup")]
    joined = [re.sub(r'" \\\n\s*"', " ", text) for text in shell]
    return [*(t for p in python for t in literals(p.read_text(encoding="utf-8"))), *joined]


WIDGETS = "Error displaying widget: model not found"  # of ipywidgets
QUOTED = re.findall(r"^```text\n(.*?)\n```$", (ROOT / "docs" / "pages" / "troubleshooting.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("text", [q for q in QUOTED if q != WIDGETS])
def test_an_error_that_the_page_quotes_is_in_the_code(said, text):
    parts = [p for p in re.split("…", text) if p.strip(" .")]
    wanted = re.compile(".*?".join(map(re.escape, parts)), re.S)
    assert any(wanted.search(t) for t in said), f"no code says {text!r}"


def test_the_widgets_error_is_that_of_ipywidgets():
    folder = Path(sys.prefix) / "share" / "jupyter" / "labextensions" / "@jupyter-widgets" / "jupyterlab-manager"
    if not folder.is_dir():
        pytest.skip("ipywidgets' extension of JupyterLab isn't installed (extra `lab`)")
    assert WIDGETS in QUOTED and any(WIDGETS in p.read_text(encoding="utf-8") for p in folder.rglob("*.js"))

"""Saved notebooks in a browser: figures and stills need neither kernel nor network; a live explorer hides its still."""

import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from . import notebook
from .conftest import ALLOWED

CELLS = ['''
from evonb import plots
from evonb.widgets.explorer import Explorer, Reply, View, slider
class Lines(Explorer):
    "A line."
    def __init__(self):
        views = [View("line", "plotly", "The line", needs=("slope",))]
        super().__init__("Lines", [slider("slope", "Slope", 1, 5, value=3)], views)
    def reply(self, view, values): return Reply.of_figure(plots.figure("Rise").add_scatter(y=[0, values["slope"]]))
''', "plots.figure('Losses').add_scatter(y=[2.25, 1.125])", "Lines()",
    "kept = Lines()\nkept.keep = True\nkept"]  # fmt: skip
# What nbconvert's own page asks for.
ELSEWHERE = ("cdnjs.cloudflare.com", "cdn.jsdelivr.net", "unpkg.com", "ERR_", "require is not defined")
GONE = (*ALLOWED["lab"], "widget model not found")  # JupyterLab's word for a widget without its Python
DRAWN = "() => [...document.querySelectorAll('.evonb-figure')].map((f) => Array.from(f.data?.[0].y ?? []))"


def executed(monkeypatch, cells=CELLS, state=False):
    "The notebook as it is stored after all its cells ran."
    for name in ("EVONB_STATIC", "PLOTLY_RENDERER"):
        monkeypatch.delenv(name, raising=False)
    spec = dict(kernelspec=dict(name="python3", display_name="Python 3", language="python"))
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=spec)
    NotebookClient(made, timeout=300, kernel_name="python3", store_widget_state=state).execute()
    return made


def trust(lab, name):
    "Sign a notebook, so that its scripts may run."
    done = subprocess.run([sys.executable, "-m", "jupyter", "trust", name], cwd=lab.root, env=lab.env,
                          capture_output=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_an_exported_page_draws_its_figures_without_a_network(watched, tmp_path, monkeypatch, screenshot, explorer):
    made = executed(monkeypatch)
    (tmp_path / "page.html").write_text(HTMLExporter().from_notebook_node(made)[0], encoding="utf-8")
    page, _ = watched(allowed=ELSEWHERE, offline=True)
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("() => document.querySelectorAll('.evonb-figure .main-svg').length >= 2")
    assert page.evaluate(DRAWN)[:2] == [[2.25, 1.125], [0, 3]]
    assert page.locator(".evonb-still").first.is_visible()
    moved = explorer(page).ready().set("slope", 5).ready()
    assert moved.plot("line")["data"][0]["y"] == [0, 5], "what is kept moves without Python"
    screenshot(page, "saved-notebook")


def test_a_live_explorer_hides_its_still(notebook_page, explorer):
    page = notebook_page(CELLS)
    explorer(page).ready()
    stills = page.locator(".evonb-still").all()
    assert len(stills) == 2 and not any(still.is_visible() for still in stills)
    assert page.locator(".evonb-still .main-svg").count() == 0, "what is hidden isn't drawn"


@pytest.mark.parametrize("trusted", [True, False])
def test_a_notebook_opened_again_shows_what_it_keeps(lab, fresh_kernels, watched, monkeypatch, explorer, trusted):
    cells = [*CELLS, f"'trusted: {trusted}'"]  # another signature
    nbformat.write(executed(monkeypatch, cells), lab.root / "again.ipynb")
    if trusted:
        trust(lab, "again.ipynb")
    page, _ = watched(lab.url, GONE)
    notebook.open_notebook(page, lab, "again.ipynb")
    kept = page.locator(".evonb-still")
    kept.first.wait_for(state="visible")
    assert kept.count() == 2
    if not trusted:  # JupyterLab takes scripts away: words and pictures stay
        for still in (kept.first, kept.last):
            assert "Slope: 3" in still.inner_text() and still.locator("img").get_attribute("alt") == "Figure: Rise"
        return
    kept.first.locator(".main-svg").first.wait_for()
    assert not page.get_by_text("model not found").first.is_visible()
    kept.last.scroll_into_view_if_needed()
    moved = explorer(page).ready().set("slope", 4).ready()
    assert moved.plot("line")["data"][0]["y"] == [0, 4]


def test_a_widget_whose_python_is_gone_lets_its_still_be_seen(lab, fresh_kernels, watched, monkeypatch, explorer):
    made = executed(monkeypatch, [*CELLS[:1], CELLS[2]], state=True)
    assert made.metadata["widgets"], "the widget itself is stored, and is drawn without Python"
    nbformat.write(made, lab.root / "gone.ipynb")
    trust(lab, "gone.ipynb")
    page, _ = watched(lab.url, GONE)
    notebook.open_notebook(page, lab, "gone.ipynb")
    seen = explorer(page)
    page.locator(".evonb-still").wait_for(state="visible")
    assert "Waiting for Python" in seen.note("line")

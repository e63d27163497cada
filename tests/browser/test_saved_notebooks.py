"""Saved notebooks in a browser: figures and stills need neither kernel nor network; a live explorer hides its still."""

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

CELLS = ['''
from evonb import plots
from evonb.widgets.explorer import Explorer, Reply, View, slider
class Lines(Explorer):
    "A line."
    def __init__(self):
        views = [View("line", "plotly", "The line", needs=("slope",))]
        super().__init__("Lines", [slider("slope", "Slope", 1, 5, value=3)], views)
    def reply(self, view, values): return Reply.of_figure(plots.figure("Rise").add_scatter(y=[0, values["slope"]]))
''', "plots.figure('Losses').add_scatter(y=[2.25, 1.125])", "Lines()"]  # fmt: skip
# What nbconvert's own page asks for.
ELSEWHERE = ("cdnjs.cloudflare.com", "cdn.jsdelivr.net", "unpkg.com", "ERR_", "require is not defined")
DRAWN = "() => [...document.querySelectorAll('.evonb-figure')].map((f) => Array.from(f.data?.[0].y ?? []))"


def test_an_exported_page_draws_its_figures_without_a_network(watched, tmp_path, monkeypatch, screenshot):
    for name in ("EVONB_STATIC", "PLOTLY_RENDERER"):
        monkeypatch.delenv(name, raising=False)
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    NotebookClient(made, timeout=300, kernel_name="python3").execute()
    (tmp_path / "page.html").write_text(HTMLExporter().from_notebook_node(made)[0], encoding="utf-8")
    page, _ = watched(allowed=ELSEWHERE, offline=True)
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("() => document.querySelectorAll('.evonb-figure .main-svg').length >= 2")
    assert page.evaluate(DRAWN) == [[2.25, 1.125], [0, 3]]
    assert page.locator(".evonb-still").is_visible()
    screenshot(page, "saved-notebook")


def test_a_live_explorer_hides_its_still(notebook_page, explorer):
    page = notebook_page(CELLS)
    explorer(page).ready()
    assert page.locator(".evonb-still").count() == 1 and not page.locator(".evonb-still").is_visible()
    assert page.locator(".evonb-still .main-svg").count() == 0, "what is hidden isn't drawn"

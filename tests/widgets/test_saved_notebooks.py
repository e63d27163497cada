"""A saved notebook shows its figures and explorers to whoever reads it without a kernel, and without a network."""

import base64
import json
import re
import xml.etree.ElementTree as ET

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter, LatexExporter, MarkdownExporter

from evonb import plots
from evonb.widgets.explorer import Explorer, Reply, View, button, choice

CELLS = ['''
from evonb import plots
from evonb.widgets.explorer import Explorer, Reply, View, slider
class Lines(Explorer):
    "A line, a table and words."
    def __init__(self):
        views = [View("line", "plotly", "The line", needs=("slope",)), View("table", "table", "In numbers"),
                 View("words", "text", "In words"), View("none", "text", "Nothing")]
        super().__init__("Lines <b>", [slider("slope", "Slope", 1, 5, value=3, unit="m")], views)
    def reply(self, view, values):
        if view == "line": return Reply.of_figure(plots.figure("Rise").add_scatter(y=[0, values["slope"]]))
        if view == "table": return Reply.of_table([dict(name="<i>", value=1234.5)])
        if view == "none": raise plots.NothingToPlot("nothing was measured")
        return Reply.of_text("said in words")
''', "plots.figure('Losses', 'lower is better').add_scatter(y=[2.25, 1.125])", "Lines()",
    "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[3, 4]), dict(title='Plain </script>')).show()",
    "kept = Lines()\nkept.keep = True\nkept"]


@pytest.fixture(scope="module")
def saved():
    "The notebook as it is stored after all its cells ran."
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("EVONB_STATIC", "PLOTLY_RENDERER"):
            patch.delenv(name, raising=False)
        NotebookClient(made, timeout=300, kernel_name="python3").execute()
    return made


def test_figures_stay_data_and_are_html_too(saved):
    figure = saved.cells[1].outputs[0].data
    assert figure["application/vnd.plotly.v1+json"]["data"][0]["y"] == [2.25, 1.125]
    assert figure["text/plain"] == "Figure: Losses. lower is better" and figure["text/plain"] in figure["text/html"]


def test_plotly_stands_in_the_notebook_once(saved):
    stored = [len(str(c.outputs)) for c in saved.cells]
    assert nbformat.writes(saved).count('id=\\"evonb-plotly\\"') == 1
    assert stored[1] < 2_500_000 and max(stored[2:4]) < 100_000 and stored[4] < 300_000


def test_beside_an_explorer_stands_its_still(saved):
    live, still = saved.cells[2].outputs
    assert "application/vnd.jupyter.widget-view+json" in live.data and set(still.data) == {"text/html", "text/plain"}
    page = still.data["text/html"]
    for told in ("Lines &lt;b&gt;", "Slope: 3 m", "1234.5", "&lt;i&gt;", "said in words", "nothing was measured"):
        assert told in page
    assert re.search(r'"y":\s*\[0,\s*3\]', page)


def without_scripts(page):
    "What a reader sees who drops scripts and styles, as GitHub does."
    return re.sub(r"(?s)<(script|style)\b.*?</\1>", "", page)


@pytest.mark.parametrize("cell", [2, 4])
def test_without_scripts_there_are_words_tables_and_pictures(saved, cell):
    page = without_scripts(saved.cells[cell].outputs[1].data["text/html"])
    for told in ("Lines &lt;b&gt;", "Slope: 3 m", "1234.5", "&lt;i&gt;", "said in words", "nothing was measured"):
        assert told in page
    (picture,) = re.findall(r'<img alt="Figure: Rise"[^>]* src="data:image/svg\+xml;base64,([^"]*)"', page)
    drawn = ET.fromstring(base64.b64decode(picture))
    assert [e for e in drawn.iter() if e.tag.endswith("path") and e.get("stroke-width")], "the line"


def test_keep_holds_the_page_itself(saved):
    page = saved.cells[4].outputs[1].data["text/html"]
    data = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])
    assert {k for k in data["replies"] if k.startswith("line:")} == {f"line:{i}" for i in range(5)}
    assert data["values"] == dict(slope=3) and "whenSeen(" in page and "drawStored(\"" not in page


class Grid(Explorer):
    "Replies that can't be packed, one for each pair of values."

    def __init__(self):
        controls = [choice("row", "Row", range(6)), choice("column", "Column", range(5), 3), button("stop", "Stop")]
        super().__init__("Grid", controls, [View("cell", "text", "Cell", needs=("row", "column"))], "Read it.")

    def reply(self, view, values):
        n = 6 * values["column"] + values["row"]
        return Reply(dict(text=f"cell {n}"), [np.random.default_rng(n).bytes(100_000)])


@pytest.mark.parametrize("limits, n, said", [
    (dict(), 30, None), (dict(keep_mb=1), 6, "Column"), (dict(keep_replies=6), 6, "Column"),
    (dict(keep_mb=0.3), 1, "Column, Row"), (dict(keep_mb=0.1), 0, None), (dict(keep_replies=0), 0, None)])  # fmt: skip
def test_what_is_kept_is_bounded_and_says_what_it_left_out(limits, n, said):
    made = Grid()
    for name, limit in limits.items():
        setattr(made, name, limit)
    page = made.kept()
    assert "cell 18" in page, "where its controls stand it is always told"
    assert len(page) < 1e6 * made.keep_mb * 1.05 + 250_000
    if not n:
        assert "<script" not in page
        return
    data = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])
    assert len(data["replies"]) == n and "Read it." in data["spec"]["subtitle"]
    left = f"Kept as they stood, since all would be too large: {said}."
    assert (left in data["spec"]["subtitle"]) == (said is not None)
    assert data["values"] == dict(row=0, column=3)


def test_a_still_is_bounded_in_bytes_and_in_time(monkeypatch):
    class Many(Explorer):
        def __init__(self):
            super().__init__("Many", [], [View(f"v{i}", "plotly", f"View {i}") for i in range(3)])

        def reply(self, view, values):
            clock[0] += 1
            n = 10 if view == "v0" else 60_000
            return Reply.of_figure(plots.figure("t").add_scatter(y=np.random.default_rng(0).normal(size=n)))

    clock = [0]
    monkeypatch.setattr("evonb.widgets.explorer.time.monotonic", lambda: clock[0])
    made = Many()
    made.still_mb = 0.3
    page = made.still()
    assert page.count("drawStored(\"") == 1 and page.count("data:image/svg") == 1 and len(page) < 300_000
    made.still_seconds = 1
    assert made.still().count("Run the cell again to see it.") == 1 and clock[0] == 3 + 2


@pytest.mark.filterwarnings("error:.*not able to be represented")
@pytest.mark.parametrize("exporter", [HTMLExporter, MarkdownExporter, LatexExporter])
def test_every_exporter_knows_them(saved, exporter):
    page, _ = exporter().from_notebook_node(saved)
    for told in ("Losses", "Lines", "Plain"):
        assert told in page
    if exporter is not LatexExporter:
        assert page.count("drawStored(\"") == 3 and "said in words" in page

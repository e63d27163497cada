"""A saved notebook shows its figures and explorers to whoever reads it without a kernel, and without a network."""

import re

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter, LatexExporter, MarkdownExporter

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
    "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[3, 4]), dict(title='Plain </script>')).show()"]


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
    assert stored[1] < 2_500_000 and max(stored[2:]) < 100_000


def test_beside_an_explorer_stands_its_still(saved):
    live, still = saved.cells[2].outputs
    assert "application/vnd.jupyter.widget-view+json" in live.data and set(still.data) == {"text/html", "text/plain"}
    page = still.data["text/html"]
    for told in ("Lines &lt;b&gt;", "Slope: 3 m", "1234.5", "&lt;i&gt;", "said in words", "nothing was measured"):
        assert told in page
    assert re.search(r'"y":\s*\[0,\s*3\]', page)


@pytest.mark.filterwarnings("error:.*not able to be represented")
@pytest.mark.parametrize("exporter", [HTMLExporter, MarkdownExporter, LatexExporter])
def test_every_exporter_knows_them(saved, exporter):
    page, _ = exporter().from_notebook_node(saved)
    for told in ("Losses", "Lines", "Plain"):
        assert told in page
    if exporter is not LatexExporter:
        assert page.count("drawStored(\"") == 3 and "said in words" in page

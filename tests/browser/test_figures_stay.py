"""Plotly's button that uploads a figure's data to a public service is nowhere: the mode bars' buttons are counted."""

import plotly.graph_objects as go
import pytest

from evonb import report
from evonb.core import Seeds
from evonb.plots import style as plots
from evonb.widgets.explorer import Explorer, Reply, View

# The buttons of each figure's mode bar, by what they say.
BARS = """() => [...document.querySelectorAll('.modebar')].map(
  bar => [...bar.querySelectorAll('.modebar-btn')].map(b => b.dataset.title ?? b.getAttribute('aria-label')))"""
DRAWN = "n => [...document.querySelectorAll('.modebar')].filter(bar => bar.querySelector('.modebar-btn')).length >= n"
LOGO = "Produced with"  # a link to plotly's page that sends nothing; our own pages leave it out
OURS = ["Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Autoscale", "Reset axes"]
UPLOADS = "Share chart..."


def bars(page, n):
    "The mode bars' buttons once so many figures are drawn."
    page.wait_for_function(DRAWN, arg=n)
    found = page.evaluate(BARS)
    assert len(found) == n
    return found


def without_logo(shown):
    return [[b for b in bar if not b.startswith(LOGO)] for bar in shown]


class Two(Explorer):
    "A figure in evonb's look and one of plain plotly."

    def __init__(self):
        super().__init__("Two", [], [View("ours", "plotly", "Ours"), View("plain", "plotly", "Plain")])

    def reply(self, view, values):
        fig = plots.figure("Ours") if view == "ours" else go.Figure()
        return Reply.of_figure(fig.add_scatter(y=[1, 2], mode="lines"))


CELLS = [
    "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[1, 2], mode='lines'))",  # before evonb is there
    "import plotly.graph_objects as go\nfrom evonb import plots\n"
    "fig = plots.figure('One').add_scatter(y=[1, 2], mode='lines')\nfig",
    "fig.show()",
    "go.FigureWidget(fig)",
    "go.Figure(go.Scatter(y=[1, 2], mode='lines'))",
]


def test_in_a_notebook(notebook_page):
    shown = without_logo(bars(notebook_page(CELLS), 5))
    assert UPLOADS in shown[0] and len(shown[0]) > len(OURS)  # plotly's own figure has it: this test can fail
    assert shown[1:] == [OURS] * 4  # ours, and one of plotly alone beside them


@pytest.mark.parametrize("kind", ["explorer", "report", "plotly's own page"])
def test_in_a_page(offline_page, tmp_path, kind):
    if kind == "explorer":
        shown = bars(offline_page(Two().to_html()), 2)
    elif kind == "report":
        page = offline_page(report.write_report(report.example_run(tmp_path / "run", Seeds(0))))
        shown = bars(page, page.locator(".plot").count())
        assert len(shown) > 5
    else:
        fig = plots.figure("One").add_scatter(y=[1, 2], mode="lines")
        shown = without_logo(bars(offline_page(fig.to_html(include_plotlyjs=True)), 1))
    for bar in shown:
        assert bar and set(bar) <= set(OURS), bar


def test_many_small_plots_are_scrolled_on_a_narrow_screen(offline_page, tmp_path):
    from plotly.subplots import make_subplots

    from evonb.plots.paper import save_figure
    from evonb.plots.style import figure

    widths = "e => [e.clientWidth, e.parentElement.clientWidth, getComputedStyle(e.parentElement).overflowX]"
    for columns, wide in ((1, False), (3, True)):
        fig = figure("Small plots", base=make_subplots(1, columns))
        for i in range(columns):
            fig.add_scatter(y=[1, 2], row=1, col=i + 1)
        path = save_figure(fig, tmp_path / f"{columns}.html")
        page = offline_page(path, viewport=dict(width=390, height=800))
        page.wait_for_selector(".evonb-figure .main-svg")
        own, around, overflow = page.locator(".evonb-figure").evaluate(widths)
        assert (own >= 570 > around and overflow == "auto") if wide else own <= around
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

"""A figure's data stay where they are: nothing that evonb shows has plotly's button that uploads them."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import plotly.graph_objects as go

from evonb import report
from evonb.core import Seeds
from evonb.plots import style as plots
from evonb.store import open_run
from evonb.widgets.explorer import Explorer, Reply, View

ROOT = Path(__file__).resolve().parents[1]
DRAWS = re.compile(r"\bPlotly\s*\.\s*(?:newPlot|react|plot|_doPlot)\b")
# plotly's own ways to write a page, an image or a figure on a server
WRITES = re.compile(r"\bwrite_html\b|\bplotly\.offline\.plot\b|\bpio\.(?!renderers\b)|\bplotly\.io\b(?! as pio)"
                    r"|\bchart_studio\b|fig\w*\.to_html")


def sources(*patterns):
    "Our files that may write a page or draw in one, with their text; notebooks as their code."
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".ipynb":
                cells = json.loads(text)["cells"]
                text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
            yield path.relative_to(ROOT).as_posix(), text


EVERYWHERE = ("evonb/**/*.py", "evonb/**/*.js", "nbs/**/*.ipynb", "docs/**/*.py", "docs/static/*.js", ".ci/*.py")


def test_one_script_draws_every_figure():
    drawing = [name for name, text in sources(*EVERYWHERE) if DRAWS.search(text)]
    assert [name.rpartition("/static/")[2] for name in drawing] == ["figure.js"]
    script = plots.figure_script()
    assert script == (ROOT / drawing[0]).read_text(encoding="utf-8")
    assert re.search(r"\{ \.\.\.config, \.\.\.figureConfig \}", script)  # a caller can't bring the button back
    assert "showSendToCloud: false" in script and 'plotlyServerURL: ""' in script


def test_files_in_folders_are_looked_at():
    seen = {name for name, _ in sources(*EVERYWHERE)}
    assert {p.relative_to(ROOT).as_posix() for p in (ROOT / "evonb").rglob("*") if p.suffix in (".py", ".js")} <= seen


def test_no_page_is_written_by_plotly():
    assert [name for name, text in sources(*EVERYWHERE) if WRITES.search(text)] == []


class One(Explorer):
    "A figure that isn't of our making, in an explorer."

    def __init__(self):
        super().__init__("One", [], [View("a", "plotly", "A")])

    def reply(self, view, values):
        return Reply.of_figure(go.Figure(go.Scatter(y=[1, 2])))


def test_every_page_with_plotly_holds_the_script(tmp_path):
    run = open_run(report.example_run(tmp_path / "run", Seeds(1)))
    pages = dict(page=One().to_html(), fragment=One().fragment(), widget=One._esm, report=report.report_html(run))
    for name, page in pages.items():
        assert str(page).count(plots.figure_script()) == 1, name
    conf = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    assert 'html_js_files = ["figure.js", "site.js"]' in conf


def begin_figures():
    "Our modules in which a figure begins, by their path in the library."
    for name, text in sources("evonb/**/*.py"):
        calls = (n.func for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call))
        if any(re.fullmatch(r".*\bFigure(Widget)?|px\.\w+", ast.unparse(c)) for c in calls):
            yield name.removeprefix("evonb/").removesuffix(".py")


def test_every_figure_begins_without_the_button():
    # `plots.figure` is where the look comes from; monitor, report, plots.population, .paper, .picture copy such a one
    # (the browser tests count their buttons); `plan_figure`, `race` and `odds_figure` stand below plots and are tested
    assert set(begin_figures()) == {"connectomes/planning", "evolution/landscape", "plots/paper",
                                    "plots/picture", "plots/population", "plots/style", "populations/study", "report",
                                    "widgets/monitor"}
    assert plots.figure("any").layout.template.layout.modebar.remove == ("sendChartToCloud",)


def test_the_race_of_methods_has_no_such_button():
    from evonb.evolution.landscape import race

    assert race(["random-search"], seeds=(0,), budget=12).layout.modebar.remove == ("sendChartToCloud",)


def test_figures_of_plotly_alone_have_no_button_that_uploads_where_they_are_shown():
    import plotly.graph_objects as go
    import plotly.io as pio

    plots.keep_figures_here()
    for name in ("plotly_mimetype", "jupyterlab", "vscode", "notebook", "notebook_connected", "browser", "colab"):
        config = pio.renderers[name].config
        assert config["showSendToCloud"] is False and config["plotlyServerURL"] == "", name
    shown = pio.renderers["plotly_mimetype"].to_mimebundle(go.Figure().to_dict())
    assert next(iter(shown.values()))["config"]["showSendToCloud"] is False


def test_what_shows_figures_is_loaded_with_the_first_figure_and_prepared_then():
    code = """
import sys
import IPython
from evonb.plots import style
assert "nbformat" not in sys.modules and "plotly.io._renderers" not in sys.modules
import plotly.graph_objects as go
told = go.Figure(go.Scatter(y=[1, 2]))._repr_mimebundle_()
import plotly.io as pio
assert "evonb" in pio.renderers and pio.renderers["browser"].config["showSendToCloud"] is False
pio.renderers.default = "evonb"
print(*sorted(go.Figure(go.Scatter(y=[1, 2]))._repr_mimebundle_()))
pio.renderers.default = "svg"
from evonb.plots import connectome
assert pio.renderers.default == "svg"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "application/vnd.plotly.v1+json text/html text/plain\n", done.stderr

"""An explorer of our own making, in a real JupyterLab and in a page without Python."""

import subprocess
import sys

import pytest

CELLS = ['''
import numpy as np
import plotly.graph_objects as go
from evonb.core import InputError
from evonb.widgets.explorer import *

BAD = '<img src=x onerror="document.title=666">'

class Lines(Explorer):
    "A line whose slope is a control's."
    def __init__(self):
        self.asked = []
        controls = [slider("slope", "Slope", 1, 5, play=True), choice("words", "Words", ["few", "none", BAD]),
                    toggle("wide", "Wide"), button("add", "Add one")]
        views = [View("line", "plotly", "The line", needs=("slope",), click={"slope": "x"}, height=300),
                 View("table", "table", "Numbers " + BAD, needs=("slope",)),
                 View("text", "text", "Words", needs=("words",), width=2)]
        super().__init__("Lines " + BAD, controls, views, "an example")

    def reply(self, view, values):
        self.asked.append(view)
        if view == "line":
            return Reply.of_figure(go.Figure().add_scatter(x=[0, 1, 2, 3], y=np.arange(4) * values["slope"]))
        if view == "table": return Reply.of_table([dict(name=BAD, value=10 * values["slope"])], note=BAD)
        if values["words"] == "none": raise InputError("No words for " + BAD)
        return Reply.of_text("Words: " + values["words"])

    def on_press(self, name): self.push("text", Reply.of_text(f"pressed {name}"))
''', "lines = Lines()\nlines"]


@pytest.fixture
def lines_page(tmp_path):
    "A page `lines.html` that a line of code writes, with the explorer above at hand, in a Python of its own."
    def make(code):
        script = tmp_path / "make.py"
        script.write_text(f"{CELLS[0]}\n{code}\n", encoding="utf-8")
        subprocess.run([sys.executable, script], cwd=tmp_path, check=True)
        return tmp_path / "lines.html"
    return make


def check_moving(shown):
    "A moved control changes what hangs on it, to the right values, and nothing else."
    shown.ready()
    assert shown.plot("line")["data"][0]["y"] == [0, 1, 2, 3]
    shown.root.locator('[data-control="slope"]').focus()
    for _ in range(2):
        shown.page.keyboard.press("ArrowRight")
    shown.ready()
    assert shown.plot("line")["data"][0]["y"] == [0, 3, 6, 9]
    assert shown.view("table").locator("td").all_inner_texts()[1] == "30"
    assert shown.root.locator("output[for]").inner_text() == "3"


def check_words(shown):
    "An error is told in its view, and goes again; markup is shown as text."
    shown.set("words", "none")
    assert "No words for <img" in shown.alert("text")
    shown.root.locator('[data-control="words"]').select_option(index=2)
    shown.ready()
    assert "Words: <img src=x" in shown.text("text")
    assert shown.view("table").locator("td").first.inner_text().startswith("<img src=x")
    assert shown.root.locator("img").count() == 0
    assert shown.page.title() != "666"


def test_in_jupyterlab(notebook_page, run_more, run_until, explorer, assert_accessible, screenshot):
    page = notebook_page(CELLS)
    shown = explorer(page)
    check_moving(shown)
    check_words(shown)
    run_until(page, "print(lines.values['slope'], sorted(set(lines.asked)))", "3 ['line', 'table', 'text']")
    shown.press("add")
    shown.view("text").get_by_text("pressed add").wait_for()
    run_more(page, "lines.set(slope=5)")
    shown.until("slope", 5).ready()
    assert shown.plot("line")["data"][0]["y"] == [0, 5, 10, 15]
    assert_accessible(page, ".evonb-explorer")
    screenshot(shown.root, "explorer-lab")


def test_a_click_in_a_figure_comes_back_and_moves_a_control(notebook_page, run_until, explorer):
    page = notebook_page(CELLS)
    shown = explorer(page).ready()
    shown.view("line").locator(".js-plotly-plot").evaluate(
        "e => e.emit('plotly_click', {points: [{x: 2, y: 2, curveNumber: 0, pointNumber: 2, data: {name: 'a'}}]})")
    shown.ready()
    assert shown.plot("line")["data"][0]["y"] == [0, 2, 4, 6]
    run_until(page, "print(lines.clicked['view'], lines.clicked['x'], lines.values['slope'])", "line 2 2")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_without_python(offline_page, explorer, assert_accessible, screenshot, lines_page, scheme):
    page = offline_page(lines_page("Lines().to_html('lines.html')"), color_scheme=scheme)
    shown = explorer(page)
    check_moving(shown)
    check_words(shown)
    assert shown.root.evaluate("e => e.classList.contains('evonb-dark')") == (scheme == "dark")
    assert shown.root.get_by_role("button", name="Add one").count() == 0, "there is no Python to answer it"
    assert_accessible(page)
    screenshot(shown.root, f"explorer-page-{scheme}")


def test_playing_goes_round_and_stops(offline_page, explorer, lines_page):
    shown = explorer(offline_page(lines_page("Lines().to_html('lines.html', only=dict(slope=[1, 2]))"))).ready()
    play = shown.root.get_by_role("button", name="Play: Slope")
    play.click()
    said = shown.root.locator("output[for]")
    for value in ("2", "1", "2"):
        said.get_by_text(value, exact=True).wait_for()
    shown.root.get_by_role("button", name="Pause: Slope").click()
    stopped = said.inner_text()
    shown.page.wait_for_timeout(2200)
    assert said.inner_text() == stopped


def test_a_browser_that_lacks_a_part_says_which(offline_page, lines_page):
    page = offline_page(lines_page("open('lines.html', 'w').write(Lines().to_html().replace('<body>', "
                                   "'<body><script>delete globalThis.DecompressionStream</script>'))"))
    assert "This browser lacks DecompressionStream" in page.get_by_role("alert").inner_text()

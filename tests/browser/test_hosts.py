"""One explorer in every host: JupyterLab, Notebook 7, Voila, and a page from disk."""

import inspect
import json
import sys

import pytest

from . import example
from .server import Server, notebook_json
from .waiting import RUN_SECONDS, waiting

CELLS = [inspect.getsource(example), "powers = Powers()\npowers"]

# Voila's own: its template asks a CDN for an icon font, and does without when there is no network, and so do we; and
# it offers Notebook 7's extension, which can't be loaded there.
VOILA_SAYS = ("cdn.jsdelivr.net/npm/@fortawesome/fontawesome-free", "labextensions/@jupyter-notebook/lab-extension")


def check_moves(seen):
    "Moves controls and reads what the page shows then."
    seen.ready()
    assert seen.plot("curve")["data"][0]["y"] == [1, 4, 9, 16]
    seen.set("upto", 6).set("power", "cube").ready()
    assert seen.plot("curve")["data"][0]["y"] == [1, 8, 27, 64, 125, 216]
    assert seen.text("words").endswith("The numbers are 1, 8, 27, 64, 125, 216")
    assert seen.root.locator(".evonb-title").inner_text() == "Powers <b>of</b> numbers"


def check_python_answers(seen):
    "The button is heard by Python, which draws; a click in the table comes back as a control's value."
    seen.press("again")
    seen.view("words").get_by_text("pressed again 1 times").wait_for()
    seen.view("grid").get_by_role("cell", name="3", exact=True).first.click()
    seen.until("upto", 3).ready("curve")
    assert seen.plot("curve")["data"][0]["y"] == [1, 8, 27]
    seen.set("power", "too high")
    seen.ready("curve", state="error")
    assert seen.alert("curve") == "The power 9 is too high: choose 1, 2 or 3."
    seen.set("power", "plain").ready()


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_notebook(notebook_page, explorer, run_more, run_until, assert_accessible, app):
    page = notebook_page(CELLS, app=app)
    seen = explorer(page)
    check_moves(seen)
    run_until(page, "print(powers.values)", "{'upto': 6, 'many': 0, 'power': 3, 'minus': False}")
    check_python_answers(seen)
    run_until(page, "c = powers.clicked; print(c.get('view'), c.get('key'), powers.presses)", "grid 3 1")
    run_more(page, "powers.set(upto=5, minus=True);")
    seen.until("upto", 5).ready()
    assert seen.plot("curve")["data"][0]["y"] == [-1, -2, -3, -4, -5] and seen.value("minus") is True
    assert_accessible(page)


def test_dark(notebook_page, explorer, assert_accessible, screenshot):
    page = notebook_page(CELLS, theme="JupyterLab Dark")
    seen = explorer(page).ready()
    assert "evonb-dark" in seen.root.get_attribute("class")
    assert_accessible(page)
    screenshot(seen.root, "host_lab_dark")


@pytest.fixture
def voila(tmp_path, chromium):
    "Voila in a process of its own, over one notebook."
    server = Server(tmp_path, "voila")
    (server.root / "x.ipynb").write_text(json.dumps(notebook_json(CELLS)))
    command = [sys.executable, "-m", "voila", "x.ipynb", "--no-browser", "--token=", "--Voila.ip=127.0.0.1",
               "--Voila.port_retries=0"]
    server.start(lambda port: [*command, f"--port={port}"], "/voila/templates/lab/static/voila.js")
    yield server
    server.stop()


def test_voila(voila, watched, explorer, assert_accessible):
    page, _ = watched(voila.url, allowed=VOILA_SAYS)
    with waiting(page, "Voila to run its notebook"):
        page.goto(voila.url, timeout=RUN_SECONDS * 1000)
    seen = explorer(page)
    check_moves(seen)
    check_python_answers(seen)
    assert_accessible(page, ".evonb-explorer")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_from_disk(offline_page, explorer, assert_accessible, tmp_path, scheme):
    path = example.Powers().to_html(tmp_path / "powers.html", only={"many": [0]})
    page = offline_page(path, color_scheme=scheme, viewport={"width": 400 if scheme == "dark" else 1200, "height": 900})
    seen = explorer(page)
    check_moves(seen)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not seen.root.get_by_role("button", name="Again").count()  # nobody would answer
    assert_accessible(page)

"""The harness: an empty notebook runs without a word, and each kind of trouble is noticed."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from . import accessibility, notebook, server, waiting
from .chromium import find_chromium
from .example import Powers

PAGE = "<!doctype html><html lang='en'><title>A page</title><main><h1>A page</h1>{}</main></html>"


def test_a_notebook_runs_and_answers(notebook_page, run_more, lab):
    page = notebook_page(["# md\n# Prose", "x = 6 * 7\nprint('first')", "import evonb, sys; sys.executable"])
    cells = notebook.outputs(page)
    assert cells[0]["outputs"] is None and notebook.printed(cells[1]) == "first\n"
    assert notebook.printed(cells[2]) == repr(sys.executable)  # the kernel is the tests' own Python
    assert run_more(page, "print(x)") == "42" and run_more(page, "x + 1") == "43"
    assert len(lab.ask("GET", "/api/kernels")) == 1
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_more(page, "1 / 0")


def test_kernels_of_other_tests_are_gone(lab):
    assert lab.ask("GET", "/api/kernels") == [] and lab.ask("GET", "/api/sessions") == []


def test_trouble_in_a_notebook_is_noticed(notebook_page, run_more, lab):
    script = "console.error('ours is broken'); fetch('http://192.0.2.1/x').catch(() => 0)"
    page = notebook_page(["from IPython.display import Javascript", f"Javascript({script!r})"])
    told = run_more(page, "from jupyter_core.paths import *; import IPython.paths as i; print(jupyter_config_dir(), "
                          "jupyter_data_dir(), jupyter_runtime_dir(), i.get_ipython_dir(), sep='\\n')").split()
    assert len(told) == 4 and all(Path(folder).is_relative_to(lab.home) for folder in told)  # the user's stay alone
    assert any("ours is broken" in text for text in page.watch.errors)
    assert page.watch.outside == ["http://192.0.2.1/x"]
    with pytest.raises(AssertionError, match="asked for http://192.0.2.1/x"):
        page.watch.check()
    page.watch.forget()
    with pytest.raises(AssertionError, match="a cell raised ValueError: no such layer"):
        notebook_page(["raise ValueError('no such layer')"])


@pytest.mark.parametrize("body, problem", [
    ("<script>console.error('broken')</script>", "console error: broken"),
    ("<script>undefined_name()</script>", "uncaught: .*undefined_name"),
    ("<img alt='' src='https://192.0.2.1/x.png'>", "asked for https://192.0.2.1/x.png"),
    ("<script>new WebSocket('ws://192.0.2.1/')</script>", "asked for ws://192.0.2.1/"),
    ("<script>fetch('http://127.0.0.1:9/')</script>", "asked for http://127.0.0.1:9/"),  # this machine, but not disk
])
def test_trouble_in_a_page_from_disk_is_noticed(offline_page, body, problem):
    page = offline_page(PAGE.format(body))
    page.wait_for_timeout(200)
    with pytest.raises(AssertionError, match=problem):
        page.watch.check()
    page.watch.forget()


def test_data_and_blob_addresses_are_no_requests(offline_page, tmp_path):
    path = tmp_path / "a page.html"
    path.write_text(PAGE.format("<script>fetch(URL.createObjectURL(new Blob(['x']))).then(r => r.text())"
                                ".then(t => document.body.dataset.got = t); fetch('data:,y')</script>"))
    page = offline_page(path)
    page.wait_for_selector("body[data-got=x]")
    assert page.url == path.as_uri() and page.watch.problems() == []


def test_an_inaccessible_page_is_noticed(offline_page, assert_accessible):
    fine, bad = "<p>Text</p>", "<div id='bad'><button></button></div>"
    assert_accessible(offline_page(PAGE.format(fine)))
    page = offline_page(PAGE.format(fine + bad))
    with pytest.raises(AssertionError, match="critical: button-name(.|\n)*button"):
        assert_accessible(page)
    assert_accessible(page, "p")
    with pytest.raises(AssertionError, match="nothing to check"):
        accessibility.check(page, ".no-such-class")


def test_a_time_out_says_what_was_waited_for(offline_page, monkeypatch, tmp_path):
    monkeypatch.setenv("EVONB_ARTEFACTS", str(tmp_path))
    page = offline_page(PAGE.format(""))
    with pytest.raises(AssertionError, match="for the moon, in vain; screenshot") as failure:
        with waiting.waiting(page, "the moon"):
            page.wait_for_selector("#moon", timeout=100)
    assert str(waiting.picture_path("timeout_the moon")) in str(failure.value)
    assert waiting.picture_path("timeout_the moon").stat().st_size > 0


def test_screenshots_are_kept(offline_page, screenshot, monkeypatch, tmp_path):
    monkeypatch.setenv("EVONB_ARTEFACTS", str(tmp_path / "kept"))
    page = offline_page(PAGE.format("<p>Text</p>"))
    for target, name in ((page, "whole/page"), (page.locator("p"), "part")):
        assert screenshot(target, name).read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["part.png", "whole_page.png"]


def test_no_browser_skips_here_and_fails_in_ci(monkeypatch):
    monkeypatch.setenv("EVONB_CHROMIUM", "/no/such/browser")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="EVONB_CHROMIUM=/no/such/browser isn't a program"):
        find_chromium()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="EVONB_CHROMIUM=/no/such/browser isn't a program"):
        find_chromium()


STARTS = """import os, sys, pathlib; from browser.server import Server
server = Server(pathlib.Path(sys.argv[1]), "server")
server.start(lambda port: [sys.executable, "-m", "jupyter_server", "--allow-root", f"--port={port}",
                           f"--IdentityProvider.token={server.token}"], "/api/status")
print(server.process.pid, server.url, flush=True); os._exit(0)"""


def test_a_server_ends_itself_when_the_tests_are_gone(chromium, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(Path(server.__file__).parents[1])}
    told = subprocess.run([sys.executable, "-c", STARTS, tmp_path], env=env, capture_output=True, text=True, check=True)
    url, end = told.stdout.split()[1], time.monotonic() + waiting.SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            break
        assert time.monotonic() < end, f"the server still answers at {url}"
        time.sleep(0.2)


@pytest.fixture
def powers(offline_page, explorer):
    "The example explorer in a page from disk."
    return explorer(offline_page(Powers().to_html(only={"many": [0, 7, 499, 500]}))).ready()


def test_the_driver_moves_real_controls(powers):
    assert powers.names() == ["curve", "words", "grid"]
    assert [powers.value(name) for name in ("upto", "many", "power", "minus")] == [4, 0, 2, False]
    assert powers.options("power") == ["plain", "square", "cube", "too high"]
    powers.set("upto", 6).set("power", "cube").set("minus", True).set("many", 499).ready()
    assert [powers.value(name) for name in ("upto", "many", "power", "minus")] == [6, 499, 3, True]
    assert powers.text("words").endswith("The numbers are -1, -8, -27, -64, -125, -216")
    assert powers.table("grid") == [["n", "many"], *([str(n), "499"] for n in range(1, 7))]
    plot = powers.plot("curve")
    assert plot["data"][0]["y"] == [-(n ** 3) for n in range(1, 7)] and (plot["x"], plot["y"]) == ("number", "power")
    powers.set("upto", 3).set("power", 1).set("minus", False).ready("curve")
    assert powers.plot("curve")["data"][0]["y"] == [1, 2, 3]


def test_the_driver_refuses_what_no_control_offers(powers):
    for name, value, words in (("power", "root", "no option 'root'"), ("upto", 12, "no place of the slider says 12")):
        with pytest.raises(AssertionError, match=words):
            powers.set(name, value)


def test_the_driver_tells_errors_and_endless_waits(powers, monkeypatch):
    powers.set("power", "too high")
    with pytest.raises(AssertionError, match="view curve is 'error'(.|\n)*too high: choose 1, 2 or 3"):
        powers.ready()
    assert powers.ready("words", state="error").alert("words") == "The power 9 is too high: choose 1, 2 or 3."
    powers.view("grid").evaluate("e => { e.dataset.state = 'loading'; }")
    monkeypatch.setattr("browser.driver.SECONDS", 0.3)
    with pytest.raises(AssertionError, match="for view grid to be ready, in vain"):
        powers.ready("grid")
    with pytest.raises(AssertionError, match="upto still says 4"):
        powers.until("upto", 5)

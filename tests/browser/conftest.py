"""Fixtures of the browser tests: a real JupyterLab, one Chromium, pages that are watched.

They live as long as this package's tests and no longer, because Playwright's sync interface keeps an event loop
running in this thread, which tests elsewhere that use asyncio would trip over.
"""

import re

import pytest

from . import accessibility, notebook, waiting
from . import driver as driving
from .chromium import Watch, as_url, give_up, launch
from .server import Lab

# What the applications log as errors of their own over an empty notebook. JupyterLab: a widget manager that gave up
# its first question to a slow kernel hears the answer later. Notebook 7.6, while it starts: a setting of its own, and
# a command of JupyterLab's that it doesn't have.
LATE = "Comm not found for comm id"
ALLOWED = {"lab": (LATE,), "notebook": (LATE, "Cannot read properties of undefined (reading 'schema')",
                                        "Command 'filebrowser:open-path' not registered.")}
SIZE = {"width": 1300, "height": 1000}


@pytest.fixture(scope="package")
def chromium():
    "One headless Chromium for all browser tests."
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        give_up("no Playwright: pip install playwright (it is in evonb's extra `dev`)")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def lab(chromium, tmp_path_factory):
    "A JupyterLab with settings, token and port of its own; `lab.root` is its folder, `lab.notebook` writes there."
    server = Lab(tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


@pytest.fixture
def watched(chromium, request):
    "Makes watched pages: `watched(home, **context_options) -> (page, watch)`; at the end no problem may be left."
    made = []

    def make(home=None, allowed=(), **options):
        context = chromium.new_context(**{"viewport": SIZE, **options})
        watch = Watch(context, home, allowed)
        made.append((context, watch))
        page = context.new_page()
        page.set_default_timeout(waiting.SECONDS * 1000)
        return page, watch

    yield make
    _keep_failures(request.node, [c for c, _ in made])
    for context, _ in made:
        context.close()
    for _, watch in made:
        watch.check()


def _keep_failures(item, contexts):
    "Screenshots of every open page of a test that failed."
    if getattr(item, "failed", False):
        for i, page in enumerate(page for c in contexts for page in c.pages):
            try:
                waiting.save(page, f"failed_{item.name}_{i}")
            except Exception as e:  # the test's own failure matters more
                print(f"no screenshot: {e}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    item.failed = getattr(item, "failed", False) or outcome.get_result().failed


@pytest.fixture
def fresh_kernels(lab):
    "Ends this test's kernels; asked for before `watched`, so that its pages are closed by then."
    yield
    lab.end_kernels()


@pytest.fixture
def notebook_page(lab, fresh_kernels, watched, request):
    """`notebook_page(cells, app="lab", theme=None, **context_options) -> page`: a notebook, opened and run.

    app="notebook" is Notebook 7. A cell that raises fails the test, and so does a console error or a request to
    anywhere but the server. Kernels are ended afterwards.
    """
    def make(cells, app="lab", theme=None, name=None, **options):
        name = name or re.sub(r"\W+", "_", request.node.name) + ".ipynb"
        page, page.watch = watched(lab.url, ALLOWED[app], **options)
        notebook.open_notebook(page, lab, lab.notebook(cells, name), app)
        if theme:
            notebook.set_theme(page, theme)
        notebook.assert_ran(notebook.run_all(page))
        return page

    return make


@pytest.fixture
def run_more():
    "`run_more(page, code) -> str`: runs code in one more cell of that notebook; returns what it printed."
    return notebook.run_code


@pytest.fixture
def run_until():
    "`run_until(page, code, said)`: runs code until it prints this; for what a click or a control sends to Python."
    return notebook.run_until


@pytest.fixture
def offline_page(watched, tmp_path):
    "`offline_page(path_or_html, **context_options) -> page`: a page from disk with the network cut."
    def make(path_or_html, **options):
        page, page.watch = watched(**{"offline": True, **options})
        page.goto(as_url(path_or_html, tmp_path), wait_until="load")
        return page
    return make


@pytest.fixture
def assert_accessible():
    "`assert_accessible(page, selector=None)`: no serious or critical finding of axe-core."
    return accessibility.check


@pytest.fixture
def screenshot():
    "`screenshot(page_or_locator, name) -> path`: kept in EVONB_ARTEFACTS, else tests/browser/artefacts."
    return waiting.save


@pytest.fixture
def explorer():
    "`explorer(page_or_frame, index=0)`: drives an explorer and reads it; see driver.py."
    return driving.explorer

"""Running a notebook in the page of JupyterLab or Notebook 7, and reading what its cells gave."""

import time

from .waiting import RUN_SECONDS, SECONDS, waiting

# Clicking the menu instead fails while the kernel isn't connected. Done means: every cell ran, or one raised.
RUN_ALL = """async () => {
  const app = window.jupyterapp; await app.restored;
  const nap = () => new Promise(done => setTimeout(done, 50));
  let w;
  while (!(w = app.shell.currentWidget) || !w.context || !w.sessionContext) await nap();
  await w.context.ready; await w.sessionContext.ready;
  while (!w.sessionContext.session?.kernel) await nap();
  await w.sessionContext.session.kernel.info;
  await app.commands.execute('notebook:run-all-cells');
}"""
RUN_ONE = """async (code) => {
  const app = window.jupyterapp, notebook = app.shell.currentWidget.content;
  const at = notebook.model.cells.length;
  notebook.model.sharedModel.insertCell(at, {cell_type: 'code', source: code});
  notebook.deselectAll(); notebook.activeCellIndex = at;
  await app.commands.execute('notebook:run-cell');
  return at;
}"""
OUTPUTS = """() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells.map(
  cell => ({code: cell.source, count: cell.execution_count ?? null, outputs: cell.outputs ?? null}))"""


def text(value) -> str:
    "A notebook's text, whichever way it is stored."
    return value if isinstance(value, str) else "".join(value)


def outputs(page) -> list[dict]:
    "Per cell: code, count, outputs (None for prose)."
    return page.evaluate(OUTPUTS)


def printed(cell: dict) -> str:
    "What a cell printed, and its last value as plain text."
    parts = [text(o["text"]) if o["output_type"] == "stream" else text(o.get("data", {}).get("text/plain", ""))
             for o in cell["outputs"] or [] if o["output_type"] in ("stream", "execute_result")]
    return "".join(parts)


def assert_ran(cells: list[dict]):
    "Fails when a cell raised, with its traceback."
    for cell in cells:
        for output in cell["outputs"] or []:
            if output["output_type"] == "error":
                trace = "\n".join(output["traceback"])
                raise AssertionError(f"a cell raised {output['ename']}: {output['evalue']}\n{cell['code']}\n{trace}")


def open_notebook(page, lab, name: str, app: str = "lab"):
    "Opens a notebook alone in its page: in JupyterLab's single-document mode, or in Notebook 7."
    place = {"lab": f"doc/tree/{name}?reset", "notebook": f"notebooks/{name}?"}[app]
    page.set_default_timeout(SECONDS * 1000)
    with waiting(page, f"{name} to open in {app}"):
        page.goto(f"{lab.url}/{place}&token={lab.token}")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function("() => window.jupyterapp")


def set_theme(page, theme: str):
    "Changes JupyterLab's theme, and waits until the page wears it."
    with waiting(page, f"the theme {theme}"):
        page.evaluate("""async theme => { await window.jupyterapp.restored;
          await window.jupyterapp.commands.execute('apputils:change-theme', {theme}); }""", theme)
        page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)


def _within(page, what: str, seconds: float, script: str, argument=None):
    "Awaits a script's promise, at most so long (evaluate itself has no time limit)."
    limit = """async ([script, argument, ms]) => Promise.race([eval(script)(argument),
      new Promise((_, fail) => setTimeout(() => fail(new Error('evonb: out of time')), ms))])"""
    from playwright.sync_api import Error
    from playwright.sync_api import TimeoutError as OutOfTime

    with waiting(page, what):
        try:
            return page.evaluate(limit, [script, argument, seconds * 1000])
        except Error as e:
            if "evonb: out of time" in str(e):
                raise OutOfTime(f"more than {seconds:.0f} s") from None
            raise


def run_all(page, seconds: float = RUN_SECONDS) -> list[dict]:
    "Runs every cell; returns the cells with their outputs."
    _within(page, "all cells to run", seconds, RUN_ALL)
    return outputs(page)


def run_code(page, code: str, seconds: float = RUN_SECONDS) -> str:
    "Runs code in one more cell; returns what it printed, stripped. Fails when it raised."
    at = _within(page, f"more code to run: {code[:60]}", seconds, RUN_ONE, code)
    cell = outputs(page)[at]
    assert_ran([cell])
    return printed(cell).strip()


def run_until(page, code: str, said: str, seconds: float = SECONDS) -> str:
    "Runs code until it prints this: what was done in the page is on its way to Python."
    end = time.monotonic() + seconds
    while (printed_now := run_code(page, code)) != said:
        assert time.monotonic() < end, f"{code} still printed {printed_now!r} after {seconds:.0f} s, not {said!r}"
    return printed_now

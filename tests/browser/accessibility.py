"""axe-core on a page: what a reader with a screen reader, a keyboard or weak sight would stumble over."""

from functools import cache
from importlib.resources import files

OURS = ".evonb-explorer"
RUN = """async (selector) => {
  const options = {resultTypes: ['violations'], preload: false};  // a page from disk can't read its style sheets
  const result = await axe.run(selector ? {include: [[selector]]} : document, options);
  return result.violations.map(v => ({id: v.id, impact: v.impact, help: v.help,
    nodes: v.nodes.map(n => n.target.join(' ') + ' — ' + (n.failureSummary || '').replace(/\\s+/g, ' '))}));
}"""


@cache
def axe_source() -> str:
    "The script of axe-core, from its package."
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def findings(page, selector: str | None = None) -> list[str]:
    "Serious and critical findings, one line each, with the elements."
    if not page.evaluate("() => !!window.axe"):
        page.evaluate(axe_source())
    if selector is not None and not page.locator(selector).count():
        raise AssertionError(f"nothing to check: no element matches {selector}")
    bad = [v for v in page.evaluate(RUN, selector) if v["impact"] in ("serious", "critical")]
    return [f"{v['impact']}: {v['id']}: {v['help']}\n    " + "\n    ".join(v["nodes"][:5]) for v in bad]


def check(page, selector: str | None = None):
    "Fails on serious or critical findings; in JupyterLab only our explorers are looked at, unless told."
    if selector is None and page.locator(".jp-Notebook").count():
        selector = OURS
    found = findings(page, selector)
    assert not found, "axe-core found:\n  " + "\n  ".join(found)

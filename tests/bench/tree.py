"""Looking at a family of 2,000: its first drawing in Chromium and the frames of a drag, against plotly's drawing of it.

Each row is a function of the number of pairs that returns a dict, as the rows of run.py do. Both pages hold their data
and their libraries; the time begins when those have been loaded, and ends in the frame after the picture was drawn.
"""

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from plotly.offline import get_plotlyjs

from evonb.core import Seeds
from evonb.plots.examples import example_history
from evonb.plots.population import family_tree
from evonb.widgets.explorer import packed
from evonb.widgets.population import PopulationExplorer

GENERATIONS, INDIVIDUALS = 50, 40
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
DRAWN = "section[data-view=tree][data-state=ready]"


def family():
    "40 individuals over 50 generations, by crossover, mutation and succession."
    return example_history(Seeds(0), GENERATIONS, INDIVIDUALS, moves=True)


def tree_page(history):
    "Our page with the tree alone; it notes when its script began and when the tree was drawn."
    made = PopulationExplorer(history)
    made.views = {"tree": made.views["tree"]}
    watch = f"""<script>const watcher = new MutationObserver(() => {{
      if (document.querySelector('{DRAWN}') && !window.painted) {{
        requestAnimationFrame(() => setTimeout(() => {{ window.painted = performance.now() - window.began; }})); }} }});
      watcher.observe(document, {{subtree: true, childList: true, attributes: true}}); window.began = performance.now();
      </script>"""
    return made.to_html().replace("<main>", watch + "<main>")


def plotly_page(history):
    "A page with the same individuals and lines as plotly's scatter traces."
    figure = family_tree(history, n_rows=INDIVIDUALS).update_layout(width=1168, height=520)
    data = figure.to_json().replace("<", "\\u003c")
    return f"""<!doctype html><html lang="en"><title>plotly</title><script>{get_plotlyjs()}</script>
      <div id="plot"></div>
      <script type="application/json" id="figure">{data}</script><script>window.began = performance.now();
      const figure = JSON.parse(document.getElementById('figure').textContent);
      Plotly.newPlot('plot', figure.data, figure.layout, {{scrollZoom: true}}).then(() => requestAnimationFrame(() =>
        setTimeout(() => {{ window.painted = performance.now() - window.began; }})));</script></html>"""


FRAMES = """() => { window.frames_ = []; let last = performance.now();
  const next = () => {
    const now = performance.now(); frames_.push(now - last); last = now; requestAnimationFrame(next); };
  requestAnimationFrame(next); }"""


def drag(page, selector, zoom):
    "Milliseconds between frames while the picture is dragged, about twice as large as at first."
    box = page.locator(selector).first.bounding_box()
    x, y = box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"]
    page.mouse.move(x, y)
    zoom(page)
    page.wait_for_timeout(400)
    page.evaluate(FRAMES)
    page.mouse.down()
    for i in range(60):
        page.mouse.move(x - 5 * i, y + i)
    page.mouse.up()
    return page.evaluate("() => window.frames_.slice(1)")


def zoom_ours(page):
    "The button, twice."
    for _ in range(2):
        page.get_by_label("Zoom into the tree").click()


def zoom_theirs(page):
    "The same part through plotly's own call; then a drag pans."
    page.evaluate("() => Plotly.relayout('plot', {dragmode: 'pan', 'xaxis.range': [12, 37], 'yaxis.range': [30, 8]})")


@contextmanager
def browser_and_pages():
    "Chromium, and the two pages' addresses."
    from playwright.sync_api import sync_playwright

    history = family()
    found = next(filter(None, map(shutil.which, NAMES)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        paths = [Path(folder) / name for name in ("tree.html", "plotly.html")]
        for path, text in zip(paths, (tree_page(history), plotly_page(history))):
            path.write_text(text, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=found, args=ARGS)
        yield browser, paths
        browser.close()


def open_page(browser, path):
    "A page whose picture has been drawn, and how long that took in seconds."
    page = browser.new_page(viewport=dict(width=1200, height=900))
    page.goto(path.as_uri())
    page.wait_for_function("() => window.painted > 0", timeout=120_000)
    return page, page.evaluate("() => window.painted / 1000")


def measured(browser, path, drags):
    "Seconds to the first picture; seconds of the median frame while it is dragged."
    page, took = open_page(browser, path)
    frames = drag(page, *drags)
    page.close()
    return took, float(np.median(frames)) / 1000


def _without_browser():
    return dict(skipped="no Chromium on PATH") if not any(map(shutil.which, NAMES)) else None


def _both(pairs):
    "(n_pairs, ours and theirs, first picture and median frame) seconds, in alternating order."
    drags, took = (("canvas", zoom_ours), (".draglayer .nsewdrag", zoom_theirs)), []
    with browser_and_pages() as (browser, paths):
        for k in range(max(5, pairs // 2)):
            order = (0, 1) if k % 2 == 0 else (1, 0)
            found = {i: measured(browser, paths[i], drags[i]) for i in order}
            took.append([found[0], found[1]])
    return np.array(took)


def _row(took, most, **more):
    low, mid, high = np.quantile(took[:, 0] / took[:, 1], [0.25, 0.5, 0.75])
    ours, theirs = np.median(took, 0)
    return dict(ratio=mid, low=low, high=high, first_s=ours, second_s=theirs, reached=ours <= most, **more)


def tree_first_drawing(pairs, n=0):
    "First drawing of a family of 2,000 individuals in Chromium, from the data in the page: our canvas over plotly."
    if (skip := _without_browser()) is not None:
        return skip
    took = _both(pairs)
    reply = PopulationExplorer(family()).ask("tree")
    return _row(took[..., 0], 1.5, bytes=sum(map(len, packed(reply))),
                plotly_bytes=len(family_tree(family(), n_rows=INDIVIDUALS).to_json()), aim="at most 1.5 s for ours")


def tree_pan_frame(pairs, n=0):
    "Time between frames while that family is dragged, enlarged twice: our canvas over plotly."
    if (skip := _without_browser()) is not None:
        return skip
    return _row(_both(pairs)[..., 1], 0.033, aim="at most 0.033 s for ours, 30 frames a second")


ROWS = dict(tree_first_drawing=tree_first_drawing, tree_pan_frame=tree_pan_frame)

"""The built site, opened from disk with the network cut: pages, figures, search, themes, explorers."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

pytest.importorskip("sphinx", reason="Sphinx isn't installed (extra `docs`)")
from maker import execution, launch, sources, writing  # noqa: E402

PROJECT = sources.Project(ROOT)

PAGES = {sources.module_of(sources.read_notebook(p)): p for p in sources.notebook_paths(PROJECT)}


def told_in(name):
    "(notebook's page, module) of what defines a name: (`nbs/12_connectome`, `connectome`). All modules read is slow."
    (module,) = [m for m, file in PROJECT.modules().items()
                 if re.search(rf"^(def|class) {name}\b", file.read_text(encoding="utf-8"), re.MULTILINE)]  # fmt: skip
    return writing.page_name(PROJECT, PAGES[module]), module


(WIRING, CONNECTOME), (CONTROL, CONTROLS) = told_in("prune"), told_in("degree_preserving_control")
FIGURES, LOOKING = told_in("loss_curves")[0], told_in("PopulationExplorer")[0]
# Quick to run, and enough for these tests.
FEW = ("index", "00_core", WIRING, CONTROL, FIGURES, LOOKING, "1_evolve_a_connectome")
LINES = "e => e._fullData.filter(t => t.visible === true).length"


def is_executed(project) -> bool:
    "Whether every notebook ran with the code that stands here."
    cache = execution.Cache.of(project)
    return all(execution.kept(cache, p, sources.read_notebook(p)) is not None for p in sources.notebook_paths(project))


@pytest.fixture(scope="package")
def site(chromium):
    "The site's folder: the whole where the notebooks have run (as in `make test`), else a few pages of it."
    project = sources.Project(ROOT)
    few = () if is_executed(project) else FEW
    done = subprocess.run([sys.executable, ROOT / "docs" / "build.py", "html", *few], capture_output=True, text=True)
    assert done.returncode == 0, f"the site can't be built:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return ROOT / "_docs" / ("part/html" if few else "html")


@pytest.fixture
def open_page(site, offline_page):
    "`open_page(name, **options)`: one of the site's pages, from disk."
    def make(name, **options):
        return offline_page(site / f"{name}.html", **options)
    return make


BOXES = ".evonb-figure[data-figure]"  # what is drawn in a box is called a figure, too


def drawn(page, index=0):
    "The plot of a figure of the page, once it is drawn."
    box = page.locator(BOXES).nth(index)
    box.scroll_into_view_if_needed()
    page.wait_for_function("e => e.dataset.drawn === 'yes'", arg=box.element_handle(), timeout=90_000)
    return box.locator(".js-plotly-plot")


def colour(page, selector, which="backgroundColor"):
    return page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{which}")


def test_the_front_page_leads_everywhere(open_page, assert_accessible, screenshot):
    page = open_page("index")
    assert page.locator("h1").inner_text().startswith("evonb")
    assert page.locator(".evonb-half img").evaluate("e => e.naturalWidth") > 1000
    assert page.locator(".evonb-said .highlight button.copybtn").is_visible()
    assert page.locator(".sd-card .sd-card-title").all_inner_texts() == ["Explore", "Import", "Read"]
    pictures = page.locator(".evonb-picture img").evaluate_all("all => all.map(e => e.naturalWidth)")
    assert all(width > 300 for width in pictures), "a picture isn't there"
    assert_accessible(page)
    screenshot(page, "site_front")
    page.locator(".sd-card").nth(2).click()
    page.wait_for_url("**/modules.html")
    assert page.get_by_role("link", name="wiring", exact=True).count() >= 1


@pytest.mark.parametrize("theme, size", [("light", (1440, 900)), ("dark", (390, 844))])
def test_the_first_screen_has_something_that_moves(open_page, explorer, assert_accessible, screenshot, theme, size):
    page = open_page("index", color_scheme=theme, viewport=dict(zip(("width", "height"), size)))
    driver = explorer(page).ready()
    assert "generation 2: " in driver.root.inner_text()
    driver.set("generation", 0).ready()
    page.wait_for_function("e => e.innerText.includes('generation 0: ')", arg=driver.root.element_handle())
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    above = driver.root.bounding_box()["y"] + page.evaluate("scrollY")
    assert size[0] < 1000 or above < 300, "the explorer isn't on the first screen"
    assert page.evaluate("typeof Plotly") == "undefined", "the front page needs no plotly"
    assert_accessible(page)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=screenshot(page.locator("h1"), f"site_first_screen_{theme}"))


@pytest.mark.parametrize("theme, width", [("light", 1200), ("dark", 1200), ("light", 400)])
@pytest.mark.parametrize("name", [WIRING, f"api/{CONNECTOME}", "findings", "gallery", "nbs/index", "troubleshooting"])
def test_pages_are_accessible_and_fit(open_page, assert_accessible, screenshot, name, theme, width):
    page = open_page(name, color_scheme=theme, viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert_accessible(page)
    page.screenshot(path=screenshot(page.locator("h1"), f"site_{name.replace('/', '_')}_{theme}_{width}"))


def test_a_figure_is_drawn_and_its_legend_hides_a_line(open_page, screenshot):
    page = open_page(FIGURES)
    labels = page.locator(BOXES).evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    at = labels.index("Loss while growing up")
    plot = drawn(page, at)
    before = plot.evaluate(LINES)
    assert plot.locator("svg.main-svg path.js-line").count() > 1 and before > 1
    buttons = plot.locator(".modebar-btn").evaluate_all("all => all.map(e => e.dataset.title)")
    assert len(buttons) > 5 and "Share chart..." not in buttons  # nothing uploads a figure's data
    plot.locator(".legendtoggle").first.click()
    page.wait_for_function(f"([e, n]) => ({LINES})(e) < n", arg=[plot.element_handle(), before])
    screenshot(page.locator(BOXES).nth(at), "site_figure")


def test_the_theme_is_switched_and_figures_follow(open_page, screenshot):
    page = open_page(FIGURES, color_scheme="light")
    plot = drawn(page)
    light = colour(page, "body"), plot.evaluate("e => e._fullLayout.font.color")
    for _ in range(3):  # automatic, light, dark: in whatever order
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        page.locator("button.theme-switch-button").first.click()
        choice = page.locator("[data-bs-theme-value='dark'], button[data-mode='dark']")
        if choice.count():
            choice.first.click()
    page.wait_for_function("([e, was]) => e._fullLayout.font.color !== was", arg=[plot.element_handle(), light[1]])
    assert page.evaluate("document.documentElement.dataset.theme") == "dark" and colour(page, "body") != light[0]
    screenshot(page.locator(".evonb-figure").first, "site_figure_dark")


def test_search_finds_a_function_from_disk(open_page, site):
    page = open_page("index")
    page.goto(f"{(site / 'search.html').as_uri()}?q=degree_preserving_control")
    found = page.locator("#search-results li a")
    found.first.wait_for(timeout=90_000)
    target = found.first.get_attribute("href")
    assert f"api/{CONTROLS}.html#evonb.{CONTROLS}.degree_preserving_control" in target
    found.first.click()
    page.wait_for_url(f"**/api/{CONTROLS}.html*")
    assert page.locator(f"[id='evonb.{CONTROLS}.degree_preserving_control']").is_visible()


@pytest.mark.parametrize("asked, marked", [("inherited wiring", {"inherited", "wiring"}), ("sealed", {"sealed"})])
def test_search_shows_extracts_from_disk(open_page, site, screenshot, asked, marked):
    page = open_page("index")
    page.goto(f"{(site / 'search.html').as_uri()}?q={asked.replace(' ', '+')}")
    page.locator("#search-results .search-summary", has_text="found").wait_for(timeout=90_000)
    items = page.locator("#search-results ul.search > li")
    told = items.evaluate_all("all => all.map(e => e.children.length > 1)")
    assert len(told) > 2 and all(told), "a result without an extract"
    marks = {m.lower() for m in page.locator("#search-results mark").all_inner_texts()}
    assert marked <= marks
    screenshot(page.locator("#search-results"), f"site_search_{len(asked)}")
    link = items.filter(has_text="Findings").first.locator("a").first
    assert "#" in link.get_attribute("href")
    link.click()
    page.wait_for_function("location.hash && document.getElementById(location.hash.slice(1))")


def test_tutorials_have_pictures_times_and_places_to_run(open_page, assert_accessible, screenshot):
    page = open_page("tutorials")
    card = page.locator(".evonb-tutorials a.evonb-card", has_text="Evolve a connectome")
    page.wait_for_function("e => e.querySelector('[data-drawn=yes]')", arg=card.element_handle(), timeout=90_000)
    assert re.search(r"\d+ (s|min)", card.locator(".evonb-card-time").inner_text())
    assert "load" in page.locator("article").inner_text()
    assert_accessible(page)
    screenshot(page.locator(".evonb-tutorials"), "site_tutorials")
    card.click()
    page.wait_for_url("**/1_evolve_a_connectome.html")
    links = page.locator(".evonb-launch a")
    places = dict(links.evaluate_all("all => all.map(e => [e.innerText, e.getAttribute('href')])"))
    given = launch.places(PROJECT, "nbs/tutorials/1_evolve_a_connectome.ipynb")
    assert {n.removeprefix("Open in "): a for n, a in places.items() if n.startswith("Open")} == given
    file = page.locator(".evonb-launch a", has_text="Notebook file")
    place = Path(url2pathname(urlparse(file.evaluate("e => e.href")).path))  # from disk, a browser only shows it
    assert place.name == "1_evolve_a_connectome.ipynb" and json.loads(place.read_text())["cells"]
    assert file.get_attribute("download") is not None


def test_the_reference_leads_to_source_and_notebook(open_page):
    page = open_page(f"api/{CONNECTOME}")
    entry = page.locator("dl.py.function", has=page.locator(f"[id='evonb.{CONNECTOME}.prune']"))
    assert "fraction" in entry.locator("table").inner_text()
    entry.locator("a.evonb-where").click()
    page.wait_for_url(f"**/{WIRING}.html#evonb.{CONNECTOME}.prune")
    assert page.locator(f"[id='evonb.{CONNECTOME}.prune']").count() == 1
    page.locator("dl.py.function", has_text="prune(").locator("a:has(.viewcode-link)").first.click()
    page.wait_for_url(f"**/_modules/evonb/{CONNECTOME.replace('.', '/')}.html#prune")
    assert "def prune(" in page.locator("[id='prune']").inner_text()


def test_an_explorer_lives_in_its_page(open_page, explorer, assert_accessible, screenshot):
    page = open_page(LOOKING, color_scheme="dark")
    driver = explorer(page).ready()
    assert "genome+, seed 0: " in driver.text("about") and "#3 " not in driver.text("tree")
    driver.set("individual", 3).ready()
    assert "#3 " in driver.text("tree")
    driver.set("method", "cma").ready()
    assert "cma, seed 0: " in driver.text("about") and "genome+, seed 0: " not in driver.text("about")
    assert_accessible(page)
    screenshot(driver.root, "site_explorer")


def test_the_gallery_shows_figures_and_leads_to_them(open_page, screenshot):
    page = open_page("gallery")
    card = page.locator("a.evonb-card").first
    card.scroll_into_view_if_needed()
    page.wait_for_function("e => e.querySelector('[data-drawn=yes]')", arg=card.element_handle(), timeout=90_000)
    assert card.locator("svg.main-svg").count() > 0
    screenshot(card, "site_gallery_card")
    card.click()
    page.wait_for_function("location.hash && document.querySelector(location.hash)")

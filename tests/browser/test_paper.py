"""Paper: what a page shows on screen is all there when it is printed on A4 or Letter, and nothing is cut off."""

import pytest

from evonb import report
from evonb.core import Seeds
from evonb.plots import style as plots
from evonb.plots.examples import example_brain, example_reading
from evonb.widgets.alignment import AlignmentExplorer
from evonb.widgets.connectome import ConnectomeExplorer, example_connectome_run
from evonb.widgets.explorer import Explorer, Reply, View, choice
from evonb.widgets.population import PopulationExplorer

SIZES = {"A4": 794 - 106, "Letter": 816 - 106}  # px between margins of 14 mm
LONG = "an_arm_with_a_name_that_somebody_chose_without_thinking_of_tables_" * 2

# What stands beyond the page, is hidden by a box that scrolls on screen, or is beyond its own figure.
CUT = """() => {
  const right = document.documentElement.clientWidth + 0.5, found = [];
  for (const e of document.body.querySelectorAll("*")) {
    if (e.closest("defs, clipPath, noscript, script, style, .modebar, .hoverlayer") || !e.checkVisibility()) continue;
    const box = e.getBoundingClientRect(), name = `${e.tagName} ${e.textContent.slice(0, 40)}`;
    if (!box.width || !box.height) continue;
    const seen = e.matches("text, th, td, p, li, code, summary, h1, h2, h3, canvas, .main-svg, select, label");
    if (seen && (box.right > right || box.left < -0.5)) found.push(`${name}: ${box.left} to ${box.right} of ${right}`);
    const hides = !(e instanceof SVGElement) && (e.matches("p, td, th, li, h1, h2, h3, figcaption") ||
                                                 getComputedStyle(e).overflowX !== "visible");
    if (hides && e.scrollWidth > e.clientWidth + 1) found.push(`${name}: hides ${e.scrollWidth - e.clientWidth} px`);
    const figure = e.matches("text") && e.closest(".evonb-figure")?.getBoundingClientRect();
    const beyond = figure && (box.right > figure.right + 1 || box.left < figure.left - 1);
    if (beyond) found.push(`${name}: beyond its figure`);
  }
  return found;
}"""
DRAWN = """() => {
  const figures = [...document.querySelectorAll(".evonb-figure")];
  const drawn = figures.length && figures.every((f) => f.querySelector(".main-svg"));
  return drawn && !document.querySelector("[data-state=loading], [data-redrawing]");
}"""
LOOK = """() => {
  const figures = [...document.querySelectorAll(".evonb-figure")];
  const width = (figure) => Math.round(figure.querySelector(".main-svg").getBoundingClientRect().width);
  return { widths: figures.map(width), inks: [...new Set(figures.map((f) => f.layout.font?.color))],
           shut: document.querySelectorAll("details:not([open])").length };
}"""
NOTE = f"() => addEventListener('beforeprint', () => {{ globalThis.printed = ({LOOK})(); }})"


class Wide(Explorer):
    "Tables and words that no sheet of paper can hold in one line."

    def __init__(self):
        kinds = dict(few="table", many="table", line="plotly", said="text")
        views = [View(name, kind, LONG, width=2) for name, kind in kinds.items()]
        super().__init__(LONG, [choice("which", "Which", [LONG, "b"], local=True)], views, LONG)

    def reply(self, view, values):
        if view == "line":
            return Reply.of_figure(plots.figure(LONG, LONG).add_scatter(y=[1, 2], name=LONG[:40]))
        if view == "said":
            return Reply.of_text(f"{LONG}\n\n{LONG}")
        columns = [f"column_{i}" for i in range(24 if view == "many" else 3)]
        return Reply.of_table([{c: LONG if i == 0 else "1.234 ± 0.567" for i, c in enumerate(columns)}], note=LONG)


def wide_report(folder):
    "A report of arms with long names, and a table of twenty columns in it."
    path = report.write_report(report.example_run(folder / LONG[:60], Seeds(0), config=dict(note=LONG)))
    cells = [[LONG, *["1.234 ± 0.567"] * 19]] * 3
    table = report.table([f"column_{i}" for i in range(20)], cells, LONG) + report.table(["a", LONG], [["b", LONG]])
    path.write_text(path.read_text(encoding="utf-8").replace("</main>", f"{table}</main>"), encoding="utf-8")
    return path


def as_shown(explorer, folder):
    return explorer.to_html(folder / "page.html", only={k: [v] for k, v in explorer.values.items()})


PAGES = {
    "a connectome's report": lambda f: report.write_report(report.example_run(f / "run", Seeds(0))),
    "a population's report": lambda f: report.write_report(report.example_population_run(f / "run", Seeds(0))),
    "a wide report": wide_report,
    "wide": lambda f: as_shown(Wide(), f),
    "connectome": lambda f: as_shown(ConnectomeExplorer(example_connectome_run(f / "c", Seeds(3), width=32)), f),
    "population": lambda f: as_shown(PopulationExplorer(report.example_population_run(f / "p", Seeds(0))), f),
    "alignment": lambda f: as_shown(AlignmentExplorer([example_brain(Seeds(3)), example_reading(Seeds(3))]), f),
}


@pytest.mark.parametrize("kind", PAGES)
def test_nothing_is_cut_on_paper(offline_page, tmp_path, screenshot, kind):
    page = offline_page(PAGES[kind](tmp_path), color_scheme="dark")
    page.wait_for_function(DRAWN)
    before = page.evaluate(LOOK)
    page.evaluate(NOTE)
    assert page.pdf(format="A4")[:5] == b"%PDF-"
    printed, n = page.evaluate("printed"), len(before["widths"])
    assert printed["widths"] == [w for w in printed["widths"] if 600 < w <= 660] and len(printed["widths"]) == n
    assert printed["inks"] == ["#1f2328"] or "report" not in kind, "dark ink, though the screen is dark"
    assert not printed["shut"]
    page.wait_for_function(f"n => JSON.stringify(({LOOK})().widths) === n", arg=str(before["widths"]).replace(" ", ""))
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    for paper, width in SIZES.items():
        page.set_viewport_size({"width": width, "height": 1000})
        assert page.evaluate(CUT) == [], paper
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    screenshot(page, f"paper-{kind}")


def test_without_its_layout_for_paper_a_page_is_cut(offline_page, tmp_path):
    page = offline_page(PAGES["wide"](tmp_path))  # so the test above can fail
    page.wait_for_function(DRAWN)
    page.set_viewport_size({"width": 1200, "height": 1000})
    page.evaluate("document.querySelectorAll('.evonb-figure').forEach(f => Plotly.relayout(f, {width: 1100}))")
    page.set_viewport_size({"width": SIZES["A4"], "height": 1000})
    assert any("main-svg" in x or "svg" in x for x in page.evaluate(CUT))

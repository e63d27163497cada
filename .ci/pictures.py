#!/usr/bin/env python3
"""The pictures of README and site, taken in a real JupyterLab over real runs.

    .ci/pictures.py [STORY=run] [CONNECTOME=run] [POPULATION=run] [ALIGNMENT=run] [only=NAME,...]

Writes nbs/images/story.png (what README opens with, of the run of `make demo`), connectome.png, population.png and
alignment.png (an explorer each), each for the run that is given, monitor.png (a short run of its own, while it
trains), site.png (the front page of _docs/html, if it is built), and nbs/images/README.md, which says what made each.
`make pictures CONNECTOME=... ` calls it.
"""

import io
import re
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from PIL import Image, PngImagePlugin

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import notebook  # noqa: E402
from browser.chromium import Watch, launch  # noqa: E402
from browser.driver import explorer  # noqa: E402
from browser.server import Lab  # noqa: E402

IMAGES, SITE = ROOT / "nbs" / "images", ROOT / "_docs" / "html" / "index.html"
WIDTH, MOST = 1280, 300_000  # px, bytes
MARGIN = 16  # px around an explorer
EXPLORERS = {  # class, the last view in the picture, controls that are moved first
    "connectome": ("ConnectomeExplorer", "mask", {}),
    "population": ("PopulationExplorer", "tree", {"method": "genome"}),
    "alignment": ("AlignmentExplorer", "strip", {}),
}
# Only the explorer of a notebook, as wide as a picture.
ALONE = f""".jp-InputArea, .jp-Prompt, .jp-Collapser, .jp-OutputPrompt {{display: none !important}}
.evonb-explorer {{width: {WIDTH}px !important; padding: {MARGIN}px !important; box-sizing: border-box; margin: 0}}"""
MONITOR = """from evonb.connectomes import DevelopmentConfig, EvolutionConfig, ExperimentConfig, experiment
from evonb.text import CorpusConfig
from evonb.training import LifetimeConfig, ModelConfig
from evonb.widgets import Monitor

life = LifetimeConfig(steps=150, batch_size=16, context=32, lr=4e-3, warmup=10, eval_every=10, eval_windows=16)
config = ExperimentConfig("tiny", corpus=CorpusConfig("toy-english", n_bytes=400_000, vocab_size=512),
                          model=ModelConfig(2, 2, 64),
                          evolution=EvolutionConfig(n_generations=3, prune_fraction=.3, lifetime=life),
                          development=DevelopmentConfig(("connectome", "random"), 1, (4e-3,), lifetime=life))"""
SHOW = "monitor = Monitor(experiment, \"runs/tiny\", config)\nmonitor"


def sizes(image) -> list[tuple[int, int]]:
    "As taken, then half of it."
    return [image.size, (image.width // 2, image.height // 2)]


def squeeze(png: bytes, path: Path, made_by: str):
    "Writes a picture as large, and with as many colours, as its size in bytes allows; what made it is inside."
    image = Image.open(io.BytesIO(png)).convert("RGB")
    about = PngImagePlugin.PngInfo()
    about.add_text("Description", made_by)
    for size in sizes(image):
        small = image.resize(size, Image.Resampling.LANCZOS) if size != image.size else image
        for colours in (256, 160):
            few = small.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
            few.save(path, optimize=True, pnginfo=about)
            if path.stat().st_size < MOST:
                print(f"{path.relative_to(ROOT)}: {size[0]} x {size[1]}, {path.stat().st_size / 1000:.0f} kB")
                return
    raise SystemExit(f"{path}: still {path.stat().st_size} bytes at {size}: show less in it.")


class Studio:
    "A browser and a JupyterLab to take pictures in."

    def __init__(self, playwright, lab):
        self.browser, self.lab = launch(playwright), lab

    def page(self, home=None, width=WIDTH, height=900):
        context = self.browser.new_context(viewport={"width": width, "height": height}, device_scale_factor=2)
        self.watch = Watch(context, home)
        return context.new_page()

    def notebook(self, name, cells, **size):
        "A page with this notebook, all of its cells run."
        page = self.page(self.lab.url, **size)
        notebook.open_notebook(page, self.lab, self.lab.notebook(cells, name))
        notebook.assert_ran(notebook.run_all(page))
        return page

    def done(self, page):
        self.watch.check()
        page.context.close()
        self.lab.end_kernels()


def explorer_picture(studio, kind, run):
    "An explorer over a stored run, down to one of its views."
    name, last, moves = EXPLORERS[kind]
    cells = [f"from evonb.widgets import {name}\n{name}({str(run)!r})"]
    page = studio.notebook(f"{kind}.ipynb", cells, width=WIDTH + 160, height=2400)
    page.add_style_tag(content=ALONE)
    seen = explorer(page).ready(last)  # other views may have nothing to show of this run
    for control, value in moves.items():
        seen.set(control, value).ready(last)
    page.wait_for_timeout(1000)  # for figures that still move into place
    foot = seen.view(last).bounding_box()
    height = foot["y"] + foot["height"] - seen.root.bounding_box()["y"] + MARGIN
    png = seen.root.screenshot()
    studio.done(page)
    return crop(png, height), f"{name}(run) over the run {run.name}; {made_with()}"


def crop(png: bytes, height: float) -> bytes:
    "The upper part of a picture of scale 2."
    image, kept = Image.open(io.BytesIO(png)), io.BytesIO()
    image.crop((0, 0, image.width, min(image.height, round(2 * height)))).save(kept, "PNG")
    return kept.getvalue()


def story_figure(run):
    "One matrix through the generations, and how newborns with and without the wiring learn."
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from evonb.connectomes import load_generation
    from evonb.plots import loss_curves
    from evonb.store import open_run, read_dataset
    run = open_run(run)
    count = len(list(run.file("evolution").glob("gen-*/connectome.safetensors")))
    grown = [load_generation(run, g) for g in range(count)]
    titles = [f"generation {g}: {c.density:.0%}" for g, c in enumerate(grown)]
    fig = make_subplots(1, count + 1, column_widths=[1] * count + [count], horizontal_spacing=.02,
                        subplot_titles=[*titles, "newborns that grow up"])
    for place, connectome in enumerate(grown, 1):
        mask = connectome.signs["transformer.h.0.attn.c_attn.weight"].numpy()
        fig.add_trace(go.Heatmap(z=mask, colorscale=[[0, "#0072B2"], [.5, "#FFFFFF"], [1, "#D55E00"]], zmin=-1, zmax=1,
                                 showscale=False), 1, place)
        frame = dict(showticklabels=False, mirror=True, showline=True, linecolor="#B0B7BF", ticks="")
        fig.update_xaxes(**frame, col=place).update_yaxes(**frame, autorange="reversed", col=place)
    curves = loss_curves(read_dataset(run.file("development.zarr.zip")))
    for trace in curves.data:
        fig.add_trace(trace, 1, count + 1)
    fig.update_xaxes(title="training step", gridcolor="#E6E9EC", col=count + 1)
    fig.update_yaxes(title="validation loss (nats/token)", gridcolor="#E6E9EC", col=count + 1, title_standoff=6,
                     range=[2.1, 3.9])
    left = fig.layout[f"xaxis{count + 1}"].domain[0] + .05  # room for the axis title
    fig.layout[f"xaxis{count + 1}"].domain = (left, 1)
    fig.layout.annotations[count].x = (left + 1) / 2
    return fig.update_layout(width=WIDTH, height=380, margin=dict(l=12, r=190, t=36, b=48), plot_bgcolor="#FFFFFF",
                             font=dict(size=14, color="#24292F", family="DejaVu Sans, sans-serif"),
                             legend=dict(x=1.01, y=1, xanchor="left", yanchor="top")).update_annotations(font_size=14)


def story_picture(studio, run):
    "The figure of the whole story, drawn in the browser."
    page = studio.page(height=380)
    page.set_content(story_figure(run).to_html(include_plotlyjs=True, config={"staticPlot": True}))
    page.locator(".main-svg").first.wait_for()
    png = page.locator(".plotly-graph-div").screenshot()
    page.context.close()
    return png, f"block 0's attention through generations, and loss_curves, of the run {run.name}; {made_with()}"


def wait_for_generation(page, seen, generation, step, seconds=600):
    "Waits until the monitor tells of this step in this generation."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        at = re.search(r"step\s+(\d+) of", told := seen.text("progress"))
        if f"generation {generation}" in told and at and int(at[1]) >= step:
            return
        page.wait_for_timeout(100)
    raise SystemExit(f"pictures: generation {generation} wasn't reached within {seconds} s; the page says: {told}")


def monitor_picture(studio):
    "JupyterLab while the live monitor's run is in its third generation."
    page = studio.notebook("monitor.ipynb", [MONITOR, SHOW], height=1000)
    seen = explorer(page)
    wait_for_generation(page, seen, 2, 75)
    page.locator(".jp-CodeCell").nth(1).evaluate("e => e.scrollIntoView()")
    png = page.screenshot()
    seen.press("stop")
    notebook.run_code(page, "monitor.finished.wait(60)")
    studio.done(page)
    return png, f"Monitor(experiment, ...) over 2 layers of 64 on toy-english, in JupyterLab; {made_with('jupyterlab')}"


def site_picture(studio):
    "The built site's front page."
    page = studio.page(height=1000)
    page.goto(SITE.as_uri())
    page.wait_for_timeout(3000)
    png = page.screenshot()
    studio.watch.check()
    return png, f"_docs/html/index.html, as make docs built it; {made_with('sphinx')}"


def made_with(*more) -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("evonb", *more, "plotly"))


def index(made: dict):
    "nbs/images/README.md: what made each picture; those not made now keep their lines."
    path, known = IMAGES / "README.md", {}
    if path.is_file():
        lines = [line.split("|") for line in path.read_text().splitlines() if line.startswith("| `")]
        known = {parts[1].strip().strip("`"): parts[2].strip() for parts in lines}
    rows = "".join(f"| `{name}` | {how} |\n" for name, how in sorted((known | made).items()))
    path.write_text("# Pictures of README and site\n\nTaken in a real browser over real runs by "
                    "`make pictures STORY=run CONNECTOME=run POPULATION=run ALIGNMENT=run`.\n\n"
                    f"| picture | shows |\n|---|---|\n{rows}")


def arguments(given: list[str]) -> dict:
    "KIND=path as kind -> Path; only=... as a list."
    known = {**{kind.upper(): kind for kind in ("story", *EXPLORERS)}, "only": "only"}
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in known or not value:
            raise SystemExit(f"pictures: got {text!r}, expected {'=..., '.join(known)}=...")
        found[known[name]] = value.split(",") if name == "only" else Path(value).resolve()
    for kind in ("story", *EXPLORERS):
        if kind in found and not (found[kind] / "run.json").is_file():
            raise SystemExit(f"pictures: {found[kind]} is no run: it holds no run.json.")
    return found


def jobs(found: dict) -> dict:
    "Name -> function of the studio that gives (png, what made it)."
    made = {kind: lambda studio, kind=kind: explorer_picture(studio, kind, found[kind])
            for kind in EXPLORERS if kind in found}
    if "story" in found:
        made["story"] = lambda studio: story_picture(studio, found["story"])
    made["monitor"] = monitor_picture
    if SITE.is_file():
        made["site"] = site_picture
    else:
        print("no site.png: `make docs` first")
    return {name: job for name, job in made.items() if name in found.get("only", made)}


def main():
    from playwright.sync_api import sync_playwright
    found, made = arguments(sys.argv[1:]), {}
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        try:
            with sync_playwright() as playwright:
                studio = Studio(playwright, lab)
                for name, job in jobs(found).items():
                    png, made_by = job(studio)
                    squeeze(png, IMAGES / f"{name}.png", made_by)
                    made[f"{name}.png"] = made_by
        finally:
            lab.stop()
            index(made)


if __name__ == "__main__":
    main()

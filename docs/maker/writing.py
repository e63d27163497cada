"""The pages' sources are written to _docs/source, and Sphinx makes the site of them."""

import configparser
import html
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from .api import Library
from .entries import docstring, module_page
from .execution import Cache, kept, with_outputs
from .figures import Figures, script_of, title_of_figure
from .links import broken
from .measured import measured_page
from .pages import page_of, without_tree
from .sources import BuildError, Project, module_of, read_notebook, title_of

LAYERS = (("Foundations", 0), ("One lifetime", 10), ("Generations", 20), ("Populations", 22), ("Alignment", 38),
          ("Looking", 50), ("Entry points", 60))
PICTURES = dict(  # screenshots of the README -> what they show, and where it is made
    connectome=("The connectome explorer: each weight a point, through the generations", "55_connectome_explorer"),
    population=("The population explorer: every individual, its parents and its scores", "56_population_explorer"),
    alignment=("The alignment explorer: scores by layer, and the map on the cortex", "57_alignment_explorer"),
    monitor=("The live monitor: training as it runs, with a stop button that leaves a resumable run", "58_monitor"),
    site=("This site: every notebook run, every figure alive, no network", ""))


@dataclass
class Page:
    "One notebook's page."
    path: Path
    name: str  # of the document: "nbs/12_connectome"
    title: str
    line: str
    module: str | None  # what it exports
    figures: dict = field(default_factory=dict)

    @property
    def stem(self) -> str: return self.path.stem

    @property
    def is_tutorial(self) -> bool: return self.path.parent.name == "tutorials"

    @property
    def number(self) -> int: return int((re.match(r"\d+", self.stem) or ["-1"])[0])


@dataclass
class Site:
    "The folder that Sphinx reads, written file by file; what isn't written again is taken away."
    project: Project
    library: Library
    written: set = field(default_factory=set)

    @property
    def source(self) -> Path: return self.project.made / "source"

    @property
    def docs(self) -> Path: return Path(__file__).resolve().parents[1]

    def write(self, name: str, content: str | bytes):
        "A file, left untouched where it is the same, so that Sphinx reads only what changed."
        path = self.source / name
        data = content.encode() if isinstance(content, str) else content
        self.written.add(path)
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def sweep(self):
        "Take away what an earlier build wrote and this one didn't."
        for path in [p for p in self.source.rglob("*") if p.is_file()]:
            if path not in self.written:
                path.unlink()


def page_name(project: Project, path: Path) -> str:
    return path.relative_to(project.root).with_suffix("").as_posix()


def described(project: Project, path: Path) -> Page:
    nb = read_notebook(path)
    return Page(path, page_name(project, path), *title_of(nb, path), module_of(nb))


def write_notebooks(site: Site, pages: list[Page], stale: bool):
    "Every notebook as it was executed, without what readers needn't see."
    cache = Cache.of(site.project, stale)
    for page in pages:
        nb = read_notebook(page.path)
        if (done := kept(cache, page.path, nb)) is None:
            raise BuildError(f"{page.path.name} isn't executed: run docs/build.py execute.")
        figures = Figures(page.name.replace("/", "-"))
        shown = page_of(with_outputs(nb, done), site.library, figures)
        page.figures = figures.specs
        if page.stem == "index":
            shown = without_tree(shown, listing(pages, "nbs"))
        site.write(f"{page.name}.ipynb", nbformat.writes(shown))


def listing(pages: list[Page], folder: str = "") -> str:
    "Notebooks as a list of links with their one-liners."
    rows = [f"- [{p.title}]({os.path.relpath(p.name, folder or '.')}.ipynb): {docstring(p.line)}"
            for p in pages if p.stem != "index"]
    return "\n".join(rows)


def toctree(pages: list[str], caption: str = "") -> str:
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "```{toctree}\n" + "\n".join(options) + "\n\n" + "\n".join(pages) + "\n```"


def layer_of(number: int) -> str:
    "The layer of a notebook by its number."
    return [name for name, first in LAYERS if first <= number][-1]


def write_modules(site: Site, pages: list[Page]):
    "The modules, layer by layer, lowest first."
    parts = ["# Modules", "Each module is a notebook. Imports go only to lower layers, so this is also an order to "
             "read them in."]
    for layer, _ in LAYERS:
        found = [p for p in pages if p.number >= 0 and not p.is_tutorial and layer_of(p.number) == layer]
        if found:
            parts += [f"## {layer}", listing(found), toctree([p.name for p in found], layer)]
    site.write("modules.md", "\n\n".join(parts) + "\n")


def write_tutorials(site: Site, pages: list[Page]):
    found = [p for p in pages if p.is_tutorial]
    text = ("Stories from beginning to end; each runs within five minutes on two cores and ends in something to play "
            "with. `make lab` opens them in JupyterLab.")
    parts = ["# Tutorials", text, listing(found), toctree([p.name for p in found])]
    site.write("tutorials.md", "\n\n".join(parts) + "\n")


def write_reference(site: Site, pages: list[Page]):
    "A page a module, and their list."
    project, library = site.project, site.library
    told = {f"{project.package}.{p.module}": f"../{p.name}.html" for p in pages if p.module}
    modules = [m for m in library.modules.values() if m.full_name in told]
    for module in modules:
        site.write(f"api/{module.name}.md", module_page(module, library, told))
    order = {p.module: p.number for p in pages if p.module}
    modules.sort(key=lambda m: order[m.name])
    rows = [f"- [{m.full_name}](api/{m.name}.md): {docstring(m.doc)}" for m in modules]
    text = ("What every module offers, with shapes and units. Each entry leads to its source and to the notebook that "
            "tells, shows and tests it.")
    parts = ["# Reference", text, "\n".join(rows), toctree([f"api/{m.name}" for m in modules])]
    site.write("reference.md", "\n\n".join(parts) + "\n")


def pictures(site: Site, pages: list[Page]) -> list[tuple[str, str, str]]:
    "The screenshots that exist: (file, what it shows, page it leads to)."
    known = {p.stem: p.name for p in pages}
    return [(f"nbs/images/{name}.png", text, known.get(stem, ""))
            for name, (text, stem) in PICTURES.items() if (site.project.notebooks / "images" / f"{name}.png").is_file()]


def picture_html(file: str, text: str, page: str) -> str:
    "A screenshot with what it shows, leading to where it is made."
    said, target = html.escape(text), f":target: {page}.html\n" if page else ""
    shown = f"```{{image}} {file}\n:alt: {text}\n{target}```"
    return f":::{{grid-item}}\n:class: evonb-picture\n\n{shown}\n\n{said}\n:::"


def picture_grid(title: str, site: Site, pages: list[Page]) -> str:
    "The screenshots side by side, or nothing where there are none."
    shown = [picture_html(*p) for p in pictures(site, pages)]
    return "\n\n".join([f"## {title}", "::::{grid} 1 1 2 2\n:gutter: 3", *shown, "::::"]) if shown else ""


def write_front(site: Site, pages: list[Page]):
    "The front page, with those pictures that there are."
    grid = picture_grid("What it looks like", site, pages)
    text = (site.docs / "pages" / "index.md").read_text(encoding="utf-8")
    site.write("index.md", text.replace("<!-- pictures -->", grid))


def thumbnail(page: Page, name: str, figure: dict) -> str:
    "A small picture of a figure that leads to the figure itself."
    title = html.escape(title_of_figure(figure))
    return (f'<a class="evonb-card" href="{page.name}.html#{name}"><span class="evonb-thumb" data-figure="{name}" '
            f'aria-hidden="true"></span><span class="evonb-card-title">{title}</span></a>')


def write_gallery(site: Site, pages: list[Page]):
    "Every figure of the site in small, by page."
    parts = ["---\nhtml_theme.sidebar_secondary.remove: true\n---", "# Gallery",
             "Every figure and explorer of these pages, each leading to the place where it is made.",
             picture_grid("Explorers", site, pages)]
    for page in sorted(pages, key=lambda p: (not p.is_tutorial, not 50 <= p.number < 60, p.stem)):
        cards = [thumbnail(page, name, figure) for name, figure in page.figures.items()]
        if cards:
            parts.append(f"## {page.title}\n\n" + f'<div class="evonb-cards">{"".join(cards)}</div>')
    site.write("gallery.md", "\n\n".join(parts) + "\n")


def write_project(site: Site, pages: list[Page]):
    "The project's own texts, pictures and figures."
    for name in ("CHANGELOG", "CONTRIBUTING"):
        site.write(f"{name.lower()}.md", (site.project.root / f"{name}.md").read_text(encoding="utf-8"))
    for picture in sorted((site.project.notebooks / "images").glob("*.png")):
        site.write(f"nbs/images/{picture.name}", picture.read_bytes())


def write_measured(site: Site, pages: list[Page]):
    "What was measured, from the figures kept in docs/results."
    site.write("measured.md", measured_page(site.project.root / "docs" / "results"))


def write_figures(project: Project, pages: list[Page]):
    "The stored figures, beside the pages."
    folder = project.made / "html" / "_static" / "figures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for page in pages:
        for name, spec in page.figures.items():
            (folder / f"{name}.js").write_text(script_of(name, spec), encoding="utf-8")


def version_of(project: Project) -> str:
    settings = configparser.ConfigParser()
    settings.read(project.root / "settings.ini", encoding="utf-8")
    return settings.get("DEFAULT", "version", fallback="")


def write_known(site: Site, pages: list[Page]) -> Path:
    "What conf.py must know of the pages."
    package = site.project.package
    modules = {p.name: f"{package}.{p.module}" for p in pages if p.module}
    modules |= {f"api/{p.module}": f"{package}.{p.module}" for p in pages if p.module}
    known = dict(package=package, version=version_of(site.project), modules=modules,
                 pages={p.stem: p.name for p in pages})
    path = site.project.made / "known.json"
    path.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
    return path


def write_sources(project: Project, paths: list[Path], stale: bool = False) -> tuple[list[Page], Path]:
    "All that Sphinx reads."
    site = Site(project, Library.of(project))
    pages = [described(project, p) for p in paths]
    write_notebooks(site, pages, stale)
    for write in (write_modules, write_tutorials, write_reference, write_front, write_gallery, write_measured,
                  write_project):
        write(site, pages)
    site.sweep()
    return pages, write_known(site, pages)


def run_sphinx(project: Project, known: Path):
    "Sphinx in a process of its own; a warning ends it."
    docs, out = Path(__file__).resolve().parents[1], project.made
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-j", "2", "-c", docs, "-d", out / "doctrees",
               *([] if project.part else ["-W", "--keep-going"]), out / "source", out / "html"]
    environment = dict(os.environ, EVONB_DOCS_PROJECT=str(project.root), EVONB_DOCS_KNOWN=str(known))
    done = subprocess.run(list(map(str, command)), env=environment)
    if done.returncode:
        shutil.rmtree(out / "doctrees", ignore_errors=True)  # a page that wasn't right is read again
        raise BuildError("Sphinx found something to mend: see its messages above.")


def build(project: Project, paths: list[Path], stale: bool = False) -> Path:
    "The site of executed notebooks; returns its front page. Of a part of them warnings only warn."
    pages, known = write_sources(project, paths, stale)
    run_sphinx(project, known)
    write_figures(project, pages)
    front = project.made / "html"
    if found := [] if project.part else broken(front):
        raise BuildError("\n".join(found) + f"\n{len(found)} broken links in {front}")
    return front / "index.html"

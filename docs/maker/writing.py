"""The pages' sources are written to _docs/source, and Sphinx makes the site of them."""

import configparser
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from .api import Library
from .cards import figure_card, machines_of, notebook_card, time_of
from .citing import bibtex
from .entries import docstring, face_page, module_page
from .execution import Cache, kept, with_outputs
from .faces import Face, problems
from .figures import Figures, script_of
from .front import install_line, live_piece
from .launch import buttons, places
from .links import broken
from .measured import calibration_table, claims_parts, measured_page
from .pages import TEXTS, linked, page_of
from .sources import BuildError, Project, module_of, read_notebook, title_of

LAYERS = (("Foundations", 0), ("One lifetime", 10), ("Generations", 20), ("Populations", 22), ("Alignment", 38),
          ("Looking", 50), ("Entry points", 60))
WINGS = ("text", "training", "evolution", "tasks", "connectomes", "populations", "alignment", "development", "plots",
         "widgets", "claims")
CLAIMS = "<!-- claims -->"  # on a page: stands for what `make claims` kept
CALIBRATION = "<!-- calibration -->"  # on a page: stands for the table that `make calibrate` kept
CITATION = "<!-- citation -->"  # on a page: stands for what CITATION.cff names, as BibTeX
REGISTRIES = "<!-- registries -->"  # on a page: stands for tables of all that there is of each kind
PICTURES = dict(  # screenshots of the README -> what they show, and the class that makes it
    connectome=("The connectome explorer: each weight a point, through the generations", "ConnectomeExplorer"),
    population=("The population explorer: every individual, its parents and its scores", "PopulationExplorer"),
    alignment=("The alignment explorer: scores by layer, and the map on the cortex", "AlignmentExplorer"),
    monitor=("The live monitor: training as it runs, with a stop button that leaves a resumable run", "Monitor"),
    site=("This site: every notebook run, every figure alive, no network", ""))

STORY = ("Newborns that grow up: those with the evolved connectome learn faster, and end lower, than newborns with "
         "other wirings or none")


@dataclass
class Page:
    "One notebook's page."
    path: Path
    name: str  # of the document: "nbs/12_connectome"
    title: str
    line: str
    module: str | None  # what it exports
    figures: dict = field(default_factory=dict)
    took: dict = field(default_factory=dict)  # what its execution took, and on which machine

    @property
    def stem(self) -> str: return self.path.stem

    @property
    def folder(self) -> str:
        "Where below nbs it is: `training`, `evolution/methods`, or nothing."
        return "/".join(self.name.split("/")[1:-1])

    @property
    def wing(self) -> str: return self.folder.split("/")[0]

    @property
    def is_tutorial(self) -> bool: return self.wing == "tutorials"

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
        page.took = done.metadata.get("evonb", {})
        figures = Figures(page.name.replace("/", "-"))
        shown = page_of(with_outputs(nb, done), site.library, figures)
        page.figures = figures.specs
        for cell in (c for c in shown.cells if c.cell_type == "markdown"):
            cell.source = linked(cell.source, site.project.root, f"{page.name}.ipynb")
        if page.is_tutorial:
            root = "../" * page.name.count("/")
            took = f"Running this page took {said}.\n\n" if (said := time_of(page.took)) else ""
            said = nbformat.v4.new_markdown_cell(f"{took}{buttons(site.project, page.path, root)}", id="launch")
            shown.cells.insert(1, said)
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
    return [name for name, first in LAYERS if first <= max(number, 0)][-1]


def place_of(page: Page) -> tuple:
    "Where a page stands in the order to read in: what looks and starts things comes after every wing."
    names = [name for name, _ in LAYERS]
    wing = WINGS.index(page.wing) if page.wing in WINGS else len(WINGS)
    layer = names.index(layer_of(page.number)) if not page.wing else 0
    half = 1 if page.wing else 0 if layer < names.index("Looking") else 2
    return half, layer, wing, page.wing, page.folder, page.number, page.stem


def by_wing(pages: list[Page]) -> dict[str, list[Page]]:
    "Heading -> the notebooks of a wing, or of a layer where they stand in no folder; lowest first."
    found = {}
    for page in sorted((p for p in pages if p.stem != "index" and not p.is_tutorial), key=place_of):
        found.setdefault(page.wing.capitalize() or layer_of(page.number), []).append(page)
    return found


def write_modules(site: Site, pages: list[Page]):
    "One line a notebook, wing by wing, lowest first."
    parts = ["# Modules", "Each module is a notebook that explains, shows and tests it. Imports lead up this page "
             "only, so this is also an order to read them in. Connectomes, populations and alignment don't know of "
             "each other."]
    for title, found in by_wing(pages).items():
        face = site.library.faces.get(found[0].wing)
        said = docstring(face.doc) if face and found[0].wing else ""
        parts += [f"## {title}", said, listing(found), toctree([p.name for p in found], title)]
    site.write("modules.md", "\n\n".join(filter(None, parts)) + "\n")


ELSEWHERE = ("*Open in Colab* and *Open in Binder* on a tutorial's page run it without installing anything here. "
             "There is no button for JupyterLite: evonb needs tokenizers, and what trains torch, and Python in a "
             "browser (Pyodide) has neither ([tokenizers](https://github.com/pyodide/pyodide-recipes/issues/199), "
             "[torch](https://github.com/pyodide/pyodide-recipes/issues/193)). Explorers need no Python at all: they "
             "move on these pages, and in those that `evonb explore` writes.")


def write_tutorials(site: Site, pages: list[Page]):
    "The tutorials as cards, each with a picture and the time that it took."
    found = [p for p in pages if p.is_tutorial]
    text = ("Stories from beginning to end; each runs within five minutes on two cores and ends in something to play "
            "with. `make lab` opens them in JupyterLab.")
    image = "_images/connectome.png" if (site.project.notebooks / "images" / "connectome.png").is_file() else ""
    cards = "".join(notebook_card(p, image) for p in found)
    known = any(places(site.project, p.name) for p in found)
    parts = ["# Tutorials", text, f'<div class="evonb-cards evonb-tutorials">{cards}</div>', machines_of(found),
             ELSEWHERE if known else "", toctree([p.name for p in found])]
    site.write("tutorials.md", "\n\n".join(filter(None, parts)) + "\n")


def write_reference(site: Site, pages: list[Page]):
    "A page a face and a page a module, and their list: wing by wing, what a user imports first."
    project, library = site.project, site.library
    told = {f"{project.package}.{p.module}": f"../{p.name}.html" for p in pages if p.module}
    for page in pages:
        if page.module and page.module not in library.modules:
            raise BuildError(f"{page.name}.ipynb exports {page.module}, which isn't there: run `make export`.")
    for name, module in library.modules.items():
        if module.full_name in told:
            site.write(f"api/{name}.md", module_page(module, library, told))
    for name, face in faces_of(library, told).items():
        site.write(f"api/{name or project.package}.md", face_page(face, library, told))
    text = ("What every module offers, with shapes and units. Each entry leads to its source and to the notebook that "
            "tells, shows and tests it.")
    parts = ["# Reference", text]
    for title, found in reference_groups(library, pages, told).items():
        rows = [f"- [{x.full_name}](api/{x.name or project.package}.md): {docstring(x.doc)}" for x in found]
        parts += [f"## {title}", "\n".join(rows),
                  toctree([f"api/{x.name or project.package}" for x in found], title)]
    site.write("reference.md", "\n\n".join(parts) + "\n")


def faces_of(library: Library, told: dict[str, str]) -> dict[str, Face]:
    "The faces above the modules that are told of."
    return {n: f for n, f in library.faces.items() if any(full.startswith(f"{f.full_name}.") for full in told)}


def reference_groups(library: Library, pages: list[Page], told: dict[str, str]) -> dict[str, list]:
    "Heading -> faces and modules, each folder's face before its modules."
    faces, groups = faces_of(library, told), {}
    if "" in faces:
        groups["The package"] = [faces.pop("")]
    for title, found in by_wing(pages).items():
        shown = []
        for module in dict.fromkeys(p.module for p in found if p.module):
            above = [".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 1)]
            shown += [faces.pop(name) for name in above if name in faces]
            shown.append(library.modules[module])
        if shown:
            groups[title] = shown
    return groups


def pictures(site: Site, pages: list[Page]) -> list[tuple[str, str, str]]:
    "The screenshots that exist: (file, what it shows, page it leads to)."
    known = {f"{site.project.package}.{p.module}": p.name for p in pages if p.module}
    made = {cls: next(iter(site.library.names.get(cls, [])), "").rpartition(".")[0] for _, cls in PICTURES.values()}
    return [(f"nbs/images/{name}.png", text, known.get(made[cls], ""))
            for name, (text, cls) in PICTURES.items() if (site.project.notebooks / "images" / f"{name}.png").is_file()]


def picture_html(file: str, text: str, page: str) -> str:
    "A screenshot with what it shows, leading to where it is made."
    said, target = html.escape(text), f":target: {page}.html\n" if page else ""
    shown = f"```{{image}} {file}\n:alt: {text}\n{target}```"
    return f":::{{grid-item}}\n:class: evonb-picture\n\n{shown}\n\n{said}\n:::"


def picture_grid(title: str, site: Site, pages: list[Page]) -> str:
    "The screenshots side by side, or nothing where there are none."
    shown = [picture_html(*p) for p in pictures(site, pages)]
    return "\n\n".join([f"## {title}", "::::{grid} 1 1 2 2\n:gutter: 3", *shown, "::::"]) if shown else ""


LIVE = dict(  # what the front page lets one move: a view of the first tutorial's explorer
    notebook="1_evolve_a_connectome", view="mask", moving=["generation", "layer", "matrix"], title="", height=380,
    subtitle="Orange: positive wires, blue: negative ones. Press play, choose a matrix, zoom in.")


def live(site: Site, pages: list[Page]) -> str:
    "The piece of an explorer on the front page, with its weight; nothing where its notebook isn't among the pages."
    page = next((p for p in pages if p.stem == LIVE["notebook"]), None)
    cache = Cache.of(site.project, stale=True)  # it was found before, under whichever key
    done = kept(cache, page.path, read_notebook(page.path)) if page else None
    piece = live_piece(done, **{k: v for k, v in LIVE.items() if k != "notebook"}) if done else ""
    if not piece:
        return ""
    site.write("live.html", piece)
    weight = f"{len(piece.encode()) / 1000:.0f}"
    return (f"::::{{container}} evonb-live\n\n```{{raw}} html\n:file: live.html\n```\n\nWires of the connectome that "
            f"[the first tutorial]({page.name}.ipynb) evolves, as the explorer shows them. It needs no Python and no "
            f"network: all {weight} kB of it are in this page.\n\n::::")


def write_front(site: Site, pages: list[Page]):
    "The front page, with those pictures that there are."
    grid = picture_grid("What it looks like", site, pages)
    story = (f":::{{container}} evonb-half\n\n```{{image}} nbs/images/story.png\n:alt: {STORY}\n:class: evonb-story\n"
             "```\n\n:::" if (site.project.notebooks / "images" / "story.png").is_file() else "")
    text = (site.project.pages / "index.md").read_text(encoding="utf-8")
    stands = {"<!-- story -->": lambda: story, "<!-- pictures -->": lambda: grid,
              "<!-- install -->": lambda: install_line(site.project), "<!-- live -->": lambda: live(site, pages),
              CITATION: lambda: cited(site.project)}
    for mark in (m for m in stands if m in text):
        text = text.replace(mark, stands[mark]())
    site.write("index.md", text)


def cited(project: Project) -> str:
    "CITATION.cff as BibTeX, to be copied."
    path = project.root / "CITATION.cff"
    return f"```bibtex\n{bibtex(path)}\n```" if path.is_file() else ""


def write_gallery(site: Site, pages: list[Page]):
    "Every figure of the site in small, by page, with the time that the page took."
    parts = ["---\nhtml_theme.sidebar_secondary.remove: true\n---", "# Gallery",
             "Every figure and explorer of these pages, each leading to the place where it is made.",
             picture_grid("Explorers", site, pages)]
    looking = lambda p: p.wing in ("plots", "widgets") or not p.wing and 50 <= p.number < 60  # noqa: E731
    shown = [p for p in pages if p.figures]
    for page in sorted(shown, key=lambda p: (not p.is_tutorial, not looking(p), place_of(p))):
        cards = "".join(figure_card(page, name, figure) for name, figure in page.figures.items())
        took = f"The whole page ran in {said}." if (said := time_of(page.took)) else ""
        parts += [f"## {page.title}", took, f'<div class="evonb-cards">{cards}</div>']
    site.write("gallery.md", "\n\n".join(filter(None, [*parts, machines_of(shown)])) + "\n")


def registry_tables() -> str:
    "All that evonb has of each kind, as its registries tell it."
    from evonb.registry import KINDS

    parts = []
    for kind in KINDS:
        entries = [KINDS[kind].entry(name) for name in KINDS[kind]]
        rows = [f"| `{e.spelled}` | {e.line.replace('|', ' ')} |" for e in entries if e.origin == "evonb"]
        parts.append("\n".join([f"| {kind.replace('-', ' ')} | {KINDS.entry(kind).line} |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def write_project(site: Site, pages: list[Page]):
    "The project's own texts, pictures and figures."
    root = site.project.root
    for page in site.project.pages.glob("*.md"):
        if page.name != "index.md":
            text = page.read_text(encoding="utf-8")
            if REGISTRIES in text:
                text = text.replace(REGISTRIES, registry_tables())
            text = text.replace(CALIBRATION, calibration_table(root / "docs" / "results"))
            if CLAIMS in text:
                figures = Figures("claims")
                text = text.replace(CLAIMS, claims_parts(root / "docs" / "results", figures))
                pages[0].figures.update(figures.specs)  # stored with the notebooks' figures
            site.write(page.name, linked(text, root, f"docs/pages/{page.name}"))
    for name in TEXTS:
        site.write(name.lower(), linked((root / name).read_text(encoding="utf-8"), root, name))
    for picture in sorted((site.project.notebooks / "images").glob("*.png")):
        site.write(f"nbs/images/{picture.name}", picture.read_bytes())


def write_measured(site: Site, pages: list[Page]):
    "What was measured, from the figures kept in docs/results."
    site.write("measured.md", measured_page(site.project.root / "docs" / "results"))


def write_figures(project: Project, pages: list[Page]):
    "The stored figures, and the tutorials as they are committed, beside the pages."
    static = project.made / "html" / "_static"
    folder, notebooks = static / "figures", static / "notebooks"
    for place in (folder, notebooks):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    for page in (p for p in pages if p.is_tutorial):
        shutil.copyfile(page.path, notebooks / page.path.name)
    for page in pages:
        for name, spec in page.figures.items():
            (folder / f"{name}.js").write_text(script_of(name, spec), encoding="utf-8")


def version_of(project: Project) -> str:
    settings = configparser.ConfigParser()
    settings.read(project.root / "settings.ini", encoding="utf-8")
    return settings.get("DEFAULT", "version", fallback="")


def page_names(pages: list[Page]) -> dict[str, str]:
    "What a notebook may be called in prose -> its page: its name, where no other has it, and its path below nbs."
    stems = Counter(p.stem for p in pages)
    alone = {p.stem: p.name for p in pages if stems[p.stem] == 1}
    return alone | {f"{p.folder}/{p.stem}": p.name for p in pages if p.folder}


def write_known(site: Site, pages: list[Page]) -> Path:
    "What conf.py must know of the pages."
    package = site.project.package
    modules = {p.name: f"{package}.{p.module}" for p in pages if p.module}
    modules |= {f"api/{p.module}": f"{package}.{p.module}" for p in pages if p.module}
    modules |= {f"api/{n or package}": f.full_name for n, f in site.library.faces.items()}
    known = dict(package=package, version=version_of(site.project), modules=modules, pages=page_names(pages))
    path = site.project.made / "known.json"
    path.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
    return path


def write_sources(project: Project, paths: list[Path], stale: bool = False) -> tuple[list[Page], Path]:
    "All that Sphinx reads."
    if found := problems(project):
        raise BuildError("\n".join(found))
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

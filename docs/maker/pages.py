"""Notebooks become pages: hidden cells go, exported ones give way to what they define."""

import ast
import posixpath
import re
from functools import lru_cache
from pathlib import Path

import nbformat

from .api import Definition, Library, Module
from .entries import on_notebook
from .figures import Figures, shown_output
from .sources import directives, module_of, without_directives

HIDDEN = ("hide", "default_exp")
TEXTS = ("CHANGELOG.md", "CONTRIBUTING.md")  # of the project's root, each a page
LINK = re.compile(r"\]\((?!\w+:|[#/])([^)#\s]+)")  # in markdown, to a file beside


parsed = lru_cache(16)(ast.parse)  # an exported cell is asked for its tree several times, one after another


def defined_in(text: str, module: Module) -> list[Definition]:
    "The module's definitions that an exported cell holds."
    cell = Module(module.name, module.package, module.path, module.names)
    cell.__dict__ |= dict(source=text, tree=parsed(text))
    names = [d.name for d in cell.definitions]
    found = {d.name: d for d in module.definitions}
    return [found[n] for n in names if n in found]


def is_only_imports(text: str) -> bool:
    return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in parsed(text).body)


def exported_cells(cell, module: Module) -> list:
    "What stands for an exported cell: its public definitions, and its source, folded where they say enough."
    text = without_directives(cell.source)
    public = [d for d in defined_in(text, module) if d.is_public]
    shown = [nbformat.v4.new_markdown_cell(on_notebook(d)) for d in public]
    prompt = f"Source: {what_it_holds(text)}"
    metadata = {"tags": tags_for(text, public, module),
                "mystnb": {"code_prompt_show": prompt, "code_prompt_hide": prompt}}
    return [*shown, nbformat.v4.new_code_cell(text, metadata=metadata, outputs=cell.outputs)]


def what_it_holds(text: str, most: int = 4) -> str:
    "The names that an exported cell defines, for the line that stands for it while it is folded."
    body = parsed(text).body
    names = [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    names += [t.id for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
    shown = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return shown or ("imports" if is_only_imports(text) else "settings")


def tags_for(text: str, public: list, module: Module) -> list[str]:
    "Whether an exported cell's source is folded: it isn't where it only names constants."
    constants = {c.name for c in module.constants}
    names = {n.id for n in ast.walk(parsed(text)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return [] if not public and constants & names else ["hide-input"]


def example_cells(cell, figures: Figures) -> list:
    "A cell that the reader sees, as its directives want it."
    found = directives(cell.source)
    tags = [tag for tag, wanted in {
        "remove-input": found.get("echo") == "false" or "hide_input" in found,
        "remove-output": found.get("output") == "false" or "hide_output" in found,
        "hide-input": found.get("code-fold") in ("true", "show"),
    }.items() if wanted]
    outputs = [o for o in (shown_output(o, figures) for o in cell.outputs) if o is not None]
    return [nbformat.v4.new_code_cell(without_directives(cell.source), metadata={"tags": tags}, outputs=outputs)]


def page_cells(cell, module: Module | None, figures: Figures) -> list:
    "The cells of the page that stand for one of the notebook."
    if cell.cell_type != "code":
        return [cell]
    found = directives(cell.source)
    if any(name in found for name in HIDDEN) or found.get("include") == "false":
        return []
    if module is not None and any(name in found for name in ("export", "exporti", "exports")):
        return exported_cells(cell, module)
    return example_cells(cell, figures)


def page_of(nb, library: Library, figures: Figures):
    "The notebook of a page, with outputs as they are."
    name = module_of(nb)
    module = library.modules.get(name) if name else None
    page = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python", "pygments_lexer": "ipython3"}})
    page.cells = [c for cell in nb.cells for c in page_cells(cell, module, figures)]
    for number, cell in enumerate(page.cells):
        cell["id"] = f"c{number}"
    return page


def place_on_site(path: str) -> str:
    "Where the site has a file of the project: pages and texts of the root beside its front page, notebooks in nbs."
    return path.lower() if path in TEXTS else path.removeprefix("docs/pages/")


def linked(text: str, root: Path, name: str) -> str:
    "A text of the project whose links to its other files lead to their pages; `name` is the text's own file."
    def lead(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), match[1]))
        if not (root / target).is_file():
            return match[0]
        return "](" + posixpath.relpath(place_on_site(target), posixpath.dirname(place_on_site(name)) or ".")

    return LINK.sub(lead, text)

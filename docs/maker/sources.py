"""Notebooks as they are committed: reading them, their cells and nbdev's directives."""

import configparser
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(.+?)\s*$")


class BuildError(Exception):
    "The site can't be built; the message names what to mend."


@dataclass(frozen=True)
class Project:
    "Where things are in one checkout."
    root: Path  # the folder with settings.ini
    package: str = "evonb"  # the library's folder and name
    part: bool = False  # some notebooks only: made beside the whole site, not in its place

    @property
    def notebooks(self) -> Path: return self.root / "nbs"

    @property
    def pages(self) -> Path: return self.root / "docs" / "pages"

    @property
    def out(self) -> Path: return self.root / "_docs"

    @property
    def made(self) -> Path:
        "Where pages are written: in `source` what Sphinx reads, in `html` the site."
        return self.out / "part" if self.part else self.out

    def modules(self) -> dict[str, Path]:
        "Name below the package (`core`, `training.gpt`) -> file of each module, without faces and nbdev's index."
        found = {dotted(p.relative_to(self.library).with_suffix("")): p for p in self._python_files()
                 if p.name != "__init__.py" and p != self.library / "_modidx.py"}
        return dict(sorted(found.items()))

    def faces(self) -> dict[str, Path]:
        "Name below the package (`training`; the package itself is ``) -> each `__init__`."
        found = {dotted(p.relative_to(self.library).parent): p for p in self._python_files() if p.name == "__init__.py"}
        return dict(sorted(found.items()))

    def static_files(self) -> list[Path]:
        "What lies in a folder `static`, anywhere in the package."
        found = (p for p in self.library.rglob("*") if "static" in p.relative_to(self.library).parts[:-1])
        return sorted(p for p in found if p.is_file() and p.suffix not in (".py", ".pyc"))

    @property
    def library(self) -> Path: return self.root / self.package

    def _python_files(self) -> list[Path]:
        return [p for p in self.library.rglob("*.py")
                if not any(part[0] == "." or part == "__pycache__" for part in p.relative_to(self.library).parts)]


def dotted(path: Path) -> str:
    "`training/gpt` -> `training.gpt`."
    return ".".join(path.parts)


def directives(text: str) -> dict[str, str]:
    "The directives (`#| name: value`) that open a cell: name -> value, which may be empty."
    found = {}
    for line in text.splitlines():
        if match := DIRECTIVE.match(line):
            name, _, value = match[1].replace(":", " ", 1).partition(" ")
            found[name] = value.strip()
        elif line.strip():
            break
    return found


def without_directives(text: str) -> str:
    "The cell's code below its directives."
    lines = text.splitlines()
    while lines and (not lines[0].strip() or DIRECTIVE.match(lines[0])):
        lines.pop(0)
    return "\n".join(lines)


def is_run(text: str, skipped: tuple = ()) -> bool:
    "Whether the cell is executed: not where it says `eval: false`, or bears one of the project's test flags."
    found = directives(text)
    return found.get("eval", "").lower() != "false" and not set(skipped) & set(found)


def module_of(nb) -> str | None:
    "The module that the notebook exports, from `default_exp`."
    names = (directives(c.source).get("default_exp") for c in nb.cells if c.cell_type == "code")
    return next(filter(None, names), None)


def read_notebook(path: Path):
    "The notebook as nbformat has it."
    try:
        return nbformat.read(path, as_version=4)
    except Exception as e:
        raise BuildError(f"{path}: not a notebook: {e}") from e


def title_of(nb, path: Path) -> tuple[str, str]:
    "The notebook's title and its `> one line`."
    prose = "\n".join(c.source for c in nb.cells if c.cell_type == "markdown")
    lines = [line.strip() for line in prose.splitlines() if line.strip()][:2]
    if len(lines) < 2 or not lines[0].startswith("# ") or not lines[1].startswith("> "):
        raise BuildError(f"{path}: must open with a title (`# name`) and one line on what it holds (`> ...`).")
    return lines[0][2:].strip(), lines[1][2:].strip()


def notebook_paths(project: Project, only: list[str] = ()) -> list[Path]:
    "All notebooks, or those whose path ends with one of the names; hidden folders and names with _ first are left out."
    paths = sorted(p for p in project.notebooks.rglob("*.ipynb")
                   if not any(part[0] in "._" for part in p.relative_to(project.notebooks).parts))
    if not paths:
        raise BuildError(f"no notebooks in {project.notebooks}")
    wanted = [n.removesuffix(".ipynb") for n in only]
    for name in wanted:
        if not any(matches(p, name) for p in paths):
            raise BuildError(f"no notebook {name} in {project.notebooks}")
    return [p for p in paths if not wanted or any(matches(p, n) for n in wanted)]


def matches(path: Path, name: str) -> bool:
    "Whether the notebook's path, without suffix, ends with this name."
    return f"/{path.with_suffix('').as_posix()}".endswith(f"/{name}")


def test_flags(project: Project) -> tuple[str, ...]:
    "The directives of cells that aren't run by default (`tst_flags` in settings.ini)."
    settings = configparser.ConfigParser()
    settings.read(project.root / "settings.ini", encoding="utf-8")
    return tuple(settings.get("DEFAULT", "tst_flags", fallback="").split())

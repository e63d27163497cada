#!/usr/bin/env python3
"""How the house stands: its layers, sizes and crumbs, beside what is aimed at and what was measured before.

    .ci/house.py [FOLDER]    a table, of this project or of another checkout

Layers are the modules of the longest chain of imports, once without and once with those inside functions. What a
module needs is all that its imports reach, those inside functions too. A crumb is a private function of at most four
lines that is named once besides its definition. An example is a cell of code that is shown and does more than import.
"""

import ast
import re
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from notebooks import ROOT, notebooks, read, source

sys.path.insert(0, str(ROOT / "docs"))
from maker.faces import Names, statements  # noqa: E402
from maker.reach import imported, reached  # noqa: E402
from maker.sources import Project  # noqa: E402

BEFORE_AT = "9a451b0"  # the commit before the library went into folders; its figures are this script's
BEFORE = {
    "modules": 40, "lines": 30_459, "layers": 9, "layers with functions' imports": 13, "largest module": 1901,
    "lines that features needs": 11_924, "lines that engine needs": 10_867, "lines that alignment.run needs": 17_363,
    "functions": 2793, "private functions, %": 45.3, "crumbs": 325, "median body": 4, "longest body": 44,
    "notebooks short of examples": 6, "README, bytes": 37_017}  # fmt: skip
AIMS = {  # measure -> (least, most); None: no end
    "layers": (None, 9), "largest module": (None, 1100), "lines that features needs": (None, 4000),
    "private functions, %": (None, 30), "crumbs": (None, 80), "median body": (6, 8), "longest body": (None, 45),
    "notebooks short of examples": (None, 0), "README, bytes": (None, 9216)}  # fmt: skip
NEEDED = {"features": ("features",), "engine": ("engine", "fitness"), "alignment.run": ("alignment.run", "alignment")}
CRUMB = 4  # lines


@dataclass
class Function:
    "One function or method of the library."
    name: str
    lines: int  # of its body, without docstring
    times: int  # that its name stands in its module

    @property
    def is_private(self) -> bool: return self.name.startswith("_") and not self.name.startswith("__")

    @property
    def is_crumb(self) -> bool: return self.is_private and self.times == 2 and self.lines <= CRUMB


def functions(path: Path) -> list[Function]:
    "Those of one module, inner ones too."
    text = path.read_text(encoding="utf-8")
    words, found = Counter(re.findall(r"\w+", text)), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            said = ast.get_docstring(node, clean=False) is not None
            body = node.body[1:] if said else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            found.append(Function(node.name, lines, words[node.name]))
    return found


def edges(project: Project, functions_too: bool) -> dict[str, set[str]]:
    "Module -> modules that it imports, seen through faces; with or without the imports inside functions."
    names, modules, found = Names.of(project), project.modules(), {}
    for module, path in modules.items():
        here = names.full(module.rpartition(".")[0])
        tree = ast.parse(path.read_text(encoding="utf-8"))
        body = [tree] if functions_too else list(statements(tree.body, typing=False))
        shallow = [n for n in body if isinstance(n, (ast.Module, ast.Import, ast.ImportFrom))]
        parts = set().union(*(imported(n, names, here) for n in shallow))
        found[module] = {p for p in parts if p in modules} - {module}
    return found


def chain(graph: dict[str, set[str]]) -> list[str]:
    "The longest chain of imports, its lowest module first; modules that import each other stand for one."
    far = {m: reached({m}, graph) for m in graph}
    ring = {m: min(n for n in far[m] if m in far[n]) for m in graph}
    below = {r: {ring[n] for m in graph if ring[m] == r for n in graph[m]} - {r} for r in set(ring.values())}

    @cache
    def down(module):
        return [*max((down(m) for m in sorted(below[module])), key=len, default=[]), module]

    return max((down(m) for m in sorted(below)), key=len, default=[])


def needed(project: Project, names: tuple[str, ...], graph: dict[str, set[str]]) -> int | None:
    "Lines that a module and all that it imports have. It goes by the end of its name; an earlier name is the second."
    modules = project.modules()
    for name in names:
        found = [m for m in modules if f".{m}".endswith(f".{name}")]
        if len(found) == 1:
            return sum(n_lines(modules[m]) for m in reached(set(found), graph))
    return None


def n_lines(path: Path) -> int: return len(path.read_text(encoding="utf-8").splitlines())


def is_example(text: str) -> bool:
    "Whether a cell is shown and does more than import."
    if not text.strip() or re.match(r"#\s*\|", text):
        return False
    try:
        return not all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(text).body)
    except SyntaxError:  # a command for IPython
        return True


def is_short_of_examples(path: Path) -> bool:
    "Whether a notebook has less than one example for three exported cells."
    cells = [source(c) for c in read(path)["cells"] if c["cell_type"] == "code"]
    exported = sum(bool(re.match(r"#\s*\|\s*exporti?\b", c)) for c in cells)
    return 3 * sum(map(is_example, cells)) < exported


def measures(root: Path) -> tuple[dict, list[str]]:
    "Every measure by its name, and what lies behind some of them."
    project = Project(root)
    modules, outer, all_ = project.modules(), edges(project, False), edges(project, True)
    found = [f for p in modules.values() for f in functions(p)]
    bodies = [f.lines for f in found]
    largest = max(modules, key=lambda m: n_lines(modules[m]))
    short = [p.relative_to(root / "nbs").as_posix() for p in notebooks(root / "nbs") if is_short_of_examples(p)]
    figures = {
        "modules": len(modules), "lines": sum(map(n_lines, modules.values())), "layers": len(chain(outer)),
        "layers with functions' imports": len(chain(all_)), "largest module": n_lines(modules[largest]),
        **{f"lines that {name} needs": needed(project, names, all_) for name, names in NEEDED.items()},
        "functions": len(found), "private functions, %": round(100 * sum(f.is_private for f in found) / len(found), 1),
        "crumbs": sum(f.is_crumb for f in found), "median body": statistics.median(bodies), "longest body": max(bodies),
        "notebooks short of examples": len(short), "README, bytes": (root / "README.md").stat().st_size}
    return figures, [f"the longest chain: {' < '.join(chain(outer))}", f"the largest module: {largest}",
                     *([f"short of examples: {', '.join(short)}"] if short else [])]


def reached_aim(name: str, value) -> str:
    "Whether a measure is where it should be."
    if name not in AIMS or value is None:
        return ""
    least, most = AIMS[name]
    return "yes" if (least is None or value >= least) and (most is None or value <= most) else "no"


def table(figures: dict, before: dict) -> str:
    "The measures, a line each; before the folders the engine was a part of fitness, and alignment one module."
    aims = {n: f"{a} to {b}" if a is not None else f"at most {b:,}" for n, (a, b) in AIMS.items()}
    shown = lambda v: "-" if v is None else f"{v:,}"  # noqa: E731
    rows = [("measure", f"before ({BEFORE_AT})", "now", "aim", "reached"),
            *((n, shown(before.get(n)), shown(v), aims.get(n, ""), reached_aim(n, v)) for n, v in figures.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([r[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(r[1:3], widths[1:3], strict=True)),
                                r[3].ljust(widths[3]), r[4]]).rstrip() for r in rows)


def main(args: list[str]) -> int:
    if len(args) > 1 or args[:1] in (["-h"], ["--help"]):
        print(__doc__, file=sys.stderr)
        return 2
    figures, behind = measures(Path(args[0]).resolve() if args else ROOT)
    print(table(figures, BEFORE), *behind, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

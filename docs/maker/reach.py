"""What a notebook's outputs depend on: its code, the modules that its imports reach, and what those read."""

import ast
import hashlib
import json
import re
from pathlib import Path

from .sources import Project, is_run, without_directives

FORMAT = 1  # raised when notebooks are executed in another way


def imported(tree: ast.AST, package: str, inside: bool = False) -> set[str]:
    "The package's modules that are imported anywhere in the tree; `inside`: the tree is one of them."
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package if inside and node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            found |= {source, *(f"{source}.{a.name}" for a in node.names)}
    return {name.split(".")[1] for name in found if name.startswith(f"{package}.")}


def mentioned(text: str, package: str) -> set[str]:
    "Modules named in a text as `package.module` (for subprocesses), and the command line where the package is run."
    found = set(re.findall(rf"\b{package}\.([a-z_]\w*)", text))
    return found | ({"cli"} if re.search(rf"""(^\s*[!%].*|bin/|["'(\[]\s*){package}(\s|["'])""", text, re.M) else set())


def used_by(text: str, package: str, inside: bool = False) -> set[str]:
    "Modules that a piece of code uses. Lines for the shell or IPython count by what they mention."
    plain = "\n".join("" if re.match(r"\s*[!%]", line) else line for line in text.splitlines())
    try:
        return imported(ast.parse(plain), package, inside) | mentioned(text, package)
    except SyntaxError:
        return mentioned(text, package)


def module_graph(project: Project) -> dict[str, set[str]]:
    "Module -> the modules that it imports anywhere, functions included."
    modules = project.modules()
    return {name: used_by(path.read_text(encoding="utf-8"), project.package, True) & set(modules) - {name}
            for name, path in modules.items()}


def reached(start: set[str], graph: dict[str, set[str]]) -> set[str]:
    "All modules that these lead to."
    found, waiting = set(), [m for m in start if m in graph]
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            waiting += graph[module]
    return found


def code_cells(nb, skipped: tuple = ()) -> list[str]:
    "The code that is executed, cell by cell; prose doesn't count."
    return [without_directives(c.source) for c in nb.cells if c.cell_type == "code" and is_run(c.source, skipped)]


def data_files(project: Project, modules: set[str]) -> list[Path]:
    "Files that these modules read beside code: static ones where one says so, data by its name."
    root = project.root
    texts = [project.modules()[m].read_text(encoding="utf-8") for m in sorted(modules)]
    everything = [p.read_text(encoding="utf-8") for p in project.modules().values()]
    static = (root / project.package / "static").glob("*") if any(re.search(r"\bstatic\b", t) for t in texts) else []
    data = [p for p in (root / "data").glob("*.json")
            if any(p.name in t for t in texts) or not any(p.name in t for t in everything)]
    return sorted([*static, *data])


def dependencies(project: Project, nb, graph: dict | None = None, skipped: tuple = ()) -> list[Path]:
    "Every file that the notebook's outputs depend on, beside itself."
    uses = set().union(*(used_by(text, project.package) for text in code_cells(nb, skipped)))
    modules = reached(uses, module_graph(project) if graph is None else graph)
    files = [project.modules()[m] for m in sorted(modules)]
    first = project.root / project.package / "__init__.py"
    lock = project.root / "requirements.lock"
    return [p for p in (lock, first, *files, *data_files(project, modules)) if p.is_file()]


def cache_key(project: Project, nb, graph: dict | None = None, skipped: tuple = ()) -> str:
    "The hash under which an execution is kept."
    files = {p.relative_to(project.root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
             for p in dependencies(project, nb, graph, skipped)}
    whole = json.dumps([FORMAT, code_cells(nb, skipped), files], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:20]

"""What a notebook's outputs depend on: its code, the modules that its imports reach, and what those read."""

import ast
import hashlib
import json
import re
from pathlib import Path

from .faces import Face, Names, absolute, statements
from .sources import Project, is_run, without_directives

FORMAT = 1  # raised when notebooks are executed in another way


def imported(tree: ast.AST, names: Names, here: str = "") -> set[str]:
    "The library's parts that imports anywhere in the tree lead to; relative ones start from the package `here`."
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and (source := absolute(node, here) if here or not node.level else ""):
            found |= {f"{source}.{a.name}" for a in node.names}
    return set().union(*(names.leads(full) for full in found if names.is_ours(full)))


def mentioned(text: str, names: Names) -> set[str]:
    "Parts named in a text as `package.module` (for subprocesses), and the command line where the package is run."
    package = names.package
    chosen = re.compile(rf"\bfrom\s+({package}(?:\.\w+)*)\s+import\s+(\([^)]*\)|[\w, ]+)")
    found = {f"{m[1]}.{n}" for m in chosen.finditer(text) for n in re.findall(r"\w+", re.sub(r"\bas \w+", "", m[2]))}
    found |= {m[0] for m in re.finditer(rf"\b{package}(\.[A-Za-z_]\w*)+", chosen.sub("", text))}
    run = re.search(rf"""(^\s*[!%].*|bin/|["'(\[]\s*){package}(\s|["'])""", text, re.M)
    return set().union(*(names.leads(full) for full in found)) | ({"cli"} if run else set())


def used_by(text: str, names: Names, here: str = "") -> set[str]:
    "Parts that a piece of code uses; told once for the same piece."
    if (text, here) not in names.uses:
        names.uses[text, here] = parts_in(text, names, here)
    return names.uses[text, here]


def parts_in(text: str, names: Names, here: str) -> set[str]:
    "The same, found in its tree. Lines for the shell or IPython count by what they mention."
    plain = "\n".join("" if re.match(r"\s*[!%]", line) else line for line in text.splitlines())
    try:
        return imported(ast.parse(plain), names, here) | mentioned(text, names)
    except SyntaxError:
        return mentioned(text, names)


def loaded_by(face: Face) -> set[str]:
    "Parts that are imported with a face itself, before anyone asks for what it offers."
    imports = [n for n in statements(face.tree.body, False) if isinstance(n, (ast.Import, ast.ImportFrom))]
    return imported(ast.Module(imports, []), face.names, face.full_name)


def module_graph(project: Project, names: Names | None = None) -> dict[str, set[str]]:
    "Part (module or face) -> the parts that it imports anywhere, functions included, and the faces above it."
    names, graph = names or Names.of(project), {}
    for part, path in names.parts.items():
        above = part.rpartition(".")[0]
        uses = (loaded_by(names.faces[part]) if part in names.faces else
                used_by(names.text(path), names, names.full(above)))
        graph[part] = (uses | {above}) & set(names.parts) - {part}
    return graph


def reached(start: set[str], graph: dict[str, set[str]]) -> set[str]:
    "All parts that these lead to."
    found, waiting = set(), [m for m in start if m in graph]
    while waiting:
        if (part := waiting.pop()) not in found:
            found.add(part)
            waiting += graph[part]
    return found


def code_cells(nb, skipped: tuple = ()) -> list[str]:
    "The code that is executed, cell by cell; prose doesn't count."
    return [without_directives(c.source) for c in nb.cells if c.cell_type == "code" and is_run(c.source, skipped)]


def data_files(project: Project, files: list[Path], names: Names) -> list[Path]:
    "Files that these modules read beside code: static ones where one says so, data by its name."
    texts = [names.text(p) for p in files]
    everything = [names.text(p) for part, p in names.parts.items() if part not in names.faces]
    static = project.static_files() if any(re.search(r"\bstatic\b", t) for t in texts) else []
    data = [p for p in (project.root / "data").rglob("*.json")
            if any(p.name in t for t in texts) or not any(p.name in t for t in everything)]
    return sorted([*static, *data])


def dependencies(project: Project, nb, graph: dict | None = None, skipped: tuple = (),
                 names: Names | None = None) -> list[Path]:
    "Every file that the notebook's outputs depend on, beside itself."
    names = names or Names.of(project)
    uses = set().union(*(used_by(text, names) for text in code_cells(nb, skipped)))
    parts = reached(uses | {""}, module_graph(project, names) if graph is None else graph)
    files = [names.parts[m] for m in sorted(parts)]
    return [p for p in (project.root / "requirements.lock", *files, *data_files(project, files, names)) if p.is_file()]


def cache_key(project: Project, nb, graph: dict | None = None, skipped: tuple = (),
              names: Names | None = None) -> str:
    "The hash under which an execution is kept; of several, `names` reads each file once."
    names = names or Names.of(project)
    files = {p.relative_to(project.root).as_posix(): names.content(p)[1]
             for p in dependencies(project, nb, graph, skipped, names)}
    whole = json.dumps([FORMAT, code_cells(nb, skipped), files], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:20]

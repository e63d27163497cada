"""Faces: what the `__init__` of a folder offers, and in which module each name is. Read as text, not imported."""

import ast
import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .sources import BuildError, Project


def absolute(node: ast.ImportFrom, here: str) -> str:
    "The full name of what `from ... import` names, seen from a package."
    if not node.level:
        return node.module or ""
    parts = here.split(".")
    base = parts[:len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def statements(body, typing: bool = True):
    "A module's statements outside definitions, those below `if TYPE_CHECKING` only with `typing`."
    for node in body:
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        checked = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing
        for part in ("orelse",) if checked else ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, part, []), typing)
        for handler in getattr(node, "handlers", []):
            yield from statements(handler.body, typing)


def bound(tree: ast.Module) -> set[str]:
    "The names that a module has once it is imported."
    found = set()
    for node in statements(tree.body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {a.asname or a.name.split(".")[0] for a in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.With)):
            found |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return found


def words(node) -> list[str] | None:
    "The names in a constant text (`\"GPT GPTConfig\"`) or in a list of texts; None for anything else."
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.split(r"[\s,]+", node.value.strip())
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        parts = [words(n) for n in node.elts]
        return None if None in parts else [w for part in parts for w in part]
    return None


def tables(tree: ast.AST) -> list[list[tuple[str, list[str]]]]:
    "The dictionaries of texts, written {...} or dict(...): a face's tables of names and modules."
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            rows = [(words(k) or [""], words(v)) for k, v in zip(node.keys, node.values, strict=True)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict":
            rows = [([k.arg or ""], words(k.value)) for k in node.keywords]
        else:
            continue
        if rows and all(len(k) == 1 and k[0] and v for k, v in rows):
            found.append([(k[0], v) for k, v in rows])
    return found


@dataclass
class Face:
    "One `__init__`."
    name: str  # "training"; "" for the package itself
    path: Path
    names: "Names" = field(repr=False)
    problems: list = field(default_factory=list)
    found: dict | None = None

    @property
    def full_name(self) -> str: return self.names.full(self.name)

    @cached_property
    def tree(self) -> ast.Module: return ast.parse(self.names.text(self.path))

    @property
    def doc(self) -> str: return ast.get_docstring(self.tree) or ""

    @property
    def offers(self) -> dict[str, str]:
        "Name -> the full name of what it stands for, in the order of the source."
        if self.found is None:
            self.found = {}  # faces that lead to each other end here
            for node in statements(self.tree.body):
                if isinstance(node, ast.ImportFrom) and self.names.is_ours(source := absolute(node, self.full_name)):
                    self.found |= {a.asname or a.name: f"{source}.{a.name}" for a in node.names if a.name != "*"}
            for rows in tables(self.tree):
                self.found |= self._read(rows)
        return self.found

    def _read(self, rows) -> dict[str, str]:
        "A table `module: names` or `name: module`, whichever leads to more."
        by_module = [(name, self._module(key)) for key, names in rows for name in names]
        by_name = [(key, self._module(values[0])) for key, values in rows if len(values) == 1]
        good = lambda entries: sum(bool(m) and self.names.is_there(f"{m}.{n}") for n, m in entries)  # noqa: E731
        chosen = by_name if good(by_name) > good(by_module) else by_module
        self.problems += [f"{self.names.shown(self.path)}: {n!r} leads to no module" for n, m in chosen if not m]
        return {n: f"{m}.{n}" for n, m in chosen if m}

    def _module(self, text: str) -> str:
        "The full name of the module that a text of the face names, seen from its folder or in full; else nothing."
        for base in (self.full_name, self.names.package, ""):
            full = ".".join(filter(None, [base, text.lstrip(".")]))
            if self.names.is_part(full) and full != self.full_name:
                return full
        return ""


@dataclass
class Names:
    "Where the library's names lead."
    package: str
    parts: dict[str, Path]  # modules and faces by their name below the package
    root: Path
    faces: dict[str, Face] = field(default_factory=dict)
    known: dict[str, set] = field(default_factory=dict)
    uses: dict[tuple[str, str], set] = field(default_factory=dict)  # (code, package) -> the parts it uses
    read: dict[Path, tuple[str, str]] = field(default_factory=dict)  # file -> its text and digest when first read

    @classmethod
    def of(cls, project: Project):
        modules, faces = project.modules(), project.faces()
        if both := sorted(set(modules) & set(faces)):
            raise BuildError(f"{project.package}.{both[0]} is a module and a folder, and Python sees the folder only: "
                             "remove one.")
        made = cls(project.package, {**modules, **faces}, project.root)
        made.faces = {n: Face(n, p, made) for n, p in faces.items()}
        return made

    def content(self, path: Path) -> tuple[str, str]:
        "The text of a file and its digest, as they were when it was first asked for."
        if path not in self.read:
            content = path.read_bytes()
            self.read[path] = content.decode("utf-8"), hashlib.sha256(content).hexdigest()
        return self.read[path]

    def text(self, path: Path) -> str: return self.content(path)[0]

    def full(self, part: str) -> str: return f"{self.package}.{part}" if part else self.package

    def shown(self, path: Path) -> str: return path.relative_to(self.root).as_posix()

    def is_ours(self, full: str) -> bool: return full == self.package or full.startswith(f"{self.package}.")

    def is_part(self, full: str) -> bool:
        "Whether it is a module or a folder with a face."
        return self.is_ours(full) and full[len(self.package) + 1:] in self.parts

    def place(self, full: str) -> tuple[str, str]:
        "`evonb.training.gpt.GPT.forward` -> (`training.gpt`, `GPT.forward`): the part that holds it, and the rest."
        words = full.split(".")[1:]
        for n in range(len(words), 0, -1):
            if (part := ".".join(words[:n])) in self.parts:
                return part, ".".join(words[n:])
        return "", ".".join(words)

    def home(self, full: str, passed: tuple = ()) -> str:
        "The full name under which it is defined, through every face that offers it."
        part, rest = self.place(full)
        first, _, more = rest.partition(".")
        target = self.faces[part].offers.get(first) if first and part in self.faces and full not in passed else None
        return self.home(".".join(filter(None, [target, more])), (*passed, full)) if target else full

    def leads(self, full: str, passed: tuple = ()) -> set[str]:
        "The parts that a name needs: its module, faces on the way, and all that a face offers which is taken whole."
        part, rest = self.place(full)
        if part not in self.faces or full in passed:
            return {part}
        offers, first = self.faces[part].offers, rest.partition(".")[0]
        wanted = offers.values() if first in ("", "*") else filter(None, [offers.get(first)])
        return {part}.union(*(self.leads(target, (*passed, full)) for target in wanted))

    def is_there(self, full: str) -> bool:
        "Whether a module, or a name in one, exists."
        part, rest = self.place(self.home(full))
        return self.is_ours(full) and (not rest or rest.partition(".")[0] in self.bound(part))

    def bound(self, part: str) -> set[str]:
        "The names that a part has."
        if part not in self.known and part in self.parts:
            self.known[part] = bound(ast.parse(self.text(self.parts[part])))
        return self.known.get(part, set())


def problems(project: Project) -> list[str]:
    "Faces that name what doesn't exist, folders without a face, imports inside the library that lead nowhere."
    names = Names.of(project)
    found = [f"{names.shown(p)} is in a folder without __init__.py" for n, p in project.modules().items()
             if n.rpartition(".")[0] not in names.faces]
    for face in names.faces.values():
        found += [f"{names.shown(face.path)}: {n!r} stands for {full}, which doesn't exist"
                  for n, full in face.offers.items() if not names.is_there(full)]
        found += [*face.problems, *(f"{names.shown(face.path)}: __all__ names {n!r}, which it doesn't offer"
                                    for n in listed(face) if not offered(face, n))]
    for part, path in names.parts.items():
        found += [f"{names.shown(path)}: imports {full}, which doesn't exist" for full in missing(part, path, names)]
    return list(dict.fromkeys(found))


def listed(face: Face) -> list[str]:
    "The names of a face's `__all__`, where it is written out."
    found = []
    for node in face.tree.body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
            found += words(node.value) or []
    return found


def offered(face: Face, name: str) -> bool:
    "Whether a face offers a name, has it itself, or it is a module of its folder."
    part = ".".join(filter(None, [face.name, name]))
    return name in face.offers or name in face.names.bound(face.name) or part in face.names.parts


def missing(part: str, path: Path, names: Names) -> list[str]:
    "What a part imports from the library that isn't there."
    here = names.full(part if part in names.faces else part.rpartition(".")[0])
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and names.is_ours(source := absolute(node, here)):
            inside = [f"{source}.{a.name}" for a in node.names if a.name != "*"]
            found += inside if names.is_part(source) else [source]
        elif isinstance(node, ast.Import):
            found += [a.name for a in node.names if names.is_ours(a.name) and not names.is_part(a.name)]
    return [full for full in found if not names.is_there(full)]

"""The library's modules read as text, not imported: what they define, with types, defaults and docments."""

import ast
import io
import tokenize
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .faces import Face, Names, absolute


@dataclass(frozen=True)
class Parameter:
    "One argument, field or what is returned."
    name: str
    type: str = ""
    default: str | None = None
    says: str = ""  # its docment


@dataclass
class Definition:
    "A function, class, method or property, wherever it is patched in."
    name: str  # "prune", "Connectome", "Connectome.density"
    kind: str  # function, class, method, classmethod, staticmethod, property
    module: str  # where it is defined
    owner: str  # the module of its class, or its own
    line: int
    end: int
    doc: str = ""
    parameters: list[Parameter] = field(default_factory=list)
    returns: Parameter | None = None
    bases: list[str] = field(default_factory=list)
    registered: list[str] = field(default_factory=list)  # decorators that put it into a registry
    is_dataclass: bool = False
    cell: str = ""  # the id of the notebook's cell

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))

    @property
    def full_name(self) -> str: return f"{self.owner}.{self.name}"


@dataclass
class Constant:
    "A public name that a module assigns."
    name: str
    module: str
    source: str
    line: int
    says: str = ""


def comments_of(source: str) -> dict[int, str]:
    "Line -> the comment at its end."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def decorator_name(node) -> str:
    "`patch` of `@patch(as_prop=True)`."
    target = node.func if isinstance(node, ast.Call) else node
    return target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")


def patch_options(node) -> dict | None:
    "The options of @patch, None where there is none."
    for d in node.decorator_list:
        if decorator_name(d) == "patch":
            return {k.arg: ast.literal_eval(k.value) for k in getattr(d, "keywords", [])}
    return None


def arguments_of(node) -> list[tuple[ast.arg, ast.expr | None, str]]:
    "A function's arguments in order: (argument, default, stars)."
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + list(a.defaults)
    found = [(arg, default, "") for arg, default in zip(plain, defaults, strict=True)]
    if a.vararg:
        found.append((a.vararg, None, "*"))
    found += [(arg, default, "") for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    return found + ([(a.kwarg, None, "**")] if a.kwarg else [])


def keyword_only_from(node) -> int | None:
    "The place of a bare `*` among the arguments."
    a = node.args
    return len(a.posonlyargs) + len(a.args) if a.kwonlyargs and not a.vararg else None


@dataclass
class Module:
    "One module of the library."
    name: str  # "core", "training.gpt"
    package: str
    path: Path
    names: Names | None = None  # leads through faces to where a name is defined

    @cached_property
    def source(self) -> str: return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module: return ast.parse(self.source)

    @cached_property
    def comments(self) -> dict[int, str]: return comments_of(self.source)

    @property
    def full_name(self) -> str: return f"{self.package}.{self.name}"

    @property
    def doc(self) -> str: return ast.get_docstring(self.tree) or ""

    @cached_property
    def imports(self) -> dict[str, str]:
        "Name -> the full name of the library's object that it was imported from."
        found = {}
        for node in ast.walk(self.tree):
            source = absolute(node, self.full_name.rpartition(".")[0]) if isinstance(node, ast.ImportFrom) else ""
            if source == self.package or source.startswith(f"{self.package}."):
                home = self.names.home if self.names else str
                found |= {a.asname or a.name: home(f"{source}.{a.name}") for a in node.names}
        return found

    @cached_property
    def definitions(self) -> list[Definition]:
        "What the module defines, methods patched onto classes included, in the order of its source."
        found = []
        for node in self.tree.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found.append(self._function(node))
            elif isinstance(node, ast.ClassDef):
                found += self._class(node)
        return found

    @cached_property
    def constants(self) -> list[Constant]:
        "Public names that are assigned, without those the export writes."
        found = []
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for name in [t for target in targets for t in names_in(target)]:
                if not name.startswith("_"):
                    text = self.segment(node)
                    found.append(Constant(name, self.full_name, text, node.lineno, self.comments.get(node.lineno, "")))
        return found

    @cached_property
    def lines(self) -> list[bytes]:
        "The source line by line; ast counts columns in bytes."
        return [line.encode() for line in self.source.split("\n")]

    def segment(self, node) -> str:
        "The text of a node. (ast's own way splits the whole source each time.)"
        rows = self.lines[node.lineno - 1:node.end_lineno]
        rows = [*rows[:-1], rows[-1][:node.end_col_offset]]
        return b"\n".join([rows[0][node.col_offset:], *rows[1:]]).decode()

    def _text(self, node) -> str:
        return " ".join(self.segment(node).split()) if node is not None else ""

    def _says(self, line: int, single: bool = False) -> str:
        return "" if single else self.comments.get(line, "")

    def _parameters(self, node, skip: int) -> list[Parameter]:
        "The arguments of a function; in a header of one line comments belong to what is returned."
        single = self._header_end(node) == node.lineno
        star, found = keyword_only_from(node), []
        for place, (arg, default, stars) in enumerate(arguments_of(node)):
            if place == star:
                found.append(Parameter("*"))
            if place >= skip:
                shown = None if default is None else self._text(default)
                found.append(Parameter(stars + arg.arg, self._text(arg.annotation), shown,
                                       self._says(arg.end_lineno if default is None else default.end_lineno, single)))
        return found

    def _header_end(self, node) -> int:
        "The line on which a function's header ends with a colon."
        line = max([node.lineno, *(n.end_lineno for n in ast.walk(node.args) if hasattr(n, "end_lineno")),
                    getattr(node.returns, "end_lineno", 0)])
        while line < node.body[0].lineno and not self.lines[line - 1].split(b"#")[0].rstrip().endswith(b":"):
            line += 1
        return line

    def _returns(self, node) -> Parameter | None:
        end = self._header_end(node)
        taken = {a.end_lineno for a, _, _ in arguments_of(node)} if end != node.lineno else set()
        says = "" if end in taken and b")" not in self.lines[end - 1] else self._says(end)
        type_ = self._text(node.returns)
        return Parameter("return", type_, None, says.removeprefix("->").strip()) if type_ or says else None

    def _function(self, node) -> Definition:
        "A function of the module, or a method that is patched onto a class."
        options, first = patch_options(node), next(iter(arguments_of(node)), (None,))[0]
        made = Definition(node.name, "function", self.full_name, self.full_name, first_line(node), node.end_lineno,
                          ast.get_docstring(node) or "", [], self._returns(node))
        if options is not None and first is not None and first.annotation is not None:
            owner = self._text(first.annotation).strip("\"'")
            made.name = f"{owner}.{node.name}"
            made.owner = self.imports.get(owner, f"{self.full_name}.{owner}").rpartition(".")[0]
            kinds = {"as_prop": "property", "cls_method": "classmethod"}
            made.kind = next((kinds[o] for o in kinds if options.get(o)), "method")
        made.parameters = self._parameters(node, 0 if made.kind == "function" else 1)
        made.registered = [self._text(d) for d in node.decorator_list if decorator_name(d) not in ("patch", "")]
        return made

    def _class(self, node) -> list[Definition]:
        "A class with its own methods."
        made = Definition(node.name, "class", self.full_name, self.full_name, first_line(node), node.end_lineno,
                          ast.get_docstring(node) or "")
        made.bases = [self._text(b) for b in node.bases]
        made.registered = [self._text(d) for d in node.decorator_list]
        made.is_dataclass = any(decorator_name(d) == "dataclass" for d in node.decorator_list)
        methods = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        init = next((m for m in methods if m.name == "__init__"), None)
        made.parameters = self._parameters(init, 1) if init else self._fields(node, made)
        return [made, *(self._method(node.name, m) for m in methods)]

    def _fields(self, node, made: Definition) -> list[Parameter]:
        "The annotated fields of a dataclass or named tuple."
        if not (made.is_dataclass or "NamedTuple" in made.bases):
            return []
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        return [Parameter(n.target.id, self._text(n.annotation), default_of(self._text(n.value)),
                          self._says(n.end_lineno)) for n in fields]

    def _method(self, owner: str, node) -> Definition:
        "A method inside its class."
        names = {decorator_name(d) for d in node.decorator_list}
        kinds = {"property": "property", "cached_property": "property", "classmethod": "classmethod",
                 "staticmethod": "staticmethod"}
        kind = next((kinds[n] for n in names if n in kinds), "method")
        return Definition(f"{owner}.{node.name}", kind, self.full_name, self.full_name, first_line(node),
                          node.end_lineno, ast.get_docstring(node) or "",
                          self._parameters(node, 0 if kind == "staticmethod" else 1), self._returns(node))


def endings(owner: str, name: str) -> list[str]:
    "`prune`, `connectome.prune`, `connectomes.connectome.prune`: the ways to name one thing, without the package."
    words = owner.split(".")[1:]
    return [".".join([*words[n:], name]) for n in range(len(words), -1, -1)]


def default_of(text: str) -> str | None:
    "A field's default as a reader wants it: `{}` for field(default_factory=dict)."
    empty = {"field(default_factory=dict)": "{}", "field(default_factory=list)": "[]"}
    return empty.get(text, text) if text else None


def names_in(target) -> list[str]:
    "The names that an assignment's target binds."
    if isinstance(target, ast.Name):
        return [target.id]
    return [n for part in getattr(target, "elts", []) for n in names_in(part)]


def first_line(node) -> int:
    "The line of a definition's first decorator, or its own."
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


@dataclass
class Library:
    "All modules, the faces above them, and where each name is."
    modules: dict[str, Module]
    faces: dict[str, Face] = field(default_factory=dict)  # those that offer something or stand above modules

    @classmethod
    def of(cls, project):
        names = Names.of(project)
        shown = {n: f for n, f in names.faces.items() if n or f.offers}
        return cls({n: Module(n, project.package, p, names) for n, p in project.modules().items()}, shown)

    @cached_property
    def by_owner(self) -> dict[str, list[Definition]]:
        "Module's full name -> the public definitions that are documented with it."
        found = {}
        for module in self.modules.values():
            for d in module.definitions:
                if d.is_public:
                    found.setdefault(d.owner, []).append(d)
        return found

    @cached_property
    def names(self) -> dict[str, list[str]]:
        "Short name (`prune`, `Connectome.density`) -> full names."
        found = {}
        for definitions in self.by_owner.values():
            for d in definitions:
                for name in endings(d.owner, d.name):
                    found.setdefault(name, []).append(d.full_name)
        for module in self.modules.values():
            for name in endings(*module.full_name.rpartition(".")[::2]):
                found.setdefault(name, []).append(module.full_name)
            for c in module.constants:
                for name in endings(module.full_name, c.name):
                    found.setdefault(name, []).append(f"{module.full_name}.{c.name}")
        for face in self.faces.values():
            for name, full in face.offers.items():
                home = face.names.home(full)
                found.setdefault(f"{face.full_name}.{name}", []).append(home)
                found.setdefault(f"{face.full_name}.{name}".partition(".")[2], []).append(home)
        return {k: sorted(set(v)) for k, v in found.items()}

    @cached_property
    def says(self) -> dict[str, str]:
        "Full name -> what it is, in its own words."
        found = {d.full_name: d.doc for definitions in self.by_owner.values() for d in definitions}
        found |= {f"{c.module}.{c.name}": c.says for m in self.modules.values() for c in m.constants}
        return found | {m.full_name: m.doc for m in self.modules.values()}

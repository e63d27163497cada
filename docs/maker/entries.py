"""Definitions as MyST: a signature, what it says, a table of parameters, and where it is told and defined."""

import html
import re

from .api import Definition, Library, Module, Parameter
from .faces import Face

DIRECTIVES = {"function": "function", "class": "class", "property": "property", "method": "method",
              "classmethod": "method", "staticmethod": "method"}


def plain(text: str) -> str:
    "Text that Markdown shows as it is, except `code`."
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(p if i % 2 else re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", p) for i, p in enumerate(parts))


def code(text: str) -> str:
    "A code span, whatever backticks the text holds."
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else ""


def typed(text: str) -> str:
    "A type; the parts of a union stand alone, so that each can become a link."
    parts = split_union(text)
    return " or ".join(code(p) for p in parts) if text else ""


def split_union(text: str) -> list[str]:
    "`A | dict[str, B | C]` -> `A` and `dict[str, B | C]`."
    parts, depth = [""], 0
    for char in text:
        depth += (char in "[({") - (char in "])}")
        if char == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [p.strip() for p in parts]


def in_table(text: str) -> str:
    "Text for a cell of a table."
    return text.replace("|", "\\|").replace("\n", " ")


def row(p: Parameter) -> str:
    default = "" if p.default is None else code(p.default)
    says = plain(p.says).replace("\\|", "|")
    return "| " + " | ".join(map(in_table, (code(p.name), typed(p.type), default, says))) + " |"


def table(d: Definition) -> str:
    "The parameters with type, default and docment."
    rows = [p for p in d.parameters if p.name != "*"]
    if not rows:
        return ""
    head = ("field" if d.is_dataclass or "NamedTuple" in d.bases else "parameter", "type", "default", "what it is")
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|---|", *map(row, rows)]
    return "```{rst-class} evonb-parameters\n```\n\n" + "\n".join(lines)


def returned(d: Definition) -> str:
    "The sentence on what comes back."
    if d.returns is None:
        return ""
    parts = [typed(d.returns.type), plain(d.returns.says)]
    return f"**{'Value' if d.kind == 'property' else 'Returns'}** " + ", ".join(filter(None, parts))


def signature(d: Definition) -> str:
    "The name and its arguments with defaults; types stand in the table."
    if d.kind == "property":
        return d.name
    shown = ", ".join(p.name if p.default is None else f"{p.name}={p.default}" for p in d.parameters)
    return f"{d.name}({shown})"


def notes(d: Definition) -> str:
    "Bases and registries, which say what a class is for."
    bases = [code(b) for b in d.bases]
    registered = [code("@" + r) for r in d.registered if r.startswith(("register_", "section("))]
    said = [f"Is a {', '.join(bases)}."] if bases else []
    return " ".join([*said, f"Registered by {', '.join(registered)}."] if registered else said)


def docstring(text: str) -> str:
    "A docstring as Markdown, of which it may use code and *emphasis*; HTML in it is text."
    parts = re.split(r"(`[^`]+`|(?<![\w*])\*\w[^*`\n]*\w\*(?![\w*]))", text)
    return "".join(p if i % 2 else re.sub(r"([<>*_$\[\]{}\\])", r"\\\1", p) for i, p in enumerate(parts))


def entry(d: Definition, inner: str = "", indexed: bool = True, where: str = "") -> str:
    "One definition as a directive of Sphinx's Python domain; `inner` holds a class's methods."
    options = [f":module: {d.owner}"]
    options += [] if indexed else [":no-index:", ":no-contents-entry:"]
    options += [f":{d.kind}:"] if d.kind in ("classmethod", "staticmethod") else []
    body = "\n\n".join(filter(None, [docstring(d.doc), notes(d), table(d), returned(d), where, inner]))
    fence = "`" * (5 if inner else 4)
    return f"{fence}{{py:{DIRECTIVES[d.kind]}}} {signature(d)}\n" + "\n".join(options) + f"\n\n{body}\n{fence}"


def on_notebook(d: Definition) -> str:
    "An entry beside the prose; its anchor has the same name as on the reference's page."
    return f'<span class="evonb-anchor" id="{html.escape(d.full_name)}"></span>\n\n{entry(d, indexed=False)}'


def module_page(module: Module, library: Library, pages: dict[str, str]) -> str:
    "The reference of one module. `pages`: module's full name -> address of its notebook's page, seen from api/."
    definitions = library.by_owner.get(module.full_name, [])
    classes = [d for d in definitions if d.kind == "class"]
    functions = [d for d in definitions if d.kind == "function"]
    place = pages.get(module.full_name)
    told = f'Told, shown and tested in <a href="{place}">its notebook</a>.' if place else ""
    parts = [f"# {module.full_name}", f"```{{py:module}} {module.full_name}\n```", docstring(module.doc), told,
             overview(classes + functions), constants(module)]
    if classes:
        parts += ["## Classes", *(with_methods(c, definitions, pages) for c in classes)]
    if functions:
        parts += ["## Functions", *(entry(f, where=told_where(f, pages)) for f in functions)]
    return "\n\n".join(filter(None, parts)) + "\n"


def face_page(face: Face, library: Library, pages: dict[str, str]) -> str:
    "The reference of a folder: what a user imports from it, and its modules."
    rows = []
    for name, full in face.offers.items():
        home = face.names.home(full)
        if face.names.place(home)[0] in face.names.faces:
            continue  # what faces themselves are made with
        says = in_table(docstring(first_sentence(library.says.get(home, ""))))
        rows.append(f"| {code(name)} | {says} | {code(home)} |")
    head = "```{rst-class} evonb-overview\n```\n\n| name | what it is | where |\n|---|---|---|\n"
    below = [m for m in library.modules.values()
             if m.full_name in pages and m.full_name.startswith(f"{face.full_name}.")]
    modules = [f"- [{m.full_name}]({m.name}.md): {docstring(m.doc)}" for m in below]
    offers = ["## What is imported from here", head + "\n".join(rows)] if rows else []
    parts = [f"# {face.full_name}", f"```{{py:module}} {face.full_name}\n```", docstring(face.doc), *offers,
             "## Modules", "\n".join(modules)]
    return "\n\n".join(filter(None, parts)) + "\n"


def with_methods(owner: Definition, definitions: list[Definition], pages: dict[str, str]) -> str:
    "A class with what is patched onto it."
    methods = [d for d in definitions if d.name.startswith(f"{owner.name}.")]
    inner = "\n\n".join(entry(m, where=told_where(m, pages)) for m in methods)
    return entry(owner, inner, where=told_where(owner, pages))


def told_where(d: Definition, pages: dict[str, str]) -> str:
    "The link to the place in the notebook."
    if d.module not in pages:
        return ""
    return f'<a class="evonb-where" href="{pages[d.module]}#{html.escape(d.full_name)}">in the notebook</a>'


def overview(definitions: list[Definition]) -> str:
    "A table of names with the first sentence of each."
    lines = [f"| {code(d.name)} | {in_table(docstring(first_sentence(d.doc)))} |" for d in definitions]
    head = "```{rst-class} evonb-overview\n```\n\n| name | what it is |\n|---|---|\n"
    return head + "\n".join(lines) if lines else ""


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text.strip().split("\n\n")[0].replace("\n", " "))[0]


def constants(module: Module) -> str:
    "The module's public constants as code."
    if not module.constants:
        return ""
    shown = []
    for c in module.constants:
        if c.source not in [s for _, s in shown]:
            shown.append((c.name, c.source))
    anchors = "".join(f'<span class="evonb-anchor" id="{module.full_name}.{c.name}"></span>' for c in module.constants)
    return f"## Constants\n\n{anchors}\n\n" + "\n\n".join(f"```python\n{shorter(s)}\n```" for _, s in shown)


def shorter(source: str, most: int = 12) -> str:
    "Long data is cut; the source's page has it whole."
    lines = source.splitlines()
    return "\n".join(lines if len(lines) <= most else [*lines[:most], "..."])

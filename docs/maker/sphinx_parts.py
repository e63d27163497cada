"""evonb's part of the Sphinx build: formulas as MathML, names as links, sources, scripts where they are used."""

import json
import os
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

from .api import Library
from .extracts import extracts_script
from .figures import needs_plotly
from .sources import Project

logger = logging.getLogger(__name__)


def mathml(writer, node, display: str) -> str:
    "A formula as MathML; one that can't be read is a warning, and so ends the build."
    try:
        return convert(node.astext(), display=display)
    except Exception as e:
        logger.warning("formula %r can't be read: %s", node.astext(), e, location=node, type="evonb", subtype="math")
        return ""


def inline_math(writer, node):
    writer.body.append(mathml(writer, node, "inline"))
    raise nodes.SkipNode


def block_math(writer, node):
    writer.body.append(f'<div class="evonb-formula">{mathml(writer, node, "block")}</div>')
    raise nodes.SkipNode


class Names(SphinxPostTransform):
    "`name` in prose becomes a link where it can only mean one thing."

    default_priority = 20
    skipped = (nodes.reference, addnodes.pending_xref, nodes.title, addnodes.desc_signature, nodes.caption)

    def run(self, **kwargs):
        here = self.env.config.evonb_modules.get(self.env.current_document.docname, "")
        for node in list(self.document.findall(nodes.literal)):
            if not self._inside(node) and (target := self._target(node.astext(), here)):
                self._link(node, target)

    def _inside(self, node) -> bool:
        while (node := node.parent) is not None:
            if isinstance(node, self.skipped) or is_parameter(node):
                return True
        return False

    def _target(self, text: str, here: str):
        "(page, anchor) of what the text names."
        name = text.split("(")[0] if text.endswith(")") else text
        pages = self.env.config.evonb_pages
        if (page := pages.get(name.removesuffix(".ipynb"))) is not None:
            return page, ""
        objects = self.env.domains["py"].objects
        full = resolved(name, here, objects, self.env.config.evonb_names, called=name != text)
        return (objects[full].docname, objects[full].node_id) if full else None

    def _link(self, node, target):
        page, anchor = target
        if page == self.env.current_document.docname and not anchor:
            return
        uri = self.app.builder.get_relative_uri(self.env.current_document.docname, page)
        link = nodes.reference("", "", internal=True, refuri=uri + (f"#{anchor}" if anchor else ""))
        node.replace_self(link)
        link += node


def is_parameter(node) -> bool:
    "Whether it is a cell of a table of parameters that holds a parameter's name."
    if not isinstance(node, nodes.entry) or node.parent.index(node):
        return False
    table = node.parent
    while not isinstance(table, nodes.table):
        table = table.parent
    return "evonb-parameters" in table["classes"]


def resolved(name: str, here: str, objects, names: dict[str, list[str]], called: bool = False) -> str | None:
    "The full name that a short one stands for, seen from a module; None where it may be something else."
    package, *below = here.split(".") if here else ["evonb"]
    around = [".".join([package, *below[:n]]) for n in range(len(below), 0, -1)]  # its module first, then its folder
    for full in (name, f"{package}.{name}", *(f"{place}.{name}" for place in around)):
        if full in objects and "." in full:
            return full
    distinct = called or "." in name or "_" in name or name[:1].isupper()
    candidates = [n for n in names.get(name, []) if n in objects]
    return candidates[0] if distinct and len(candidates) == 1 else None


def find_source(app, module: str):
    "Source and places for viewcode, patched methods under their class, without importing anything."
    found = app.config.evonb_library.modules.get(module.partition(".")[2])
    if found is None or found.full_name != module:
        return None
    tags = {d.name: ("class" if d.kind == "class" else "def", d.line, d.end)
            for d in found.definitions if d.owner == module}
    return found.source, tags


def add_scripts(app, page, template, context, doctree):
    "plotly only on pages that draw with it: first where an explorer looks for it, later for figures. Texts for search."
    use = needs_plotly(context.get("body") or "")
    if use and page != "index":  # whose explorer draws on a canvas
        how = {"loading_method": "defer"} if use == "figure" else {}
        app.add_js_file("plotly.min.js", priority=100, **how)
    if page == "search":
        for name in ("texts.js", "search.js"):
            app.add_js_file(name, priority=900, loading_method="defer")


def local_plotly(app) -> None:
    "plotly.js from the installed package, into the site."
    if app.builder.format != "html":
        return
    import plotly

    source = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    target = Path(app.outdir) / "_static" / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() or target.stat().st_size != source.stat().st_size:
        target.write_bytes(source.read_bytes())


def finished(app, error):
    if error is None:
        local_plotly(app)
        out = Path(app.outdir)
        texts = extracts_script(out, sorted(app.env.found_docs))
        (out / "_static" / "texts.js").write_text(texts, encoding="utf-8")


def setup(app):
    package = json.loads(Path(os.environ["EVONB_DOCS_KNOWN"]).read_text(encoding="utf-8"))["package"]
    project = Project(Path(os.environ["EVONB_DOCS_PROJECT"]), package)
    library = Library.of(project)
    app.add_config_value("evonb_library", library, "", [Library])
    app.add_config_value("evonb_names", library.names, "env", [dict])
    app.add_config_value("evonb_modules", {}, "env", [dict])
    app.add_config_value("evonb_pages", {}, "env", [dict])
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.add_post_transform(Names)
    app.connect("viewcode-find-source", find_source)
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}

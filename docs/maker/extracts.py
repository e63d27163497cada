"""The pages' texts for the search: a script that the page of results loads, so that extracts need no server.

Sphinx's own search fetches each page for its extract, which a browser refuses from disk.
"""

import json
import re
from pathlib import Path

SKIPPED = {"script", "style", "svg", "nav", "template", "button", "math"}  # of these nobody wants an extract
PLACES = {"section", "dt", "article"}  # elements whose id is a place to lead to
LONGEST = 6000  # characters of one place


def is_skipped(element) -> bool:
    "Whether nobody wants to find what stands in it: scripts, drawings, menus, the signs beside headings."
    said = element.get("class", "")
    return element.tag in SKIPPED or "headerlink" in said or "prev-next" in said


def texts_of(page: str) -> list[list[str]]:
    "[id, text] of each place of a page's article that has text, without outputs of widgets and figures."
    from lxml import etree, html

    places = []
    for article in html.document_fromstring(page).iter("article"):
        walk = etree.iterwalk(article, events=("start", "end", "comment"))
        for event, e in walk:
            if event == "start" and is_skipped(e):
                walk.skip_subtree()
            elif event == "start":
                if e is article or e.tag in PLACES and e.get("id"):
                    places.append([e.get("id", ""), []])
                places[-1][1].append(e.text or "")
            elif e is not article:
                places[-1][1].append(e.tail or "")
    joined = [[place, re.sub(r"\s+", " ", " ".join(pieces)).strip()] for place, pieces in places]
    return [[place, text[:LONGEST]] for place, text in joined if text]


def extracts_script(out: Path, names: list[str]) -> str:
    "All pages' texts as a script: page -> places."
    texts = {}
    for name in names:
        if (file := out / f"{name}.html").is_file():
            texts[name] = texts_of(file.read_text(encoding="utf-8"))
    said = json.dumps(texts, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"globalThis.evonbTexts = {said};\n"

"""The pages' texts for the search: a script that the page of results loads, so that extracts need no server.

Sphinx's own search fetches each page for its extract, which a browser refuses from disk.
"""

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

SKIPPED = {"script", "style", "svg", "nav", "template", "button", "math"}  # of these nobody wants an extract
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
PLACES = {"section", "dt", "article"}  # elements whose id is a place to lead to
LONGEST = 6000  # characters of one place


@dataclass
class Texts(HTMLParser):
    "A page's text, place by place: what a reader sees of its article, without outputs of widgets and figures."
    places: list = field(default_factory=list)  # of [id, list of pieces of text]
    open: list = field(default_factory=list)  # tags, from the outermost
    skipped: int = 0  # how many open tags are left out
    inside: int = 0  # how deep below the article

    def __post_init__(self):
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag, attrs):
        if tag in VOID:
            return
        found = {k: v or "" for k, v in attrs}
        if self.inside or tag == "article":
            self.inside += 1
        left = tag in SKIPPED or "headerlink" in found.get("class", "") or "prev-next" in found.get("class", "")
        if self.skipped or left:
            self.skipped += 1
        elif self.inside and (tag == "article" or tag in PLACES and found.get("id")):
            self.places.append([found.get("id", ""), []])
        self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.open:
            return
        while self.open:  # what wasn't closed ends with what holds it
            last = self.open.pop()
            self.inside, self.skipped = max(0, self.inside - 1), max(0, self.skipped - 1)
            if last == tag:
                break

    def handle_data(self, data):
        if self.inside and not self.skipped and self.places:
            self.places[-1][1].append(data)


def texts_of(page: str) -> list[list[str]]:
    "[id, text] of each place of a page that has text."
    reader = Texts()
    reader.feed(page)
    joined = [[place, re.sub(r"\s+", " ", " ".join(pieces)).strip()] for place, pieces in reader.places]
    return [[place, text[:LONGEST]] for place, text in joined if text]


def extracts_script(out: Path, names: list[str]) -> str:
    "All pages' texts as a script: page -> places."
    texts = {}
    for name in names:
        if (file := out / f"{name}.html").is_file():
            texts[name] = texts_of(file.read_text(encoding="utf-8"))
    said = json.dumps(texts, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"globalThis.evonbTexts = {said};\n"

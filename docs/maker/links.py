"""Every address in the built pages: what is inside must be there, and nothing may be fetched from elsewhere."""

import os
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
           "embed": "src", "object": "data"}
LOADING_RELS = {"stylesheet", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "icon", "manifest"}


@dataclass
class Page(HTMLParser):
    "A page's anchors, links and what it loads."
    path: Path
    anchors: set = field(default_factory=set)
    links: list = field(default_factory=list)
    loads: list = field(default_factory=list)

    def __post_init__(self):
        super().__init__(convert_charrefs=True)
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = {k: v or "" for k, v in attrs}
        self.anchors |= {found[k] for k in ("id", "name") if k in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and LOADING_RELS & set(found.get("rel", "").split()):
            self.loads.append(found.get("href", ""))
        if tag in FETCHED and FETCHED[tag] in found:
            self.loads.append(found[FETCHED[tag]])


def is_elsewhere(address: str) -> bool:
    "Whether the address leaves the site."
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ftp", "mailto")


def problem(page: Page, address: str, pages: dict[Path, Page], root: Path) -> str:
    "What is wrong with an address inside the site, or nothing."
    parts = urlsplit(address)
    target = page.path if not parts.path else Path(os.path.normpath(page.path.parent / unquote(parts.path)))
    if not target.exists() or root not in (target, *target.parents):
        return f"there is no {unquote(parts.path)}"
    if parts.fragment and target in pages:
        if unquote(parts.fragment) not in pages[target].anchors:
            return f"{target.relative_to(root)} has no place called {unquote(parts.fragment)}"
    return ""


def broken(root: Path) -> list[str]:
    "Each broken or outward address, with its page."
    root = root.resolve()
    pages = {p: Page(p) for p in sorted(root.rglob("*.html")) if "_static" not in p.relative_to(root).parts}
    found = []
    for page in pages.values():
        name = page.path.relative_to(root)
        found += [f"{name}: loads {a} from elsewhere" for a in page.loads if is_elsewhere(a)]
        inside = {a for a in (*page.links, *page.loads)
                  if a not in ("#", "#top") and not is_elsewhere(a) and not a.startswith(("data:", "javascript:"))}
        found += [f"{name}: {a}: {said}" for a in sorted(inside) if (said := problem(page, a, pages, root))]
    return found

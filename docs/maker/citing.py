"""CITATION.cff as BibTeX: the software, and the papers that it builds on."""

import re
from pathlib import Path

import yaml

KINDS = {"software": "software", "article": "article", "book": "book", "conference-paper": "inproceedings"}
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def author_of(person: dict) -> str:
    "One author; the name of a group stays whole."
    if "family-names" in person:
        return f"{person['family-names']}, {person['given-names']}"
    return "{" + person["name"] + "}"


def entry(work: dict, key: str) -> str:
    "One work."
    fields = dict(author=" and ".join(map(author_of, work["authors"])), title="{" + work["title"] + "}",
                  year=work.get("year"), month=MONTHS[work["month"] - 1] if "month" in work else None,
                  version=work.get("version"), license=work.get("license"), doi=work.get("doi"),
                  url=work.get("url") or work.get("repository-code"))
    if paper := re.search(r"arxiv\.org/abs/([\d.]+)", fields["url"] or ""):
        fields |= dict(eprint=paper[1], archiveprefix="arXiv", journal=f"arXiv preprint arXiv:{paper[1]}")
    said = lambda name, value: value if name == "month" else "{" + str(value) + "}"  # noqa: E731
    lines = [f"  {name} = {said(name, value)}" for name, value in fields.items() if value]
    return f"@{KINDS[work['type']]}{{{key},\n" + ",\n".join(lines) + "\n}"


def key_of(work: dict) -> str:
    "The first author's family name, the year, and the title's first word that says something; of software its name."
    if work["type"] == "software":
        return re.sub(r"\W", "", work["title"])
    word = next(w for w in re.findall(r"[a-z]+", work["title"].lower()) if w not in ("a", "an", "the", "on", "of"))
    return f"{work['authors'][0]['family-names'].lower()}{work['year']}{word}"


def bibtex(path: Path) -> str:
    "What CITATION.cff names: the software first, then its references."
    cited = yaml.safe_load(path.read_text(encoding="utf-8"))
    return "\n\n".join(entry(work, key_of(work)) for work in (cited, *cited.get("references", ())))

"""What opens the site: how to install evonb, and a piece of an explorer that moves without Python."""

import json
import re

from .sources import Project, read_notebook

STORED = re.compile(r'(<script type="application/json" id="[\w-]+-data">)(.*?)(</script>)', re.S)


def install_line(project: Project) -> str:
    "README's way to install: its first line with `pip install`, else `make demo`, which sets itself up."
    text = "\n".join(c.source for c in read_notebook(project.notebooks / "index.ipynb").cells)
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    found = re.search(r"^(?:python -m )?pip install [^#\n]+", blocks, re.M)
    return found[0].strip() if found else "make demo"


def explorer_of(nb, view: str) -> tuple[str, dict] | None:
    "The last explorer that an executed notebook shows with this view: its HTML, and what it stores."
    found = None
    for output in (o for c in nb.cells if c.cell_type == "code" for o in c.outputs):
        text = (output.get("data") or {}).get("text/html", "")
        if match := STORED.search(text):
            stored = json.loads(match[2])
            if any(v["name"] == view for v in stored["spec"]["views"]):
                found = text, stored
    return found


def alone(stored: dict, view: str, moving: list[str]) -> dict:
    "Of a stored explorer one view that moves by these controls alone; the others stay where they stand."
    (shown,) = [v for v in stored["spec"]["views"] if v["name"] == view]
    controls = {c["name"]: c for c in stored["spec"]["controls"]}
    at = {n: [v for v, _ in controls[n]["options"]].index(stored["values"][n]) for n in shown["needs"]}
    replies, blobs = {}, {}
    for key, reply in stored["replies"].items():
        reply = stored["replies"][reply] if isinstance(reply, str) else reply  # the key of one that is the same
        name, _, places = key.partition(":")
        found = dict(zip(shown["needs"], map(int, filter(None, places.split(","))))) if name == view else None
        if found is None or any(at[n] != i for n, i in found.items() if n not in moving):
            continue
        left = ",".join(str(i) for n, i in found.items() if n in moving)
        replies[f"{view}:{left}"] = reply | dict(arrays=[blobs.setdefault(a, len(blobs)) for a in reply["arrays"]])
    needs = [n for n in shown["needs"] if n in moving]
    view = shown | dict(tab="", title="", needs=needs, uses=[n for n in shown["uses"] if n in moving])
    spec = stored["spec"] | dict(views=[view], controls=[controls[n] for n in moving], code="")
    return dict(stored, spec=spec, replies=replies, blobs=[stored["blobs"][a] for a in blobs])


def live_piece(nb, view: str, moving: list[str], title: str, subtitle: str, height: int) -> str:
    "A view of a notebook's explorer as a piece for another page, or nothing where the notebook shows none."
    if (found := explorer_of(nb, view)) is None:
        return ""
    text, stored = found
    piece = alone(stored, view, moving)
    piece["spec"] |= dict(title=title, subtitle=subtitle, views=[piece["spec"]["views"][0] | dict(height=height)])
    said = json.dumps(piece, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return STORED.sub(lambda m: m[1] + said + m[3], text)

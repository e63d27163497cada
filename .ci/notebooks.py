#!/usr/bin/env python3
"""Committed notebooks carry source only: no outputs, widget state, execution counts or stray metadata.

    .ci/notebooks.py check [FILE ...]   name each notebook and cell that isn't clean
    .ci/notebooks.py clean [FILE ...]   mend them

Without files: every notebook below nbs/. nbdev_clean is not enough: it keeps widget state, model ids and plotly's divs.
"""

import hashlib
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNEL = {"display_name": "python3", "language": "python", "name": "python3"}
CELL_KEYS = {
    "markdown": {"cell_type", "id", "metadata", "source", "attachments"},
    "raw": {"cell_type", "id", "metadata", "source", "attachments"},
    "code": {"cell_type", "id", "metadata", "source", "outputs", "execution_count"},
}
NB_KEYS = {"cells", "metadata", "nbformat", "nbformat_minor"}


def notebooks(folder: Path) -> list[Path]:
    "The notebooks below a folder, without Jupyter's checkpoints."
    return sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def source(cell: dict) -> str:
    "A cell's text, whichever of the two ways it is stored."
    text = cell.get("source", "")
    return text if isinstance(text, str) else "".join(text)


def read(path: Path) -> dict:
    "A notebook as plain JSON; what isn't one is refused by name."
    try:
        nb = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise SystemExit(f"{path}: not a notebook: {e}. Restore the file.") from None
    if not (isinstance(nb, dict) and isinstance(nb.get("cells"), list) and nb.get("nbformat") == 4):
        raise SystemExit(f"{path}: not a notebook of format 4. Open it in JupyterLab and save it.")
    return nb


def output_kind(output: dict) -> str:
    "What an output is, in words."
    text = json.dumps(output)
    if "application/vnd.jupyter.widget-view+json" in text:
        return "a widget view (model_id)"
    if "plotly" in text:
        return "plotly HTML or JSON"
    return f"output ({output.get('output_type', 'unknown')})"


def cell_dirt(cell: dict, ids: set) -> list[str]:
    "What is wrong with one cell; `ids` are those seen before it."
    kind = cell.get("cell_type")
    if kind not in CELL_KEYS:
        return [f"unknown cell type {kind!r}"]
    found = [output_kind(o) for o in cell.get("outputs", [])]
    if cell.get("execution_count") is not None:
        found.append(f"execution count {cell['execution_count']}")
    if cell.get("metadata") != {}:
        found.append(f"cell metadata {cell.get('metadata')}")
    if stray := sorted(set(cell) - CELL_KEYS[kind]):
        found.append(f"stray keys {stray}")
    if not valid_id(cell.get("id")):
        found.append(f"id {cell.get('id')!r} isn't 1 to 64 letters, digits, - or _")
    elif cell["id"] in ids:
        found.append(f"id {cell['id']!r} is used twice")
    return found


def valid_id(value) -> bool:
    "Whether the notebook format allows this cell id."
    return isinstance(value, str) and re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", value) is not None


def notebook_dirt(nb: dict) -> list[str]:
    "What is wrong with the notebook as a whole."
    found = []
    if nb.get("nbformat_minor") != 5:
        found.append(f"notebook format 4.{nb.get('nbformat_minor')} instead of 4.5")
    if "widgets" in nb.get("metadata", {}):
        found.append("widget state in the notebook's metadata")
    if nb.get("metadata") != {"kernelspec": KERNEL}:
        found.append(f"notebook metadata {list(nb.get('metadata', {}))} instead of only kernelspec {KERNEL}")
    if stray := sorted(set(nb) - NB_KEYS):
        found.append(f"stray keys {stray}")
    return found


def invalid(nb: dict) -> list[str]:
    "What the notebook format's own schema says."
    import nbformat

    try:
        nbformat.validate(nb, version=4, version_minor=5)
    except nbformat.ValidationError as e:
        return [f"invalid notebook: {e.message}"]
    return []


def dirt(nb: dict) -> list[str]:
    "All that keeps a notebook from being committed, each with its place."
    found, ids = notebook_dirt(nb), set()
    for i, cell in enumerate(nb["cells"]):
        found += [f"cell {i} ({cell.get('id')}): {d}" for d in cell_dirt(cell, ids)]
        ids.add(cell.get("id"))
    return found or invalid(nb)


def fresh_id(text: str, ids: set) -> str:
    "An id from the cell's text that isn't taken yet."
    n = 0
    while (name := hashlib.sha256(f"{n} {text}".encode()).hexdigest()[:8]) in ids:
        n += 1
    return name


def mended(nb: dict) -> dict:
    "The notebook's source with nothing else."
    cells, ids = [], set()
    for old in nb["cells"]:
        cell = {k: v for k, v in old.items() if k in CELL_KEYS.get(old.get("cell_type"), ())}
        cell.update(metadata={}, source=source(old).splitlines(keepends=True))
        if cell.get("cell_type") == "code":
            cell.update(outputs=[], execution_count=None)
        if not valid_id(cell.get("id")) or cell["id"] in ids:
            cell["id"] = fresh_id(source(old), ids)
        ids.add(cell["id"])
        cells.append(cell)
    return dict(cells=cells, metadata={"kernelspec": dict(KERNEL)}, nbformat=4, nbformat_minor=5)


def write(path: Path, nb: dict):
    "As Jupyter itself writes, and whole or not at all."
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, path)


def check(paths: list[Path]) -> int:
    "Name what isn't clean; the number of such notebooks."
    dirty = 0
    for path in paths:
        found = dirt(read(path))
        dirty += bool(found)
        for line in found:
            print(f"{path}: {line}", file=sys.stderr)
    if dirty:
        print(f"{dirty} of {len(paths)} notebooks aren't clean: run `make clean-notebooks`.", file=sys.stderr)
    return dirty


def clean(paths: list[Path]) -> int:
    "Mend what isn't clean; the number of notebooks that can't be mended."
    for path in paths:
        nb = read(path)
        if dirt(nb):
            write(path, mended(nb))
            print(f"cleaned {path}")
    return check(paths)


def main(args: list[str]) -> int:
    commands = {"check": check, "clean": clean}
    if not args or args[0] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    paths = [Path(a) for a in args[1:]] or [Path(os.path.relpath(p)) for p in notebooks(ROOT / "nbs")]
    if missing := [p for p in paths if not p.is_file()]:
        raise SystemExit(f"no such notebook: {missing[0]}")
    if not paths:
        raise SystemExit(f"no notebooks in {ROOT / 'nbs'}")
    return 1 if commands[args[0]](paths) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env python3
"""What is generated from the notebooks: evonb/*.py by nbdev_export, and README.md from nbs/index.ipynb.

    .ci/export.py write   write both
    .ci/export.py check   export a copy, and fail when a committed file differs (the work tree isn't touched)
"""

import difflib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from notebooks import ROOT, notebooks, read, source

TREE, TREE_END = "<!-- tree -->", "<!-- /tree -->"
HAND_WRITTEN = {"__init__.py"}  # nbdev only keeps its version line


def title(path: Path) -> tuple[str, str]:
    "A notebook's title and its `> one line`."
    prose = "\n".join(source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    lines = [line.strip() for line in prose.splitlines() if line.strip()]
    if len(lines) < 2 or not lines[0].startswith("# ") or not lines[1].startswith("> "):
        raise SystemExit(f"{path}: must open with a title (`# name`) and then one line on what it holds (`> ...`).")
    return lines[0][2:].strip(), lines[1][2:].strip()


def branches(folder: Path, indent: str) -> list[tuple[str, str]]:
    "Below one folder: (what is drawn, what is said) per notebook, folders last."
    files = [p for p in notebooks(folder) if p.parent == folder]
    folders = sorted({folder / p.relative_to(folder).parts[0] for p in notebooks(folder)} - set(files))
    rows = []
    for p in [*files, *folders]:
        last = p == [*files, *folders][-1]
        rows.append((f"{indent}{'└── ' if last else '├── '}{p.name}{'' if p in files else '/'}",
                     ": ".join(title(p)) if p in files else ""))
        rows += [] if p in files else branches(p, indent + ("    " if last else "│   "))
    return rows


def tree(root: Path) -> str:
    "One line a notebook, from its own title and one-liner."
    rows = [("nbs/", ""), *branches(root / "nbs", "")]
    width = max(len(left) for left, _ in rows) + 2
    body = "\n".join(f"{left:<{width}}{right}".rstrip() for left, right in rows)
    return f"{TREE}\n```text\n{body}\n```\n{TREE_END}"


def as_markdown(cell: dict) -> str:
    "Prose as it is, code in a fence; hidden cells and directives are left out."
    text = source(cell).strip()
    if cell["cell_type"] == "markdown":
        return text
    lines = text.splitlines()
    if cell["cell_type"] != "code" or any(line.startswith(("#| hide", "#| default_exp")) for line in lines):
        return ""
    return "```python\n" + "\n".join(line for line in lines if not line.startswith("#|")).strip() + "\n```"


def readme(root: Path) -> str:
    "README.md's text: the cells of nbs/index.ipynb, with the tree of notebooks between its two markers."
    path = root / "nbs" / "index.ipynb"
    text = "\n\n".join(filter(None, map(as_markdown, read(path)["cells"])))
    if text.count(TREE) != 1 or text.count(TREE_END) != 1 or text.index(TREE) > text.index(TREE_END):
        raise SystemExit(f"{path}: needs the markers {TREE} and {TREE_END} once each, in this order.")
    before, rest = text.replace("](images/", "](nbs/images/").split(TREE)  # links of nbs/, seen from the root
    note = "<!-- Generated from nbs/index.ipynb by `make export`. Edit the notebook, not this file. -->"
    return f"{note}\n\n{before}{tree(root)}{rest.split(TREE_END)[1]}\n"


def export(root: Path):
    "nbdev_export in `root`, then README.md."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # with IN_TEST nbdev_export does nothing, silently
    command = [Path(sys.executable).with_name("nbdev_export")]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    if done.returncode or "Warning" in done.stderr:
        raise SystemExit(f"nbdev_export failed:\n{done.stdout}{done.stderr}")
    (root / "README.md").write_text(readme(root), encoding="utf-8")


def exported_copy(root: Path, folder: Path) -> Path:
    "The project exported anew into `folder`, from its notebooks alone."
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(root / name, folder / name)
    for path in notebooks(root / "nbs"):
        to = folder / path.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    (folder / "evonb").mkdir()
    for name in HAND_WRITTEN:
        if (root / "evonb" / name).exists():
            shutil.copy(root / "evonb" / name, folder / "evonb" / name)
    export(folder)
    return folder


def generated(root: Path) -> dict[str, str]:
    "Each generated file's text by name."
    files = [*sorted((root / "evonb").rglob("*.py")), root / "README.md"]
    return {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in files if p.exists()}


def differences(have: dict[str, str], want: dict[str, str]) -> list[str]:
    "What differs, file by file, with the first lines that do."
    found = []
    for name in sorted({*have, *want}):
        if name not in want:
            found.append(f"{name}: no notebook exports it; put its code into a notebook, or remove it")
        elif name not in have:
            found.append(f"{name}: missing, though a notebook exports it")
        elif have[name] != want[name]:
            lines = difflib.unified_diff(have[name].splitlines(), want[name].splitlines(), n=0, lineterm="")
            found.append("\n    ".join([f"{name}: differs from what its notebook exports", *list(lines)[2:8]]))
    return found


def check(root: Path) -> int:
    "Compare what is committed with a fresh export of a copy."
    with tempfile.TemporaryDirectory() as folder:
        found = differences(generated(root), generated(exported_copy(root, Path(folder))))
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print("Generated files don't match the notebooks: run `make export`.", file=sys.stderr)
    return len(found)


def main(args: list[str]) -> int:
    commands = {"write": export, "check": check}
    if len(args) != 1 or args[0] not in commands:
        print(__doc__, file=sys.stderr)
        return 2
    return 1 if commands[args[0]](ROOT) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

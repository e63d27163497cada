"""Buttons that open a tutorial elsewhere, where the repository's public address is known.

One setting: EVONB_REPOSITORY, else `git_url` in settings.ini. Empty, and no button is made.
"""

import configparser
import html
import os
import re
from pathlib import Path
from urllib.parse import quote, urlsplit

from .sources import BuildError, Project


def settings_of(project: Project) -> configparser.SectionProxy:
    settings = configparser.ConfigParser()
    settings.read(project.root / "settings.ini", encoding="utf-8")
    return settings["DEFAULT"]


def repository(project: Project) -> str:
    "The repository's public address without a slash at its end, or nothing."
    given = os.environ.get("EVONB_REPOSITORY")
    name = "git_url of settings.ini" if given is None else "EVONB_REPOSITORY"
    address = (settings_of(project).get("git_url", "") if given is None else given).strip().rstrip("/")
    parts = urlsplit(address)
    if address and (parts.scheme != "https" or not re.fullmatch(r"/[\w.~-]+(/[\w.~-]+)+", parts.path) or parts.query):
        raise BuildError(f"{name} is {address!r}, but must be like https://github.com/OWNER/NAME, or empty.")
    return address.removesuffix(".git")


def places(project: Project, notebook: str) -> dict[str, str]:
    "Name -> address of each place that opens a notebook (its path in the project); Colab reads from GitHub alone."
    if not (address := repository(project)):
        return {}
    branch, parts = settings_of(project).get("branch", "main"), urlsplit(address)
    path, found = parts.path.strip("/"), {}
    if on_github := parts.netloc == "github.com":
        found["Colab"] = f"https://colab.research.google.com/github/{path}/blob/{quote(branch, '')}/{quote(notebook)}"
    kind = f"gh/{path}" if on_github else f"git/{quote(address, '')}"
    lab = quote(f"lab/tree/{notebook}", "")
    return found | {"Binder": f"https://mybinder.org/v2/{kind}/{quote(branch, '')}?urlpath={lab}"}


def buttons(project: Project, path: Path, root: str) -> str:
    "Where a notebook can be opened, as a line of its page; `root` leads to the site's root."
    notebook = path.relative_to(project.root).as_posix()
    found = {f"Open in {n}": a for n, a in places(project, notebook).items()}
    found["Notebook file"] = f"{root}_static/notebooks/{path.name}"
    shown = "".join(f'<a href="{html.escape(a)}"{"" if n.startswith("Open") else " download"}>{n}</a>'
                    for n, a in found.items())
    return f'<p class="evonb-launch">{shown}</p>'

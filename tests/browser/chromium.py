"""Chromium: finding it, starting it, and watching what its pages log and ask for."""

import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"]
LOCAL = ("file", "blob", "data", "about", "chrome")  # schemes that never leave the machine


def give_up(reason: str):
    "Skips on a developer's machine; in CI a browser must be there."
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def find_chromium() -> str:
    "The path of Chromium: EVONB_CHROMIUM, else the first known name on PATH."
    named = os.environ.get("EVONB_CHROMIUM")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        looked = f"EVONB_CHROMIUM={named} isn't a program" if named else f"none of {', '.join(NAMES)} is on PATH"
        give_up(f"no browser: {looked}. Run .ci/browser, or name one with EVONB_CHROMIUM=/path/to/chromium")
    return found


def launch(playwright):
    "A headless Chromium."
    return playwright.chromium.launch(executable_path=find_chromium(), headless=True, args=ARGS)


class Watch:
    """What the pages of one browser context logged as errors and which addresses they asked for.

    `home` is the one address they may ask (http://127.0.0.1:8888); without it only what is on disk. Any other
    request is stopped and recorded. `allowed`: parts of console errors and of addresses that are none of ours.
    """

    def __init__(self, context, home: str | None = None, allowed: tuple[str, ...] = ()):
        self.home, self.allowed, self.errors, self.outside = home, allowed, [], []
        context.on("console", self._console)
        context.on("weberror", lambda e: self._error(f"uncaught: {e.error}"))
        context.on("request", self._request)
        context.on("page", lambda page: page.on("websocket", self._request))
        context.route(lambda url: not self.is_home(url), lambda route: route.abort())

    def is_home(self, url: str) -> bool:
        "Whether this address stays on the machine, or at the server under test."
        parts = urlsplit(url)
        if parts.scheme in LOCAL:
            return True
        home = urlsplit(self.home or "")
        return bool(home.netloc) and parts.netloc == home.netloc

    def _console(self, message):
        if message.type == "error":
            self._error(f"{message.text} ({(message.location or {}).get('url', '')})")

    def _error(self, text: str):
        if not any(part in text for part in self.allowed):
            self.errors.append(text)

    def _request(self, request):
        if not self.is_home(request.url) and not any(part in request.url for part in self.allowed):
            self.outside.append(request.url)

    def problems(self) -> list[str]:
        "One line a problem."
        return [f"console error: {text}" for text in self.errors] + [f"asked for {url}" for url in self.outside]

    def check(self):
        "Fails when there was a problem, naming each."
        assert not self.problems(), "the page had problems:\n  " + "\n  ".join(self.problems())

    def forget(self):
        "Starts anew; for a test that provokes a problem."
        self.errors.clear(), self.outside.clear()


def as_url(path_or_html, folder: Path) -> str:
    "The file: address of a page on disk; HTML text is written into the folder first."
    if isinstance(path_or_html, str) and path_or_html.lstrip()[:1] == "<":
        path = folder / "page.html"
        path.write_text(path_or_html, encoding="utf-8")
    else:
        path = Path(path_or_html)
    assert path.is_file(), f"no page at {path}"
    return path.resolve().as_uri()

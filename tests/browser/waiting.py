"""How long to wait, where screenshots go, and what is said when waiting was in vain."""

import contextlib
import os
import re
import time
from pathlib import Path

SECONDS = float(os.environ.get("EVONB_BROWSER_SECONDS", 90))  # machines are slow and shared
RUN_SECONDS = 4 * SECONDS  # for a notebook's cells


def artefacts() -> Path:
    "The folder of screenshots: EVONB_ARTEFACTS, else tests/browser/artefacts."
    folder = Path(os.environ.get("EVONB_ARTEFACTS") or Path(__file__).with_name("artefacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def picture_path(name: str) -> Path:
    "Where a screenshot of this name is kept."
    return artefacts() / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name).strip('_')}.png"


def save(page_or_locator, name: str) -> Path:
    "A screenshot of a page (the whole of it) or of one element."
    path = picture_path(name)
    whole = {"full_page": True} if hasattr(page_or_locator, "keyboard") else {}
    page_or_locator.screenshot(path=path, **whole)
    return path


@contextlib.contextmanager
def waiting(page, what: str):
    "A time-out inside says what was waited for, and leaves a screenshot."
    from playwright.sync_api import TimeoutError as OutOfTime

    begun = time.monotonic()
    try:
        yield
    except OutOfTime as e:
        note = _picture_note(getattr(page, "page", page), what)
        raise AssertionError(f"waited {time.monotonic() - begun:.0f} s for {what}, in vain{note}\n{e}") from None


def _picture_note(page, what: str) -> str:
    try:
        return f"; screenshot: {save(page, 'timeout_' + what[:60])}"
    except Exception as e:  # the page may be gone: the time-out is what matters
        return f" (no screenshot: {e})"

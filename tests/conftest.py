"""Fixtures shared by the suites: where real data is, and models small enough for tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    "The folder of real data sets: EVONB_DATA, else shared/data beside the project; otherwise the test is skipped."
    folder = Path(os.environ.get("EVONB_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: set EVONB_DATA to its folder (looked in {folder})")
    return folder

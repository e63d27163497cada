"""Fixtures shared by the suites: where real data is, and models small enough for tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items):
    "With several workers (xdist) a file's tests stay together, and so do all that drive a browser."
    for item in items:
        group = "browser" if "browser" in item.path.parts else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    "The folder of real data sets: EVONB_DATA, else shared/data beside the project; otherwise the test is skipped."
    folder = Path(os.environ.get("EVONB_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: set EVONB_DATA to its folder (looked in {folder})")
    return folder


@pytest.fixture(scope="module")
def one_thread():
    "Torch computes in one thread while this module's tests run."
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def brain():
    "Simulated brain scores, as an alignment stores them."
    from evonb import alignment_plots
    from evonb.core import Seeds

    return alignment_plots.example_brain(Seeds(3))


@pytest.fixture(scope="module")
def reading():
    "Simulated scores on reading times, as an alignment stores them."
    from evonb import alignment_plots
    from evonb.core import Seeds

    return alignment_plots.example_reading(Seeds(3))

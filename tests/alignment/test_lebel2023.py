"""LeBel2023: stories of responses in HDF5 and of words in TextGrids, written here as they are published."""

import h5py
import numpy as np
import pytest

from evonb.alignment.data import open_data
from evonb.alignment.sources.lebel2023 import lebel2023
from evonb.core import DamagedFileError, InputError
from evonb.datasets import MissingCorpusError

SAID = [("early", 2, 3), ("{BR}", 9, 11), ("a", 12, 13), ("sp", 13, 13.5), ("bee", 13.5, 14), ("late", 70, 71)]


def story(folder, name, data, said=SAID, subject="UTS01", derivative="derivative", key="data"):
    responses, grids = folder / derivative / "preprocessed_data" / subject, folder / derivative / "TextGrids"
    for place in (responses, grids): place.mkdir(parents=True, exist_ok=True)
    with h5py.File(responses / f"{name}.hf5", "w") as f:
        f[key] = data
        f["individual_repeats"] = np.zeros((2, 3, 4))  # as the story with repeats has
    rows = "".join(f'{begin}\n{end}\n"{w}"\n' for w, begin, end in said)
    tiers = "".join(f'"IntervalTier"\n"{tier}"\n0\n90\n{len(said)}\n{rows}' for tier in ("phone", "word"))
    head = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n90\n<exists>\n2\n'
    (grids / f"{name}.TextGrid").write_text(head + tiers)


def test_stories_are_runs_and_words_lie_in_their_scans(tmp_path):
    rng = np.random.default_rng(0)
    bees, wine = rng.normal(size=(20, 6)), rng.normal(size=(30, 6))
    bees[:, 2] = np.nan  # a voxel without a number
    story(tmp_path, "bees", bees)
    story(tmp_path, "wine", wine)
    heard = lebel2023(tmp_path)
    assert [p.text for p in heard.passages] == ["a bee", "a bee"] and heard.tr == 2
    assert [o.tolist() for o in heard.onsets] == [[2, 3.5], [2, 3.5]]  # the first row is at 10 s of the story
    assert np.allclose(heard.data, np.concatenate([bees, wine])[:, [0, 1, 3, 4, 5]], atol=1e-6)
    assert list(heard.left_out.target) == ["voxel 2"] and heard.nuisance["word rate"][1, 0] == 2
    few = lebel2023(tmp_path, stories=["wine"], voxels=[4, 1])
    assert np.allclose(few.data, wine[:, [1, 4]], atol=1e-6) and list(few.targets.target) == ["voxel 1", "voxel 4"]
    assert any("4 words were said before" in n for n in heard.notes)


def test_by_name_and_in_the_other_spelling(tmp_path, monkeypatch):
    story(tmp_path / "ds003020", "bees", np.random.default_rng(1).normal(size=(20, 3)), subject="UTS03",
          derivative="derivatives")
    assert lebel2023(tmp_path / "ds003020", "UTS03").subjects == ["UTS03"]
    story(tmp_path / "ds003020", "bees", np.random.default_rng(1).normal(size=(20, 3)), subject="UTS03")
    (tmp_path / "ds003020/derivative/respdict.json").write_text("{}")
    monkeypatch.setenv("EVONB_DATA", str(tmp_path))
    assert open_data("lebel2023:UTS03").data.shape == (20, 3)
    with pytest.raises(InputError, match="subject is 'UTS99'"): open_data("lebel2023:UTS99")


def test_what_is_wrong_is_said(tmp_path):
    data = np.random.default_rng(2).normal(size=(20, 4))
    with pytest.raises(MissingCorpusError, match="preprocessed_data.*datalad clone"): lebel2023(tmp_path)
    story(tmp_path, "bees", data, key="zStim")
    with pytest.raises(InputError, match="no table data .* it has: individual_repeats, zStim"): lebel2023(tmp_path)
    story(tmp_path, "bees", data)
    with pytest.raises(InputError, match="story is 'flies'"): lebel2023(tmp_path, stories=["flies"])
    with pytest.raises(InputError, match="has 4 voxels, counted from 0, but voxels go from 1 to 4"):
        lebel2023(tmp_path, voxels=[1, 4])
    with pytest.raises(InputError, match="(?i)memory|bytes|GB|MB"): lebel2023(tmp_path, max_bytes=100)
    story(tmp_path, "wine", data[:, :3])
    with pytest.raises(InputError, match=r"different numbers of voxels: \[4, 3\]"): lebel2023(tmp_path)
    story(tmp_path, "wine", data, [("early", 1, 2), ("later", 80, 81)])
    with pytest.raises(InputError, match="no word within the 20 scans"): lebel2023(tmp_path)
    place = tmp_path / "derivative/preprocessed_data/UTS01/wine.hf5"
    place.write_text("/annex/objects/SHA256E-s2447000216--e172.hf5")
    with pytest.raises(MissingCorpusError, match="placeholder of git-annex"): lebel2023(tmp_path)
    place.write_bytes(b"no HDF5 " * 100)
    with pytest.raises((InputError, DamagedFileError)): lebel2023(tmp_path)
    place.unlink()
    (tmp_path / "derivative/TextGrids/bees.TextGrid").unlink()
    with pytest.raises(MissingCorpusError, match="lacks bees.TextGrid"): lebel2023(tmp_path)

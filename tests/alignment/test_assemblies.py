"""Assemblies of Brain-Score, written here as the code that packs them does."""

import numpy as np
import pytest
import xarray as xr

from evonb.alignment.data import open_data
from evonb.alignment.sources import assemblies as a
from evonb.core import DamagedFileError, InputError

RNG = np.random.default_rng(5)


def written(folder, shown, neuroids, values=None, time=False, name="made.nc", dims=("presentation", "neuroid")):
    sizes = len(next(iter(shown.values()))), len(next(iter(neuroids.values())))
    values = RNG.normal(size=sizes) if values is None else values
    coords = {k: (dims[0], v) for k, v in shown.items()} | {k: (dims[1], v) for k, v in neuroids.items()}
    if time: values, dims = values[..., None], (*dims, "time")
    xr.DataArray(values, dims=dims, name="data", coords=coords).to_netcdf(folder / name, format="NETCDF3_64BIT",
                                                                         engine="scipy")
    return folder / name, values


PASSAGES = [f"Sentence {i} of a passage on bees." for i in range(8)]
PEREIRA = dict(sentence=PASSAGES, experiment=["384sentences"] * 5 + ["243sentences"] * 3,
               passage_label=["bees", "bees", "wine", "wine", "wine", "flags", "flags", "bees"])
VOXELS = dict(neuroid_id=["1_0", "1_1", "2_0"], subject=["S1", "S1", "S2"], roi=["language", "language", "language"])


@pytest.mark.parametrize("time", [False, True])
def test_pereira_takes_one_experiment_and_leaves_out_who_did_not_see_it(tmp_path, time):
    values = RNG.normal(size=(8, 3))
    values[:5, 2] = np.nan
    path, _ = written(tmp_path, PEREIRA, VOXELS, values, time)
    heard = a.pereira2018(path)
    assert np.allclose(heard.data, values[:5, :2]) and heard.subjects == ["S1"]
    assert list(heard.left_out.target) == ["2_0"]
    assert [p.text for p in heard.passages] == PASSAGES[:5] and len(heard.runs) == 2
    other = a.pereira2018(path, "243sentences")
    assert other.data.shape == (3, 3) and len(other.runs) == 2  # bees of another experiment are other bees
    with pytest.raises(InputError, match="experiment is 'all'.*243sentences"): a.pereira2018(path, "all")
    assert open_data(f"pereira2018:{path}").data.shape == (5, 2)


def test_regions_of_the_later_release_have_no_passages(tmp_path):
    shown = dict(stimuli=PASSAGES, experiment=["PereiraE2_96pass"] * 8)
    path, values = written(tmp_path, shown, dict(subject=["7", "8"], roi=["7_IFG", "8_IFG"]))
    heard = a.pereira2018(path, "PereiraE2_96pass")
    assert list(heard.targets.target) == ["7_IFG", "8_IFG"] and np.allclose(heard.data, values)


def test_words_are_read_behind_their_sentence_and_put_in_order(tmp_path):
    words = "ALEX WAS TIRED SO".split()
    order = [5, 0, 3, 2, 1, 4, 7, 6]  # as they lie in the file
    shown = dict(word=[(words * 2)[i] for i in order], word_num=[i % 4 for i in order],
                 sentence_id=[i // 4 for i in order])
    path, values = written(tmp_path, shown, dict(electrode=[0, 1], subject_UID=[1, 1]))
    heard = a.fedorenko2016(path)
    assert [p.text for p in heard.passages][:4] == ["ALEX", "ALEX WAS", "ALEX WAS TIRED", "ALEX WAS TIRED SO"]
    second, first = np.argsort(order)[4:], np.argsort(order)[:4]  # sentence 1 comes first in the file
    assert np.allclose(heard.data, values[np.r_[second, first]]) and heard.nuisance["length"][2].tolist() == [1, 5]


def test_parts_of_stories_are_read_behind_those_before(tmp_path):
    parts = [f"part {i} " for i in range(15)]
    path, _ = written(tmp_path, dict(stimulus=parts, story=["Boar"] * 13 + ["Aqua"] * 2),
                      dict(subject_id=["85"], fROI_area=["03_LH_IFG"]))
    heard = a.blank2014(path)
    assert heard.passages[12].text == " ".join(f"part {i}" for i in range(2, 13))
    assert heard.passages[13].text == "part 13"


def test_files_that_dont_fit_are_refused(tmp_path):
    for shown, neuroids, message in (
            (dict(text=PASSAGES), VOXELS, "no coordinate experiment; it has: text"),
            (dict(experiment=["384sentences"] * 8), VOXELS, "no coordinate stimulus or sentence or stimuli"),
            (PEREIRA, dict(neuroid_id=["0", "1"], roi=["a", "b"]), "no coordinate subject or subject_UID"),
            (PEREIRA, VOXELS | dict(neuroid_id=["1_0", "1_0", "2_0"]), "'S1 1_0' is named twice"),
            (PEREIRA | dict(sentence=["", *PASSAGES[1:]]), VOXELS, "presentation 1 has no text")):
        with pytest.raises(InputError, match=message): a.pereira2018(written(tmp_path, shown, neuroids)[0])
    path, _ = written(tmp_path, PEREIRA, VOXELS, dims=("image", "neuroid"))
    with pytest.raises(InputError, match="one variable over presentation x neuroid"): a.pereira2018(path)
    (tmp_path / "cut.nc").write_bytes(path.read_bytes()[:200])
    with pytest.raises((InputError, DamagedFileError)): a.pereira2018(tmp_path / "cut.nc")
    (tmp_path / "text.nc").write_text("not a file of numbers")
    with pytest.raises(InputError, match="isn't a netCDF file"): a.pereira2018(tmp_path / "text.nc")
    with pytest.raises(FileNotFoundError, match="brainscore-language"): a.blank2014(tmp_path / "none.nc")

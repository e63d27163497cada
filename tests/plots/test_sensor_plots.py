"""Topographies beside MNE's own projection, and responses that unfold."""

import numpy as np
import pytest
import xarray as xr

from evonb.core import InputError, Seeds
from evonb.plots.examples import example_brain
from evonb.plots.sensors import flat_places, interpolated, sensor_map, sensor_scores, unfolding_lines
from evonb.plots.style import NothingToPlot

EVIL = "<img src=x onerror=alert(1)>"


def cap(n=40, seed=0):
    at = np.random.default_rng(seed).normal(size=(n, 3)) * [1, 1, 0.6] + [0, 0, 0.6]
    return 0.095 * at / np.linalg.norm(at, axis=1, keepdims=True)


def of_sensors(names=None, xyz=None):
    "Example scores whose regions are sensors."
    brain = example_brain(Seeds(0))
    rois = list(dict.fromkeys(brain.roi.values.tolist()))
    xyz, names = cap(len(rois)) if xyz is None else xyz, names or [f"EEG {i:03}" for i in range(len(rois))]
    own = [rois.index(r) for r in brain.roi.values]
    places = {f"sensor_{k}": ("target", xyz[own, i]) for i, k in enumerate("xyz")}
    return brain.assign_coords(roi=("target", [names[i] for i in own]), **places)


@pytest.mark.parametrize("montage", ["standard_1005", "GSN-HydroCel-128", "biosemi64"])
def test_places_are_those_of_mne(montage):
    mne = pytest.importorskip("mne", reason="EEG and MEG need the extra meg: pip install 'evonb[meg]'")
    from mne.channels.layout import _find_topomap_coords

    made = mne.channels.make_standard_montage(montage)
    info = mne.create_info(made.ch_names, 100.0, "eeg").set_montage(made)
    xyz = np.array([c["loc"][:3] for c in info["chs"]])
    for sphere in ((0.0, 0.0, 0.0, 0.095), (0.0, 0.01, 0.03, 0.09)):
        theirs = _find_topomap_coords(info, range(len(xyz)), sphere=sphere, ignore_overlap=True)
        assert np.allclose(flat_places(xyz, sphere[:3]), theirs, atol=1e-9)


def test_nothing_is_drawn_beyond_the_sensors_and_dots_tell_their_own():
    xyz = cap()
    at = flat_places(xyz)
    x, y, z = interpolated(at, at @ [1.0, 2.0])  # a plane is found exactly
    inside = np.isfinite(z)
    assert np.allclose(z[inside], (x[None] + 2 * y[:, None])[inside], atol=1e-6) and 0.3 < inside.mean() < 0.95
    fig = sensor_map(xyz, xyz[:, 0], [f"E{i}" for i in range(40)], picked="E7")
    dots = fig.data[-1]
    order = [list(dots.customdata).index(f"E{i}") for i in range(40)]
    assert np.allclose(np.array(dots.marker.color)[order], xyz[:, 0]) and sorted(set(dots.marker.size)) == [6, 11]
    assert [t.type for t in fig.data[:2]] == ["heatmap", "contour"]


def test_sensors_at_one_place_are_one_dot_and_lost_ones_are_counted():
    xyz = np.repeat(cap(10), 2, 0)
    values = np.arange(20.0)
    values[19], xyz[0] = np.nan, np.nan
    fig = sensor_map(xyz, values, [f"M{i}" for i in range(20)])
    dots = fig.data[-1]
    assert len(dots.x) == 10 and sorted(dots.marker.color)[1:3] == [2.5, 4.5]
    said = fig.layout.title.subtitle.text
    assert "8 places have two sensors" in said and "2 sensors have no" in said
    few = sensor_map(cap(2), [1.0, 2.0], ["a", "b"])  # dots alone
    assert all(t.type == "scatter" for t in few.data)
    with pytest.raises(NothingToPlot, match="No sensor has both a place and a value"):
        sensor_map(np.full((3, 3), np.nan), np.ones(3), list("abc"))
    with pytest.raises(InputError, match=r"must be \(n_sensors, 3\)"):
        flat_places(np.ones((3, 2)))


def test_scores_of_a_run_are_the_means_of_its_sensors():
    brain = of_sensors()
    dots = sensor_scores(brain, "gain", 3, "dense").data[-1]
    for name, value in zip(dots.customdata, dots.marker.color):
        here = brain.gain.sel(model=brain.arm == "dense", layer=3)[:, brain.roi.values == name]
        assert np.isclose(value, here.mean())
    timed = brain.assign_coords(time=("target", np.tile([0.05, 0.15], brain.sizes["target"] // 2)))
    late = sensor_scores(timed, "gain", 3, "dense", when=0.15).data[-1]
    half = timed.gain.sel(model=timed.arm == "dense", layer=3)[:, timed.time.values == 0.15]
    assert np.isclose(np.mean(late.marker.color), half.mean())
    with pytest.raises(InputError, match="when is 0.2"):
        sensor_scores(timed, "gain", 3, when=0.2)
    with pytest.raises(NothingToPlot, match="no sensors"):
        sensor_scores(example_brain(Seeds(0)))


def functions(names=("a", "b", "c")):
    rng = np.random.default_rng(0)
    return xr.Dataset(
        dict(weights=(("model", "predictor", "delay", "target"), rng.normal(size=(2, 2, 5, 3))),
             r=(("model", "fold", "target"), np.full((2, 4, 3), 0.25))),
        dict(predictor=["word", "bit"], delay=np.arange(5) / 25, arm=("model", ["one", "two"]),
             roi=("target", list(names)), kind=("target", ["mag"] * 3)))


def test_responses_unfold_as_they_are():
    trf = functions()
    fig = unfolding_lines(trf, "two", "b")
    assert np.allclose(fig.data[3].y, trf.weights.values[1, 1, :, 1])
    assert np.allclose(fig.data[3].x, [0, 40, 80, 120, 160])
    grey = np.array(fig.data[2].y, float).reshape(3, 6)
    assert np.allclose(grey[:, :5], trf.weights.values[1, 1].T) and np.isnan(grey[:, 5]).all()
    assert "fT" in fig.layout.yaxis.title.text and "r = 0.250" in fig.layout.title.subtitle.text
    largest = int(np.abs(trf.weights.values[0, 1]).max(0).argmax())
    assert "abc"[largest] in unfolding_lines(trf).layout.title.subtitle.text.split(" in blue")[0]
    with pytest.raises(InputError, match="sensor is 'z'"):
        unfolding_lines(trf, sensor="z")


def test_names_are_text():
    fig = sensor_map(cap(5), np.arange(5.0), [EVIL, "b", "c", "d", "e"]).update_traces(customdata=None)
    lines = unfolding_lines(functions((EVIL, "b", "c")), sensor=EVIL)
    for f in (fig, lines):
        assert "<img" not in f.to_json().replace("\\u003c", "<")

"""Atlases of template surfaces from their files, and vertices reduced to them."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, LabelAxis
from nilearn.datasets import fetch_surf_fsaverage

from evonb.alignment.data import open_data
from evonb.alignment.images import image_responses
from evonb.alignment.parcels import make_parcels, near_points, nearest_points, read_parcels
from evonb.alignment.surfaces import MESHES, fsaverage5
from evonb.core import DamagedFileError, InputError

N = MESHES["fsLR32k"]
HALVES = np.repeat([0, 1, 2], [492, 16000, 16000])


def label_gifti(path, values, side, names=("???", "front", "back")):
    table = nib.gifti.GiftiLabelTable()
    for i, name in enumerate(names):
        table.labels.append(nib.gifti.GiftiLabel(i, 1, 0, 0, 1))
        table.labels[-1].label = name
    array = nib.gifti.GiftiDataArray(np.asarray(values, np.int32), "NIFTI_INTENT_LABEL")
    meta = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{side.title()}"})
    nib.save(nib.gifti.GiftiImage(darrays=[array], labeltable=table, meta=meta), path)
    return path


def dlabel(path, values, kept):  # `kept` vertices of each hemisphere, as the files leave the medial wall out
    axis = BrainModelAxis.from_surface(kept, N, "CortexLeft") + BrainModelAxis.from_surface(kept, N, "CortexRight")
    table = {i: (name, (0, 0, 0, 1)) for i, name in enumerate(("???", "front", "back", "other"))}
    data = np.r_[values[kept], np.where(values[kept] == 2, 3, 0)][None].astype(np.float32)
    nib.save(Cifti2Image(data, (LabelAxis(["atlas"], [table]), axis)), path)
    return path


def test_the_same_atlas_from_every_format(tmp_path):
    gifti = {s: label_gifti(tmp_path / f"{s}.label.gii", HALVES, s) for s in ("left", "right")}
    np.savetxt(tmp_path / "both.csv", np.r_[HALVES, HALVES + 2 * (HALVES > 0)], fmt="%d")
    for side in ("lh", "rh"):
        codes = np.array([[25, 5, 25, 0, 0], [220, 20, 20, 0, 0], [20, 220, 20, 0, 0]])
        annot = np.where(HALVES == 0, -1, HALVES)  # no label at all, as the medial wall of some files
        nib.freesurfer.write_annot(tmp_path / f"{side}.a.annot", annot, codes, ["unknown", "front", "back"], True)
    cifti = read_parcels(dlabel(tmp_path / "a.dlabel.nii", HALVES, np.arange(492, N)))
    read = [read_parcels(gifti), read_parcels({s: tmp_path / f"{s[0]}h.a.annot" for s in gifti}), cifti,
            read_parcels(tmp_path / "both.csv")]
    for p in read:
        assert p.mesh == "fsLR32k" and np.array_equal(p.labels["left"] > 0, HALVES > 0)
    assert [r[2] for r in read[0].rows()] == ["left front", "left back", "right front", "right back"]
    assert [r[2] for r in read[1].rows()] == [r[2] for r in read[0].rows()]
    assert [r[2] for r in cifti.rows()] == ["front", "back", "other"]
    assert [r[2] for r in read[3].rows()] == ["parcel 1", "parcel 2", "parcel 3", "parcel 4"]
    assert (cifti.labels["right"] == 3).sum() == 16000


def test_runs_of_gifti_and_cifti_become_the_same_means(tmp_path):
    rng, n, halves = np.random.default_rng(0), 2562, np.repeat([0, 1, 2], [62, 1250, 1250])
    kept = np.arange(62, n)
    data = {s: rng.normal(size=(6, n)).astype(np.float32) for s in ("left", "right")}
    data["left"][:, :62] = 0  # the medial wall
    events = pd.DataFrame(dict(onset=[0.5, 4.0], word=["a", "bee"]))
    images = {}
    for side, values in data.items():
        arrays = [nib.gifti.GiftiDataArray(v, "NIFTI_INTENT_TIME_SERIES", "NIFTI_TYPE_FLOAT32") for v in values]
        meta = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{side.title()}"})
        images[side] = nib.gifti.GiftiImage(darrays=arrays, meta=meta)
    axis = BrainModelAxis.from_surface(kept, n, "CortexLeft") + BrainModelAxis.from_surface(kept, n, "CortexRight")
    series = nib.cifti2.SeriesAxis(0, 2, 6)
    cifti = Cifti2Image(np.c_[data["left"][:, kept], data["right"][:, kept]], (series, axis))
    parcels = make_parcels(dict(left=halves, right=halves), {s: {1: "front", 2: "back"} for s in data})
    found = [image_responses(i, events, tr=2.0).parcelled(parcels) for i in (images, cifti)]
    right = np.stack([data[s][:, halves == k].mean(1) for s in data for k in (1, 2)], 1)
    for f in found: assert np.allclose(f.data, right, atol=1e-5) and len(f.targets) == 4
    assert found[0].targets.n_vertices.tolist() == [1250] * 4
    back = parcels.spread(found[0].targets.target, found[0].data[0], "first scan")
    assert back.right.space == "fsaverage4" and np.allclose(back.right.values[halves == 2], right[0, 3], atol=1e-5)
    assert np.isnan(back.left.values[:62]).all()
    with pytest.raises(InputError, match=r"parcels are of fsaverage5 \(10,242.*has 2,562 in the left.*fsaverage4"):
        image_responses(images, events, tr=2.0).parcelled(near_points(12))


def test_a_json_of_images_may_name_parcels(tmp_path):
    rng, n = np.random.default_rng(1), 10242
    for side in ("left", "right"):
        values = rng.normal(size=(5, n)).astype("f4")
        arrays = [nib.gifti.GiftiDataArray(v, datatype="NIFTI_TYPE_FLOAT32") for v in values]
        meta = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{side.title()}"})
        nib.save(nib.gifti.GiftiImage(darrays=arrays, meta=meta), tmp_path / f"{side}.func.gii")
    (tmp_path / "words.tsv").write_text("onset\tword\n1\ta\n3\tbee\n")
    np.savetxt(tmp_path / "two.csv", np.repeat([1, 2, 3, 0], n // 2), fmt="%d")
    about = dict(images={s: f"{s}.func.gii" for s in ("left", "right")}, events="words.tsv", tr=2.0, parcels="two.csv")
    (tmp_path / "mine.json").write_text(json.dumps(about))
    opened = open_data(str(tmp_path / "mine.json"))
    assert opened.targets.target.tolist() == ["parcel 1", "parcel 2", "parcel 3"] and opened.data.shape == (5, 3)
    assert np.allclose(opened.targets[["x", "y", "z"]].iloc[0], fsaverage5()["left"].pial[: n // 2].mean(0), atol=1e-3)


def test_points_are_even_and_nearest():
    for k in (12, 42):
        p = near_points(k)
        assert len(p.rows()) == 2 * k and np.bincount(p.labels["left"])[1:].min() > 10242 / k * 0.6
        assert p.labels["right"][:k].tolist() == list(range(1, k + 1))  # each point is its own
    with pytest.raises(InputError, match="n_points is 100"): near_points(100)


def test_parcels_of_every_fsaverage_come_to_the_mesh_that_is_drawn():
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(0)
    for mesh, n in MESHES.items():
        own = {s: rng.integers(0, 4, n) for s in ("left", "right")}
        made = make_parcels(own)
        if mesh.startswith("fsLR"):
            with pytest.raises(InputError, match=f"are on {mesh}, whose geometry isn't here"): made.on_fsaverage5()
            continue
        found = made.on_fsaverage5()
        first = min(n, 10242)
        for side, labels in found.items():
            assert np.array_equal(labels[:first], own[side][:first]) and len(labels) == 10242
    points = nearest_points("left", 2562)
    sphere = np.asarray(nib.load(fetch_surf_fsaverage("fsaverage5")["sphere_left"]).darrays[0].data, float)
    assert np.array_equal(points, cKDTree(sphere[:2562]).query(sphere)[1]) and points[:2562].tolist() == [*range(2562)]


def test_bad_atlases_are_refused(tmp_path):
    with pytest.raises(InputError, match="isn't read as parcels"): read_parcels("atlas.nii.gz")
    with pytest.raises(InputError, match="7 vertices.*32,492"): make_parcels(dict(left=np.ones(7)))
    with pytest.raises(InputError, match="whole number"): make_parcels(dict(left=np.full(10242, 0.5)))
    with pytest.raises(InputError, match="names no parcel"): make_parcels(dict(left=np.zeros(10242)))
    (tmp_path / "x.annot").write_bytes(b"\0\0\xff\xff" + b"\0" * 40)
    with pytest.raises(InputError, match="doesn't say which hemisphere"): read_parcels(tmp_path / "x.annot")
    with pytest.raises(DamagedFileError, match="cut"): read_parcels(dict(left=tmp_path / "x.annot"))
    (tmp_path / "x.csv").write_text("1\n2\nthree\n")
    with pytest.raises(DamagedFileError, match="whole number a line"): read_parcels(tmp_path / "x.csv")
    both = dlabel(tmp_path / "a.dlabel.nii", HALVES, np.arange(N))
    with pytest.raises(InputError, match="left and right, but was given as left"): read_parcels(dict(left=both))
    wrong = label_gifti(tmp_path / "r.label.gii", HALVES, "right")
    with pytest.raises(InputError, match="says that it is CortexRight"): read_parcels(dict(left=wrong))
    axis = BrainModelAxis.from_surface([0, 1, 2], N, "CortexLeft")
    series = Cifti2Image(np.zeros((2, 3), "f4"), (nib.cifti2.SeriesAxis(0, 1, 2), axis))
    nib.save(series, tmp_path / "s.dlabel.nii")
    with pytest.raises(InputError, match="isn't a dense label file"): read_parcels(tmp_path / "s.dlabel.nii")

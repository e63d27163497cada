"Maps to NIfTI, GIFTI and fsaverage5 and back, offline; runs of any format to responses; bad input with its error."

import dataclasses
import gzip
import itertools
import socket
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.nifti1 import Nifti1Extension

from evonb.alignment import images as im
from evonb.alignment import surfaces as sf
from evonb.alignment import volumes as bm
from evonb.core import DamagedFileError, InputError, NoSpaceError, Remark, Seeds

AFFINE = np.array([[-2.0, 0.3, 0, 20], [0.2, 2.5, 0.1, -30], [0, -0.2, 3, -10], [0, 0, 0, 1]])  # oblique, left-handed
LONG = "Pearson r of layer 12 – connectome, seed 3, mean over five contiguous folds, Ångström <&\"'> " * 3


def draw(*shape, name="brain"):
    return Seeds(7).child(name).numpy().normal(size=shape).astype(np.float32)


def bits(a):
    return np.ascontiguousarray(a, np.float32).view(np.uint32)


def scan(data, affine=AFFINE, tr=2.0, units=("mm", "sec")):
    image = nib.Nifti1Image(np.asarray(data), affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], tr)[: np.ndim(data)])
    image.header.set_xyzt_units(*units)
    return image


# ---- volumes


def odd_values(shape):
    v = draw(*shape)
    v[0] = np.nan
    v.view(np.uint32)[1, 0, 0] = 0x7FC00ABC  # a NaN with a payload
    v[1, 1, 0], v[1, 1, 1], v[1, 1, 2] = -0.0, np.inf, 1e-42  # negative zero, infinity, a subnormal
    return v


def template(kind=nib.Nifti1Image):
    image = kind(np.zeros((4, 5, 6, 3), np.int16), AFFINE)
    image.set_sform(AFFINE, 4)
    image.set_qform(np.diag([2, 2, 2, 1.0]), 1)
    image.header.set_xyzt_units("micron", "msec")
    image.header["cal_max"], image.header["slice_duration"], image.header["aux_file"] = 9, 0.1, b"kept"
    image.header.extensions.append(Nifti1Extension(6, b"another program's comment"))
    return image


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_comes_back_bit_for_bit(tmp_path, suffix):
    values = odd_values((4, 5, 6))
    about = bm.map_provenance(run=Path("runs/a"), model="connectome/0", layer=np.int64(12), data="alice", note=LONG)
    rois = (dict(roi="é", x=1.0, y=np.nan, z=3.5, value=float(np.float32(0.1))),)
    volume = bm.make_volume(values, template(), LONG, about, True, rois)
    path = bm.write_volume(tmp_path / f"map{suffix}", volume)
    back = bm.read_volume(path)
    assert np.array_equal(bits(back.values), bits(values))
    assert back.header == volume.header and np.array_equal(back.affine, AFFINE.astype(np.float32))
    assert (back.name, back.provenance, back.illustrative) == (LONG, about, True)
    assert back.label == bm.illustrative_label and set(about["versions"]) == {"evonb", "nibabel", "nilearn", "numpy"}
    assert repr(back.rois) == repr(rois)
    assert bm.write_volume(tmp_path / f"again{suffix}", back).read_bytes() == path.read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == sorted([f"again{suffix}", f"map{suffix}"])  # no leftovers


def test_other_programs_read_the_header_and_the_name_within_its_limits(tmp_path):
    path = bm.write_volume(tmp_path / "m.nii.gz", bm.make_volume(odd_values((4, 5, 6)), template(), LONG))
    image = nib.load(path)
    h = image.header
    assert h["descrip"].item().decode() == LONG.encode()[:80].decode(errors="ignore")
    assert h["intent_name"].item().decode() == LONG[:16] and h.get_intent()[0] == "estimate"
    assert (int(h["sform_code"]), int(h["qform_code"])) == (4, 1) and h.get_xyzt_units()[0] == "micron"
    assert np.allclose(image.get_sform(), AFFINE) and np.allclose(image.get_qform(), np.diag([2, 2, 2, 1]))
    assert h.get_zooms() == template().header.get_zooms()[:3] and h["aux_file"].item() == b"kept"
    assert h["cal_max"] == h["slice_duration"] == 0 and h.get_data_dtype() == np.float32
    assert [e.get_code() for e in h.extensions] == [6, 6]
    assert h.extensions[0].get_content() == b"another program's comment"
    assert path.read_bytes()[4:8] == bytes(4)  # gzip's time of writing


@pytest.mark.parametrize("kind", ["big-endian", "nifti2", "mgz-like 4-D"])
def test_any_grid_will_do(tmp_path, kind):
    grid = template()
    if kind == "big-endian":
        grid = nib.Nifti1Image(np.zeros((4, 5, 6), ">i2"), AFFINE, header=nib.Nifti1Header(endianness=">"))
    if kind == "nifti2":
        grid = template(nib.Nifti2Image)
    values = draw(4, 5, 6, 2)
    back = bm.read_volume(bm.write_volume(tmp_path / "x.nii", bm.make_volume(values, grid, "two maps")))
    assert np.array_equal(bits(back.values), bits(values)) and np.allclose(back.affine, AFFINE, atol=1e-5)
    assert int(back.header["sform_code"]) == int(grid.header["sform_code"]) or kind == "big-endian"


def test_a_volume_made_on_a_volume_tells_its_own_story_only():
    first = bm.make_volume(draw(4, 5, 6), template(), "first")
    second = bm.make_volume(draw(4, 5, 6), first, "second")
    assert len(second.header.extensions) == 2 and b"second" in second.header.extensions[-1].get_content()


def test_a_changed_volume_says_what_it_is_now(tmp_path):
    first = bm.make_volume(draw(4, 5, 6), template(), "first", dict(layer=1))
    second = dataclasses.replace(first, name="second", provenance=dict(layer=2), values=draw(4, 5, 6, name="b"))
    back = bm.read_volume(bm.write_volume(tmp_path / "b.nii", second))
    assert (back.name, back.provenance, back.header["intent_name"].item()) == ("second", dict(layer=2), b"second")
    assert np.array_equal(bits(back.values), bits(draw(4, 5, 6, name="b"))) and len(back.header.extensions) == 2
    bare = bm.Volume(draw(4, 5, 6), AFFINE, "bare")  # without a header
    assert bm.read_volume(bm.write_volume(tmp_path / "c.nii", bare)).name == "bare"


def test_foreign_files_are_read_with_their_scaling(tmp_path):
    image = nib.Nifti1Image(draw(3, 4, 5), np.diag([2, 2, 2, 1.0]))
    image.set_data_dtype(np.int16)
    image.header["descrip"] = b"spm t map"
    nib.save(image, tmp_path / "t.nii.gz")
    volume = bm.read_volume(tmp_path / "t.nii.gz")
    assert volume.name == "spm t map" and volume.provenance == {} and not volume.illustrative
    assert np.array_equal(volume.values, nib.load(tmp_path / "t.nii.gz").get_fdata(dtype=np.float32))
    back = bm.read_volume(bm.write_volume(tmp_path / "again.nii", volume))
    assert np.array_equal(bits(back.values), bits(volume.values)) and back.header == volume.header


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = bm.write_volume(tmp_path / "m.nii", bm.make_volume(draw(4, 5, 6), template(), "old"))
    before = path.read_bytes()

    def full(self, content):
        with open(self, "wb") as f:
            f.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NoSpaceError, match="untouched"):
        bm.write_volume(path, bm.make_volume(draw(4, 5, 6), template(), "new"))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "nul\0", 7])
def test_names_must_be_a_line(name):
    with pytest.raises(InputError, match="one line of printable text"):
        bm.make_volume(draw(4, 5, 6), template(), name)


def test_bad_volumes(tmp_path):
    good = bm.make_volume(draw(4, 5, 6), template(), "good")
    with pytest.raises(InputError, match=r"\.nii or \.nii\.gz"):
        bm.write_volume(tmp_path / "map.txt", good)
    with pytest.raises(InputError, match=r"\(4, 5, 7\).*\(4, 5, 6\)"):
        bm.make_volume(draw(4, 5, 7), template(), "shape")
    with pytest.raises(InputError, match="JSON can't"):
        bm.map_provenance(model=object())
    with pytest.raises(InputError, match="must be a NIfTI volume"):
        bm.make_volume(draw(4, 5, 6), np.zeros((4, 5, 6)), "array")
    with pytest.raises(InputError, match="wasn't made from regions"):
        bm.roi_table(good)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        bm.read_volume(tmp_path / "missing.nii")
    (tmp_path / "text.nii").write_text("not an image at all")
    with pytest.raises(DamagedFileError, match="can't be read"):
        bm.read_volume(tmp_path / "text.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_cut_files_are_damaged(tmp_path, suffix):
    path = bm.write_volume(tmp_path / f"m{suffix}", bm.make_volume(draw(14, 15, 16), scan(draw(14, 15, 16)), "cut"))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DamagedFileError, match="damaged"):
        bm.read_volume(path)


@pytest.mark.parametrize("change", [(b'"name": "x"', b'"name": 123'), (b'"provenance": {', b'"provenance" [[')])
def test_an_altered_extension_is_damaged(tmp_path, change):
    path = bm.write_volume(tmp_path / "m.nii", bm.make_volume(draw(4, 5, 6), template(), "x"))
    raw = path.read_bytes()
    assert raw.count(change[0]) == 1
    path.write_bytes(raw.replace(change[0], change[1].ljust(len(change[0]))))
    with pytest.raises(DamagedFileError, match="cut or altered"):
        bm.read_volume(path)


def absurd(shape):
    h = nib.Nifti1Header()
    h.set_data_shape(shape)
    h.set_data_dtype(np.float32)
    h["vox_offset"], h["magic"], h["sform_code"] = 352, b"n+1", 2
    h["srow_x"], h["srow_y"], h["srow_z"] = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]
    return h.binaryblock + bytes(1004)


@pytest.mark.parametrize("shape", [(32000, 32000, 32000), (900, 900, 900, 3)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_absurd_dimensions_are_refused_before_allocation(tmp_path, shape, suffix):
    raw = absurd(shape)
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(raw) if suffix == ".nii.gz" else raw)
    with pytest.raises(DamagedFileError, match="its header gives the shape"):
        bm.read_volume(tmp_path / f"a{suffix}", max_bytes=1e18)
    with pytest.raises(DamagedFileError, match="its header gives the shape"):
        im.image_responses(tmp_path / f"a{suffix}", words(), mask=scan(np.ones((4, 5, 6), np.uint8)))


def test_what_a_file_may_hold_is_still_bounded(tmp_path):
    nib.save(scan(np.zeros((40, 40, 40), np.float32)), tmp_path / "z.nii.gz")  # 256 kB packed to less than 1 kB
    assert bm.read_volume(tmp_path / "z.nii.gz", max_bytes=256_000).shape == (40, 40, 40)
    with pytest.raises(InputError, match="max_bytes"):
        bm.read_volume(tmp_path / "z.nii.gz", max_bytes=255_000)
    with pytest.raises(InputError, match="max_bytes"):
        im.image_responses(scan(draw(4, 5, 6, 9)), words(), atlas=ATLAS, max_bytes=100)


def test_negative_dimensions_are_damaged(tmp_path):
    raw = bytearray(absurd((4, 5, 6)))
    raw[42:44] = struct.pack("<h", -4)
    (tmp_path / "n.nii").write_bytes(raw)
    with pytest.raises(DamagedFileError):
        bm.read_volume(tmp_path / "n.nii")


@pytest.mark.parametrize("what", ["nan", "singular", "zero"])
def test_wrong_affines_in_files(tmp_path, what):
    raw = bytearray(scan(draw(4, 5, 6)).to_bytes())
    rows = dict(nan=[np.nan, *AFFINE[0, 1:]], singular=AFFINE[1], zero=[0, 0, 0, 0])[what]
    raw[280:296] = struct.pack("<4f", *rows)  # srow_x
    (tmp_path / "w.nii").write_bytes(raw)
    for use in (bm.read_volume, sf.surface_values, lambda p: im.image_responses(p, words(), atlas=ATLAS)):
        with pytest.raises(InputError, match="affine of .* (NaN|singular)"):
            use(tmp_path / "w.nii")


# ---- regions


def regions(**columns):
    xyz = np.array([[20, -30, -10], [12, -20, -2], [14.5, -22, 0]]) + [-8, 9, 12]
    table = dict(roi=["a", "b", "c"], x=xyz[:, 0], y=xyz[:, 1], z=xyz[:, 2], value=np.float32([0.1, -0.0, np.nan]))
    return pd.DataFrame(table | columns)


@pytest.mark.parametrize("radius", [3.1, 6, 11])
def test_spheres_equal_a_plain_loop(radius):
    grid = scan(np.zeros((11, 13, 9), np.uint8))
    table = regions()
    labels = bm.sphere_labels(table, radius, grid)
    expected = np.zeros(grid.shape, int)
    for ijk in itertools.product(*map(range, grid.shape)):
        d = np.linalg.norm(table[["x", "y", "z"]].to_numpy() - (AFFINE @ [*ijk, 1])[:3], axis=1)
        if d.min() <= radius:
            expected[ijk] = d.argmin() + 1
    assert np.array_equal(labels, expected) and set(np.unique(labels)) == {0, 1, 2, 3}


def test_regions_come_back_from_the_file(tmp_path):
    grid = scan(np.zeros((11, 13, 9), np.uint8))
    volume = bm.roi_volume(regions(), radius=5, grid=grid, name="r", provenance=dict(model="m"))
    back = bm.read_volume(bm.write_volume(tmp_path / "r.nii.gz", volume))
    table = bm.roi_table(back)
    assert list(table.roi) == ["a", "b", "c"] and np.array_equal(bits(table.value), bits(regions().value))
    assert np.array_equal(table[["x", "y", "z"]], regions()[["x", "y", "z"]])
    labels = bm.sphere_labels(regions(), 5, grid)
    lut = np.r_[np.float32(np.nan), regions().value.to_numpy()]
    assert np.array_equal(bits(back.values), bits(lut[labels])) and back.provenance == dict(model="m", radius_mm=5.0)


def test_the_mni_grid_is_nilearns():
    from nilearn.datasets import load_mni152_template

    grid, shipped = bm.mni_grid(), load_mni152_template(resolution=2)
    assert grid.shape == shipped.shape == (99, 117, 95) and np.array_equal(grid.affine, shipped.affine)
    assert (int(grid.header["sform_code"]), grid.header.get_xyzt_units()[0]) == (4, "mm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=[500.0, 0, 0]), "'a'.*outside of the grid"),
        (dict(y=[0, np.nan, 0]), "'b' has no position"),
        (dict(x=[12.0, 12, 12], y=[-21.0] * 3, z=[2.0] * 3), "'b' holds no voxel"),
        (dict(value=["high", "low", "x"]), "could not convert"),
    ],
)
def test_bad_regions(change, message):
    with pytest.raises(ValueError, match=message):
        bm.roi_volume(regions(**change), grid=scan(np.zeros((11, 13, 9), np.uint8)))


def test_bad_region_tables():
    grid = scan(np.zeros((11, 13, 9), np.uint8))
    for table, message in (
        (regions().drop(columns="z"), "lacks the column 'z'"),
        (regions().drop(columns="value"), "lacks the column 'value'"),
        (regions().drop(columns="roi"), "names its regions"),
        (regions()[:0], "at least one row"),
        ({"roi": ["a"]}, "DataFrame"),
    ):
        with pytest.raises(InputError, match=message):
            bm.roi_volume(table, grid=grid)
    with pytest.raises(InputError, match="2 values for 3 regions"):
        bm.roi_volume(regions(), [1, 2], grid=grid)
    for radius in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match="radius"):
            bm.roi_volume(regions(), radius=radius, grid=grid)


def test_mean_by_roi_skips_people_without_a_number():
    table = pd.concat([regions(), regions()])
    mean = bm.mean_by_roi(table, [1, 2, np.nan, 3, np.nan, np.nan])
    assert list(mean.roi) == ["a", "b", "c"] and list(mean.n) == [2, 1, 0]
    assert mean.value.tolist()[:2] == [2, 2] and np.isnan(mean.value[2])
    with pytest.raises(InputError, match="2 values for 6 targets"):
        bm.mean_by_roi(table, [1, 2])


def test_illustrative_positions_are_marked_all_the_way(tmp_path):
    table = pd.DataFrame(
        dict(
            roi=["x", "y", "x", "known"],
            subject=[1, 1, 2, 1],
            x=[np.nan] * 3 + [40.0],
            y=[np.nan] * 3 + [-50.0],
            z=[np.nan] * 3 + [10.0],
            value=[0.1, 0.2, 0.3, 0.4],
        )
    )
    placed = sf.illustrative_positions(table)
    assert placed.illustrative.tolist() == [True, True, True, False] and table.x.isna().sum() == 3
    assert placed.x[0] == placed.x[2] != placed.x[1] and placed.x[3] == 40
    pd.testing.assert_frame_equal(placed, sf.illustrative_positions(table))
    assert sf.illustrative_positions(placed).illustrative.tolist() == [True, True, True, False]
    volume = bm.roi_volume(bm.mean_by_roi(placed, placed.value), name="r")
    back = bm.read_volume(bm.write_volume(tmp_path / "i.nii.gz", volume))
    assert back.illustrative and back.header["descrip"].item().startswith(b"illustrative positions")
    left = sf.read_surface(sf.write_surface(tmp_path / "i.gii", sf.to_surface(back).left))
    assert left.illustrative and left.label == bm.illustrative_label and np.isfinite(left.values).any()
    assert not bm.roi_volume(table[3:], name="r").illustrative


def label_image():
    labels = np.zeros((4, 5, 6), np.int16)
    labels[0], labels[2, 1:3], labels[3, 4, 5] = 3, 8, 21
    return scan(labels)


ATLAS = label_image()
NAMES = {3: "front", 8: "back", 21: "tip"}


def test_label_volumes_equal_a_plain_loop_and_come_back():
    table = pd.DataFrame(dict(label=[21, 3, 8], roi=["tip", "front", "back"], value=np.float32([0.3, 0.1, np.nan])))
    volume = bm.label_volume(ATLAS, table, name="r")
    labels = np.asarray(ATLAS.dataobj)
    expected = np.full((4, 5, 6), np.nan, np.float32)
    for label, value in zip(table.label, table.value, strict=True):
        expected[labels == label] = value
    assert np.array_equal(bits(volume.values), bits(expected))
    means = bm.region_means(volume, ATLAS)
    assert means.label.tolist() == [3, 8, 21] and np.allclose(means.value, [0.1, np.nan, 0.3], equal_nan=True)
    assert means.n_voxels.tolist() == [30, 0, 1]
    assert np.allclose(means[["x", "y", "z"]].iloc[2], (AFFINE @ [3, 4, 5, 1])[:3], atol=1e-4)
    front = np.argwhere(labels == 3).mean(0)
    assert np.allclose(
        bm.roi_table(volume).iloc[1][["x", "y", "z"]].astype(float), (AFFINE @ [*front, 1])[:3], atol=1e-4
    )


def test_bad_label_tables():
    table = pd.DataFrame(dict(label=[21, 3, 8], roi=["tip", "front", "back"], value=[0.3, 0.1, 0.2]))
    with pytest.raises(InputError, match=r"lacks the regions with the labels \[3, 8\]"):
        bm.label_volume(ATLAS, table[:1])
    assert np.isfinite(bm.label_volume(ATLAS, table[:1], missing="nan").values).sum() == 1
    for bad, message in (
        (table.assign(label=[21, 3, 4]), "'back' has the label 4, which the atlas lacks"),
        (table.assign(label=[3, 3, 8]), "only once"),
        (table.assign(label=[3.5, 1, 8]), "whole numbers"),
        (table.drop(columns="label"), "lacks the column 'label'"),
    ):
        with pytest.raises(InputError, match=message):
            bm.label_volume(ATLAS, bad)
    with pytest.raises(InputError, match="missing"):
        bm.label_volume(ATLAS, table, missing="zero")
    for image, message in (
        (scan(draw(4, 5, 6)), "aren't whole"),
        (scan(np.zeros((4, 5, 6), np.int16)), "no label but 0"),
        (scan(np.ones((4, 5, 6, 2), np.int16)), "must be 3-D"),
    ):
        with pytest.raises(InputError, match=message):
            bm.label_volume(image, table)
    with pytest.raises(InputError, match="another grid"):
        bm.region_means(scan(draw(4, 5, 6), AFFINE + np.eye(4) * [[1], [1], [1], [0]]), ATLAS)


# ---- surfaces


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    sf.fsaverage5.cache_clear()


def test_volume_to_surface_without_a_network_and_without_files_at_home(offline, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path / "nilearn"))
    places = pd.DataFrame(dict(roi=["l", "r"], x=[-54, 54], y=[-40, -40], z=[6, 6], value=[0.5, -0.25]))
    left, right = sf.to_surface(bm.roi_volume(places, radius=12))
    assert set(left.values[np.isfinite(left.values)]) == {0.5} and set(right.values[np.isfinite(right.values)]) == {
        -0.25
    }
    near = np.linalg.norm((left.cortex.pial + left.cortex.white) / 2 - [-54, -40, 6], axis=1) < 6
    assert near.any() and (left.values[near] == 0.5).all()
    far = np.linalg.norm(left.cortex.pial - [-54, -40, 6], axis=1) > 25
    assert np.isnan(left.values[far]).all() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("how", "nilearns"), [("nearest", "nearest_most_frequent"), ("linear", "linear")])
def test_projection_equals_nilearns(how, nilearns):
    from nilearn.datasets import fetch_surf_fsaverage
    from nilearn.surface import vol_to_surf

    image = scan(
        np.round(draw(50, 60, 50), 1), np.array([[4, 0, 0, -98], [0, 4, 0, -134], [0, 0, 4, -72], [0, 0, 0, 1.0]])
    )
    files = fetch_surf_fsaverage("fsaverage5")
    for side, mine in zip(sf.hemispheres, sf.surface_values(image, how), strict=True):
        theirs = vol_to_surf(
            image, files[f"pial_{side}"], inner_mesh=files[f"white_{side}"], interpolation=nilearns, n_samples=10
        )
        assert mine.dtype == np.float32 and mine.shape == (10242,) and np.allclose(mine, theirs, atol=1e-6)


def test_a_ramp_arrives_where_it_is():
    grid = bm.mni_grid()
    ramp = np.tile((np.arange(99) * 2.0 - 98)[:, None, None], (1, 117, 95)).astype(np.float32)  # x in mm
    for s in sf.to_surface(bm.make_volume(ramp, grid, "x")):
        assert np.allclose(s.values, (s.cortex.pial[:, 0] + s.cortex.white[:, 0]) / 2, atol=1e-2)


def test_voxels_without_a_value_count_nothing():
    values = np.full((99, 117, 95), 2, np.float32)
    values[draw(99, 117, 95) > 1] = np.nan  # holes in a sixth of the voxels
    left, right = sf.surface_values(bm.make_volume(values, bm.mni_grid(), "holes"))
    assert np.allclose(left[np.isfinite(left)], 2, atol=1e-5) and np.isfinite(left).mean() > 0.9
    zeros = np.where(np.isnan(values), 0, values)
    same = sf.surface_values(bm.make_volume(zeros, bm.mni_grid(), "zeros"), background=0)
    assert np.array_equal(bits(same[0]), bits(left)) and np.array_equal(bits(same[1]), bits(right))
    assert (sf.surface_values(bm.make_volume(zeros, bm.mni_grid(), "zeros"))[0] < 1.9).any()


@pytest.mark.parametrize("how", ["nearest", "linear"])
def test_a_partial_volume_fills_its_part_only(how):
    corner = np.diag([2, 2, 2, 1.0])
    corner[:3, 3] = [-70, -60, -10]
    left, right = sf.surface_values(scan(np.ones((20, 20, 20), np.float32), corner), how)
    pial = sf.fsaverage5()["left"].pial
    within = ((pial >= corner[:3, 3]) & (pial <= corner[:3, 3] + 38)).all(1)
    assert (left[within] == 1).all() and 0 < np.isfinite(left).sum() < 3000 and np.isnan(right).all()


def test_bad_volumes_for_surfaces():
    with pytest.raises(InputError, match="No vertex of fsaverage5 lies inside"):
        sf.surface_values(scan(draw(5, 5, 5), np.diag([2, 2, 2, 1.0]) + np.eye(4, k=3) * 900))
    with pytest.raises(InputError, match="one map at a time"):
        sf.surface_values(scan(draw(5, 5, 5, 2)))
    with pytest.raises(InputError, match="how is 'cubic'"):
        sf.surface_values(scan(draw(5, 5, 5)), "cubic")
    with pytest.raises(InputError, match="n_samples"):
        sf.surface_values(scan(draw(5, 5, 5)), n_samples=0)


def test_surface_arrays_are_ready_for_plotly():
    left, right = sf.make_surfaces(np.r_[np.full(5000, np.nan), np.ones(5242)], np.zeros(10242), "r")
    for s in (left, right):
        for kind in ("inflated", "pial", "white"):
            assert s.vertices(kind).shape == (10242, 3) and s.vertices(kind).dtype == np.float32
        assert s.faces.dtype == np.int32 and s.faces.shape == (20480, 3) and s.faces.max() == 10241
        assert s.sulc.shape == s.shade.shape == (10242,) and s.shade.dtype == np.float32
        assert s.shade.min() >= 0 and s.shade.max() <= 1 and np.corrcoef(s.shade, s.sulc)[0, 1] < -0.9
        assert s.values.dtype == np.float32
    assert left.vertices()[:, 0].max() < 0 < right.vertices()[:, 0].min()
    assert right.valued.all() and np.array_equal(left.valued, (left.faces >= 5000).all(1))
    with pytest.raises(InputError, match="kind is 'flat'"):
        left.vertices("flat")
    with pytest.raises(ValueError, match="read-only"):
        left.faces[0] = 0


def test_gifti_comes_back_bit_for_bit(tmp_path):
    values = np.stack([draw(10242, name=s) for s in sf.hemispheres])
    values[:, :9] = np.nan
    values.view(np.uint32)[0, 3], values[0, 10] = 0x7FC00ABC, -0.0
    pair = sf.make_surfaces(*values, LONG, bm.map_provenance(layer=3, note='<&]]>\n\t"é'), True)
    for s, v in zip(pair, values, strict=True):
        path = sf.write_surface(tmp_path / f"{s.side}.gii", s)
        back = sf.read_surface(path)
        assert np.array_equal(bits(back.values), bits(v)) and (back.side, back.name) == (s.side, LONG)
        assert back.provenance == s.provenance and back.illustrative and back.label == bm.illustrative_label
        assert sf.write_surface(tmp_path / "again.gii", back).read_bytes() == path.read_bytes()
        image = nib.load(path)
        assert (
            image.meta["AnatomicalStructurePrimary"] == f"Cortex{s.side.title()}" and image.meta["Name"] == LONG.strip()
        )
        assert np.array_equal(bits(image.darrays[0].data), bits(v))


def gifti(*arrays, **meta):
    made = [nib.gifti.GiftiDataArray(a, datatype="NIFTI_TYPE_FLOAT32") for a in arrays]
    return nib.GiftiImage(darrays=made, meta=nib.gifti.GiftiMetaData(meta))


def test_foreign_and_bad_gifti(tmp_path):
    nib.save(gifti(draw(10242), draw(10242, name="b")), tmp_path / "two.gii")
    assert np.array_equal(sf.read_surface(tmp_path / "two.gii", "right", 1).values, draw(10242, name="b"))
    for kind, message in (
        (dict(), "which hemisphere"),
        (dict(side="left", index=2), "2 maps"),
        (dict(side="up"), "side"),
    ):
        with pytest.raises(InputError, match=message):
            sf.read_surface(tmp_path / "two.gii", **kind)
    nib.save(gifti(draw(10241), AnatomicalStructurePrimary="CortexLeft"), tmp_path / "few.gii")
    with pytest.raises(InputError, match=r"10241.*fsaverage5 has 10,242 vertices"):
        sf.read_surface(tmp_path / "few.gii")
    with pytest.raises(InputError, match="says that it is CortexLeft"):
        sf.read_surface(tmp_path / "few.gii", "right")
    with pytest.raises(InputError, match="fsaverage5 has 10,242"):
        sf.make_surfaces(draw(10242), draw(642), "r")
    nib.save(gifti(), tmp_path / "none.gii")
    with pytest.raises(InputError, match="without data"):
        sf.read_surface(tmp_path / "none.gii")
    (tmp_path / "cut.gii").write_bytes((tmp_path / "two.gii").read_bytes()[:5000])
    with pytest.raises(DamagedFileError, match="can't be read"):
        sf.read_surface(tmp_path / "cut.gii")
    with pytest.raises(FileNotFoundError):
        sf.read_surface(tmp_path / "missing.gii")
    with pytest.raises(InputError, match=r"end in \.gii"):
        sf.write_surface(tmp_path / "x.nii", sf.make_surfaces(draw(10242), draw(10242), "r").left)


def test_importing_is_light():
    code = "import sys, evonb.alignment.volumes; print({'nilearn', 'nibabel', 'pandas', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- runs


def words(n=4, start=0.5, step=1.0, **columns):
    return pd.DataFrame(dict(onset=start + step * np.arange(n), word=["the", "dog's", '"bark",', "null"][:n]) | columns)


def bold(n=9, name="run"):
    return scan(draw(4, 5, 6, n, name=name) * 30 + 900)


def test_atlas_means_equal_a_plain_loop():
    runs = [bold(), bold(7, "second")]
    r = im.image_responses(runs, [words(), words(2)], ATLAS, NAMES, name="two runs", subject="s1")
    labels = np.asarray(ATLAS.dataobj)
    expected = np.concatenate(
        [[[i.get_fdata()[..., t][labels == v].mean() for v in NAMES] for t in range(i.shape[3])] for i in runs]
    )
    assert r.data.dtype == np.float32 and np.allclose(r.data, expected, atol=1e-3, rtol=0)
    assert (r.name, r.kind, r.tr, r.illustrative) == ("two runs", "series", 2.0, False)
    assert list(r.targets.target) == list(NAMES.values()) == list(r.targets.roi) and set(r.targets.subject) == {"s1"}
    centre = np.argwhere(labels == 8).mean(0)
    assert np.allclose(r.targets.iloc[1][["x", "y", "z"]].astype(float), (AFFINE @ [*centre, 1])[:3], atol=1e-4)
    assert r.groups.tolist() == ["run 1"] * 9 + ["run 2"] * 7
    assert [p.words for p in r.passages] == [["the", "dog's", '"bark",', "null"], ["the", "dog's"]]
    assert (
        r.passages[0].text == 'the dog\'s "bark", null'
        and np.array_equal(r.onsets[1], [0.5, 1.5])
        and r.offsets is None
    )
    assert r.nuisance["word rate"].ravel().tolist() == [2, 2, 0, 0, 0, 0, 0, 0, 0] + [2, 0, 0, 0, 0, 0, 0]
    again = im.image_responses(runs, [words(), words(2)], ATLAS, NAMES)
    assert np.array_equal(bits(r.data), bits(again.data))


def test_files_of_any_precision_give_what_they_hold(tmp_path):
    image = bold()
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "b.nii.gz")
    words().to_csv(tmp_path / "e.tsv", sep="\t", index=False)
    nib.save(ATLAS, tmp_path / "a.nii.gz")
    pd.DataFrame(dict(index=[3, 8, 21, 99], name=["front", "back", "tip", "unused"])).to_csv(
        tmp_path / "l.tsv", sep="\t"
    )
    r = im.image_responses(tmp_path / "b.nii.gz", str(tmp_path / "e.tsv"), tmp_path / "a.nii.gz", tmp_path / "l.tsv")
    stored = nib.load(tmp_path / "b.nii.gz").get_fdata()
    assert np.allclose(r.data[:, 0], stored[0].mean((0, 1)), atol=1e-3) and list(r.targets.roi) == [
        "front",
        "back",
        "tip",
    ]


def test_mask_gives_each_voxel_unchanged():
    inside = np.zeros((4, 5, 6), np.uint8)
    inside[1:3, 2, 4] = 1
    run = bold()
    r = im.image_responses(run, words(), mask=scan(inside))
    assert np.array_equal(bits(r.data), bits(run.get_fdata(dtype=np.float32)[1:3, 2, 4].T))
    assert list(r.targets.target) == ["voxel 1 2 4", "voxel 2 2 4"]
    assert np.allclose(r.targets[["x", "y", "z"]], [(AFFINE @ [i, 2, 4, 1])[:3] for i in (1, 2)], atol=1e-4)
    both = im.image_responses(run, words(), ATLAS, mask=scan(np.asarray(ATLAS.dataobj) * (np.arange(5) > 1)[:, None]))
    assert np.allclose(both.data[:, 0], run.get_fdata()[0, 2:].mean((0, 1)), atol=1e-3)


@pytest.mark.parametrize("kind", ["labels", "mask", "spheres"])
def test_maskers_of_nilearn(kind):
    from nilearn.maskers import NiftiLabelsMasker, NiftiMasker, NiftiSpheresMasker

    run, labels = bold(), np.asarray(ATLAS.dataobj)
    masker, expected, places = dict(
        labels=(
            NiftiLabelsMasker(ATLAS, standardize=None),
            [run.get_fdata()[labels == v].mean(0) for v in NAMES],
            [(AFFINE @ [*np.argwhere(labels == v).mean(0), 1])[:3] for v in NAMES],
        ),
        mask=(
            NiftiMasker(scan((labels == 21).astype(np.uint8)), standardize=None),
            [run.get_fdata()[3, 4, 5]],
            [(AFFINE @ [3, 4, 5, 1])[:3]],
        ),
        spheres=(
            NiftiSpheresMasker([tuple((AFFINE @ [1, 2, 3, 1])[:3])], standardize=None),
            [run.get_fdata()[1, 2, 3]],
            [(AFFINE @ [1, 2, 3, 1])[:3]],
        ),
    )[kind]
    r = im.image_responses([run, run], [words(), words()], masker=masker)
    assert np.allclose(r.data, np.tile(np.array(expected).T, (2, 1)), atol=1e-3)
    assert np.allclose(r.targets[["x", "y", "z"]], places, atol=1e-3) and any("masker" in n for n in r.notes)


def test_another_grid_is_an_error_and_resampling_explicit():
    fine = nib.Nifti1Image(
        np.kron(np.asarray(ATLAS.dataobj), np.ones((2, 2, 2), np.int16)),
        AFFINE @ np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]]),
    )
    from nilearn.maskers import NiftiLabelsMasker

    for how in (dict(atlas=fine), dict(mask=fine), dict(masker=NiftiLabelsMasker(fine))):
        with pytest.raises(InputError, match=r"another grid.*\(8, 10, 12\).*\(4, 5, 6\).*resample=True"):
            im.image_responses(bold(), words(), **how)
    r = im.image_responses(bold(), words(), fine, resample=True)
    assert np.allclose(r.data, im.image_responses(bold(), words(), ATLAS).data, atol=1e-3)
    away = nib.Nifti1Image(np.asarray(ATLAS.dataobj), AFFINE + np.eye(4, k=3) * 300)
    with pytest.raises(InputError, match="lies outside of the run"):
        im.image_responses(bold(), words(), away, resample=True)
    half = nib.Nifti1Image(
        np.asarray(ATLAS.dataobj), AFFINE @ (np.eye(4) - np.eye(4, k=3) * 2)
    )  # two voxels to the left
    with pytest.warns(Remark, match="1 of 3 targets have no voxel and are left out: label 3"):
        r = im.image_responses(bold(), words(), half, resample=True)
    assert r.targets.target.tolist() == ["label 8", "label 21"] and r.left_out.x.isna().all()


def test_gaps_are_never_counted_as_zero():
    data = np.array(bold().get_fdata(dtype=np.float32))
    data[0, 0, 0, 3], data[2, 2, 2] = np.nan, 5
    run = scan(data)
    with pytest.raises(InputError, match="1 of 43 voxels of the atlas hold NaN.*measured_mask"):
        im.image_responses(run, words(), ATLAS)
    with pytest.raises(InputError, match="count as zero"):
        from nilearn.maskers import NiftiLabelsMasker

        im.image_responses(run, words(), masker=NiftiLabelsMasker(ATLAS))
    seen = im.measured_mask([run, bold()])
    assert int(np.asarray(seen.dataobj).sum()) == 118
    r = im.image_responses(run, words(), ATLAS, mask=seen)
    expected = data[0].reshape(30, 9)[1:].mean(0)
    assert np.allclose(r.data[:, 0], expected, atol=1e-3)
    assert np.isnan(np.asarray(run.dataobj)[0, 0, 0, 3])  # the caller's image is untouched


@pytest.mark.parametrize(
    ("units", "step", "tr", "expected"),
    [
        ("sec", 1.5, None, 1.5),
        ("msec", 1500, None, 1.5),
        ("usec", 1.5e6, 1.5, 1.5),
        ("unknown", 1.5, 2.0, 2.0),
        ("sec", 0, 0.8, 0.8),
    ],
)
def test_tr_comes_from_the_header_with_its_unit(units, step, tr, expected):
    r = im.image_responses(
        scan(bold().get_fdata(dtype=np.float32), tr=step, units=("mm", units)), words(), ATLAS, tr=tr
    )
    assert r.tr == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("units", "step", "tr", "message"),
    [
        ("sec", 2000, None, "which can't be"),
        ("msec", 2, None, "which can't be"),
        ("unknown", 2, None, "gives no TR"),
        ("hz", 2, None, "gives no TR"),
        ("sec", 2, 2.2, "tr is 2.2 s.*says 2 s"),
        ("sec", 2, -1, "tr is -1"),
        ("sec", 2, "2", "tr is '2'"),
        ("sec", 2, 2000, "tr is 2000"),
    ],
)
def test_wrong_trs(units, step, tr, message):
    with pytest.raises(InputError, match=message):
        im.image_responses(
            scan(bold().get_fdata(dtype=np.float32), tr=step, units=("mm", units)), words(), ATLAS, tr=tr
        )


def test_a_projection_warns_of_nothing():
    corner = np.diag([2, 2, 2, 1.0])
    corner[:3, 3] = [-70, -60, -10]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sf.surface_values(scan(draw(20, 20, 20), corner), "linear")
        im.image_responses(bold(), words(), ATLAS)


def test_scanner_space_has_no_template_positions():
    run = bold()
    run.set_sform(AFFINE, 1)
    r = im.image_responses(run, words(), ATLAS)
    assert r.targets[["x", "y", "z"]].isna().all(axis=None) and any("scanner mm" in n for n in r.notes)


def test_events_are_read_literally(tmp_path):
    path = tmp_path / "e.tsv"
    path.write_text(
        'onset\tduration\tword\n0.2\t0.1\t"Null\n0.4\t0.3\tnan\n1\tn/a\tn/a\n1.5\t0.2\tNone"\n', encoding="utf-8"
    )
    r = im.image_responses(bold(), path, ATLAS)
    assert r.passages[0].words == ['"Null', "nan", 'None"'] and np.allclose(r.offsets[0], [0.3, 0.7, 1.7])
    assert any("1 rows without a word" in n for n in r.notes)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (words(onset=[0.5, 2.5, 1.5, 3]), "events of run 1.*before the word that precedes"),
        (words(onset=[0.5, 2.5, 3.5, 18]), "begins at 18 s.*9 scans end at 18 s"),
        (words(onset=[-1, 2.5, 3.5, 4]), "before the first scan"),
        (words(onset=["0.5", "soon", "3", "4"]), "isn't numeric"),
        (words(onset=[0.5, None, 3, 4]), 'no onset for the word "dog\'s"'),
        (words(onset=[0.5, np.inf, 3, 4]), "infinite"),
        (words(word=[None] * 4), "holds no word"),
        (words(word=["a", " ", "b", "c"]), "' '|''"),
        (words(duration=[0.1, 0.2, np.nan, -0.1]), "negative durations: row 4 lasts -0.1 s"),
        (words().drop(columns="word"), "lacks the column 'word'"),
        (words()[["word"]], "lacks the column 'onset'"),
    ],
)
def test_bad_events(table, message):
    with pytest.raises(InputError, match=message):
        im.image_responses(bold(), table, ATLAS)


def confounds(n=9):
    return pd.DataFrame(draw(n, 7), columns=[*im.movement, "framewise_displacement"])


def test_confounds_become_movement_of_the_subject(tmp_path):
    table = confounds().astype(object)
    table.loc[0, "framewise_displacement"] = "n/a"
    table.to_csv(tmp_path / "c.tsv", sep="\t", index=False)
    r = im.image_responses(bold(), words(), ATLAS, confounds=tmp_path / "c.tsv", subject="s2")
    assert np.allclose(r.subject_nuisance["s2"], confounds()[list(im.movement)], atol=1e-6) and set(
        r.subject_nuisance
    ) == {"s2"}
    r = im.image_responses(
        [bold()] * 2,
        [words()] * 2,
        ATLAS,
        confounds=[tmp_path / "c.tsv"] * 2,
        confound_columns=["framewise_displacement"],
    )
    column = r.subject_nuisance["subject"][:9, 0]
    assert np.allclose(column[1:], confounds()["framewise_displacement"][1:]) and np.isclose(
        column[0], column[1:].mean()
    )
    assert r.subject_nuisance["subject"].shape == (18, 1) and any("1 leading n/a" in n for n in r.notes)


def test_bad_confounds():
    gap = confounds()
    gap.loc[4, "rot_x"] = np.nan
    for table, columns, message in (
        (confounds(8), None, "8 rows.*9 scans"),
        (gap, None, "'rot_x'.*gaps"),
        (confounds(), ["speed"], "lacks the column 'speed'"),
        (confounds().assign(trans_x="x"), None, "isn't numeric"),
    ):
        with pytest.raises(InputError, match=message):
            im.image_responses(bold(), words(), ATLAS, confounds=table, confound_columns=columns)


def test_bad_runs(tmp_path):
    other, few = scan(bold().get_fdata(dtype=np.float32), AFFINE + np.eye(4, k=3)), scan(draw(4, 5, 7, 9))
    slow = scan(draw(4, 5, 6, 9), tr=3.0)
    cases = [
        (dict(images=scan(draw(4, 5, 6))), r"\(4, 5, 6\), but must be 4-D"),
        (dict(images=scan(draw(4, 5, 6, 1))), "at least 2 scans"),
        (dict(images=bold(), atlas=None), "give atlas="),
        (dict(images=[]), "no run"),
        (dict(images=[bold(), bold()]), "2 runs, but 1 entries in events"),
        (dict(images=[bold(), other], events=[words()] * 2), "another grid"),
        (dict(images=[bold(), few], events=[words()] * 2), r"another grid.*\(4, 5, 6\).*\(4, 5, 7\)"),
        (dict(images=[bold(), slow], events=[words()] * 2), "different TRs"),
        (dict(images=bold(), masker=object()), "not both"),
        (dict(images=bold(), masker=object(), atlas=None), "masker is object"),
        (dict(images=bold(), labels={3: "front"}), r"labels \[8, 21\]"),
        (dict(images=bold(), labels={"front": 3}), "whole numbers"),
        (dict(images=bold(), atlas=scan(draw(4, 5, 6))), "aren't whole"),
        (dict(images=draw(4, 5, 6, 9)), "must be a NIfTI volume"),
        (dict(images=scan(np.ones((4, 5, 6, 9), np.float32))), "constant"),
        (dict(images=bold(), labels={3: "same", 8: "same", 21: "tip"}), "'same' is named twice"),
    ]
    for change, message in cases:
        with pytest.raises(InputError, match=message):
            im.image_responses(**dict(events=words(), atlas=ATLAS) | change)
    for change in (dict(images=tmp_path / "no.nii"), dict(events=tmp_path / "no.tsv"), dict(atlas=tmp_path / "no.nii")):
        with pytest.raises(FileNotFoundError, match="There is no file"):
            im.image_responses(**dict(images=bold(), events=words(), atlas=ATLAS) | change)
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(InputError, match="can't be read as a table"):
        im.image_responses(bold(), tmp_path / "empty.tsv", ATLAS)
    with pytest.raises(InputError, match="No voxel is finite and changing"):
        im.measured_mask(scan(np.ones((4, 5, 6, 9), np.float32)))


def dense():
    nucleus = np.zeros((4, 5, 6), bool)
    nucleus[2, 3, 4:] = True
    axis = nib.cifti2.BrainModelAxis
    return axis.from_surface(np.array([5, 9, 10241]), 10242, "CortexLeft") + axis.from_mask(
        nucleus, "thalamus_left", AFFINE
    )


def test_cifti_series(tmp_path):
    data = draw(12, 5)
    nib.save(nib.Cifti2Image(data, (nib.cifti2.SeriesAxis(0, 0.72, 12), dense())), tmp_path / "x.dtseries.nii")
    r = im.image_responses(tmp_path / "x.dtseries.nii", words())
    assert np.array_equal(bits(r.data), bits(data)) and r.tr == 0.72
    assert list(r.targets.target) == [
        "cortex left vertex 5",
        "cortex left vertex 9",
        "cortex left vertex 10241",
        "thalamus left voxel 2 3 4",
        "thalamus left voxel 2 3 5",
    ]
    assert r.targets.x.isna().tolist() == [True] * 3 + [False] * 2
    assert np.allclose(r.targets.iloc[4][["x", "y", "z"]].astype(float), (AFFINE @ [2, 3, 5, 1])[:3], atol=1e-3)
    with pytest.raises(InputError, match="tr is 2 s.*0.72 s"):
        im.image_responses(tmp_path / "x.dtseries.nii", words(), tr=2)
    with pytest.raises(InputError, match="CIFTI or GIFTI"):
        im.image_responses(tmp_path / "x.dtseries.nii", words(), ATLAS)
    raw = (tmp_path / "x.dtseries.nii").read_bytes()
    (tmp_path / "cut.dtseries.nii").write_bytes(raw[:-100])
    with pytest.raises(DamagedFileError, match="its header gives the shape"):
        im.image_responses(tmp_path / "cut.dtseries.nii", words())
    scalars = nib.Cifti2Image(draw(2, 5), (nib.cifti2.ScalarAxis(["a", "b"]), dense()))
    with pytest.raises(InputError, match="isn't a CIFTI series"):
        im.image_responses(scalars, words())
    with pytest.raises(InputError, match="other targets than run 1"):
        parts = [nib.Cifti2Image(draw(12, n), (nib.cifti2.SeriesAxis(0, 1, 12), dense()[:n])) for n in (5, 4)]
        im.image_responses(parts, [words()] * 2)


def test_gifti_series(tmp_path):
    data = {s: draw(6, 10242, name=s) for s in sf.hemispheres}
    for s, v in data.items():
        nib.save(gifti(*v, AnatomicalStructurePrimary=f"Cortex{s.title()}"), tmp_path / f"{s}.func.gii")
    paths = {s: tmp_path / f"{s}.func.gii" for s in sf.hemispheres}
    r = im.image_responses(paths, words(), tr=1.0)
    assert np.array_equal(bits(r.data), bits(np.concatenate([data["left"], data["right"]], 1))) and r.tr == 1
    assert np.array_equal(r.targets[["x", "y", "z"]][:10242], sf.fsaverage5()["left"].pial)
    assert r.targets.target.iloc[10242] == "right vertex 0" and any("MNI305" in n for n in r.notes)
    left = im.image_responses(paths["left"], words(), tr=1.0)
    assert np.array_equal(bits(left.data), bits(data["left"]))
    table = gifti(draw(30, 5), AnatomicalStructurePrimary="CortexRight")  # one array of vertices by scans
    small = im.image_responses(table, words(), tr=2.0)
    assert np.array_equal(small.data, draw(30, 5).T) and small.targets.x.isna().all()
    assert any("not fsaverage5's" in n for n in small.notes)
    for images, tr, message in (
        (paths, None, "gives no TR"),
        (gifti(draw(30, 5)), 1.0, "which hemisphere"),
        (dict(left=paths["left"]), 1.0, "needs left and right"),
        (dict(left=paths["right"], right=paths["left"]), 1.0, "says that it is"),
        (dict(left=gifti(*draw(5, 30)), right=gifti(*draw(6, 30))), 1.0, "different numbers of scans"),
        (gifti(draw(30), AnatomicalStructurePrimary="CortexLeft"), 1.0, "isn't a GIFTI series"),
    ):
        with pytest.raises(InputError, match=message):
            im.image_responses(images, words(), tr=tr)


def test_a_known_word_response_is_found_where_it_is():
    from evonb.alignment.encoding import RidgeConfig, encode
    from evonb.alignment.responses import design

    rng, n = Seeds(3).child("known").numpy(), 160
    onsets = np.sort(rng.uniform(0, n * 2 - 20, 400))
    size = rng.normal(size=400)
    drive = np.zeros(n)
    np.add.at(drive, (onsets // 2).astype(int) + 2, size)  # two scans after the word
    data = rng.normal(size=(4, 5, 6, n)).astype(np.float32)
    data[2, 1:3] += drive.astype(np.float32)  # only in the region "back"
    events = pd.DataFrame(dict(onset=onsets, word=[f"w{i}" for i in range(400)]))
    r = im.image_responses(scan(data), events, ATLAS, NAMES)
    scores = encode(design(r, size[:, None], how="sum"), r.data, r.groups, RidgeConfig())
    found = dict(zip(NAMES.values(), scores.r.mean("fold").values, strict=True))
    assert found["back"] > 0.8 and abs(found["front"]) < 0.35 and abs(found["tip"]) < 0.35


# ---- what was not measured


WALL = slice(100, 140)  # vertices without data


def walled(n=10242, value=0.0, side="left", seed="wall"):
    data = draw(6, n, name=seed + side)
    data[:, WALL] = value
    return gifti(*data, AnatomicalStructurePrimary=f"Cortex{side.title()}"), data


@pytest.mark.parametrize("value", [0.0, 7.5, np.nan])
@pytest.mark.parametrize("n", [10242, 642])
def test_an_empty_medial_wall_is_left_out_by_name_and_keeps_its_place(tmp_path, value, n):
    image, data = walled(n, value)
    nib.save(image, tmp_path / "wall.func.gii")
    why = "hold NaN or infinite numbers" if np.isnan(value) else "never vary"
    with pytest.warns(Remark, match=f"40 of {n:,} targets {why} and are left out: left vertex 100, .* and 30 more"):
        r = im.image_responses(tmp_path / "wall.func.gii", words(), tr=2.0)
    kept = np.delete(np.arange(n), WALL)
    assert np.array_equal(bits(r.data), bits(data[:, kept])) and r.places().tolist() == kept.tolist()
    assert r.left_out.target.tolist() == [f"left vertex {i}" for i in range(100, 140)] and set(r.left_out.why) == {why}
    assert any("40 of" in note for note in r.notes) and repr(r).endswith("; 40 left out)")
    table = r.placed(kept)  # a map: nan on the wall, all others where they were measured
    expected = np.arange(float(n))
    expected[WALL] = np.nan
    assert np.array_equal(table.value, expected, equal_nan=True)
    assert table.target.tolist() == [f"left vertex {i}" for i in range(n)]
    with pytest.raises(InputError, match="values for"):
        r.placed(np.zeros(n))


def test_both_hemispheres_and_cifti_lose_dead_vertices_and_what_one_run_lacks_is_out_of_all(tmp_path):
    sides = {s: walled(642, 0, s)[0] for s in sf.hemispheres}
    r = im.image_responses(sides, words(), tr=2.0)
    assert len(r.left_out) == 80 and r.left_out.place.tolist() == [*range(100, 140), *range(742, 782)]
    data = draw(12, 5)
    data[:, 1], data[3, 3] = 4, np.inf
    images = [nib.Cifti2Image(d, (nib.cifti2.SeriesAxis(0, 2, 12), dense())) for d in (data, draw(12, 5, name="two"))]
    r = im.image_responses(images, [words()] * 2)
    assert r.left_out.target.tolist() == ["thalamus left voxel 2 3 4"]  # the vertex varies in the second run
    one = im.image_responses(images[0], words())
    assert dict(zip(one.left_out.target, one.left_out.why, strict=True)) == {
        "cortex left vertex 9": "never vary",
        "thalamus left voxel 2 3 4": "hold NaN or infinite numbers",
    }
    data[:] = 1
    with pytest.raises(InputError, match="None of the 5 targets .* 5 never vary"):
        im.image_responses(nib.Cifti2Image(data, (nib.cifti2.SeriesAxis(0, 2, 12), dense())), words())


def test_voxels_without_a_number_are_left_out_of_masks_and_regions():
    data = np.array(bold().get_fdata(dtype=np.float32))
    data[0, 0, 0], data[2, 1, 0], data[2, 2, 2] = np.nan, np.nan, 5
    run = scan(data)
    with pytest.warns(Remark):
        r = im.image_responses(run, words(), mask=scan(np.ones((4, 5, 6), np.uint8)))
    assert dict(zip(r.left_out.target, r.left_out.why, strict=True)) == {
        "voxel 0 0 0": "hold NaN or infinite numbers",
        "voxel 2 1 0": "hold NaN or infinite numbers",
        "voxel 2 2 2": "never vary",
    }
    assert r.placed(np.ones(117)).value.isna().sum() == 3 and r.left_out.place.tolist() == [0, 66, 74]
    with pytest.warns(Remark, match="voxels of the atlas hold no number in any scan"):
        r = im.image_responses(run, words(), ATLAS, NAMES)
    assert r.left_out is None and np.allclose(r.data[:, 0], data[0].reshape(30, 9)[1:].mean(0), atol=1e-3)


@pytest.mark.parametrize("how", ["masked", "nan", "constant"])
def test_an_empty_region_is_left_out_by_name_and_keeps_its_place(how):
    labels, data = np.asarray(ATLAS.dataobj), np.array(bold().get_fdata(dtype=np.float32))
    if how != "masked":
        data[labels == 8] = np.nan if how == "nan" else 3
    mask = scan((labels != 8).astype(np.uint8)) if how == "masked" else None
    why = "never vary" if how == "constant" else "have no voxel"
    with pytest.warns(Remark, match=f"1 of 3 targets {why} and are left out: back"):
        r = im.image_responses(scan(data), words(), ATLAS, NAMES, mask=mask)
    assert r.targets.target.tolist() == ["front", "tip"]
    assert np.allclose(r.data[:, 1], data[labels == 21].mean(0), atol=1e-3)
    table = r.placed([0.25, 0.5])
    assert table.target.tolist() == ["front", "back", "tip"] and np.isnan(table.value[1]) and table.why[1] == why
    centre = (AFFINE @ [*np.argwhere(labels == 8).mean(0), 1])[:3]
    assert np.allclose(table.loc[1, ["x", "y", "z"]].astype(float), centre, atol=1e-4)
    volume = bm.label_volume(ATLAS, table.assign(label=list(NAMES)))
    assert np.isnan(volume.values[labels == 8]).all() and (volume.values[labels == 21] == 0.5).all()


def test_an_atlas_without_any_voxel_in_the_run_is_refused_and_unused_names_are_told():
    labels = np.asarray(ATLAS.dataobj)
    with pytest.raises(InputError, match="No region of the atlas has a voxel left"):
        im.image_responses(bold(), words(), ATLAS, mask=scan((labels == 0).astype(np.uint8)))
    with pytest.warns(Remark, match="1 of 5 regions that labels name have no voxel in the atlas .*: unused"):
        r = im.image_responses(bold(), words(), ATLAS, {0: "background", **NAMES, 99: "unused"})
    assert r.left_out is None and len(r.targets) == 3


def test_a_choice_of_regions_keeps_the_places_of_what_is_left_out_in_them():
    labels, data = np.asarray(ATLAS.dataobj), np.array(bold(60).get_fdata(dtype=np.float32))
    data[labels == 8] = 0
    r = im.image_responses(scan(data), words(), ATLAS, NAMES)
    assert r.select(rois="tip").left_out is None and r.select().left_out.place.tolist() == [1]
    assert r.cleaned().placed([1, 2]).value.fillna(0).tolist() == [1, 0, 2]

"""Folders in BIDS as fMRIPrep leaves them, written here: names, confounds, events; and results as derivatives."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from evonb.alignment.bids import (
    bids_confounds,
    bids_name,
    bids_responses,
    bids_runs,
    parse_bids,
    sidecar,
    write_bids,
)
from evonb.alignment.parcels import make_parcels
from evonb.alignment.surfaces import make_surfaces, read_surface
from evonb.alignment.volumes import make_volume, mni_grid, read_volume
from evonb.core import InputError
from evonb.datasets import MissingCorpusError

N = 2562  # vertices of fsaverage4
HALF = make_parcels({s: np.repeat([1, 2], N // 2) for s in ("left", "right")})


def confounds(path, n, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({f"{k}_{x}": rng.normal(size=n) for k in ("trans", "rot") for x in "xyz"})
    for c in list(table): table[f"{c}_derivative1"] = table[c].diff()
    for c in list(table): table[f"{c}_power2"] = table[c] ** 2
    table["cosine00"] = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    for i in range(3): table[f"a_comp_cor_{i:02d}"] = rng.normal(size=n)
    table.to_csv(path, sep="\t", na_rep="n/a", index=False)
    about = {f"a_comp_cor_{i:02d}": dict(Method="aCompCor", Mask="combined", Retained=True) for i in range(3)}
    path.with_suffix(".json").write_text(json.dumps(about))


@pytest.fixture
def dataset(tmp_path):
    func, rng, data = tmp_path / "derivatives/fmriprep/sub-01/ses-a/func", np.random.default_rng(1), {}
    func.mkdir(parents=True), (tmp_path / "sub-01/ses-a/func").mkdir(parents=True)
    for run, n in ((1, 10), (2, 12)):
        stem = f"sub-01_ses-a_task-story_run-{run}"
        for h, side in (("L", "Left"), ("R", "Right")):
            data[run, h] = rng.normal(size=(n, N)).astype("f4")
            arrays = [nib.gifti.GiftiDataArray(v) for v in data[run, h]]
            meta = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{side}"})
            path = func / f"{stem}_hemi-{h}_space-fsaverage4_bold.func.gii"
            nib.save(nib.gifti.GiftiImage(darrays=arrays, meta=meta), path)
        confounds(func / f"{stem}_desc-confounds_timeseries.tsv", n, run)
    (tmp_path / "derivatives/fmriprep/task-story_bold.json").write_text('{"RepetitionTime": 1.5, "StartTime": 0.7}')
    words = "onset\tduration\tword\n1\t.3\ta\n2.5\tn/a\tNULL\n9\t0\tn/a\n"  # a word may be called NULL
    (tmp_path / "task-story_events.tsv").write_text(words)
    (tmp_path / "sub-01/ses-a/func/sub-01_ses-a_task-story_run-2_events.tsv").write_text(words.replace("NULL", "bee"))
    (func / "._sub-01_ses-a_task-story_run-1_hemi-L_space-fsaverage4_bold.func.gii").write_text("of a Mac")
    return tmp_path, func, data


def test_runs_with_what_belongs_to_them(dataset):
    root, func, data = dataset
    runs = bids_runs(root / "derivatives/fmriprep")
    assert [r.label for r in runs] == ["ses-a_task-story_run-1", "ses-a_task-story_run-2"]
    assert runs[0].entities == dict(sub="01", ses="a", task="story", run="1", space="fsaverage4")
    assert [r.events.parent.name for r in runs] == [root.name, "func"]  # the general one, and the run's own
    assert runs[0].tr == 1.5 and runs[0].about["StartTime"] == 0.7
    heard = bids_responses(root / "derivatives/fmriprep", parcels=HALF, run="2")
    assert heard.passages[0].words == ["a", "bee"] and heard.groups[0] == "ses-a_task-story_run-2"
    assert np.allclose(heard.data[:, 3], data[2, "R"][:, N // 2 :].mean(1), atol=1e-5)
    assert "space: fsaverage4" in heard.notes
    both = bids_responses(root / "derivatives/fmriprep", parcels=HALF)
    assert both.data.shape == (22, 4) and both.passages[0].words == ["a", "NULL"] and both.tr == 1.5
    assert both.subject_nuisance["sub-01"].shape == (22, 7)


def test_confounds_by_name_and_without_gaps(dataset):
    root, func, _ = dataset
    run = bids_runs(root / "derivatives/fmriprep", run=1)[0]
    table = pd.read_csv(func / "sub-01_ses-a_task-story_run-1_desc-confounds_timeseries.tsv", sep="\t")
    few = bids_confounds(run, ("motion",))
    assert np.allclose(few["trans_x"], table["trans_x"]) and few.shape == (10, 6)
    more = bids_confounds(run, ("motion24", "cosine", "acompcor"), n_acompcor=2)
    assert {"cosine00", "a_comp_cor_00", "a_comp_cor_01"} <= set(more) and "a_comp_cor_02" not in more
    assert not more.isna().any().any() and "rot_z_derivative1" in more
    with pytest.raises(InputError, match="goes with cosine"): bids_confounds(run, ("acompcor",))
    with pytest.raises(InputError, match="confounds is 'movement'"): bids_confounds(run, ("movement",))
    (func / "sub-01_ses-a_task-story_run-1_desc-confounds_timeseries.tsv").unlink()
    with pytest.raises(InputError, match="run-1 can't be had.*confound file"): bids_confounds(run, ("motion",))


def test_what_is_wrong_is_said(dataset):
    root, func, _ = dataset
    derivatives = root / "derivatives/fmriprep"
    with pytest.raises(MissingCorpusError, match="with sub-02.*'sub': \\['01'\\]"): bids_runs(derivatives, sub="02")
    with pytest.raises(MissingCorpusError, match="no folder"): bids_runs(root / "none")
    with pytest.raises(InputError, match="no column 'trial_type'"): bids_responses(derivatives, word="trial_type")
    with pytest.raises(MissingCorpusError, match="no events.tsv"): bids_runs(derivatives, raw=derivatives)
    top = derivatives / "task-story_bold.json"
    top.write_text('{"RepetitionTime": "2"}')
    with pytest.raises(InputError, match="RepetitionTime '2'"): bids_runs(derivatives)
    top.write_text("{")
    with pytest.raises(InputError, match="isn't JSON"): bids_runs(derivatives)
    top.unlink()
    with pytest.raises(InputError, match="gives no TR"): bids_responses(derivatives, confounds=())
    other = func / "sub-01_ses-a_task-story_run-1_hemi-L_space-fsnative_bold.func.gii"
    other.write_bytes(b"")
    with pytest.raises(InputError, match="several kinds of space: fsaverage4, fsnative"): bids_runs(derivatives)
    with pytest.raises(InputError, match="no other hemisphere"): bids_runs(derivatives, space="fsnative")


def test_results_are_derivatives(tmp_path):
    flat = make_surfaces(np.ones(32492), np.zeros(32492), "Pearson r", dict(layer=3), mesh="fsLR32k")
    volume = make_volume(np.ones((99, 117, 95)), mni_grid(), "gain", dict(space="MNI152NLin2009cAsym"))
    out = tmp_path / "evonb"
    made = write_bids(out, dict(r=flat, gain=volume), source="ds000001", sub="01", task="story", desc="smollm2-135m")
    names = [str(p.relative_to(out)) for p in made]
    stem = "sub-01/func/sub-01_task-story"
    assert names == [f"{stem}_hemi-{h}_space-fsLR_den-32k_stat-r_desc-smollm2135m_statmap.func.gii" for h in "LR"] + [
        f"{stem}_space-MNI152NLin2009cAsym_stat-gain_desc-smollm2135m_statmap.nii.gz"]
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative" and about["GeneratedBy"][0]["Name"] == "evonb"
    assert about["SourceDatasets"] == [{"URL": "ds000001"}]
    told = sidecar(parse_bids(made[1]), out)
    assert told["SpatialReference"] == "fsLR32k" and told["Provenance"] == {"layer": 3}
    assert read_surface(made[0]).space == "fsLR32k" and read_volume(made[2]).space == "MNI152NLin2009cAsym"
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    write_bids(out, dict(r=flat, gain=volume), source="ds000001", sub="01", task="story", desc="smollm2-135m")
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="needs sub"): write_bids(out, dict(r=flat))
    with pytest.raises(InputError, match="an entity is 'layer'"): write_bids(out, dict(r=flat), sub="01", layer=3)
    with pytest.raises(InputError, match="is ndarray"): write_bids(out, dict(r=np.ones(3)), sub="01")
    (out / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fMRIPrep"}]}')
    with pytest.raises(InputError, match="data set of fMRIPrep"): write_bids(out, dict(r=flat), sub="01")


def test_names(tmp_path):
    name = bids_name(dict(space="MNI", sub="a_b", hemi="L", run=None), "statmap", ".gii")
    assert name == "sub-ab_hemi-L_space-MNI_statmap.gii"
    assert parse_bids("sub-01_task-x_desc-clean.func.gii") is None and parse_bids("") is None
    with pytest.raises(InputError, match="entity desc is empty"): bids_name(dict(sub="1", desc="--"), "bold", ".gii")

"""Narratives and Le Petit Prince in the publishers' layouts, with the oddities of their tables."""

import json

import nibabel as nib
import numpy as np
import pytest

from evonb.alignment.holdings import check_data_folder
from evonb.alignment.parcels import make_parcels
from evonb.alignment.sources.audiobooks import gentle_words, narratives, petit_prince, section_words
from evonb.core import DamagedFileError, InputError
from evonb.datasets import MissingCorpusError

HALF = make_parcels({s: np.repeat([1, 2], 1281) for s in ("left", "right")})
GENTLE = """I,i,15.08,15.16
began,began,15.17,15.5
to,,,
Dwyer’s,<unk>,15.4,15.9
him,him,15.399,15.6
late,late,60,61
"""


@pytest.fixture
def story(tmp_path):
    func = tmp_path / "derivatives/afni-nosmooth/sub-001/func"
    func.mkdir(parents=True), (tmp_path / "sub-001/func").mkdir(parents=True), (tmp_path / "code").mkdir()
    (tmp_path / "stimuli/gentle/pieman").mkdir(parents=True)
    (tmp_path / "stimuli/gentle/pieman/align.csv").write_text(GENTLE, encoding="utf-8")
    rng, data = np.random.default_rng(0), {}
    for run in (1, 2):
        for h, side in (("L", "Left"), ("R", "Right")):
            data[run, h] = rng.normal(size=(20, 2562)).astype("f4")
            arrays = [nib.gifti.GiftiDataArray(v) for v in data[run, h]]
            meta = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{side}"})
            name = f"sub-001_task-pieman_run-{run}_space-fsaverage4_hemi-{h}_desc-clean.func.gii"
            nib.save(nib.gifti.GiftiImage(darrays=arrays, meta=meta), func / name)
        (tmp_path / f"sub-001/func/sub-001_task-pieman_run-{run}_events.tsv").write_text(
            "onset\tduration\ttrial_type\tstim_file\n2.0\t13\tmusic\tpieman_audio.wav\n17\t9\tstory\tpieman_audio.wav\n")
    return tmp_path, data


def test_narratives_begin_with_their_audio(story):
    root, data = story
    heard = narratives(root, space="fsaverage4", parcels=HALF)
    assert heard.data.shape == (40, 4) and heard.tr == 1.5 and heard.subjects == ["sub-001"]
    assert heard.passages[0].words == ["I", "began", "to", "Dwyer’s", "him"]  # the late one has no scan
    assert np.allclose(heard.onsets[1], [17.08, 17.17, 17.285, 17.4, 17.4])
    assert np.allclose(heard.data[20:, 2], data[2, "R"][:, :1281].mean(1), atol=1e-5)
    assert any("1 words weren't found" in n and "begins 2 s after" in n for n in heard.notes)
    found = check_data_folder(root)
    assert [r["name"] for r in found] == ["narratives"] and "in fsaverage4, not in fsaverage6" in found[0]["told"]
    (root / "code/scan_exclude.json").write_text(json.dumps({"pieman": {"sub-001": ["sub-001_task-pieman_run-2"]}}))
    assert len(narratives(root, space="fsaverage4", parcels=HALF).data) == 20


def test_what_is_wrong_in_narratives_is_said(story):
    root, _ = story
    with pytest.raises(InputError, match="in fsaverage4, not in fsaverage6"): narratives(root)
    with pytest.raises(InputError, match="task of sub-001 is 'lucy'"): narratives(root, "lucy", space="fsaverage4")
    with pytest.raises(MissingCorpusError, match="datalad"): narratives(root, subject="sub-002")
    align = root / "stimuli/gentle/pieman/align.csv"
    align.write_text("/annex/objects/MD5E-s27--ab.csv\n")
    with pytest.raises(MissingCorpusError, match="placeholder"): narratives(root, space="fsaverage4")
    align.write_text("a,a,1\n")
    with pytest.raises(InputError, match="line 1 must be"): gentle_words(align)
    align.write_text("a,a,one,2\n")
    with pytest.raises(DamagedFileError, match="align.csv"): gentle_words(align)
    align.write_text("a,,,\n")
    with pytest.raises(InputError, match="no word with a time"): gentle_words(align)
    next(root.rglob("*run-2*hemi-R*")).unlink()
    with pytest.raises(MissingCorpusError, match="run 2 of pieman lacks a hem"): narratives(root, space="fsaverage4")


@pytest.fixture
def book(tmp_path):
    func, rng = tmp_path / "derivatives/sub-EN057/func", np.random.default_rng(1)
    func.mkdir(parents=True), (tmp_path / "annotation/EN").mkdir(parents=True)
    data = {}
    for run in (2, 4, 6, 7, 8, 9, 10, 11, 15):  # numbers with gaps, and of one and two digits
        data[run] = rng.normal(size=(3, 3, 3, 8)).astype("f4")
        image = nib.Nifti1Image(data[run], np.diag([2, 2, 2, 1.0]))
        image.header.set_zooms((2, 2, 2, 2.0)), image.header.set_xyzt_units("mm", "sec")
        nib.save(image, func / f"sub-EN057_task-lppEN_run-{run:02d}_space-MNIColin27_desc-preproc_bold.nii.gz")
    said = (("Once", 0.1), (" ", 0.4), ("null", 1.5))
    rows = [f"{i},{w},{w},{t},{t + 0.2},{s}\n" for s in range(1, 10) for i, (w, t) in enumerate(said)]
    head = ",word,lemma,onset,offset,section\n"
    (tmp_path / "annotation/EN/lppEN_word_information.csv").write_text(head + "".join(rows))
    atlas = np.ones((3, 3, 3), np.int16)
    atlas[0] = 2
    nib.save(nib.Nifti1Image(atlas, np.diag([2, 2, 2, 1.0])), tmp_path / "atlas.nii.gz")
    return tmp_path, data


def test_sections_are_runs_in_their_order(book):
    root, data = book
    heard = petit_prince(root, sections=[9, 1], start=2.0)
    assert heard.data.shape == (16, 2) and heard.passages[0].words == ["Once", "null"]
    assert np.allclose(heard.onsets[0], [2.1, 3.5]) and "run-15" in heard.notes[2] and "run-02" in heard.notes[3]
    assert np.allclose(heard.data[:8, 0], data[15][1:].reshape(18, 8).mean(0), atol=1e-5)
    assert check_data_folder(root)[0]["right"]  # all nine
    assert "section 9" in heard.notes[2] and "1 rows without a word" in heard.notes[2]


def test_what_is_wrong_in_the_book_is_said(book):
    root, _ = book
    with pytest.raises(InputError, match="must be like sub-EN057"): petit_prince(root, "EN57")
    with pytest.raises(InputError, match="no section 10"): petit_prince(root, sections=[10])
    with pytest.raises(MissingCorpusError, match="has 0 runs, but there are nine"): petit_prince(root, "sub-FR001")
    table = root / "annotation/EN/lppEN_word_information.csv"
    with pytest.raises(InputError, match="no section 12"): section_words(table, 12)
    table.write_text("word,onset,section\na,1,1\n")
    with pytest.raises(InputError, match="lacks the column 'offset'"): petit_prince(root, sections=[1])
    (root / "atlas.nii.gz").unlink()
    with pytest.raises(InputError, match="give atlas= or mask="): petit_prince(root)

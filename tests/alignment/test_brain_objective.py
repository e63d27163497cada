"""A brain score that evolution can select on: the number that an alignment gives, and which data are refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from evonb.alignment.brain_objective import BrainScore, brain_scorer
from evonb.alignment.features import ReadConfig, read
from evonb.alignment.run import AlignConfig, align_run, set_up
from evonb.alignment.sources.toy_brain import toy_brain
from evonb.connectomes.scores import NEWBORN_SCORES, About, open_scores
from evonb.core import InputError, Seeds
from evonb.store import read_dataset
from evonb.text.tokens import train_tokenizer
from evonb.text.toy_english import toy_stream
from evonb.training.base import new_base, open_base, save_base
from evonb.training.gpt import GPTConfig, new_gpt

TOKENIZER = train_tokenizer([next(toy_stream(Seeds(1))) for _ in range(60)], 300)


def model(seed):
    return new_gpt(GPTConfig(vocab_size=300, n_layer=1, n_head=2, n_embd=8, block_size=128), Seeds(seed))


def test_the_number_is_that_of_an_alignment(tmp_path):
    brain, _ = toy_brain(Seeds(3), n_sentences=40, n_runs=2, n_subjects=1)
    save_base(model(0), TOKENIZER, tmp_path / "base")
    base = open_base(tmp_path / "base", "cpu")
    config = AlignConfig(str(tmp_path / "base"), "toy-brain", untrained=0, n_permutations=20)
    run = align_run(tmp_path / "run", config, show=False, device="cpu", data=brain, cache=tmp_path / "cache")
    scores = read_dataset(run.file("brain.zarr.zip"))
    assert BrainScore(brain)(base) == pytest.approx(float(scores.gain_best.mean()), abs=1e-6)
    assert float(np.ptp(scores.gain_fold.mean(("fold", "target")).values)) > 1e-4  # layers differ


def test_a_recording_is_scored_at_its_own_rhythm(tmp_path):
    "An MNE recording's delays, trimming and blocks are those of the alignment, row for row."
    mne = pytest.importorskip("mne", reason="EEG and MEG need the extra meg: pip install 'evonb[meg]'")
    from evonb.alignment.sources.sensors import sensor_responses

    rng, words = np.random.default_rng(0), "the cat that sat on a mat slept".split() * 14
    onsets = 1 + np.cumsum(rng.uniform(350, 800, len(words))) / 1000
    info = mne.create_info(["Fz", "Cz", "Pz"], 50.0, "eeg")
    raw = mne.io.RawArray(1e-5 * rng.standard_normal((3, int(50 * onsets[-1]) + 200)), info, verbose="ERROR")
    raw.set_montage("standard_1005").set_annotations(mne.Annotations(onsets, 0.2, words))
    raw.save(tmp_path / "story_raw.fif", verbose="ERROR")
    heard = sensor_responses(tmp_path / "story_raw.fif")
    save_base(model(0), TOKENIZER, tmp_path / "base")
    base, few = open_base(tmp_path / "base", "cpu"), dict(untrained=0, n_permutations=20, across=())
    config = AlignConfig(str(tmp_path / "base"), "mne", **few)
    score, there = BrainScore(heard), set_up(config, heard)
    assert score.of.config.delays == there.config.delays == tuple(range(16)) != AlignConfig().delays
    assert score.of.given["config"].trim == there.given["config"].trim == heard.pace["trim"]
    hidden = score.hidden(base).values[0]
    rows = score.of.layer_design(hidden)
    assert rows.shape == (len(heard.data), 16 * hidden.shape[1]) and np.array_equal(rows, there.layer_design(hidden))
    assert np.array_equal(score.of.given["confounds"], there.given["confounds"])
    run = align_run(tmp_path / "run", config, show=False, device="cpu", data=heard, cache=tmp_path / "cache")
    scores = read_dataset(run.file("brain.zarr.zip"))
    assert score(base) == pytest.approx(float(scores.gain_best.mean()), abs=1e-6)


def test_a_brain_made_of_a_models_own_layer_likes_it_best():
    bases = [new_base(model(s), TOKENIZER, "tiny") for s in range(3)]
    heard, _ = toy_brain(Seeds(0), kind="items", n_sentences=80, n_subjects=1)
    asked = ReadConfig(level="passage", layers="all")
    own = read(bases[1], heard.passages, asked, show=False).hidden.sel(layer=1).values
    score = BrainScore(toy_brain(Seeds(0), features=own, kind="items", n_sentences=80, n_subjects=1)[0])
    found = [score(b) for b in bases]
    assert np.argmax(found) == 1 and found[1] > 0.1 and [score(b) for b in bases] == found


def test_it_is_asked_by_name_and_only_of_brains(tmp_path):
    about = About("toy-english", seeds=Seeds(0))
    assert set(open_scores(["brain", "loss"], about)) == {"brain"}
    assert NEWBORN_SCORES.entry("brain").spelled == "brain:DATA"
    (tmp_path / "mine.json").write_text("[]")
    for data, said in (("toy-reading", "reading times.*reading:DATA"), ("nowhere.json", "no file"),
                       (str(tmp_path / "mine.json"), "must be like"), ("toy-brian", "toy-brain")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            open_scores([f"brain:{data}"], about)


def test_alice_is_what_other_corpora_are_asked_on(data_folder, monkeypatch):
    monkeypatch.setenv("EVONB_DATA", str(data_folder))
    score = brain_scorer("", SimpleNamespace(corpus="python-docs", seeds=Seeds(0)))
    assert score.of.raw.name == "alice" and score is brain_scorer("alice", About("text.txt"))

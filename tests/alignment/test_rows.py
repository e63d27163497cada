"""Rows that a model must beat: counts of a text, when a sample was taken, and what is said where a row isn't beaten."""

from dataclasses import replace

import numpy as np
import pytest

from evonb.alignment.encoding import RidgeConfig, encode
from evonb.alignment.reading import BehaviorConfig
from evonb.alignment.rows import (
    ROWS,
    fivegram_bits,
    flip,
    near_counts,
    static_vectors,
    strangeness,
    text_words,
    unigram_bits,
    when_taken,
    word_places,
    word_sizes,
)
from evonb.alignment.run import AlignConfig, Alignment, held_out_blocks, stand_in_counts
from evonb.alignment.scans import drifts
from evonb.alignment.sources.toy_brain import toy_brain
from evonb.alignment.verdicts import MUST_BEAT, alignment_statement, judge_arms, judge_rows, unbeaten
from evonb.core import InputError, Seeds
from evonb.text.ngrams import NGrams
from evonb.text.passages import join_words

TEXT = text_words("t", ["a b c a b", "b a c", "c c a d"] * 5)
HEARD = [join_words("one", "a b x".split()), join_words("two", "c".split())]


def test_rows_are_listed_and_each_says_what_it_stands_for():
    lines = ROWS.lines()
    assert {"autocorrelation", "position", "word-rate", "unigram", "bigram", "5-gram", "static-embeddings",
            "untrained", "signed_degree"} == set(lines) and all(lines.values())  # fmt: skip
    assert {n for n in ROWS if ROWS.entry(n).about.get("arm")} == {"untrained", "signed_degree"} <= set(MUST_BEAT)


def test_counts_of_a_text_are_those_of_a_plain_loop():
    words, counts = "a b c a b b a c c c a d".split() * 5, {}
    for w in words: counts[w] = counts.get(w, 0) + 1
    by_hand = [-np.log2((counts.get(w, 0) + 1) / (60 + 6)) for w in "abxc"]  # 4 words, the gap and what is unknown
    assert np.allclose(unigram_bits(HEARD, TEXT)[:, 0], by_hand)
    documents = [d.split() for d in ["a b c a b", "b a c", "c c a d"] * 5]
    near = sum((x == "a") * (y == "c") for d in documents for i, x in enumerate(d) for j, y in enumerate(d)
               if 0 < abs(i - j) <= 2)  # fmt: skip
    number = TEXT.numbers
    assert near_counts(TEXT, [number["a"]], [number["c"]], 2).tolist() == [[near]]
    grams = NGrams(TEXT.ids, TEXT.n_vocab, 5)
    p = grams.distribution((TEXT.gap, number["a"]))[number["b"]]  # as a document begins
    assert fivegram_bits(HEARD, TEXT)[1, 0] == pytest.approx(-np.log2(p))


def test_words_of_the_same_company_are_alike_and_unknown_ones_are_nothing():
    text = text_words("t", ["red cat runs", "red dog runs", "old man sleeps", "old boy sleeps"] * 9)
    V = static_vectors([join_words("p", "cat dog man zebra".split())], text)
    like = lambda a, b: V[a] @ V[b] / np.linalg.norm(V[a]) / np.linalg.norm(V[b])
    assert like(0, 1) > 0.99 and like(0, 2) < 0 and not V[3].any()
    assert static_vectors(HEARD, text_words("empty", [])) is None and fivegram_bits(HEARD, text_words("e", [])) is None
    assert np.allclose(strangeness(V, np.arange(1, 5))[1:3], [1 - like(0, 1), 1 - V[2] @ (V[0] + V[1]) / np.linalg.norm(V[2]) / np.linalg.norm(V[0] + V[1])])  # noqa: E501


def test_when_and_how_much_need_no_text():
    assert word_sizes(HEARD).tolist() == [[1, 1]] * 4 and word_places(HEARD)[:, 0].tolist() == [0, 0.5, 1, 0]
    X = when_taken(4, ["x", "x", "y", "y"], widths=(1.0,))
    assert X.shape == (4, 4) and X[0, 1] == pytest.approx(np.exp(-0.5)) and not X[:2, 2:].any()


@pytest.mark.parametrize("seed", [1, 2])
def test_shuffled_folds_let_autocorrelation_alone_match_a_language_model_and_contiguous_ones_do_not(seed):
    found = flip(Seeds(seed), n_samples=240, n_features=60, n_targets=6)
    assert found["shuffled"]["autocorrelation"] > found["shuffled"]["language model"] - 0.05 > 0.4
    assert all(abs(r) < 0.3 for r in found["contiguous"].values())


def test_an_arm_is_said_to_add_only_above_every_row():
    rng = np.random.default_rng(0)
    gain = dict(connectome=1 + 0.1 * rng.normal(size=(4, 20)), untrained=0.1 * rng.normal(size=(4, 20)))
    low, equal = 0.1 * rng.normal(size=20), gain["connectome"].mean(0) + 0.01 * rng.normal(size=20)
    def said(rows):
        versus, arms = judge_rows(gain, rows), judge_arms(gain)
        return alignment_statement("x", {a: v | dict(rows=versus.get(a, {})) for a, v in arms.items()}), versus
    beaten, versus = said(dict(autocorrelation=low))
    assert "explains more than the baseline and each of 2 rows" in beaten and set(versus) == {"connectome"}
    assert versus["connectome"]["autocorrelation"]["family"] == 2 and not unbeaten(versus["connectome"])
    failed, versus = said(dict(autocorrelation=low, position=equal))
    assert "isn't said to add" in failed and "that of position" in failed and "autocorrelation" not in failed
    assert unbeaten(versus["connectome"]) == ["position"]


def test_a_model_of_unknown_text_must_beat_counts_of_the_corpora_of_its_baseline(tmp_path):
    (tmp_path / "a.txt").write_text("one two\n\nthree four two")
    (tmp_path / "b.txt").write_text("two five")
    names = (str(tmp_path / "a.txt"), "training", str(tmp_path / "b.txt"), "wordfreq:de", str(tmp_path / "a.txt"))
    text = stand_in_counts(names, text_words)
    assert text.name.endswith("b.txt, as the models' own text isn't known") and text.counts[text.numbers["two"]] == 3
    assert stand_in_counts(("training", "wordfreq"), text_words) is None


def test_a_row_of_which_drifts_leave_nothing_is_not_blown_up():
    data, _ = toy_brain(Seeds(0), n_sentences=100, n_runs=1, n_subjects=2, n_rois=2)
    raw = replace(data, nuisance={"drift": drifts(len(data.data), data.tr, 1 / 128)}, as_is=("drift",))
    config = AlignConfig(ridge=RidgeConfig(alphas=(1.0, 1e3, 1e6)), behavior=BehaviorConfig(frequency=("training",)))
    rows = Alignment(None, config, raw.cleaned(), raw, []).row_scores()
    assert rows.row.values.tolist() == ["autocorrelation", "position", "word-rate"]
    assert rows.gain_fold.sel(row="position").min() > -1 and rows.training_text == "unknown"


# Drifts are taken out of each held-out block by itself ------------------------------------------------------------


@pytest.fixture(scope="module")
def noisy():
    "One long run of noise with neighbours alike, of which drifts are to be taken out."
    heard, _ = toy_brain(Seeds(0), n_sentences=150, n_runs=1, n_subjects=4, n_rois=10)
    rng, n = np.random.default_rng(0), len(heard.data)
    white = rng.normal(size=(n + 1, 40))
    slow = drifts(n, heard.tr, 1 / 100)
    return replace(heard, data=white[1:] + 0.6 * white[:-1] + 3 * slow @ rng.normal(size=(slow.shape[1], 40)),
                   nuisance={"drift": slow}, as_is=("drift",))  # fmt: skip


def autocorrelation_alone(raw, drifts, trim):
    config = AlignConfig(drifts=drifts, trim=trim, behavior=BehaviorConfig(frequency=("training",)))
    of = Alignment(None, config, raw.cleaned(held_out_blocks(config, raw)), raw, [])
    X = of.row_design("autocorrelation", None)
    return encode(X, of.data.data, **of.given | dict(config=replace(of.given["config"], scale=False))).r.values


@pytest.mark.parametrize("trim", [5, 25])
def test_knowing_only_when_a_scan_was_taken_tells_nothing_of_a_held_out_block(noisy, trim):
    r = autocorrelation_alone(noisy, "blocks", trim)
    assert abs(r.mean()) < 0.03
    assert autocorrelation_alone(noisy, "runs", trim).mean() > 0.06  # of a whole run, drifts tie the folds together


def test_each_block_is_filtered_by_itself(noisy):
    config = AlignConfig()
    blocks = held_out_blocks(config, noisy)
    clean = noisy.cleaned(blocks).data
    assert [b.start for b in blocks[1:]] == [b.stop for b in blocks[:-1]] and len(blocks) == config.ridge.n_folds
    assert (noisy.high_passed(noisy.drift(), blocks) ** 2).sum() < 0.15 * (noisy.drift() ** 2).sum()
    for b in blocks:
        other = noisy.data.copy()
        other[np.r_[: b.start, b.stop : len(other)]] = 7
        np.testing.assert_array_equal(replace(noisy, data=other).cleaned(blocks).data[b], clean[b])
        np.testing.assert_allclose(clean[b].mean(0), 0, atol=1e-6)


def test_where_folds_hold_out_whole_runs_a_block_is_a_run():
    heard, _ = toy_brain(Seeds(1), n_sentences=120, n_runs=5, n_subjects=2, n_rois=2)
    slow = np.concatenate([drifts(w.stop - w.start, heard.tr, 1 / 60) for _, w in heard.runs])
    raw = replace(heard, nuisance={"drift": slow}, as_is=("drift",))
    blocks = held_out_blocks(AlignConfig(), raw)
    assert blocks == [w for _, w in raw.runs]
    np.testing.assert_array_equal(raw.cleaned(blocks).data, raw.cleaned().data)


def test_a_block_that_would_hardly_be_left_is_refused(noisy):
    many = replace(noisy, nuisance={"drift": drifts(len(noisy.data), noisy.tr, 1 / 6)})
    with pytest.raises(InputError, match=r"A held-out block has 5\d samples, and \d+ drifts .* Ask for fewer folds"):
        many.cleaned(held_out_blocks(AlignConfig(), many))
    with pytest.raises(InputError, match="stories"):
        AlignConfig("m", "alice", drifts="stories").check()

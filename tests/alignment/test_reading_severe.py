"""Log times, spillover by the baseline alone, readers by default, curves against lines: references, known truth."""

import json
from dataclasses import replace

import numpy as np
import pytest

from evonb.alignment import curves as c
from evonb.alignment import reading as b
from evonb.alignment import reading_verdicts as v
from evonb.alignment.sources import toy_readers as toys
from evonb.core import InputError, Seeds
from evonb.statistics import crossed_mean, verdict
from evonb.text.corpora import Corpus

pytestmark = pytest.mark.numerics

PLAIN = b.BehaviorConfig(2, "plain", n_bootstrap=2, n_splits=2)
PASSAGES = toys.toy_passages(Seeds(7), 6, 60)


@pytest.fixture(scope="module")
def counts():
    return b.count_words(Corpus("toy", [" ".join(w for p in toys.toy_passages(Seeds(99)) for w in p.words)], ["toy"]))


@pytest.fixture(scope="module")
def toy():
    return toys.toy_reading(Seeds(5), toys.ToyReaders(n_readers=8), PASSAGES)


def timed(ms, noise=15, seed=0):
    return b.ReadingTimes("planted", PASSAGES, 300 + ms + Seeds(seed).numpy().normal(0, noise, 360))


def test_log_gains_are_those_of_least_squares_on_logs(toy, counts):
    reading, bits = replace(toy[0], readers=None), toy[1]["surprisal"]
    ds, raw = (b.behavior_scores(reading, bits, replace(PLAIN, outcome=o), counts) for o in ("log", "raw"))
    assert np.allclose(ds.gain_raw, raw.gain) and np.allclose(raw.gain_log, ds.gain)
    task = b.reading_task(reading, [bits], PLAIN, counts)
    logs, spill = np.log(reading.time[task.fitted]), b.lagged(bits, reading.position, 2)[task.fitted]
    def density(X, test):
        X = np.column_stack([np.ones(len(X)), X])
        beta, left, rank, _ = np.linalg.lstsq(X[~test], logs[~test], rcond=None)
        variance = left[0] / ((~test).sum() - rank)
        return -.5 * (np.log(2 * np.pi * variance) + (logs[test] - X[test] @ beta)**2 / variance)
    first = task.fold == 0
    by_hand = density(np.hstack([task.baseline, spill]), first) - density(task.baseline, first)
    assert ds.gain[0] == pytest.approx(by_hand.mean(), abs=1e-9)


def test_a_slope_of_log_times_is_ms_per_bit_at_the_middle(counts):
    bits = toys.toy_surprisal([w for p in PASSAGES for w in p.words], Seeds(3).numpy())
    times = 330 * np.exp(.01 * bits + .02 * Seeds(1).numpy().normal(size=360))
    ds = b.behavior_scores(b.ReadingTimes("e", PASSAGES, times), bits, replace(PLAIN, outcome="log"), counts)
    assert float(ds.effect[0]) == pytest.approx(.01 * np.exp(np.log(times).mean()), rel=.1)


def test_spillover_is_chosen_without_any_model_and_told(counts):
    size = np.nan_to_num(b.lagged([len(w) for p in PASSAGES for w in p.words], timed(0).position, 3))
    reading = timed(size @ [2, 6, 0, 8])
    bits = [Seeds(s).numpy().gamma(2, 2, 360) for s in range(2)]
    found = [b.score_models(reading, {"m": x}, replace(PLAIN, spillover="auto"), counts) for x in bits]
    assert [f.spillover for f in found] == [3, 3] and found[0].spillover_scores == found[1].spillover_scores
    assert "chosen once by the baseline alone" in v.reading_method(found[0])[-1] and found[0].sizes["predictor"] == 4
    scores = json.loads(found[0].spillover_scores)
    assert max(scores, key=scores.get) == "3" and len(scores) == 5


def test_sentences_of_a_few_words_try_fewer_words_of_spillover(counts):
    short = b.assemble("short", np.repeat(np.arange(60), 6), [f"w{i % 7}" for i in range(360)], timed(0).time)
    assert list(b.spillover_scores(short, replace(PLAIN, n_folds=5), counts)) == [0, 1]


def test_readers_are_the_default_where_they_are_given(toy, counts):
    config = b.BehaviorConfig(0, n_bootstrap=2, n_splits=2)
    ds = b.behavior_scores(toy[0], toy[1]["surprisal"], config, counts)
    assert ds.reading_model == "slopes" and ds.reader_slope.shape == ds.reader_gain.shape == (8,)
    assert (ds.slope_se > 0).all() and "single times of 8 people" in v.reading_method(ds)[0]
    means = b.behavior_scores(replace(toy[0], readers=None), toy[1]["surprisal"], config, counts)
    assert means.reading_model == "plain" and "reader_slope" not in means and np.isnan(means.slope_se[0])
    two = replace(toy[0], readers=toy[0].readers[:, :2])
    assert b.reading_model(two, "auto") == "plain"


def test_gains_of_readers_and_of_words_are_the_same_gain(toy, counts):
    ds = b.behavior_scores(toy[0], toy[1]["surprisal"], b.BehaviorConfig(0, n_bootstrap=2, n_splits=2), counts)
    times = np.isfinite(toy[0].readers[ds.fitted.values]).sum(0)
    assert (ds.reader_gain.values * times).sum() / times.sum() == pytest.approx(float(ds.gain_mean))


def test_residuals_are_times_less_held_out_predictions(toy, counts):
    ds = b.behavior_scores(replace(toy[0], readers=None), toy[1]["surprisal"], PLAIN, counts)
    words, base = ds.fitted.values, ds.residual_baseline.values[ds.fitted.values]
    assert np.isnan(ds.residual.values[~words]).all() and abs(base.mean()) < 1
    assert (ds.residual.values[words]**2).mean() < .95 * (base**2).mean()
    assert np.corrcoef(base - ds.residual.values[words], toy[1]["surprisal"][words])[0, 1] > .5


# Curves ----------------------------------------------------------------------------------------------------------

def test_bends_and_a_line_span_patsys_natural_splines():
    from patsy import dmatrix
    x = np.sort(Seeds(0).numpy().gamma(2, 2, 200))
    knots = c.curve_knots(x)
    theirs = np.asarray(dmatrix("cr(x, knots=k, lower_bound=a, upper_bound=z) - 1", dict(
        x=x[(x >= knots[0]) & (x <= knots[-1])], k=knots[1:-1], a=knots[0], z=knots[-1])))
    inside = x[(x >= knots[0]) & (x <= knots[-1])]
    ours = np.column_stack([np.ones(len(inside)), inside, c.bends(inside, knots)])
    assert np.linalg.matrix_rank(ours) == theirs.shape[1] == 4
    assert np.allclose(ours @ np.linalg.lstsq(ours, theirs, rcond=None)[0], theirs, atol=1e-8)


def test_a_line_is_hardly_ever_called_a_curve_and_a_square_always(counts):
    "Forty data sets of either kind: at most 5 % false alarms are allowed for; up to 5 of 40 are within chance (99 %)."
    words, said = [w for p in PASSAGES for w in p.words], {"line": 0, "square": 0}
    for seed in range(40):
        bits = toys.toy_surprisal(words, Seeds(seed).child("bits").numpy())
        for name, ms in dict(line=4 * bits, square=1.5 * bits**2).items():
            ds = c.curve_scores(timed(ms, seed=seed), {"m": bits}, replace(PLAIN, spillover=0), counts)
            found = crossed_mean(ds.curve_gain.values, ("seed", "story"), ("seed",))
            said[name] += verdict(found) == "higher"
    assert said["line"] <= 5 and said["square"] >= 36


def test_the_curve_is_the_planted_one_within_its_band(counts):
    bits = toys.toy_surprisal([w for p in PASSAGES for w in p.words], Seeds(2).numpy())
    def found(ms): return c.curve_scores(timed(ms), {"m": bits}, replace(PLAIN, spillover=0), counts).isel(model=0)
    line, square = found(4 * bits), found(1.5 * bits**2)
    true = 4 * (line.curve_bits - bits.mean())  # a curve is relative to the mean word
    assert ((line.curve_low < true) & (true < line.curve_high)).mean() > .8
    true = 1.5 * (square.curve_bits**2 - (bits**2).mean())
    assert abs(square.curve - true).max() < .1 * float(true.max())


def test_a_counter_of_tokens_has_no_curve(counts):
    bits = 15. * (1 + np.array(["." in w for p in PASSAGES for w in p.words]))
    ds = c.curve_scores(timed(0), {"m": bits}, PLAIN, counts)
    assert np.isnan(ds.curve_gain).all() and np.isnan(ds.curve).all()
    assert v.beside_statement("m", dict(gain=crossed_mean([[.1, .2]], fixed=("seed",)), curve=None)) == ""


# Bad input -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("times", "message"), [(0., "took 0 ms"), (-5., "took -5 ms"), (np.inf, "took inf ms")])
def test_times_that_no_reader_can_have_are_refused(toy, times, message):
    readers = toy[0].readers.copy()
    readers[3, 1] = times
    with pytest.raises(InputError, match=message): replace(toy[0], readers=readers)


@pytest.mark.parametrize(("n", "message"), [(None, "means over readers only"), (1, "has 1 reader,")])
def test_slopes_need_readers(toy, counts, n, message):
    reading = replace(toy[0], readers=None if n is None else toy[0].readers[:, :n])
    with pytest.raises(InputError, match=message):
        b.behavior_scores(reading, toy[1]["surprisal"], replace(PLAIN, model="slopes"), counts)


def test_other_bad_input_is_named(toy, counts):
    bits = toy[1]["surprisal"]
    with pytest.raises(InputError, match="longest story of toy-reading has 60 words"):
        b.behavior_scores(toy[0], bits, replace(PLAIN, spillover=60), counts)
    with pytest.raises(InputError, match="spillover"): b.BehaviorConfig(spillover="two")
    with pytest.raises(InputError, match="outcome"): b.BehaviorConfig(outcome="sqrt")
    with pytest.raises(InputError, match="has no logarithm"): b.outcome_times([300., 0.], "log")
    constant = b.ReadingTimes("constant", PASSAGES, np.full(360, 300.))
    with pytest.raises(InputError, match="times that vary"): b.behavior_scores(constant, bits, PLAIN, counts)

"""Figures of reading times: what is drawn equals what is stored; words are text; what isn't there is said."""

import numpy as np
import pytest
import xarray as xr

from evonb.core import InputError
from evonb.plots import NothingToPlot
from evonb.plots import reading as r

WORDS = ["<b>Evil</b>", "is", "'quoted'", "&", "read.", "It", "ends."]


@pytest.fixture
def scores():
    bits = np.array([3., 1, 2, 5, 4, 2, 6])
    left = np.array([np.nan, -20, 10, 0, 40, np.nan, -5.])
    grid = np.linspace(1, 6, 11)
    curve = np.stack([3 * (grid - 3.5), np.full(11, np.nan)])
    return xr.Dataset(
        dict(text=("word", WORDS), story_of_word=("word", ["one"] * 5 + ["two"] * 2), time=("word", 300 + bits),
             fitted=("word", np.isfinite(left)), surprisal=(("model", "word"), np.stack([bits, bits * 0 + 9])),
             residual_baseline=("word", 2 * left), residual=(("model", "word"), np.stack([left, 3 * left])),
             effect=(("model", "predictor"), [[3.], [np.nan]]), slope_se=(("model", "unit"), [[.5, .4], [np.nan] * 2]),
             reader_slope=(("model", "reader"), [[4., 2, 3], [np.nan] * 3]), curve=(("model", "point"), curve),
             curve_low=(("model", "point"), curve - 1), curve_high=(("model", "point"), curve + 1),
             curve_bits=(("model", "point"), np.stack([grid, grid]))),
        dict(model=["connectome/0", "untrained/0"], arm=("model", ["connectome", "untrained"]),
             seed=("model", [0, 0]), story=["one", "two"]))


def test_lines_are_what_is_left(scores):
    fig = r.residual_words(scores, "connectome/0", n_shown=3)
    base, model = fig.data
    assert np.array_equal(base.y, 2 * np.array(model.y), equal_nan=True) and model.y[1] == -20
    assert model.text[0] == "&lt;b&gt;Evil&lt;/b&gt;" and fig.layout.xaxis.range == (1.3, 4.7)
    assert "nearer to zero for 75 %" in fig.layout.title.subtitle.text  # 3 of 4: of one both leave nothing
    two = r.residual_words(scores, "untrained/0", "two")
    assert len(two.data[0].x) == 2 and two.data[1].y[1] == -15


def test_words_are_shaded_by_sign_and_size_and_stay_text(scores):
    shown = r.shaded_text(scores, "connectome/0")
    assert "<b>" not in shown and "&lt;b&gt;Evil" in shown and "title='+40 ms: 304 ms read, 4.0 bits'" in shown
    spans = shown.split("<p style")[1].split("<span ")[1:]
    assert "opacity" in spans[0] and "0,114,178" in spans[1] and "213,94,0" in spans[2]
    assert "of 5 words" in r.shaded_text(scores, "connectome/0", most=2)


def test_curves_have_the_slope_of_their_arm(scores):
    fig = r.surprisal_curves(scores, summary=dict(arms=dict(connectome=dict(curve=dict(mean=-.001)))))
    curve = next(d for d in fig.data if d.name == "connectome")
    assert np.allclose(curve.customdata, 3) and "connectome -0.0010" in fig.layout.title.subtitle.text
    assert not any(d.name == "untrained" for d in fig.data)


def test_readers_stand_in_their_order(scores):
    assert r.reader_slopes(scores, "connectome/0").data[0].y.tolist() == [2, 3, 4]


def test_what_isnt_there_is_said(scores):
    for draw in (lambda: r.surprisal_curves(scores, ["untrained"]), lambda: r.reader_slopes(scores, "untrained/0"),
                 lambda: r.reader_slopes(scores.drop_vars("reader_slope"), "connectome/0"),
                 lambda: r.surprisal_curves(scores.drop_vars("curve")),
                 lambda: r.shaded_text(scores.assign(residual=scores.residual * np.nan), "connectome/0"),
                 lambda: r.residual_words(scores.drop_vars("residual_baseline"), "connectome/0")):
        with pytest.raises(NothingToPlot): draw()
    for draw in (lambda: r.residual_words(scores, "nobody/0"),
                 lambda: r.residual_words(scores, "connectome/0", "three"),
                 lambda: r.residual_words(scores, "connectome/0", n_shown=0),
                 lambda: r.surprisal_curves(scores, ["nobody"])):
        with pytest.raises(InputError): draw()

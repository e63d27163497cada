"""Figures of wirings' statistics: what they show is what the dataset says, and what wasn't drawn is refused."""

import numpy as np
import pytest

from evonb.connectomes.statistics import judge_wiring, wiring_statistics
from evonb.connectomes.wiring import prune
from evonb.core import InputError, Seeds
from evonb.plots.style import NothingToPlot
from evonb.plots.wiring import (
    mean_over_places,
    one_generation,
    told_number,
    wiring_generations,
    wiring_map,
    wiring_strip,
)
from evonb.training.gpt import GPTConfig, new_gpt

NULLS = ("random", "sign_shuffled")


@pytest.fixture(scope="module")
def found():
    first = prune(new_gpt(GPTConfig(vocab_size=24, n_layer=1, n_head=2, n_embd=16, block_size=8), Seeds(0)), 0.5)
    return wiring_statistics({0: first, 1: prune(new_gpt(
        GPTConfig(vocab_size=24, n_layer=1, n_head=2, n_embd=16, block_size=8), Seeds(0)), 0.4, first)},
        NULLS, 5, show=False)  # fmt: skip


def test_the_map_shows_z_and_marks_what_is_clear(found):
    peculiar = found.copy(deep=True)
    at = dict(statistic="balance", place="wte", generation=1, null="random")
    peculiar.q.loc[at], peculiar.z.loc[at] = 0.01, 100.0
    fig = wiring_map(peculiar, "random")
    cells, dots = fig.data[0], fig.data[1]
    i, j = list(cells.y).index("balance"), list(cells.x).index("wte")
    assert cells.z[i][j] == cells.zmax == 8 and list(dots.y) == ["balance"] and list(dots.x) == ["wte"]
    assert "q 0.01" in cells.text[i][j] and "generation 1, 5 wirings" in fig.layout.title.subtitle.text
    z = found.z.sel(null="random", generation=1).transpose("statistic", "place").values
    np.testing.assert_allclose(np.asarray(wiring_map(found).data[0].z, float), np.clip(z, -8, 8))
    assert "kept by the control" in wiring_map(found).data[0].text[0][0]  # density
    assert wiring_map(found, "sign_shuffled", 0).layout.title.subtitle.text.startswith("generation 0")


def test_a_strip_has_the_wiring_and_every_control(found):
    fig = wiring_strip(found, "gini_in", 0)
    names = [t.name for t in fig.data]
    assert names == ["random", "sign-shuffled", "the wiring"]
    at = found.sel(statistic="gini_in", generation=0)
    np.testing.assert_allclose(fig.data[-1].x, at.value.values[np.isfinite(at.value.values)])
    low, mean = (at[k].sel(null="random").values for k in ("null_low", "null_mean"))
    np.testing.assert_allclose(fig.data[0].error_x.arrayminus, (mean - low)[np.isfinite(at.value.values)])
    assert list(fig.layout.yaxis.ticktext) == [str(p) for p in at.place.values[np.isfinite(at.value.values)]]


def test_generations_show_the_mean_over_places(found):
    value, bands = mean_over_places(found, "self_feedback")
    loops = found.kind.values == "loop"
    at = found.value.sel(statistic="self_feedback").transpose("generation", "place").values[:, loops]
    np.testing.assert_allclose(value, np.nanmean(at, 1))
    draws = found.null_value.sel(statistic="self_feedback", null="random").transpose("draw", "generation", "place")
    np.testing.assert_allclose(bands["random"][:, 1], np.nanmean(draws.values[..., loops], -1).mean(0))
    one = found.value.sel(statistic="self_feedback", place="h.0.mlp")
    np.testing.assert_allclose(mean_over_places(found, "self_feedback", "mlp")[0], one)
    some = wiring_generations(found, ("balance", "balance none", "self_feedback mlp"))
    assert [a.text for a in some.layout.annotations] == ["balance", "self_feedback, mlp"]
    np.testing.assert_allclose(mean_over_places(found, "path_length")[0], found.value.sel(
        statistic="path_length", place="all"))  # fmt: skip
    fig = wiring_generations(found, ("self_feedback", "gini_in", "modularity"), ("random",))
    lines = [t for t in fig.data if t.name == "the wiring"]
    np.testing.assert_allclose(lines[0].y, value)
    assert len(lines) == 3 and {t.xaxis for t in lines} == {"x", "x2", "x3"}
    assert [t.xaxis for t in fig.data if t.fill] == ["x", "x2", "x3"]
    assert sum(bool(t.showlegend) for t in fig.data) == 2


def test_generations_without_draws_have_no_band(found):
    half = found.copy(deep=True)
    half.null_value.loc[dict(generation=0)] = np.nan
    half = judge_wiring(half)
    assert np.isnan(mean_over_places(half, "balance")[1]["random"][0]).all()
    assert one_generation(half, "random").generation == 1
    with pytest.raises(NothingToPlot, match="generation 0"): wiring_map(half, generation=0)
    half.null_value[:] = np.nan
    with pytest.raises(NothingToPlot, match="No wiring of a control"): wiring_map(judge_wiring(half))


@pytest.mark.parametrize("draw,told", [
    (lambda f: wiring_map(f, "nobody"), "null is 'nobody'"), (lambda f: wiring_map(f, generation=9), "generation is 9"),
    (lambda f: wiring_strip(f, "nothing"), "statistic is 'nothing'"), (lambda f: wiring_generations(f, ()), "is empty"),
    (lambda f: wiring_generations(f, ("x",)), "statistic is 'x'"),
    (lambda f: wiring_generations(f, ("balance nowhere",)), "nothing of which balance nowhere"),
    (lambda f: wiring_generations(f, nulls=("dense",)), "null is 'dense'"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(draw, told, found):
    with pytest.raises(InputError, match=told): draw(found)


def test_names_of_others_are_text(found):
    odd = found.assign_coords(place=["<b>" + str(p) for p in found.place.values])
    assert all("&lt;b&gt;" in x for x in wiring_map(odd).data[0].x)
    assert told_number(float("nan")) == "–" and told_number(0.12345) == "0.123"

"""Figures of alignment against independently computed numbers: scores, intervals, nulls, ceilings, maps, times."""

import base64
import itertools
import json

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from evonb.alignment.verdicts import judge_arms
from evonb.core import InputError, Seeds
from evonb.plots import alignment as ap
from evonb.plots import examples
from evonb.plots.style import NothingToPlot, arm_style

ARMS = ["connectome", "random", "dense", "smollm2"]
EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def cortex(brain):
    return ap.brain_map(brain, arm="dense")


def named(fig, name):
    return next(t for t in fig.data if t.name == name)


def captions(fig):
    return fig.layout.title.subtitle.text


def by_person(brain, v):
    "(n_seeds, ..., n_people) of scores whose last axis is targets."
    return np.stack([v[..., brain.subject.values == s].mean(-1) for s in np.unique(brain.subject.values)], -1)


def half_width(table):
    "Half of the widest t interval: over seeds, over people, and over both by Satterthwaite's degrees of freedom."
    sides = [(stats.sem(table.mean(1 - axis)), n - 1) for axis, n in enumerate(table.shape) if n > 1]
    if len(sides) > 1:
        v, f = np.array([s[0] ** 2 for s in sides]), np.array([s[1] for s in sides])
        sides.append((v.sum() ** 0.5, v.sum() ** 2 / (v**2 / f).sum()))
    return max(stats.t.ppf(.975, df) * se for se, df in sides)


def array(v):
    "A trace's values as plotly writes them into JSON."
    v = json.loads(json.dumps(v)) if not isinstance(v, dict) else v
    return np.frombuffer(base64.b64decode(v["bdata"]), v["dtype"]) if isinstance(v, dict) else np.array(v, float)


def arm_rows(brain, value, arm):
    "(n_seeds, n_layers, n_targets) of an arm, up to its last layer."
    v = brain[value].values[brain.arm.values == arm]
    return v[:, ~np.isnan(v).all((0, 2))]


def test_examples_repeat_bit_for_bit_and_differ_by_seed():
    for make in (examples.example_brain, examples.example_reading):
        xr.testing.assert_identical(make(Seeds(5)), make(Seeds(5)))
        assert not make(Seeds(5)).equals(make(Seeds(6)))


def test_figures_repeat_bit_for_bit(brain, reading):
    makers = [lambda: ap.layer_scores(brain), lambda: ap.arm_scores(brain), lambda: ap.roi_scores(brain),
              lambda: ap.reading_fit(reading, "dense/0"), lambda: ap.reading_arms(reading)]
    for make in makers:
        assert make().to_json() == make().to_json()


def test_every_figure_has_a_title_units_and_a_see_through_page(brain, reading, cortex):
    flat = [ap.layer_scores(brain), ap.arm_scores(brain), ap.roi_scores(brain), ap.reading_fit(reading, "smollm2"),
            ap.reading_arms(reading), ap.null_calibration(np.linspace(0, 1, 50))]
    for fig in [*flat, cortex]:
        assert fig.layout.title.text and captions(fig) and fig.layout.height
        assert fig.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"
        assert all(len(line) <= 62 for line in captions(fig).split("<br>")), captions(fig)
    for fig in flat:
        assert fig.layout.xaxis.title.text
    units = [flat[0].layout.yaxis, flat[1].layout.xaxis, flat[3].layout.xaxis, flat[3].layout.yaxis]
    assert [a.title.text for a in units] == ["Pearson r (cross-validated)", "ΔR² beyond nuisances", "surprisal (bits)",
                                            "reading time (ms)"]
    assert flat[0].layout.xaxis.title.text == "layer (0 = embeddings)"


# Score by layer

@pytest.mark.parametrize("value", ["r", "gain"])
def test_lines_are_means_over_targets_and_seeds(brain, value):
    fig = ap.layer_scores(brain, value)
    lines = [t for t in fig.data if t.mode == "lines+markers"]
    assert [t.name for t in lines] == ARMS
    for t in lines:
        v = arm_rows(brain, value, t.name)
        assert np.allclose(t.y, v.mean((0, 2))) and list(t.x) == list(range(v.shape[1]))
        assert (t.line.color, t.line.dash, t.marker.symbol) == arm_style(t.name)
    assert len(named(fig, "smollm2").x) == 9 and len(named(fig, "dense").x) == 5


def test_band_over_people_is_their_t_interval(brain):
    fig = ap.layer_scores(brain, "gain", over="subjects")
    band = next(t for t in fig.data if t.fill == "toself" and t.legendgroup == "random")
    people = np.stack([arm_rows(brain, "gain", "random")[..., brain.subject.values == s].mean((0, 2))
                       for s in np.unique(brain.subject.values)])
    low, high = stats.t.interval(.95, 7, people.mean(0), stats.sem(people))
    assert np.allclose(band.y, [*high, *low[::-1]])
    assert np.allclose(named(fig, "random").customdata, np.stack([low, high], -1)) and "8 people" in captions(fig)


def test_band_is_over_seeds_and_people_whichever_is_wider(brain):
    fig = ap.layer_scores(brain, "gain")
    tables = by_person(brain, arm_rows(brain, "gain", "random")).transpose(1, 0, 2)  # (n_layers, n_seeds, n_people)
    ends = np.array(named(fig, "random").customdata)
    assert np.allclose(np.diff(ends)[:, 0] / 2, [half_width(t) for t in tables])
    assert "models and 8 people" in captions(fig)


def test_one_person_has_intervals_over_seeds_and_folds(brain):
    alone = brain.isel(target=brain.subject.values == "S01")
    folds = alone.gain + .01 * xr.DataArray(np.random.default_rng(0).normal(size=5), dims="fold")
    one = alone.assign(gain_fold=folds.transpose("model", "layer", "fold", "target"))
    fig = ap.layer_scores(one, "gain")
    v = one.gain_fold.values[one.arm.values == "random"][:, 2].mean(-1)  # (n_seeds, n_folds)
    assert np.diff(named(fig, "random").customdata[2])[0] / 2 == pytest.approx(half_width(v))
    assert "models and 5 folds" in captions(fig)
    seeds = alone.gain_best.values[one.arm.values == "random"].mean(1)
    t = named(ap.arm_scores(alone, "gain"), "random")  # without the folds' scores: over seeds
    assert t.error_x.array[0] == pytest.approx(stats.t.ppf(.975, 2) * stats.sem(seeds))


def test_band_over_seeds_is_their_sd_and_one_seed_has_none(brain):
    fig = ap.layer_scores(brain, "r", over="seeds")
    bands = {t.legendgroup: t for t in fig.data if t.fill == "toself"}
    seeds = arm_rows(brain, "r", "dense").mean(2)
    assert np.allclose(bands["dense"].y[:5], seeds.mean(0) + seeds.std(0, ddof=1))
    assert "smollm2" not in bands and "± 1 sd over seeds" in captions(fig)


def test_null_band_is_the_widest_of_all_models(brain):
    band = named(ap.layer_scores(brain, "r"), "null, 95 %")
    high, low = np.nanmax(brain.null_high.values, 0), np.nanmin(brain.null_low.values, 0)
    assert np.allclose(band.y, [*high, *low[::-1]]) and band.fillpattern.shape == "/"
    assert len(high) == 9 and np.isnan(brain.null_high.values[0, 5:]).all() # the shorter models end before


def test_ceiling_is_the_mean_of_the_known_ones_and_says_how_many(brain):
    fig = ap.layer_scores(brain, "r")
    assert np.allclose(named(fig, "noise ceiling").y, np.nanmean(brain.ceiling.values))
    assert "noise ceiling (40 of 48 targets)" in captions(fig)
    assert "ceiling" not in captions(ap.layer_scores(brain, "r", "LIFG"))
    unknown = ap.layer_scores(brain, "r", "RATL")
    assert "noise ceiling unknown" in captions(unknown) and "noise ceiling" not in [t.name for t in unknown.data]


def test_what_is_left_beyond_the_nuisances_is_the_ceiling_of_a_gain(brain):
    left = np.nanmean(brain.ceiling.values**2 - brain.r2_confounds.values)
    assert np.allclose(named(ap.layer_scores(brain, "gain"), "ceiling² − nuisances").y, left)
    worse = brain.assign(r2_confounds=brain.r2_confounds - 1) # nuisances that explain less than nothing
    assert np.allclose(named(ap.layer_scores(worse, "gain"), "ceiling² − nuisances").y, np.nanmean(brain.ceiling**2))


def test_a_far_ceiling_is_a_number_in_the_caption(brain):
    fig = ap.layer_scores(brain.assign(gain=brain.gain / 100), "gain")
    left = np.nanmean(brain.ceiling.values**2 - brain.r2_confounds.values)
    assert not [t for t in fig.data if t.name and "ceiling" in t.name] and f"is {left:.3g}, above" in captions(fig)


def test_nuisances_alone_are_a_line_of_r_and_zero_of_the_gain(brain):
    assert np.allclose(named(ap.layer_scores(brain, "r"), "nuisances alone").y, brain.r_confounds.values.mean())
    assert "nuisances alone" not in [t.name for t in ap.layer_scores(brain, "gain").data]


def test_one_region_has_its_own_targets_and_no_null_of_all(brain):
    fig = ap.layer_scores(brain, "r", "LIFG")
    v = arm_rows(brain, "r", "random")[..., brain.roi.values == "LIFG"]
    assert np.allclose(named(fig, "random").y, v.mean((0, 2))) and "LIFG" in fig.layout.title.text
    assert "null, 95 %" not in [t.name for t in fig.data] and "no null" in captions(fig)


def test_without_null_and_ceiling_the_figure_says_so(brain):
    bare = brain.drop_vars(["ceiling", "null_low", "null_high", "null_mean", "r_confounds", "r2_confounds"])
    for value in ("r", "gain"):
        fig = ap.layer_scores(bare.drop_vars(["gain_null_low", "gain_null_high"]), value)
        assert "noise ceiling unknown" in captions(fig) and "no null" in captions(fig)


def test_a_null_of_nan_is_no_null(brain):
    gone = {k: brain[k] * np.nan for k in ("null_low", "null_high")}
    assert "no null" in captions(ap.layer_scores(brain.assign(gone), "r"))


def test_bands_of_one_arm_and_the_one_that_it_must_beat(brain):
    fig = ap.layer_scores(brain, "gain", arm="connectome")
    bands = {t.legendgroup: t.visible for t in fig.data if t.fill == "toself" and t.legendgroup != "null"}
    assert bands["connectome"] and bands["smollm2"] and not bands["dense"] and not bands["random"]
    assert fig.layout.meta["rivals"] == [3, 3, 3, 2]  # smollm2, and of that dense
    assert [t.line.width for t in fig.data if t.meta == "connectome"] == [3.5]
    with pytest.raises(InputError, match="arm is 'rewired', but must be one of"):
        ap.layer_scores(brain, "gain", arm="rewired")


@pytest.mark.parametrize("seed", range(20))
def test_places_are_kept_apart_as_isotonic_regression_does(seed):
    from scipy.optimize import isotonic_regression

    rng = np.random.default_rng(seed)
    at = 50 * rng.normal(size=rng.integers(1, 30))
    order, steps = np.argsort(at, kind="stable"), 14 * np.arange(len(at))
    moved = ap.kept_apart(at, 14)
    assert np.allclose(moved[order], isotonic_regression(at[order] - steps).x + steps)
    assert np.diff(np.sort(moved)).min(initial=14) >= 14 - 1e-9 and not len(ap.kept_apart([], 14))


def test_lines_are_named_at_their_ends_and_no_name_hides_another(brain):
    fig = ap.layer_scores(brain, "gain")
    names = {a.text.split("</span> ")[1]: a for a in fig.layout.annotations}
    assert set(names) == {*ARMS, "ceiling² − nuisances", "null, 95 %"} and fig.layout.showlegend is False
    for arm in ARMS:
        line = named(fig, arm)
        assert names[arm].x == line.x[-1] and names[arm].y == line.y[-1]
    low, high = fig.layout.yaxis.range
    px = sorted((a.y - low) / (high - low) * 330 + a.yshift for a in names.values() if a.x == 4)
    assert np.diff(px).min() >= 15 - 1e-6


def test_half_a_scale_keeps_each_colour():
    whole = ap.colour_scale([-0.2, 0.1])
    assert ap.half_scale(whole, [0.1, -0.1]) == whole
    half = ap.half_scale(whole, [0.1, np.nan])
    assert (half.low, half.high) == (0, 0.2) and half.colours == ((0, "#FFF0B3"), (0.5, "#EFA26B"), (1, "#D55E00"))


# Arms and regions

def test_arms_stand_by_score_with_intervals_seeds_and_null(brain):
    fig = ap.arm_scores(brain, "gain")
    rows = [t for t in fig.data if t.name]
    best = {a: brain.gain_best.values[brain.arm.values == a] for a in ARMS}
    order = sorted(ARMS, key=lambda a: -best[a].mean())
    assert [t.name for t in rows] == order and list(fig.layout.yaxis.ticktext) == order[::-1]
    for t in rows:
        assert t.x[0] == pytest.approx(best[t.name].mean())
        told = judge_arms({a: by_person(brain, v) for a, v in best.items()})[t.name]["gain"]  # as the sentence has it
        assert t.error_x.array[0] == pytest.approx(told["high"] - told["mean"]) and told["family"] == 6
        points = next(p for p in fig.data if p.marker.symbol == f"{t.marker.symbol}-open")
        assert np.allclose(points.x, best[t.name].mean(1))
    null = next(t for t in fig.data if t.mode == "lines")
    top = brain.arm.values == order[0]
    assert null.x == (np.nanmin(brain.gain_null_low.values[top]), np.nanmax(brain.gain_null_high.values[top]))
    assert "other folds" in captions(fig) and "8 people" in captions(fig)


def test_differences_are_those_of_the_verdicts(brain):
    fig = ap.arm_scores(brain, "gain")
    told = judge_arms({a: by_person(brain, brain.gain_best.values[brain.arm.values == a]) for a in ARMS})
    d = told["random"]["difference"]
    said = f"{d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}], p = {d['p_adjusted']:.2g}"
    texts = [a.text for a in fig.layout.annotations if a.visible is not False]
    assert said in texts and len(texts) == 3 and "minus connectome; p by Holm, 6 tests" in captions(fig)
    assert f"{told['smollm2']['difference']['mean']:+.4f}" in texts  # one model: no test, no interval
    for none in (dict(versus=None), dict(layer=2), dict(over="subjects")):
        assert "minus" not in captions(ap.arm_scores(brain, "gain", **none))


def test_one_layer_of_all_models(brain):
    fig = ap.arm_scores(brain, "r", layer=2, over="seeds")
    v = brain.r.sel(layer=2).values.mean(1)[brain.arm.values == "dense"]
    assert named(fig, "dense").x[0] == pytest.approx(v.mean())
    assert named(fig, "dense").error_x.array[0] == pytest.approx(stats.t.ppf(.975, 2) * stats.sem(v))
    assert named(fig, "smollm2").error_x.array is None and "layer 2" in captions(fig) # one seed: no interval
    assert [t.name for t in ap.arm_scores(brain, "r", layer=8).data if t.name] == ["smollm2"]


def test_a_summary_gives_the_intervals_and_differences(brain):
    arms = {a: dict(gain=dict(mean=.1 + i / 100, low=.05, high=.2), difference=dict(mean=.01, low=0., high=.02, p=.03))
            for i, a in enumerate(ARMS)}
    arms["connectome"]["difference"] = None
    fig = ap.arm_scores(brain, "gain", summary=dict(arms=arms, reference="connectome"))
    assert named(fig, "dense").x[0] == pytest.approx(.12) and named(fig, "dense").error_x.array[0] == pytest.approx(.08)
    assert "+0.0100 [+0.0000, +0.0200], p = 0.03" in [a.text for a in fig.layout.annotations]
    assert "models and 8 people" in captions(fig)
    arms["dense"]["gain"] |= dict(low=None, high=None)  # one story, one person
    assert named(ap.arm_scores(brain, summary=dict(arms=arms, reference="connectome")), "dense").error_x.array is None
    with pytest.raises(InputError, match="dense.*another run"):
        ap.arm_scores(brain, summary=dict(arms={k: v for k, v in arms.items() if k != "dense"}, reference="connectome"))
    with pytest.raises(InputError, match="leave out layer and roi"):
        ap.arm_scores(brain, layer=1, summary=dict(arms=arms, reference="connectome"))


def test_regions_have_their_scores_ceilings_and_intervals(brain):
    fig = ap.roi_scores(brain, "r")
    regions = list(examples.example_regions)
    assert list(fig.layout.yaxis.ticktext) == regions
    for a, (i, r) in itertools.product(ARMS, enumerate(regions)):
        v = brain.r_best.values[brain.arm.values == a][:, brain.roi.values == r]
        t = named(fig, a)
        assert t.x[i] == pytest.approx(v.mean()) and round(t.y[i]) == i
        assert t.error_x.array[i] == pytest.approx(half_width(v))  # a target a person
    ceilings = np.array(named(fig, "noise ceiling").x)[::3]
    assert np.allclose(ceilings, [brain.ceiling.values[brain.roi.values == r].mean() for r in regions], equal_nan=True)
    assert "no ceiling known: RATL" in captions(fig)


# Bad input

@pytest.mark.parametrize("make", [ap.layer_scores, ap.arm_scores, ap.roi_scores])
def test_unknown_measures_are_refused_by_name(brain, make):
    with pytest.raises(InputError, match="value is 'r2', but must be one of: r, gain"):
        make(brain, "r2")
    with pytest.raises(InputError, match="over is 'people', but must be one of: auto, subjects, seeds"):
        make(brain, over="people")


def test_unknown_regions_layers_models_and_arms_are_refused_by_name(brain, reading):
    for make in (ap.layer_scores, ap.arm_scores):
        with pytest.raises(InputError, match="roi is 'V1', but must be one of: LATL, RATL"):
            make(brain, roi="V1")
    for make in (ap.arm_scores, ap.roi_scores, lambda b, layer: ap.brain_map(b, arm="dense", layer=layer)):
        with pytest.raises(InputError, match="layer is 12, but must be one of: best, 0, 1.*8"):
            make(brain, layer=12)
    with pytest.raises(InputError, match="model is 'gpt9', but must be one of: connectome/0"):
        ap.brain_map(brain, "gpt9")
    with pytest.raises(InputError, match="arm is 'gpt9', but must be one of: connectome, random"):
        ap.brain_map(brain, arm="gpt9")
    with pytest.raises(InputError, match="model is 'gpt9', but must be one of"):
        ap.reading_fit(reading, "gpt9")
    with pytest.raises(InputError, match="value is 'r', but must be one of: gain, pearson, spearman"):
        ap.reading_arms(reading, "r")
    for given in (dict(), dict(model="dense/0", arm="dense")):
        with pytest.raises(InputError, match="one of model and arm"):
            ap.brain_map(brain, **given)


def test_nothing_to_plot_is_said(brain, reading):
    with pytest.raises(NothingToPlot, match="no variable 'gain'"):
        ap.layer_scores(brain.drop_vars("gain"), "gain")
    with pytest.raises(NothingToPlot, match="no finite value"):
        ap.layer_scores(brain.assign(r=brain.r * np.nan))
    with pytest.raises(NothingToPlot, match="no variable 'gain_best'"):
        ap.arm_scores(brain.drop_vars("gain_best"))
    with pytest.raises(NothingToPlot, match="two or more; the dataset has 1"):
        ap.layer_scores(brain.isel(target=[0, 8]), over="subjects")
    with pytest.raises(NothingToPlot, match="dense holds no finite gain at layer 7"):
        ap.brain_map(brain, arm="dense", layer=7)
    with pytest.raises(NothingToPlot, match="coordinates"):
        ap.brain_map(brain.assign_coords(x=brain.x * np.nan), arm="dense")
    with pytest.raises(NothingToPlot, match="only 0 words"):
        ap.reading_fit(reading.assign(used=("word", np.zeros(reading.sizes["word"], bool))), "smollm2")


def test_names_are_escaped(brain, reading):
    evil = brain.assign_coords(arm=("model", [EVIL] * 10), roi=("target", [EVIL] * 48),
                               model=[EVIL + str(i) for i in range(10)])
    words = reading.assign_coords(arm=("model", [EVIL] * 10), model=evil.model.values)
    words = words.assign(text=("word", [EVIL] * reading.sizes["word"]))
    flat = evil.assign_coords({k: ("target", np.full(48, float(v))) for k, v in zip("xyz", (-50, 22, 14))})
    for fig in (ap.layer_scores(evil, roi=EVIL), ap.arm_scores(evil, roi=EVIL), ap.roi_scores(evil),
                ap.winner_tiles(evil), ap.runs_compared(evil, evil, names=(EVIL, EVIL)),
                ap.reading_fit(words, EVIL + "0"), ap.reading_arms(words),
                ap.brain_map(flat, EVIL + "0", views=("lateral",))):
        text = fig.to_json().replace("\\u003c", "<")
        assert "&lt;script" in text
        drawn = json.loads(fig.to_json())
        for t in drawn["data"]:
            for never_shown in ("legendgroup", "meta", "customdata"):
                t.pop(never_shown, None)
        assert "<script" not in json.dumps(drawn)


# Maps

def test_map_is_small_and_typed(cortex):
    assert len(cortex.to_json()) < 2e6
    meshes = json.loads(cortex.to_json())["data"]
    assert {m["type"] for m in meshes} == {"mesh3d"} and len({m["scene"] for m in meshes}) == 4
    for m in meshes:
        assert m["x"]["dtype"] == "f4" and m["i"]["dtype"] == "u2"
        assert max(array(m[k]).max() for k in "ijk") == len(array(m["x"])) - 1 # no vertex more than is needed


def test_map_has_each_regions_mean_and_says_where_it_is_not_measured(brain, cortex):
    coloured = [t for t in cortex.data if t.coloraxis]
    values = np.unique(np.concatenate([np.asarray(t.intensity) for t in coloured]))
    v = brain.gain_best.values[brain.arm.values == "dense"].mean(0)
    regions = examples.example_regions
    assert np.allclose(values, np.sort([v[brain.roi.values == r].mean() for r in regions]), atol=1e-6)
    assert {t.split("<br>")[0] for c in coloured for t in c.text} == {f"{r}, 8 people" for r in regions}
    assert "illustrative positions" in captions(cortex)
    measured = ap.brain_map(brain.assign_attrs(illustrative=0), arm="dense", views=("lateral",))
    assert "illustrative" not in captions(measured)


def test_map_shades_folds_and_colours_on_one_even_scale(cortex):
    assert cortex.layout.coloraxis.colorbar.title.text.startswith("ΔR² beyond nuisances")
    assert cortex.layout.coloraxis.cmin == 0
    grey, coloured = cortex.data[0], next(t for t in cortex.data if t.coloraxis)
    assert np.ptp(np.asarray(grey.intensity, float)) > 100 and grey.hoverinfo == "skip"
    assert coloured.lighting.ambient == 1 and coloured.lighting.diffuse == 0 # the colour bar's colours, unshaded
    scale = [np.array([int(c[i:i + 2], 16) for i in (1, 3, 5)]) / 255 for c in
             [s[1] for s in cortex.layout.coloraxis.colorscale]]
    light = [np.where(c <= .04045, c / 12.92, ((c + .055) / 1.055)**2.4) @ [.2126, .7152, .0722] for c in scale]
    assert (np.diff(light) > 0).all() # perceptually ordered


def test_left_is_left(brain):
    fig = ap.brain_map(brain.isel(target=brain.roi.values == "RATL"), arm="dense", views=("lateral",))
    coloured = [t for t in fig.data if t.coloraxis]
    assert [t.scene for t in coloured] == ["scene2"] and np.asarray(coloured[0].x).min() > 0
    assert fig.layout.scene.camera.eye.x < 0 < fig.layout.scene2.camera.eye.x
    assert [a.text for a in fig.layout.annotations] == ["left, lateral", "right, lateral"]


def test_map_names_regions_without_a_place_or_off_the_surface(brain):
    where = np.where(brain.roi.values == "LIFG", np.nan, brain.x.values)
    deep = {k: np.where(brain.roi.values == "LIPL", v, brain[k].values) for k, v in zip("yz", (-20., 10.))}
    x = np.where(brain.roi.values == "LIPL", -12., where) # in the thalamus
    moved = brain.assign_coords(x=("target", x), **{k: ("target", v) for k, v in deep.items()})
    fig = ap.brain_map(moved, arm="dense", radius=3, views=("lateral",))
    assert "no position: LIFG" in captions(fig) and "not on the surface: LIPL" in captions(fig)


def test_unknown_looks_are_refused(brain):
    with pytest.raises(InputError, match="view is 'front', but must be one of: lateral, medial, dorsal, ventral"):
        ap.brain_map(brain, arm="dense", views=("front",))
    with pytest.raises(InputError, match="kind is 'round', but must be one of: inflated, pial, white, flat"):
        ap.brain_map(brain, arm="dense", kind="round")


def test_part_of_a_mesh_has_the_same_triangles():
    rng = np.random.default_rng(0)
    xyz, faces = rng.standard_normal((30, 3)).astype(np.float32), rng.integers(0, 30, (40, 3))
    keep = rng.random(40) < .4
    part = ap.part_of_mesh(xyz, faces, keep)
    assert np.array_equal(part.xyz[part.faces], xyz[faces[keep]]) and np.array_equal(part.xyz, xyz[part.index])


# Reading times

def test_words_means_and_line(reading):
    fig = ap.reading_fit(reading, "random/1", n_bins=10, n_dots=300)
    bits, time = reading.surprisal.sel(model="random/1").values, reading.time.values
    dots, means, line = (named(fig, n) for n in ("words", "means", "fitted effect"))
    assert np.array_equal(dots.x, bits[::6].astype(np.float32)) and np.array_equal(dots.y, time[::6].astype(np.float32))
    parts = np.array_split(np.argsort(bits, kind="stable"), 10)
    assert np.allclose(means.x, [bits[p].mean() for p in parts])
    assert np.allclose(means.y, [time[p].mean() for p in parts])
    assert np.allclose(means.error_y.array, [1.96 * stats.sem(time[p]) for p in parts])
    assert np.polyfit(line.x, line.y, 1)[0] == pytest.approx(examples.example_slope)
    assert np.interp(bits.mean(), line.x, line.y) == pytest.approx(time.mean())
    assert "+3.00 [+2.60, +3.40] ms/bit, 95 % CI over stories" in captions(fig)
    band = next(t for t in fig.data if t.fill == "toself")
    assert band.y[0] - band.y[-1] == pytest.approx(.8 * (bits.mean() - bits.min()))
    assert means.marker.color == arm_style("random").colour and "every 6th word" in captions(fig)


def test_only_words_that_were_used_are_shown(reading):
    used = np.arange(reading.sizes["word"]) % 2 == 0
    fig = ap.reading_fit(reading.assign(used=("word", used)), "smollm2", n_dots=10**6)
    assert len(named(fig, "words").x) == used.sum()


def test_without_interval_or_fit_the_caption_says_so(reading):
    unknown = {f"effect_{e}": reading[f"effect_{e}"] * np.nan for e in ("low", "high")}
    fig = ap.reading_fit(reading.assign(unknown), "smollm2")
    assert "CI over" not in captions(fig).split("<br>")[1] and not [t for t in fig.data if t.fill]
    assert "no fitted effect" in captions(ap.reading_fit(reading.assign(effect=reading.effect * np.nan), "smollm2"))


def test_arms_are_means_over_stories_judged_by_models_and_stories(reading):
    fig = ap.reading_arms(reading)
    told = judge_arms({a: reading.gain.values[reading.arm.values == a] for a in ARMS}, "story")
    for a, v in told.items():
        t = named(fig, a)
        assert t.x[0] == pytest.approx(v["gain"]["mean"]) and t.error_x.array[0] == pytest.approx(
            v["gain"]["high"] - v["gain"]["mean"])
    p = told["dense"]["difference"]["p_adjusted"]
    assert any(f"p = {p:.2g}" in a.text for a in fig.layout.annotations) and "models and 6 stories" in captions(fig)
    assert "nats/word" in fig.layout.xaxis.title.text


def test_readers_ceiling(reading):
    assert "readers' ceiling is 0.6" in captions(ap.reading_arms(reading, "pearson"))
    near = ap.reading_arms(reading.assign(ceiling=.2), "pearson")
    assert near.layout.shapes[0].x0 == .2 and "readers' ceiling" in [a.text for a in near.layout.annotations]


def test_one_story_takes_the_bootstrap_over_words(reading):
    fig = ap.reading_arms(reading.isel(story=[0]))
    assert named(fig, "random").error_x.array[0] == pytest.approx(.004) and "bootstrap over words" in captions(fig)
    assert "minus" not in captions(fig)  # nothing is said between stories


def test_what_behavior_gives_can_be_drawn():
    from evonb.alignment.reading import BehaviorConfig, Frequencies, score_models
    from evonb.alignment.sources.toy_readers import toy_passages, toy_reading
    times, truth = toy_reading(Seeds(0), passages=toy_passages(Seeds(0), 3, 80))
    shuffled = Seeds(1).numpy().permutation(truth["surprisal"])
    words = Frequencies("toy", {w: 1 + len(w) for w in times.word})
    ds = score_models(times, {"connectome/0": truth["surprisal"], "random/0": shuffled},
                      BehaviorConfig(n_bootstrap=50, n_splits=10), words)
    ds = ds.assign_coords(arm=("model", ["connectome", "random"]), seed=("model", [0, 0]))
    fig = ap.reading_fit(ds, "connectome/0")
    line = named(fig, "fitted effect")
    assert np.polyfit(line.x, line.y, 1)[0] == pytest.approx(float(ds.effect[0, 0])) and 2 < float(ds.effect[0, 0]) < 6
    assert [t.name for t in ap.reading_arms(ds, "pearson").data if t.name] == ["connectome", "random"]


# Null

def test_calibration_shows_sorted_values_against_uniform_ranks():
    p = np.random.default_rng(0).random(200)
    fig = ap.null_calibration(p)
    t = named(fig, "observed")
    assert np.array_equal(t.y, np.sort(p)) and np.allclose(t.x, np.arange(1, 201) / 201)
    band = next(t for t in fig.data if t.fill == "toself")
    assert band.y[9] == pytest.approx(stats.beta(10, 191).ppf(.975))
    assert f"D = {stats.kstest(p, 'uniform').statistic:.3f}" in captions(fig)
    assert f"{100 * (p <= .05).mean():.1f} % are at most 0.05" in captions(fig)


def test_a_null_that_rejects_too_often_lies_below_the_band():
    fig = ap.null_calibration(np.random.default_rng(0).random(300)**2)
    band, t = next(t for t in fig.data if t.fill == "toself"), named(fig, "observed")
    low = np.array(band.y)[::-1][:len(t.x)]
    assert (np.array(t.y) < low).mean() > .8


def test_many_values_make_a_small_figure():
    assert len(named(ap.null_calibration(np.linspace(0, 1, 10**5)), "observed").x) == 400


@pytest.mark.parametrize("bad", [[.1, 1.2], [-.1, .5], [.1, np.nan]])
def test_what_is_no_p_value_is_refused(bad):
    with pytest.raises(InputError, match="from 0 to 1"):
        ap.null_calibration(bad)


def test_too_few_p_values_are_refused():
    with pytest.raises(NothingToPlot, match="at least twice"):
        ap.null_calibration([.3])

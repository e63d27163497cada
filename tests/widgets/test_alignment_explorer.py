"""What the alignment explorer answers, against brute force; what it refuses; and how much travels."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr

from evonb.alignment.run import AlignConfig
from evonb.alignment.surfaces import fsaverage5, surface_values
from evonb.alignment.volumes import mni_grid, roi_volume
from evonb.core import InputError, to_dict
from evonb.plots import alignment as ap
from evonb.plots import examples
from evonb.plots.style import NothingToPlot
from evonb.statistics import describe, fdr
from evonb.store import create_run, open_run, write_dataset, write_json
from evonb.widgets.alignment import AlignmentExplorer, BrainPart, find_alignments, scored_so_far
from evonb.widgets.explorer import packed

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def part(brain):
    return BrainPart("example", brain)


@pytest.fixture(scope="module")
def explorer(brain, reading):
    return AlignmentExplorer([brain, reading])


@pytest.fixture(scope="module")
def surface(explorer):
    return explorer.ask("map")


@pytest.fixture(scope="module")
def slices(explorer):
    return explorer.ask("slices")


def plain_mean(brain, measure, arm, seed, layer, region):
    "A region's score by plain loops."
    found = []
    for m in range(brain.sizes["model"]):
        if brain.arm.values[m] != arm or seed not in ("mean", brain.seed.values[m]):
            continue
        for t in range(brain.sizes["target"]):
            if brain.roi.values[t] == region:
                v = {k: float(brain[k].values[m, layer, t]) for k in ("r", "gain")}
                found.append(v["r"] - float(brain.r_confounds.values[t]) if measure == "r_beyond" else v[measure])
    return np.mean(found)


# Maps


@pytest.mark.parametrize(
    "measure, arm, seed, layer",
    [
        ("gain", "dense", "mean", 3),
        ("r", "random", 1, 0),
        ("r_beyond", "connectome", "mean", 4),
        ("gain", "smollm2", 0, 8),
    ],
)
def test_scores_of_places_are_the_regions_means(brain, surface, slices, measure, arm, seed, layer):
    c = surface.content
    at = [m["key"] for m in c["measures"]].index(measure), c["rows"].index([arm, seed]), c["layers"].index(layer)
    shown = surface.arrays[0][at]
    wanted = [plain_mean(brain, measure, arm, seed, layer, p["roi"]) for p in c["places"]]
    assert np.allclose(shown, wanted, rtol=1e-5) and np.array_equal(slices.arrays[0], surface.arrays[0], equal_nan=True)


def test_a_layer_that_a_model_lacks_has_no_score(surface):
    c = surface.content
    rows = [i for i, (arm, _) in enumerate(c["rows"]) if arm != "smollm2"]
    assert (
        np.isnan(surface.arrays[0][:, rows][:, :, 5:]).all() and np.isfinite(surface.arrays[0][:, rows][:, :, :5]).all()
    )


def test_vertices_belong_to_the_place_that_the_projected_spheres_say(part, surface):
    places = part.places.assign(value=np.arange(len(part.places)) + 10.0)
    wanted = surface_values(roi_volume(places, radius=12, name="number"), how="nearest")
    for got, want in zip(surface.arrays[4:6], wanted):
        assert np.array_equal(np.where(got >= 0, got + 10, np.nan), want, equal_nan=True)
        near = fsaverage5()["left" if got is surface.arrays[4] else "right"].pial[got >= 0]
        far = np.linalg.norm(near - part.places[["x", "y", "z"]].to_numpy()[got[got >= 0]], axis=1)
        assert far.max() < 12 + 6  # within the sphere, or above a fold whose inside is


def test_the_cortex_travels_as_it_is(surface):
    _, faces, *rest = surface.arrays
    left, right = fsaverage5()["left"], fsaverage5()["right"]
    assert np.array_equal(faces.T, left.faces) and np.array_equal(faces.T, right.faces)
    assert surface.content["surfaces"] == ["inflated", "pial", "white", "flat"]
    for i, side in enumerate(("left", "right")):
        at, kept = ap.flat_patches()[side]
        assert np.array_equal(rest[10 + i].T, at) and np.array_equal(rest[12 + i], kept)
        corners = at[fsaverage5()[side].faces[kept]]
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2]
        assert (np.sign(area) == np.sign(np.median(area))).mean() > 0.99  # no fold lies over another
    for i, kind in enumerate(surface.content["surfaces"][:3]):
        assert np.array_equal(rest[4 + 2 * i].T, getattr(left, kind)) and np.array_equal(
            rest[5 + 2 * i].T, getattr(right, kind)
        )
    assert {a.dtype.name for a in rest} == {"uint8", "int32", "float32"} and faces.dtype == np.int32


def test_voxels_at_known_places(part, slices):
    _, greys, places = slices.arrays
    c = slices.content
    grid = mni_grid()
    assert (
        tuple(c["shape"]) == grid.shape == greys.shape
        and c["origin"] == grid.affine[:3, 3].tolist()
        and c["step"] == [2, 2, 2]
    )
    for number, place in part.places.iterrows():
        centre = tuple(int((place[k] - o) / 2) for k, o in zip("xyz", c["origin"]))
        assert places[centre] == number
    ijk = np.argwhere(places >= 0)
    mm = ijk * 2 + np.array(c["origin"])
    own = part.places[["x", "y", "z"]].to_numpy()[places[places >= 0]]
    assert (np.linalg.norm(mm - own, axis=1) <= 6 + 1e-6).all() and len(ijk) > 6 * 100
    assert (
        greys[49, 66, 40] > 50 and greys[0, 0, 0] == 0 and "nilearn" in c["source"]
    )  # brain in the middle, air outside


def test_positions_that_mean_nothing_are_called_so(brain, surface, slices):
    assert surface.content["note"] == slices.content["note"] == "illustrative positions: the data set gives none"
    measured = AlignmentExplorer(brain.assign_attrs(illustrative=0))
    assert measured.ask("map").content["note"] == ""


def test_regions_without_a_place_are_named(brain):
    gone = brain.assign_coords(x=("target", np.where(brain.roi.values == "LIFG", np.nan, brain.x.values)))
    c = AlignmentExplorer(gone).ask("map").content
    assert c["missing"] == "no position: LIFG" and "LIFG" not in [p["roi"] for p in c["places"]]
    nowhere = AlignmentExplorer(brain.assign_coords({k: ("target", np.full(48, np.nan)) for k in "xyz"}))
    with pytest.raises(NothingToPlot, match="No region has coordinates"):
        nowhere.ask("map")
    assert nowhere.ask("layers").figure is not None


def test_colours_are_symmetric_where_scores_have_signs(surface):
    ranges = {m["key"]: m["range"][0] for m in surface.content["measures"]}
    for key, (low, high) in ranges.items():
        i = [m["key"] for m in surface.content["measures"]].index(key)
        means = surface.arrays[0][i][[s == "mean" for _, s in surface.content["rows"]]]
        assert np.isclose(high, np.nanmax(np.abs(means))) and low == (-high if np.nanmin(means) < 0 else 0)


def test_threshold_hides_what_is_below(explorer):
    scores, scale = explorer.map_values(measure="gain", arm="connectome", layer=3, threshold=0)
    hidden, _ = explorer.map_values(measure="gain", arm="connectome", layer=3, threshold=30)
    assert np.array_equal(np.isfinite(hidden), np.abs(scores) >= 0.3 * scale.high) and 0 < np.isfinite(
        hidden
    ).sum() < len(scores)
    fig = explorer.figure("map", measure="gain", arm="connectome", layer=3, threshold=30)
    drawn = np.unique(np.concatenate([np.asarray(t.intensity) for t in fig.data if t.coloraxis]))
    assert np.allclose(drawn, np.sort(hidden[np.isfinite(hidden)])) and fig.layout.coloraxis.cmax == scale.high


def test_slices_figure_shows_the_region_at_its_centre(explorer, part):
    fig = explorer.figure("slices", measure="gain", arm="dense", layer=2, region="LPTL")
    want = explorer.map_values(measure="gain", arm="dense", layer=2)[0][part.places.roi.tolist().index("LPTL")]
    x, y, z = part.places.set_index("roi").loc["LPTL", ["x", "y", "z"]]
    for trace, (a, b) in zip(fig.data[1::2], [(x, z), (y, z), (x, y)]):
        at = list(trace.y).index(b), list(trace.x).index(a)
        assert np.isclose(np.asarray(trace.z)[at], want)
    with pytest.raises(InputError, match="z is 999 mm, but must be from -72 to 116"):
        ap.volume_slices(roi_volume(part.places.assign(value=1.0), name="v"), (0, 0, 999))


def test_many_numbers_travel_in_parts(brain, monkeypatch):
    monkeypatch.setattr("evonb.widgets.alignment._most", 100)
    few = AlignmentExplorer(brain)
    assert set(few.views["map"].needs) == {"measure", "arm", "seed"}
    reply = few.ask("map", measure="gain", arm="dense", seed=1)
    assert reply.arrays[0].shape == (1, 1, 9, 6) and reply.content["rows"] == [["dense", 1]]
    assert np.isclose(reply.arrays[0][0, 0, 2, 0], plain_mean(brain, "gain", "dense", 1, 2, "LATL"))


# Figures and the table


def test_r_beyond_nuisances_is_r_less_theirs(brain):
    found = ap.with_beyond(brain)
    assert np.allclose(found.r_beyond + brain.r_confounds, brain.r, equal_nan=True)
    assert np.allclose(found.r_beyond_best + brain.r_confounds, brain.r_best)
    assert np.allclose(found.r_beyond_null_high + brain.r_confounds.mean(), brain.null_high, equal_nan=True)
    fig = ap.layer_scores(brain, "r_beyond")
    line = next(t for t in fig.data if t.name == "dense")
    wanted = (brain.r - brain.r_confounds).values[brain.arm.values == "dense"][:, :5].mean((0, 2))
    assert np.allclose(line.y, wanted) and line.meta == "dense"
    with pytest.raises(NothingToPlot, match="Without nuisances"):
        ap.with_beyond(brain.drop_vars("r_confounds"))


def test_table_has_scores_ceilings_and_tests(brain, explorer):
    reply = explorer.ask("regions", measure="gain", arm="random", seed="mean", layer=2)
    head, rows = reply.content["columns"], {r[0]: r for r in reply.content["rows"]}
    assert head == ["region", "ΔR²", "95 % CI", "ceiling r", "nuisances r", "p of ΔR²", "q of ΔR²"]
    keep, models = brain.roi.values == "LIFG", brain.arm.values == "random"
    table = brain.gain.values[models][:, 2][:, keep]  # (n_seeds, n_people): one target a person
    i = describe(table, ("seed", "person"))
    p = brain.p.values[models][:, 2][:, keep]
    assert rows["LIFG"][1:4] == [
        f"{table.mean():.4f}",
        f"{i['low']:.4f} to {i['high']:.4f}",
        f"{brain.ceiling.values[keep].mean():.3f}",
    ]
    assert rows["LIFG"][5] == f"{(p < 0.05).sum()} of {p.size}" and rows["RATL"][3] == "unknown"
    scores = [float(r[1]) for r in reply.content["rows"]]
    assert scores == sorted(scores, reverse=True) and "95 % CI over models and 8 people" in reply.content["note"]


def test_q_is_of_all_that_a_map_shows_also_of_older_runs(brain):
    p = brain.p.copy(data=np.random.default_rng(0).uniform(0, 0.05, brain.p.shape))
    older = brain.assign(p=p, q=p * 0)  # as an older version had it: of one layer alone, or worse
    part = BrainPart("older", older)
    assert np.allclose(part.ds.q.values[3], fdr(p.values[3]), equal_nan=True)
    nested = older.assign(q_arm=(("model", "target"), np.full((10, 48), 0.01)), q_best=older.gain_best * 0 + 0.2)
    row = BrainPart("new", nested).region_table("gain", "random", "mean", 2).content
    assert row["columns"][-1] == "q, nested layer" and row["rows"][0][-1] == "8 of 8"
    one = BrainPart("new", nested).region_table("gain", "random", 1, 2).content
    assert one["rows"][0][-1] == "0 of 8"


def test_figures_follow_their_controls(brain, reading, explorer):
    two = explorer.figure("layers", measure="gain", region="LIPL")
    keep, models = brain.roi.values == "LIPL", brain.arm.values == "connectome"
    assert np.allclose(
        next(t for t in two.data if t.name == "connectome").y, brain.gain.values[models][:, :5][..., keep].mean((0, 2))
    )
    best, at = (explorer.figure("arms", measure="gain", best=b, layer=1) for b in (True, False))
    dense = [next(float(t.x[0]) for t in f.data if t.name == "dense") for f in (best, at)]
    assert np.allclose(
        dense,
        [
            brain.gain_best.values[brain.arm.values == "dense"].mean(),
            brain.gain.values[brain.arm.values == "dense", 1].mean(),
        ],
    )
    fit = explorer.figure("fit", model="dense/1", story="story 2")
    line, words = (next(t for t in fit.data if t.name == n) for n in ("fitted effect", "words"))
    assert np.isclose((line.y[-1] - line.y[0]) / (line.x[-1] - line.x[0]), examples.example_slope)
    own = set(reading.time.values[reading.story_of_word.values == "story 2"].astype(np.float32).tolist())
    assert set(np.asarray(words.y).tolist()) <= own
    stories = explorer.figure("stories", score="pearson")
    assert np.allclose(stories.data[1].x, reading.pearson.values[reading.arm.values == "random"].mean(0))


def test_replies_repeat_bit_for_bit_and_names_are_remembered(brain, explorer):
    again = AlignmentExplorer(brain)
    for view in ("layers", "map", "regions", "rois"):
        one, two = explorer.ask(view), again.ask(view)
        assert packed(one) == packed(two) and one.content == two.content


def test_a_sentence_says_the_score_the_best_region_and_the_best_other_arm(brain, explorer):
    told = explorer.ask("said", measure="gain", arm="connectome", seed="mean", layer=3).content["text"]
    by_region = {r: plain_mean(brain, "gain", "connectome", "mean", 3, r) for r in np.unique(brain.roi.values)}
    best, at = max(by_region, key=by_region.get), brain.sel(layer=3).gain
    mean = {a: float(at.values[brain.arm.values == a].mean()) for a in ("connectome", "random", "dense", "smollm2")}
    rival = max((a for a in mean if a != "connectome"), key=mean.get)
    assert told.startswith(f"connectome, layer 3: ΔR² = {mean['connectome']:.4f} [")
    assert f"highest in {best} ({by_region[best]:.4f})" in told and f"there is {rival}, {mean[rival]:.4f}." in told
    with pytest.raises(NothingToPlot, match="dense has no score at layer 7"):
        explorer.ask("said", arm="dense", layer=7)
    read = explorer.ask("read", model="dense/0", score="gain").content["text"]
    assert "+3.00 ms [+2.60, +3.40]" in read and "Δ log-likelihood = 0.0" in read


def test_a_run_says_its_own_sentence_first(brain, tmp_path):
    seen = AlignmentExplorer(an_alignment(tmp_path / "a", brain, summary=a_summary()))
    first, second = seen.ask("said").content["text"].split("\n\n")
    assert first == "It says." and second.startswith("connectome, layer 3")


def test_the_strip_has_the_places_of_the_vertices_that_are_seen(part, explorer):
    reply = explorer.ask("strip")
    scores, shade, places = reply.arrays
    assert reply.content["side"] == "left" and np.array_equal(scores, explorer.ask("map").arrays[0], equal_nan=True)
    look, height, width = reply.content["looks"][0]
    seen = ap.pixel_vertices(look, "left")
    assert seen.shape == (height, width)
    assert sum(h * w for _, h, w in reply.content["looks"]) == len(shade) == len(places)
    inside = seen >= 0
    own = part.vertex_places()[0]
    assert np.array_equal(places[: height * width].reshape(height, width)[inside], own[seen[inside]])
    assert (shade[: height * width].reshape(height, width) > 0).tolist() == inside.tolist()
    assert {part.places.roi[p] for p in np.unique(places[places >= 0])} == {"LATL", "LPTL", "LIPL", "LPreM", "LIFG"}
    assert sum(map(len, packed(reply))) < 60_000


def test_pixels_are_the_nearest_vertices():
    cortex = fsaverage5()["right"]
    seen = ap.pixel_vertices("lateral", "right", width=60)
    column = np.flatnonzero(seen[20] >= 0)[[2, -3]]
    for c in column:  # nothing nearer lies at the same pixel
        y, z = cortex.inflated[seen[20, c], 1:]
        near = np.hypot(*(cortex.inflated[:, 1:] - (y, z)).T) < 0.5
        assert cortex.inflated[seen[20, c], 0] > cortex.inflated[near, 0].max() - 3
    assert (np.diff(cortex.inflated[seen[20, column], 1]) > 0).all()  # front is on the right side


def test_the_winner_of_each_region_is_the_highest_mean(brain, explorer, part):
    names = list(dict.fromkeys(brain.arm.values.tolist()))
    for layer in (0, 3, 7):
        won, scale = explorer.map_values(scale="winner", measure="gain", layer=layer)
        for place, at in zip(part.places.roi, won):
            mean = [plain_mean(brain, "gain", a, "mean", layer, place) for a in names]
            assert names[int(at)] == names[int(np.nanargmax(mean))]
        assert (scale.low, scale.high) == (-0.5, 3.5) and scale.colours[4][1] == "#101418"  # grey on grey
    high = explorer.map_values(scale="winner", measure="gain", layer=7, threshold=95)[0]
    assert np.isnan(high).any()
    tiles = {t.name: t for t in explorer.figure("wins", measure="gain").data}
    assert sum(len(t.x) for t in tiles.values()) == 9 * 6  # each region and layer once
    assert {x for t in tiles.values() if t.name != "smollm2" for x in t.x} <= set(range(5))


def test_rare_controls_stand_behind_more(explorer):
    rare = [n for n, c in explorer.controls.items() if c.more]
    assert rare == ["seed", "best", "threshold", "scale", "surface", "look", "score"]
    assert all("more" in c for c in explorer._spec["controls"])


def test_words_of_a_story_have_what_is_left_of_their_times(reading):
    rng = np.random.default_rng(0)
    left = rng.normal(0, 40, (10, reading.sizes["word"]))
    left[:, ::7] = np.nan  # words that no regression has
    kept = reading.assign(residual=(("model", "word"), left), residual_baseline=("word", left[0] * 2),
                          text=("word", [EVIL] * reading.sizes["word"]))
    seen = AlignmentExplorer(kept)
    assert "residuals" in seen.views and "residuals" not in AlignmentExplorer(reading).views
    here = reading.story_of_word.values == "story 2"
    words, numbers = seen.ask("residuals", model="dense/1", story="story 2").arrays
    at = reading.model.values.tolist().index("dense/1")
    assert np.allclose(numbers, [reading.time.values[here], reading.surprisal.values[at][here], 2 * left[0][here],
                                 left[at][here]], equal_nan=True, rtol=1e-5)
    assert json.loads(words) == [EVIL] * here.sum() and "<img" not in seen.to_html(only=dict(story=["story 2"]))
    assert seen.ask("residuals", story="").content["story"] == "story 1"
    bits = np.tile(np.linspace(1, 15, 8), (10, 1))
    bent = kept.assign(fitted=("word", np.ones(reading.sizes["word"], bool))).assign({
        k: (("model", "point"), v) for k, v in dict(
            curve_bits=bits, curve=2 * bits, curve_low=2 * bits - 1, curve_high=2 * bits + 1).items()})
    curves = AlignmentExplorer(bent).figure("curve", model="dense/1").data
    assert [t.name for t in curves if t.name] == ["dense", "connectome"]


# Runs


def an_alignment(path, brain=None, reading=None, summary=None, data="alice"):
    config = to_dict(AlignConfig("runs/demo", data))
    with create_run(path, config, "alignment") as run:
        if brain is not None:
            write_dataset(run.file("brain.zarr.zip"), brain)
        if reading is not None:
            write_dataset(run.file("reading.zarr.zip"), reading)
        if summary is not None:
            write_json(run.file("summary.json"), summary)
    return path


def a_summary(**more):
    return (
        dict(
            kind="alignment",
            reference="connectome",
            arms={"connectome": dict(layer=3)},
            statement="It says.",
            facts=["a fact", "another"],
            notes=[],
            models=[],
        )
        | more
    )


def test_a_run_of_either_kind_shows_its_own_views(brain, reading, tmp_path):
    seen = AlignmentExplorer(an_alignment(tmp_path / "a", brain, summary=a_summary()))
    assert list(seen.views) == ["said", "layers", "map", "strip", "wins", "slices", "rois", "regions", "arms", "about"]
    assert seen.values["layer"] == 3 and "model" not in seen.controls
    about = seen.ask("about").content["text"]
    assert "It says." in about and "evonb align runs/demo --data natural-stories" in about
    words = AlignmentExplorer(open_run(an_alignment(tmp_path / "b", reading=reading)))
    assert list(words.views) == ["read", "fit", "reading_arms", "stories", "about"] and "arm" not in words.controls
    assert "evonb align runs/demo --data alice" in words.ask("about").content["text"]


def test_a_run_without_parts_has_no_view_of_them_and_says_which_setting_keeps_them(brain, tmp_path):
    seen = AlignmentExplorer(an_alignment(tmp_path / "a", brain, summary=a_summary(people=dict(regions=[], parts={}))))
    assert "parts" not in seen.views and "No parts of variance were kept of alice" in seen.told
    assert "--set 'parts=[\"model\",\"5-gram\",\"nuisance\"]'" in seen.told
    with pytest.raises(NothingToPlot, match="No parts of variance were kept. Align again with --set"):
        next(iter(seen.found.brain.values())).region_parts("LIFG")


def test_a_connectome_run_gives_a_choice_of_data(brain, reading, tmp_path):
    with create_run(tmp_path / "grown", dict(preset="demo"), "connectome"):
        pass
    an_alignment(tmp_path / "grown" / "alignment" / "alice", brain, summary=a_summary())
    an_alignment(
        tmp_path / "grown" / "alignment" / "other", brain.assign(gain=brain.gain * 2), data="other", summary=a_summary()
    )
    an_alignment(tmp_path / "grown" / "alignment" / "words", reading=reading, data="words")
    seen = AlignmentExplorer(tmp_path / "grown")
    assert [v for v, _ in seen.controls["brain"].options] == ["alice", "other"] and "reading" not in seen.controls
    one, two = (seen.figure("layers", brain=b, measure="gain") for b in ("alice", "other"))
    line = lambda f: np.asarray(next(t for t in f.data if t.name == "dense").y)
    assert np.allclose(2 * line(one), line(two)) and "fit" in seen.views


def test_a_run_without_alignment_says_what_it_is_and_what_to_do(tmp_path):
    for kind in ("connectome", "population"):
        with create_run(tmp_path / kind, dict(preset="demo"), kind):
            pass
    with pytest.raises(
        InputError, match="connectome' without an alignment. Make one with: evonb align .*connectome --data alice"
    ):
        AlignmentExplorer(tmp_path / "connectome")
    with pytest.raises(InputError, match="kind 'population' without an alignment.*evonb align RUN_OR_BASE"):
        AlignmentExplorer(tmp_path / "population")
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        AlignmentExplorer(tmp_path / "nothing")
    with pytest.raises(InputError, match="must be a dataset of brain scores"):
        AlignmentExplorer(3)


def test_a_half_written_alignment_shows_the_models_that_are_done(brain, tmp_path):
    import xarray as xr

    path = an_alignment(tmp_path / "half")
    seen = AlignmentExplorer(path)
    assert list(seen.views) == ["about"]
    assert (
        "brain.zarr.zip nor reading.zarr.zip is there. No model is scored yet. Finish it: evonb align runs/demo"
        in seen.ask("about").content["text"]
    )
    rng = np.random.default_rng(0)
    fold = rng.random((2, 3, 4, 5))  # two models, layers, folds, targets
    for i, name in enumerate(("connectome-0-0123456789ab", "sign-shuffled-11")):
        dims = ("layer", "fold", "target")
        ds = xr.Dataset(
            dict(
                r_fold=(dims, fold[i]),
                gain_fold=(dims, fold[i] / 2),
                p=(("layer", "target"), np.ones((3, 5))),
                r_confounds=(("layer", "target"), np.full((3, 5), 0.1)),
                r2_confounds=(("layer", "target"), np.full((3, 5), 0.01)),
            ),
            dict(layer=[0, 1, 2]),
        )
        write_dataset(open_run(path).file("models", f"{name}.zarr.zip"), ds)
    seen = AlignmentExplorer(path)
    assert scored_so_far(open_run(path)).model.values.tolist() == ["connectome/0", "sign-shuffled/11"]
    assert np.allclose(
        next(t for t in seen.figure("layers", measure="r").data if t.meta == "sign-shuffled").y, fold[1].mean((1, 2))
    )
    assert "Scored so far: connectome/0, sign-shuffled/11" in seen.ask("about").content["text"]
    with pytest.raises(NothingToPlot, match="No region has coordinates"):
        seen.ask("map")


def test_two_runs_stand_beside_each_other(brain, tmp_path):
    more = brain.assign(gain_best=brain.gain_best + 0.01)
    one, two = (an_alignment(tmp_path / n, ds, summary=a_summary()) for n, ds in (("one", brain), ("two", more)))
    seen = AlignmentExplorer([one, str(two)])
    assert seen.title == "Alignment of one, two" and "versus" in seen.views
    assert [v for v, _ in seen.controls["brain"].options] == ["alice, one", "alice, two"]
    points = next(t for t in seen.figure("versus", measure="gain").data if t.name == "dense")
    assert np.allclose(np.array(points.y) - np.array(points.x), 0.01)
    with pytest.raises(NothingToPlot, match="two different"):
        seen.ask("versus", against="alice, one")
    other = brain.assign_coords(roi=("target", ["elsewhere"] * 48))
    with pytest.raises(NothingToPlot, match="share no region"):
        ap.runs_compared(brain, other)


def test_damaged_scores_are_told_and_the_rest_is_shown(brain, reading, tmp_path):
    with create_run(tmp_path / "grown", dict(preset="demo"), "connectome"):
        pass
    bad = an_alignment(tmp_path / "grown" / "alignment" / "alice", brain)
    an_alignment(tmp_path / "grown" / "alignment" / "words", reading=reading, data="words")
    whole = (bad / "brain.zarr.zip").read_bytes()
    (bad / "brain.zarr.zip").write_bytes(whole[: len(whole) // 2])
    seen = AlignmentExplorer(tmp_path / "grown")
    assert "alice can't be shown" in seen.ask("about").content["text"] and list(seen.views)[0] == "read"
    shutil.rmtree(bad)


def test_unknown_layers_arms_measures_and_seeds_are_refused_by_name(explorer):
    for wrong, message in (
        (dict(layer=12), "layer is 12, but must be one of: 0, 1, 2"),
        (dict(arm="rewired"), "arm is 'rewired', but must be one of: 'connectome'"),
        (dict(measure="rho"), "measure is 'rho', but must be one of: 'r_beyond', 'r', 'gain'"),
        (dict(seed=7), "seed is 7, but must be one of: 'mean', 0, 1, 2"),
    ):
        with pytest.raises(InputError, match=message):
            explorer.set(**wrong)
    with pytest.raises(InputError, match="smollm2 has no seed 2; it has: mean, 0"):
        explorer.ask("regions", arm="smollm2", seed=2)
    with pytest.raises(NothingToPlot, match="dense has no score at layer 7"):
        explorer.ask("regions", arm="dense", layer=7)
    with pytest.raises(NothingToPlot, match="dense has no score at layer 7"):
        explorer.figure("map", arm="dense", layer=7)


# Names and sizes


def test_names_with_html_are_never_html(brain, reading):
    rename = lambda ds, **names: ds.assign_coords(
        {k: (ds[k].dims, [EVIL if v == old else v for v in ds[k].values]) for k, old in names.items()}
    )
    evil_words = reading.assign(
        story_of_word=("word", np.where(reading.story_of_word.values == "story 1", EVIL, reading.story_of_word.values))
    )
    seen = AlignmentExplorer(
        {
            EVIL: rename(brain, roi="LIFG", arm="dense"),
            "b": rename(evil_words, arm="dense", story="story 1", model="dense/0"),
        }
    )
    page = seen.to_html(
        only=dict(
            measure=["gain"],
            seed=["mean"],
            layer=[2],
            region=[EVIL],
            arm=[EVIL],
            model=[EVIL],
            story=[EVIL],
            score=["gain"],
        )
    )
    assert "<img" not in page
    for view, values in (
        ("layers", dict(region=EVIL)),
        ("rois", {}),
        ("arms", {}),
        ("fit", dict(model=EVIL, story=EVIL)),
        ("stories", {}),
        ("reading_arms", {}),
        ("map", dict(arm=EVIL)),
        ("slices", dict(arm=EVIL)),
    ):
        figure = seen.figure(view, **values).update_traces(meta=None, customdata=None, legendgroup=None)  # never shown
        assert "<img" not in figure.to_json().replace("\\u003c", "<"), view


def test_what_travels_is_small(explorer):
    sizes = {v: sum(map(len, packed(explorer.ask(v)))) for v in explorer.views}
    assert sizes["map"] < 900_000 and sizes["slices"] < 260_000
    assert sizes.pop("strip") < 60_000
    assert max(s for v, s in sizes.items() if v not in ("map", "slices")) < 30_000
    assert explorer.views["map"].needs == explorer.views["slices"].needs == ()  # so moving a layer asks for nothing


def test_found_parts_are_named_by_their_data(brain, reading):
    found = find_alignments({"mine": brain, "theirs": reading})
    assert list(found.brain) == ["mine"] and list(found.reading) == ["theirs"]


def test_which_sentences_are_alike_is_shown_where_it_was_asked(tmp_path, brain):
    rng = np.random.default_rng(0)
    dims = "model", "layer", "subject", "block"
    arms, layers = brain["arm"].values.tolist(), brain["layer"].values.tolist()
    parts = rng.normal(0.2, 0.05, (len(arms), len(layers), 4, 12))
    alike = xr.Dataset(dict(layer_part=(dims, parts), row_part=(("row", "subject", "block"), parts[0, :2]), lower=0.3,
                            upper=0.36), dict(layer=layers, arm=("model", arms), row=["position", "length"]),
                       dict(how="spearman", block="3 neighbouring passages"))
    with create_run(tmp_path / "run", dict(data="mine"), kind="alignment") as run:
        write_dataset(run.file("brain.zarr.zip"), brain)
    assert "geometry" not in AlignmentExplorer(tmp_path / "run").views
    write_dataset(run.file("geometry.zarr.zip"), alike)
    seen = AlignmentExplorer(tmp_path / "run")
    lines = {t.name: t.y for t in seen.figure("geometry").data if t.mode == "lines+markers"}
    assert list(lines) == list(dict.fromkeys(arms))
    for arm, line in lines.items():
        wanted = parts[[a == arm for a in arms]].mean((0, 2, 3))
        np.testing.assert_allclose(line, wanted)
    two = AlignmentExplorer(dict(mine=brain, other=brain))
    assert "geometry" not in two.views

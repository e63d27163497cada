"""The alignment explorer in a real JupyterLab and in a page without Python: what it shows is what NumPy says."""

import numpy as np
import pytest

EVIL = "<img src=x onerror=alert(1)>"
CELLS = [
    """
import json, numpy as np
from evonb.core import Seeds
from evonb.plots.examples import example_brain, example_reading
from evonb.widgets.alignment import AlignmentExplorer
brain, reading = example_brain(Seeds(0)), example_reading(Seeds(0))
seen = AlignmentExplorer([brain, reading]).set(measure="gain", layer=2)
""",
    "seen",
]
CANVAS = ".evonb-volume"
FRAMES = "async () => { for (let i = 0; i < 4; i++) await new Promise(requestAnimationFrame); }"


@pytest.fixture(scope="module")
def made():
    "The same explorer, on this side."
    from evonb.core import Seeds
    from evonb.plots.examples import example_brain, example_reading
    from evonb.widgets.alignment import AlignmentExplorer

    brain, reading = example_brain(Seeds(0)), example_reading(Seeds(0))
    return AlignmentExplorer([brain, reading]).set(measure="gain", layer=2)


@pytest.fixture(scope="module")
def stored(made, tmp_path_factory):
    "A page without Python with a part of its values."
    only = dict(
        measure=["gain", "r"],
        seed=["mean"],
        layer=[2, 3, 7],
        region=["", "LIFG", "RATL"],
        story=["", "story 2"],
        model=["connectome/0", "dense/0"],
        arm=["connectome", "dense"],
    )
    return made.to_html(tmp_path_factory.mktemp("pages") / "alignment.html", only=only)


def cortex(shown):
    "What the cortex says of itself."
    return shown.view("map").locator(".evonb-surface").evaluate("e => ({...e.dataset})")


def meshes(shown):
    "Of each trace that is drawn: the distinct values at its faces' corners, and how many vertices they are."
    return (
        shown.view("map")
        .locator(".evonb-surface")
        .evaluate("""e => e.data.filter(t => t.name === 'values' && t.visible !== false)
      .map(t => { const corners = new Set([...t.i, ...t.j, ...t.k]); const v = [...corners].map(c => t.intensity[c]);
        return {scene: t.scene, values: [...new Set(v)], x: t.x.length, low: t.cmin, high: t.cmax}; })""")
    )


def numbers(made, threshold=0, **values):
    "By NumPy: the vertices at or above a threshold (a share of the scale), and the places' scores."
    scores, scale = made.map_values(threshold=threshold, **values)
    part = next(iter(made.found.brain.values()))
    told = np.r_[scores, np.nan]
    return sum(int(np.isfinite(told[n]).sum()) for n in part.vertex_places()), scores, scale


def click_point(shown, view, name, x):
    "A real click on a curve's point."
    shown.click_plot(
        view,
        """(e, [name, x]) => {
      const trace = e._fullData.find(t => t.name === name && t.mode === 'lines+markers');
      return [x, trace.y[Array.from(trace.x).indexOf(x)]]; }""",
        [name, x],
    )


def test_a_clicked_layer_is_on_the_map_and_comes_back_to_python(
    notebook_page, run_more, run_until, explorer, made, assert_accessible, screenshot
):
    page = notebook_page(CELLS, viewport={"width": 1300, "height": 3900})
    shown = explorer(page).ready()
    above, scores, scale = numbers(made, layer=2)
    assert cortex(shown)["layer"] == "2" and int(cortex(shown)["above"]) == above
    click_point(shown, "layers", "dense", 3)
    shown.until("layer", 3).until("arm", "dense").ready()
    shown.view("map").locator(".evonb-surface[data-layer='3'][data-arm='dense']").wait_for()
    above, scores, scale = numbers(made, layer=3, arm="dense")
    assert int(cortex(shown)["above"]) == above
    drawn = meshes(shown)
    assert {m["scene"] for m in drawn} == {"scene", "scene2"} and all(np.isclose(m["high"], scale.high) for m in drawn)
    assert np.allclose(np.sort(np.unique([v for m in drawn for v in m["values"]])), np.sort(scores), rtol=1e-5)
    run_until(
        page,
        "v, c = seen.values, seen.clicked; print(v['layer'], v['arm'], c.get('view'), c.get('layer'))",
        "3 dense layers 3",
    )
    run_more(page, "seen.set(layer=4, arm='random')")
    shown.until("layer", 4)
    shown.view("map").locator(".evonb-surface[data-layer='4'][data-arm='random']").wait_for()
    assert int(cortex(shown)["above"]) == numbers(made, layer=4, arm="random")[0]
    assert_accessible(page, ".evonb-explorer")
    screenshot(shown.root, "alignment-lab")


def test_threshold_and_surface(offline_page, explorer, made, stored):
    shown = explorer(offline_page(stored)).ready()
    counts = []
    for threshold in (0, 30, 55, 95):
        shown.set("threshold", threshold).ready()
        shown.page.wait_for_function(
            "t => Math.abs(document.querySelector('.evonb-surface').dataset.threshold - t) < 1e-9",
            arg=threshold / 100 * numbers(made)[2].high,
        )
        counts.append(int(cortex(shown)["above"]))
        assert counts[-1] == numbers(made, threshold)[0]
        assert shown.canvas("slices")["threshold"] == cortex(shown)["threshold"]
    assert counts[0] > counts[1] > counts[2] >= counts[3] == 0 and "0 of 20484 vertices" in shown.note("map")
    shown.set("threshold", 0)
    from evonb.alignment.surfaces import fsaverage5

    for surface in ("pial", "white", "inflated"):
        shown.set("surface", surface)
        shown.view("map").locator(f".evonb-surface[data-surface='{surface}'][data-above='{counts[0]}']").wait_for()
        x = shown.view("map").locator(".evonb-surface").evaluate("e => Array.from(e.data[0].x.slice(0, 50))")
        assert np.allclose(x, getattr(fsaverage5()["left"], surface)[:50, 0])


def test_hover_names_the_region_and_its_value(offline_page, explorer, made, stored):
    page = offline_page(stored)
    shown = explorer(page).ready()
    _, scores, _ = numbers(made)
    places = next(iter(made.found.brain.values())).places.roi.tolist()
    surface = shown.view("map").locator(".evonb-surface")
    surface.scroll_into_view_if_needed()
    shown.ready("map")
    box, seen = surface.bounding_box(), {}
    for fy in (0.42, 0.5, 0.58, 0.66, 0.74, 0.34):
        for fx in np.linspace(0.08, 0.42, 12):
            page.mouse.move(box["x"] + fx * box["width"], box["y"] + fy * box["height"])
            page.evaluate(FRAMES)  # the scene looks what is under the mouse when it draws
            told = cortex(shown)
            if told["hovered"]:
                seen[told["hovered"]] = float(told["hoveredValue"])
                tip = shown.view("map").locator(".evonb-tip").inner_text()
        if len(seen) > 1:
            break
    assert len(seen) > 1 and "8 people" in tip and "ΔR² = " in tip
    for region, value in seen.items():
        assert np.isclose(value, scores[places.index(region)], rtol=1e-5)


def test_one_camera_names_bands_and_a_strip_of_layers(offline_page, explorer, made, stored):
    page = offline_page(stored)
    shown = explorer(page).ready()
    assert shown.text("said").startswith("connectome, layer 2: ΔR² = ")
    more = shown.root.locator(".evonb-more-button")
    assert more.inner_text().startswith("More") and not shown.root.locator(".evonb-more").is_visible()
    assert set(cortex(shown)["named"].split(",")) == {"LATL", "LPTL", "LIPL", "LPreM", "LIFG", "RATL"}
    bands = """e => Object.fromEntries(e.data.filter(t => t.fill === 'toself' && t.legendgroup !== 'null')
      .map(t => [t.legendgroup, t.visible !== false]))"""
    plot = shown.view("layers").locator(".js-plotly-plot")
    assert plot.evaluate(bands) == dict(connectome=True, smollm2=True, dense=False, random=False)
    shown.set("arm", "dense").ready()
    assert plot.evaluate(bands) == dict(connectome=False, smollm2=True, dense=True, random=False)
    surface = shown.view("map").locator(".evonb-surface")
    surface.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => document.querySelector('.evonb-surface')._fullLayout.scene.camera.eye.y !== 0")
    eyes = surface.evaluate("e => ['scene', 'scene2'].map(s => e._fullLayout[s].camera.eye)")
    assert np.allclose([eyes[0]["x"], eyes[0]["y"], eyes[0]["z"]], [-eyes[1]["x"], eyes[1]["y"], eyes[1]["z"]])
    brains = shown.view("strip").locator(".evonb-strip-one")
    assert brains.evaluate_all("all => all.map(e => e.getAttribute('aria-pressed'))").index("true") == 2
    coloured = [int(brains.nth(i).get_attribute("data-coloured")) for i in range(9)]
    assert min(coloured[:5]) > 300 and max(coloured[5:]) == 0  # the arm has five layers
    brains.nth(3).focus()
    page.keyboard.press("Enter")
    shown.until("layer", 3).ready()
    assert cortex(shown)["layer"] == "3" and "highest in" in brains.nth(3).get_attribute("aria-label")
    shown.set("threshold", 30)
    assert more.inner_text().startswith("More (1 moved)")


def test_the_winner_and_a_flat_cortex(offline_page, explorer, made, stored, assert_accessible):
    page = offline_page(f"{stored}")
    shown = explorer(page).ready()
    shown.set("scale", "the arm that wins").set("surface", "flat").ready()
    won, scale = made.map_values(scale="winner", layer=2)
    drawn = meshes(shown)
    assert {v for m in drawn for v in m["values"]} == set(won.tolist()) and drawn[0]["high"] == scale.high
    arms = list(dict.fromkeys(a for a, _ in next(iter(made.found.brain.values())).rows))
    legend = shown.view("map").locator(".evonb-map-arms").inner_text().split()
    assert set(legend) == {arms[int(w)] for w in set(won.tolist())}
    flat = "e => e.data.filter(t => t.name === 'cortex').map(t => Math.max(...t.z) - Math.min(...t.z))"
    assert shown.view("map").locator(".evonb-surface").evaluate(flat) == [0, 0]
    assert_accessible(page)


def test_slices_are_moved_by_keys_and_sliders(offline_page, explorer, made, stored):
    shown = explorer(offline_page(stored)).ready()
    part = next(iter(made.found.brain.values()))
    _, scores, _ = numbers(made)
    voxels = part.voxel_places()

    def wanted(at):
        place = voxels[tuple(int((at[k] - o) / 2) for k, o in zip("xyz", (-98, -134, -72)))]
        return (part.places.roi[place], scores[place]) if place >= 0 else ("", None)

    def check():
        told = shown.canvas("slices")
        region, value = wanted({k: float(told[k]) for k in "xyz"})
        assert told["region"] == region and (
            told["value"] == "" if value is None else np.isclose(float(told["value"]), value, rtol=1e-5)
        )
        return told

    first = check()
    best = part.places.iloc[int(np.nanargmax(np.abs(scores)))]
    assert [float(first[k]) for k in "xyz"] == best[["x", "y", "z"]].tolist() and first["region"] == best.roi
    canvas = shown.view("slices").locator(CANVAS)
    canvas.focus()
    for key, axis, by in (
        ("ArrowRight", "x", 2),
        ("ArrowDown", "y", -2),
        ("PageUp", "z", 2),
        ("Shift+ArrowLeft", "x", -10),
    ):
        before = float(check()[axis])
        shown.page.keyboard.press(key)
        assert float(check()[axis]) == before + by
    for _ in range(8):
        shown.page.keyboard.press("ArrowLeft")
    assert check()["region"] == ""
    assert "no region" in shown.note("slices")
    shown.page.keyboard.press("Home")
    assert check()["region"] == best.roi
    slider = shown.view("slices").locator("input[data-axis=z]")
    slider.fill("30")
    assert float(check()["z"]) == 30
    shown.set("region", "RATL")
    canvas.and_(shown.page.locator("[data-region=RATL]")).wait_for()
    assert float(check()["x"]) == 52


def test_reading_fit_is_read_back(offline_page, explorer, stored, assert_accessible, screenshot):
    from evonb.plots.examples import example_slope

    page = offline_page(stored)
    shown = explorer(page).ready()
    for story in ("all stories", "story 2"):
        shown.set("story", story).ready()
        drawn = shown.plot("fit")
        line = next(t for t in drawn["data"] if t["name"] == "fitted effect" and len(t["x"]) == 3)
        assert np.isclose((line["y"][-1] - line["y"][0]) / (line["x"][-1] - line["x"][0]), example_slope)
        assert drawn["x"] == "surprisal (bits)" and drawn["y"] == "reading time (ms)" and "+3.00" in drawn["how"]
    shown.set("model", "dense/0").ready()
    assert_accessible(page)
    screenshot(shown.root, "alignment-page")


@pytest.mark.parametrize("width, scheme", [(1200, "light"), (1200, "dark"), (400, "light")])
def test_nothing_spills_over(offline_page, explorer, stored, screenshot, assert_accessible, width, scheme):
    page = offline_page(stored, viewport={"width": width, "height": 900}, color_scheme=scheme)
    shown = explorer(page).ready()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert_accessible(page)
    screenshot(shown.root, f"alignment-{width}-{scheme}")


def test_a_layer_that_an_arm_lacks_is_bare(offline_page, explorer, stored):
    shown = explorer(offline_page(stored)).ready()
    shown.set("layer", 7)
    shown.view("map").locator(".evonb-surface[data-layer='7'][data-above='0']").wait_for()
    assert "connectome has no score at layer 7" in shown.note("map")
    assert "connectome has no score at layer 7" in shown.ready("regions", state="empty").text("regions")


def test_without_webgl_the_rest_works(offline_page, chromium, explorer, made, stored, watched):
    from pathlib import Path

    page, watch = watched(offline=True)
    page.add_init_script("""const own = HTMLCanvasElement.prototype.getContext;
      HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
        return /webgl/.test(kind) ? null : own.call(this, kind, ...more); };""")
    page.goto(Path(stored).as_uri())
    shown = explorer(page)
    assert "WebGL is missing" in shown.alert("map")
    for view in ("layers", "slices", "regions", "arms", "rois", "fit"):
        shown.ready(view)
    shown.set("layer", 3).ready("slices")
    assert shown.canvas("slices")["layer"] == "3"
    at = shown.canvas("slices")
    _, scores, _ = numbers(made, layer=3)
    places = next(iter(made.found.brain.values())).places.roi.tolist()
    assert np.isclose(float(at["value"]), scores[places.index(at["region"])], rtol=1e-5)


def test_names_with_html_are_text(offline_page, explorer, tmp_path):
    from evonb.core import Seeds
    from evonb.plots import examples as plots_examples
    from evonb.widgets.alignment import AlignmentExplorer

    brain = plots_examples.example_brain(Seeds(0))
    name = lambda key, old: (brain[key].dims, [EVIL if v == old else v for v in brain[key].values])
    seen = AlignmentExplorer({EVIL: brain.assign_coords(roi=name("roi", "LIFG"), arm=name("arm", "dense"))}, title=EVIL)
    only = dict(measure=["gain"], seed=["mean"], layer=[2, 3], region=["", EVIL], arm=["connectome", EVIL])
    page = offline_page(seen.to_html(tmp_path / "evil.html", only=only))
    shown = explorer(page).ready()
    shown.set("arm", EVIL).set("region", EVIL).ready()
    shown.view("slices").locator(".evonb-volume").and_(page.locator("[data-arm^='<img']")).wait_for()
    assert shown.canvas("slices")["region"] == EVIL
    assert EVIL in shown.text("regions") and EVIL in shown.note("slices") and EVIL in shown.note("layers")
    assert shown.root.locator("img").count() == 0


def a_run_with_parts(path):
    "An alignment on disk that kept parts of variance of every region, and what they are."
    import xarray as xr

    from evonb.alignment.partition import band_sets, part_name
    from evonb.alignment.run import AlignConfig
    from evonb.core import Seeds, to_dict
    from evonb.plots.examples import example_brain
    from evonb.store import create_run, write_dataset

    brain, rng = example_brain(Seeds(0)), np.random.default_rng(0)
    names = [part_name(s) for s in band_sets(("model", "5-gram", "nuisance"))]
    size, dims = rng.normal(0.01, 0.01, (len(names), brain.sizes["target"])), ("model", "part", "fold", "target")
    made = size[None, :, None] + rng.normal(0, 0.003, (3, len(names), 4, size.shape[1]))
    about = dict(part=names, target=brain.target, roi=brain.roi, subject=brain.subject)
    with create_run(path, to_dict(AlignConfig("runs/demo", "alice")), "alignment") as run:
        write_dataset(run.file("brain.zarr.zip"), brain)
        write_dataset(run.file("parts.zarr.zip"), xr.Dataset(dict(parts=(dims, made), explained=(dims, made)), about))
    return brain, made


def test_a_clicked_region_shows_its_parts_of_variance(offline_page, explorer, tmp_path, assert_accessible, screenshot):
    from evonb.widgets.alignment import AlignmentExplorer

    brain, made = a_run_with_parts(tmp_path / "run")
    only = dict(measure=["gain"], seed=["mean"], layer=[2], arm=["connectome"], best=[True])
    page = offline_page(AlignmentExplorer(tmp_path / "run").to_html(tmp_path / "parts.html", only=only))
    shown = explorer(page).ready()
    bars = lambda: np.array(shown.plot("parts")["data"][0]["y"])
    of = lambda region: made[..., brain.roi.values == region].mean((0, 2, 3))
    assert np.allclose(bars(), made.mean((0, 2, 3)), atol=1e-6)
    row = shown.view("regions").locator("tbody tr").nth(2)
    region = row.locator("td, th").first.inner_text()
    row.click()
    shown.until("region", region).ready()
    assert np.allclose(bars(), of(region), atol=1e-6) and shown.plot("parts")["how"].startswith(f"{region}: all bands")
    shown.click_plot("rois", "e => [e._fullData[0].x[1], e._fullData[0].y[1]]")
    other = list(dict.fromkeys(brain.roi.values.tolist()))[1]
    shown.until("region", other).ready()
    assert other != region and np.allclose(bars(), of(other), atol=1e-6)
    assert_accessible(page)
    screenshot(shown.view("parts"), "alignment-parts")


def on_the_head(brain, n=4):
    "The same scores as if sensors had measured them, each region one of a single person's."
    one = brain.isel(target=np.flatnonzero(brain.subject.values == "S01")).drop_vars(["x", "y", "z"])
    around = np.linspace(0, 2 * np.pi, one.sizes["target"], endpoint=False)
    where = 0.09 * np.stack([0.6 * np.cos(around), 0.6 * np.sin(around), np.full(len(around), 0.8)])  # m
    places = {f"sensor_{k}": ("target", v) for k, v in zip("xyz", where)}
    return one.assign_coords(**places, kind=("target", ["eeg"] * len(around)))


def test_a_clicked_sensor_is_the_region_that_is_shown(offline_page, explorer, tmp_path, assert_accessible, screenshot):
    from evonb.core import Seeds
    from evonb.plots.examples import example_brain
    from evonb.widgets.alignment import AlignmentExplorer

    brain = on_the_head(example_brain(Seeds(0)))
    names, only = brain.roi.values.tolist(), dict(measure=["r"], seed=["mean"], layer=[2], arm=["connectome"])
    made = AlignmentExplorer(brain).set(measure="r", layer=2, arm="connectome")
    page = offline_page(made.to_html(tmp_path / "head.html", only=only))
    shown = explorer(page).ready()
    dots = shown.view("sensors").locator(".js-plotly-plot").evaluate(
        "e => { const t = e._fullData.at(-1); return [Array.from(t.customdata), Array.from(t.marker.color)]; }")
    r = brain.r.sel(layer=2).isel(model=np.flatnonzero(brain.arm.values == "connectome")).mean("model").values
    told = dict(zip(*dots, strict=True))
    assert np.allclose([told[n] for n in names], r, atol=1e-6), "a dot has the colour of another sensor's score"
    dot = ("(e, n) => { const t = e._fullData.at(-1), i = Array.from(t.customdata).indexOf(n);"
           " return [t.x[i], t.y[i]]; }")
    for i in (1, len(names) - 1):
        shown.click_plot("sensors", dot, names[i])
        shown.until("region", names[i]).ready()
    assert_accessible(page)
    screenshot(shown.root, "alignment-sensors")

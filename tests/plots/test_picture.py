"""Pictures without a browser: marks lie where plotly's axes would put them, words are escaped, and size is bounded."""

import base64
import re
import xml.etree.ElementTree as ET
from io import BytesIO

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from plotly.subplots import make_subplots

from evonb.plots.picture import figure_image, figure_svg, nice_ticks, png_size, png_uri
from evonb.plots.style import figure

EVIL = '<img src=x onerror="alert(1)">&'
SVG = "{http://www.w3.org/2000/svg}"


def parsed(fig, **more):
    return ET.fromstring(figure_svg(fig, **more))


def marks(root):
    "The middle of every round mark, in px."
    found = [re.findall(r"M([\d.-]+) ([\d.-]+)a([\d.]+)", p.get("d")) for p in root.iter(f"{SVG}path")]
    return np.array([(float(x) + float(r), float(y)) for one in found for x, y, r in one])


@pytest.mark.parametrize("seed", range(4))
def test_marks_lie_where_their_values_are(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(5, 3, 40), 10 ** rng.uniform(-2, 3, 40)
    fig = figure("t").add_scatter(x=x, y=y, mode="markers", showlegend=False)
    fig.update_layout(yaxis_type="log", xaxis_autorange="reversed" if seed % 2 else None)
    at = marks(parsed(fig))
    assert len(at) == 40
    for drawn, value, way in ((at[:, 0], x, -1 if seed % 2 else 1), (at[:, 1], np.log10(y), -1)):
        slope, first = np.polyfit(value, drawn, 1)
        assert np.abs(slope * value + first - drawn).max() < 0.15 and slope * way > 0  # to a tenth of a pixel


def test_bars_and_cells_have_their_sizes():
    bars = parsed(figure("t").add_bar(x=["a", "b", "c"], y=[1, 4, 2], showlegend=False)).findall(f".//{SVG}rect")
    heights = np.array([float(b.get("height")) for b in bars])
    assert np.allclose(heights / heights[0], [1, 4, 2], rtol=0.01)
    z = [[0.0, 0.5, 1.0], [0.25, None, 0.75]]
    fig = figure("t").add_heatmap(z=z, zmin=0, zmax=1, colorscale=[(0, "rgb(0,0,0)"), (1, "rgb(200,100,0)")],
                                  texttemplate="%{z:.0%}")
    root = parsed(fig)
    fills = [tuple(map(float, re.findall(r"[\d.]+", r.get("fill")))) for r in root.iter(f"{SVG}rect")]
    assert sorted(fills) == [(200 * v, 100 * v, 0.0) for v in (0, 0.25, 0.5, 0.75, 1)]
    assert {"25%", "100%"} <= {t.text for t in root.iter(f"{SVG}text")}


def test_a_line_breaks_where_a_value_is_missing_and_a_large_map_is_an_image():
    fig = figure("t").add_scatter(x=[0, 1, 2, 3], y=[0, 1, None, 2], mode="lines", showlegend=False)
    drawn = [p.get("d") for p in parsed(fig).iter(f"{SVG}path") if p.get("fill") == "none"]
    assert len(drawn) == 1 and drawn[0].count("M") == 2 and drawn[0].count("L") == 1
    image = parsed(figure("t").add_heatmap(z=np.arange(90 * 70).reshape(90, 70))).find(f".//{SVG}image")
    assert png_size(image.get("href")) == (70, 90)


def test_many_cells_are_paths_at_the_same_places():
    z = np.arange(400.0).reshape(4, 100) % 7
    z[1, 5], x = np.nan, np.arange(100) + np.arange(100) // 10  # a gap after every ten
    fig = figure("t").add_heatmap(z=z, x=x, zmin=0, zmax=6, colorscale=[(0, "rgb(0,0,0)"), (1, "rgb(60,0,0)")])
    found = {}
    for path in parsed(fig).iter(f"{SVG}path"):
        if (path.get("fill") or "none") != "none":
            level = float(re.findall(r"[\d.]+", path.get("fill"))[0]) / 10
            found |= {(float(a), float(b)): level for a, b in re.findall(r"M([\d.-]+) ([\d.-]+)h", path.get("d"))}
    xs, ys = (sorted({p[k] for p in found}) for k in (0, 1))
    assert len(found) == 399 and len(ys) == 4 and len(xs) == 100
    assert np.allclose(np.diff(xs) / np.diff(xs).min(), np.diff(x), atol=0.1)
    for (a, b), level in found.items():
        assert level == pytest.approx(z[3 - ys.index(b), xs.index(a)], abs=0.11)  # colours in steps of a hundredth


def test_subplots_stand_beside_each_other():
    fig = figure("t", base=make_subplots(1, 2))
    for i in (1, 2):
        fig.add_scatter(x=[0, 1], y=[0, 1], mode="markers", row=1, col=i, showlegend=False)
    x = marks(parsed(fig))[:, 0]
    assert len(x) == 4 and x[1] < x[2]


def test_words_are_text_and_colours_can_not_leave_their_attribute():
    fig = figure(EVIL, EVIL).add_scatter(x=[EVIL, "b"], y=[1, 2], name=EVIL, mode="lines+markers+text", text=[EVIL, ""])
    fig.add_annotation(text="a &lt;b&gt;<br>c", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    drawn = figure_svg(fig.update_layout(xaxis_title=EVIL, yaxis_title=EVIL))
    root = ET.fromstring(drawn)
    assert not list(root.iter("img")) and not list(root.iter(f"{SVG}img")) and "onerror" not in drawn
    assert "a <b>" in {t.text for t in root.iter(f"{SVG}text")}
    assert figure_image(go.Figure(), "&lt;b&gt;") == "<p>Figure: &lt;b&gt;</p>"


def test_what_can_not_be_drawn_or_is_too_large_is_told_in_words():
    many = figure("t").add_scatter(x=np.arange(50_000), y=np.arange(50_000) % 97, mode="markers")
    assert figure_svg(many, max_kb=50) == "" and figure_image(many, "many", 50) == "<p>Figure: many</p>"
    assert figure_svg(go.Figure(go.Pie(values=[1, 2]))) == ""
    empty = figure("t").add_scatter(x=[], y=[], mode="markers")
    assert ET.fromstring(figure_svg(empty)) is not None
    flat = figure("t").add_scatter(x=[1, 1], y=[3, 3], mode="markers", showlegend=False)
    assert np.isfinite(marks(parsed(flat))).all()


@pytest.mark.parametrize("low, high", [(0, 1), (-3, 1e6), (0.001, 0.0011), (5, 5)])
def test_ticks_are_round_and_within(low, high):
    ticks = nice_ticks(low, high)
    assert (ticks >= low - 1e-9).all() and (ticks <= high + 1e-9).all() and 1 <= len(ticks) <= 8
    steps = np.diff(ticks)
    if len(steps):
        lead = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
        assert np.allclose(steps, steps[0]) and np.isclose(lead, [1, 2, 5, 10], rtol=1e-6).any()


def test_an_image_is_what_went_in():
    rgba = np.random.default_rng(0).integers(0, 256, (4, 7, 4), np.uint8)
    read = Image.open(BytesIO(base64.b64decode(png_uri(rgba).partition(",")[2])))
    assert (np.asarray(read) == rgba).all()

"""Figures for a journal: widths in millimetres, letters of 6 pt at least, captions from what a test told."""

import importlib.util
import re
import xml.etree.ElementTree as tree

import numpy as np
import plotly.graph_objects as go
import pytest

from evonb.core import InputError
from evonb.plots.paper import SMALLEST, find_chromium, for_print, save_figure, svg_at
from evonb.plots.paper import difference_caption as caption_of
from evonb.plots.style import figure
from evonb.statistics import crossed_mean, judge_family

DRAWS = importlib.util.find_spec("kaleido") is not None and find_chromium() is not None
needs_drawing = pytest.mark.skipif(not DRAWS, reason="kaleido or a Chromium isn't installed")


def drawn():
    fig = figure("A heading", "and a subtitle").add_trace(go.Scatter(x=[1, 2, 3], y=[3, 1, 2], name="one"))
    fig.add_annotation(text="small", x=1, y=3, font=dict(size=5))
    return fig.update_layout(xaxis_title="tokens", yaxis_title="loss (nats/token)")


@needs_drawing
@pytest.mark.parametrize("width", ["89mm", "183mm"])
def test_an_svg_has_its_width_letters_and_caption(tmp_path, width):
    told = "Difference <A & B>: +0.3, 95 % interval +0.1 to +0.5; 3 seeds; p = 0.02."
    path = save_figure(drawn(), tmp_path / "f.svg", width, told)
    root = tree.fromstring(path.read_text())
    name = "{http://www.w3.org/2000/svg}"
    assert root.get("width") == width and root.get("height").endswith("mm")
    assert root.find(f"{name}desc").text == told == (tmp_path / "f.txt").read_text().strip()
    box = [float(x) for x in root.get("viewBox").split()]
    assert abs(box[2] - float(width[:-2]) * 96 / 25.4) < 1, "a px is a px, so sizes of letters are what they say"
    sizes = [float(x) for x in re.findall(r"font-size: ?([\d.]+)px", path.read_text())]
    assert sizes and min(sizes) >= SMALLEST - 1e-6


def test_the_figure_itself_stays_as_it_is():
    fig = drawn()
    before = fig.to_json()
    made = for_print(fig, "89mm")
    assert fig.to_json() == before and made.layout.title.text is None
    assert made.layout.annotations[0].font.size >= SMALLEST and made.layout.paper_bgcolor == "white"


def test_letters_that_are_too_small_are_refused():
    with pytest.raises(InputError, match="Letters of 3 pt are in the figure, but must have 6 pt at 89mm"):
        svg_at('<svg width="336" height="200"><text style="font-size: 4px;">x</text></svg>', "89mm", "")


def test_a_page_holds_its_caption_escaped(tmp_path):
    path = save_figure(drawn(), tmp_path / "f.html", caption="a <b> & c")
    page = path.read_text()
    assert "<p>a &lt;b&gt; &amp; c</p></main></body>" in page and "color-scheme: light dark" in page
    assert f"<title>{drawn().layout.title.text}</title>" in page


@pytest.mark.parametrize("path, width, said", [
    ("f.png", "89mm", "must end in .svg or .html"),
    ("f.svg", "90mm", "width is '90mm', but must be one of: 89mm, 183mm"),
])  # fmt: skip
def test_what_cannot_be_saved_is_told(tmp_path, path, width, said):
    with pytest.raises(InputError, match=said):
        save_figure(drawn(), tmp_path / path, width)


def test_a_caption_says_what_the_test_told():
    values = np.random.default_rng(0).normal(0.3, 0.1, (4, 30))
    found = crossed_mean(values)
    told = caption_of(found, "Gain (nats/token)")
    for part in (f"{found['mean']:+.3g}", f"{found['low']:+.3g} to {found['high']:+.3g}", "95 % interval", "4 seeds",
                 "30 items", f"p = {found['p']:.2g}"):  # fmt: skip
        assert part in told, part
    family = judge_family(dict(a=found, b=crossed_mean(values + 1)))
    assert "corrected for 2 comparisons (Holm)" in caption_of(family["a"], "Gain")
    assert "no interval and no test (one seed)" in caption_of(crossed_mean(values[:1]), "Gain")
    assert caption_of(crossed_mean(np.full((2, 2), np.nan)), "Gain") == "Gain: no value."

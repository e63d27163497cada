"""Explorers: what a control accepts, what a page asks and hears, and what a page without Python holds."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from evonb.core import InputError
from evonb.widgets import explorer
from evonb.widgets.explorer import Control, Explorer, Reply, View, button, choice, packed, slider, toggle

BAD = '<img src=x onerror="alert(1)"></script>'


class Sums(Explorer):
    "Adds the values of its controls; every reply is recorded."

    def __init__(self, title="Sums"):
        self.asked, self.pressed = [], []
        controls = [slider("a", "A", 0, 3), choice("b", "B", [(10, "ten"), (20, BAD)]), toggle("c", "C"),
                    slider("shade", "Shade", 0.0, 1.0, 0.1, local=True), button("stop", "Stop")]
        views = [View("sum", "table", "Sum", needs=("a", "b"), uses=("shade",), click={"a": "row"}),
                 View("figure", "plotly", "Figure", needs=("c",)), View("constant", "text", "Constant")]
        super().__init__(title, controls, views)

    def reply(self, view, values):
        self.asked.append((view, values))
        if view == "sum":
            if values["a"] == 3:
                raise InputError(f"three is too much for {BAD}")
            return Reply(dict(total=values["a"] + values["b"]), [np.arange(1000, dtype=np.int32)])
        if view == "figure":
            return Reply.of_figure(go.Figure().add_scatter(y=[1.0, float("nan"), int(values["c"])]))
        return Reply.of_text("always the same")

    def on_press(self, name):
        self.pressed.append(name)


@pytest.fixture
def sums(monkeypatch):
    made = Sums()
    made.sent = []
    monkeypatch.setattr(made, "send", lambda content, buffers=(): made.sent.append((content, list(buffers))))
    return made


# Controls ---------------------------------------------------------------------------------------------------------

def test_a_slider_has_the_values_between_its_ends():
    assert [v for v, _ in slider("x", "X", 0.1, 0.5, 0.1).options] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [v for v, _ in slider("x", "X", 2, 8, 3).options] == [2, 5, 8]
    assert slider("x", "X", [1, 10, 100], value=10).value == 10


@pytest.mark.parametrize("values, said", [
    (dict(a=4), "a is 4, but must be one of: 0, 1, 2, 3"), (dict(a="1"), "must be one of"),
    (dict(a=True), "a is True"), (dict(c=1), "c is 1"), (dict(nope=1), "no control 'nope'; the controls are: a, b, c"),
    (dict(stop=1), "no control 'stop'")])
def test_a_value_that_a_control_does_not_have_is_refused(sums, values, said):
    before = dict(sums.values)
    with pytest.raises(InputError, match=re.escape(said)):
        sums.set(**values)
    assert sums.values == before


def test_setting_one_control_leaves_the_others(sums):
    sums.set(a=np.int64(2), c=True).set(b=20)
    assert sums.values == dict(a=2, b=20, c=True, shade=0.0)
    assert type(sums.values["a"]) is int
    sums.values = dict(a=1)
    assert sums.values == dict(a=1, b=20, c=True, shade=0.0), "what isn't named keeps its value"


def test_views_may_only_name_controls_that_are_there():
    def made(**view):
        return Explorer("x", [slider("a", "A", 0, 1), slider("l", "L", 0, 1, local=True), button("go", "Go")],
                        [View("v", "text", "V", **view)])
    for wrong, said in ((dict(needs=("b",)), "names the control 'b'"), (dict(click={"z": "x"}), "'z'"),
                        (dict(needs=("l",)), "local"), (dict(needs=("go",)), "button")):
        with pytest.raises(InputError, match=said):
            made(**wrong)
    with pytest.raises(InputError, match="no options"):
        choice("x", "X", [])


# Replies ----------------------------------------------------------------------------------------------------------

def test_what_json_cannot_hold_becomes_null():
    content = Reply(dict(a=np.float32(np.nan), b=[np.inf, np.int8(3)], c=np.array([1.0, -np.inf]))).content
    assert content == dict(a=None, b=[None, 3], c=[1.0, None])
    json.dumps(content, allow_nan=False)


def test_arrays_travel_as_zlib_streams_of_their_bytes():
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    back = [zlib.decompress(b) for b in packed(Reply({}, [values[:, ::2], b"raw"]))]
    assert np.array_equal(np.frombuffer(back[0], np.float32).reshape(7, 3), values[:, ::2])
    assert back[1] == b"raw"


def test_only_the_needed_values_reach_a_reply(sums):
    sums.ask("sum", a=1)
    sums.ask("constant")
    assert sums.asked == [("sum", dict(a=1, b=10)), ("constant", {})]
    with pytest.raises(InputError, match="no view 'nope'; the views are: sum, figure, constant"):
        sums.ask("nope")


# What a page asks and hears ---------------------------------------------------------------------------------------

def test_every_question_is_answered(sums):
    sums._heard(sums, dict(id="q1", ask="sum", values=dict(a=2, b=20)), [])
    content, buffers = sums.sent.pop()
    assert content == dict(id="q1", content=dict(total=22))
    assert np.array_equal(np.frombuffer(zlib.decompress(buffers[0]), np.int32), np.arange(1000))
    for wrong, said in ((dict(ask="sum", values=dict(a=3)), "three is too much"), (dict(ask="nope"), "no view 'nope'"),
                        (dict(ask="sum", values=dict(a=99)), "a is 99")):
        sums._heard(sums, dict(id="q2", **wrong), [])
        content, buffers = sums.sent.pop()
        assert content["id"] == "q2" and said in content["error"] and not buffers


def test_an_unforeseen_error_is_told_and_raised(sums, monkeypatch):
    def broken(view, values):
        raise ZeroDivisionError("by zero")
    monkeypatch.setattr(sums, "reply", broken)
    with pytest.raises(ZeroDivisionError):
        sums._heard(sums, dict(id=1, ask="constant"), [])
    assert sums.sent == [(dict(id=1, error="ZeroDivisionError: by zero"), [])]


def test_buttons_and_pushes(sums):
    sums._heard(sums, dict(press="stop"), [])
    assert sums.pressed == ["stop"] and not sums.sent
    sums.push("constant", Reply.of_text("new"))
    sums.refresh()
    assert sums.sent == [(dict(push="constant", content=dict(text="new")), []), (dict(refresh=True), [])]


def test_plotly_goes_over_on_demand(sums):
    sums._heard(sums, dict(id=1, plotly=True), [])
    (_, [bundle]), = sums.sent
    assert b"Plotly" in zlib.decompress(bundle)[-200:]


def test_figure_is_the_plain_plotly_figure(sums):
    assert list(sums.figure(c=True).data[0].y)[::2] == [1.0, 1]
    with pytest.raises(InputError, match="sum has no figure"):
        sums.figure("sum")


# Pages without Python ---------------------------------------------------------------------------------------------

def stored(page):
    "What a page holds for its script."
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])


def test_a_page_holds_every_reply_once(sums):
    data = stored(sums.to_html())
    totals = {key: r["content"]["total"] for key, r in data["replies"].items() if "sum" in key and "content" in r}
    assert totals == {f"sum:{i},{j}": i + b for i in range(3) for j, b in enumerate((10, 20))}
    assert "three is too much" in data["replies"]["sum:3,0"]["error"]
    assert len(data["blobs"]) == 1 + 2, "the same array, and one figure for each value of c"
    array = zlib.decompress(base64.b64decode(data["blobs"][data["replies"]["sum:0,0"]["arrays"][0]]))
    assert np.array_equal(np.frombuffer(array, np.int32), np.arange(1000))


def test_a_control_that_has_no_choice_somewhere_is_asked_once_there(sums):
    sums.controls["b"] = sums.controls["b"]._replace(instead=dict(a={"1": "no choice here", "3": "nor here"}))
    data = stored(sums.to_html())
    known = {key: r for key, r in data["replies"].items() if key.startswith("sum")}
    assert {key: r for key, r in known.items() if isinstance(r, str)} == {"sum:1,1": "sum:1,0", "sum:3,1": "sum:3,0"}
    assert all(isinstance(known[r], dict) for r in known.values() if isinstance(r, str))
    assert [v for view, v in sums.asked if view == "sum" and v["a"] == 1] == [dict(a=1, b=10)]


def test_a_large_page_isn_t_held_in_memory(sums, tmp_path):
    "What is kept lies in files beyond a megabyte; the page is the same."
    class Large(Sums):
        def reply(self, view, values):
            return Reply(dict(noise=f"{BAD} {values}" * 400), [np.random.default_rng(len(str(values))).bytes(5000)])
    pages = explorer.Pages(25)
    pages.keep(sums, sums.controls)
    large, spilt = Large(), explorer.Pages(25)
    large.controls["a"] = slider("a", "A", 0, 99)
    spilt.keep(large, large.controls)
    assert spilt._replies._rolled and not pages._replies._rolled, "a file of a megabyte or more lies on the disk"
    data = stored(large.to_html(tmp_path / "x.html").read_text())
    assert len(data["replies"]) == spilt.n_replies == 203
    assert data["replies"]["sum:99,1"]["content"]["noise"].startswith(BAD)


def test_a_page_may_keep_a_part(sums):
    sums.set(a=2)
    data = stored(sums.to_html(only=dict(a=[0, 1])))
    assert data["spec"]["controls"][0]["options"] == [[0, "0"], [1, "1"]]
    assert data["values"]["a"] == 0, "2 isn't kept, so the first that is"
    assert len([k for k in data["replies"] if k.startswith("sum")]) == 4
    for wrong, said in ((dict(a=[7]), "a is 7"), (dict(z=[1]), "only names 'z'"), (dict(a=[]), "empty")):
        with pytest.raises(InputError, match=said):
            sums.to_html(only=wrong)


def test_a_page_that_is_too_large_is_refused_and_nothing_is_written(sums, tmp_path):
    with pytest.raises(InputError, match="more than 0.0001 MB.*only="):
        sums.to_html(tmp_path / "x.html", max_mb=0.0001)
    assert not list(tmp_path.iterdir())
    assert sums.to_html(tmp_path / "x.html") == tmp_path / "x.html"


def test_nothing_ends_the_page_s_script_and_nothing_is_loaded():
    page = Sums(BAD).to_html()
    assert "onerror" not in page.split("<body>")[0].replace("&lt;img src=x onerror=", "")
    assert page.count("</script>") == 3 and BAD not in page
    assert stored(page)["spec"]["title"] == BAD
    assert not re.search(r'(?:src|href)="(?!data:)', page.split('type="module"')[0])


def test_static_pages_show_the_fragment(sums, monkeypatch):
    monkeypatch.setenv("EVONB_STATIC", "1")
    shown = sums._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/html"} and "mountStored(" in shown["text/html"]
    monkeypatch.delenv("EVONB_STATIC")
    assert "application/vnd.jupyter.widget-view+json" in Sums()._repr_mimebundle_()[0]


def test_the_spec_is_what_json_can_hold(sums):
    layout = json.loads(json.dumps(sums._spec))
    assert [c["name"] for c in layout["controls"]] == ["a", "b", "c", "shade", "stop"]
    assert Control(*layout["controls"][4].values()).kind == "button"
    assert repr(sums) == "Sums('Sums', a=0, b=10, c=False, shade=0.0)"


def copied(folder, static=True):
    "A package `copied` whose explorer lies deeper than evonb's, with or without the folder `static` beside it."
    source = re.sub(r"^from \.+", "from evonb.", Path(explorer.__file__).read_text(encoding="utf-8"), flags=re.M)
    made = folder / "copied" / "widgets"
    made.mkdir(parents=True)
    for p in (made.parent, made):
        (p / "__init__.py").touch()
    (made / "explorer.py").write_text(source, encoding="utf-8")
    if static:
        shutil.copytree(Path(explorer.__file__).parent / "static", made / "static")
    code = "from copied.widgets.explorer import page_code; print(page_code('js') + page_code('css'))"
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8",
                          env=os.environ | {"PYTHONPATH": path}, timeout=300)


def test_the_page_s_code_is_found_wherever_the_module_lies(tmp_path):
    script = explorer.page_code("js")
    runtime, tree = ((Path(explorer.__file__).parent / "static" / f"{name}.js").read_text(encoding="utf-8")
                     for name in ("runtime", "tree"))  # fmt: skip
    assert script.startswith(runtime) and tree in script and "evonb" in explorer.page_code("css")
    made = copied(tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout == script + explorer.page_code("css") + "\n"


def test_a_package_without_its_static_files_says_so(tmp_path):
    made = copied(tmp_path, static=False)
    assert made.returncode and "FileNotFoundError: An explorer's page needs runtime.js, but " in made.stderr
    assert "install it anew" in made.stderr and os.path.join("copied", "widgets", "static") in made.stderr

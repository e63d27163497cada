"""The connectome explorer in JupyterLab and in a page from disk: what it draws is what NumPy has."""

import csv
import io
import json
import shutil
import struct

import numpy as np
import pytest

from evonb.connectomes.wiring import compare
from evonb.core import Seeds
from evonb.training.connectome import Connectome
from evonb.widgets.connectome import ConnectomeExplorer, TokenFacts, example_connectome_run

EVIL = "<img src=x onerror=window.hacked=1>"
NAME = "transformer.h.1.mlp.c_fc.weight"
POSITIVE, NEGATIVE = (0xD5, 0x5E, 0), (0, 0x72, 0xB2)
# The colour of the weight at (row, column), from the canvas's own account of what it shows.
PIXEL = """(e, [row, column]) => { const d = e.dataset, ratio = e.width / e.clientWidth;
  const x = (column + .5 - d.left) * d.scaleX * ratio, y = (row + .5 - d.top) * d.scaleY * e.height / e.clientHeight;
  return Array.from(e.getContext('2d').getImageData(Math.floor(x), Math.floor(y), 1, 1).data); }"""


@pytest.fixture(scope="module")
def run(lab):
    return example_connectome_run(lab.root / "runs" / "evolved", Seeds(5), width=32, arms=("random", EVIL))


@pytest.fixture(scope="module")
def connectomes(run):
    return [Connectome.load(run / "evolution" / f"gen-{g:02d}" / "connectome.safetensors") for g in range(4)]


CELLS = ["from evonb.widgets.connectome import ConnectomeExplorer\n"
         "e = ConnectomeExplorer('runs/evolved').set(layer=1, matrix='mlp.c_fc')", "e"]


def mask(seen):
    return seen.view("mask").locator("canvas").first


def at(seen, row, column):
    "Page coordinates of the middle of a weight."
    d, box = seen.canvas("mask"), mask(seen).bounding_box()
    return (box["x"] + (column + 0.5 - float(d["left"])) * float(d["scaleX"]),
            box["y"] + (row + 0.5 - float(d["top"])) * float(d["scaleY"]))


def pointed(seen, row, column):
    "Whether the canvas says that the mouse is over this weight."
    d = seen.canvas("mask")
    return (d.get("row"), d.get("column")) == (str(row), str(column))


def hover(seen, row, column):
    "Brings the mouse to the middle of a weight, until the canvas knows it."
    return seen.point("mask", lambda: at(seen, row, column), lambda: pointed(seen, row, column))


def signs_drawn(seen, cells):
    "The signs that pixels say: 0 where there is none."
    names = {POSITIVE: 1, NEGATIVE: -1}
    drawn = [mask(seen).evaluate(PIXEL, [int(r), int(c)]) for r, c in cells]
    return [names[tuple(p[:3])] if p[3] == 255 else 0 if p[3] == 0 else p for p in drawn]


def some_cells(signs, seed=0, n=6):
    "Some places of each sign."
    rng = np.random.default_rng(seed)
    return [tuple(p) for s in (1, -1, 0) for p in rng.permutation(np.argwhere(signs == s))[:n]]


def check_mask(seen, signs):
    "Counts and pixels of what is shown are those of the matrix."
    d = seen.canvas("mask")
    assert (int(d["rows"]), int(d["columns"])) == signs.shape and d["mode"] == "mask"
    assert int(d["live"]) == np.count_nonzero(signs) and int(d["positive"]) == (signs > 0).sum()
    cells = some_cells(signs)
    assert signs_drawn(seen, cells) == [int(signs[c]) for c in cells]


def check_difference(seen, here, there):
    d, known = seen.canvas("mask"), compare(there, here).sel(matrix=NAME)
    assert d["mode"] == "difference"
    assert [int(d[k]) for k in ("born", "died", "flipped")] == [int(known[k]) for k in ("born", "died", "flipped")]
    assert int(d["kept"]) + int(d["flipped"]) == int(known.shared)
    legend = seen.view("mask").locator("[data-swatch=died]").inner_text()
    assert f"{int(known.died):,}" in legend


def check_hover(seen, page, signs):
    "Hovering says row, column and sign."
    words = {1: "positive", -1: "negative", 0: "no wire"}
    for row, column in some_cells(signs, 1, 1):
        hover(seen, row, column)
        d = seen.canvas("mask")
        assert int(d["sign"]) == signs[row, column]
        told = f"row {row} (hidden unit {row}), column {column} (residual dimension {column}): {words[int(d['sign'])]}"
        assert seen.note("mask") == told
        assert seen.view("mask").locator(".evonb-tip").inner_text().replace("\n", " ") == told


def test_the_mask_in_jupyterlab(notebook_page, run_until, explorer, run, connectomes, assert_accessible, screenshot):
    page = notebook_page(CELLS, viewport=dict(width=1300, height=2700))  # so that the picture shows all of it
    seen = explorer(page).ready()
    check_mask(seen, connectomes[3].signs[NAME].numpy())
    seen.set("generation", 1).ready()  # a real slider, moved by its keys
    signs = connectomes[1].signs[NAME].numpy()
    assert seen.canvas("mask")["generation"] == "generation 1"
    check_mask(seen, signs)
    check_hover(seen, page, signs)
    row, column = map(int, np.argwhere(signs == -1)[7])
    seen.click("mask", lambda: at(seen, row, column), lambda: pointed(seen, row, column))
    wanted = dict(view="mask", row=row, column=column, sign=-1, matrix=NAME, generation=1)
    run_until(page, "import json; print(json.dumps(e.clicked, sort_keys=True))", json.dumps(wanted, sort_keys=True))
    seen.set("compare", "generation 0").ready()
    check_difference(seen, connectomes[1], connectomes[0])
    assert f"{int(compare(connectomes[0], connectomes[1]).sel(matrix=NAME).died):,}" in seen.text("differences")
    assert f"arm {EVIL}, seed 1" in seen.options("compare") and page.evaluate("() => window.hacked") is None
    seen.set("compare", f"arm {EVIL}, seed 1").ready()
    arm = Connectome.load(run / "development" / EVIL / "seed-1" / "connectome.safetensors")
    check_difference(seen, connectomes[1], arm)
    assert page.evaluate("() => window.hacked") is None and EVIL in seen.text("differences")
    assert_accessible(page)
    seen.screenshot("connectome_explorer_lab")


def test_a_selection_comes_back_as_arrays(notebook_page, run_until, explorer, run, connectomes):
    page = notebook_page(CELLS)
    seen = explorer(page).ready()
    signs = connectomes[3].signs[NAME].numpy()
    hover(seen, 10, 4)
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(*at(seen, 20, 12), steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    part = signs[10:21, 4:13]
    assert seen.canvas("mask")["selection"] == "10:20,4:12"
    live, positive = np.count_nonzero(part), (part > 0).sum()
    assert f"{live} of 99 weights live" in seen.note("mask") and f"{positive} of them positive" in seen.note("mask")
    run_until(page, "s = e.selection or {}; print(s.get('rows'), s.get('live'))", f"[10, 20] {live}")
    run_until(page, "print(e.selection_arrays()['signs'].tolist())", str(part.tolist()))


def test_a_click_on_a_figure_moves_the_controls(notebook_page, run_until, explorer, run):
    page = notebook_page(CELLS)
    seen = explorer(page).ready()
    seen.click_plot("layers", "() => [1, 2]")
    page.wait_for_function("e => e.dataset.generation === 'generation 1'", arg=mask(seen).element_handle())
    seen.ready()
    run_until(page, "print(e.values['generation'], e.values['layer'])", "1 2")


def test_too_large_and_pushed_replies(notebook_page, run_more, explorer, run):
    page = notebook_page(CELLS)
    seen = explorer(page).ready("mask")
    run_more(page, "from evonb.widgets.explorer import Reply\n"
                   "e.push('mask', Reply(dict(rows=40_000, columns=20_000, matrix='w', live=0), [b'', b'']))")
    seen.ready("mask", state="error")
    assert "40,000 x 20,000 weights, more than the 536,870,912 that a page can hold" in seen.alert("mask")
    run_more(page, "e.push('mask', Reply(e.ask('mask').content | dict(live=3), e.ask('mask').arrays))")
    page.wait_for_function("e => e.textContent.includes('hold what their counts say')",
                           arg=seen.view("mask").locator("[role=alert]").first.element_handle())


@pytest.fixture
def stored_page(run, offline_page, tmp_path):
    def make(**options):
        made = ConnectomeExplorer(run).set(layer=1, matrix="mlp.c_fc").opened_by(f"ConnectomeExplorer({str(run)!r})")
        only = dict(layer=[1], matrix=["mlp.c_fc", "attn.c_attn"], compare=["nothing", "own:0"])
        return offline_page(made.to_html(tmp_path / "connectome.html", only=only), **options)
    return make


def test_the_page_from_disk_keeps_its_controls(stored_page, explorer, connectomes, assert_accessible):
    page = stored_page()
    seen = explorer(page).ready()
    check_mask(seen, connectomes[3].signs[NAME].numpy())
    seen.set("generation", 2).ready()
    check_mask(seen, connectomes[2].signs[NAME].numpy())
    check_hover(seen, page, connectomes[2].signs[NAME].numpy())
    seen.set("compare", "generation 0").ready()
    check_difference(seen, connectomes[2], connectomes[0])
    assert_accessible(page)


def test_parts_of_rows_are_named(stored_page, explorer, connectomes):
    page = stored_page()
    seen = explorer(page).set("matrix", "attn.c_attn").ready()
    hover(seen, 32 + 17, 5)  # 32 wide, 4 heads of 8
    assert seen.note("mask").startswith("row 49 (head 2 key dimension 1), column 5 (residual dimension 5): ")


def test_zoom_pan_and_the_keyboard(stored_page, explorer, connectomes):
    page, signs = stored_page(), connectomes[3].signs[NAME].numpy()
    seen = explorer(page).ready("mask")
    canvas = mask(seen)
    canvas.focus()
    for _ in range(8):
        page.keyboard.press("+")
    d = seen.canvas("mask")
    assert float(d["zoom"]) == 1 and float(d["scaleX"]) >= 28 and float(d["scaleY"]) == 28
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"):
        before = seen.canvas("mask")
        page.keyboard.press(key)
        now, axis = seen.canvas("mask"), "row" if key in ("ArrowUp", "ArrowDown") else "column"
        if "row" in before:
            assert int(now[axis]) - int(before[axis]) == (1 if key in ("ArrowDown", "ArrowRight") else -1)
        assert int(now["sign"]) == signs[int(now["row"]), int(now["column"])]
    visible = [(r, c) for r, c in np.ndindex(*signs.shape)
               if 0 < r - float(now["top"]) < 14 and 0 < c - float(now["left"]) < 20]
    cells = [visible[i] for i in np.random.default_rng(0).permutation(len(visible))[:12]]
    assert signs_drawn(seen, cells) == [int(signs[c]) for c in cells]
    for _ in range(40):
        page.keyboard.press("ArrowDown")  # the sight follows the cursor
    after = seen.canvas("mask")
    assert int(after["row"]) == int(now["row"]) + 40 and float(after["top"]) > float(now["top"])
    page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Shift+ArrowRight")
    r0, c0 = int(after["row"]), int(after["column"])
    assert seen.canvas("mask")["selection"] == f"{r0}:{r0 + 1},{c0}:{c0 + 1}"
    assert int(seen.canvas("mask")["selectedLive"]) == np.count_nonzero(signs[r0:r0 + 2, c0:c0 + 2])
    page.keyboard.press("Escape")
    assert "selection" not in seen.canvas("mask")
    x, y = hover(seen, r0, c0)
    page.mouse.down()
    page.mouse.move(x - 140, y - 56, steps=4)
    page.mouse.up()
    page.wait_for_function("([e, top]) => Math.abs(e.dataset.top - top - 2) < .1",  # two rows of 28 px
                           arg=[canvas.element_handle(), float(after["top"])])
    page.keyboard.press("0")
    assert float(seen.canvas("mask")["zoom"]) == 0
    page.mouse.wheel(0, -300)  # focused: the wheel zooms
    page.wait_for_function("e => +e.dataset.zoom > 0.1", arg=canvas.element_handle())
    seen.press("Show all of the matrix")
    assert float(seen.canvas("mask")["zoom"]) == 0


def hidden_blocks(signs, d, sides):
    "How many blocks are drawn, and how many have fewer live weights than the threshold; by brute force."
    grain, (width, height) = int(d["grain"]), sides

    def edges(n, size, unit):  # of blocks of `grain` px; they begin at whole units
        first = np.floor(np.arange(-(-n // grain) + 1) / (n / size / grain) / unit + 1e-9).astype(int)
        return [(a * unit, min(max(a + 1, b) * unit, size)) for a, b in zip(first, first[1:])]

    down, across = edges(height, signs.shape[0], int(d["high"])), edges(width, signs.shape[1], int(d["wide"]))
    shares = np.array([[np.mean(signs[a:b, c:e] != 0) if a < b and c < e else 0 for c, e in across] for a, b in down])
    return int((shares > 0).sum()), int(((shares > 0) & (shares < float(d["threshold"]) - 1e-9)).sum())


def test_the_threshold_hides_thin_blocks(offline_page, explorer):
    import torch
    rng = np.random.default_rng(2)
    signs = (rng.random((900, 700)) < np.linspace(0.05, 0.6, 700)).astype(np.int8)
    made = ConnectomeExplorer(Connectome({"w": torch.from_numpy(signs)}, {"w": signs.shape}))
    page = offline_page(made.to_html(only=dict(compare=["nothing"])), viewport=dict(width=400, height=800))
    seen = explorer(page).ready("mask")
    assert seen.canvas("mask")["hidden"] == "0"
    seen.set("threshold", 30)
    d = seen.canvas("mask")
    size = mask(seen).evaluate("e => [e.width, e.height]")
    assert d["threshold"] == "0.3" and (int(d["blocks"]), int(d["hidden"])) == hidden_blocks(signs, d, size)
    assert int(d["hidden"]) > 1000 and int(d["grain"]) > 1


def downloaded(page, press):
    with page.expect_download() as waiting:
        press()
    return waiting.value.suggested_filename, waiting.value.path().read_bytes()


def test_the_selection_is_saved_as_png_and_csv(stored_page, explorer, connectomes):
    page, signs = stored_page(), connectomes[3].signs[NAME].numpy()
    seen = explorer(page).ready("mask")
    name, data = downloaded(page, lambda: seen.press("Save the live weights of the selection, or of all, as CSV"))
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    found = np.zeros_like(signs)
    for r in rows:
        found[int(r["row"]), int(r["column"])] = int(r["sign"])
    assert name.endswith(".csv") and len(rows) == np.count_nonzero(signs) and (found == signs).all()
    seen.press("Select by dragging (also: drag with Shift, or Shift and the arrow keys)")
    hover(seen, 30, 8)
    page.mouse.down()
    page.mouse.move(*at(seen, 61, 23), steps=3)
    page.mouse.up()
    name, data = downloaded(page, lambda: seen.press("Save the selection, or all, as a PNG picture"))
    assert name.endswith(".png") and data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (16 * 16, 32 * 16)  # a weight is 16 px: 512 px for 32 rows
    part = signs[30:62, 8:24]
    pixels = page.evaluate("""async (bytes) => {
      const image = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
      const c = new OffscreenCanvas(image.width, image.height).getContext('2d'); c.drawImage(image, 0, 0);
      return Array.from({length: 32 * 16}, (_, i) => Array.from(
        c.getImageData(16 * (i % 16) + 8, 16 * Math.floor(i / 16) + 8, 1, 1).data.slice(0, 3))); }""", list(data))
    colours = {1: POSITIVE, -1: NEGATIVE, 0: (255, 255, 255)}
    assert [tuple(p) for p in pixels] == [colours[int(s)] for s in part.ravel()]


def test_names_with_html_are_text(offline_page, explorer):
    import torch
    signs = torch.from_numpy(np.random.default_rng(0).choice([-1, 0, 1], (6, 8)).astype(np.int8))
    one, other = (Connectome({EVIL: s}, {EVIL: (6, 8)}) for s in (signs, -signs))
    made = ConnectomeExplorer({EVIL: one, "b": other})
    page = offline_page(made.to_html(only=dict(compare=["nothing", "own:b"])))
    seen = explorer(page).set("compare", "b").ready("mask").ready("differences").ready("layers").ready("signs")
    assert page.evaluate("() => window.hacked") is None and page.locator(".evonb-explorer img").count() == 0
    assert EVIL in seen.text("differences") and EVIL in seen.options("generation")
    assert seen.canvas("mask")["flipped"] == str(int((signs != 0).sum()))


@pytest.mark.parametrize("width, dark", [(1200, False), (1200, True), (400, False), (400, True)])
def test_it_follows_its_column_in_light_and_dark(stored_page, explorer, assert_accessible, width, dark):
    page = stored_page(viewport=dict(width=width, height=900), color_scheme="dark" if dark else "light")
    seen = explorer(page).ready()
    box = mask(seen).bounding_box()
    assert width - 90 <= box["width"] <= width and page.evaluate("() => document.body.scrollWidth") <= width
    assert_accessible(page)
    seen.screenshot(f"connectome_explorer_{width}_{'dark' if dark else 'light'}")
    page.set_viewport_size(dict(width=700, height=900))
    page.wait_for_function("e => e.clientWidth > 600 && e.clientWidth < 700", arg=mask(seen).element_handle())


# The map, tabs, tokens, orders, and what is handed on


def matrices(seen):
    "The map's buttons by the name of their matrix: what each says, and whether it is pressed."
    told = seen.view("network").locator("[data-name]").evaluate_all(
        "all => all.map((e) => [e.dataset.name, e.getAttribute('aria-label'), e.getAttribute('aria-pressed')])")
    return {name: (label, pressed == "true") for name, label, pressed in told}


def test_the_map_moves_the_explorer(stored_page, explorer, run, connectomes, assert_accessible):
    page = stored_page()
    seen = explorer(page).ready()
    known = {n: (s != 0).float().mean() * 100 for n, s in connectomes[3].signs.items()}
    seen.set("tint", "live weights").ready("network")
    told = matrices(seen)
    assert told.keys() == known.keys()
    for name, (label, pressed) in told.items():
        assert label.endswith(f"live weights: {known[name]:.1f} %") and pressed == (name == NAME)
    seen.view("network").locator('[data-name="transformer.h.1.attn.c_attn.weight"]').click()
    seen.until("matrix", "attn.c_attn").ready()
    assert seen.canvas("mask")["matrix"] == "transformer.h.1.attn.c_attn.weight"
    page.keyboard.press("ArrowDown")  # of attention's second matrix, to the MLP's first
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    seen.until("matrix", "mlp.c_fc").ready()
    assert matrices(seen)[NAME][1] and seen.canvas("mask")["matrix"] == NAME
    assert_accessible(page)


def test_a_matrix_that_stands_alone_is_told(run, offline_page, explorer):
    made = ConnectomeExplorer(run).set(layer="wte")
    page = offline_page(made.to_html(only=dict(layer=["wte", 0], matrix=["mlp.c_fc"], compare=["nothing"])))
    seen = explorer(page).ready()
    told = "e => [e.disabled, e.selectedOptions[0].text]"
    assert seen.control("matrix").evaluate(told) == [True, "wte, its only one"]
    seen.set("layer", "block 0").ready()
    assert seen.control("matrix").evaluate(told) == [False, "mlp.c_fc"]


def test_the_address_and_the_code_say_what_is_shown(stored_page, explorer, run):
    page = stored_page()
    seen = explorer(page).ready()
    seen.set("generation", 1).set("compare", "generation 0").set("order", "by live weights").ready()
    seen.view("in_degrees")
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { globalThis.copied = text; }; }")
    seen.press("Copy link")
    page.wait_for_function("() => globalThis.copied")
    link = page.evaluate("copied")
    assert link == page.url and "generation=1" in link and "tab=Degrees" in link
    seen.press("Copy code")
    page.wait_for_function("() => copied.includes('set(')")
    found = {}
    exec(page.evaluate("copied").replace("ConnectomeExplorer(", "found['e'] = ConnectomeExplorer("),
         dict(found=found, ConnectomeExplorer=ConnectomeExplorer))  # fmt: skip
    wanted = dict(generation=1, layer=1, matrix="mlp.c_fc", compare="own:0", tint="spread", order="degree", threshold=0)
    assert found["e"].values == wanted
    again = page.context.new_page()
    again.goto(link)
    opened = explorer(again).ready()
    assert opened.value("generation") == 1 and opened.value("order") == "degree"
    assert opened.names()[-1] == "out_degrees" and opened.canvas("mask")["mode"] == "difference"
    again.evaluate("() => { location.hash = 'generation=2&layer=77&compare=%3Cimg%3E&tab=Heads'; }")
    opened.until("generation", 2).ready()
    assert opened.value("compare") == "nothing" and opened.value("layer") == 1 and opened.names()[-1] == "heads"


def test_rows_are_sorted_and_found_again(stored_page, explorer, connectomes):
    page, signs = stored_page(), connectomes[3].signs[NAME].numpy()
    seen = explorer(page).set("order", "by live weights").ready()
    degrees = (signs != 0).sum(1)
    order = np.lexsort((np.arange(len(degrees)), -degrees))
    for shown in (0, 5, len(order) - 2):
        cells = [(shown, c) for c in range(0, signs.shape[1], 3)]
        assert signs_drawn(seen, cells) == [int(signs[order[r], c]) for r, c in cells]
    hover(seen, 3, 4)
    assert seen.note("mask").startswith(f"row {order[3]} (hidden unit {order[3]}), column 4 ")
    mask(seen).focus()
    page.keyboard.press("Shift+ArrowDown")
    d = seen.canvas("mask")
    (r0, r1), column = map(int, d["selection"].split(",")[0].split(":")), 4
    assert r0 == 3 < r1 and d["selection"] == f"{r0}:{r1},4:4"
    assert int(d["selectedLive"]) == np.count_nonzero(signs[order[r0:r1 + 1], column])
    seen.set("order", "by likeness").ready()
    assert int(seen.canvas("mask")["live"]) == np.count_nonzero(signs)


def test_like_rows_come_together(offline_page, explorer):
    import torch
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 40)
    patterns = rng.choice(np.array([-1, 0, 1], np.int8), (2, 60))
    signs = np.where(rng.random((40, 60)) < 0.1, 0, patterns[kinds]).astype(np.int8)
    made = ConnectomeExplorer(Connectome({"w": torch.from_numpy(signs)}, {"w": signs.shape})).set(order="like")
    page = offline_page(made.to_html(only=dict(compare=["nothing"])))
    seen = explorer(page).ready("mask")
    told = np.flatnonzero(patterns[0] != patterns[1])[:12]  # columns that tell the two kinds apart
    drawn = np.array(signs_drawn(seen, [(r, c) for r in range(40) for c in told])).reshape(40, 12)
    which = [int(np.argmax([(row == p[told]).sum() for p in patterns])) for row in drawn]
    assert sum(a != b for a, b in zip(which, which[1:])) == 1 and sorted(which) == sorted(kinds)


def test_tokens_say_what_they_are_and_are_found(run, tmp_path, offline_page, explorer, assert_accessible):
    made = ConnectomeExplorer(run).set(layer="wte")
    n = made.wiring(3).shapes["transformer.wte.weight"][0]
    texts = [f" w{i}" for i in range(n)]
    texts[7], texts[20] = " <b>the</b>", "other"
    made.source.tokens = lambda rows: TokenFacts(texts, np.arange(n) * 1000, "")
    only = dict(layer=["wte"], matrix=["mlp.c_fc"], compare=["nothing"], generation=[3])
    page = offline_page(made.to_html(only=only))
    seen = explorer(page).ready()
    hover(seen, 7, 2)
    told = 'row 7 (token 7: " <b>the</b>", seen 7,000 times), column 2 (residual dimension 2)'
    assert seen.note("mask").startswith(told)
    field = page.get_by_label("Find a token: Enter goes to the next one")
    field.fill("OTHER")
    field.press("Enter")
    assert seen.note("mask").startswith('row 20 (token 20: "other", seen 20,000 times)')
    field.fill("the")
    field.press("Enter")
    assert "token 7" in seen.note("mask") and int(seen.canvas("mask")["row"]) == 7
    field.fill("nowhere")
    field.press("Enter")
    assert seen.note("mask") == 'No token holds "nowhere".'
    seen.set("order", "tokens by frequency").ready()
    seen.press("Show all of the matrix")
    hover(seen, 0, 2)
    assert seen.note("mask").startswith(f"row {n - 1} (token {n - 1}")
    assert_accessible(page)


def test_a_tasks_circuit_is_coloured_and_selected(offline_page, explorer):
    import torch

    from evonb.widgets.connectome import Importance
    signs = np.random.default_rng(0).choice([-1, 0, 1], (16, 24)).astype(np.int8)
    name, values = "transformer.h.0.mlp.c_proj.weight", np.linspace(-1, 1, 24)[None].repeat(2, 0)
    values[1] = -values[0]
    known = Importance(["up", "down"], {f"unit 0.{i}": i for i in range(24)}, values, 0.125, "one newborn")
    made = ConnectomeExplorer(Connectome({name: torch.from_numpy(signs)}, {name: signs.shape}), importance=known)
    page = offline_page(made.to_html(only=dict(compare=["nothing"])))
    seen = explorer(page).ready("mask")
    circuit = seen.view("mask").locator("[data-tool=circuit]")
    assert circuit.is_hidden() and "importance" not in seen.canvas("mask")
    seen.set("importance", "up").ready("mask")
    circuit.click()
    d = seen.canvas("mask")
    assert (d["importance"], d["selection"]) == ("up", "circuit:21,22,23")
    assert d["selectedLive"] == str(int((signs[:, 21:] != 0).sum()))
    seen.set("importance", "down").ready("mask")
    assert "selection" not in seen.canvas("mask")
    circuit.click()
    assert seen.canvas("mask")["selection"] == "circuit:0,1,2"
    assert "importance −1.0 nats" in pointed_text(seen, 3, 23)


def pointed_text(seen, row, column):
    "What is said of a weight under the mouse."
    hover(seen, row, column)
    return seen.canvas("mask")["told"]


def test_another_evolution_is_chosen(offline_page, explorer, tmp_path):
    first, second = (
        example_connectome_run(tmp_path / n, Seeds(s), width=16, n_layers=2) for n, s in (("a", 1), ("b", 2)))
    shutil.copytree(second / "evolution", first / "lineage-1" / "evolution")
    made = ConnectomeExplorer(first)
    only = dict(compare=["nothing"], layer=[0], matrix=["mlp.c_fc"])
    shown = explorer(offline_page(made.to_html(only=only))).ready()
    before = shown.note("mask")
    assert shown.value("evolution") == 0 and "evolution" not in before
    shown.set("generation", 1).set("evolution", "evolution 1").ready()
    asked = dict(generation=1, layer=0, matrix="mlp.c_fc", compare="nothing")
    live = made.ask("mask", evolution=1, **asked).content["live"]
    assert f"{live:,} of" in shown.note("mask") and "generation 1 of evolution 1" in shown.note("mask")
    assert live != made.ask("mask", evolution=0, **asked).content["live"]

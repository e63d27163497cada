"""The tokens explorer in a page without Python: shading, attention by keys, heads, a sentence that is stored."""

import numpy as np

TEXT = "the cat sat on the mat."


def test_a_sentence_is_shaded_and_looked_at_by_keys(
    offline_page, explorer, tmp_path, tiny_reader, assert_accessible, screenshot
):
    from evonb.widgets.tokens import TokensExplorer, read_sentence

    base = tiny_reader()
    seen, read = TokensExplorer(base, [TEXT, "a dog ran."]), read_sentence(base, TEXT)
    page = offline_page(seen.to_html(tmp_path / "tokens.html"))
    shown = explorer(page).ready()
    tokens = shown.view("tokens").locator(".evonb-token")
    assert tokens.count() == len(read.pieces) and shown.root.locator("[data-control=written]").count() == 0
    alpha = "e => Number((e.style.background.match(/[\\d.]+\\)$/) ?? ['0'])[0].replace(')', ''))"
    wanted = [0.72 * min(1, b / 12) for b in np.nan_to_num(read.bits)]
    assert np.allclose([tokens.nth(i).evaluate(alpha) for i in range(4)], wanted[:4], atol=4e-3)  # a page keeps 1/255
    shown.set("layer", 2).set("head", "head 1").ready()
    tokens.nth(0).focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    row = [float(tokens.nth(i).get_attribute("data-share")) for i in range(5)]
    assert np.allclose(row, read.attention[1, 0, 4, :5], atol=3e-3) and "layer 2, head 1" in shown.note("tokens")
    assert tokens.nth(4).get_attribute("aria-pressed") == "true"
    assert_accessible(page)
    screenshot(shown.root, "tokens")
    shown.view("heads").locator("[data-layer='1'][data-head='2']").click()
    shown.until("layer", 1).until("head", 2).ready()
    row = [float(tokens.nth(i).get_attribute("data-share")) for i in range(5)]
    assert np.allclose(row, read.attention[0, 1, 4, :5], atol=3e-3)  # the token that was kept, seen by another head
    shown.set("sentence", "a dog ran.").ready()
    assert [r[0] for r in shown.table("words")[1:]] == ["a", "dog", "ran."]

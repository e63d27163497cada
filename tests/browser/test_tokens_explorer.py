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


def test_a_smaller_model_says_which_layers_and_heads_it_lacks(offline_page, explorer, tmp_path, tiny_reader):
    from transformers import LlamaConfig, LlamaForCausalLM

    from evonb.training.base import new_base
    from evonb.widgets.tokens import TokensExplorer

    base = tiny_reader()
    config = LlamaConfig(vocab_size=270, hidden_size=16, intermediate_size=16, num_hidden_layers=3,
                         num_attention_heads=4, max_position_embeddings=64)
    large = new_base(LlamaForCausalLM(config), base.tokenizer, "large")
    shown = explorer(offline_page(TokensExplorer(dict(small=base, large=large), [TEXT]).to_html(tmp_path / "two.html")))
    shown.ready().set("layer", 3).ready()
    assert "There is no layer 3: this model has 2." in shown.note("tokens") and "no layer 3" in shown.note("heads")
    shown.set("layer", 1).set("head", "head 4").ready()
    assert "There is no head 4: this model has 2." in shown.note("tokens") and "no head 4" in shown.note("heads")
    shown.set("model", "large").ready()
    assert "layer 1, head 4" in shown.note("tokens") and "layer 1, head 4" in shown.note("heads")

"""Our GPT as a stock model: the same function, loaded where evonb isn't."""

import math

import pytest
import torch
from transformers import ArceeForCausalLM, AutoModelForCausalLM

from evonb.core import InputError, Seeds
from evonb.training.gpt import GPTConfig, new_gpt
from evonb.training.stock import farthest_apart, from_stock, stock_config, to_stock

SIZES = [(1, 1, 8), (2, 2, 16), (3, 4, 24)]


def drawn(n_layer=2, n_head=2, n_embd=16, rope_base=500.0, dtype=torch.float32):
    config = GPTConfig(vocab_size=40, n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=24, rope_base=rope_base)
    model = new_gpt(config, Seeds(3)).to(dtype).eval()
    with torch.no_grad():  # weights large enough for every part to matter
        for p in model.parameters():
            p.mul_(8)
    return model


def tokens(n=24):
    return torch.randint(40, (3, n), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sizes", SIZES)
def test_the_stock_model_computes_the_same(sizes):
    model = drawn(*sizes, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = model(tokens()).logits, to_stock(model)(tokens()).logits
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5 * float(ours.abs().max()))  # its norms sum in float32


@pytest.mark.parametrize("without", ["turn", "scale", "base", "act"])
def test_each_translation_is_needed(without, monkeypatch):
    "Leave one of them out, and it is another model."
    import evonb.training.stock as stock

    model = drawn(rope_base=500.0)
    if without == "turn":
        monkeypatch.setattr(stock, "turned_back", lambda rows, n_head: rows)
    made = to_stock(model)
    if without == "scale":
        with torch.no_grad():
            for layer in made.model.layers:
                layer.self_attn.o_proj.weight.mul_(2)
    if without == "base":
        made.config.rope_parameters["rope_theta"] = 10000.0
        made = ArceeForCausalLM(made.config)
        made.load_state_dict(to_stock(model).state_dict())
    if without == "act":
        made.config.hidden_act = "relu2"
        state, made = made.state_dict(), ArceeForCausalLM(made.config)
        made.load_state_dict(state)
    assert farthest_apart(model, made.eval(), tokens()) > 1e-2
    assert farthest_apart(model, to_stock(model), tokens()) < 1e-4 or without == "turn"


def test_it_generates_and_pads_alike():
    model = drawn()
    made, ids = to_stock(model), tokens(8)
    kept = dict(max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(model.generate(ids, **kept), made.generate(ids, **kept))


def test_a_folder_gives_it_back_and_it_comes_home(tmp_path):
    model = drawn()
    to_stock(model).save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(opened) is ArceeForCausalLM
    back, own = from_stock(opened).state_dict(), model.state_dict()
    assert back.keys() == own.keys()
    for name in own:
        if "attn.c_proj" in name:
            torch.testing.assert_close(back[name], own[name], rtol=2**-22, atol=0)
        else:
            assert torch.equal(back[name], own[name]), name


def test_zeros_of_a_wiring_stay_zeros():
    model = drawn()
    with torch.no_grad():
        for p in model.parameters():
            p[torch.rand(p.shape, generator=torch.Generator().manual_seed(0)) < 0.75] = 0
    made = to_stock(model)
    n_zero = sum(int((p == 0).sum()) for n, p in made.named_parameters() if "norm" not in n)
    assert n_zero == sum(int((p == 0).sum()) for p in model.parameters())


@pytest.mark.parametrize("change", [dict(hidden_act="relu2"), dict(rms_norm_eps=1e-5), dict(num_key_value_heads=1)])
def test_what_our_gpt_would_compute_otherwise_is_refused(change):
    config = stock_config(drawn().config)
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(InputError, match=f"but this one has {next(iter(change))}"):
        from_stock(ArceeForCausalLM(config))


def test_norms_that_scale_are_refused():
    made = to_stock(drawn())
    with torch.no_grad():
        made.model.norm.weight[0] = 1.5
    with pytest.raises(InputError, match="model.norm.weight scale"):
        from_stock(made)
    assert math.isfinite(farthest_apart(made, made, tokens()))


def test_another_family_is_stock_already():
    with pytest.raises(InputError, match="isn't our GPT"):
        to_stock(to_stock(drawn()))

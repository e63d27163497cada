"""The GPT against a plain reference, transformers' contracts, and checkpoints in the published layout."""

import argparse
import copy
import json
import math
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    StaticCache,
)

from evonb.core import DamagedFileError, InputError, Seeds
from evonb.training import linear as gpt
from evonb.training.gpt import (
    GPT,
    GPTConfig,
    GPTModel,
    cache_of,
    head_loss,
    load_published,
    n_parameters,
    nats_to_bits_per_byte,
    new_gpt,
    rotary_frequencies,
)
from evonb.training.linear import multiply, rms_norm

pytestmark = pytest.mark.numerics

BY_ONEDNN = gpt.fast_products() == "onednn"
CONFIG = dict(vocab_size=97, n_layer=3, n_head=2, n_embd=24, block_size=32)


def draw(*shape, high=97, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    return new_gpt(GPTConfig(**CONFIG), Seeds(0).child("init")).eval()


@pytest.fixture
def sharp():
    "A model with weights ten times as large, so that attention and GELU are far from linear."
    return new_gpt(GPTConfig(**CONFIG, initializer_range=0.3), Seeds(1).child("init")).eval()


# ---- an independent reference: explicit softmax, explicit rotation, one position and head at a time


def reference_rotate(x, base=10000.0):  # (n_context, head_size)
    half = x.shape[1] // 2
    rows = []
    for m in range(len(x)):
        theta = torch.tensor([m / base ** (2 * i / x.shape[1]) for i in range(half)], dtype=x.dtype)
        a, b = x[m, :half], x[m, half:]
        rows.append(torch.cat([a * theta.cos() + b * theta.sin(), -a * theta.sin() + b * theta.cos()]))
    return torch.stack(rows)


def reference_norm(x):
    x32 = x.float()
    return x32 * (1 / (x32.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt())


def reference_attention(x, qkv, n_head):  # (n_context, n_embd)
    t, c = x.shape
    d, heads = c // n_head, []
    q, k, v = x @ qkv[:c].T, x @ qkv[c : 2 * c].T, x @ qkv[2 * c :].T
    for h in range(n_head):
        s = slice(h * d, (h + 1) * d)
        scores = reference_rotate(q[:, s]) @ reference_rotate(k[:, s]).T / math.sqrt(d)
        weights = scores.masked_fill(torch.ones(t, t).triu(1).bool(), -math.inf).exp()
        heads.append(weights / weights.sum(1, keepdim=True) @ v[:, s])
    return torch.cat(heads, 1)


def reference_logits(w, ids, n_layer, n_head):  # w: names to weights; ids (n_context,)
    x = w["transformer.wte.weight"][ids]
    for i in range(n_layer):
        p = f"transformer.h.{i}."
        y = reference_attention(reference_norm(x), w[p + "attn.c_attn.weight"], n_head)
        x = x + y @ w[p + "attn.c_proj.weight"].T / math.sqrt(2 * n_layer)
        y = reference_norm(x) @ w[p + "mlp.c_fc.weight"].T
        y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
        x = x + y @ w[p + "mlp.c_proj.weight"].T
    return reference_norm(x) @ w["lm_head.weight"].T


def weights_of(model):
    return {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}


def test_logits_agree_with_the_reference(sharp):
    ids = draw(3, 32)
    w = weights_of(sharp)
    expected = torch.stack([reference_logits(w, row, 3, 2) for row in ids])
    torch.testing.assert_close(sharp(ids).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["loss", "labels"])
def test_gradients_agree_with_the_reference(sharp, way):
    ids = draw(2, 20)
    w = weights_of(sharp)
    logits = torch.stack([reference_logits(w, row, 3, 2) for row in ids])
    picked = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])
    expected = torch.autograd.grad(-picked.mean(), list(w.values()))
    nats = sharp.loss(ids[:, :-1], ids[:, 1:]) if way == "loss" else sharp(ids, labels=ids).loss
    got = torch.autograd.grad(nats, list(sharp.parameters()))
    torch.testing.assert_close(nats.detach(), -picked.mean().detach(), atol=1e-5, rtol=1e-5)
    for name, a, b in zip(w, got, expected):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_the_sign_of_the_rotation_matters(sharp, monkeypatch):
    ids = draw(1, 16)
    before = sharp(ids).logits
    monkeypatch.setattr("evonb.training.gpt.rotary_frequencies", lambda *given: -rotary_frequencies(*given))
    assert (sharp(ids).logits - before).abs().max() > 1e-2


# ---- the training loss


def test_loss_in_chunks_agrees_with_the_plain_way(sharp):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2100, 24, generator=g, requires_grad=True)
    w = torch.randn(97, 24, generator=g, requires_grad=True)
    t = draw(2100)
    t[7:600] = -100
    nats = head_loss(x, w, t)
    expected = F.cross_entropy(x @ w.T, t)
    torch.testing.assert_close(nats, expected)
    for a, b in zip(torch.autograd.grad(nats, (x, w)), torch.autograd.grad(expected, (x, w))):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def exact_norm(x):
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


def double_gradients(f, *given):
    "Of the sum of f's squares, in float64."
    exact = [t.detach().double().requires_grad_() for t in given]
    y = f(*exact)
    return y, torch.autograd.grad(y.square().sum(), exact)


@pytest.mark.parametrize("library", ["torch", pytest.param("onednn", marks=pytest.mark.skipif(
    not BY_ONEDNN, reason="needs a CPU with AVX-512, and EVONB_PRODUCTS=onednn"))])  # fmt: skip
@pytest.mark.parametrize("before", [None, "norm", "gelu"])
@pytest.mark.parametrize("n_in, n_out", [(24, 72), (96, 24)])
def test_fused_products_are_those_of_float64(before, n_in, n_out, library, monkeypatch):
    monkeypatch.setattr(gpt, "fast_products", lambda: library)
    g = torch.Generator().manual_seed(1)
    x, layer = torch.randn(4, 80, n_in, generator=g).requires_grad_(), torch.nn.Linear(n_in, n_out, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(n_out, n_in, generator=g) / 5)
    y = multiply(layer, x, before)
    assert type(y.grad_fn).__name__ == "ProductBackward"
    prepare = {None: lambda t: t, "norm": exact_norm, "gelu": F.gelu}[before]
    exact, grads = double_gradients(lambda a, w: prepare(a) @ w.T, x, layer.weight)
    torch.testing.assert_close(y.double(), exact, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(y.square().sum(), (x, layer.weight)), grads):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()


def test_a_layer_that_is_replaced_hooked_or_switched_off_is_called_as_it_is():
    x, layer = torch.randn(300, 24, generator=torch.Generator().manual_seed(2)), torch.nn.Linear(24, 24, bias=False)
    fused = lambda m, x=x: type(multiply(m, x).grad_fn).__name__ == "ProductBackward"
    assert fused(layer)
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(multiply(layer, x), layer(x))  # torch's own product
    seen = []
    handle = layer.register_forward_hook(lambda m, given, out: seen.append(out))
    assert not fused(layer) and len(seen) == 1
    handle.remove()
    assert not fused(torch.nn.Sequential(layer)) and not fused(layer, x[:200])  # too few to pay
    with torch.no_grad():
        assert torch.equal(multiply(layer, x), layer(x))


@pytest.fixture
def choosing(tmp_path, monkeypatch):
    "Nothing is chosen yet, on a machine that could take either; counts the measurements, whose result it gives."
    measured, speeds = [], dict(torch=100.0, onednn=200.0)
    monkeypatch.delenv("EVONB_PRODUCTS", raising=False)
    monkeypatch.setenv("EVONB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gpt, "_has_onednn", lambda: True)
    monkeypatch.setattr(gpt, "product_speeds", lambda: measured.append(1) or {64: speeds, 128: dict(torch=1, onednn=2)})
    gpt.fast_products.cache_clear()
    yield measured, speeds
    gpt.fast_products.cache_clear()


def asked_anew():
    gpt.fast_products.cache_clear()
    return gpt.fast_products()


@pytest.mark.parametrize("speed, faster", [(200, "onednn"), (120, "onednn"), (119, "torch"), (60, "torch")])
def test_what_multiplies_is_measured_once_and_kept(choosing, speed, faster):
    measured, speeds = choosing
    speeds["onednn"] = speed
    assert gpt.fast_products() == faster and measured == [1]
    speeds["onednn"] = 320 - speed  # as a busy machine might see it
    assert gpt.fast_products() == asked_anew() == faster and measured == [1]


def test_another_processor_or_torch_chooses_for_itself(choosing, monkeypatch):
    measured, speeds = choosing
    assert gpt.fast_products() == "onednn"
    monkeypatch.setattr(gpt, "_kind_of_cpu", lambda: "another")
    speeds["onednn"] = 80
    assert asked_anew() == "torch" and measured == [1, 1]


def test_the_environment_overrules_the_measurement(choosing, monkeypatch, tmp_path):
    for said in ("torch", "onednn"):
        monkeypatch.setenv("EVONB_PRODUCTS", said)
        assert asked_anew() == said
    assert choosing[0] == [] and not (tmp_path / "cache").exists()
    monkeypatch.setenv("EVONB_PRODUCTS", "mkl")
    with pytest.raises(InputError, match="EVONB_PRODUCTS.*onednn, torch"):
        asked_anew()
    monkeypatch.setattr(gpt, "_has_onednn", lambda: False)
    assert asked_anew() == "torch"


def test_a_choice_that_cannot_be_kept_is_told_of(choosing, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(UserWarning, match="measured again in each process"):
        assert gpt.fast_products() == "onednn"


def test_products_are_timed_on_one_core_and_the_threads_given_back():
    if not gpt._has_onednn():
        pytest.skip("needs a CPU with AVX-512")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        speeds = gpt.product_speeds((8, 16), 32, seconds=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert list(speeds) == [8, 16] and all(min(s.values()) > 0 for s in speeds.values())


def test_a_model_learns_the_same_with_and_without_onednn(sharp):
    ids, found = draw(40, 33), []
    ids[3:5, 7:] = 0
    for enabled in (True, False):
        with torch.backends.mkldnn.flags(enabled=enabled):
            nats = sharp.loss(ids[:, :-1], ids[:, 1:])
            found.append((nats, torch.autograd.grad(nats, list(sharp.parameters()))))
    torch.testing.assert_close(*(nats for nats, _ in found))
    for mine, theirs in zip(*(grads for _, grads in found)):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()


def test_what_is_compiled_is_traced_whole_and_the_same(sharp):
    ids = draw(10, 33)
    nats = torch.compile(sharp.loss, backend="aot_eager", fullgraph=True)(ids[:, :-1], ids[:, 1:])
    expected = sharp.loss(ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(nats, expected)
    grads = [torch.autograd.grad(n, list(sharp.parameters())) for n in (nats, expected)]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-3)


def test_the_gradient_of_the_head_is_taken_once():
    g = torch.Generator().manual_seed(3)
    x, w = (torch.randn(n, 8, generator=g).requires_grad_() for n in (300, 11))
    nats = head_loss(x, w, torch.zeros(300, dtype=torch.long))
    nats.backward(retain_graph=True)
    if BY_ONEDNN:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            nats.backward()


def test_a_head_of_extreme_logits_has_a_finite_loss():
    x, w = torch.full((300, 4), 40.0, requires_grad=True), torch.zeros(5, 4)
    w[0] = 1.0
    nats = head_loss(x, w, torch.ones(300, dtype=torch.long))
    assert nats.item() == pytest.approx(160)


@pytest.mark.parametrize("n_batch", [2, 40])  # a batch below and one above the size from which chunks are used
def test_loss_per_token_mean_and_labels_agree(sharp, n_batch):
    ids = draw(n_batch, 32)
    x, targets = ids[:, :-1], ids[:, 1:].clone()
    per_token = sharp.loss(x, targets, reduction="none")
    assert per_token.shape == x.shape
    torch.testing.assert_close(per_token.mean(), sharp.loss(x, targets))
    torch.testing.assert_close(per_token.mean(), sharp(ids, labels=ids).loss)
    targets[:, :5] = -100
    masked = sharp.loss(x, targets, reduction="none")
    assert masked[:, :5].eq(0).all() and torch.equal(masked[:, 5:], per_token[:, 5:])
    torch.testing.assert_close(sharp.loss(x, targets), per_token[:, 5:].mean())


def test_loss_at_birth_is_that_of_guessing():
    fresh = new_gpt(GPTConfig(vocab_size=1000, n_layer=2, n_head=2, n_embd=64, block_size=64), Seeds(3))
    ids = draw(20, 65, high=1000)
    assert abs(fresh.loss(ids[:, :-1], ids[:, 1:]).item() - math.log(1000)) < 0.05


def test_loss_under_autocast_is_float32_and_close(sharp):
    ids = draw(40, 32)
    exact = sharp.loss(ids[:, :-1], ids[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        rough = sharp.loss(ids[:, :-1], ids[:, 1:])
        per_token = sharp.loss(ids[:, :-1], ids[:, 1:], reduction="none")
    assert rough.dtype == per_token.dtype == torch.float32 and rough.item() != exact.item()
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0)
    rough.backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in sharp.parameters())


def test_a_few_steps_learn_a_known_rule(model):
    "The next token is the present one plus one: a model can reach almost zero loss."
    start = draw(64, 1)
    ids = (start + torch.arange(17)) % 97
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2, weight_decay=0)
    for _ in range(150):
        nats = model.loss(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        nats.backward()
        optimizer.step()
    assert nats.item() < 0.1
    assert model.eval().generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, do_sample=False).tolist() == [
        [5, 6, 7, 8, 9, 10, 11, 12]
    ]


def test_gradient_checkpointing_changes_no_gradient(sharp):
    ids = draw(4, 32)
    expected = torch.autograd.grad(sharp.train().loss(ids[:, :-1], ids[:, 1:]), list(sharp.parameters()))
    calls = []
    sharp.transformer.h[1].mlp.c_fc.register_forward_hook(lambda *a: calls.append(1))
    checkpointing = getattr(sharp, "activation_checkpointing_enable", None) or sharp.gradient_checkpointing_enable
    checkpointing()  # its name, and that of before
    got = torch.autograd.grad(sharp.loss(ids[:, :-1], ids[:, 1:]), list(sharp.parameters()))
    assert len(calls) == 2  # once forward, once more for the gradient
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b)


# ---- what transformers expects


def test_a_later_token_changes_nothing_before_it(sharp):
    ids = draw(2, 32)
    changed = ids.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 97
    a, b = sharp(ids).logits, sharp(changed).logits
    torch.testing.assert_close(a[:, :20], b[:, :20], atol=1e-6, rtol=0)
    assert (a[:, 20:] - b[:, 20:]).abs().amax((0, 2)).min() > 1e-3


def test_generate_with_and_without_cache_agree(sharp):
    prompt = draw(3, 6)
    how = dict(max_new_tokens=15, do_sample=False, pad_token_id=0)
    cached = sharp.generate(prompt, use_cache=True, **how)
    assert torch.equal(cached, sharp.generate(prompt, use_cache=False, **how))
    assert torch.equal(cached, sharp.generate(prompt, cache_implementation="static", disable_compile=True, **how))
    by_hand = prompt
    for _ in range(15):
        by_hand = torch.cat([by_hand, sharp(by_hand).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(cached, by_hand) and len(set(cached[0, 6:].tolist())) > 3


def test_a_cache_extended_by_several_tokens(sharp):
    ids = draw(2, 20)
    cache = DynamicCache(config=sharp.config)
    parts = [sharp(part, past_key_values=cache).logits for part in ids.split([8, 1, 11], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), sharp(ids).logits, atol=1e-5, rtol=1e-5)
    assert cache.get_seq_length() == 20


def test_cached_generation_may_go_beyond_the_block_size(sharp):
    how = dict(max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert sharp.generate(draw(1, 30), **how).shape == (1, 38)
    with pytest.raises(InputError, match="33 tokens.*block_size is 32"):
        sharp.generate(draw(1, 30), use_cache=False, **how)


@torch.no_grad()
def test_a_cache_has_two_names(sharp):
    "transformers renamed it in 5.24; an argument that is swallowed would generate from the last token alone."
    ids = draw(1, 9)
    kept, whole = cache_of(sharp.eval()(ids[:, :8], use_cache=True)), sharp(ids).logits[:, -1:]
    for name in ("cache", "past_key_values"):
        go_on = {name: copy.deepcopy(kept)}
        torch.testing.assert_close(sharp(ids[:, 8:], **go_on).logits, whole)
        hidden = sharp.transformer(ids[:, 8:], **{name: copy.deepcopy(kept)}).last_hidden_state
        torch.testing.assert_close(sharp.lm_head(hidden), whole)
    with pytest.raises(InputError, match="two names of one thing"):
        sharp(ids[:, 8:], cache=kept, past_key_values=kept)


def test_left_padding_equals_no_padding(sharp):
    rows = [draw(1, n, seed=n) for n in (4, 9)]
    ids = torch.cat([F.pad(r, (9 - r.shape[1], 0)) for r in rows])
    mask = torch.stack([torch.arange(9) >= 9 - r.shape[1] for r in rows]).long()
    logits = sharp(ids, attention_mask=mask).logits
    assert logits.isfinite().all()
    for row, got in zip(rows, logits):
        torch.testing.assert_close(got[-row.shape[1] :], sharp(row).logits[0], atol=1e-5, rtol=1e-5)
    how = dict(max_new_tokens=10, do_sample=False, pad_token_id=0)
    both = sharp.generate(ids, attention_mask=mask, **how)
    for row, got in zip(rows, both):
        assert torch.equal(got[9:], sharp.generate(row, attention_mask=torch.ones_like(row), **how)[0, row.shape[1] :])


def test_hidden_states_embeddings_first_normed_last(sharp):
    ids = draw(2, 10)
    out = sharp(ids, output_hidden_states=True)
    states = out.hidden_states
    assert len(states) == 4 and {s.shape for s in states} == {(2, 10, 24)}
    torch.testing.assert_close(states[0], sharp.transformer.wte(ids))
    rotary = sharp.transformer.rotary(10, ids.device)
    torch.testing.assert_close(states[1], sharp.transformer.h[0](states[0], rotary))
    torch.testing.assert_close(states[-1] @ sharp.lm_head.weight.T, out.logits)
    torch.testing.assert_close(states[-1].square().mean(-1), torch.ones(2, 10), atol=1e-4, rtol=0)
    assert sharp(ids).hidden_states is None


def test_embeddings_logits_to_keep_and_tuples(sharp):
    ids = draw(2, 10)
    logits = sharp(ids).logits
    torch.testing.assert_close(sharp(inputs_embeds=sharp.transformer.wte(ids)).logits, logits)
    torch.testing.assert_close(sharp(ids, logits_to_keep=1).logits, logits[:, -1:])
    torch.testing.assert_close(sharp(ids, position_ids=torch.arange(10)[None] + 50).logits, logits, atol=1e-4, rtol=0)
    loss, first = sharp(ids, labels=ids, return_dict=False, use_cache=False)
    assert torch.equal(first, logits) and loss.ndim == 0


def test_save_load_and_the_auto_classes(sharp, tmp_path):
    ids = draw(2, 10)
    sharp.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "evonb-gpt"
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == GPT.from_pretrained(tmp_path).config.to_dict()
    for again in (GPT.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert type(again) is GPT and torch.equal(again(ids).logits, sharp(ids).logits)
        assert torch.equal(again.loss(ids, ids), sharp.loss(ids, ids))
    trunk = AutoModel.from_pretrained(tmp_path)
    assert type(trunk) is GPTModel
    assert torch.equal(trunk(ids).last_hidden_state, sharp.transformer(ids).last_hidden_state)
    assert torch.equal(load_published(tmp_path)(ids).logits, sharp(ids).logits)


def test_bfloat16_weights_run(sharp):
    ids = draw(2, 10)
    exact = sharp(ids).logits
    rough = sharp.to(torch.bfloat16)(ids).logits
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).square().mean().sqrt() < 0.05 * exact.std()


# ---- precisions


def in_float64(model):
    return copy.deepcopy(model).double()


def test_float64_is_computed_in_float64(sharp, monkeypatch):
    "Against the plain reference: far closer than float32 could be."
    ids, exact = draw(2, 20), in_float64(sharp)
    monkeypatch.setitem(globals(), "reference_norm", exact_norm)
    expected = torch.stack([reference_logits(weights_of(exact), row, 3, 2) for row in ids])
    for logits in (exact(ids).logits, exact(ids, output_attentions=True).logits):
        assert logits.dtype == torch.float64
        torch.testing.assert_close(logits, expected, atol=1e-12, rtol=1e-12)
    picked = -expected[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])
    nats = exact.loss(ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(nats, picked.mean(), atol=1e-12, rtol=0)
    torch.testing.assert_close(exact(ids, labels=ids).loss, picked.mean(), atol=1e-12, rtol=0)
    by_items = exact(ids, labels=ids, num_items_in_batch=76).loss
    torch.testing.assert_close(by_items, picked.sum() / 76, atol=1e-12, rtol=0)
    torch.testing.assert_close(sharp(ids).logits.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["loss", "labels", "attentions"])
def test_numerical_gradients_agree(way):
    model = new_gpt(GPTConfig(vocab_size=7, n_layer=1, n_head=2, n_embd=8, initializer_range=0.3), Seeds(0)).double()
    ids, names = draw(2, 5, high=7), [n for n, _ in model.named_parameters()]

    def f(*weights):
        call = dict(loss=(lambda m: m.loss(ids[:, :-1], ids[:, 1:])), labels=(lambda m: m(ids, labels=ids).loss),
                    attentions=(lambda m: m(ids, output_attentions=True).attentions[0]))[way]
        return torch.func.functional_call(Calling(model, call), {f"model.{n}": w for n, w in zip(names, weights)})

    assert torch.autograd.gradcheck(f, [p.detach().clone().requires_grad_() for p in model.parameters()])


class Calling(torch.nn.Module):
    def __init__(self, model, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self):
        return self.call(self.model)


@pytest.mark.parametrize("dtype, atol", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_normed_in_float32(dtype, atol):
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(4)).to(dtype)
    for scale in (1, 300):  # squares of the second are beyond float16
        y = rms_norm(x * scale)
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), exact_norm((x * scale).double()), atol=atol, rtol=2 * atol)


# ---- packed documents, attention weights


def test_documents_packed_into_a_row_are_apart(sharp):
    "Also where the row is longer than block_size, which is 32."
    ids = draw(2, 32)
    lengths = [[9, 5, 18], [30, 2]]
    position_ids = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    for use_cache in (None, False, True):
        out = sharp(ids, position_ids=position_ids, use_cache=use_cache)
        for row, of, got in zip(ids, lengths, out.logits):
            alone = torch.cat([sharp(part[None]).logits[0] for part in row.split(of)])
            torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)
        assert out.past_key_values is None
    long = draw(1, 70)
    position_ids = torch.cat([torch.arange(n) for n in (32, 6, 32)])[None]
    alone = torch.cat([sharp(part).logits for part in long.split((32, 6, 32), 1)], 1)
    torch.testing.assert_close(sharp(long, position_ids=position_ids).logits, alone, atol=1e-5, rtol=1e-5)


def llama(model):
    "Attention of our kind in transformers' own model: the other way round is a sign, a layer without its MLP."
    config = LlamaConfig(vocab_size=97, hidden_size=24, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                         rms_norm_eps=1e-6, max_position_embeddings=32)
    theirs = LlamaForCausalLM(config).eval()
    signs = torch.cat([torch.ones(6), -torch.ones(6)]).repeat(2)  # mirrors the second half of each head
    state = {n: torch.zeros_like(p) if "proj" in n else torch.ones_like(p) for n, p in theirs.named_parameters()}
    q, k, v = model.transformer.h[0].attn.c_attn.weight.detach().split(24)
    p = "model.layers.0.self_attn."
    state |= {p + "q_proj.weight": signs[:, None] * q, p + "k_proj.weight": signs[:, None] * k, p + "v_proj.weight": v,
              p + "o_proj.weight": model.transformer.h[0].attn.c_proj.weight.detach() / math.sqrt(2),
              "model.embed_tokens.weight": model.transformer.wte.weight, "lm_head.weight": model.lm_head.weight}
    theirs.load_state_dict(state)
    return theirs


@pytest.fixture
def pair():
    "A model of ours without its MLP, and transformers' Llama that computes the same."
    ours = new_gpt(GPTConfig(**CONFIG | dict(n_layer=1), initializer_range=0.3), Seeds(2)).eval()
    with torch.no_grad():
        ours.transformer.h[0].mlp.c_proj.weight.zero_()
    theirs = llama(ours)
    theirs.set_attn_implementation("eager")
    return ours, theirs


@pytest.mark.parametrize("lengths", [(20,), (7, 13), (1, 1, 9, 9), (19, 1)])
def test_packed_documents_and_attention_weights_are_those_of_llama(pair, lengths):
    ids, position_ids = draw(2, 20), torch.cat([torch.arange(n) for n in lengths])[None]
    ours, theirs = (m(ids, position_ids=position_ids, use_cache=False, output_attentions=True) for m in pair)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.attentions[0], theirs.attentions[0], atol=1e-5, rtol=1e-4)
    first = torch.arange(20).split(lengths)
    for document in first:  # nothing is seen of other documents
        inside = ours.attentions[0][:, :, document][..., document].sum(-1)
        torch.testing.assert_close(inside, torch.ones(2, 2, len(document)))


def test_a_packed_row_and_a_cache_are_refused_together(sharp):
    ids, position_ids = draw(1, 5), torch.tensor([[0, 1, 2, 0, 1]])
    with pytest.raises(InputError, match="several documents.*Leave past_key_values out"):
        sharp(ids, position_ids=position_ids, past_key_values=DynamicCache(config=sharp.config))
    with pytest.raises(InputError, match="33 tokens.*block_size is 32"):
        sharp(draw(1, 40), position_ids=torch.cat([torch.arange(33), torch.arange(7)])[None])
    ones = torch.ones(1, 5, dtype=torch.long)
    with pytest.raises(InputError, match="several documents.*mask of pairs"):  # a mask of padding says nothing of them
        sharp(ids, position_ids=position_ids, attention_mask=ones, past_key_values=DynamicCache(config=sharp.config))
    assert sharp(ids, position_ids=position_ids, attention_mask=ones).past_key_values is None


@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float32])
@pytest.mark.parametrize("padding", [(0, 0), (3, 0), (0, 4), (2, 3)])
def test_a_mask_of_padding_lets_packed_documents_stay_apart(sharp, kind, padding):
    left, right = padding
    lengths, ids = [[5, 4, 6], [15], [1, 1, 13]], draw(3, 15 + left + right)
    mask = F.pad(torch.ones(3, 15), padding).to(kind)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    for filler in (0, 1, 7):  # what stands as the position of padding means nothing
        given = dict(position_ids=F.pad(positions, padding, value=filler), attention_mask=mask)
        out = sharp(ids, **given, output_attentions=True)
        assert out.past_key_values is None and out.logits.isfinite().all()
        for row, of, got in zip(ids[:, left : left + 15], lengths, out.logits[:, left : left + 15]):
            alone = torch.cat([sharp(part[None]).logits[0] for part in row.split(of)])
            torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)


def test_padding_within_a_document_and_positions_that_go_on_are_one_document(sharp):
    ids, mask = draw(2, 9), torch.tensor([[1, 1, 0, 1, 1, 1, 0, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1, 1]])
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)  # as transformers' generate makes them
    out = sharp(ids, position_ids=position_ids, attention_mask=mask)
    assert out.past_key_values.get_seq_length() == 9
    for row, seen, got in zip(ids, mask.bool(), out.logits):
        torch.testing.assert_close(got[seen], sharp(row[seen][None]).logits[0], atol=1e-5, rtol=1e-5)
    later = sharp(draw(2, 1), position_ids=position_ids[:, -1:] + 1, attention_mask=F.pad(mask, (0, 1), value=1),
                  past_key_values=out.past_key_values)  # fmt: skip
    assert later.logits.isfinite().all()


def test_attention_weights_by_every_way_of_asking(sharp):
    ids = draw(2, 10)
    plain = sharp(ids)
    assert plain.attentions is None and not plain.get("attentions")
    config = GPTConfig(**CONFIG, output_attentions=True)
    by_config = GPT(config).eval()
    by_config.load_state_dict(sharp.state_dict())
    late = copy.deepcopy(sharp)
    late.config.output_attentions = True
    eager = copy.deepcopy(sharp)
    eager.set_attn_implementation("eager")
    asked = sharp(ids, output_attentions=True)
    for out in (asked, by_config(ids), late(ids), eager(ids, output_attentions=True)):
        assert len(out.attentions) == 3 and {a.shape for a in out.attentions} == {(2, 2, 10, 10)}
        torch.testing.assert_close(out.logits, plain.logits, atol=1e-5, rtol=1e-5)
        for mine, first in zip(out.attentions, asked.attentions):
            torch.testing.assert_close(mine, first, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(mine.sum(-1), torch.ones(2, 2, 10))
            assert mine.triu(1).eq(0).all()
    assert by_config(ids, output_attentions=False).attentions is None
    assert GPTConfig.from_dict(config.to_dict()).output_attentions is True
    assert by_config(ids, return_dict=False)[2][0].shape == (2, 2, 10, 10)
    made = sharp.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0, output_attentions=True,
                          return_dict_in_generate=True)
    assert [a[0].shape for a in made.attentions] == [(2, 2, 10, 10), (2, 2, 1, 11), (2, 2, 1, 12)]


def test_attention_weights_are_those_that_were_computed_with(sharp):
    "The weights times the values, through the projection, are what the layer adds; by hand from the hidden states."
    out = sharp(draw(2, 10), output_attentions=True, output_hidden_states=True)
    for block, x, weights in zip(sharp.transformer.h, out.hidden_states, out.attentions):
        v = (exact_norm(x) @ block.attn.c_attn.weight[48:].T).view(2, 10, 2, 12).transpose(1, 2)
        y = (weights @ v).transpose(1, 2).reshape(2, 10, 24) @ block.attn.c_proj.weight.T
        added = block.attn(x, sharp.transformer.rotary(10, x.device))
        torch.testing.assert_close(added, y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_attention_weights_with_a_cache_and_with_padding(sharp, kind):
    ids = draw(2, 12)
    whole = sharp(ids, output_attentions=True).attentions
    dynamic = kind == "dynamic"
    cache = DynamicCache(config=sharp.config) if dynamic else StaticCache(config=sharp.config, max_cache_len=16)
    parts = [sharp(p, past_key_values=cache, output_attentions=True).attentions for p in ids.split([5, 1, 6], 1)]
    for layer in range(3):
        for part, rows in zip(parts, torch.arange(12).split([5, 1, 6])):
            n = min(part[layer].shape[-1], 12)
            torch.testing.assert_close(part[layer][..., :n], whole[layer][:, :, rows, :n], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(part[layer].sum(-1), torch.ones(2, 2, len(rows)))
    padded, mask = F.pad(ids, (3, 0)), F.pad(torch.ones_like(ids), (3, 0))
    out = sharp(padded, attention_mask=mask, output_attentions=True)
    torch.testing.assert_close(out.logits[:, 3:], sharp(ids).logits, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(out.attentions, whole):
        torch.testing.assert_close(mine[:, :, 3:, 3:], theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(mine.sum(-1), torch.ones(2, 2, 15))
        assert mine[:, :, 3:, :3].eq(0).all()


def test_attention_weights_under_a_mask_of_ones_own(sharp):
    "A tree: two continuations of the same four tokens, each blind to the other."
    ids, position_ids = draw(1, 8), torch.tensor([[0, 1, 2, 3, 4, 5, 4, 5]])
    sees = torch.ones(8, 8, dtype=torch.bool).tril()
    sees[6:, 4:6] = False
    alone = sharp(ids[:, [0, 1, 2, 3, 6, 7]], output_attentions=True)
    added = torch.zeros(8, 8).masked_fill(~sees, torch.finfo(torch.float32).min)
    for mask in (sees, added):
        out = sharp(ids, position_ids=position_ids, attention_mask=mask[None, None], output_attentions=True)
        torch.testing.assert_close(out.logits[:, 6:], alone.logits[:, 4:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.attentions[2][:, :, 6:][..., [0, 1, 2, 3, 6, 7]], alone.attentions[2][:, :, 4:],
                                   atol=1e-5, rtol=1e-4)


def test_attention_weights_carry_gradients_and_survive_checkpointing(sharp):
    ids = draw(2, 8)
    plain = sharp.train()(ids, output_attentions=True, use_cache=False)
    expected = torch.autograd.grad(plain.attentions[2].square().sum() + plain.logits.sum(), sharp.lm_head.weight)
    by_qk = torch.autograd.grad(sharp(ids, output_attentions=True).attentions[1].square().sum(),
                                sharp.transformer.h[1].attn.c_attn.weight)[0]
    assert by_qk[:48].abs().max() > 0 and by_qk[48:].eq(0).all()  # of queries and keys, not of values
    checkpointing = getattr(sharp, "activation_checkpointing_enable", None) or sharp.gradient_checkpointing_enable
    checkpointing()  # its name, and that of before
    again = sharp(ids, output_attentions=True, use_cache=False)
    got = torch.autograd.grad(again.attentions[2].square().sum() + again.logits.sum(), sharp.lm_head.weight)
    torch.testing.assert_close(got, expected)
    assert len(again.attentions) == 3


def test_half_precision_attention_weights(sharp):
    ids = draw(2, 10)
    exact = sharp(ids, output_attentions=True).attentions
    rough = sharp.to(torch.bfloat16)(ids, output_attentions=True).attentions
    assert rough[0].dtype == torch.bfloat16
    torch.testing.assert_close(rough[0].float(), exact[0], atol=0.05, rtol=0.05)
    torch.testing.assert_close(rough[0].float().sum(-1), torch.ones(2, 2, 10), atol=0.02, rtol=0)


# ---- sizes, names and seeds


def test_the_published_sizes_and_names_on_the_meta_device():
    with torch.device("meta"):
        big = GPT(GPTConfig())
    shapes = {n: tuple(p.shape) for n, p in big.state_dict().items()}
    expected = {"transformer.wte.weight": (50304, 768), "lm_head.weight": (50304, 768)}
    for i in range(12):
        p = f"transformer.h.{i}."
        expected |= {p + "attn.c_attn.weight": (2304, 768), p + "attn.c_proj.weight": (768, 768)}
        expected |= {p + "mlp.c_fc.weight": (3072, 768), p + "mlp.c_proj.weight": (768, 3072)}
    assert shapes == expected and not list(big.buffers())
    assert n_parameters(big) == n_parameters(GPTConfig()) == sum(map(math.prod, expected.values())) == 162_201_600


def test_weights_depend_on_the_seed_alone():
    config = GPTConfig(**CONFIG)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = new_gpt(config, Seeds(7).child("init"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    b, other = new_gpt(config, Seeds(7).child("init")), new_gpt(config, Seeds(8).child("init"))
    for (name, p), q, r in zip(a.named_parameters(), b.parameters(), other.parameters()):
        assert torch.equal(p, q), name
        assert not torch.equal(p, r), name
        assert p.requires_grad and not p.is_meta
    ids = draw(2, 33)
    assert torch.equal(a.loss(ids[:, :-1], ids[:, 1:]), b.loss(ids[:, :-1], ids[:, 1:]))
    assert a.init_weights_(Seeds(8).child("init").torch()) is a
    assert all(torch.equal(p, r) for p, r in zip(a.parameters(), other.parameters()))


@pytest.mark.parametrize("make", [GPT, lambda c: new_gpt(c, Seeds(0))], ids=["constructor", "new_gpt"])
def test_the_spread_of_fresh_weights(make):
    torch.manual_seed(0)
    for name, p in make(GPTConfig(vocab_size=400, n_layer=8, n_head=4, n_embd=64)).named_parameters():
        std = 0.02 / math.sqrt(16) if name.endswith("c_proj.weight") else 0.02
        n = p.numel()
        assert abs(p.std().item() / std - 1) < 5 / math.sqrt(2 * n), name  # five standard errors
        assert abs(p.mean().item()) < 5 * std / math.sqrt(n), name


def test_bits_per_byte_by_hand():
    assert nats_to_bits_per_byte(2 * math.log(2), n_tokens=30, n_bytes=120) == pytest.approx(0.5)
    for n_tokens, n_bytes in ((0, 5), (5, 0), (5, 2.5)):
        with pytest.raises(InputError, match="whole number of at least 1"):
            nats_to_bits_per_byte(1.0, n_tokens, n_bytes)


# ---- bad input


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(n_embd=50, n_head=4), "4 heads can't share equally.*multiple of n_head such as 48"),
        (dict(n_embd=12, n_head=4), "even head size"),
        (dict(n_layer=0), "n_layer is 0.*at least 1"),
        (dict(n_head=None), "n_head is None"),
        (dict(vocab_size="many"), "vocab_size is 'many'"),
        (dict(hidden_size=770), "n_embd is 770"),
        (dict(rope_base=-1.0), "rope_base is -1.0.*positive"),
        (dict(initializer_range=math.nan), "initializer_range is nan"),
        (dict(dropout=0.1), "dropout is 0.1.*Leave dropout out"),
        (dict(bias=True), "bias is True"),
        (dict(pos_init="sin"), "pos_init is 'sin'"),
        (dict(tie_word_embeddings=True), "untied"),
    ],
)
def test_a_bad_configuration_is_refused(bad, message):
    with pytest.raises(InputError, match=message):
        GPTConfig(**bad)


# what transformers' models can do otherwise, and what says the same as CONFIG
FOREIGN = {
    "hidden_act": ("silu", "gelu"), "activation_function": ("gelu_new", "gelu"), "intermediate_size": (64, 96),
    "n_inner": (48, 96), "num_key_value_heads": (1, 2), "head_dim": (16, 12), "rms_norm_eps": (1e-5, 1e-6),
    "layer_norm_epsilon": (1e-5, 1e-6), "n_positions": (64, 32), "num_layers": (4, 3), "d_model": (32, 24),
    "partial_rotary_factor": (0.5, 1.0), "rotary_pct": (0.25, 1), "position_embedding_type": ("absolute", "rope"),
    "alibi": (True, False), "scale_attn_weights": (False, True), "attention_multiplier": (1.0, 12**-0.5),
    "query_pre_attn_scalar": (256, 12), "scale_attn_by_inverse_layer_idx": (True, False),
    "attn_logit_softcapping": (50.0, None), "final_logit_softcapping": (30.0, None), "clip_qkv": (8.0, None),
    "embedding_multiplier": (12.0, 1.0), "residual_multiplier": (0.2, 1), "logits_scaling": (8.0, 1),
    "sliding_window": (8, None), "use_sliding_window": (True, False), "attention_chunk_size": (8, None),
    "layer_types": (["sliding_attention"] * 3, ["full_attention"] * 3), "is_causal": (False, True),
    "is_encoder_decoder": (True, False), "add_cross_attention": (True, False), "attention_bias": (True, False),
    "mlp_bias": (True, False), "attention_dropout": (0.1, 0.0), "resid_pdrop": (0.1, 0), "hidden_dropout": (0.1, 0.0),
    "use_qk_norm": (True, False), "use_parallel_residual": (True, False), "num_local_experts": (8, 1),
    "tie_word_embeddings": (True, False), "per_layer_config": ({0: {"n_head": 1}}, {}),
    "rope_interleave": (True, False),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_field_that_is_not_computed_with_is_refused_by_name(name, tmp_path):
    other, same = FOREIGN[name]
    config = GPTConfig(**CONFIG)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    ways = [lambda v: GPTConfig(**CONFIG, **{name: v}), lambda v: GPTConfig.from_dict(saved | {name: v}),
            lambda v: _from_file(tmp_path, saved | {name: v}), lambda v: _set_late(name, v)]  # fmt: skip
    if name in ("rms_norm_eps", "layer_norm_epsilon", "tie_word_embeddings", "per_layer_config"):
        ways.pop()  # warned of, or refused by transformers
    for read in ways:
        assert read(same).n_embd == 24
        with pytest.raises(InputError, match=rf"{name} is .*, but this model computes with.*Leave {name} out"):
            read(other)


def _from_file(folder, given):
    (folder / "config.json").write_text(json.dumps(given))
    return AutoConfig.from_pretrained(folder)


def _set_late(name, value):
    config = GPTConfig(**CONFIG)
    setattr(config, name, value)
    return new_gpt(config, Seeds(0)).config


def test_what_is_set_late_and_has_no_effect_is_warned_of_and_not_saved(tmp_path):
    for name, value in (("rms_norm_eps", 1.0), ("tie_word_embeddings", True)):
        config = GPTConfig(**CONFIG)
        setattr(config, name, value)
        with pytest.warns(UserWarning, match=f"no effect.*{name} is"):
            model = new_gpt(config, Seeds(0))
        assert model.lm_head.weight is not model.transformer.wte.weight
        model.save_pretrained(tmp_path)
        assert not json.loads((tmp_path / "config.json").read_text()).get(name)
        assert GPT.from_pretrained(tmp_path).config.n_head == 2


def test_an_unknown_field_is_refused_and_a_note_is_kept():
    with pytest.raises(InputError, match="mixture_of_depths is 2, but this model has no such part.*_mixture_of_depths"):
        GPTConfig(**CONFIG, mixture_of_depths=2)
    assert GPTConfig(**CONFIG, _from="a note", eos_token_id=3, decoder_start_token_id=1, torch_dtype="float32",
                     architectures=["GPT"], do_sample=True, use_cache=False).n_head == 2


@pytest.mark.parametrize("given", [
    dict(rope_theta=5e5), dict(rope_base=5e5), dict(rope_parameters=dict(rope_type="default", rope_theta=5e5)),
    dict(rope_scaling=dict(type="default"), rope_theta=5e5), dict(rope_scaling=None, rope_theta=500000),
    dict(rope_parameters=dict(rope_theta=5e5, partial_rotary_factor=1.0), rope_theta=5e5),
])  # fmt: skip
def test_the_base_of_the_rotary_positions_by_any_name(given, tmp_path, sharp):
    model = GPT(GPTConfig(**CONFIG, **given)).eval()
    model.load_state_dict(sharp.state_dict())
    assert model.config.rope_base == model.config.rope_theta == 5e5
    ids, w = draw(1, 20), weights_of(sharp)
    far = partial(reference_rotate, base=5e5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "reference_rotate", far)
        expected = reference_logits(w, ids[0], 3, 2)
    torch.testing.assert_close(model(ids).logits[0], expected, atol=1e-5, rtol=1e-5)
    assert (model(ids).logits - sharp(ids).logits).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


@pytest.mark.parametrize("given, message", [
    (dict(rope_base=2e4, rope_theta=5e5), "rope_base is 20000.0 and rope_theta 500000.0.*one thing"),
    (dict(rope_base=2e4, rope_parameters=dict(rope_theta=5e5)), "500000.0 by rope_param.*, and 20000.0 by rope_base"),
    (dict(rope_theta=2e4, rope_parameters=dict(rope_theta=5e5)), "20000.0 by rope_theta, and 500000.0"),
    (dict(rope_scaling=dict(type="linear", factor=2.0)), "rope_scaling is .*linear.*plain"),
    (dict(rope_parameters=dict(rope_type="llama3", rope_theta=5e5, factor=8)), "rope_parameters is .*llama3.*plain"),
    (dict(rope_parameters=dict(rope_type="default", partial_rotary_factor=0.5)), "rope_parameters is .*plain"),
    (dict(rope_parameters=dict(full_attention=dict(rope_theta=1e4))), "rope_parameters is .*full_attention.*plain"),
    (dict(rope_scaling=8), "rope_scaling is 8"),
    (dict(rope_theta=0), "rope_base is 0.*positive"),
    (dict(hidden_size=48, n_embd=96), "n_embd is 96 and hidden_size 48.*two names for one thing"),
    (dict(num_attention_heads=4, n_head=2), "n_head is 2 and num_attention_heads 4"),
])  # fmt: skip
def test_rotary_positions_of_another_kind_and_two_names_at_odds_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        GPTConfig(**{k: v for k, v in CONFIG.items() if k not in ("n_embd", "n_head") or "rope" in message}, **given)


def test_a_configuration_of_before_loads_with_the_same_numbers(sharp, tmp_path):
    "What 0.1 wrote has no more than these."
    sharp.save_pretrained(tmp_path)
    old = dict(architectures=["GPT"], block_size=32, bos_token_id=None, dtype="float32", eos_token_id=None,
               initializer_range=0.3, model_type="evonb-gpt", n_embd=24, n_head=2, n_layer=3, pad_token_id=None,
               rope_base=10000.0, tie_word_embeddings=False, transformers_version="5.0.0", use_cache=True,
               vocab_size=97)
    (tmp_path / "config.json").write_text(json.dumps(old))
    ids = draw(2, 10)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, sharp(ids).logits)
    assert set(json.loads(GPT.from_pretrained(tmp_path).config.to_json_string())) - set(old) <= {"_name_or_path"}


def test_bad_tokens_are_refused(model):
    for call in (lambda i: model(i), lambda i: model.loss(i, i), lambda i: model.transformer(i)):
        with pytest.raises(InputError, match="hold 97.*ids 0 to 96"):
            call(torch.tensor([[3, 97]]))
        with pytest.raises(InputError, match="hold -1"):
            call(torch.tensor([[3, -1]]))
        with pytest.raises(InputError, match="33 tokens.*block_size is 32"):
            call(torch.zeros(1, 33, dtype=torch.long))
        with pytest.raises(InputError, match="Add a batch axis"):
            call(torch.zeros(5, dtype=torch.long))
    with pytest.raises(InputError, match="33 tokens"):
        model(inputs_embeds=torch.zeros(1, 33, 24))
    with pytest.raises(InputError, match="either input_ids or inputs_embeds"):
        model()
    with pytest.raises(InputError, match="is_causal is False"):
        model(draw(1, 4), is_causal=False)


def test_a_bad_call_of_the_loss_is_refused(model):
    with pytest.raises(InputError, match=r"\(2, 9\).*\(2, 8\).*alike"):
        model.loss(draw(2, 9), draw(2, 8))
    with pytest.raises(InputError, match="reduction is 'sum'.*mean, none"):
        model.loss(draw(2, 9), draw(2, 9), reduction="sum")


# ---- published checkpoints

PUBLISHED = {
    "model_type": "GenerationalPruning.GPT",
    "auto_map": {"AutoConfig": "modeling.GPTConfig", "AutoModelForCausalLM": "modeling.GPT"},
    "architectures": ["GPT"],
    "vocab_size": 61,
    "n_embd": 24,
    "n_layer": 12,
    "n_head": 2,
    "block_size": 1024,
    "dropout": 0.0,
    "bias": False,
    "pos_init": None,
}


def published_state(n_embd=24, n_layer=12, vocab_size=61, head_size=12):
    "Tensors in the published naming, made without our model."
    g = torch.Generator().manual_seed(0)
    r = lambda *shape: torch.randn(*shape, generator=g) * 0.2 * math.sqrt(24 / n_embd)
    state = {"transformer.wte.weight": r(vocab_size, n_embd)}
    for i in range(n_layer):
        p = f"transformer.h.{i}."
        state[p + "attn.rotary.inv_freq"] = 10000.0 ** (-torch.arange(0, head_size, 2) / head_size)
        state |= {p + "attn.c_attn.weight": r(3 * n_embd, n_embd), p + "attn.c_proj.weight": r(n_embd, n_embd)}
        state |= {p + "mlp.c_fc.weight": r(4 * n_embd, n_embd), p + "mlp.c_proj.weight": r(n_embd, 4 * n_embd)}
    return state | {"lm_head.weight": r(vocab_size, n_embd)}


@pytest.fixture
def published(tmp_path):
    state = published_state()
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path, state


def assert_loaded(model, state, n_head=2, n_layer=12):
    ids = draw(1, 12, high=61)
    expected = reference_logits(state, ids[0], n_layer, n_head)
    torch.testing.assert_close(model(ids).logits[0], expected, atol=2e-5, rtol=2e-5)
    assert not model.training and all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_a_published_folder_loads(published):
    folder, state = published
    model = load_published(folder)
    assert_loaded(model, state)
    assert (model.config.n_layer, model.config.n_head, model.config.block_size) == (12, 2, 1024)
    (folder / "again").mkdir()
    model.save_pretrained(folder / "again")
    assert_loaded(GPT.from_pretrained(folder / "again").eval(), state)


def test_a_sharded_folder_loads_and_its_faults_are_named(published):
    folder, state = published
    (folder / "model.safetensors").unlink()
    names = [f"model-{i}-of-00002.safetensors" for i in (1, 2)]
    weight_map = {n: names[i % 2] for i, n in enumerate(state)}
    for shard in names:
        save_file({n: state[n] for n, s in weight_map.items() if s == shard}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_loaded(load_published(folder), state)
    (folder / names[1]).unlink()
    with pytest.raises(InputError, match=names[1]):
        load_published(folder)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(InputError, match="same folder"):
        load_published(folder)


@pytest.mark.parametrize("key", ["model_state_dict", "weights", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module._orig_mod."])
def test_a_pt_loads(tmp_path, key, prefix):
    state = published_state()
    named = {prefix + n: t for n, t in state.items()}
    torch.save({key: named, "step": 3} if key else named, tmp_path / "run.pt")
    assert_loaded(load_published(tmp_path / "run.pt", n_head=2), state)


def without_frequencies(state):
    return {n: t for n, t in state.items() if "inv_freq" not in n}


def saved(folder, state, **beside):
    folder.mkdir(exist_ok=True)
    torch.save(dict(model_state_dict=state, **beside) if beside else state, folder / "run.pt")
    return folder / "run.pt"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("n_embd, n_head", [(64, 4), (64, 2), (24, 2), (24, 1), (768, 6), (768, 12)])
def test_heads_are_read_off_the_frequencies_or_cfg(tmp_path, n_embd, n_head, prefix):
    state = published_state(n_embd, 2, 61, head_size=n_embd // n_head)
    bare = without_frequencies(state)
    cfg = dict(n_head=n_head, n_embd=n_embd, block_size=512, lr=0.1, model_type="models.GPT")
    for kept, beside in ((state, {}), (bare, dict(cfg=cfg)), (bare, dict(cfg=argparse.Namespace(**cfg))),
                         (state, dict(cfg=cfg, step=3))):
        model = load_published(saved(tmp_path, {prefix + n: t for n, t in kept.items()}, **beside))
        assert model.config.n_head == n_head and model.config.block_size == (512 if beside else 1024)
        assert_loaded(model, state, n_head, n_layer=2)
    inside = {n.replace("h.1.", "h.1._orig_mod."): t for n, t in state.items()}  # blocks compiled one by one
    assert_loaded(load_published(saved(tmp_path, inside)), state, n_head, n_layer=2)


@pytest.mark.parametrize("n_embd", [24, 64, 768])
def test_heads_that_nothing_tells_are_asked_for(tmp_path, n_embd):
    "Twelve heads of a width of 768 were a guess, and a wrong one computes without an error."
    state = published_state(n_embd, 1, 61, head_size=n_embd // 2)
    for kept in (without_frequencies(state), {"module." + n: t for n, t in without_frequencies(state).items()}):
        file = saved(tmp_path, kept, cfg=dict(block_size=64))
        with pytest.raises(InputError, match=f"is {n_embd} wide, and nothing tells its number of heads.*Give n_head"):
            load_published(file)
        assert_loaded(load_published(file, n_head=2), state, 2, n_layer=1)
        sizes = dict(vocab_size=61, n_embd=n_embd, n_layer=1, n_head=2)
        assert_loaded(load_published(file, config=GPTConfig(**sizes)), state, 2, n_layer=1)
        (tmp_path / "config.json").write_text(json.dumps(dict(PUBLISHED, n_embd=n_embd, n_layer=1)))
        assert_loaded(load_published(file), state, 2, n_layer=1)
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in PUBLISHED.items() if k in ("model_type",)}))
        with pytest.raises(InputError, match="Give n_head"):
            load_published(file)
        (tmp_path / "config.json").unlink()


def test_evidence_that_disagrees_is_refused(tmp_path):
    state = published_state(n_layer=1)  # 24 wide, 2 heads by its frequencies
    bare, odd = without_frequencies(state), "transformer.h.0.attn.rotary.inv_freq"
    own = dict(_sizes(), n_layer=1)
    cases = [
        (state, {}, dict(n_head=1), "n_head is 1 by n_head as given, but 2 by rotary.inv_freq"),
        (state, {}, dict(config=GPTConfig(**dict(own, n_head=3))), "n_head is 3 by config as given, but 2 by rotary"),
        (state, dict(n_head=3), {}, "n_head is 3 by the checkpoint's cfg, but 2 by rotary.inv_freq"),
        (bare, dict(n_head=3), dict(n_head=2), "n_head is 2 by n_head as given, but 3 by the checkpoint's cfg"),
        (bare, dict(n_head=3), dict(config=GPTConfig(**own)), "n_head is 2 by config as given, but 3 by the"),
        (bare, {}, dict(config=GPTConfig(**own), n_head=4), "n_head is 4 by n_head as given, but 2 by config as given"),
        (state, dict(rope_base=5e5), {}, "rope_base is 500000.0 by the checkpoint's cfg, but 10000.0 by rotary"),
        (state, {}, dict(config=GPTConfig(**own, rope_base=5e5)), "rope_base is 500000.0 by config as given, but 1"),
        (state | {odd: torch.ones(5)}, {}, {}, "inv_freq has 5 entries.*don't divide a width of 24"),
        (state | {odd: torch.rand(6)}, {}, {}, "inv_freq differs from the frequencies of rope_base=10000"),
        (state | {odd: state[odd] / 4}, {}, {}, "differs from the frequencies.*tells no other base"),
        (state | {odd: torch.ones(2, 3)}, {}, {}, "isn't a row of frequencies"),
        (bare, dict(n_head="two"), {}, "n_head in cfg of .* is 'two'"),
        (bare, dict(n_head=2, bias=True), {}, "bias is True"),
        (bare, [2], {}, "cfg in .*run.pt"),
        (bare, dict(n_head=2, n_layer=2), {}, "h.1.attn.c_attn.weight is missing"),
    ]
    for kept, cfg, how, message in cases:
        with pytest.raises(InputError, match=message):
            load_published(saved(tmp_path, kept, cfg=cfg), **how)
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED | dict(n_layer=1, n_head=3)))
    with pytest.raises(InputError, match="n_head is 3 by .*config.json, but 2 by rotary.inv_freq"):
        load_published(saved(tmp_path, state))
    with pytest.raises(InputError, match="n_head is 3 by .*config.json, but 2 by the checkpoint's cfg"):
        load_published(saved(tmp_path, bare, cfg=dict(n_head=2)))


@pytest.mark.parametrize("base", [500000.0, 1234.5, 10.0, 1e6 / 3])
def test_the_rotary_base_is_read_off_the_frequencies(tmp_path, base):
    state = published_state(64, 2, 61, head_size=16)
    for n in (n for n in state if "inv_freq" in n):
        state[n] = base ** (-torch.arange(0, 16, 2) / 16)
    model = load_published(saved(tmp_path, state))
    assert model.config.rope_base == pytest.approx(base, rel=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "reference_rotate", partial(reference_rotate, base=base))
        assert_loaded(model, state, 4, n_layer=2)
    state = {n: t.bfloat16() if "inv_freq" in n else t for n, t in state.items()}
    with pytest.raises(InputError, match="differs from the frequencies of rope_base=10000.*tells no other base"):
        load_published(saved(tmp_path, state))
    sizes = dict(vocab_size=61, n_embd=64, n_layer=2, n_head=4)
    assert load_published(saved(tmp_path, state), config=GPTConfig(**sizes, rope_base=base)).config.rope_base == base


def test_a_checkpoint_of_a_generation_is_read_whole(tmp_path):
    "With what train_itp.py puts beside the weights: its arguments and a loss of numpy's."
    state = published_state(64, 2, 61, head_size=16)
    mask = {n: (t.abs() > 0.1).float() for n, t in state.items() if "inv_freq" not in n}
    file = tmp_path / "model_generation_3.pt"
    for loss in (np.float64(3.5), np.float32(3.5), np.mean([3.0, 4.0])):
        torch.save(dict(weights=state, iteration=7000, tokens=7, best_val_loss=loss, cfg=dict(block_size=32),
                        args=argparse.Namespace(lr=0.0018, compile=False), mask=mask), file)
        with pytest.warns(UserWarning, match="weights that its mask has pruned aren't zero yet.*masked=True"):
            model = load_published(file)
        assert_loaded(model, state, 4, n_layer=2)
    zeroed = {n: t * mask[n] if n in mask else t for n, t in state.items()}
    assert_loaded(load_published(file, masked=True), zeroed, 4, n_layer=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_loaded(load_published(file, masked=False), state, 4, n_layer=2)
        torch.save(dict(weights=zeroed, mask=mask), file)
        assert_loaded(load_published(file), zeroed, 4, n_layer=2)
        torch.save(dict(weights=state), file)
    with pytest.raises(InputError, match="holds no 'mask'"):
        load_published(file, masked=True)


class Sneaky:
    "Pretends to be one of the plain values, to have something called."

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("how", ["setstate", "call", "nested"])
def test_the_plain_values_that_are_let_through_call_nothing(tmp_path, how):
    trace, payload = tmp_path / "trace", {}
    evil = Malicious(trace)
    if how == "setstate":
        payload = argparse.Namespace(__setstate__=evil)
    elif how == "call":
        payload = Sneaky(np.dtype, (evil,))
    else:
        payload = Sneaky(argparse.Namespace, (), {"a": evil})
    torch.save(dict(weights=published_state(), args=payload), tmp_path / "run.pt")
    with pytest.raises(InputError, match="refused and nothing in it was run"):
        load_published(tmp_path / "run.pt")
    assert not trace.exists()


def _sizes():
    return {k: PUBLISHED[k] for k in ("vocab_size", "n_embd", "n_layer", "n_head", "block_size")}


def test_weights_that_share_storage_or_are_half_precision_load(tmp_path):
    state = {n: t.bfloat16() for n, t in published_state().items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    torch.save(state, tmp_path / "run.pt")
    model = load_published(tmp_path / "run.pt", n_head=2)
    assert_loaded(model, {n: t.float() for n, t in state.items()})
    assert model.lm_head.weight.data_ptr() != model.transformer.wte.weight.data_ptr()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("lm_head.weight"), r"lm_head.weight is missing \(expected \(61, 24\)\)"),
        (lambda s: s.update({"transformer.wpe.weight": torch.ones(9, 24)}), "transformer.wpe.weight is unexpected"),
        (
            lambda s: s.update({"transformer.h.3.mlp.c_fc.weight": torch.ones(90, 24)}),
            r"transformer.h.3.mlp.c_fc.weight has the shape \(90, 24\), but \(96, 24\) was expected",
        ),
        (
            lambda s: s.update({"transformer.h.5.attn.rotary.inv_freq": torch.ones(6)}),
            "transformer.h.5.attn.rotary.inv_freq differs from the frequencies",
        ),
        (lambda s: s.update({"transformer.h.0.attn.rotary.other": torch.ones(6)}), "rotary.other is unexpected"),
        (lambda s: s.update({"lm_head.weight": torch.ones(61, 24, dtype=torch.long)}), "lm_head.weight is not a float"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_with_its_file(published, change, message):
    folder, state = published
    change(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError, match=message) as e:
        load_published(folder)
    assert str(folder / "model.safetensors") in str(e.value)


def test_two_names_for_one_tensor_are_refused(tmp_path):
    state = published_state()
    torch.save(state | {"module.lm_head.weight": state["lm_head.weight"]}, tmp_path / "run.pt")
    with pytest.raises(InputError, match="twice"):
        load_published(tmp_path / "run.pt", n_head=2)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "plain pickle"])
def test_code_in_a_pt_is_refused_and_not_run(tmp_path, legacy):
    file, trace = tmp_path / "evil.pt", tmp_path / "trace"
    payload = {"model_state_dict": published_state() | {"extra": Malicious(trace)}}
    if legacy:
        file.write_bytes(pickle.dumps({"weights": Malicious(trace)}, protocol=2))
    else:
        torch.save(payload, file)
    with pytest.raises(InputError, match="refused and nothing in it was run.*safetensors") as e:
        load_published(file, n_head=2)
    assert str(file) in str(e.value) and not trace.exists()
    if not legacy:  # the same file does run its code where it is trusted
        torch.load(file, weights_only=False)
        assert trace.exists()


def test_damaged_files_are_named(published):
    folder, state = published
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5], b"", b"\xff" * 100):
        file.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match="model.safetensors.*Download it again"):
            load_published(folder)
    torch.save(state, folder / "run.pt")
    whole = (folder / "run.pt").read_bytes()
    for damaged in (whole[: len(whole) // 2], b""):
        (folder / "run.pt").write_bytes(damaged)
        with pytest.raises(DamagedFileError, match="run.pt is truncated"):
            load_published(folder / "run.pt")
    (folder / "config.json").write_text("{")
    file.write_bytes(b"")
    save_file(state, file)
    with pytest.raises(DamagedFileError, match="config.json isn't JSON"):
        load_published(folder)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_type": "llama"}, "model_type in .*config.json is 'llama'.*GenerationalPruning.GPT"),
        ({"bias": True}, "bias is True"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'.*'gelu'"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1.*with 2"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"n_head": 5}, "n_head is 5 by .*config.json, but 2 by rotary.inv_freq"),
        ({"n_head": None}, "n_head in .*config.json is None"),
        ({"hidden_size": 48}, "n_embd is 24 and hidden_size 48"),
    ],
)
def test_a_published_config_that_does_not_fit_is_refused(published, config, message):
    folder, _ = published
    merged = {k: v for k, v in (PUBLISHED | config).items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(merged))
    with pytest.raises(InputError, match=message):
        load_published(folder)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="isn't there"):
        load_published(tmp_path / "nothing.pt")
    with pytest.raises(InputError, match="model.safetensors isn't there"):
        load_published(tmp_path)
    for content in ({"step": 3}, [1, 2], {"weights": {"a": 1}}):
        torch.save(content, tmp_path / "run.pt")
        with pytest.raises(InputError, match="holds no weights"):
            load_published(tmp_path / "run.pt")
    torch.save({"encoder.weight": torch.ones(3)}, tmp_path / "run.pt")
    with pytest.raises(InputError, match="encoder.weight.*Is it a GPT of Model connectomes"):
        load_published(tmp_path / "run.pt", n_head=2)

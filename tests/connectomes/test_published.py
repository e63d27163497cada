"""Connectomes read from checkpoints in the layout of the published code, against a plain forward of what they hold."""

import argparse
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evonb.connectomes import published_connectome
from evonb.connectomes.wiring import prune
from evonb.core import ConnectomeError, DamagedFileError, InputError, Seeds
from evonb.training.connectome import Connectome, inherit
from evonb.training.gpt import GPTConfig, load_published, new_gpt

pytestmark = pytest.mark.numerics

WIDTH, LAYERS, TOKENS, HEADS = 32, 2, 41, 4
CONFIG = GPTConfig(vocab_size=TOKENS, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, block_size=64)
ATTENTION = "transformer.h.1.attn.c_attn.weight"


def trained_state(seed=0, scale=0.1):
    "Names and shapes of the published model, made without ours."
    g = torch.Generator().manual_seed(seed)
    shapes = {"transformer.wte.weight": (TOKENS, WIDTH), "lm_head.weight": (TOKENS, WIDTH)}
    for i in range(LAYERS):
        p = f"transformer.h.{i}."
        shapes |= {p + "attn.c_attn.weight": (3 * WIDTH, WIDTH), p + "attn.c_proj.weight": (WIDTH, WIDTH)}
        shapes |= {p + "mlp.c_fc.weight": (4 * WIDTH, WIDTH), p + "mlp.c_proj.weight": (WIDTH, 4 * WIDTH)}
    return {n: torch.randn(s, generator=g) * scale for n, s in shapes.items()}


def frequencies():
    inv_freq = 10000.0 ** (-torch.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
    return {f"transformer.h.{i}.attn.rotary.inv_freq": inv_freq.clone() for i in range(LAYERS)}


def strongest(state, share=0.4):
    return {n: (w.abs() >= w.abs().flatten().kthvalue(int((1 - share) * w.numel())).values).float()
            for n, w in state.items()}  # fmt: skip


def checkpoint(folder, state, mask, prefix="", name="model_generation_3.pt", **more):
    "As train_itp.py writes it."
    torch.save(dict(weights={prefix + n: w for n, w in (state | frequencies()).items()}, iteration=7000, tokens=10**6,
                    best_val_loss=np.float64(3.25), cfg=dict(n_head=HEADS, block_size=64, n_embd=WIDTH),
                    args=argparse.Namespace(lr=0.0018, run_name="a"), mask=mask) | more, folder / name)  # fmt: skip
    return folder / name


def after_a_generation(state, mask, magnitude=0.02):
    "The survivors at ± magnitude; what was just pruned isn't zero yet."
    return {n: torch.where(mask[n] > 0, w.sign() * magnitude, w) for n, w in state.items()}


def plain_logits(w, ids):  # (n_context,)
    "The published model, written plainly."
    def norm(x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    t, d = len(ids), WIDTH // HEADS
    angle = torch.outer(torch.arange(t).float(), frequencies()["transformer.h.0.attn.rotary.inv_freq"])
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]

    def turn(x):  # (n_context, n_head, head_size)
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)

    x = w["transformer.wte.weight"][ids]
    for i in range(LAYERS):
        p = f"transformer.h.{i}."
        q, k, v = ((norm(x) @ part.T).view(t, HEADS, d) for part in w[p + "attn.c_attn.weight"].chunk(3))
        scores = torch.einsum("qhd,khd->hqk", turn(q), turn(k)) / math.sqrt(d)
        weights = (scores + torch.full((t, t), -math.inf).triu(1)).softmax(-1)
        y = torch.einsum("hqk,khd->qhd", weights, v).reshape(t, WIDTH) @ w[p + "attn.c_proj.weight"].T
        x = x + y / math.sqrt(2 * LAYERS)
        x = x + F.gelu(norm(x) @ w[p + "mlp.c_fc.weight"].T) @ w[p + "mlp.c_proj.weight"].T
    return norm(x) @ w["lm_head.weight"].T


IDS = torch.tensor([3, 17, 40, 0, 22, 9, 5])


def times(state, mask):
    return {n: w * mask[n] for n, w in state.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("magnitude", [0.02, 0.1])
def test_a_generation_is_read_without_loss(tmp_path, prefix, magnitude):
    mask = strongest(trained_state())
    state = after_a_generation(trained_state(), mask, magnitude)
    file = checkpoint(tmp_path, state, {prefix + n: m for n, m in mask.items()} if prefix else mask, prefix)
    wiring = published_connectome(file)
    assert wiring.magnitude == magnitude and wiring.exempt == []
    assert wiring.info == dict(published="model_generation_3.pt", iteration=7000, generation=3)
    for n, signs in wiring.signs.items():
        assert torch.equal(signs != 0, mask[n] != 0)
        assert torch.equal(signs.float(), state[n].sign() * mask[n])
    newborn = inherit(new_gpt(CONFIG, Seeds(0)), wiring).eval()
    expected = plain_logits(times(state, mask), IDS)
    torch.testing.assert_close(newborn(IDS[None]).logits[0], expected, atol=1e-5, rtol=1e-5)
    assert (newborn(IDS[None]).logits[0] - plain_logits(state, IDS)).abs().max() > 0.05  # the mask does something
    assert Connectome.load(file).digest() == wiring.digest()
    wiring.save(tmp_path / "wiring.safetensors")
    assert Connectome.load(tmp_path / "wiring.safetensors").digest() == wiring.digest()


def test_a_model_that_has_learned_since_has_its_mask_and_signs(tmp_path):
    "model_best.pt: the mask of the generation, weights of many sizes."
    state = trained_state(1)
    mask = strongest(trained_state(2))  # another generation's: not the strongest of today
    file = checkpoint(tmp_path, state, {n: m.bool() for n, m in mask.items()}, name="model_best.pt")
    wiring = Connectome.load(file)
    assert wiring.magnitude == 0.02 and wiring.info == dict(published="model_best.pt", iteration=7000)
    assert published_connectome(file, magnitude=0.5).magnitude == 0.5
    assert wiring.n_live == sum(int(m.sum()) for m in mask.values())
    rewound = inherit(new_gpt(CONFIG, Seeds(0)), wiring, values=state).eval()
    expected = plain_logits(times(state, mask), IDS)
    torch.testing.assert_close(rewound(IDS[None]).logits[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(load_published(file, masked=True)(IDS[None]).logits[0], expected, atol=1e-5, rtol=1e-5)


def test_a_read_wiring_is_pruned_on(tmp_path):
    mask = strongest(trained_state())
    wiring = published_connectome(checkpoint(tmp_path, trained_state(), mask))
    child = prune(inherit(new_gpt(CONFIG, Seeds(1)), wiring), 0.2, wiring)
    for n, m in mask.items():
        assert int((child.signs[n] != 0).sum()) == int(m.sum()) - math.floor(0.2 * int(m.sum()))
        assert not ((child.signs[n] != 0) & (m == 0)).any()


def test_neither_heads_nor_precision_matter_to_a_wiring(tmp_path):
    state = {n: w.bfloat16() for n, w in trained_state().items()}
    mask = {n: m.to(torch.uint8) for n, m in strongest(trained_state()).items()}
    torch.save(dict(weights=state, mask=mask), tmp_path / "a.pt")  # nothing tells heads
    wiring = published_connectome(tmp_path / "a.pt")
    assert wiring.info == dict(published="a.pt")
    assert all(torch.equal(wiring.signs[n], (w.sign() * mask[n]).to(torch.int8)) for n, w in state.items())
    with pytest.raises(InputError, match="Give n_head"):
        load_published(tmp_path / "a.pt")


def test_parts_that_were_never_pruned_are_exempt_by_name(tmp_path):
    state, mask = trained_state(), strongest(trained_state())
    embeddings = {"transformer.wte.weight", "lm_head.weight"}
    body = {n: m for n, m in mask.items() if n not in embeddings}
    file = checkpoint(tmp_path, state, body)
    with pytest.raises(InputError, match=r"no mask of transformer.wte.weight but None.*exempt"):
        published_connectome(file)
    wiring = published_connectome(file, exempt=("embeddings", "head"))
    assert set(wiring.exempt) == embeddings and set(wiring.signs) == set(body)
    whole = published_connectome(checkpoint(tmp_path, state, mask | {n: torch.ones(TOKENS, WIDTH) for n in embeddings}))
    assert whole.exempt == [] and whole.matrix_density()["lm_head.weight"] == 1


def test_signs_that_are_kept_apart_go_first(tmp_path):
    state, mask = trained_state(), strongest(trained_state())
    signs = {n: -w.sign().to(torch.int8) for n, w in state.items()}
    state["lm_head.weight"] = torch.zeros(TOKENS, WIDTH)  # no sign of its own
    wiring = published_connectome(checkpoint(tmp_path, state, mask, signs=signs))
    assert all(torch.equal(wiring.signs[n].float(), s * mask[n]) for n, s in signs.items())
    for change, message in [
        (dict(signs=signs | {ATTENTION: signs[ATTENTION] * 2}), "signs of .*c_attn.weight hold other values than -1"),
        (dict(signs=signs | {ATTENTION: signs[ATTENTION][:5]}), r"signs of .*c_attn.* shape \(96, 32\)"),
        (dict(signs=signs | {ATTENTION: signs[ATTENTION] > 0}), "signs of .*c_attn.weight aren't numbers"),
        (dict(signs=signs | {ATTENTION: signs[ATTENTION] * 0}), "c_attn.weight in .* live .* exactly zero"),
        (dict(signs=signs | {"other": signs[ATTENTION]}), "signs of other, but no such weight"),
        (dict(signs={n: s for n, s in signs.items() if n != "lm_head.weight"}), "lm_head.weight in .* exactly zero"),
    ]:
        with pytest.raises(ConnectomeError, match=message):
            published_connectome(checkpoint(tmp_path, state, mask, **change))


def changed(tensors, name, f):
    return tensors | {name: f(tensors[name].clone())}


def one(value):
    def put(t):
        t[2, 3] = value
        return t
    return put


@pytest.mark.parametrize("mask, message", [
    (None, "holds no 'mask'.*train_itp.py"),
    ([1, 2], "mask in .*model_generation_3.pt"),
    ({}, "no mask of transformer.wte.weight"),
    (lambda m: {n: t for n, t in m.items() if n != ATTENTION}, "no mask of .*h.1.attn.c_attn.weight but None"),
    (lambda m: m | {ATTENTION: None}, "no mask of transformer.h.1.attn.c_attn.weight but None"),
    (lambda m: changed(m, ATTENTION, lambda t: t.T), r"mask of .*c_attn.weight has the shape \(32, 96\).*\(96, 32\)"),
    (lambda m: changed(m, ATTENTION, one(0.5)), "mask of .*c_attn.weight holds 0.5, but may hold 0 and 1 only"),
    (lambda m: changed(m, ATTENTION, one(math.nan)), "mask of .*c_attn.weight holds nan"),
    (lambda m: changed(m, ATTENTION, one(-1)), "mask of .*c_attn.weight holds -1"),
    (lambda m: m | {"transformer.h.2.mlp.c_fc.weight": torch.ones(3)}, "a mask of .*h.2.mlp.c_fc.weight, but"),
    (lambda m: m | {"module.lm_head.weight": m["lm_head.weight"]}, "twice"),
])  # fmt: skip
def test_a_mask_that_cannot_be_read_is_refused(tmp_path, mask, message):
    made = strongest(trained_state())
    with pytest.raises(InputError, match=message):
        published_connectome(checkpoint(tmp_path, trained_state(), mask(made) if callable(mask) else mask))


@pytest.mark.parametrize("change, message", [
    (one(0.0), "c_attn.weight in .* has 1 live weights that are exactly zero, so they have no sign"),
    (one(-0.0), "has 1 live weights that are exactly zero"),
    (one(math.nan), "weights of .*c_attn.weight hold other values than finite numbers"),
    (one(math.inf), "hold other values than finite numbers"),
])  # fmt: skip
def test_a_live_weight_without_a_sign_is_refused_and_a_pruned_one_is_not(tmp_path, change, message):
    state = changed(trained_state(), ATTENTION, change)
    mask = changed(strongest(trained_state()), ATTENTION, one(1.0))
    with pytest.raises(ConnectomeError, match=message):
        published_connectome(checkpoint(tmp_path, state, mask))
    mask = changed(mask, ATTENTION, one(0.0))
    assert published_connectome(checkpoint(tmp_path, state, mask)).signs[ATTENTION][2, 3] == 0


def test_a_checkpoint_of_another_model_or_nothing_is_refused(tmp_path):
    state, mask = trained_state(), strongest(trained_state())
    with pytest.raises(InputError, match="lm_head.weight is missing"):
        bare = {n: w for n, w in state.items() if n != "lm_head.weight"}
        published_connectome(checkpoint(tmp_path, bare, {n: mask[n] for n in bare}))
    with pytest.raises(ConnectomeError, match="leaves lm_head.weight empty"):
        published_connectome(checkpoint(tmp_path, state, changed(mask, "lm_head.weight", torch.zeros_like)))
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(InputError, match="holds no 'mask'"):
        Connectome.load(tmp_path / "bare.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(dict(weights=print)))
    with pytest.raises(InputError, match="nothing in it was run"):
        Connectome.load(tmp_path / "evil.pt")
    torch.save(dict(weights=state, mask={n: torch.ones(1, 1).expand(2**20, 2**20) for n in mask}), tmp_path / "wide.pt")
    with pytest.raises(DamagedFileError, match="its tensors claim"):
        Connectome.load(tmp_path / "wide.pt")
    with pytest.raises(ConnectomeError, match="another architecture"):
        wiring = published_connectome(checkpoint(tmp_path, state, mask))
        inherit(new_gpt(GPTConfig(vocab_size=TOKENS, n_layer=LAYERS, n_head=4, n_embd=64), Seeds(0)), wiring)

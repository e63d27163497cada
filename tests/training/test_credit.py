"""Ways of learning without backpropagation, and fast weights: against references, to the bit, and what is refused."""

import math

import numpy as np
import pytest
import torch

from evonb.connectomes.wiring import prune
from evonb.core import InputError, Seeds, Stopped, StopRequest, from_dict, to_dict
from evonb.training.connectome import check_sparse, inherit, sign_flips
from evonb.training.credit import (
    CreditConfig,
    FedBack,
    counter_loss,
    counter_matrices,
    credited_loss,
    direct_loss,
    direct_matrices,
    evolution_gradient,
    feedback_loss,
    linear_weights,
    low_rank_noise,
)
from evonb.training.gpt import GPTConfig, ModelConfig, new_gpt
from evonb.training.lifetime import Compute, Lifetime, LifetimeConfig, Optimizers, latest_checkpoint, load_checkpoint
from evonb.training.litter import Siblings, why_alone

pytestmark = pytest.mark.numerics

CONFIG = GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_embd=16, block_size=16)
IDS = np.random.default_rng(0).integers(0, 40, 5000).astype(np.uint16)
LIFE = dict(steps=6, batch_size=4, context=16, lr=1e-2, warmup=2, eval_every=3, eval_windows=4, checkpoint_every=2)
WAYS = [
    dict(credit=CreditConfig("feedback")),
    dict(credit=CreditConfig("direct")),
    dict(credit=CreditConfig("evolution", pairs=2)),
    dict(slow_share=0.25, fast_decay=0.1),
    dict(credit=CreditConfig("countercurrent")),
]
NAMES = ["feedback", "direct", "evolution", "fast", "countercurrent"]


def lifetime(folder=None, wired=True, compute=None, **kw):
    wiring = prune(new_gpt(CONFIG, Seeds(0)), 0.6) if wired else None
    model = new_gpt(CONFIG, Seeds(1))
    model = inherit(model, wiring) if wired else model
    return Lifetime(model, IDS, IDS[-600:], LifetimeConfig(**LIFE | kw), Seeds(2), wiring, folder, compute=compute)


def weights(life):
    return torch.cat([p.detach().reshape(-1) for p in life.model.parameters()])


def batch():
    rows = torch.from_numpy(IDS[: 4 * 17].astype(np.int64)).view(4, 17)
    return rows[:, :-1], rows[:, 1:]


def gradients(model, loss):
    model.zero_grad()
    loss(*batch()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}


def angle(a, b):
    return math.degrees(math.acos(max(-1, min(1, float(torch.nn.functional.cosine_similarity(a, b, dim=0))))))


@pytest.mark.parametrize("family", [None, "gpt2"])
def test_feedback_through_the_weights_themselves_is_backpropagation(family):
    from evonb.training.architectures import causal_loss, family_config, new_model

    config = CONFIG
    if family:
        small = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        config = family_config(ModelConfig(2, 2, 16, family=family, config=small), 40, 16)
    model = new_model(config, Seeds(3))
    true = gradients(model, lambda x, y: causal_loss(model, x, y))
    told = gradients(model, feedback_loss(model, linear_weights(model)))
    for n, g in true.items():
        assert torch.allclose(told[n], g, atol=1e-6), n
    other = gradients(model, feedback_loss(model, linear_weights(new_model(config, Seeds(4)))))
    early = "transformer.h.0.mlp.c_fc.weight"
    assert not torch.allclose(other[early], true[early], atol=1e-6)
    if family is None:  # nothing lies between the head and the error
        assert torch.allclose(other["lm_head.weight"], true["lm_head.weight"], atol=1e-6)


def test_feedback_alignment_learns_a_linear_map_and_aligns():
    rng = torch.Generator().manual_seed(5)

    def draw(*s):
        return torch.randn(s, generator=rng) / s[-1] ** 0.5

    teacher, back, data = draw(5, 16), draw(5, 12), torch.randn(100, 16, generator=rng)
    first, second = (draw(*s).mul(0.1).requires_grad_() for s in ((12, 16), (5, 12)))
    losses, angles = [], []
    for _ in range(400):

        def loss(way, first=first, second=second):
            return (FedBack.apply(data @ first.T, second, way) - data @ teacher.T).square().sum(1).mean() / 2

        true = torch.autograd.grad(loss(second.detach()), first)[0]
        now = loss(back)
        told = torch.autograd.grad(now, (first, second))
        losses.append(now.item())
        angles.append(angle(told[0].flatten(), true.flatten()))
        with torch.no_grad():
            first -= 0.03 * told[0]
            second -= 0.03 * told[1]
    assert losses[-1] < 0.2 * losses[0]
    assert angles[-1] < 60 and angles[-1] < angles[0]


def test_direct_feedback_is_that_of_a_loop_over_blocks():
    model = new_gpt(CONFIG, Seeds(3))
    matrices = direct_matrices(model, Seeds(4))
    told = gradients(model, direct_loss(model, matrices))
    x, y = batch()
    trunk = model.transformer
    rotary = trunk.rotary(16, "cpu")
    h = trunk.wte(x)
    outputs = [("transformer.wte", h)]
    for i, block in enumerate(trunk.h):
        h = block(h.detach(), rotary)
        outputs.append((f"transformer.h.{i}", h))
    logits = model.lm_head(torch.nn.functional.rms_norm(h.detach(), (16,), eps=1e-6)).flatten(0, 1)
    error = ((logits.softmax(-1) - torch.nn.functional.one_hot(y.flatten(), 40)) / y.numel()).detach().view(4, 16, 40)
    for name, out in outputs:
        own = dict(model.get_submodule(name).named_parameters())
        found = torch.autograd.grad(out, own.values(), error @ matrices[name])
        for (n, _), g in zip(own.items(), found):
            assert torch.allclose(told[f"{name}.{n}"], g, atol=1e-6), (name, n)


def test_counter_currents_stay_within_a_block():
    "The loss that a loop over blocks gives; each block's gradient, and each matrix's, is of that block's loss alone."
    model = new_gpt(CONFIG, Seeds(3))
    ways = counter_matrices(model, Seeds(4))
    told = gradients(model, counter_loss(model, ways))
    (x, y), trunk = batch(), model.transformer
    signal = ways["transformer.h.1"]
    signals = [torch.tanh(signal.detach() @ ways["transformer.h.0"]), signal]
    wanted, h = torch.nn.functional.one_hot(y.flatten(), 40), trunk.wte(x)
    for i, block in enumerate(trunk.h):
        h = block(h.detach() if i else h, trunk.rotary(16, "cpu"))
        flat = h.flatten(0, 1)
        alike = flat @ signals[i].T / (flat.norm(dim=1)[:, None] * signals[i].norm(dim=1))
        own = {f"transformer.h.{i}.{n}": p for n, p in block.named_parameters()} | (
            {} if i else {"transformer.wte.weight": trunk.wte.weight})
        way = ways[f"transformer.h.{i}"]
        *found, back = torch.autograd.grad((alike - wanted).square().sum() / y.numel(), [*own.values(), way])
        for n, g in zip(own, found):
            assert torch.allclose(told[n], g, atol=1e-5), n
        assert torch.allclose(way.grad, back, atol=1e-5)
    head = model.lm_head.weight
    nats = torch.nn.functional.cross_entropy(model(input_ids=x).logits.flatten(0, 1), y.flatten())
    assert torch.allclose(told["lm_head.weight"], torch.autograd.grad(nats, head)[0], atol=1e-6)


def test_directions_that_are_tried_give_the_gradient_of_a_quadratic():
    rng = torch.Generator().manual_seed(0)
    w, aim = torch.randn(10, 6, generator=rng), torch.randn(10, 6, generator=rng)
    born, live = w.clone(), torch.rand(10, 6, generator=rng) < 0.5
    loss = lambda: (w - aim).square().sum() / 2  # noqa: E731
    cosines = {}
    for rank in (1, 4):
        credit = CreditConfig("evolution", pairs=800, rank=rank, sigma=0.01)
        _, found = evolution_gradient(dict(w=w), loss, credit, Seeds(1), dict(w=live))
        assert torch.equal(w, born)  # put back to the bit
        assert not found["w"][~live].any()
        cosines[rank] = math.cos(math.radians(angle(found["w"][live], (w - aim)[live])))
    assert min(cosines.values()) > 0.9, cosines
    few = evolution_gradient(dict(w=w), loss, CreditConfig("evolution", pairs=10, sigma=0.01), Seeds(1))[1]["w"]
    assert 0 < math.cos(math.radians(angle(few.flatten(), (w - aim).flatten()))) < 0.9


def test_one_direction_gives_its_slope():
    w, credit = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), CreditConfig("evolution", pairs=1, sigma=0.5)
    nats, found = evolution_gradient(dict(w=w), lambda: 2 * w.sum(), credit, Seeds(0))
    e = low_rank_noise((2, 2), 1, Seeds(0).child(0).torch())
    assert torch.allclose(found["w"], 2 * e.sum() * e, rtol=1e-5)  # of 2 w.sum(), along e
    assert abs(float(nats) - 20) < 1e-5  # the mean of both ways


@pytest.mark.parametrize("wired", [True, False], ids=["wired", "dense"])
@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_a_stopped_life_goes_on_to_the_same_bit(tmp_path, way, wired):
    whole = lifetime(tmp_path / "whole", wired, **way).live(show=False)
    assert not torch.equal(weights(whole), weights(lifetime(None, wired).live(show=False)))
    part = lifetime(tmp_path / "part", wired, **way)

    class Stop(StopRequest):
        def __init__(self):
            self.reason = "a test"

        def __bool__(self):
            return part.step >= 3

    with pytest.raises(Stopped):
        part.live(show=False, stop=Stop())
    again = lifetime(tmp_path / "part", wired, **way)
    assert again.restore() and again.step == 3
    again.live(show=False)
    assert torch.equal(weights(whole), weights(again)) and whole.train_loss == again.train_loss
    if wired:
        check_sparse(whole.model, whole.connectome)


@pytest.mark.parametrize("kind", ["feedback", "direct", "evolution", "countercurrent"])
def test_parts_of_a_batch_teach_what_the_whole_does(kind):
    "So do processes that share a batch, whose gradients are added up."
    model = new_gpt(CONFIG, Seeds(3))
    loss = credited_loss(model, CreditConfig(kind), Seeds(4))
    whole = gradients(model, lambda x, y: loss(x, y, 5))
    parts = gradients(model, lambda x, y: (loss(x[:2], y[:2], 5) + loss(x[2:], y[2:], 5)) / 2)
    for n, g in whole.items():
        assert (parts[n] - g).norm() < (1e-2 if kind == "evolution" else 1e-5) * g.norm(), n


@pytest.mark.parametrize("signs", ["kept", "exponentiated"])
@pytest.mark.parametrize("way", [WAYS[0], WAYS[1], *WAYS[3:]], ids=["feedback", "direct", *NAMES[3:]])
def test_signs_stay_where_they_should(way, signs):
    life = lifetime(signs=signs, **way).live(show=False)
    assert not any(sign_flips(life.model, life.connectome).values())


@pytest.mark.parametrize("way", [WAYS[0], *WAYS[3:]], ids=["feedback", *NAMES[3:]])
def test_muon_takes_them_too(tmp_path, way):
    life = lifetime(tmp_path, optimizer="muon", **way).live(show=False)
    check_sparse(life.model, life.connectome)
    again = lifetime(tmp_path, optimizer="muon", **way)
    assert again.restore() and torch.equal(weights(life), weights(again))


def test_fast_weights_are_those_of_the_paper():
    "Two weights a connection, each with a rate of its own, by a loop; gradient descent on a quadratic."
    rng, slow_rate, fast_rate, fade = torch.Generator().manual_seed(0), 0.02, 0.08, 0.1
    aim, w = torch.randn(7, generator=rng), torch.randn(7, generator=rng)
    slow, fast = w.clone(), torch.zeros(7)
    ours = Optimizers(new_gpt(CONFIG, Seeds(0)), LifetimeConfig(slow_share=0.2, fast_decay=fade))
    ours.params, ours.slow = [w.clone()], [w.clone()]
    for _ in range(30):
        g = slow + fast - aim
        slow, fast = slow - slow_rate * g, (fast - fast_rate * g) * (1 - fade)
        before = [ours.params[0].clone()]
        ours.params[0] -= (slow_rate + fast_rate) * (ours.params[0] - aim)
        ours.settle(before)
    assert torch.allclose(ours.params[0], slow + fast, atol=1e-6)
    assert torch.allclose(ours.slow[0], slow, atol=1e-6)
    assert fast.abs().max() > 1e-3  # both had something to do


def test_without_them_nothing_is_kept_and_settings_of_before_fit(tmp_path):
    life = lifetime(tmp_path)
    life.live(show=False)
    assert not [k for k in load_checkpoint(latest_checkpoint(tmp_path))[0] if k.startswith("slow.")]
    before = {k: v for k, v in to_dict(LifetimeConfig()).items() if k not in ("credit", "slow_share", "fast_decay")}
    assert from_dict(LifetimeConfig, before) == LifetimeConfig()


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(credit=CreditConfig("hebb")), "backprop, feedback, direct, countercurrent, evolution"),
        (dict(credit=CreditConfig("evolution"), optimizer="muon"), "Take adamw"),
        (dict(credit=CreditConfig("evolution"), signs="kept"), "cross zero"),
        (dict(credit=CreditConfig("feedback", pairs=3)), "only evolution"),
        (dict(credit=CreditConfig("evolution", pairs=0)), "credit.pairs"),
        (dict(credit=CreditConfig("evolution", rank=0)), "credit.rank"),
        (dict(credit=CreditConfig("evolution", sigma=math.nan)), "credit.sigma"),
        (dict(slow_share=0.5), "Give fast_decay"),
        (dict(fast_decay=0.5), "Lower slow_share"),
        (dict(slow_share=-1.0, fast_decay=0.5), "from 0 to 1"),
        (dict(slow_share=0.5, fast_decay=1.0), "below 1"),
        (dict(slow_share=math.nan, fast_decay=0.1), "slow_share"),
    ],
)
def test_what_does_not_fit_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        LifetimeConfig(**LIFE | change).check()


def test_what_the_rest_cannot_do_is_refused():
    for way, says in zip(WAYS, ("feedback", "direct", "evolution", "fast weights", "countercurrent")):
        assert says in why_alone(CONFIG, LifetimeConfig(**LIFE | way), Compute())
    with pytest.raises(InputError, match="litter"):
        Siblings([lifetime(**WAYS[0])])
    with pytest.raises(InputError, match="compile"):
        lifetime(**WAYS[0], compute=Compute(compile=True))
    from evonb.training.architectures import family_config, new_model

    def gpt2(**kw):
        return new_model(family_config(ModelConfig(1, 1, 16, family="gpt2", config=kw), 40, 16), Seeds(0))

    with pytest.raises(InputError, match="GPT2LMHeadModel"):
        credited_loss(gpt2(), CreditConfig("direct"), Seeds(0))
    with pytest.raises(InputError, match="dropout"):
        credited_loss(gpt2(resid_pdrop=0.1), CreditConfig("evolution"), Seeds(0))


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_bf16_does_not_hinder_them(way):
    life = lifetime(precision="bf16", **way).live(show=False)
    assert all(map(math.isfinite, life.train_loss)) and life.model.lm_head.weight.dtype == torch.float32


def test_each_way_learns_in_a_life():
    "A text whose every token follows from the one before."
    rule = np.random.default_rng(0).permutation(40).astype(np.uint16)
    ids = np.zeros(3000, np.uint16)
    for i in range(1, len(ids)):
        ids[i] = rule[ids[i - 1]] if i % 7 else i * 31 % 40
    drops = {}
    for credit in (CreditConfig(), *(w["credit"] for w in WAYS if "credit" in w)):
        config = LifetimeConfig(**LIFE | dict(steps=40, batch_size=8, warmup=5, eval_every=40, credit=credit))
        life = Lifetime(new_gpt(CONFIG, Seeds(1)), ids, ids[-600:], config, Seeds(2)).live(show=False)
        drops[credit.kind] = life.val_loss[0] - life.val_loss[-1]
    assert drops["backprop"] > drops["feedback"] > drops["direct"] > drops["evolution"] > 0.02, drops
    assert drops["countercurrent"] > drops["evolution"], drops

"""Probes: against known truth, without a trace in what is trained, to the bit after interruptions, and told where they
don't fit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from evonb.connectomes.wiring import prune
from evonb.core import InputError, Remark, Seeds, Stopped, StopRequest
from evonb.training.architectures import family_config, new_model
from evonb.training.connectome import inherit
from evonb.training.gpt import GPTConfig, ModelConfig, new_gpt
from evonb.training.lifetime import Lifetime, LifetimeConfig, load_checkpoint
from evonb.training.litter import Siblings
from evonb.training.probes import (
    PROBES,
    Moment,
    Probes,
    attention_entropies,
    effective_rank,
    measures_of,
    probe_names,
    probe_texts,
    read_open,
)

CONFIG = GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_embd=16, block_size=16)
IDS = np.random.default_rng(0).integers(0, 40, 5000).astype(np.uint16)
LIFE = LifetimeConfig(steps=10, batch_size=8, context=16, lr=1e-2, warmup=3, eval_every=4, eval_windows=8,
                      checkpoint_every=4, probes=("all",), probe_every=3)  # fmt: skip
WIRING = prune(new_gpt(CONFIG, Seeds(0)), 0.7)


def lifetime(folder=None, connectome=WIRING, **changes):
    model = new_gpt(CONFIG, Seeds(1))
    if connectome:
        inherit(model, connectome)
    return Lifetime(model, IDS, IDS[-600:], replace(LIFE, **changes), Seeds(2), connectome, folder)


class StopAt(StopRequest):
    def __init__(self, life, step):
        self.life, self.step, self.reason = life, step, "a test"

    def __bool__(self):
        return self.life.step >= self.step


def look_at(model, n_context=None, ids=None):
    n = n_context or model.config.max_position_embeddings
    ids = np.arange(40 * n) % model.config.vocab_size if ids is None else ids
    windows = torch.from_numpy(np.asarray(ids[:20 * n]).astype(np.int64).reshape(20, n))
    return Moment(model, probe_texts(ids, (windows, windows), (windows, windows)))


# what they see


@torch.no_grad()
def induction_circuit(n_layer=2, n_vocab=16):
    "A previous-token head by rotary positions alone, then a head that asks who came after this token; or only that."
    gpt = new_gpt(GPTConfig(vocab_size=n_vocab, n_layer=n_layer, n_head=2, n_embd=64, block_size=16), Seeds(0))
    for p in gpt.parameters():
        p.zero_()
    token, before, after = (slice(k, k + n_vocab) for k in (1, 17, 33))
    frequency = 10000.0 ** (-torch.arange(16) / 16)
    gpt.transformer.wte.weight[:, 0] = 1
    gpt.transformer.wte.weight[:, token] = torch.eye(n_vocab)
    first, last = gpt.transformer.h[0].attn, gpt.transformer.h[-1].attn
    if n_layer == 2:
        q, k, v = first.c_attn.weight.split(64)
        q[:16, 0], k[:16, 0], k[16:32, 0] = 4, 4 * frequency.cos(), -4 * frequency.sin()
        v[:n_vocab, token] = first.c_proj.weight[before, :n_vocab] = torch.eye(n_vocab)
    slow = [*range(8, 16), *range(24, 32)]  # dimensions that positions hardly turn
    q, k, v = last.c_attn.weight.split(64)
    q[slow, token] = k[slow, before] = 6 * torch.eye(n_vocab)
    v[:n_vocab, token] = last.c_proj.weight[after, :n_vocab] = torch.eye(n_vocab)
    gpt.lm_head.weight[:, after] = 5 * torch.eye(n_vocab)
    return gpt


def test_an_induction_head_made_by_hand_is_found_and_one_layer_has_none():
    two, one = (look_at(induction_circuit(n)) for n in (2, 1))
    assert PROBES["induction"](two)[0] > 0.9 and PROBES["context"](two)[0] > 1
    assert PROBES["induction"](one)[0] < 0.2


def test_a_planted_massive_activation_is_found():
    gpt = new_gpt(CONFIG, Seeds(0))
    assert PROBES["massive"](look_at(gpt))[0] < 50
    with torch.no_grad():
        gpt.transformer.wte.weight[7, 3] = 3000 * gpt.transformer.wte.weight.abs().median()
    found = PROBES["massive"](look_at(gpt))[0]
    assert 2000 < found < 4000
    with torch.no_grad():
        gpt.transformer.wte.weight.zero_()
    assert math.isnan(PROBES["massive"](look_at(gpt))[0])


@pytest.mark.parametrize("values, rank", [([1, 1, 1], 3), ([5], 1), ([8, 4, 2, 2], 2**1.75), ([3, 3, 0, 0], 2)])
@pytest.mark.parametrize("shape", [(20, 6), (6, 20)])
def test_the_effective_rank_of_known_singular_values(values, rank, shape):
    rng = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 4, generator=rng))[0][:, :len(values)] for n in shape)
    assert effective_rank(u @ torch.tensor(values, dtype=torch.float32).diag() @ v.T) == pytest.approx(rank, rel=1e-4)


def test_entropy_of_attention():
    uniform = torch.ones(6, 6).tril() / torch.arange(1, 7)[:, None]
    two = torch.zeros(6, 6)
    two[:, :2] = 0.5  # ln 2 of ln 2, ln 3, ... ln 6
    entropies = attention_entropies(torch.stack([uniform, torch.eye(6), two])[None])
    expected = np.mean([math.log(2) / math.log(n) for n in range(2, 7)])
    assert torch.allclose(entropies, torch.tensor([1.0, 0.0, expected]).float(), atol=1e-6)


def test_ngrams_against_a_plain_count():
    ids = np.random.default_rng(1).integers(0, 5, 300)
    gpt = new_gpt(GPTConfig(vocab_size=5, n_layer=1, n_head=1, n_embd=8, block_size=8), Seeds(0))
    look = look_at(gpt, 8, ids)
    logs = look.text.logits.flatten(0, 1)[:256].double().log_softmax(-1)
    x, y = look.texts.unseen[:, :-1].flatten()[:256], look.texts.unseen[:, 1:].flatten()[:256]
    p = (np.bincount(ids, minlength=5) + 1) / 305
    kl1, kl2, lead1, lead2 = 0, 0, 0, 0
    for t in range(n := len(x)):
        after = ids[1:][ids[:-1] == int(x[t])]
        q = (np.bincount(after, minlength=5) + p) / (len(after) + 1)
        kl1 += sum(p[w] * (math.log(p[w]) - logs[t, w].item()) for w in range(5)) / n
        kl2 += sum(q[w] * (math.log(q[w]) - logs[t, w].item()) for w in range(5)) / n
        lead1 += (logs[t, y[t]].item() - math.log(p[y[t]])) / n
        lead2 += (logs[t, y[t]].item() - math.log(q[y[t]])) / n
    assert np.allclose(PROBES["ngrams"](look), [kl1, kl2, lead1, lead2], atol=1e-5)


def test_what_is_learned_by_heart_is_told_as_remembered():
    config = replace(LIFE, steps=120, probes=("memory",), probe_every=120, eval_every=500)
    life = Lifetime(new_gpt(CONFIG, Seeds(1)), IDS[:150], IDS[-600:], config, Seeds(2))  # read over and over
    told = np.array(life.live(show=False).probes.values)
    assert abs(told[0, 1]) < 0.1 and told[-1, 1] > 1


def test_sign_flips_are_those_of_the_connectome():
    life = lifetime().live(show=False)
    told = dict(zip(life.probes.measures, life.probes.values[-1]))
    sizes = [int(s.count_nonzero()) for s in WIRING.signs.values()]
    assert told["sign_flips"] == pytest.approx(np.average(life.flips[-1], weights=sizes)) and told["sign_flips"] > 0
    assert life.probes.values[0][life.probes.measures.index("sign_flips")] == 0
    assert math.isnan(life.probes.values[0][0]) and told["grad_norm"] > 0  # at birth there was no gradient


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_other_families_are_probed(family):
    model = new_model(family_config(ModelConfig(2, 2, 16, family), 40, 16), Seeds(0))
    was, probes = model.config._attn_implementation, Probes(("all",), model, look_at(model, 16).texts)
    told = probes.look(0, 1.0)
    assert not probes.left_out and all(map(math.isfinite, told.values())) and model.training
    assert model.config._attn_implementation == was and 0.98 < told["attention_entropy"] <= 1.0001
    plain = model.eval()(input_ids=probes.texts.unseen[:, :-1]).logits
    assert torch.allclose(plain, read_open(model, probes.texts.unseen).logits, atol=1e-5)


# what they leave alone


@pytest.mark.parametrize("connectome", [WIRING, None])
def test_training_is_the_same_to_the_bit_with_probes_and_without(connectome):
    random = torch.get_rng_state()
    with_probes, without = (lifetime(connectome=connectome, probes=p).live(show=False) for p in (("all",), ()))
    for a, b in zip(with_probes.model.parameters(), without.model.parameters()):
        assert torch.equal(a, b)
    assert (with_probes.train_loss, with_probes.val_loss) == (without.train_loss, without.val_loss)
    assert without.probes is None and with_probes.probes.steps == [0, 3, 6, 9, 10]
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("step", [0, 3, 5, 9])
def test_a_stopped_life_tells_the_same(step, tmp_path):
    whole, life = lifetime().live(show=False), lifetime(tmp_path)
    with pytest.raises(Stopped):
        life.live(show=False, stop=StopAt(life, step))
    again = lifetime(tmp_path)
    assert again.restore()
    again.live(show=False)
    assert again.probes.steps == whole.probes.steps
    assert np.array_equal(again.probes.values, whole.probes.values, equal_nan=True)


def test_a_litter_is_probed_on_the_same_steps_through_a_stop(tmp_path):
    def litter(folder):
        lives = [lifetime(folder and folder / str(k)) for k in range(2)]
        for life in lives:
            life.batched = True
            life.restore()
        return Siblings(lives)

    whole = [x.probes for x, _ in litter(None).live(show=False)]
    assert [p.steps for p in whole] == [[0, 3, 6, 9, 10]] * 2
    stopped = litter(tmp_path)
    with pytest.raises(Stopped):
        stopped.live(show=False, stop=StopAt(stopped.lives[0], 5))
    again = litter(tmp_path)
    assert {life.step for life in again.lives} == {5}
    for before, (after, _) in zip(whole, again.live(show=False)):
        assert before.steps == after.probes.steps
        assert np.array_equal(before.values, after.probes.values, equal_nan=True)


def test_a_life_without_probes_leaves_files_as_before(tmp_path):
    lifetime(tmp_path, probes=()).live(show=False)
    tensors, about = load_checkpoint(sorted(tmp_path.glob("checkpoint-*"))[-1])
    assert not [k for k in [*tensors, *about] if "probe" in k or k == "measures"]


# where they don't fit


def test_a_model_that_shows_no_attention_is_told_and_lives_on(tmp_path):
    life = lifetime(tmp_path)
    forward = life.model.forward
    life.model.forward = lambda *a, **k: forward(*a, **k | dict(output_attentions=False))
    with pytest.warns(Remark, match="'attention' doesn't fit: the model shows no attention weights"):
        life.live(show=False)
    left = {"attention", "stability", "induction"}
    assert set(life.probes.left_out) == left and life.step == 10
    told = life.probes.newest
    assert all(math.isnan(told[m]) for m in measures_of(left)) and math.isfinite(told["repeat_gain"])
    assert set(load_checkpoint(sorted(tmp_path.glob("checkpoint-*"))[-1])[1]["probes_left_out"]) == left


@pytest.mark.parametrize("changes, says", [
    (dict(probes=("inductoin",)), "probe is 'inductoin'.*Did you mean induction"),
    (dict(probe_every=0), "probe_every is 0"),
    (dict(context=3), "context is 3, but probes need windows of at least 4 tokens")])  # fmt: skip
def test_probes_that_cannot_be_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        replace(LIFE, **changes).check()


def test_names_of_probes():
    assert set(probe_names(("all",))) - set(probe_names(("default",))) == {"weight-rank"}
    assert probe_names(("induction", "induction")) == ("induction",) and probe_names(()) == ()


def test_a_probe_of_ones_own():
    PROBES.register("ones", "one", measures=dict(one=("one",)))(lambda look: (1,))
    try:
        assert lifetime(probes=("ones",), steps=4).live(show=False).probes.values == [[1.0]] * 3
    finally:
        PROBES.remove("ones")

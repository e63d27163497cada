"""One lifetime: against plain loops, to the bit after interruptions, and with an error for what can't be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evonb.connectomes.wiring import prune
from evonb.core import CorpusError, DamagedFileError, InputError, NonFiniteLossError, Seeds, Stopped, StopRequest
from evonb.training import linear as gpt
from evonb.training.connectome import check_sparse, inherit
from evonb.training.gpt import GPTConfig, new_gpt
from evonb.training.lifetime import (
    Lifetime,
    LifetimeConfig,
    Optimizers,
    Windows,
    latest_checkpoint,
    load_checkpoint,
    lr_factor,
    masked_loss,
    state_bytes,
    validation_windows,
    window_losses,
)

pytestmark = pytest.mark.numerics

CONFIG = GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_embd=16, block_size=16)
IDS = np.random.default_rng(0).integers(0, 40, 5000).astype(np.uint16)
LIFE = LifetimeConfig(steps=12, batch_size=8, context=16, lr=1e-2, warmup=3, eval_every=4, eval_windows=8,
                      checkpoint_every=5)


def changed(config, **kw):
    return LifetimeConfig(**{**vars(config), **kw})


def wiring():
    return prune(new_gpt(CONFIG, Seeds(0)), 0.75)


def newborn(connectome=None, seed=1):
    model = new_gpt(CONFIG, Seeds(seed))
    return inherit(model, connectome) if connectome else model


def lifetime(folder=None, config=LIFE, connectome=None, **kw):
    return Lifetime(newborn(connectome), IDS, IDS[-600:], config, Seeds(2), connectome, folder, **kw)


def weights(life):
    return torch.cat([p.detach().reshape(-1) for p in life.model.parameters()])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(20, 400), st.integers(1, 16), st.integers(1, 9), st.integers(0, 99))
def test_every_epoch_reads_every_window_once(n_tokens, context, batch, seed):
    windows = Windows(np.arange(n_tokens), context, batch, Seeds(seed))
    steps = 2 * windows.n_windows // math.gcd(windows.n_windows, batch)
    rows = torch.cat([windows.batch(s)[0] for s in range(steps)])
    for epoch in rows.split(windows.n_windows):
        if len(epoch) == windows.n_windows:
            starts = epoch[:, 0].sort().values
            assert (starts.diff() == context).all() and starts[-1] + context < n_tokens
    x, y = windows.batch(3)
    assert torch.equal(x + 1, y)
    again = Windows(np.arange(n_tokens), context, batch, Seeds(seed)).batch(3)
    assert all(torch.equal(a, b) for a, b in zip((x, y), again))


def plain_loop(model, config, connectome, steps, windows):
    "What one would write by hand: dense AdamW, float masks on gradients and weights."
    masks = {n: (connectome.signs[n] != 0).float() for n in connectome.signs} if connectome else {}
    opt = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    losses = []
    for step in range(steps):
        x, y = windows.batch(step)
        opt.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x).logits.reshape(-1, 40), y.reshape(-1))
        loss.backward()
        for n, p in model.named_parameters():
            if n in masks:
                p.grad.mul_(masks[n])
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        for g in opt.param_groups:
            g["lr"] = config.lr * lr_factor(step, config)
        opt.step()
        with torch.no_grad():
            for n, p in model.named_parameters():
                if n in masks:
                    p.mul_(masks[n])
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_compact_step_equals_a_plain_masked_loop(sparse, decay):
    connectome, config = wiring() if sparse else None, changed(LIFE, weight_decay=decay, eval_every=1000)
    life = lifetime(config=config, connectome=connectome)
    for _ in range(10):
        life.one_step()
    reference = newborn(connectome)
    losses = plain_loop(reference, config, connectome, 10, life.windows)
    assert np.allclose(life.train_loss, losses, atol=2e-5)
    for p, q in zip(life.model.parameters(), reference.parameters()):
        assert torch.allclose(p, q, atol=2e-5)


def test_weight_decay_acts_on_live_weights():
    lives = [lifetime(config=changed(LIFE, weight_decay=d), connectome=wiring()) for d in (0.0, 0.5)]
    kept = [weights(life.live(show=False)).norm() for life in lives]
    assert kept[1] < 0.99 * kept[0]


def test_accumulated_gradients_are_those_of_the_whole_batch():
    lives = [lifetime(config=changed(LIFE, micro_batch_size=m), connectome=wiring()) for m in (None, 2)]
    whole, parts = (life.live(show=False) for life in lives)
    assert np.allclose(whole.train_loss, parts.train_loss, atol=1e-5)
    assert torch.allclose(weights(whole), weights(parts), atol=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("exempt", [(), ("embeddings", "head")])
def test_pruned_weights_stay_exactly_zero_through_training_checkpoint_and_reload(tmp_path, optimizer, exempt):
    connectome = prune(new_gpt(CONFIG, Seeds(0)), 0.6, exempt=exempt)
    life = lifetime(tmp_path, changed(LIFE, optimizer=optimizer, weight_decay=0.1), connectome)
    before = weights(life)
    for _ in range(12):
        life.one_step()
        check_sparse(life.model, connectome)
    assert not torch.equal(before, weights(life))
    life.save()
    stored = load_checkpoint(latest_checkpoint(tmp_path))[0]
    for n, s in connectome.signs.items():
        assert (stored[f"model.{n}"][s == 0] == 0).all() and (stored[f"model.{n}"][s != 0] != 0).float().mean() > 0.99
    again = lifetime(tmp_path, life.config, connectome)
    assert again.restore()
    check_sparse(again.model, connectome)


def test_muon_changes_the_body_and_adamw_the_rest_each_at_its_own_rate():
    model = newborn()
    opt = Optimizers(model, changed(LIFE, optimizer="muon", lr=1e-3, muon_lr=0.02))
    body = {n for n, p in model.named_parameters() if any(p is q for q in opt.muon)}
    assert body == {n for n, _ in model.named_parameters() if ".h." in n}
    model.loss(torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)).backward()
    opt.clip(1.0)
    opt.step(0.5)
    assert {type(o).__name__: o.param_groups[0]["lr"] for o in opt.all} == {"AdamW": 5e-4, "Muon": 0.01}


class StopAt(StopRequest):
    "Asks to stop once a lifetime has reached a step."

    def __init__(self, life, step):
        self.life, self.step, self.reason = life, step, "a test"

    def __bool__(self):
        return self.life.step >= self.step


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_resumed_lifetime_equals_an_uninterrupted_one_bit_for_bit(tmp_path, optimizer, sparse):
    connectome, config = wiring() if sparse else None, changed(LIFE, optimizer=optimizer)
    whole = lifetime(tmp_path / "whole", config, connectome).live(show=False)
    for step in (2, 7, 10):
        life = lifetime(tmp_path / "parts", config, connectome)
        assert life.restore() is (step > 2)
        with pytest.raises(Stopped, match="resume to go on"):
            life.live(show=False, stop=StopAt(life, step))
    last = lifetime(tmp_path / "parts", config, connectome)
    last.restore()
    last.live(show=False)
    assert torch.equal(weights(last), weights(whole))
    assert last.train_loss == whole.train_loss and last.val_loss == whole.val_loss and last.val_step == whole.val_step
    a, b = (load_checkpoint(latest_checkpoint(tmp_path / x))[0] for x in ("whole", "parts"))
    assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_seeds_decide():
    a, b = (lifetime(connectome=wiring()).live(show=False) for _ in range(2))
    assert a.train_loss == b.train_loss
    other = Lifetime(newborn(wiring()), IDS, IDS[-600:], LIFE, Seeds(3), wiring()).live(show=False)
    assert other.train_loss != a.train_loss


def test_training_learns_a_known_rule():
    "Each token names the next: the loss must fall to nearly nothing."
    rule = np.random.default_rng(1).permutation(40)
    ids = [0]
    for i in range(4000):
        ids.append(rule[ids[-1]] if i % 50 else i // 50 % 40)
    ids = np.array(ids, np.uint16)
    life = Lifetime(newborn(), ids, ids[-900:], changed(LIFE, steps=200, lr=2e-2), Seeds(0))
    assert life.live(show=False).val_loss[0] == pytest.approx(math.log(40), abs=0.1) and life.val_loss[-1] < 0.5


def test_window_losses_are_those_of_a_plain_forward_whatever_the_batch():
    model, (x, y) = newborn(), validation_windows(IDS, 16, 30)
    parts = [window_losses(model, x, y, b) for b in (1, 7, 64)]
    with torch.no_grad():
        plain = torch.nn.functional.cross_entropy(model(x).logits.transpose(1, 2), y, reduction="none").mean(1)
    assert all(torch.allclose(p, plain, atol=1e-5) for p in parts)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "hold"])
def test_schedules_rise_peak_and_end_where_they_should(schedule):
    c = LifetimeConfig(steps=100, warmup=10, cooldown=30, schedule=schedule, final_lr=0.1)
    f = [lr_factor(s, c) for s in range(100)]
    assert f[0] == pytest.approx(0.1) and max(f) == 1 and f[9] == 1
    assert all(a >= b for a, b in zip(f[9:], f[10:])) and 0.1 <= f[-1] < 0.14
    if schedule == "hold":
        assert set(f[9:70]) == {1.0} and f[71] < 1


def test_state_at_a_quarter_density_takes_less_than_60_percent():
    "Against dense weights, two moments and float masks, which is 4 numbers a weight without gradients."
    life = lifetime(connectome=wiring())
    life.one_step()
    n = sum(p.numel() * 4 for p in life.model.parameters())
    assert sum(state_bytes(life.model, life.optimizers).values()) <= 0.6 * 4 * n
    dense = lifetime()
    dense.one_step()
    assert sum(state_bytes(dense.model, dense.optimizers).values()) == pytest.approx(4 * n, rel=0.01)


def test_a_loss_that_is_not_finite_ends_it_and_keeps_the_last_good_checkpoint(tmp_path):
    life = lifetime(tmp_path, connectome=wiring())
    for _ in range(5):
        life.one_step()
    life.save()
    with torch.no_grad():
        life.model.transformer.h[0].mlp.c_fc.weight.mul_(math.inf)
    with pytest.raises(NonFiniteLossError, match="nan .*at step 5.*checkpoint-00000005"):
        life.live(show=False)
    assert lifetime(tmp_path, connectome=wiring()).restore()
    with pytest.raises(NonFiniteLossError, match="Lower the learning rate"):
        broken = lifetime()
        with torch.no_grad():
            broken.model.lm_head.weight.fill_(math.inf)
        broken.live(show=False)


def test_a_gradient_that_is_not_finite_never_reaches_weights_or_checkpoints(tmp_path):
    life = lifetime(tmp_path, connectome=wiring())
    for _ in range(5):
        life.one_step()
    life.save()
    before = weights(life).clone()
    life.model.lm_head.weight.register_hook(lambda g: g * math.inf)
    with pytest.raises(NonFiniteLossError, match="norm (inf|nan) at step 5.*checkpoint-00000005"):
        life.live(show=False)
    assert torch.equal(weights(life), before) and latest_checkpoint(tmp_path).name == "checkpoint-00000005.safetensors"


def test_other_conditions_are_warned_of_on_resume(tmp_path):
    life, threads = lifetime(tmp_path), torch.get_num_threads()
    life.one_step()
    life.save()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.warns(UserWarning, match="threads"):
            assert lifetime(tmp_path).restore()
    finally:
        torch.set_num_threads(threads)


def test_another_library_that_multiplies_is_warned_of_on_resume(tmp_path, monkeypatch):
    lifetime(tmp_path, connectome=wiring()).save()
    here = gpt.fast_products()
    assert load_checkpoint(latest_checkpoint(tmp_path))[1]["products"] == here
    monkeypatch.setattr(gpt, "fast_products", lambda: "torch" if here == "onednn" else "onednn")
    with pytest.warns(UserWarning, match=f"products: '{here}' there"):
        assert lifetime(tmp_path, connectome=wiring()).restore()


def test_a_damaged_checkpoint_is_named_and_the_one_before_offered(tmp_path):
    lifetime(tmp_path).live(show=False)
    newest = latest_checkpoint(tmp_path)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.raises(DamagedFileError, match="checkpoint-00000012.*go on from .*checkpoint-00000010"):
        lifetime(tmp_path).restore()
    newest.unlink()
    life = lifetime(tmp_path)
    assert life.restore() and life.step == 10


def test_a_checkpoint_of_another_lifetime_is_refused(tmp_path):
    lifetime(tmp_path, connectome=wiring()).live(show=False)
    other_settings = lifetime(tmp_path, changed(LIFE, lr=1e-3), wiring())
    other_wiring = lifetime(tmp_path, connectome=prune(newborn(), 0.5))
    for life in (other_settings, lifetime(tmp_path), other_wiring):
        with pytest.raises(InputError, match="belongs to another lifetime"):
            life.restore()


@pytest.mark.parametrize("change, says", [
    (dict(steps=0), "steps is 0"), (dict(context=2.5), "context is 2.5"), (dict(optimizer="sgd"), "adamw, muon"),
    (dict(schedule="step"), "linear, cosine, hold"), (dict(lr=0.0), "lr is 0.0"),
    (dict(micro_batch_size=3), "isn't a multiple"), (dict(precision="fp16"), "auto, fp32, bf16"),
    (dict(grad_clip=-1.0), "grad_clip is -1.0"),
    (dict(betas=(0.9,)), "betas is"), (dict(warmup=50), "warmup 50 is more than the 12 steps"),
    (dict(schedule="hold", cooldown=11), "cooldown 11"), (dict(micro_batch_size=0), "micro_batch_size is 0"),
])  # fmt: skip
def test_bad_settings_are_named(change, says):
    with pytest.raises(InputError, match=says):
        lifetime(config=changed(LIFE, **change))


def test_a_context_longer_than_the_corpus_is_refused():
    with pytest.raises(CorpusError, match="10 tokens, too few for one window of 16"):
        Lifetime(newborn(), IDS[:10], IDS, LIFE, Seeds(0))


def test_bf16_trains_too():
    life = lifetime(config=changed(LIFE, precision="bf16"), connectome=wiring()).live(show=False)
    exact = lifetime(connectome=wiring()).live(show=False)
    assert life.model.lm_head.weight.dtype == torch.float32
    assert life.train_loss != exact.train_loss and np.allclose(life.train_loss, exact.train_loss, atol=0.1)


def test_the_loss_of_some_tokens_is_that_of_a_plain_loop():
    model = new_gpt(GPTConfig(vocab_size=40, n_layer=1, n_head=2, n_embd=16, block_size=16), Seeds(0))
    x, y = validation_windows(IDS, 16, 9)
    counts = (y % 3 == 0).to(torch.uint8)
    losses = torch.cat([model.loss(a[None], b[None], reduction="none").detach() for a, b in zip(x, y)])
    expected = losses[counts.bool()].double().mean()
    assert torch.allclose(masked_loss(model, x, y, counts, 4), expected, rtol=1e-6)
    assert torch.allclose(masked_loss(model, x, y, torch.ones_like(counts)), window_losses(model, x, y).double().mean())
    assert masked_loss(model, x, y, torch.zeros_like(counts)).isnan()

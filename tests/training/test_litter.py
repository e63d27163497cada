"""Newborns in one batched step: each as if it had been alone, through stops, failures and other siblings' ends."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from evonb.connectomes.wiring import prune
from evonb.core import InputError, NonFiniteLossError, Seeds, Stopped, StopRequest, listening
from evonb.training import linear
from evonb.training import litter as module
from evonb.training.architectures import family_config, new_model
from evonb.training.connectome import check_sparse, inherit, sign_flips
from evonb.training.curriculum import CurriculumConfig
from evonb.training.gpt import GPTConfig, ModelConfig, new_gpt
from evonb.training.lifetime import Compute, Lifetime, LifetimeConfig, latest_checkpoint, load_checkpoint
from evonb.training.litter import Siblings, litter_key, litter_size, sibling_bytes, why_alone

pytestmark = pytest.mark.numerics

SIZES = GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_embd=16, block_size=8)
IDS = np.random.default_rng(0).integers(0, 40, 3000).astype(np.uint16)
LIFE = LifetimeConfig(steps=10, batch_size=4, context=8, lr=1e-3, warmup=2, eval_every=4, eval_windows=8,
                      checkpoint_every=3)  # fmt: skip
SILENT = CurriculumConfig(deprivation="silence", deprived=((0.2, 0.5),))
OWN = [dict(lr=1e-3, weight_decay=0.1), dict(lr=2e-3, grad_clip=0.05), dict(lr=5e-4, schedule="cosine", grad_clip=0.0)]


@pytest.fixture(autouse=True)
def one_library(monkeypatch):
    "A batched product is torch's own, so what is compared with it is, too: then only the order of additions differs."
    monkeypatch.setattr(linear, "fast_products", lambda: "torch")


def wiring(k, exempt=()):
    return prune(new_gpt(SIZES, Seeds(20 + k)), 0.4 + 0.2 * k, exempt=exempt)


def newborn(k, folder=None, life=LIFE, connectome=None, **more):
    model = new_gpt(SIZES, Seeds(k))
    if connectome:
        inherit(model, connectome)
    return Lifetime(model, IDS, IDS[-400:], replace(life, **OWN[k]), Seeds(50 + k), connectome,
                    folder and folder / str(k), **more)  # fmt: skip


def weights(life):
    return torch.cat([p.detach().reshape(-1) for p in life.model.parameters()])


def assert_alike(a, b, within=1e-5):
    assert a.step == b.step and len(a.train_loss) == len(b.train_loss) and a.val_step == b.val_step
    assert np.allclose(a.train_loss, b.train_loss, rtol=0, atol=within)
    assert np.allclose(a.val_loss, b.val_loss, rtol=0, atol=within)
    assert (weights(a) - weights(b)).abs().max() < within
    assert np.array_equal(a.flips, b.flips)


class StopAt(StopRequest):
    def __init__(self, life, step):
        self.life, self.step, self.reason = life, step, "a test"

    def __bool__(self):
        return self.life.step >= self.step


@pytest.mark.parametrize("signs", ["free", "kept"])
@pytest.mark.parametrize("exempt", [(), ("embeddings", "head")])
def test_a_litter_equals_lifetimes_one_by_one(signs, exempt):
    "Masks, starts, texts, rates, schedules, decay and clipping are each one's own; gradients accumulate."
    life = replace(LIFE, signs=signs, micro_batch_size=2)
    born = [dict(life=life, connectome=wiring(k, exempt)) for k in range(3)]
    alone = [newborn(k, **b).live(show=False) for k, b in enumerate(born)]
    for k, (sibling, error) in enumerate(Siblings([newborn(k, **b) for k, b in enumerate(born)]).live(show=False)):
        assert error is None
        assert_alike(sibling, alone[k])
        check_sparse(sibling.model, born[k]["connectome"])
        assert signs == "free" or not any(sign_flips(sibling.model, born[k]["connectome"]).values())
        assert np.allclose(sibling.window_losses(), alone[k].window_losses(), atol=1e-5)
    assert (weights(alone[0]) - weights(newborn(0, **born[0]))).abs().max() > 1e-4  # they learned


def test_wired_and_dense_newborns_are_siblings_and_rules_for_signs_and_childhoods_are_their_own():
    again = replace(LIFE, curriculum=CurriculumConfig("frequency", rehearsal=0.5))
    how = [dict(connectome=wiring(0)), dict(life=again), dict(connectome=wiring(2), life=replace(LIFE, signs="kept"))]
    litter = Siblings([newborn(k, **h) for k, h in enumerate(how)])
    for k, (sibling, _) in enumerate(litter.live(show=False)):
        assert_alike(sibling, newborn(k, **how[k]).live(show=False))


def test_gradients_are_those_of_each_ones_own_loss():
    litter = Siblings([newborn(k) for k in range(3)])
    losses = litter.gradients()
    for k in range(3):
        life = newborn(k)
        life.model.loss(*life.windows.batch(0)).backward()
        own = torch.cat([p.grad.reshape(-1) for p in life.model.parameters()])
        assert (litter.gradient[k] - own).norm() < 1e-5 * own.norm()
        assert abs(losses[k] - life.model.loss(*life.windows.batch(0))) < 1e-6


def test_stopped_on_the_way_they_go_on_together_to_the_bit_or_alone(tmp_path):
    "And those that began alone go on in a litter, though they are at different steps."
    born = [dict(life=replace(LIFE, signs="kept" if k else "free"), connectome=wiring(k)) for k in range(3)]
    make = lambda folder: [newborn(k, folder, **b) for k, b in enumerate(born)]  # noqa: E731
    whole = [x for x, _ in Siblings(make(None)).live(show=False)]

    def restored(folder, batched):
        lives = make(folder)
        for x in lives:
            x.batched = batched
            x.restore()
        return lives

    for folder, batched in (("together", True), ("alone", False)):
        with pytest.raises(Stopped, match="3 newborns of a litter"):
            Siblings(lives := make(tmp_path / folder)).live(show=False, stop=StopAt(lives[1], 5))
        lives = restored(tmp_path / folder, batched) if batched else None
        if batched:
            assert {x.step for x in lives} == {5}
            for a, (b, _) in zip(whole, Siblings(lives).live(show=False)):
                assert a.train_loss == b.train_loss and torch.equal(weights(a), weights(b))
        else:
            with pytest.warns(UserWarning, match="products: "):
                lives = restored(tmp_path / folder, False)
            for a, b in zip(whole, lives):
                assert_alike(a, b.live(show=False))
    for k, x in enumerate(lives := make(tmp_path / "began")):
        with pytest.raises(Stopped):
            x.live(show=False, stop=StopAt(x, 2 + 3 * k))
    with pytest.warns(UserWarning, match="products: "):
        lives = restored(tmp_path / "began", True)
    assert [x.step for x in lives] == [2, 5, 8]
    over = Siblings(lives).live(show=False)
    assert [x for x, _ in over] == lives[::-1]  # who is over leaves
    for a, b in zip(whole, lives):
        assert_alike(a, b)


def test_a_checkpoint_is_what_a_lifetime_alone_would_store(tmp_path):
    "Name for name, also the moments of exempt matrices and of live weights."
    exempt = ("head",)
    Siblings([newborn(k, tmp_path / "litter", connectome=wiring(k, exempt)) for k in range(2)]).live(show=False)
    newborn(1, tmp_path / "alone", connectome=wiring(1, exempt)).live(show=False)
    stored = (latest_checkpoint(tmp_path / f / "1") for f in ("litter", "alone"))
    (mine, about), (theirs, told) = map(load_checkpoint, stored)
    assert list(mine) == list(theirs) and any(n.startswith("optimizer.0.1.") for n in mine)
    for n, t in theirs.items():
        assert t.dtype == mine[n].dtype and torch.allclose(mine[n].double(), t.double(), rtol=0, atol=1e-5), n
    assert about.pop("products") == "litter" and told.pop("products") == "torch"
    about.pop("seconds"), told.pop("seconds")
    assert about == told


def test_one_that_diverges_leaves_and_its_siblings_are_as_if_alone(tmp_path):
    lives = [newborn(k, tmp_path, connectome=wiring(k)) for k in range(3)]
    litter = Siblings(lives)
    litter.begin()
    for _ in range(4):
        litter.one_step()
        litter.after_step()
    with torch.no_grad():
        lives[1].model.lm_head.weight.mul_(math.inf)
    over = litter.live(show=False)
    assert over[0][0] is lives[1] and isinstance(over[0][1], NonFiniteLossError)
    assert "at step 4" in str(over[0][1]) and "checkpoint-00000003" in str(over[0][1])
    assert len(lives[1].train_loss) == 4 and latest_checkpoint(tmp_path / "1").name == "checkpoint-00000003.safetensors"
    for k in (0, 2):
        assert_alike(lives[k], newborn(k, connectome=wiring(k)).live(show=False))
    assert [e for _, e in over[1:]] == [None, None]


def test_a_device_is_asked_for_losses_every_ten_steps_or_when_something_is_due(monkeypatch):
    "As on a GPU, on the CPU: a failure is seen late, and its siblings are none the worse."
    life = replace(LIFE, steps=30, eval_every=25, checkpoint_every=25)
    lives = [newborn(k, life=life) for k in range(3)]
    litter, looks = Siblings(lives), []
    litter.begin()
    litter.every = 10
    monkeypatch.setattr(Siblings, "look", lambda s, real=Siblings.look: (looks.append(s.lives[0].step), real(s))[1])
    with torch.no_grad():
        lives[2].model.lm_head.weight.mul_(math.nan)
    for _ in range(10):
        litter.one_step()
    assert looks == [10] and list(litter.failed) == [2] and lives[2].train_loss == []
    litter.after_step()
    litter.part()
    assert len(litter.live(show=False)) == 3 and looks[1:] == [20, 25, 30]
    for k in (0, 1):
        assert_alike(lives[k], newborn(k, life=life).live(show=False))


def test_each_sibling_tells_how_far_it_is():
    told = []
    with listening(lambda kind, v: told.append((v["label"], v["step"], len(v["train_loss"])))):
        litter = Siblings([newborn(k) for k in range(2)], ["a", "b"])
        litter.live(show=False)
    assert told == [(name, i, i) for i in range(11) for name in "ab"]
    assert all(x.seconds > 0 and x.tokens_per_s > 0 for x, _ in litter.over)


def test_who_cannot_be_a_sibling_is_told_why():
    llama = family_config(ModelConfig(1, 2, 16, "llama"), 40, 8)
    for config, life, compute, why in (
        (llama, LIFE, Compute(), "llama, no batched step"),
        (SIZES, replace(LIFE, optimizer="muon"), Compute(), "Muon"),
        (SIZES, replace(LIFE, signs="exponentiated"), Compute(), "exponentiated"),
        (SIZES, replace(LIFE, curriculum=SILENT), Compute(), "silence"),
        (SIZES, LIFE, Compute(compile=True), "compiled"),
        (SIZES, LIFE, Compute(gradient_checkpointing=True), "computed again"),
    ):
        assert why in why_alone(config, life, compute)
        assert litter_size(replace(compute, litter=4), config, life, "cpu") == 1
    other = Lifetime(new_model(llama, Seeds(0)), IDS, IDS[-400:], LIFE, Seeds(0))
    for lives in ([other], [newborn(0, life=replace(LIFE, optimizer="muon"))]):
        with pytest.raises(InputError, match="can't be lived in a litter: .*Live it by itself"):
            Siblings(lives)
    with pytest.raises(InputError, match="must share sizes"):
        Siblings([newborn(0), newborn(1, life=replace(LIFE, batch_size=2))])
    with pytest.raises(InputError, match="the list is empty"):
        Siblings([])
    assert litter_key(SIZES, LIFE) != litter_key(replace_width(), LIFE)


def replace_width():
    return GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_embd=12, block_size=8)


def test_as_many_as_fit_and_on_a_gpu_no_more_than_keep_it_busy(monkeypatch):
    size = lambda litter, device="cpu": litter_size(Compute(litter=litter), SIZES, LIFE, device)  # noqa: E731
    monkeypatch.setattr(module, "free_on", lambda device: 1e12)
    assert [size(n) for n in ("auto", 0, 1, 5)] == [1, 1, 1, 5]
    assert [size(n, "cuda") for n in ("auto", 0, 100)] == [module.MOST_SIBLINGS, 1, 100]
    monkeypatch.setattr(module, "BUSY", 7.5 * 6 * 40 * 16 * (2 + 2 * 12 * 16 / 40) * 4 * 8)
    assert size("auto", "cuda") == 7
    monkeypatch.setattr(module, "free_on", lambda device: 3.5 / 0.7 * sibling_bytes(SIZES, LIFE))
    assert size("auto", "cuda") == 3 and size(5) == 3
    monkeypatch.setattr(module, "free_on", lambda device: 0.0)
    assert size("auto", "cuda") == size(5) == 1


@pytest.mark.parametrize("litter", [-1, True, 2.5, "many", None])
def test_a_setting_that_is_no_number_is_refused(litter):
    with pytest.raises(InputError, match="must be auto or a number"):
        Compute(litter=litter).check()


def test_a_litter_and_what_it_does_not_have_are_refused_together():
    for more in (dict(compile=True), dict(gradient_checkpointing=True)):
        with pytest.raises(InputError, match="Leave one of them out"):
            Compute(litter=4, **more).check()
    assert Compute(gradient_checkpointing=True).check().litter == "auto"

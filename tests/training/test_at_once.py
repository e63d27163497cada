"""Batches that a CPU learns from and predicts in parts: the same result to rounding, and only where that holds."""

import numpy as np
import pytest
import torch

from evonb.core import Seeds
from evonb.training import lifetime, linear
from evonb.training.credit import CreditConfig
from evonb.training.gpt import GPTConfig, head_loss, new_gpt
from evonb.training.lifetime import Compute, Lifetime, LifetimeConfig, masked_loss, window_losses, windows_at_once
from evonb.training.linear import rows_at_once
from evonb.training.parallel import with_threads

CONFIG = GPTConfig(vocab_size=40, n_layer=2, n_head=2, n_embd=16, block_size=16)
IDS = np.random.default_rng(0).integers(0, 40, 5000).astype(np.uint16)
LIFE = LifetimeConfig(steps=3, batch_size=10, context=16, warmup=1, eval_every=3, eval_windows=7)


@pytest.fixture(autouse=True)
def one_thread():
    with with_threads(1):
        yield


@pytest.fixture
def cut(monkeypatch):
    "Passes of four windows of sixteen tokens, for models of any width."
    monkeypatch.setattr(linear, "PASS_TOKENS", 64)
    small = lambda device, n_tokens, n_rows, width, *more: rows_at_once(device, n_tokens, n_rows, 128, *more)
    monkeypatch.setattr(lifetime, "rows_at_once", small)


def newborn(life=LIFE, **more):
    return Lifetime(new_gpt(CONFIG, Seeds(1)), IDS, IDS[-600:], life, Seeds(2), **more)


def sizes(life):
    "Windows of each pass of a lifetime's step."
    found, loss = [], life.loss
    life.loss = lambda x, *rest: found.append(len(x)) or loss(x, *rest)
    life.one_step()
    return found


def test_rows_are_shared_among_as_few_passes_as_caches_want():
    assert [rows_at_once("cpu", 64, n) for n in (1, 16, 17, 64, 100)] == [1, 16, 9, 16, 15]
    assert rows_at_once("cpu", 64, 64, n_threads=2) == 32
    assert rows_at_once("cpu", 5000, 64) == 1  # a row is never cut
    assert rows_at_once("cpu", 64, 64, width=64) == 32 and rows_at_once("cpu", 64, 64, width=768) == 16
    assert rows_at_once("cpu", 64, 0) == 0
    for device in ("cuda", "mps", "meta"):
        assert rows_at_once(torch.device(device), 64, 5000) == 5000


def test_a_step_in_parts_has_the_gradient_of_the_whole_batch(cut):
    parted, whole = newborn(), newborn(LifetimeConfig(**{**vars(LIFE), "micro_batch_size": 10}))
    assert sizes(parted) == [4, 4, 2] and sizes(whole) == [10]
    assert parted.train_loss[0] == pytest.approx(whole.train_loss[0], abs=1e-6)
    for a, b in zip(parted.optimizers.params, whole.optimizers.params, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)
    assert parted.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)


def test_who_asks_for_a_number_of_windows_gets_it(cut):
    assert sizes(newborn(LifetimeConfig(**{**vars(LIFE), "micro_batch_size": 5}))) == [5, 5]


def test_a_batch_is_whole_where_parts_would_be_another_thing(cut, monkeypatch):
    assert sizes(newborn(LifetimeConfig(**{**vars(LIFE), "credit": CreditConfig("evolution")})))[0] == 10
    assert windows_at_once(LIFE, "cuda", 16) == 10
    monkeypatch.setattr(lifetime, "training_loss", lambda model, compute: model.loss)
    assert sizes(newborn(compute=Compute(compile=True))) == [10]  # each size would be compiled anew
    monkeypatch.setattr(lifetime, "is_random", lambda model: True)
    assert sizes(newborn()) == [10]  # dropout would draw otherwise


@pytest.mark.parametrize("n", [1, 4, 7, 8])
def test_windows_are_predicted_in_parts_alike(cut, n):
    model, rows = new_gpt(CONFIG, Seeds(3)), torch.from_numpy(IDS[:17 * n].astype(np.int64)).view(n, 17)
    found = window_losses(model, rows[:, :-1], rows[:, 1:])
    with torch.no_grad():
        expected = model.loss(rows[:, :-1], rows[:, 1:], reduction="none").mean(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    counts = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (n, 16)))
    of_some = masked_loss(model, rows[:, :-1], rows[:, 1:], counts)
    with torch.no_grad():
        each = model.loss(rows[:, :-1], rows[:, 1:], reduction="none").double()
    assert float(of_some) == pytest.approx(float((each * counts).sum() / counts.sum()), abs=1e-5)


@pytest.mark.parametrize("n", [1023, 1024, 1500])
def test_losses_of_tokens_from_pieces_of_the_head_are_those_of_all_logits(n):
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(n, 16, generator=rng), torch.randn(300, 16, generator=rng)
    t = torch.randint(0, 300, (n,), generator=rng)
    t[::7] = -100
    with torch.no_grad():
        found = head_loss(x, w, t, reduction="none")
    expected = torch.nn.functional.cross_entropy(x.double() @ w.T.double(), t, reduction="none")
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)
    assert not found[::7].any()

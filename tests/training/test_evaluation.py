"""Validation multiplies as training does: the same losses to rounding, and elsewhere nothing changes."""

import pytest
import torch

from evonb.core import Seeds
from evonb.training import gpt, linear
from evonb.training.gpt import GPTConfig, new_gpt
from evonb.training.lifetime import masked_loss, window_losses
from evonb.training.linear import fast_evaluation, fast_products

pytestmark = pytest.mark.skipif(fast_products() != "onednn", reason="oneDNN isn't faster on this processor")


@pytest.fixture
def counted(monkeypatch):
    "How often oneDNN multiplied."
    calls, real = [], linear.product
    for module in (linear, gpt):
        monkeypatch.setattr(module, "product", lambda *a: calls.append(1) or real(*a))
    return calls


def test_validation_and_test_multiply_as_training_does_and_give_the_same_losses(counted):
    model = new_gpt(GPTConfig(vocab_size=300, n_layer=2, n_head=2, n_embd=32, block_size=48), Seeds(0))
    ids = torch.from_numpy(Seeds(1).numpy().integers(0, 300, (24, 49)))
    x, y = ids[:, :-1], ids[:, 1:]
    found = window_losses(model, x, y, 12)
    assert len(counted) == 2 * (2 * 4 + 2)  # two batches: four products a block, two pieces of the head
    assert torch.equal(found, window_losses(model, x, y, 12))  # the same bits again
    counted.clear()
    with torch.no_grad():
        plain = model.loss(x, y, reduction="none").mean(1)
        mean = model.loss(x, y)
    assert not counted  # who doesn't ask for it gets what texts of any length get
    assert torch.allclose(found, plain, atol=1e-5) and torch.allclose(plain.mean(), mean, atol=1e-5)
    kept = torch.ones_like(y)
    assert abs(float(masked_loss(model, x, y, kept, 12)) - float(plain.mean())) < 1e-5 and counted
    counted.clear()
    window_losses(model, x[:2], y[:2], 2)  # too few tokens for it to pay
    assert not counted
    with fast_evaluation(), torch.no_grad():
        assert abs(float(model.loss(x, y)) - float(mean)) < 1e-5  # no gradient is taken along the way

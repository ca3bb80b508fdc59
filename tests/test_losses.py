"""Losses of one sample each: their forces and how these change, against autograd and differences."""

import pytest
import torch
from torch import nn

from grsd.losses import checked_force, force_along, force_of, losses_of


def smooth(outputs, targets):
    return (outputs - targets).cosh().log().sum(1) + outputs.prod(1)


def drawn(loss):
    f, moved, y = torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return f, moved, y.argmax(1) if loss == "cross-entropy" else y


@pytest.mark.parametrize("loss", ["mse", "cross-entropy", smooth])
def test_force_and_its_change(loss):
    f, moved, y = drawn(loss)
    plain = {
        "mse": lambda f: (f - y).square().sum(1) / 2,
        "cross-entropy": lambda f: nn.functional.cross_entropy(f, y, reduction="none"),
    }.get(loss, lambda f: smooth(f, y))
    losses, force = checked_force("call", loss, f, y)
    own = f.clone().requires_grad_(True)
    expected = plain(own)
    assert torch.allclose(losses, expected.detach(), rtol=1e-14, atol=0)
    assert torch.allclose(force, torch.autograd.grad(expected.sum(), own)[0], rtol=1e-13, atol=1e-15)
    assert torch.equal(losses, losses_of(loss, f, y))
    assert torch.equal(force, force_of(loss, f, y))
    h = 1e-5
    change = (force_of(loss, f + h * moved, y) - force_of(loss, f - h * moved, y)) / (2 * h)
    assert torch.allclose(force_along("call", loss, f, y, moved), change, rtol=1e-6, atol=1e-8)

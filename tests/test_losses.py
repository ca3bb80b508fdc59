"""Losses of one sample each: their forces and how these change, against autograd and differences."""

import pytest
import torch
from torch import nn

from grsd.losses import checked_force, force_along, force_of, losses_of


def smooth(outputs, targets):
    return (outputs - targets).cosh().log().sum(1) + outputs.prod(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_force_that_is_not_the_slope_of_its_loss_is_refused(dtype):
    f, _, y = drawn("mse")
    f, y = f.to(dtype), y.to(dtype)
    good = [
        lambda f, y: (f - y).abs().sum(1),
        lambda f, y: nn.functional.relu(f - f.detach().round() * 0 - y).sum(1),
        lambda f, y: (f.float() - y.float()).square().sum(1),
        lambda f, y: nn.functional.huber_loss(f, y, reduction="none").sum(1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=dtype), reduction="none"),
    ]
    edge = f.sigmoid().clamp(1e-12, 1 - 1e-7)
    edge[0, 0] = 1e-12
    checked_force("call", lambda f, y: -f.log().sum(1), edge, y)
    checked_force(
        "call", lambda f, _: nn.functional.binary_cross_entropy(f, f.detach() * 0, reduction="none").sum(1), edge, y
    )
    for loss in good:
        checked_force("call", loss, f, y)
        checked_force("call", loss, y.clone(), y)
    bad = [lambda f, y: (f.detach() * f).sum(1), lambda f, y: ((f - y).square() * f.detach().sigmoid()).sum(1)]
    for loss in bad:
        with pytest.raises(ValueError, match=r"^call\(loss=...\): torch's gradient of the loss disagrees with a diff"):
            checked_force("call", loss, f, y)


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

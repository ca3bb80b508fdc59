"""The budget of one instant, for any loss and along any direction: the limit of the budget between two states."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_training import batch, dense_kernel, net, plain_loss, squared_log_cosh, train
from torch import nn

import grsd
from grsd.shells import LogShells

SHELLS = LogShells(1.0, 0.4, span=(-6.0, 4.0))


def ahead(model, direction, time):
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in moved.named_parameters():
            p += time * direction.get(name, torch.zeros_like(p))
    return moved


def gradient(model, loss, inputs, targets):
    mean = plain_loss(loss, model(inputs), targets) / len(inputs)
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(mean, list(model.parameters())), strict=True))


def instant(model, inputs, targets, loss, direction):
    now = grsd.force_and_rate(model, inputs, targets, loss=loss, direction=direction)
    kernel, rate = grsd.tangent_kernel_and_rate(model, inputs, direction=now.direction)
    return now, grsd.energy_budget(grsd.spectrum(kernel, rate), now.force, SHELLS, error_rate=now.rate)


@pytest.mark.parametrize("loss", ["mse", "cross-entropy", squared_log_cosh])
@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_it_is_the_limit_of_the_budget_between_states(loss, optimizer):
    """Of second order about the midpoint, along gradient flow of the loss and along a step of Adam."""
    inputs, targets = batch(loss)
    model = train(net("tanh"), loss, "sgd", 5, inputs, targets)
    direction = None
    if optimizer:
        start, stop = (dict(m.named_parameters()) for m in (model, train(model, loss, optimizer, 3, inputs, targets)))
        direction = {name: (stop[name] - start[name]).detach() for name in start}
    now, budget = instant(model, inputs, targets, loss, direction)
    if direction is None:
        for name, slope in gradient(model, loss, inputs, targets).items():
            assert torch.allclose(now.direction[name], -slope, rtol=1e-10, atol=1e-14)
    for name, of in {"relaxation": "relaxation", "coupling": "transport"}.items():
        distance = []
        for step in (0.04, 0.02, 0.01):
            ends = [ahead(model, now.direction, sign * step / 2) for sign in (-1, 1)]
            between = grsd.checkpoint_budget(*ends, inputs, targets, SHELLS, loss=loss)
            distance.append(float(np.abs(between[of] / step - budget[name]).max() / np.abs(budget[name]).max()))
        assert distance[-1] < 0.01, (name, distance)
        assert all(3.5 < one / other < 4.5 for one, other in pairwise(distance)), distance


def test_gradient_flow_of_the_squared_error_is_the_special_case():
    inputs, targets = batch("mse")
    model = net("normalized")
    now, budget = instant(model, inputs, targets, "mse", None)
    kernel, rate = grsd.tangent_kernel_and_rate(model, inputs, targets)
    usual = grsd.energy_budget(grsd.spectrum(kernel, rate), (model(inputs) - targets).detach(), SHELLS)
    for name in usual.data_vars:
        np.testing.assert_allclose(budget[name], usual[name], rtol=1e-9, atol=1e-11, err_msg=name)
    np.testing.assert_allclose(
        budget.relaxation, -usual.dissipation, rtol=0, atol=1e-12 * float(usual.dissipation.sum())
    )
    assert str(now) == f"ForceAndRate(loss={now.loss:.6g}, D=30, 6 parameters)"


def test_a_rate_along_one_parameter_alone_is_a_difference_of_kernels():
    """Also of a wrapped module, whose names have a prefix, and of one that is partly frozen."""
    inputs, _ = batch("mse")
    model = net("tanh")
    model[0].bias.requires_grad_(False)
    direction = {"2.weight": torch.randn(7, 7, generator=torch.Generator().manual_seed(3)).double()}
    ends = [ahead(model, direction, time) for time in (-1e-5, 1e-5)]
    kernel, rate = grsd.tangent_kernel_and_rate(model, inputs, direction=direction)
    change = (grsd.tangent_kernel(ends[1], inputs) - grsd.tangent_kernel(ends[0], inputs)) / 2e-5
    assert float((rate - change).abs().max()) < 1e-8 * float(rate.abs().max())
    assert not torch.allclose(kernel, dense_kernel(model, inputs))
    wrapped = {f"module.{name}": part for name, part in direction.items()}
    _, again = grsd.tangent_kernel_and_rate(nn.DataParallel(model), inputs, direction=wrapped)
    assert torch.allclose(again, rate, rtol=1e-12)
    assert set(grsd.force_and_rate(nn.DataParallel(model), *batch("mse")).direction) == {
        f"module.{name}" for name, p in model.named_parameters() if p.requires_grad
    }


def test_a_linear_loss_has_a_force_that_stands_still():
    inputs, targets = batch("mse")
    found = grsd.force_and_rate(net("tanh"), inputs, targets, loss=lambda f, y: (f * y).sum(1))
    assert torch.equal(found.force, targets.reshape(-1))
    assert not found.rate.any()


MODEL = net("tanh")
MODEL[0].bias.requires_grad_(False)
INPUTS, TARGETS = batch("mse")
BIAS = MODEL[2].bias.detach()
REFUSED = {
    r"expected a mapping from names of parameters to their changes, got 3": 3,
    r"'0' is none of the trainable parameters; expected names from model.named_parameters\(\)": {"0": BIAS},
    r"'0.bias' is none of the trainable parameters; it does not require gradients": {"0.bias": BIAS},
    r"expected a tensor of shape \(7,\) for '2.bias', got .*": {"2.bias": BIAS[:3]},
    r"expected a dense tensor of finite floating point numbers for '2.bias'": {"2.bias": BIAS * math.nan},
    r"the direction, up to 1e\+200, or its square leaves the range of float64; scale it down, and .*": {
        "2.bias": torch.full_like(BIAS, 1e200)
    },
    r"the direction, up to 1e-200, or its square leaves the range of float64; scale it up, and .*": {
        "2.bias": torch.full_like(BIAS, 1e-200)
    },
}


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("text", REFUSED)
def test_a_direction_that_does_not_fit_is_refused_in_one_line(text):
    with pytest.raises((TypeError, ValueError), match=rf"^tangent_kernel_and_rate\(direction=...\): {text}$"):
        grsd.tangent_kernel_and_rate(MODEL, INPUTS, direction=REFUSED[text])
    with pytest.raises((TypeError, ValueError), match=rf"^force_and_rate\(direction=...\): {text}$"):
        grsd.force_and_rate(MODEL, INPUTS, TARGETS, direction=REFUSED[text])


@pytest.mark.usefixtures("as_users_run_it")
def test_what_else_is_refused():
    line = r"^tangent_kernel_and_rate\(targets, direction=...\): expected one of them, got "
    with pytest.raises(TypeError, match=line + "neither$"):
        grsd.tangent_kernel_and_rate(MODEL, INPUTS)
    with pytest.raises(TypeError, match=line + "both$"):
        grsd.tangent_kernel_and_rate(MODEL, INPUTS, TARGETS, direction={})
    with pytest.raises(
        TypeError, match=r"^force_and_rate\(\.\.\., targets\): expected floating point .*cross-entropy'$"
    ):
        grsd.force_and_rate(MODEL, INPUTS, batch("cross-entropy")[1])
    with pytest.raises(
        RuntimeError, match=r"^force_and_rate\(loss=...\): torch's second derivative of the loss disagrees .*$"
    ):
        grsd.force_and_rate(MODEL, INPUTS, TARGETS, loss=Once())
    found = grsd.krylov_spectrum(MODEL, INPUTS, TARGETS, steps=8)
    with pytest.raises(
        ValueError, match=r"^energy_budget\(error_rate=...\): expected a spectrum from grsd.spectrum; .*$"
    ):
        grsd.energy_budget(found, found.error, SHELLS, error_rate=found.error)
    modes = grsd.spectrum(grsd.tangent_kernel(MODEL, INPUTS))
    with pytest.raises(
        ValueError, match=r"^energy_budget\(error_rate=...\): expected shape \(N, C\) or \(D,\) with .*$"
    ):
        grsd.energy_budget(modes, TARGETS, SHELLS, error_rate=TARGETS[:3])


class Once:
    """A loss whose gradient has no gradient."""

    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx, off):
            ctx.save_for_backward(off)
            return off.square().sum(1) / 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grown):
            return grown[:, None] * ctx.saved_tensors[0]

    def __call__(self, outputs, targets):
        return self.Half.apply(outputs - targets)

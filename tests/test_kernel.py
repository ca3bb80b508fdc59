import pytest
import torch
from models import dense
from torch import nn

import grsd
from grsd import kernel as kernel_module


def relative(found, expected):
    return float((found - expected).norm() / expected.norm().clamp(min=1e-300))


def test_kernel_and_rate_against_one_dense_jacobian(case):
    m, rate, _ = dense(*case)
    kernel, kernel_rate = grsd.tangent_kernel_and_rate(*case)
    assert relative(kernel, m) < 1e-13
    assert relative(kernel_rate, rate) < 1e-12 or float(rate.norm()) == 0
    assert relative(grsd.tangent_kernel(*case[:2]), kernel) < 1e-14
    assert torch.equal(kernel, kernel.T)
    assert torch.equal(kernel_rate, kernel_rate.T)


def test_rate_against_differences_of_the_dense_kernel(case):
    """Fourth order, along the straight line theta + h theta', where M' is the first derivative."""
    m, rate, along = dense(*case)
    h = 1e-3 * min(1.0, float(m.norm() / rate.norm().clamp(min=1e-300)))
    difference = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    found = grsd.tangent_kernel_and_rate(*case)[1]
    assert float((found - difference).norm()) <= 1e-8 * float(rate.norm()) + 1e-12 * float(m.norm()) / h


def test_slices_add_up(case, monkeypatch):
    """The route for several positions per sample, cut into single output features."""
    whole = grsd.tangent_kernel_and_rate(*case)
    monkeypatch.setattr(kernel_module, "SLICE", 1)
    for part, one in zip(grsd.tangent_kernel_and_rate(*case), whole, strict=True):
        assert torch.allclose(part, one, rtol=1e-12, atol=1e-14)


def test_order_of_samples_and_precision():
    model = grsd.Perceptron(5, 3, width=16, depth=3, residual=True)
    x = torch.randn(7, 5, dtype=torch.float64)
    kernel = grsd.tangent_kernel(model, x).view(7, 3, 7, 3)
    order = torch.randperm(7)
    shuffled = grsd.tangent_kernel(model, x[order]).view(7, 3, 7, 3)
    assert torch.allclose(shuffled, kernel[order][:, :, order], rtol=1e-12)
    single = grsd.tangent_kernel(model, x, dtype=torch.float32)
    assert single.dtype == torch.float32
    assert relative(single.double(), kernel.reshape(21, 21)) < 1e-5
    assert next(model.parameters()).dtype == torch.float32


class Couples(nn.Module):
    """Samples see each other's mean."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        y = self.layer(x)
        return torch.tanh(y - y.mean(0))


class Twice(nn.Module):
    """Uses a layer's weight outside the layer too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return self.layer(x) + x @ self.layer.weight.T**2


class Folds(nn.Module):
    """Folds samples into one row before its layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 6)

    def forward(self, x):
        return self.layer(x.reshape(-1, 10)).reshape(-1, 3)


@pytest.mark.parametrize("model", [Couples(), Twice()])
def test_self_check_refuses_what_the_route_cannot_see(model):
    x = torch.randn(6, 5)
    message = r"tangent_kernel\(model, ...\): self-check failed, .* couples samples, is random, or uses a parameter"
    with pytest.raises(RuntimeError, match=message):
        grsd.tangent_kernel(model, x)
    with pytest.raises(RuntimeError, match="self-check failed"):
        grsd.tangent_kernel_and_rate(model, x, torch.zeros(6, 3))


def test_self_check_covers_the_rate(monkeypatch):
    monkeypatch.setattr(kernel_module._Accumulator, "add_rate", lambda self, factor, rate: self.add(factor))
    model, x = grsd.Perceptron(5, 3, width=8, depth=2), torch.randn(6, 5)
    with pytest.raises(RuntimeError, match=r"self-check failed, v\^T M' v"):
        grsd.tangent_kernel_and_rate(model, x, torch.zeros(6, 3))


def test_layers_other_than_linear_are_named():
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"not so: 1.bias, 1.weight; set requires_grad=False to leave them out"):
        grsd.tangent_kernel(model, torch.randn(6, 5))
    with pytest.raises(ValueError, match=r"must keep the 6 samples as its first dimension, .* \(3, 6\)"):
        grsd.tangent_kernel(Folds(), torch.randn(6, 5))


def test_memory_limit():
    model, x = grsd.Perceptron(5, 3, width=8, depth=2), torch.randn(60, 5)
    need = grsd.memory_estimate(model, x)
    assert need >= 2 * 180**2 * 8
    assert grsd.memory_estimate(model, x, rate=True) > need
    grsd.tangent_kernel(model, x, memory_limit=need)
    for limit in (need - 1, "100 KiB", "0.1MB"):
        with pytest.raises(MemoryError, match=r"D = 180 needs about .* raise the limit, take fewer samples"):
            grsd.tangent_kernel(model, x, memory_limit=limit)
    for wrong in ("much", "4 TB", True):
        with pytest.raises(ValueError, match=r"memory_limit=...\): expected bytes or text such as '4GiB'"):
            grsd.tangent_kernel(model, x, memory_limit=wrong)

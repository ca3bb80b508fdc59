"""What a slower strategy holds: it is measured and planned like the first one, and refused above the limit."""

import pytest
import torch
from torch import nn

import grsd
from grsd.kernel import computation
from grsd.kernel.computation import KernelComputation
from grsd.kernel.meter import peak_and_result

X, Y = (torch.randn(20, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (5, 3))


class Sine(torch.autograd.Function):
    """Without forward mode, so that rates are left to rows of whole parameters by two backward passes."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


class Network(nn.Module):
    def __init__(self, sine):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.inner, self.readout = nn.Linear(5, 200), nn.Linear(200, 100), nn.Linear(100, 3)
        self.sine = sine

    def forward(self, x):
        return self.readout(self.sine(self.inner(self.sine(self.first(x)))))


@pytest.fixture(scope="module")
def expected():
    return grsd.tangent_kernel_and_rate(Network(torch.sin), X, Y)


def is_right(found, expected):
    assert all(torch.allclose(one, other, rtol=1e-9, atol=1e-12) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("limit", ["4GiB", "14MiB"])
def test_no_forward_mode_under_a_memory_limit(limit, expected):
    peak, found = peak_and_result(lambda: grsd.tangent_kernel_and_rate(Network(Sine.apply), X, Y, memory_limit=limit))
    is_right(found, expected)
    if limit == "14MiB":
        assert peak < 1.3 * 14 * 2**20


def test_a_limit_that_is_too_low_for_what_is_left():
    with pytest.raises(MemoryError, match=r"^tangent_kernel_and_rate\(memory_limit='2MiB'\): D = 60 needs about"):
        grsd.tangent_kernel_and_rate(Network(Sine.apply), X, Y, memory_limit="2MiB")
    assert grsd.memory_estimate(Network(Sine.apply), X, rate=True, memory_limit="2MiB") > 2 * 2**20


def test_rows_of_a_small_problem_may_be_large(monkeypatch, expected):
    """Small by its layers; its rows, 60 x 22,000 numbers and their derivatives, are not."""
    monkeypatch.setattr(computation, "SMALL", 2**25)
    monkeypatch.setattr(computation, "free_memory", lambda _: 2**26)
    task = KernelComputation("computation", Network(Sine.apply), X, Y, torch.float64, None, None, rate=True)
    assert task.small
    peak, found = peak_and_result(task.total)
    is_right(found, expected)
    assert not task.small
    assert peak < 1.3 * 2**26

"""Every family of the table: its kernel and its rate are the naive ones, or it is refused in its own line."""

import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from reference import evaluate, fresh, rate
from torch import nn
from untouched import state

import grsd
from grsd.bench.families import FAMILIES, Family
from grsd.jacobian import composed
from grsd.jacobian.recurrent import without_cudnn

NAMES = list(FAMILIES)
SHORT = NAMES[::5]
LONG = [name for name in NAMES if name not in SHORT]


def marked(names):
    """A fifth of the table in every run, the rest in the long one."""
    return [
        pytest.param(name, marks=[] if name in SHORT and not FAMILIES[name].slow else [pytest.mark.long])
        for name in names
    ]


EXACT = [name for name in NAMES if FAMILIES[name].kernel is None]
REFUSED = [name for name in NAMES if FAMILIES[name].kernel is not None]


@contextmanager
def refused(call, refusal):
    """Its type and its line, which names the call."""
    with pytest.raises(refusal.error) as caught:
        yield
    said = str(caught.value)
    assert said.startswith(f"{call}(")
    assert "\n" not in said
    assert re.search(refusal.line, said), said


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def close(found, expected, tolerance):
    return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("name", marked(EXACT))
def test_kernel_is_the_naive_one(name):
    family = FAMILIES[name]
    model, inputs, _ = family.make()
    expected = evaluate(lambda: fresh(family), inputs).kernel
    before = state(model, inputs)
    with family.around():
        kernel = grsd.tangent_kernel(model, inputs)
        shares = grsd.parameter_kernels(model, inputs)
    assert state(model, inputs) == before
    assert close(kernel, expected, 1e-10)
    assert close(sum(shares.values(), torch.zeros_like(kernel)), expected, 1e-10)
    assert set(shares) <= {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", marked(EXACT))
def test_rate_is_the_slope_of_the_naive_kernel(name):
    family = FAMILIES[name]
    model, inputs, targets = family.make()
    before = state(model, inputs, targets)
    if family.rate is not None:
        with refused("tangent_kernel_and_rate", family.rate), family.around():
            grsd.tangent_kernel_and_rate(model, inputs, targets)
        assert state(model, inputs, targets) == before
        return
    point = evaluate(lambda: fresh(family), inputs)
    slope, uncertain = rate(lambda: fresh(family), inputs, targets, point)
    assert uncertain <= 2e-7 * float(slope.abs().max()) or bool((slope.abs() <= uncertain).all())
    with family.around():
        kernel, found = grsd.tangent_kernel_and_rate(model, inputs, targets)
    assert state(model, inputs, targets) == before
    assert close(kernel, point.kernel, 1e-10)
    assert float((found - slope).abs().max()) <= 1e-6 * float(slope.abs().max()) + uncertain


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("name", marked(REFUSED))
def test_refused_in_its_own_line(name):
    family = FAMILIES[name]
    model, inputs, targets = family.make()
    before = state(model, inputs, targets)
    with refused("tangent_kernel", family.kernel):
        grsd.tangent_kernel(model, inputs)
    with refused("tangent_kernel_and_rate", family.rate):
        grsd.tangent_kernel_and_rate(model, inputs, targets)
    assert state(model, inputs, targets) == before


def test_the_reference_on_a_product_of_two_matrices():
    """f = x B A^T: M = (A A^T) x (x.y) + 1 x (B^T x . B^T y), and M' from A' and B'."""
    family = Family(lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 2, bias=False)), classes=2)
    model, x, y = family.make()
    b, a = (p.detach() for p in model.parameters())
    point = evaluate(lambda: fresh(family), x)
    slope, uncertain = rate(lambda: fresh(family), x, y, point)
    one, h, gram = torch.eye(2, dtype=a.dtype), x @ b.T, x @ x.T
    assert close(point.kernel, (torch.kron(gram, a @ a.T) + torch.kron(h @ h.T, one)) / 4, 1e-14)
    error = h @ a.T - y
    da, db = -error.T @ h / 4, -a.T @ error.T @ x / 4
    dh = x @ db.T
    expected = torch.kron(gram, da @ a.T + a @ da.T) + torch.kron(dh @ h.T + h @ dh.T, one)
    assert close(slope, expected / 4, 1e-10)
    assert uncertain < 1e-9 * float(slope.abs().max())


def test_the_reference_on_an_exponential():
    """f = exp(w . x): M = f f' (x . x') / N; each sample's rate is that of the logarithm, x . w'."""

    class Exponential(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(5) / 5)

        def forward(self, x):
            return torch.exp(x @ self.w)

    family = Family(Exponential, classes=None, samples=3)
    model, x, y = family.make()
    f = model(x).detach()
    point = evaluate(lambda: fresh(family), x)
    m = torch.outer(f, f) * (x @ x.T) / 3
    assert close(point.kernel, m, 1e-14)
    logarithm = -(x @ x.T) @ (f * (f - y)) / 3
    slope, _ = rate(lambda: fresh(family), x, y, point)
    assert close(slope, m * (logarithm[:, None] + logarithm), 1e-10)


def test_the_table_has_every_kind():
    assert len(EXACT) >= 70
    assert len(REFUSED) >= 20
    assert sum(FAMILIES[name].rate is not None for name in EXACT) >= 5


@pytest.mark.parametrize("name", ["llama", "float32 norm", "selective scan, float32"])
def test_casts_to_float32_are_more_than_the_tolerance(name):
    """So what agrees with the reference, in which they are off, has been computed in float64 throughout."""
    family = FAMILIES[name]
    inputs = family.make()[1]
    narrow = evaluate(lambda: family.make()[0], inputs).kernel
    assert not close(narrow, evaluate(lambda: fresh(family), inputs).kernel, 1e-9)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "packed sequences", "inverted residual, hardswish, excite"])
def test_what_stands_in_for_cuda_kernels_is_the_same(name, monkeypatch):
    """There cuDNN's recurrent layers have no backward pass in evaluation mode, and a sixth is one of float32."""
    family = FAMILIES[name]
    monkeypatch.setattr(composed, "_is_on_cuda", lambda args: True)
    model, inputs, targets = family.make()
    kernel, _ = grsd.tangent_kernel_and_rate(model, inputs, targets)
    assert close(kernel, evaluate(lambda: fresh(family), inputs).kernel, 1e-10)
    assert close(grsd.tangent_kernel(model, inputs), kernel, 1e-10)


def test_cudnn_is_as_before_if_threads_cross(monkeypatch):
    """The first thread ends while the second, which began later, still computes."""
    monkeypatch.setattr(torch.backends.cudnn, "enabled", True)
    first_began, second_began, first_ended = (threading.Event() for _ in range(3))

    def first():
        first_began.set()
        second_began.wait(0.2)
        return torch.backends.cudnn.enabled

    def second():
        second_began.set()
        first_ended.wait(1)
        return torch.backends.cudnn.enabled

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(without_cudnn(first))
        first_began.wait(1)
        two = pool.submit(without_cudnn(second))
        assert one.result() is False
        first_ended.set()
        assert two.result() is False
    assert torch.backends.cudnn.enabled is True
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    without_cudnn(first)()
    assert torch.backends.cudnn.enabled is False

"""Faults of the package itself are raised as they are; what torch, a model or a file causes is dealt with as before."""

import math
from types import FunctionType

import pytest
import torch
import xarray as xr
from torch import nn

import grsd
from grsd.bench.jacobians import WAYS, by_jacobian
from grsd.bench.worker import Case, alone
from grsd.jacobian import can_vmap_samples, jacobian
from grsd.jacobian.network import Network
from grsd.jacobian.prepare import _runs_in_float32
from grsd.kernel.computation import KernelComputation
from grsd.runs.netcdf import from_bytes, to_bytes
from grsd.support import faults
from grsd.support.checks import in_one_line
from grsd.support.faults import is_mistake, is_slip, raised_here

X = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
SLIPS = {
    "a name": ("unknown_name", NameError, True),
    "an import": ("__import__('grsd.nowhere')", ImportError, True),
    "an attribute of a module": ("math.nothing", AttributeError, True),
    "an attribute of a value": ("(3).nothing", AttributeError, False),
    "a key": ("{}['x']", KeyError, False),
    "arguments": ("len()", TypeError, False),
    "an index": ("[][0]", IndexError, False),
    "a value": ("int('x')", ValueError, False),
    "a division": ("1 / 0", ZeroDivisionError, False),
    "an early end": ("list(next(iter(())) for _ in 'a')", RuntimeError, False),
}


def written_in(folder, kind):
    """A function of any arguments that does this, as if it stood in a file of ``folder``."""
    code = compile(f"lambda *_, **__: {SLIPS[kind][0]}", str(folder / "made_up.py"), "eval").co_consts[0]
    return FunctionType(code, {"math": math})


def ours(kind):
    return written_in(faults.PACKAGE / "kernel", kind)


@pytest.fixture
def model():
    return grsd.Perceptron(3, 2, width=4, depth=2, seed=0)


@pytest.mark.parametrize("kind", SLIPS)
def test_by_the_frame_and_the_kind(kind, tmp_path):
    error, slip = SLIPS[kind][1:]
    with pytest.raises(error) as caught:
        ours(kind)()
    assert (is_slip(caught.value), is_mistake(caught.value)) == (slip, True)
    with pytest.raises(error) as caught:
        written_in(tmp_path, kind)()
    assert not any((is_slip(caught.value), is_mistake(caught.value), raised_here(caught.value.__traceback__)))
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not is_mistake(caught.value)
    assert not raised_here(None)


@pytest.mark.parametrize("kind", SLIPS)
def test_a_kernel_raises_them_at_once(kind, model, monkeypatch, tmp_path):
    """Of this package: no slower route hides them. Of anybody else: the next route is taken, with the same matrix."""
    expected = grsd.tangent_kernel(model, X)
    monkeypatch.setattr("grsd.kernel.computation.jacobian", ours(kind))
    with pytest.raises(SLIPS[kind][1]) as caught:
        grsd.tangent_kernel(model, X)
    assert raised_here(caught.value.__traceback__)
    monkeypatch.undo()
    calls = []

    def once(*arguments, **options):
        calls.append(options["row_method"])
        if len(calls) == 1:
            written_in(tmp_path, kind)()
        return jacobian(*arguments, **options)

    monkeypatch.setattr("grsd.kernel.computation.jacobian", once)
    assert torch.allclose(grsd.tangent_kernel(model, X), expected, rtol=1e-12)
    assert len(calls) == 2


@pytest.mark.parametrize("place", ["_accumulate", "_disagreement"])
def test_only_derivatives_are_asked_of_torch(place, model, monkeypatch):
    """What fails while products are summed or compared is a fault of this package, also if torch's product says it."""
    monkeypatch.setattr(KernelComputation, place, ours("a name"))
    with pytest.raises(NameError):
        grsd.tangent_kernel(model, X)
    monkeypatch.undo()
    monkeypatch.setattr("grsd.kernel.products.KernelAccumulator.add", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        grsd.tangent_kernel(model, X)


def test_batching_and_precision_raise_them(model, monkeypatch):
    """Where single samples are tried under vmap, and where float32 is tried after float64."""
    network = Network(model, torch.float64, torch.device("cpu"))
    monkeypatch.setattr("grsd.jacobian.rows.vmap", ours("arguments"))
    with pytest.raises(TypeError):
        can_vmap_samples(network, X, model.double()(X))
    monkeypatch.setattr("grsd.jacobian.prepare.trace_forward", ours("a name"))
    with pytest.raises(NameError):
        _runs_in_float32(model, network, X)


@pytest.mark.parametrize("place", ["grsd.jacobian.prepare.Network", "grsd.kernel.computation.random_like"])
@pytest.mark.parametrize("kind", ["a name", "an import", "an attribute of a module"])
def test_preparing_raises_them(place, kind, model, monkeypatch):
    """Where a model is copied, and where exceptions become one line."""
    monkeypatch.setattr(place, ours(kind))
    with pytest.raises(SLIPS[kind][1]) as caught:
        grsd.tangent_kernel(model, X)
    assert raised_here(caught.value.__traceback__)


def test_calls_of_a_model_raise_them(model, monkeypatch):
    """Where it is evaluated, evaluated in parts or batched; a model's own faults stay one line."""
    monkeypatch.setattr(Network, "__call__", ours("a name"))
    with pytest.raises(NameError, match="unknown_name"):
        grsd.tangent_kernel(model, X)
    monkeypatch.undo()

    class Broken(nn.Linear):
        def forward(self, x):
            return unknown_name  # noqa: F821

    with pytest.raises(ValueError, match=r"^tangent_kernel\(model, inputs\): the model cannot be evaluated on .*NameE"):
        grsd.tangent_kernel(Broken(3, 2), X)
    with pytest.raises(RuntimeError, match=r"^call: said$"), in_one_line("call", lambda error: ": said"):
        raise NameError


def test_a_fault_is_no_damaged_file(monkeypatch):
    """Otherwise every stored run would be refused and computed again."""
    payload = to_bytes(xr.Dataset({"x": ("a", [1.0])}))
    monkeypatch.setattr("grsd.runs.netcdf.decode", ours("a name"))
    with pytest.raises(NameError):
        from_bytes(payload)


def test_benchmarks_raise_them(monkeypatch):
    """A failed import of this package is no missing peer, and its slip no method that torch cannot do."""
    monkeypatch.setitem(WAYS, "vmap(jacrev)", ours("a name"))
    with pytest.raises(NameError):
        by_jacobian(lambda: nn.Linear(3, 2).double(), X)
    monkeypatch.setattr("grsd.bench.worker.KERNELS", {"grsd": ours("an import")})
    with pytest.raises(ImportError):
        alone(Case("mlp", 2, "float32", ("grsd",)), "grsd", "cpu", torch.get_num_threads())
    for kind in ("a name", "an import"):
        monkeypatch.setattr("grsd.bench.worker.KERNELS", {"nngeometry": ours(kind)})
        with pytest.raises(SLIPS[kind][1]):
            alone(Case("mlp", 2, "float32", ("grsd",)), "nngeometry", "cpu", torch.get_num_threads())

"""Nothing depends on torch's global default dtype or device: results are the same, bit for bit."""

import ast
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from calls import PUBLIC

import grsd

FACTORIES = {
    "arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint",
    "randn", "randperm", "scalar_tensor", "tensor", "zeros", "Linear",
}  # fmt: skip
BY_DEVICE_ALONE = {"arange", "randperm"}  # whole numbers whatever the default


@contextmanager
def defaults(dtype: torch.dtype, device: str):
    """On the meta device tensors have no values: whatever follows the default device fails."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def plain(answer: object) -> list:
    """All numbers of an answer, as arrays."""
    if isinstance(answer, torch.nn.Module):
        return [parameter.detach().numpy() for parameter in answer.parameters()]
    if isinstance(answer, torch.Tensor):
        return [answer.detach().numpy()]
    if isinstance(answer, xr.Dataset):
        return [answer[name].values for name in answer.variables]
    if isinstance(answer, dict):
        return plain(list(answer.values()))
    if isinstance(answer, tuple | list):
        return [array for item in answer for array in plain(item)]
    if hasattr(answer, "__dataclass_fields__"):
        return plain([getattr(answer, name) for name in answer.__dataclass_fields__])
    return [np.asarray(answer)] if isinstance(answer, int | float | np.ndarray) else []


@pytest.mark.parametrize("name", PUBLIC)
def test_answers_do_not_follow_the_defaults(name):
    public = PUBLIC[name]
    arguments = public.arguments()
    answers = []
    for dtype, device in ((torch.float32, "cpu"), (torch.float64, "meta")):
        with defaults(dtype, device):
            answers.append(plain(public.function(**arguments)))
    for one, other in zip(*answers, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def test_float32_spectra_under_a_float64_default():
    kernel = torch.diag(torch.tensor([0.5, 0.5000001, 1.0, 2.0], dtype=torch.float32))
    rate = torch.ones(4, 4, dtype=torch.float32)
    error = torch.ones(4, dtype=torch.float32)
    found = []
    for dtype in (torch.float32, torch.float64):
        with defaults(dtype, "cpu"):
            found.append(grsd.energy_budget(grsd.spectrum(kernel, rate), error, grsd.LogShells()))
    assert found[0].coupling.dtype == np.float32
    assert found[0].identical(found[1])


def test_every_tensor_names_its_dtype_and_device():
    """In the package; the bench measures models as their users make them."""
    root = Path(grsd.__file__).parent
    for path in root.rglob("*.py"):
        if "bench" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FACTORIES:
                given = {keyword.arg for keyword in node.keywords}
                needed = {"device"} if node.func.attr in BY_DEVICE_ALONE else {"device", "dtype"}
                if ast.unparse(node.func.value) in {"torch", "nn"} and None not in given:
                    assert needed <= given, f"{path.name}:{node.lineno}: {ast.unparse(node)}"

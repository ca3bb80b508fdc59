"""The first kernel of a process: exact without what torch imports for a second."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

import grsd
from grsd.bench.families import FAMILIES
from grsd.bench.zoo import STARTS
from grsd.jacobian.duals import ZeroTangents, dual

LATE = {"checkpoint"}  # torch.utils.checkpoint imports it
PROGRAM = """
import sys, warnings
import torch, grsd
from grsd.bench.families import FAMILIES
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    model, inputs, targets = FAMILIES[name].make(FAMILIES[name].enough)
    grsd.tangent_kernel(model, inputs)
    grsd.tangent_kernel_and_rate(model, inputs, targets)
    print(name, "torch._dynamo" in sys.modules, sep=": ")
"""


SOME = ["batch norm, 1d", "transformer encoder", "gpt"]
OTHERS = [name for name in STARTS if name not in LATE and name not in SOME]


@pytest.mark.parametrize("names", [SOME, pytest.param(OTHERS, marks=pytest.mark.long)], ids=["some", "others"])
def test_first_kernels_and_rates_import_no_compiler(names):
    assert len(names) >= 3
    done = subprocess.run([sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name}: False" for name in names]


def test_a_kernel_imports_no_tables():
    program = "import grsd, sys; grsd.tangent_kernel; print({'pandas', 'scipy', 'xarray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


C = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
MASK = C > 0
ARITHMETIC = {
    "number times": lambda x: 2 * x,
    "number in place": lambda x: x.clone().mul_(2.5),
    "plus": lambda x: x + 1,
    "minus": lambda x: torch.sub(x, 3),
    "from a number": lambda x: 1 - x,
    "over a number": lambda x: x / 4,
    "number over": lambda x: 2 / x,
    "scaled": lambda x: torch.add(x, 2, alpha=3),
    "tensor": lambda x: C * x + x / C - (C - x) * (C / x),
    "tensor of another shape": lambda x: x + C[:, None],
    "tensor scaled": lambda x: torch.add(C, x, alpha=0.5),
    "mask": lambda x: x * MASK,
    "integers": lambda x: torch.arange(3) * x,
    "written to": lambda x: x.clone().add_(C).div_(C),
    "a plain one written to": lambda x: C.clone().add_(x),
    "complex": lambda x: (torch.fft.rfft(x) * torch.fft.rfft(C)).abs(),
    "largest": lambda x: torch.maximum(x, C) + torch.minimum(C, x),
    "power": lambda x: x.abs().pow(C) + x**3,
    "products": lambda x: torch.outer(x, C) + torch.dot(x, C) + torch.addcmul(x, C, x),
    "slopes": lambda x: F.prelu(x, C[:1]),
    "frozen bias": lambda x: F.linear(x[None], x[None].expand(3, 3), C),
}


@pytest.mark.parametrize("function", ARITHMETIC.values(), ids=ARITHMETIC.keys())
def test_arithmetic_with_constants_keeps_value_and_derivatives(function):
    generator = torch.Generator().manual_seed(0)
    point, along = torch.randn(2, 3, generator=generator, dtype=torch.float64)

    def derivatives(make, around):
        x, d = (t.clone().requires_grad_() for t in (point, along))
        with forward_ad.dual_level(), around:
            value, slope = forward_ad.unpack_dual(function(make(x, d)))
        loss = slope.square().sum() + value.square().sum()
        return value.detach(), slope.detach(), *torch.autograd.grad(loss, (x, d))

    before = C.clone()
    ours = derivatives(dual, ZeroTangents())
    theirs = derivatives(forward_ad.make_dual, torch.enable_grad())
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert torch.equal(C, before)


def test_constants_beside_duals_get_tangents_without_the_python_kernels():
    called = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in {torch.Tensor.mul, torch.Tensor.add}:
                called.append([forward_ad.unpack_dual(a).tangent is not None for a in args])
            return func(*args, **(kwargs or {}))

    x = torch.randn(3, dtype=torch.float64)
    with forward_ad.dual_level(), Watch(), ZeroTangents():
        d = dual(x, x)
        d * C + MASK
        C * C
    assert called == [[True, True], [True, True], [False, False]]


def test_a_function_whose_tangent_torch_decomposes_has_a_rate():
    program = (
        "import torch, grsd, warnings; warnings.simplefilter('error', RuntimeWarning)\n"
        "from torch import nn\ntorch.manual_seed(0)\n"
        "model = nn.Sequential(nn.Linear(4, 6), nn.LogSigmoid(), nn.Linear(6, 2)).double()\n"
        "x, y = torch.randn(5, 4).double(), torch.randn(5, 2).double()\n"
        "kernel, rate = grsd.tangent_kernel_and_rate(model, x, y)\n"
        "h, error = 1e-5, model(x) - y\n"
        "flow = torch.autograd.grad(error.square().sum() / 10, list(model.parameters()))\n"
        "ends = []\n"
        "for sign in (-1, 2):\n"
        "    for p, g in zip(model.parameters(), flow): p.data -= sign * h * g\n"
        "    ends.append(grsd.tangent_kernel(model, x))\n"
        "print(float(((ends[1] - ends[0]) / (2 * h) - rate).abs().max() / rate.abs().max()))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert abs(float(done.stdout)) < 1e-6


@pytest.mark.parametrize("name", ["weight norm", "gru, learned first state", "elman cell", "fixup"])
def test_samples_alone_fall_back_to_no_slow_loop(name, recwarn):
    model, inputs, _ = FAMILIES[name].make(FAMILIES[name].enough)
    grsd.tangent_kernel(model, inputs)
    assert not [w for w in recwarn if "performance drop" in str(w.message)]

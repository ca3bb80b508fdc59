"""The same numbers on CUDA as on the CPU. Where there is no CUDA device the suite is skipped, and data/cuda.csv says
"unmeasured"; where there is one, running it writes the table with the device's name."""

import csv
import inspect
import warnings
from dataclasses import replace

import moving
import numpy as np
import pytest
import torch
from torch import nn

import grsd
from grsd.bench.families import FAMILIES
from grsd.flow import Descent
from grsd.flow.stacked import stacked
from grsd.runs import Spec, train
from grsd.runs.together import train_together

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: unmeasured"),
]
BOUND = 1e-9
NAMED = [
    name for name, public in moving.with_tensors().items() if "device" in inspect.signature(public.function).parameters
]
SMALL = Spec(width=8, depth=4, samples=24, task="parity", times=(0.3, 3.0, 3), tolerance=1e-4, shell_widths=(1.0,))


@pytest.fixture(scope="module")
def table():
    rows = []
    yield rows
    path = grsd.project() / "data" / "cuda.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["device", "torch", "check", "relative difference"])
        writer.writerows(
            [torch.cuda.get_device_name(), torch.__version__, check, f"{value:.1e}"] for check, value in rows
        )


def relative(found, expected):
    scale = expected.abs().max().clamp(min=1e-300)  # squares of the largest numbers would overflow
    return float((found.cpu() / scale - expected / scale).norm() / (expected / scale).norm().clamp(min=1e-300))


def test_kernel_and_rate(any_case, table):
    model, inputs, targets = any_case
    on_cpu = grsd.tangent_kernel_and_rate(model, inputs, targets)
    on_cuda = grsd.tangent_kernel_and_rate(model, inputs, targets, device="cuda")
    for name, found, expected in zip(("kernel", "rate"), on_cuda, on_cpu, strict=True):
        assert found.device.type == "cuda"
        table.append((f"{name}, D={expected.shape[0]}", relative(found, expected)))
        assert table[-1][1] <= BOUND
    assert next(model.parameters()).device.type == "cpu"


def test_every_family(table):
    """The whole table of model families: the numbers of the CPU; where it refuses, a refusal in one line."""
    wrong, worst = {}, {"kernel": 0.0, "rate": 0.0}
    for name, family in FAMILIES.items():
        found = []
        for device in ("cpu", "cuda"):
            with warnings.catch_warnings(), family.around():
                warnings.simplefilter("ignore")
                found.append([_kernel_or_refusal(call, family.make(), device) for call in ("kernel", "rate")])
        for call, expected, there in zip(("kernel", "rate"), *found, strict=True):
            if isinstance(expected, torch.Tensor) and isinstance(there, torch.Tensor):
                off = relative(there, expected)
                worst[call] = max(worst[call], off)
                if not off <= BOUND:
                    wrong[f"{name}, {call}"] = off
            elif isinstance(expected, torch.Tensor) or isinstance(there, torch.Tensor) or "\n" in there:
                said = [value if isinstance(value, str) else "no refusal" for value in (expected, there)]
                wrong[f"{name}, {call}"] = said
    table.extend((f"{call}, worst of {len(FAMILIES)} model families", off) for call, off in worst.items())
    assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())


def _kernel_or_refusal(call, made, device):
    model, inputs, targets = made
    try:
        if call == "kernel":
            return grsd.tangent_kernel(model, inputs, device=device)
        return grsd.tangent_kernel_and_rate(model, inputs, targets, device=device)[1]
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        return said if "tangent_kernel" in said else f"{said}\nnames no call"


def test_float32_products_are_not_rounded_to_ten_bits(table):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GELU(), nn.Flatten(), nn.Linear(16 * 36, 64), nn.Tanh(), nn.Linear(64, 4)
    )
    inputs = torch.randn(12, 3, 8, 8)
    exact = grsd.tangent_kernel(model, inputs, dtype=torch.float64)
    single = grsd.tangent_kernel(model, inputs, dtype=torch.float32, device="cuda")
    table.append(("kernel in float32, a CNN", relative(single.double(), exact)))
    assert table[-1][1] <= 1e-6
    coarse = grsd.tangent_kernel(model, inputs, dtype=torch.float32, device="cuda", tf32=True)
    table.append(("kernel in float32 with tf32, a CNN", relative(coarse.double(), exact)))
    assert 1e-6 < table[-1][1] <= 1e-2


@pytest.mark.parametrize("name", NAMED)
def test_public_calls_with_the_device_named(name):
    """As users call them: everything on the host, ``device=`` says where."""
    public = moving.with_tensors()[name]
    expected = public.function(**public.arguments())
    found = public.function(**(public.arguments() | {"device": "cuda"}))
    assert moving.same(found, expected, torch.Tensor.cpu, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", list(moving.with_tensors()))
def test_public_calls_on_tensors_of_the_device(name):
    public = moving.with_tensors()[name]
    public.function(**moving.moved(public.arguments(), "cuda"))


def test_flow_and_budget(table):
    data = grsd.digits(40)
    network = grsd.Perceptron(64, 10, width=32, depth=4, residual=True)
    runs = [grsd.gradient_flow(network, data.inputs, data.targets, [0.3], device=device) for device in ("cpu", "cuda")]
    errors = [run.snapshots[0].error for run in runs]
    table.append(("flow, residual at the end", relative(errors[1], errors[0])))
    assert table[-1][1] <= 1e-4
    budgets = []
    for device in ("cpu", "cuda"):
        snapshot = runs[0].snapshots[0]
        pair = grsd.tangent_kernel_and_rate(snapshot.model, data.inputs, data.targets, device=device)
        modes = grsd.spectrum(*pair)
        shells = grsd.LogShells(0.5, 0.1, span=(-6, 4))
        budgets.append(grsd.energy_budget(modes, snapshot.error.to(modes.eigenvalues), shells))
    for name in ("energy", "dissipation", "coupling", "flux"):
        expected, found = (torch.as_tensor(budget[name].values) for budget in budgets)
        table.append((f"budget, {name}", relative(found, expected)))
        assert table[-1][1] <= 1e-7


def test_budgets_between_checkpoints(table):
    data = grsd.digits(30)
    before, after = (grsd.Perceptron(64, 10, width=16, depth=3, seed=seed).double() for seed in (0, 1))
    shells = grsd.LogShells(1.0, 0.2, span=(-8, 4))
    for method in ("dense", "krylov"):
        given = (before, after, data.inputs.double(), data.targets.double(), shells)
        found, expected = (
            grsd.checkpoint_budget(*given, loss="mse", method=method, device=device) for device in ("cuda", "cpu")
        )
        for name in ("energy_before", "energy_after", "relaxation", "transport"):
            pair = [torch.as_tensor(budget[name].values) for budget in (found, expected)]
            table.append((f"checkpoints, {method}, {name}", relative(*pair)))
            assert table[-1][1] <= 1e-6


def test_runs_are_those_of_the_cpu_and_repeat_bit_by_bit(table):
    specs = [replace(SMALL, device=device) for device in ("cpu", "cuda", "cuda")]
    expected, found, again = (train(spec, progress=False) for spec in specs)
    table.append(("run, loss", relative(torch.as_tensor(found.loss.values), torch.as_tensor(expected.loss.values))))
    assert table[-1][1] <= 1e-3
    assert found.equals(again)


def test_seeds_at_once_have_the_bits_that_each_has_alone():
    specs = replace(SMALL, device="cuda").with_seeds(range(5))
    data = specs[0].batch()
    descent = Descent(specs[0].network(data).double(), data.inputs.double(), data.targets.double(), device="cuda")
    assert stacked(descent) is not None
    together = train_together(specs)
    for spec, one in zip(specs[:2], together, strict=False):
        assert train(spec, progress=False).equals(one)


def test_a_monitor_leaves_the_training_its_bits():
    states = []
    for watched in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)).cuda()
        inputs, labels = torch.randn(40, 5).cuda(), torch.randint(3, (40,)).cuda()
        monitor = grsd.Monitor(model, (inputs[:12], labels[:12]), "cross-entropy") if watched else None
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(20):
            if monitor is not None:
                monitor.record(step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        states.append([value.cpu() for value in model.state_dict().values()])
        if monitor is not None:
            assert np.isfinite(monitor.history().energy_before.values).any()
    assert all(map(torch.equal, *states))


def test_an_audit():
    data = grsd.digits(24)
    found = grsd.audit(
        lambda: nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)),
        data.inputs, data.targets, seeds=2, device="cuda", progress=False,
    )  # fmt: skip
    assert found.to_json()

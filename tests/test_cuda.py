"""The same numbers on CUDA as on the CPU. Where there is no CUDA device the suite is skipped, and data/cuda.csv says
"unmeasured"; where there is one, running it writes the table with the device's name."""

import csv

import pytest
import torch

import grsd

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: unmeasured"),
]
BOUND = 1e-9


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
    return float((found.cpu() - expected).norm() / expected.norm().clamp(min=1e-300))


def test_kernel_and_rate(any_case, table):
    model, inputs, targets = any_case
    on_cpu = grsd.tangent_kernel_and_rate(model, inputs, targets)
    on_cuda = grsd.tangent_kernel_and_rate(model, inputs, targets, device="cuda")
    for name, found, expected in zip(("kernel", "rate"), on_cuda, on_cpu, strict=True):
        assert found.device.type == "cuda"
        table.append((f"{name}, D={expected.shape[0]}", relative(found, expected)))
        assert table[-1][1] <= BOUND
    assert next(model.parameters()).device.type == "cpu"


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

import numpy as np
import pytest
import torch

import grsd
from grsd.shells import LogShells


def train(residual, task="one-hot", samples=24, times=(0.05, 0.5, 2.0)):
    data = grsd.digits(samples, task=task)
    model = grsd.Perceptron(64, data.targets.shape[1], width=24, depth=4, residual=residual)
    return grsd.gradient_flow(model, data.inputs, data.targets, list(times))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("task", ["one-hot", "parity"])
def test_budget_closes_on_a_trained_snapshot(residual, task):
    """Against a fourth-order central difference of the flow: at most 1e-7 of the shell's own largest term."""
    flow = train(residual, task, samples=24 if task == "one-hot" else 100)
    check = grsd.measured_energy_change(flow, -1, LogShells(0.7, 0.14))
    kept = check.mask.values == 0
    print(f"\n{task}, residual {residual}: {kept.sum()} shells, largest {check.discrepancy.values[kept].max():.1e}")
    assert kept.sum() >= 5
    assert check.discrepancy.values[kept].max() <= grsd.claims()["budget-closes"].rule.threshold
    assert np.abs(check.difference.values[kept]).max() > 0


def test_the_difference_is_of_fourth_order():
    flow = train(True)
    gaps = []
    for step in (0.4, 0.8):
        check = grsd.measured_energy_change(flow, 0, LogShells(0.7, 0.14), step=step)
        gaps.append(float(np.abs(check.budget - check.difference).max()))
    assert np.log2(gaps[1] / gaps[0]) == pytest.approx(4, abs=0.3)


def test_history_is_the_budget_of_every_snapshot():
    flow = train(True)
    shells = LogShells(0.5, 0.1)
    history = grsd.shell_history(flow, shells, parameters={"seed": 0})
    assert np.array_equal(history.time, flow.times)
    low, high = history.shell.values[0], history.shell.values[-1]
    wide = LogShells(0.5, 0.1, span=(low - 0.25, high + 0.25))
    for index, snapshot in enumerate(flow.snapshots):
        modes = grsd.spectrum(*grsd.tangent_kernel_and_rate(snapshot.model, flow.inputs, flow.targets))
        budget = grsd.energy_budget(modes, snapshot.error, wide)
        for name in ("energy", "dissipation", "coupling", "flux", "density", "modes"):
            scale = float(np.abs(budget[name]).max())
            assert np.abs(history[name].isel(time=index) - budget[name]).max() < 1e-12 * scale, name
        kept = budget.boundary_mask.values == 0
        assert np.allclose(history.velocity.isel(time=index).values[kept], budget.velocity.values[kept])
        assert np.array_equal(history.mask.isel(time=index) == 0, budget.mask == 0)
    total = history.energy.sum("shell").values
    assert np.allclose(total, history.loss * 24, rtol=1e-12)
    assert np.isfinite(history.largest_eigenvalue).all()
    assert history.attrs["seed"] == 0
    assert history.attrs["shell_width"] == 0.5
    assert np.isneginf(history.shell_lower.values[0])
    assert history.energy.attrs["units"] == "energy"


@pytest.mark.long
def test_flux_without_the_rate_converges_at_second_order():
    data = grsd.digits(24)
    model = grsd.Perceptron(64, 10, width=24, depth=4, residual=True)
    gaps = []
    for count in (17, 33):
        times = grsd.log_times(0.05, 0.4, count)
        flow = grsd.gradient_flow(model, data.inputs, data.targets, times, tolerance=1e-8)
        history = grsd.shell_history(flow, LogShells(1.0, 0.2))
        difference = grsd.flux_from_differences(history)
        exact = history.flux.isel(time=slice(1, -1))
        middle = np.log(times[-1] * times[0]) / 2
        at = int(np.argmin(np.abs(np.log(difference.time.values) - middle)))
        gaps.append(float(np.abs(difference - exact).isel(time=at).max() / np.abs(exact).isel(time=at).max()))
    assert gaps[1] < 0.02
    assert np.log2(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.3)
    with pytest.raises(ValueError, match="expected at least 3 snapshots, got 2"):
        grsd.flux_from_differences(history.isel(time=slice(2)))


def test_history_can_be_merged():
    flow = train(False)
    fine = grsd.shell_history(flow, LogShells(0.5, 0.1, span=(-6, 6)))
    coarse = grsd.shell_history(flow, LogShells(1.0, 0.1, span=(-6, 6)))
    merged = grsd.merge_shells(fine, 2)
    for name in ("energy", "coupling", "flux"):
        assert np.allclose(merged[name], coarse[name], rtol=1e-9, atol=1e-12)
        assert merged[name].dims == coarse[name].dims
    assert np.array_equal(merged.mask, coarse.mask)
    assert np.array_equal(merged.loss, coarse.loss)


def log_cosh(outputs, targets):
    return (outputs - targets).cosh().log().sum(1)


@pytest.mark.parametrize("loss", ["cross-entropy", log_cosh])
def test_the_budget_of_any_loss_is_what_small_steps_show(loss):
    """Relaxation instead of minus dissipation; merged shells, and fluxes from differences, take it too."""
    data = grsd.digits(12)
    targets = data.targets.argmax(1) if loss == "cross-entropy" else data.targets
    model = grsd.Perceptron(64, 10, width=8, depth=2, residual=True)
    flow = grsd.gradient_flow(model, data.inputs, targets, [0.1, 0.1001, 0.1002], loss=loss, tolerance=1e-6)
    check = grsd.measured_energy_change(flow, 1, LogShells(1.0, 0.3))
    kept = check["mask"].values == 0
    assert kept.sum() >= 4
    assert float(check.discrepancy[kept].max()) < 1e-7
    history = grsd.shell_history(flow, LogShells(0.5, 0.2, span=(-6, 6)))
    flux = history.flux.isel(time=[1])
    gap = np.abs(grsd.flux_from_differences(history) - flux).max() / np.abs(flux).max()
    assert float(gap) < 1e-3
    assert float(np.abs(history.relaxation + history.dissipation).max()) > 0.1 * float(history.dissipation.max())
    coarse = grsd.shell_history(flow, LogShells(1.0, 0.2, span=(-6, 6)))
    merged = grsd.merge_shells(history, 2)
    assert np.allclose(merged.relaxation, coarse.relaxation, rtol=1e-9, atol=1e-12)


def test_a_loss_that_hides_its_second_derivative_has_no_history():
    data = grsd.digits(4)

    def hiding(outputs, targets):
        error = outputs - targets
        return (error.detach() * error - error.detach() ** 2 / 2).sum(1)

    flow = grsd.gradient_flow(torch.nn.Linear(64, 10), data.inputs, data.targets, [0.01], loss=hiding)
    with pytest.raises(RuntimeError, match=r"^shell_history\(loss=...\): torch's second derivative .* disagrees"):
        grsd.shell_history(flow, LogShells(1.0))


def test_a_frozen_kernel_moves_nothing():
    """A linear model: M' = 0, so no exchange, and the budget closes on dissipation alone."""
    data = grsd.digits(30)
    flow = grsd.gradient_flow(torch.nn.Linear(64, 10), data.inputs, data.targets, [0.1])
    history = grsd.shell_history(flow, LogShells(0.5))
    assert float(np.abs(history.coupling).max()) == 0
    assert float(np.nanmax(np.abs(history.flux))) == 0


def test_single_precision_and_one_output():
    """A float32 flow is measured in float32; D = 1 has one mode and still a budget."""
    data = grsd.digits(1, task="parity")
    model = grsd.Perceptron(64, 1, width=8, depth=2)
    flow = grsd.gradient_flow(model, data.inputs, data.targets, [0.01, 0.02])
    check = grsd.measured_energy_change(flow, 0, LogShells(0.5, 0.1))
    assert float(check.discrepancy[check.mask.values == 0].max(skipna=False)) < 1e-7
    data = grsd.digits(12)
    network = grsd.Perceptron(64, 10, width=8, depth=2)
    single = grsd.gradient_flow(network, data.inputs, data.targets, [0.01, 0.1], dtype=torch.float32)
    history = grsd.shell_history(single, LogShells(1.0, 0.2))
    double = grsd.shell_history(
        grsd.gradient_flow(network, data.inputs, data.targets, [0.01, 0.1]), LogShells(1.0, 0.2)
    )
    assert np.allclose(history.energy.sum("shell"), double.energy.sum("shell"), rtol=1e-3)

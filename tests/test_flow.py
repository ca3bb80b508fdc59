import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import grsd
from grsd.bench.families import FAMILIES
from grsd.flow import Descent, nearby
from grsd.flow.chebyshev import Problem, coefficients
from grsd.jacobian import Network


def problem(model, data, loss="mse"):
    targets = data.targets.argmax(1) if loss == "cross-entropy" else data.targets
    return Problem(Network(model, torch.float64, torch.device("cpu")), data.inputs, targets, loss)


def log_cosh(outputs, targets):
    return (outputs - targets).cosh().log().sum(1)


def squares(outputs, targets):
    return (outputs - targets).square().sum(1) / 2


def top_eigenvalue(model, data):
    return torch.linalg.eigvalsh(grsd.tangent_kernel(model, data.inputs))[-1].item()


def euler(equation, end, evaluations):
    theta = equation.start()
    for _ in range(evaluations):
        theta = theta + end / evaluations * equation.velocity(theta)[0]
    return equation.force(equation.outputs(theta))


def exactly(equation, end):
    """The force at ``end`` by a tight integrator of another family."""
    reference = solve_ivp(
        lambda t, y: equation.velocity(torch.from_numpy(y))[0].numpy(),
        (0, end),
        equation.start().numpy(),
        method="DOP853",
        rtol=1e-10,
        atol=1e-12,
    )
    return equation.force(equation.outputs(torch.from_numpy(reference.y[:, -1])))


@pytest.mark.long
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("depth", [4, 16])
def test_end_error_and_cost_against_euler(residual, depth):
    """At the default tolerance: end error at most 1e-3, and Euler with five times the gradients is worse."""
    data = grsd.digits(50)
    model = grsd.Perceptron(64, 10, width=32, depth=depth, residual=residual)
    end = 120 / top_eigenvalue(model, data)
    equation = problem(model, data)
    exact = exactly(equation, end)
    flow = grsd.gradient_flow(model, data.inputs, data.targets, [end])
    last = flow.history.isel(time=-1)
    error = float((flow.snapshots[-1].error - exact).norm() / exact.norm())
    slow = float((euler(equation, end, 5 * int(last.gradient_evaluations)) - exact).norm() / exact.norm())
    print(f"\ndepth {depth}, residual {residual}: error {error:.1e}, gradients {int(last.gradient_evaluations)}, "
          f"Euler with five times as many {slow:.1e}")  # fmt: skip
    assert error <= 1e-3
    assert error < float(last.error_estimate)
    assert slow > error


@pytest.mark.parametrize("loss", ["cross-entropy", log_cosh])
def test_the_flow_of_any_loss_is_that_of_another_integrator(loss):
    data = grsd.digits(16)
    model = grsd.Perceptron(64, 10, width=10, depth=2, residual=True)
    end = 60 / top_eigenvalue(model, data)
    equation = problem(model, data, loss)
    exact = exactly(equation, end)
    flow = grsd.gradient_flow(model, data.inputs, equation.targets, [0.0, end], loss=loss)
    (start, last), history = flow.snapshots, flow.history
    assert float((last.error - exact).norm() / exact.norm()) <= 1e-3
    assert float((last.error - exact).norm() / exact.norm()) < float(history.error_estimate[-1])
    now = grsd.force_and_rate(last.model, data.inputs, equation.targets, loss=loss)
    assert torch.equal(last.error.reshape(-1), now.force)
    assert float(history.loss[-1]) == pytest.approx(now.loss, rel=1e-14)
    assert float(history.loss[-1]) < 0.5 * float(history.loss[0])
    assert (flow.loss, history.attrs["loss"]) == (loss, loss if isinstance(loss, str) else "log_cosh")
    assert torch.equal(start.error, equation.force(equation.outputs(equation.start())))


@pytest.mark.long
def test_a_function_of_squares_is_the_squared_error():
    """At a tight tolerance: the same flow by the route of any loss."""
    data = grsd.digits(12)
    model = grsd.Perceptron(64, 10, width=8, depth=2)
    end = [30 / top_eigenvalue(model, data)]
    one, other = (
        grsd.gradient_flow(model, data.inputs, data.targets, end, loss=loss, tolerance=1e-6)
        for loss in ("mse", squares)
    )
    exact = one.snapshots[0].error
    assert float((other.snapshots[0].error - exact).norm() / exact.norm()) < 1e-5
    assert float(other.history.loss[0]) == pytest.approx(float(one.history.loss[0]), rel=1e-5)


def test_a_loss_that_is_linear_far_out_is_followed():
    """Where H = 0 no error of the outputs changes the force: the outputs themselves are kept accurate."""
    data = grsd.digits(12, task="parity")
    model = nn.Linear(64, 1, bias=False).double()

    def huber(outputs, targets):
        return nn.functional.huber_loss(outputs, 20 * targets, reduction="none").sum(1)

    end = 0.05 / top_eigenvalue(model, data)
    flow = grsd.gradient_flow(model, data.inputs, data.targets, [end], loss=huber)
    kernel = grsd.tangent_kernel(model, data.inputs)
    moved = (flow.snapshots[0].model(flow.inputs) - model(data.inputs)).detach()
    expected = end * kernel @ data.targets.sign()
    assert float((moved - expected).norm() / expected.norm()) < 1e-8


@pytest.mark.long
def test_error_follows_the_tolerance():
    data = grsd.digits(30)
    model = grsd.Perceptron(64, 10, width=16, depth=3)
    end = [50 / top_eigenvalue(model, data)]
    flows = [grsd.gradient_flow(model, data.inputs, data.targets, end, tolerance=10.0**-k) for k in (3, 5, 8)]
    exact = flows[-1].snapshots[0].error
    coarse, fine = (float((flow.snapshots[0].error - exact).norm() / exact.norm()) for flow in flows[:2])
    assert fine < coarse / 8
    estimates = [float(flow.history.error_estimate[-1]) for flow in flows]
    assert estimates == sorted(estimates, reverse=True)


def test_linear_model_has_its_closed_form():
    """f = W x: e(t) = exp(-M t) e(0), M constant."""
    data = grsd.digits(20, task="parity")
    model = nn.Linear(64, 1, bias=False).double()
    modes = grsd.spectrum(grsd.tangent_kernel(model, data.inputs))
    start = (model(data.inputs) - data.targets).detach().reshape(-1)
    times = grsd.log_times(0.1 / float(modes.eigenvalues[-1]), 100 / float(modes.eigenvalues[-1]), 12)
    flow = grsd.gradient_flow(model, data.inputs, data.targets, times, tolerance=1e-5)
    for snapshot in flow.snapshots:
        decay = torch.exp(-modes.eigenvalues * snapshot.time)
        exact = modes.eigenvectors @ (decay * (modes.eigenvectors.T @ start))
        assert float((snapshot.error.reshape(-1) - exact).norm() / exact.norm()) < 2e-4


def test_snapshots_are_copies_at_the_asked_times():
    data = grsd.digits(20)
    model = grsd.Perceptron(64, 10, width=16, depth=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    times = np.concatenate([[0.0], grsd.log_times(1e-3, 1.0, 6)])
    flow = grsd.gradient_flow(model, data.inputs, data.targets, times, parameters={"seed": 0, "residual": False})
    assert np.array_equal(flow.times, times)
    assert [snapshot.time for snapshot in flow.snapshots] == list(times)
    for snapshot in flow.snapshots:
        assert torch.equal(snapshot.model(flow.inputs) - flow.targets, snapshot.error)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(flow.snapshots[0].model.state_dict()[name], value.double())
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())
    losses = flow.history.loss.values
    assert (np.diff(losses) < 0).all()
    assert losses[0] == pytest.approx(
        float((model(data.inputs.float()) - data.targets).detach().square().mean() * 5), rel=1e-6
    )
    counts = flow.history.gradient_evaluations.values
    assert (np.diff(counts) > 0).all()
    assert flow.history.attrs["seed"] == 0
    assert flow.history.attrs["residual"] == "False"
    assert "torch 2" in flow.history.attrs["versions"]
    assert all("units" in flow.history[name].attrs for name in flow.history.variables)


def test_frozen_parameters_stay():
    data = grsd.digits(20)
    model = grsd.Perceptron(64, 10, width=16, depth=2)
    model.hidden[0].weight.requires_grad_(False)
    flow = grsd.gradient_flow(model, data.inputs, data.targets, [0.5])
    learned = flow.snapshots[0].model
    assert torch.equal(learned.hidden[0].weight, model.hidden[0].weight.double())
    assert not torch.equal(learned.hidden[1].weight, model.hidden[1].weight.double())


def test_nearby_is_the_flow():
    data = grsd.digits(20)
    model = grsd.Perceptron(64, 10, width=16, depth=2)
    flow = grsd.gradient_flow(model, data.inputs, data.targets, [0.1, 0.11, 0.12], tolerance=1e-9)
    forward = nearby(flow.snapshots[0], flow.inputs, flow.targets, 0.005, (2, 4))
    backward = nearby(flow.snapshots[2], flow.inputs, flow.targets, 0.005, (-4, -2))
    for found, expected in zip(forward + backward, (*flow.snapshots[1:], *flow.snapshots[:2]), strict=True):
        assert found.time == pytest.approx(expected.time)
        assert torch.allclose(found.error, expected.error, atol=1e-6)


def test_spectral_radius_follows_the_growing_kernel():
    """From a small start the kernel grows many times over; a bound fixed at the start would be unstable."""
    data = grsd.digits(20, task="parity")
    model = grsd.Perceptron(64, 1, width=16, depth=3, weight_scale=0.3)
    start = top_eigenvalue(model, data)
    flow = grsd.gradient_flow(model, data.inputs, data.targets, [30 / start])
    final = flow.history.isel(time=-1)
    end = top_eigenvalue(flow.snapshots[0].model, data)
    assert end > 2 * start
    assert float(final.spectral_radius) == pytest.approx(1.2 * end, rel=0.3)
    assert float(final.loss) < 0.1


@pytest.mark.long
def test_rejected_steps_are_counted():
    """A slow start, then a sudden fall: the step that was right before is too long."""
    data = grsd.digits(20, task="parity")
    model = grsd.Perceptron(64, 1, width=16, depth=6, weight_scale=0.25)
    flow = grsd.gradient_flow(model, data.inputs, data.targets, [3e3], tolerance=1e-5)
    final = flow.history.isel(time=-1)
    assert int(final.rejected) > 0
    assert int(final.steps) > int(final.rejected)


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.long)])
def test_taken_up_again_with_the_same_bits(dtype):
    """Stopped after every third of its steps, in turn: state, snapshot and counts are those of a flow that was not."""
    data = grsd.digits(20)
    model = grsd.Perceptron(64, 10, width=16, depth=2)
    whole = Descent(model, data.inputs, data.targets, dtype=dtype)
    states = []
    expected = whole.snapshot(1.0, lambda: states.append(whole.state()))
    assert len(states) > 40
    for state in states[:40:3]:
        again = Descent(model, data.inputs, data.targets, dtype=dtype, state=state)
        found = again.snapshot(1.0)
        assert torch.equal(found.error, expected.error)
        assert again.row() == whole.row()
        assert all(np.array_equal(value, whole.state()[name]) for name, value in again.state().items())


class Cliff(nn.Module):
    """Overflows once its parameter has grown: no step is small enough."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        blown = torch.where(self.weight > 2, torch.tensor(torch.inf, dtype=x.dtype), torch.zeros((), dtype=x.dtype))
        return self.weight * x + blown


def test_a_flow_that_cannot_go_on_keeps_what_it_had():
    x = torch.ones(4, 1, dtype=torch.float64)
    with pytest.raises(
        grsd.FlowError, match=r"the step fell under .* the 2 snapshots before it are in .*\.flow"
    ) as caught:
        grsd.gradient_flow(Cliff(), x, 10 * x, [0.01, 0.05, 50.0])
    kept = caught.value.flow
    assert list(kept.times) == [0.01, 0.05]
    assert kept.snapshots[1].error.shape == (4, 1)
    assert float(kept.history.loss[1]) < float(kept.history.loss[0])


def test_a_loss_that_fails_on_its_way_keeps_what_was_computed():
    x = torch.ones(4, 1, dtype=torch.float64)

    def failing(outputs, targets):
        if float(outputs.detach().mean()) > 2:
            raise ValueError("too far\nand a second line")
        return (outputs - targets).square().sum(1)

    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    with pytest.raises(grsd.FlowError) as caught:
        grsd.gradient_flow(model, x, 10 * x, [0.01, 0.02, 50.0], loss=failing)
    assert str(caught.value) == (
        "gradient_flow: ValueError: too far; the 2 snapshots before it are in this exception's .flow"
    )
    assert list(caught.value.flow.times) == [0.01, 0.02]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("loss", "targets", "text"), [
    ("hinge", torch.zeros(6, 3), "(loss=...): expected one of ('mse', 'cross-entropy') or a function of "),
    ("cross-entropy", torch.full((6,), 3), "(..., targets): expected class labels from 0 to 2, got labels from 3 to 3"),
    ("mse", torch.zeros(6, dtype=torch.int64), "(..., targets): expected floating point of shape (6, 3) for loss="),
    (lambda f, y: (f - y).square().mean(), torch.zeros(6, 3), "(loss=...): expected one loss per sample, a tensor of "),
])  # fmt: skip
def test_losses_refused(loss, targets, text):
    with pytest.raises((ValueError, TypeError)) as caught:
        grsd.gradient_flow(nn.Linear(4, 3), torch.ones(6, 4), targets, [1.0], loss=loss)
    assert str(caught.value).startswith("gradient_flow" + text)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("times", [[], [1.0, 1.0], [2.0, 1.0], [-1.0, 1.0], [np.nan], [[1.0]], [np.inf]])
def test_times_refused(times):
    data = grsd.digits(5)
    with pytest.raises(ValueError, match=r"gradient_flow\(..., times\): expected finite, increasing times >= 0"):
        grsd.gradient_flow(grsd.Perceptron(64, 10), data.inputs, data.targets, times)


def test_log_times():
    times = grsd.log_times(0.01, 100, 9)
    assert times[0] == pytest.approx(0.01)
    assert times[-1] == pytest.approx(100)
    assert np.allclose(np.diff(np.log(times)), np.log(10) / 2)
    for wrong in ((0, 1, 3), (2, 1, 3), (1, 2, 1)):
        with pytest.raises(ValueError, match=r"log_times\("):
            grsd.log_times(*wrong)


@pytest.mark.parametrize("stages", [2, 3, 10, 60])
def test_chebyshev_coefficients(stages):
    """On y' = z y the method is stable for -.65 (s^2 - 1) <= z <= 0 and of second order at z = 0."""
    table = coefficients(stages)

    def propagate(z):
        before, current = 1.0, 1.0 + table[0][2] * z
        for mu, nu, mu_tilde, gamma_tilde in table[1:]:
            following = (1 - mu - nu) + mu * current + nu * before + mu_tilde * z * current + gamma_tilde * z
            before, current = current, following
        return current

    z = np.linspace(-0.65 * (stages**2 - 1), -1e-3, 2000)
    assert np.abs(propagate(z)).max() < 1
    small = np.array([-1e-3, -2e-3])
    error = np.abs(propagate(small) - np.exp(small))
    assert error[1] / error[0] == pytest.approx(8, rel=0.05)


def test_a_perfect_fit_ends():
    """Once the residual is rounding, nothing is left to resolve: the flow coasts to the end."""
    x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    flow = grsd.gradient_flow(torch.nn.Linear(4, 1), x, y, [1.0, 100.0, 1e4])
    last = flow.history.isel(time=-1)
    assert float(last.loss) < 1e-20
    assert int(last.gradient_evaluations) < 20000


@pytest.mark.parametrize("name", ["cached bias, dict", "cached bias, attribute, filled before", "compiled"])
def test_parameters_that_hide_are_trained(name):
    """In a cache that is filled once for all calls, or behind a wrapper: theta' = -J^T e / N for every parameter."""
    model, inputs, targets = FAMILIES[name].make()
    start, end = grsd.gradient_flow(model, inputs, targets, [0.0, 1e-6]).snapshots
    plain = FAMILIES[name].build().double().eval()
    plain.load_state_dict(model.state_dict())
    (0.5 * (plain(inputs) - targets).square().sum() / len(inputs)).backward()
    moved = dict(end.model.named_parameters())
    before = dict(start.model.named_parameters())
    for place, p in plain.named_parameters():
        velocity = (moved[place] - before[place]).detach() / 1e-6
        assert torch.allclose(velocity, -p.grad, rtol=1e-3, atol=1e-4 * float(p.grad.abs().max()))
        assert bool(p.grad.any())

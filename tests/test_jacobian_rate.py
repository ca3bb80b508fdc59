"""J' J'^T / N against a dense reference, and rotations of parameter space that the kernel cannot see."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacfwd, jacrev

import grsd
from grsd.conditions import evolution
from grsd.kernel.jacobian_rate import jacobian_rate_kernel
from grsd.shells import LogShells
from grsd.studies import jacobian_evolution as study

SHELLS = LogShells(1.0, 0.1)
GENERATOR = torch.Generator().manual_seed(0)
VECTORS = torch.randn(7, 5, generator=GENERATOR, dtype=torch.float64)
IMAGES = torch.randn(5, 2, 6, 6, generator=GENERATOR, dtype=torch.float64)


class Convolutional(nn.Module):
    """Layers with positions, a norm, and a parameter of its own beside them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, groups=2)
        self.norm, self.out = nn.GroupNorm(2, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.tensor([1.3, 0.7]))

    def forward(self, x):
        h = self.norm(torch.tanh(self.first(x)))
        return self.out(torch.tanh(self.second(h)).mean((2, 3))) * self.scale


def dense(model, inputs, targets):
    """(J, J') by torch.func alone: J' is the forward derivative of all rows along the flow, one dense matrix each."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def rows(at):
        found = jacrev(lambda p: functional_call(model, p, (inputs,)).reshape(-1))(at)
        return torch.cat([part.flatten(1) for part in found.values()], 1)

    error = (model(inputs) - targets).detach().reshape(-1)
    flow = -rows(parameters).T @ error / len(inputs)
    sizes = [p.numel() for p in parameters.values()]
    along = {n: d.view_as(p) for (n, p), d in zip(parameters.items(), flow.split(sizes), strict=True)}
    shift = torch.zeros((), dtype=torch.float64)
    change = jacfwd(lambda t: rows({name: p + t * along[name] for name, p in parameters.items()}))(shift)
    return rows(parameters), change


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (grsd.Perceptron(5, 3, width=6, depth=3, residual=True, seed=2).double(), VECTORS),
        (grsd.Perceptron(5, 1, width=9, depth=2, seed=3).double(), VECTORS),
        (Convolutional().double(), IMAGES),
    ],
    ids=["residual", "plain, one output", "convolutional"],
)
def test_against_a_dense_reference(model, inputs):
    with torch.no_grad():
        targets = torch.randn(model(inputs).shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    kernel, rate, turning = jacobian_rate_kernel(model, inputs, targets)
    rows, change = dense(model, inputs, targets)
    samples = len(inputs)
    for found, truth in (
        (kernel, rows @ rows.T / samples),
        (rate, (change @ rows.T + rows @ change.T) / samples),
        (turning, change @ change.T / samples),
    ):
        assert torch.allclose(found, truth, rtol=1e-9, atol=1e-11 * float(truth.abs().max()))


class Angles(nn.Module):
    """f(x) = sum_k x_k angle(p_k) of points p_k in the plane: along gradient flow they run on circles.

    |grad angle| = 1 / radius stands still, so that M' = 0 on inputs that are rows of a diagonal matrix, while each
    gradient turns with its point: |J_k'| = |phi_k'| |J_k|.
    """

    def __init__(self, radius):
        super().__init__()
        self.points = nn.Parameter(torch.stack([torch.as_tensor(radius), torch.zeros(len(radius)).double()], 1))

    def forward(self, x):
        return x @ torch.atan2(self.points[:, 1], self.points[:, 0])[:, None]


def angles(seed, modes=110):
    rng = np.random.default_rng(seed)
    radius = rng.uniform(0.5, 2.0, modes)
    values = np.exp(np.sort(rng.uniform(-9, 0, modes)))  # lambda_k = x_k^2 / (N radius_k^2)
    scale = radius * np.sqrt(modes * values)
    return Angles(radius), torch.diag(torch.as_tensor(scale)), torch.as_tensor(scale * 0.5)[:, None], values, radius


def test_a_rotation_of_parameter_space_escapes_the_kernels_rate():
    """M' = 0 and J' != 0, in closed form: 2 |J'^T phi_k| / |J^T phi_k| = 2 |phi_k'| = lambda_k at the start."""
    model, inputs, targets, values, _ = angles(0)
    kernel, rate, turning = jacobian_rate_kernel(model, inputs, targets)
    assert torch.allclose(kernel.diagonal(), torch.as_tensor(values))
    assert rate.abs().max() < 1e-14
    found = evolution.shell_rates(grsd.spectrum(kernel, rate), SHELLS, turning)
    assert found.rho.max() < 1e-10
    speed = values  # phi_k' = lambda_k times the missing angle, .5
    for shell, rates in zip(found.shell_index.values, found.jacobian.values, strict=True):
        inside = (np.log(values) > shell) & (np.log(values) < shell + 1)
        if np.isfinite(rates):
            assert speed[inside].min() <= rates <= speed[inside].max() * 1.3
    sharp = evolution.shell_rates(grsd.spectrum(kernel, rate), LogShells(1.0, 1e-5), turning)
    inside = (np.log(values) > -3) & (np.log(values) < -2)
    assert float(sharp.jacobian.sel(shell=-2.5)) == pytest.approx(speed[inside].max(), rel=1e-6)
    typical = np.sqrt((values[inside] * speed[inside] ** 2).sum() / values[inside].sum())
    assert float(sharp.jacobian_typical.sel(shell=-2.5)) == pytest.approx(typical, rel=1e-6)


def test_the_jacobian_moves_at_least_as_fast_as_the_kernel():
    """tau >= rho on every shell; equal where each row only grows: J' = (r / 2) J has M' = r M and tau = r."""
    data = grsd.digits(40, task="parity")
    network = grsd.Perceptron(64, 1, width=12, depth=3, seed=1).double()
    matrices = jacobian_rate_kernel(network, data.inputs, data.targets)
    found = evolution.shell_rates(grsd.spectrum(*matrices[:2]), SHELLS, matrices[2]).dropna("shell")
    assert found.sizes["shell"] >= 3
    assert (found.jacobian >= found.rho * (1 - 1e-9)).all()
    kernel = matrices[0]
    grown = evolution.shell_rates(grsd.spectrum(kernel, 0.3 * kernel), SHELLS, 0.15**2 * kernel).dropna("shell")
    assert np.allclose(grown.jacobian, grown.rho, rtol=1e-4)
    assert np.allclose(grown.jacobian_typical, 0.3)


def of_angles(seed):
    """The same model along its flow in closed form: phi_k' = lambda_k exp(-lambda_k t) / 2, M stands still."""
    *_, values, _ = angles(seed)
    m = torch.as_tensor(values)
    modes = grsd.Spectrum(m, torch.eye(len(m)).double(), torch.zeros(len(m), len(m)).double(), 1e-13)
    states = ((t, modes, torch.diag(m * (m * torch.exp(-m * t) / 2) ** 2)) for t in np.geomspace(1, 100, 5))
    return evolution.along(states, SHELLS, top=1.0, seed=seed)


def test_a_kernel_that_stands_still_is_controlled_and_its_jacobian_judged_apart():
    runs = [of_angles(seed) for seed in range(8)]
    assert all(float(run.t_rho.max()) == 0 < float(run.t_jacobian.min()) for run in runs)
    still = evolution.judge(runs)
    assert (still.verdict, still.interval) == ("holds", (0.0, 0.0))
    turning = evolution.eta(runs, rate="jacobian")
    assert turning.value == pytest.approx(0, abs=0.05)  # t tau = x exp(-x), a function of x = lambda t alone
    assert turning.supremum == pytest.approx(np.exp(-1), rel=0.05)
    assert turning.verdict == "holds"


def test_exact_models_of_the_notebook():
    words = {}
    for model in (study.controlled, study.drifting, study.turning):
        runs = [model(seed) for seed in range(8)]
        words[model.__name__] = evolution.judge(runs).verdict
    assert words == {"controlled": "holds", "drifting": "fails", "turning": "holds"}
    found = evolution.eta([study.drifting(seed) for seed in range(8)])
    assert found.value == pytest.approx(1, abs=0.02)
    assert not found.covariant
    assert evolution.judge(runs, rate="jacobian").verdict == "holds"


def test_rates_of_zero_have_no_slopes_but_a_verdict():
    modes = grsd.spectrum(torch.diag(torch.linspace(0.01, 1, 60).double()), torch.zeros(60, 60).double())
    runs = [evolution.along(((t, modes) for t in (1.0, 3.0, 9.0)), SHELLS, top=1.0, seed=seed) for seed in range(8)]
    found = evolution.judge(runs)
    assert (found.verdict, found.estimate) == ("holds", 0.0)
    assert np.isnan(evolution.eta(runs).value)
    with pytest.raises(
        ValueError, match=r"^evolution.judge_slopes\(ensemble\): expected rates above 0, got some of 0;"
    ):
        evolution.judge_slopes(runs)


@pytest.mark.usefixtures("as_users_run_it")
def test_refusals():
    still = [of_angles(seed).drop_vars("t_jacobian") for seed in range(2)]
    with pytest.raises(
        ValueError, match=r"^evolution.eta\(rate='jacobian'\): expected runs of evolution.measure\(\.\.\., "
    ):
        evolution.eta(still, rate="jacobian")
    modes = grsd.spectrum(torch.eye(4).double(), torch.eye(4).double())
    with pytest.raises(ValueError, match=r"^shell_rates\(jacobian_rate=...\): expected J' J'\^T / N of shape \(4, 4\)"):
        evolution.shell_rates(modes, SHELLS, torch.eye(3).double())
    states = [(1.0, modes), (2.0, modes, torch.eye(4).double())]
    with pytest.raises(
        ValueError, match=r"^evolution.along\(states\): expected J' J'\^T / N in all states or in none$"
    ):
        evolution.along(states, SHELLS, top=1.0)

"""The exact models against their closed forms, through the estimators that read a network."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import grsd
from grsd.solvable import AlignedDeepLinear, DiagonalNet, LazyPowerLaw, ProjectedTwoLayer

DEPTHS = [2, 3, 4, 6]


def local_exponents(times, loss):
    """Decay exponent between neighbouring times: no fit, no extrapolation."""
    return -np.diff(np.log(loss)) / np.diff(np.log(times))


def slopes(x, y):
    return np.diff(np.log(y)) / np.diff(np.log(x))


def smoothed(shells, budget, eigenvalues, error, quantity):
    """Closed form seen through the same windows: sum dW/ds e^2 quantity / sum dW/ds e^2 at the budget's boundaries."""
    values, at = (torch.tensor(array) for array in (eigenvalues, budget.boundary.values))
    weights = shells.cumulative(values, at, 0.0)[1].numpy() * error**2
    return weights @ quantity / weights.sum(1)


def kept(budget):
    return budget.isel(boundary=np.flatnonzero(budget.boundary_mask == 0))


@pytest.mark.parametrize(("a", "r", "exponent"), [(1.5, 0.5, 0.3333), (2.0, 0.3, 0.15), (1.2, 1.0, 0.8333)])
def test_lazy_loss_exponents(a, r, exponent):
    model = LazyPowerLaw(a, r, modes=1000)
    times = np.geomspace(1e2, 1e10, 9)
    loss = model.loss(times)
    assert np.abs(local_exponents(times, loss) - exponent).max() < 1e-3
    assert model.loss_exponent == pytest.approx(exponent, abs=1e-4)
    assert np.allclose(loss, model.asymptotic_loss(times), rtol=1e-7)
    assert model.loss(0.0)[0] == pytest.approx(0.5 * (np.arange(1, 10**6) ** -(1.0 + r)).sum() + 0.5 * 1e6**-r / r)


def test_lazy_flow_follows_its_closed_form():
    model = LazyPowerLaw(1.5, 0.5, modes=32)
    module, inputs, targets = model.problem()
    times = [0.3, 3.0, 30.0]
    flow = grsd.gradient_flow(module, inputs, targets, times, tolerance=1e-6)
    assert np.allclose(flow.history.loss, model.loss(times, tail=False), rtol=1e-4)
    for snapshot in flow.snapshots:
        modes = grsd.spectrum(*grsd.tangent_kernel_and_rate(snapshot.model, inputs, targets))
        assert np.allclose(modes.eigenvalues.numpy()[::-1], model.eigenvalues, rtol=1e-12)
        g = (modes.eigenvectors.T @ snapshot.error.reshape(-1)).abs().flip(0)
        assert np.abs(g.numpy() - np.abs(model.error(snapshot.time))).max() < 2e-4
        budget = grsd.energy_budget(modes, snapshot.error, grsd.LogShells(0.5, 0.25))
        assert np.abs(budget.velocity.values).max() < 1e-13
        assert np.abs(budget.coupling.values).max() < 1e-13 * float(budget.dissipation.sum())
        assert (model.velocity(snapshot.time) == 0).all()


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("choice", [{}, {"d": 0.4}, {"d": 0.4, "common": True}], ids=str)
def test_diagonal_velocity_is_the_closed_form(depth, choice):
    """Torch module on rotated samples: mode by mode, then smoothed estimate against smoothed closed form."""
    model = DiagonalNet(depth, start=0.05, modes=20, **choice)
    module, inputs, targets = model.problem(time=1.5)
    with torch.no_grad():
        error = module(inputs) - targets
    modes = grsd.spectrum(*grsd.tangent_kernel_and_rate(module, inputs, targets))
    m, v, e = model.eigenvalues(1.5), model.velocity(1.5), model.error(1.5)
    order = np.argsort(m)
    assert np.allclose(modes.eigenvalues, m[order], rtol=1e-10)
    assert np.allclose(modes.rate.diagonal(), v[order], rtol=1e-9)
    x = model.predictor(1.5) * np.arange(1, 21) ** model.d
    assert np.allclose(v, (2 - 2 / depth) * m**2 * (1 / x - 1), rtol=1e-12)
    assert float((modes.rate - modes.rate.diagonal().diag()).abs().max()) < 1e-12 * v.max()
    shells = grsd.LogShells(0.5, 0.1)
    budget = grsd.energy_budget(modes, error, shells)
    seen = np.flatnonzero(budget.density > 1e-7 * float(budget.energy.sum()))
    assert len(seen) >= 5
    u = smoothed(shells, budget, m, e, v / m)
    v_seen = (budget.velocity * np.exp(budget.boundary)).values[seen]
    assert np.abs(v_seen / (np.exp(budget.boundary.values) * u)[seen] - 1).max() < 1e-6


@pytest.mark.parametrize("depth", DEPTHS)
def test_diagonal_velocity_at_a_point(depth):
    """Below the frontier m t = 1 of a dense spectrum the estimate tends to the law itself, as delta^2."""
    time = 300.0
    model = DiagonalNet(depth, a=1.1, start=0.2, modes=700)
    kernel, rate, error = model.matrices(time)
    modes = grsd.spectrum(kernel, rate)
    m, v = model.eigenvalues(time)[::-1], model.velocity(time)[::-1]
    span = (math.log(m[0]) + 0.7, -math.log(time))
    wide, narrow = (kept(grsd.energy_budget(modes, error, grsd.LogShells(0.25, delta, span))) for delta in (0.16, 0.08))
    below = m * time < 10
    law = np.exp(np.interp(narrow.boundary, np.log(m[below]), np.log((v / m)[below])))
    wide, narrow = wide.velocity.values / law - 1, narrow.velocity.values / law - 1
    assert len(law) >= 4
    assert np.abs(narrow).max() < 3e-3
    assert np.abs(narrow / wide - 0.25).max() < 0.01
    assert np.abs(4 * narrow - wide).max() / 3 < 5e-5


@pytest.mark.parametrize(
    "depth", [pytest.param(depth, marks=[] if depth == 2 else [pytest.mark.long]) for depth in DEPTHS]
)
def test_diagonal_flow_follows_its_closed_form(depth):
    model = DiagonalNet(depth, d=0.3, start=0.1, modes=6)
    module, inputs, targets = model.problem()
    times = [0.5, 2.0, 8.0]
    flow = grsd.gradient_flow(module, inputs, targets, times, tolerance=1e-6)
    assert np.allclose(flow.history.loss, model.loss(times, tail=False), rtol=5e-4)
    for snapshot in flow.snapshots:
        kernel = grsd.tangent_kernel(snapshot.model, inputs)
        found = np.sort(grsd.spectrum(kernel).eigenvalues.numpy())
        assert np.allclose(found, np.sort(model.eigenvalues(snapshot.time)), rtol=5e-4)


@pytest.mark.parametrize(("depth", "power"), [(2, 1.0), (3, 5 / 4), (4, 4 / 3), (6, 7 / 5)])
def test_one_mode_grows_as_a_power_of_itself(depth, power):
    model = DiagonalNet(depth, start=1e-6, modes=1)
    assert model.growth_exponent == pytest.approx(power)
    late = {2: 3.0, 3: 90.0, 4: 450.0, 6: 2400.0}[depth]
    m, rate = [], []
    for time in np.linspace(0.0, late, 6):
        module, inputs, targets = model.problem(time)
        found = grsd.spectrum(*grsd.tangent_kernel_and_rate(module, inputs, targets))
        m.append(float(found.eigenvalues[0]))
        rate.append(float(found.rate[0, 0]))
    assert m[-1] > 1.05 * m[0]
    assert np.abs(slopes(m, rate) - power).max() < 1e-2


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("choice", "power"),
    [({}, 2.0), ({"d": 0.6}, 2.0), ({"d": 0.6, "common": True}, 2 + 0.6 / 1.5)],
    ids=["flat", "in proportion", "common"],
)
def test_field_exponent_far_below_the_frontier(depth, choice, power):
    model = DiagonalNet(depth, a=1.5, start=1e-8, modes=800, **choice)
    assert model.field_exponent == pytest.approx(power)
    kernel, rate, error = model.matrices(0.01)
    m = model.eigenvalues(0.01)
    shells = grsd.LogShells(0.25, 0.2, span=(math.log(m[499]), math.log(m[39])))
    budget = kept(grsd.energy_budget(grsd.spectrum(kernel, rate), error, shells))
    assert budget.sizes["boundary"] >= 14
    slope = np.polyfit(budget.boundary, np.log(budget.velocity) + budget.boundary, 1)[0]
    assert slope == pytest.approx(power, abs=1e-2)


@pytest.mark.parametrize("depth", DEPTHS)
def test_time_rescaling_covariance_without_a_power_law(depth):
    """v = t^-2 Psi(m t): mode 8 k at the time when it has grown as far as mode k had; not so from a common start."""
    for choice, covariant in (({}, True), ({"d": 0.3}, True), ({"d": 0.3, "common": True}, False)):
        model = DiagonalNet(depth, a=1.5, start=0.05, modes=160, **choice)
        k, early = np.arange(1, 21), 2.0
        later = early * 8 ** (1.5 + model.d * (2 - 2 / depth))
        m, v = model.eigenvalues(early)[k - 1] * early, model.velocity(early)[k - 1] * early**2
        m_later, v_later = model.eigenvalues(later)[8 * k - 1] * later, model.velocity(later)[8 * k - 1] * later**2
        assert np.allclose(m, m_later, rtol=1e-9) == covariant
        assert np.allclose(v, v_later, rtol=1e-9) == covariant
        assert np.ptp(slopes(model.eigenvalues(early), model.velocity(early))) > 0.5


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("a", "d"), [(1.5, 0.0), (1.5, 0.4), (1.1, 0.8)])
def test_diagonal_loss_exponent_in_proportion(depth, a, d):
    model = DiagonalNet(depth, a=a, d=d, start=1e-2)
    times = np.geomspace(1e7, 1e11, 5)
    assert model.loss_exponent == pytest.approx((a + 2 * d - 1) / (a + d * (2 - 2 / depth)))
    assert np.abs(local_exponents(times, model.loss(times)) - model.loss_exponent).max() < 1e-3


@pytest.mark.parametrize("depth", [3, 4, 6])
def test_diagonal_loss_exponent_from_a_common_start(depth):
    a, d, start = 1.5, 0.4, 1e-12
    model = DiagonalNet(depth, a=a, d=d, start=start, common=True)
    k = np.array([300.0, 1000.0, 3000.0])
    times = depth / (depth - 2) * start ** -(1 - 2 / depth) * k ** (a + d) / depth
    exponents = local_exponents(times, model.loss(times, direct=10_000))
    assert model.loss_exponent == pytest.approx((a + 2 * d - 1) / (a + d))
    assert np.abs(exponents - model.loss_exponent).max() < 1e-2


def test_loss_of_all_modes_is_the_limit_of_many():
    """The analytic tails, where the sum converges slowly: many modes and the last power-law piece."""
    k, r = np.arange(1, 10**6 + 1.0), 0.1
    model = DiagonalNet(2, a=1.1, start=0.25)
    x = 1 / (1 + 3 * np.exp(-2 * k**-1.1 * 5.0))
    expected = 0.5 * k ** (-1 - r) @ (1 - x) ** 2 + 0.5 * 0.75**2 * (1e6 + 0.5) ** -r / r
    assert model.loss(5.0)[0] == pytest.approx(expected, rel=1e-6)
    slow = ProjectedTwoLayer(alpha=0.5, beta=0.2, gamma=0.0)
    expected = 0.5 * k ** (-1 - r) @ np.exp(-2 * k**-0.5 * 5.0)
    tail = np.exp(np.linspace(math.log(1e6 + 0.5), 300, 200_001))
    expected += 0.5 * np.trapezoid(tail**-r * np.exp(-10 * tail**-0.5), np.log(tail))
    assert slow.loss(5.0)[0] == pytest.approx(expected, rel=1e-6)


def test_diagonal_growth_against_an_integrator():
    for depth in DEPTHS:
        model = DiagonalNet(depth, d=0.5, start=0.02, modes=3)
        k = np.arange(1, 4)

        def rate(_, beta, depth=depth, k=k):
            return depth * k**-1.5 * beta ** (2 - 2 / depth) * (k**-0.5 - beta)

        found = solve_ivp(rate, (0, 9.0), model.predictor(0.0), method="DOP853", rtol=1e-11, atol=1e-14)
        assert np.allclose(found.y[:, -1], model.predictor(9.0), rtol=1e-9)


def test_aligned_velocity_with_degenerate_pairs():
    model = AlignedDeepLinear()
    time = 0.8
    module, inputs, targets = model.problem(time)
    modes = grsd.spectrum(*grsd.tangent_kernel_and_rate(module, inputs, targets))
    assert np.allclose(modes.eigenvalues, np.sort(model.all_eigenvalues(time).ravel()), rtol=1e-10)
    assert int((modes.eigenvalues.diff() < 1e-12).sum()) >= 15
    with torch.no_grad():
        error = module(inputs) - targets
    g = modes.eigenvectors.T @ error.reshape(-1)
    m, v = model.eigenvalues(time), model.velocity(time)
    order = np.argsort(m)
    carriers = np.flatnonzero(g.abs() > 1e-9)
    assert len(carriers) == len(m)
    assert np.allclose(g.abs()[carriers], np.abs(model.error(time))[order], rtol=1e-9)
    measured = modes.rate.diagonal()[carriers].numpy()
    assert np.abs(measured / (m * (2 * np.array(model.strengths) - m))[order] - 1).max() < 1e-6
    shells = grsd.LogShells(0.5, 0.1)
    budget = grsd.energy_budget(modes, error, shells)
    assert np.isfinite(budget.coupling).all()
    t = budget.coupling.values
    assert np.abs(t + t.T).max() <= 1e-12 * np.abs(t).max()
    seen = np.flatnonzero(budget.density > 1e-7 * float(budget.energy.sum()))
    expected = smoothed(shells, budget, m, model.error(time), v / m)
    assert np.abs(budget.velocity.values / expected - 1)[seen].max() < 1e-6


def test_aligned_weights_with_energy_on_the_degenerate_pairs():
    """A target that is not aligned: both members of each degenerate pair carry energy, and the budget still closes."""
    module, inputs, targets = AlignedDeepLinear().problem(0.8)
    noise = torch.randn(targets.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flow = grsd.gradient_flow(module, inputs, targets + 0.3 * noise, [0.0])
    shells = grsd.LogShells(0.5, 0.1)
    change = grsd.measured_energy_change(flow, 0, shells, step=1e-4)
    assert float(change.discrepancy.max()) < 1e-8
    modes = grsd.spectrum(*grsd.tangent_kernel_and_rate(module, flow.inputs, flow.targets))
    t = grsd.energy_budget(modes, flow.snapshots[0].error, shells).coupling.values
    assert np.isfinite(t).all()
    assert np.abs(t + t.T).max() <= 1e-12 * np.abs(t).max()


def test_aligned_flow_follows_its_closed_form():
    model = AlignedDeepLinear()
    module, inputs, targets = model.problem()
    times = [0.5, 1.5, 4.0]
    flow = grsd.gradient_flow(module, inputs, targets, times, tolerance=1e-7)
    assert np.allclose(flow.history.loss, model.loss(times), rtol=1e-4)
    for snapshot in flow.snapshots:
        found = grsd.spectrum(grsd.tangent_kernel(snapshot.model, inputs)).eigenvalues
        assert np.allclose(found, np.sort(model.all_eigenvalues(snapshot.time).ravel()), rtol=3e-4)


@pytest.mark.parametrize("beta", [0.2, 0.4, 0.6, 0.8, 1.25, 1.5])
def test_projected_exponents(beta):
    """chi from neighbouring points of the loss curve and t u from the energy budget, at S = 1e12 and above."""
    model = ProjectedTwoLayer(alpha=2.0, beta=beta)
    times = np.array([1e14, 1e15])
    assert model.clock(times[0]) > 1e12
    chi = beta * max(1, 2 / (1 + beta))
    assert local_exponents(times, model.loss(times))[0] == pytest.approx(chi, abs=0.01)
    kernel, rate, error = model.matrices(times[0])
    budget = kept(grsd.energy_budget(grsd.spectrum(kernel, rate), error, grsd.LogShells(1.0, 0.25)))
    assert budget.sizes["boundary"] >= 8
    u = budget.velocity.values
    c = max(0.0, (1 - beta) / (1 + beta))
    assert np.abs(times[0] * u - c).max() < 0.01
    assert np.ptp(u) < 1e-9 * np.abs(u).max()
    assert (model.loss_exponent, model.bulk_exponent) == (pytest.approx(chi), pytest.approx(c))


def test_projected_table_of_the_paper():
    table = {0.2: 0.3333, 0.4: 0.5714, 0.6: 0.75, 0.8: 0.8889, 1.25: 1.25, 1.5: 1.5}
    for beta, chi in table.items():
        assert ProjectedTwoLayer(beta=beta).loss_exponent == pytest.approx(chi, abs=1e-4)


def test_projected_clock_against_an_integrator():
    model = ProjectedTwoLayer(alpha=1.7, beta=1.3, gamma=2.0)
    k = np.arange(1, 200_001.0)
    eigenvalues, weights = k**-1.7, k ** (1.7 - 1.7 * 1.3 - 1)
    tail = 200_000.5 ** -(1.7 * 2.3) / (1.7 * 2.3)

    def rate(_, s):
        return np.sqrt(1 + 4 * ((weights @ np.expm1(-eigenvalues * s) ** 2) + tail * s**2))

    times = [0.05, 1.0, 20.0]
    found = solve_ivp(rate, (0, 20.0), [0.0], t_eval=times, rtol=1e-9, atol=1e-12)
    assert np.allclose(found.y[0], [model.clock(t) for t in times], rtol=1e-6)
    h = 1e-4
    numerical = (model.clock(1 + h) - 2 * model.clock(1.0) + model.clock(1 - h)) / h**2
    slope = (model.clock(1 + h) - model.clock(1 - h)) / (2 * h)
    assert model.relative_velocity(1.0) == pytest.approx(numerical / slope, rel=1e-4)


def test_projected_error_obeys_its_kernel():
    """e' = -M e and the eigenvalues' rate, by differences at fixed ranks."""
    model = ProjectedTwoLayer(beta=0.5, modes=6)
    assert ProjectedTwoLayer(beta=0.5, gamma=0.0).relative_velocity(3.0) == 0
    assert ProjectedTwoLayer(beta=0.5, gamma=0.0).clock(3.0) == pytest.approx(3.0, rel=1e-9)
    time, h, k = 5.0, 1e-4, model.ranks(5.0)
    clocks = np.array([model.clock(time + i * h) for i in (-1, 1)])
    log_error = -(k**-2.0) * clocks[:, None]
    assert np.allclose(-np.diff(log_error, axis=0)[0] / (2 * h), model.eigenvalues(time), rtol=1e-6)


@pytest.mark.usefixtures("as_users_run_it")
def test_refusals():
    cases = [
        (lambda: LazyPowerLaw(0.0, 1.0), r"LazyPowerLaw\(a=...\): expected a positive finite number, got 0.0"),
        (lambda: LazyPowerLaw(1.5, -1.0), r"LazyPowerLaw\(r=...\): expected a positive finite number, got -1.0"),
        (lambda: LazyPowerLaw(1.5, 1.0, modes=0), r"LazyPowerLaw\(modes=...\): expected a whole number of at least 1"),
        (lambda: LazyPowerLaw(1.5, 1.0).loss([-1.0]), r"LazyPowerLaw.loss\(times\): expected finite times >= 0"),
        (lambda: DiagonalNet(1), r"DiagonalNet\(depth=...\): expected a whole number of at least 2, got 1"),
        (lambda: DiagonalNet(2.0), r"DiagonalNet\(depth=...\): expected a whole number of at least 2, got 2.0"),
        (lambda: DiagonalNet(2, a=-1.0), r"DiagonalNet\(a=...\): expected a positive finite number"),
        (lambda: DiagonalNet(2, d=-0.1), r"DiagonalNet\(d=...\): expected a finite number of at least 0, got -0.1"),
        (lambda: DiagonalNet(2, a=0.5), r"DiagonalNet\(a=..., d=...\): expected a \+ 2d > 1, got 0.5"),
        (lambda: DiagonalNet(2, start=1.0), r"DiagonalNet\(start=...\): expected less than the target"),
        (lambda: DiagonalNet(2, d=1.0, start=0.5, common=True), r"less than the smallest target"),
        (lambda: AlignedDeepLinear(()), r"AlignedDeepLinear\(strengths=...\): expected a tuple of numbers, got \(\)"),
        (lambda: AlignedDeepLinear((1.0, 0.0)), r"AlignedDeepLinear\(strengths=...\): expected a positive finite"),
        (lambda: AlignedDeepLinear(start=0.0), r"AlignedDeepLinear\(start=...\): expected a positive finite"),
        (lambda: AlignedDeepLinear().learned(-1.0), r"AlignedDeepLinear.learned\(time=...\): expected a finite number"),
        (lambda: ProjectedTwoLayer(alpha=0.0), r"ProjectedTwoLayer\(alpha=...\): expected a positive finite number"),
        (lambda: ProjectedTwoLayer(alpha=0.1), r"ProjectedTwoLayer\(alpha=...\): expected at least 0.2, got 0.1"),
        (lambda: ProjectedTwoLayer(beta=0.0), r"ProjectedTwoLayer\(beta=...\): expected a positive finite number"),
        (lambda: ProjectedTwoLayer(gamma=-1.0), r"ProjectedTwoLayer\(gamma=...\): expected a finite number of at"),
        (lambda: ProjectedTwoLayer(modes=1), r"ProjectedTwoLayer\(modes=...\): expected a whole number of at least 2"),
        (lambda: ProjectedTwoLayer().clock(1e99), r"ProjectedTwoLayer.clock\(time=...\): expected at most"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)

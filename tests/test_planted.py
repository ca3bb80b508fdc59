import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from grsd.shells import LogShells, energy_budget, log_range
from grsd.solvable import PlantedShells

TWO, THREE = LogShells(math.log(2), 0.1), LogShells(math.log(3), 0.1)
KERNEL = PlantedShells(exponent=1.5, drift=0.3, rotation=0.1, reach=0.5, noise=0.2)
SHELLS = PlantedShells(exponent=1.4, kappa=(0.5, 0.2), shells=TWO, noise=0.3)


def couplings(budget, exponent, k):
    """K_ab e^{-(b-1)(s_a+s_b)/2} for a - b = k."""
    normalized = budget.coupling.values / np.sqrt(np.outer(budget.energy, budget.energy))
    s = budget.shell.values
    return np.diag(normalized, -k) * np.exp(-(exponent - 1) * (s[k:] + s[:-k]) / 2)


def test_drift_alone_is_the_velocity_in_every_run():
    planted = PlantedShells(exponent=1.4, drift=-0.3, spectrum="random", rotated=True)
    wide = LogShells(math.log(2), 0.6)
    for seed in range(3):
        run = planted.run(seed)
        g = run[0].eigenvectors.T @ run[1]
        s, values = run[0].eigenvalues.log().numpy(), 0.5 * g.square().numpy()
        budget = energy_budget(*run, wide)
        bell = np.exp(-(((budget.boundary.values[:, None] - s) / 0.6) ** 2) / 2)
        expected = (bell * values * -0.3 * np.exp(0.4 * s)).sum(1) / (bell * values).sum(1)
        assert np.allclose(budget.velocity, expected, rtol=1e-10)


@pytest.mark.parametrize("shells", [LogShells(math.log(2), 1e-4), TWO, LogShells(0.9, 0.3)])
@pytest.mark.parametrize("rotated", [False, True])
def test_planted_shells_are_exact_in_every_run(shells, rotated):
    planted = PlantedShells(exponent=1.2, kappa=(1.0, -0.4), shells=shells, rotated=rotated)
    for seed in range(3):
        budget = energy_budget(*planted.run(seed), shells)
        for k, kappa in ((1, 1.0), (2, -0.4), (3, 0.0)):
            assert np.allclose(couplings(budget, 1.2, k), kappa, atol=1e-9)


def test_sharp_shells_are_the_formula_mode_by_mode():
    shells = LogShells(math.log(2), 1e-6)
    planted = PlantedShells(exponent=0.8, kappa=(0.7,), shells=shells, modes=40, span=(-4.0, 0.0))
    spectrum, error = planted.run(4)
    values, g = spectrum.eigenvalues.numpy(), error.numpy()
    a = np.floor(np.log(values) / shells.width).astype(int)
    energy = {shell: (g[a == shell] ** 2).sum() / 2 for shell in set(a)}
    for u, v in ((0, 9), (12, 17), (30, 25), (5, 30)):
        jump = a[u] - a[v]
        kappa = 0.7 * np.sign(jump) * (abs(jump) == 1)
        law = math.exp(-0.2 * (a[u] + a[v] + 1) * shells.width / 2)
        omega = kappa * law * g[u] * g[v] / (4 * math.sqrt(energy[a[u]] * energy[a[v]]))
        assert float(spectrum.rate[u, v]) == pytest.approx(omega * (values[u] - values[v]), rel=1e-9, abs=1e-15)


def test_smoothing_correction_as_stated():
    sharp = LogShells(math.log(2), 1e-4)
    planted = PlantedShells(exponent=1.2, kappa=(1.0, 0.4), shells=sharp)
    for share, first, second in ((0.05, 0.93, 1.01), (0.1, 0.87, 1.02), (0.2, 0.75, 1.03)):
        smooth = LogShells(math.log(2), share * math.log(2))
        read = [energy_budget(*planted.run(seed), smooth) for seed in range(16)]
        assert np.mean([couplings(item, 1.2, 1)[4:-4] for item in read]) == pytest.approx(first, abs=0.015)
        assert np.mean([couplings(item, 1.2, 2)[4:-4] for item in read]) == pytest.approx(0.4 * second, abs=0.008)


@pytest.mark.parametrize("shells", [TWO, THREE, LogShells(0.37, 0.13)])
def test_kernel_keeps_the_law_at_every_width(shells):
    planted = replace(KERNEL, exponent=1.3)
    budget = energy_budget(*planted.population(), shells)
    for k in (1, 2):
        inner = couplings(budget, 1.3, k)[3:-3]
        assert np.ptp(inner) < 1e-9 * abs(inner[0])
    reduced = budget.velocity * np.exp(-0.3 * budget.boundary)
    centre = float(reduced[len(reduced) // 2])
    inner = reduced.where((budget.boundary > -10) & (budget.boundary < -2), drop=True)
    assert float(abs(inner / centre - 1).max()) < 1e-4
    assert centre > planted.drift
    neighbours = energy_budget(*replace(planted, rotation=0.0).population(), shells)
    inner = neighbours.velocity * np.exp(-0.3 * neighbours.boundary)
    smear = math.exp((2 * planted.growth * 0.3 + 0.3**2) * shells.smoothing**2 / 2)
    assert np.allclose(inner[3:-3], planted.drift * smear, rtol=1e-9)


@pytest.mark.parametrize("spectrum", ["even", "power"])
def test_population_is_the_mean_over_runs(spectrum):
    """For u != v the rate times g_u g_v is the population's times two independent squares of mean one."""
    planted = replace(KERNEL, modes=60, span=(-5.0, 0.0), noise=0.0, spectrum=spectrum, scale=0.01)
    mean, root = planted.population()
    outer = mean.rate * root[:, None] * root
    for seed in range(3):
        run, error = planted.run(seed)
        squares = (error / root).square()
        apart = run.rate * error[:, None] * error
        expected = outer * squares[:, None] * squares
        off = ~torch.eye(60, dtype=torch.bool)
        assert torch.allclose(apart[off], expected[off], rtol=1e-10, atol=1e-18)
        assert torch.allclose(run.rate.diagonal(), mean.rate.diagonal())


def test_noise_has_mean_one():
    planted = replace(KERNEL, modes=20, noise=0.4)
    s = np.linspace(-12, 0, 20)
    draws = [planted._factor(s, planted._field(np.random.default_rng(seed))) for seed in range(4000)]
    for part in map(np.stack, zip(*draws, strict=True)):
        assert np.abs(part.mean(0) - 1).max() < 5 * part.std(0).max() / math.sqrt(4000)
        assert part.std(0).max() == pytest.approx(math.sqrt(math.exp(0.16) - 1), rel=0.1)


def test_spectra():
    for spectrum in ("even", "random", "power"):
        member, error = PlantedShells(drift=1.0, spectrum=spectrum, span=(-9.0, 1.0), rotated=True).run(0)
        low, high = log_range(member)
        assert -9 - 1e-9 <= low < -8.8
        assert 0 < high <= 1 + 1e-9
        assert bool((member.eigenvalues.diff() > 0).all())
        assert torch.allclose(member.eigenvectors.T @ member.eigenvectors, torch.eye(200, dtype=torch.float64))
        assert torch.equal(member.rate, member.rate.T)
        assert error.shape == (200,)


def test_a_seed_is_a_run():
    first, second, other = KERNEL.run(7), KERNEL.run(7), KERNEL.run(8)
    assert torch.equal(first[0].rate, second[0].rate)
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])


def test_scale_wiggle_and_bend():
    base = PlantedShells(exponent=1.5, drift=0.3, rotation=0.1)
    spectrum, error = base.run(0)
    scaled, _ = replace(base, scale=0.2).run(0)
    assert torch.allclose(scaled.rate, spectrum.rate + 0.2 * torch.diag(spectrum.eigenvalues), atol=1e-14)
    flat, tall = (energy_budget(spectrum, error, TWO) for spectrum in (spectrum, scaled))
    assert np.allclose(tall.velocity - flat.velocity, 0.2, atol=1e-12)
    s = np.linspace(-12, 0, 50)
    wavy = replace(base, wiggle=0.2, period=1.7, phase=0.3)
    assert np.allclose(wavy.law(s) / base.law(s), 1 + 0.2 * np.cos(2 * np.pi * s / 1.7 + 0.3))
    bent = replace(base, bend=(-6.0, 0.5))
    assert np.allclose(np.gradient(np.log(bent.law(s)), s)[[3, -3]], [0.5, -0.5])


@pytest.mark.parametrize("plant", ["kernel", "shells"])
def test_trajectory_keeps_the_budget(plant):
    """Eigenvalues by their closed form, dM/dt and de/dt by differences, and dE_a/dt = sum_b T_ab - D_a."""
    shells = LogShells(0.7, 0.3, span=(-3.5, 0.7))
    planted = PlantedShells(exponent=1.5, drift=0.3, modes=16, span=(-3.0, 0.0), rotated=True, noise=0.3)
    rotation = {"kernel": {"rotation": 0.3}, "shells": {"kappa": (0.4, 0.1), "shells": shells}}[plant]
    planted = replace(planted, **rotation)
    step = 2e-3
    snapshots = planted.trajectory(2, [0.0, 0.5 - step, 0.5, 0.5 + step])
    (_, start, error), (_, before, e_before), (_, now, e), (_, after, e_after) = snapshots
    spectrum, first = planted.run(2)
    assert torch.allclose(start.rate, spectrum.rate)
    assert torch.allclose(error, first)

    def matrix(item, values):
        return item.eigenvectors @ values @ item.eigenvectors.T

    m = [matrix(item, torch.diag(item.eigenvalues)) for item in (before, now, after)]
    assert torch.allclose((m[2] - m[0]) / (2 * step), matrix(now, now.rate), atol=1e-5)
    assert torch.allclose((e_after - e_before) / (2 * step), -m[1] @ e, atol=1e-5)
    budgets = [energy_budget(*item, shells) for item in ((before, e_before), (now, e), (after, e_after))]
    change = (budgets[2].energy - budgets[0].energy) / (2 * step)
    assert np.allclose(change, budgets[1].coupling.sum("shell_from") - budgets[1].dissipation, atol=2e-5)
    quiet = replace(planted, noise=0.0)
    (_, start, _), (_, end, _) = quiet.trajectory(2, [0.0, 0.5])
    assert torch.allclose(end.eigenvalues**-0.5, start.eigenvalues**-0.5 - 0.5 * 0.3 * 0.5, rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": 201}, "at most 200, got 201"),
        ({"modes": 1}, "whole number of at least 2"),
        ({"span": (0.0, -1.0)}, "expected .low, high. in s"),
        ({"spectrum": "flat"}, "expected one of .'even', 'random', 'power'."),
        ({"noise": -0.1}, "from 0 to 2"),
        ({"kappa": (1.0,)}, "expected both or neither"),
        ({"period": 0.0}, "period=.*positive"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        PlantedShells(**options)


def test_refused_calls():
    with pytest.raises(ValueError, match="no planted kappa"):
        SHELLS.population()
    for times in ([], [1.0, 0.5], [-1.0]):
        with pytest.raises(ValueError, match="increasing times"):
            KERNEL.trajectory(0, times)

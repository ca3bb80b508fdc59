import itertools
import math
from itertools import pairwise

import mpmath as mp
import numpy as np
import pytest
import torch
import xarray as xr
from torch.overrides import TorchFunctionMode

import grsd
from grsd.decomposition import Spectrum
from grsd.shells import MASK_FLAGS, LogShells


def trained(samples=24, residual=True, task="one-hot"):
    data = grsd.digits(samples, task=task)
    model = grsd.Perceptron(64, data.targets.shape[1], width=24, depth=4, residual=residual)
    flow = grsd.gradient_flow(model, data.inputs, data.targets, [0.3])
    return flow.inputs, flow.targets, flow.snapshots[0]


@pytest.fixture(scope="module")
def snapshot():
    inputs, targets, last = trained()
    kernel, rate = grsd.tangent_kernel_and_rate(last.model, inputs, targets)
    return grsd.spectrum(kernel, rate), last.error


def diagonal(eigenvalues, rate=None, floor=None):
    """A spectrum that is already in its eigenbasis."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    d = len(values)
    floor = d * 2.2e-16 * float(values[-1]) if floor is None else floor
    return Spectrum(values, torch.eye(d, dtype=torch.float64), rate, floor)


def double_sum(spectrum, error, shells, indices):
    """T_ab and F by the definition, pair by pair: the naive reference (limits on the diagonal by the derivative)."""
    values, rate = spectrum.eigenvalues, spectrum.rate
    g = spectrum.eigenvectors.T @ error.reshape(-1)
    edges = torch.as_tensor(np.array(indices[1:]) * shells.width)
    x = (edges[:, None] - values.log()[None]) / shells.smoothing
    cumulative = torch.cat([torch.zeros(1, len(values)), torch.special.ndtr(x), torch.ones(1, len(values))])
    slope = -torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) / shells.smoothing / values
    slope = torch.cat([torch.zeros(1, len(values)), slope, torch.zeros(1, len(values))])
    w, dw = cumulative.diff(dim=0), slope.diff(dim=0)
    gap = values[:, None] - values[None]
    t = torch.zeros(len(indices), len(indices), dtype=torch.float64)
    for a in range(len(indices)):
        for b in range(len(indices)):
            top = w[a][:, None] * w[b][None] - w[a][None] * w[b][:, None]
            limit = dw[a] * w[b] - w[a] * dw[b]
            quotient = torch.where(gap == 0, torch.diag(limit), top / torch.where(gap == 0, 1.0, gap))
            t[a, b] = (quotient * rate * g[:, None] * g[None]).sum() / 2
    f = []
    for c in range(1, len(indices)):
        top = cumulative[c][:, None] - cumulative[c][None]
        quotient = torch.where(gap == 0, torch.diag(slope[c]), top / torch.where(gap == 0, 1.0, gap))
        f.append(-(quotient * rate * g[:, None] * g[None]).sum() / 2)
    return t, torch.stack(f)


def test_windows_sum_to_one(snapshot):
    spectrum, error = snapshot
    budget = grsd.energy_budget(spectrum, error, LogShells(0.7, 0.2))
    assert float(budget.modes.sum()) == pytest.approx(spectrum.dimension, rel=1e-13)
    assert float(budget.energy.sum()) == pytest.approx(float(error.square().sum() / 2), rel=1e-13)
    g = spectrum.eigenvectors.T @ error.reshape(-1)
    assert float(budget.dissipation.sum()) == pytest.approx(float((spectrum.eigenvalues * g**2).sum()), rel=1e-13)


def test_sharp_shells_are_the_limit():
    spectrum = diagonal([0.5, 1.5, 1.7, 3.0, 20.0])
    error = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    budget = grsd.energy_budget(spectrum, error, LogShells(math.log(2), 1e-6))
    assert list(budget.shell_index.values) == [-1, 0, 1, 2, 3, 4]
    assert np.allclose(budget.energy, [0.5, (4 + 9) / 2, 8, 0, 0, 12.5])
    assert np.allclose(budget.modes, [1, 2, 1, 0, 0, 1])
    assert "coupling" not in budget


def test_coupling_and_flux_against_the_double_sum(snapshot):
    spectrum, error = snapshot
    shells = LogShells(0.7, 0.2)
    budget = grsd.energy_budget(spectrum, error, shells)
    t, f = double_sum(spectrum, error, shells, list(budget.shell_index.values))
    scale = float(t.abs().max())
    assert np.abs(budget.coupling.values - t.numpy()).max() < 1e-12 * scale
    assert np.abs(budget.flux.values - f.numpy()).max() < 1e-12 * scale
    assert np.allclose(budget.velocity * budget.density, budget.flux)


def test_coupling_is_antisymmetric_before_any_symmetrization(snapshot):
    t = grsd.energy_budget(*snapshot, LogShells(0.5, 0.1)).coupling.values
    assert np.abs(t + t.T).max() <= 1e-12 * np.abs(t).max()


@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-12, 1e-9, 2e-8, 1e-6])
def test_near_and_degenerate_pairs(gap):
    """Two modes that almost coincide, with a rate that couples them: against the analytic value of the smooth cut.

    As the gap closes T tends to M'_uv g_u g_v (w_a' w_b - w_a w_b') and M'_uu-terms; a sharp cut, or a division by the
    gap, would diverge.
    """
    rate = torch.tensor([[0.3, 0.7], [0.7, -0.2]], dtype=torch.float64)
    values = [1.0, 1.0 + gap]
    spectrum = diagonal(values, rate)
    error = torch.tensor([1.3, -0.4], dtype=torch.float64)
    shells = LogShells(0.5, 0.25, span=(-1.0, 1.0))
    budget = grsd.energy_budget(spectrum, error, shells)
    energy_rate = float(error @ rate @ error)
    boundary = int(np.flatnonzero(np.isclose(budget.boundary, 0.0))[0])
    expected = energy_rate / 2 / (0.25 * math.sqrt(2 * math.pi))  # -1/2 W'(1) e^T M' e, W' = -phi(0)/delta
    assert float(budget.flux[boundary]) == pytest.approx(expected, abs=1e-7 + 2 * gap)


def test_a_mode_that_crosses_carries_its_energy():
    """One mode that drifts upward: u = d log lambda / dt wherever it has energy."""
    spectrum = diagonal([2.0], torch.tensor([[0.6]], dtype=torch.float64))
    budget = grsd.energy_budget(spectrum, torch.ones(1, dtype=torch.float64), LogShells(0.5, 0.2, span=(-1, 2)))
    assert np.allclose(budget.velocity.where(budget.density > 1e-12, 0.3), 0.3)
    assert (budget.flux >= 0).all()


def test_several_widths_share_one_decomposition(snapshot):
    spectrum, error = snapshot
    widths = [LogShells(math.log(2), 0.1), LogShells(math.log(3), 0.1)]
    for together, shells in zip(grsd.energy_budgets(spectrum, error, widths), widths, strict=True):
        alone = grsd.energy_budget(spectrum, error, shells)
        assert together.identical(alone)
        assert together.attrs["shell_width"] == shells.width


@pytest.mark.parametrize("factor", [2, 3])
def test_merging_shells_equals_coarser_shells(snapshot, factor):
    spectrum, error = snapshot
    span = (-6.0, 6.0)
    fine = grsd.energy_budget(spectrum, error, LogShells(0.5, 0.1, span))
    coarse = grsd.energy_budget(spectrum, error, LogShells(0.5 * factor, 0.1, span))
    merged = grsd.merge_shells(fine, factor)
    for name in (
        "energy",
        "dissipation",
        "coupling",
        "scale_coupling",
        "modes",
        "drift",
        "flux",
        "density",
        "velocity",
    ):
        assert np.allclose(merged[name], coarse[name], rtol=1e-9, atol=1e-12, equal_nan=True), name
        assert merged[name].dims == coarse[name].dims
    for name in ("mask", "shell", "shell_from", "shell_lower", "shell_upper", "shell_index", "boundary"):
        assert np.array_equal(merged[name], coarse[name]), name
    assert merged.attrs["shell_width"] == coarse.attrs["shell_width"]


def test_order_of_samples_does_not_matter():
    inputs, targets, last = trained()
    order = torch.randperm(inputs.shape[0], generator=torch.Generator().manual_seed(3))
    budgets = []
    for rows in (slice(None), order):
        modes = grsd.spectrum(*grsd.tangent_kernel_and_rate(last.model, inputs[rows], targets[rows]))
        budgets.append(grsd.energy_budget(modes, last.error[rows], LogShells(0.5, 0.1, span=(-5, 4))))
    for name in ("energy", "dissipation", "coupling", "flux"):
        scale = float(np.abs(budgets[0][name]).max())
        assert np.abs(budgets[0][name] - budgets[1][name]).max() < 1e-10 * scale


def test_masks_say_why():
    values = torch.logspace(-18, 0, 80, dtype=torch.float64)
    values = torch.cat([values, torch.linspace(1.0, 1.2, 200, dtype=torch.float64)])
    spectrum = diagonal(values, floor=1e-10)
    error = torch.ones(280, dtype=torch.float64)
    error[values < 1e-8] = 1e-9
    budget = grsd.energy_budget(spectrum, error, LogShells(1.0, 0.2))
    reasons = [{name for name, flag in MASK_FLAGS.items() if flag & int(m)} for m in budget.mask.values]
    by_shell = dict(zip(budget.shell.values, reasons, strict=True))
    assert "below_floor" in by_shell[-23.5]
    assert by_shell[-20.5] == {"no_energy"}
    assert by_shell[0.5] == set()
    assert float(budget.energy.isel(shell=0)) >= 0
    sparse = {float(b): int(m) for b, m in zip(budget.boundary, budget.boundary_mask, strict=True)}
    assert sparse[-5.0] & MASK_FLAGS["few_modes"]
    assert sparse[0.0] == 0
    assert budget.mask.attrs["flag_meanings"] == "below_floor few_modes no_energy"


def test_window_is_one_at_and_under_the_floor():
    values = torch.tensor([-1e-14, 0.0, 1e-13, 0.5, 2.0], dtype=torch.float64)
    window, slope = LogShells(1.0).cumulative(values, torch.tensor([-40.0, 0.0], dtype=torch.float64), floor=1e-12)
    assert torch.equal(window[:, :3], torch.ones(2, 3, dtype=torch.float64))
    assert torch.equal(slope[:, :3], torch.zeros(2, 3, dtype=torch.float64))
    assert window[0, 3] == 0


def test_attributes_and_units(snapshot):
    budget = grsd.energy_budget(*snapshot, LogShells(0.5), parameters={"seed": 7, "residual": True})
    assert budget.attrs["seed"] == 7
    assert budget.attrs["residual"] == "True"
    assert budget.attrs["smoothing"] == pytest.approx(0.1)
    assert "xarray" in budget.attrs["versions"]
    for name, variable in budget.variables.items():
        assert "long_name" in variable.attrs, name
        assert "units" in variable.attrs or "mask" in name or name == "shell_index", name


def test_velocity_over_runs_is_the_ratio_of_sums():
    runs = []
    for seed in range(3):
        inputs, targets, last = trained(samples=20 + seed)
        modes = grsd.spectrum(*grsd.tangent_kernel_and_rate(last.model, inputs, targets))
        runs.append(grsd.energy_budget(modes, last.error, LogShells(1.0, 0.3)))
    pooled = grsd.velocity_over_runs(runs)
    at = pooled.boundary.values[2]
    f = np.array([float(run.flux.sel(boundary=at)) for run in runs])
    eps = np.array([float(run.density.sel(boundary=at)) for run in runs])
    u = f.sum() / eps.sum()
    assert float(pooled.velocity[2]) == pytest.approx(u)
    expected = math.sqrt(((f - u * eps) ** 2).sum() / 6) / eps.mean()
    assert float(pooled.standard_error[2]) == pytest.approx(expected)
    assert pooled.attrs["runs"] == 3
    with pytest.raises(ValueError, match="expected at least 2 runs, got 1"):
        grsd.velocity_over_runs(runs[:1])


@pytest.mark.usefixtures("as_users_run_it")
def test_refusals(snapshot):
    spectrum, error = snapshot
    cases = [
        (lambda: LogShells(0.0), r"LogShells\(width=...\): expected a positive finite number, got 0.0"),
        (lambda: LogShells(1.0, -0.1), r"LogShells\(smoothing=...\): expected a positive finite number"),
        (lambda: LogShells(1.0, span=(2.0, 1.0)), r"LogShells\(span=...\): expected \(low, high\)"),
        (lambda: grsd.energy_budget(spectrum, error[:-1], LogShells()), r"D = 240, as the spectrum, got \(23, 10\)"),
        (lambda: grsd.energy_budget(spectrum, error.float(), LogShells()), r"use error.to\(spectrum.eigenvalues\)"),
        (lambda: grsd.energy_budget(spectrum, error.numpy(), LogShells()), r"expected a torch.Tensor, got ndarray"),
        (lambda: grsd.energy_budget(spectrum, error / 0, LogShells()), r"error=...\): found NaN or infinity"),
        (lambda: grsd.energy_budget(spectrum, error, 0.5), r"shells=...\): expected LogShells, got 0.5"),
        (lambda: grsd.energy_budgets(spectrum, error, []), r"shells=...\): expected a sequence of LogShells"),
        (lambda: grsd.merge_shells(grsd.energy_budget(spectrum, error, LogShells()), 0), r"merge_shells\(factor=...\)"),
    ]
    for call, message in cases:
        with pytest.raises((TypeError, ValueError), match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def exact_coupling(values, rate, g, edges, delta):
    """T by the definition in 60 digits; the diagonal by the analytic derivative."""
    mp.mp.dps = 60
    lam = [mp.mpf(v) for v in values]

    def windows(x):
        below = [mp.mpf(0)] + [mp.ncdf((mp.mpf(e) - mp.log(x)) / delta) for e in edges] + [mp.mpf(1)]
        return [b - a for a, b in pairwise(below)]

    def slopes(x):
        bell = [mp.mpf(0)] + [-mp.npdf((mp.mpf(e) - mp.log(x)) / delta) / delta / x for e in edges] + [mp.mpf(0)]
        return [b - a for a, b in pairwise(bell)]

    w, dw = [windows(x) for x in lam], [slopes(x) for x in lam]
    size = len(edges) + 1
    total = mp.matrix(size, size)
    for u, v in itertools.product(range(len(lam)), repeat=2):
        weight = mp.mpf(rate[u][v]) * mp.mpf(g[u]) * mp.mpf(g[v]) / 2
        for a, b in itertools.product(range(size), repeat=2):
            if lam[u] == lam[v]:
                quotient = dw[u][a] * w[u][b] - w[u][a] * dw[u][b]
            else:
                quotient = (w[u][a] * w[v][b] - w[v][a] * w[u][b]) / (lam[u] - lam[v])
            total[a, b] += weight * quotient
    return np.array(total.tolist(), dtype=float)


@pytest.mark.parametrize("delta", [0.1, 0.5])
@pytest.mark.parametrize("gap", [0.0] + [10.0**-k for k in range(2, 15)])
def test_close_pairs_to_rounding(gap, delta):
    """Against 60 digits, at every distance from clearly apart to exactly degenerate."""
    values = [0.4, 1.1, 1.1 * (1 + gap), 3.0]
    rate = [[0.2, 0.3, -0.1, 0.4], [0.3, 0.3, 0.7, 0.1], [-0.1, 0.7, -0.2, 0.5], [0.4, 0.1, 0.5, 0.6]]
    g = [0.7, 1.3, -0.4, 0.9]
    spectrum = diagonal(values, torch.tensor(rate, dtype=torch.float64))
    budget = grsd.energy_budget(spectrum, torch.tensor(g, dtype=torch.float64), LogShells(0.5, delta, span=(-1, 1.5)))
    exact = exact_coupling([float(x) for x in spectrum.eigenvalues], rate, g, budget.boundary.values, delta)
    assert np.abs(budget.coupling.values - exact).max() < 2e-12 * np.abs(exact).max()


def test_degenerate_and_rank_deficient_spectra():
    """Many exact degeneracies, and modes under the floor: finite, antisymmetric, independent of the basis chosen."""
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([torch.zeros(10), torch.ones(20), 2 * torch.ones(20), torch.tensor([5.0])]).double()
    rate = torch.randn(51, 51, generator=generator, dtype=torch.float64)
    rate = rate + rate.T
    error = torch.randn(51, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64)).Q
    basis = torch.eye(51, dtype=torch.float64)
    basis[10:30, 10:30] = turn
    floor = 1e-12
    first = grsd.energy_budget(Spectrum(values, torch.eye(51).double(), rate, floor), error, LogShells(0.7, 0.3))
    turned = Spectrum(values, basis, basis.T @ rate @ basis, floor)
    second = grsd.energy_budget(turned, error, LogShells(0.7, 0.3))
    t = first.coupling.values
    assert np.isfinite(t).all()
    assert np.abs(t + t.T).max() <= 1e-12 * np.abs(t).max()
    assert np.abs(t - second.coupling.values).max() < 1e-11 * np.abs(t).max()


def test_flux_parts_and_operator_coupling_by_hand(snapshot):
    spectrum, error = snapshot
    budget = grsd.energy_budget(spectrum, error, LogShells(0.9, 0.2))
    values, rate = spectrum.eigenvalues, spectrum.rate
    g = spectrum.eigenvectors.T @ error.reshape(-1)
    _, bell = LogShells(0.9, 0.2).cumulative(values, torch.as_tensor(budget.boundary.values), spectrum.floor)
    crossing = (bell * (rate.diagonal() / values * g**2 / 2)).sum(1)
    assert np.allclose(budget.flux_crossing, crossing)
    assert np.allclose(budget.flux_crossing + budget.flux_rotation, budget.flux)
    edges = np.concatenate([[-np.inf], budget.boundary.values, [np.inf]])
    x = (torch.as_tensor(edges)[:, None] - values.log()) / 0.2
    w = torch.special.ndtr(x).diff(dim=0)
    strength = rate**2 / values[:, None] / values[None]
    strength.fill_diagonal_(0)
    pairs = w.sum(1)[:, None] * w.sum(1)[None] - w @ w.T
    expected = (w @ strength @ w.T / pairs).numpy()
    kept = pairs.numpy() > 1
    assert np.allclose(budget.operator.values[kept], expected[kept], rtol=1e-9)
    assert np.isnan(budget.operator.values[~kept]).all()
    normal = budget.operator_normalized.values
    assert np.allclose(np.diag(normal)[np.isfinite(np.diag(normal))], 1)
    carried = bell * g**2
    assert np.allclose(budget.effective_modes, (carried.sum(1) ** 2 / (carried**2).sum(1)).numpy())


def test_a_growing_scale_is_removed_exactly(snapshot):
    """M' = r M moves energy at u = r through every boundary; what is left after removal is nothing."""
    spectrum, error = snapshot
    pure = Spectrum(spectrum.eigenvalues, spectrum.eigenvectors, 0.7 * torch.diag(spectrum.eigenvalues), spectrum.floor)
    budget = grsd.energy_budget(pure, error, LogShells(0.5, 0.1))
    assert np.allclose(budget.velocity, 0.7)
    left = grsd.remove_scale(budget, -2.0, 2.0)
    assert float(left.scale_rate) == pytest.approx(0.7)
    assert np.abs(left.coupling).max() < 1e-12 * np.abs(budget.coupling).max()
    assert np.abs(left.velocity).max() < 1e-12

    added = Spectrum(spectrum.eigenvalues, spectrum.eigenvectors, spectrum.rate + pure.rate, spectrum.floor)
    plain, scaled = (grsd.energy_budget(each, error, LogShells(0.5, 0.1)) for each in (spectrum, added))
    one, other = (grsd.remove_scale(each, -2.0, 2.0) for each in (plain, scaled))
    assert float(other.scale_rate - one.scale_rate) == pytest.approx(0.7)
    for name in ("coupling", "flux", "velocity", "drift"):
        assert np.allclose(one[name], other[name], equal_nan=True, atol=1e-10), name
    with pytest.raises(ValueError, match=r"remove_scale\(low, high\): expected low < high"):
        grsd.remove_scale(plain, 2.0, -2.0)
    with pytest.raises(ValueError, match=r"remove_scale\(low, high\): no modes"):
        grsd.remove_scale(plain, 50.0, 60.0)


def test_locality_by_signed_shares():
    """Nearest neighbours only: all of the flux within one shell; then a long-range part that is seen."""
    size = 8
    near = np.diag(np.arange(1.0, size), -1)
    near = near - near.T
    far = np.zeros((size, size))
    far[6, 1], far[1, 6] = 3.0, -3.0
    shells = {"shell": np.arange(size) + 0.5, "shell_from": np.arange(size) + 0.5, "boundary": np.arange(1.0, size)}
    for coupling, reach in ((near, [1] * 7), (near + far, [1, 5, 5, 5, 5, 5, 1])):
        flux = [coupling[c:, :c].sum() for c in range(1, size)]
        variables = {"coupling": (("shell", "shell_from"), coupling), "flux": ("boundary", flux)}
        budget = xr.Dataset(variables, shells, {"shell_width": 1.0})
        found = grsd.locality(budget)
        assert np.allclose(found.share.isel(reach=-1), 1)
        assert found.reach_90.values.tolist() == reach
    assert float(found.share.sel(boundary=4.0, reach=1.0)) == pytest.approx(4 / 7)


class _Transfers(TorchFunctionMode):
    """The size of every tensor that is brought to the host."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in {
            "cpu",
            "numpy",
            "tolist",
            "item",
            "__float__",
            "__bool__",
            "__array__",
            "to",
        }:
            self.sizes.append(args[0].numel())
        return func(*args, **(kwargs or {}))


def test_only_shell_sized_results_leave_the_device(snapshot):
    spectrum, error = snapshot
    shells = LogShells(0.9, 0.2)
    with _Transfers() as seen:
        budget = grsd.energy_budgets(spectrum, error, [shells, LogShells(1.3, 0.2)])[0]
    assert seen.sizes, "the test sees transfers"
    assert max(seen.sizes) <= len(budget.data_vars) * budget.sizes["shell"] ** 2 < spectrum.dimension**2 / 10


def test_combining_refuses_what_it_cannot_read(snapshot):
    spectrum, error = snapshot
    still = grsd.energy_budget(
        Spectrum(spectrum.eigenvalues, spectrum.eigenvectors, None, spectrum.floor), error, LogShells()
    )
    budget = grsd.energy_budget(spectrum, error, LogShells())
    for call, name in ((grsd.locality, "coupling"), (lambda b: grsd.remove_scale(b, -1.0, 1.0), "drift")):
        with pytest.raises(
            ValueError, match=rf"'{name}' is missing; make the budget from grsd.spectrum\(kernel, rate\)"
        ):
            call(still)
    with pytest.raises(ValueError, match="'flux' is missing"):
        grsd.velocity_over_runs([still, still])
    with pytest.raises(ValueError, match=r"expected one snapshot per run, .* choose a time with .isel\(time=...\)"):
        grsd.velocity_over_runs([budget.expand_dims(time=[0.1, 0.2])] * 2)
    far = budget.assign_coords(boundary=budget.boundary + 100)
    with pytest.raises(ValueError, match="no unmasked boundary in common"):
        grsd.velocity_over_runs([budget, far])
    with pytest.raises(ValueError, match="expected at least 2 shells, got 1"):
        grsd.locality(grsd.energy_budget(spectrum, error, LogShells(100.0, 1.0, span=(0.0, 100.0))))

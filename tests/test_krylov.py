"""Krylov's route: products against dense matrices, T' against differences, stated errors against the dense budget."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.sparse.linalg import eigsh
from torch import nn

import grsd
from grsd.bench.families import FAMILIES
from grsd.bench.krylov import against_dense, against_flow, same
from grsd.decomposition import Spectrum
from grsd.flow import Snapshot
from grsd.flow.gradient import nearby
from grsd.krylov import DenseOperator, KernelOperator, KrylovSpectrum, lanczos
from grsd.krylov.rules import alternatives, best, gauss, with_node
from grsd.krylov.spectrum import relaxing_steps
from grsd.solvable.modes import rotation

SHELLS = grsd.LogShells(width=1.0, smoothing=0.5)
BY_MASK = {"mask": ("energy", "dissipation"), "boundary_mask": ("density", "flux", "velocity")}
PICKED = {
    "plain": ("forward", "push"),
    "residual": ("forward", "push"),
    "flat output, buffer": ("forward", "push"),
    "one sample": ("forward", "push"),
    "frozen weight, live bias": ("forward", "push"),
    "conv2d, groups, same": ("forward", "push"),
    "attention": ("forward", "push"),
    "resnet": ("forward", "push"),
    "orthogonal convolution": ("forward", "push"),
    "embedding": ("forward", "push_back_and_forth"),
    "transformer, tied output": ("forward", "push_back_and_forth"),
    "deformable": ("twice", "push_back_and_forth"),
}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def planted(eigenvalues, error, seed=1):
    """(M, M', e) with the eigenvalues, and a rate that couples modes of all sizes alike; not rotated."""
    size, root = len(eigenvalues), eigenvalues.sqrt()
    noise = normal(size, size, seed=seed)
    rate = (noise + noise.T) * root[:, None] * root / math.sqrt(size) + torch.diag(eigenvalues)
    return torch.diag(eigenvalues), rate, error


def both(kernel, rate, error, steps, shells=SHELLS, tolerance=0.1):
    """The budgets by Krylov's route and by the dense one, on the same shells."""
    found = KrylovSpectrum(error, lanczos(DenseOperator(kernel, rate), error, steps), tolerance=tolerance)
    budget = grsd.energy_budget(found, error, shells)
    return budget, grsd.energy_budget(grsd.spectrum(kernel, rate), error, same(budget, shells))


def over_stated(budget, dense):
    """How often, among what is declared converged, the error is larger than stated."""
    return sum(
        int(((abs(budget[name] - dense[name]) > budget[f"{name}_error"]) & (budget[mask] == 0)).sum())
        for mask, names in BY_MASK.items()
        for name in names
    )


def by_gauss(kernel, rate, error, steps, like, shells=SHELLS):
    """Energies on the shells of the budget ``like`` by Gauss's rule alone."""
    rule = gauss(lanczos(DenseOperator(kernel, rate), error, steps))
    return grsd.energy_budget(rule.spectrum(1e-12), rule.start, same(like, shells)).energy


def declared(budget):
    return float(budget.energy.where(budget["mask"] == 0, 0).sum() / budget.energy.sum())


@pytest.fixture(scope="module")
def learned():
    """Digits half learned by a residual perceptron: (inputs, targets, snapshot, M, M')."""
    data = grsd.digits(24)
    network = grsd.Perceptron(64, 10, width=24, depth=4, residual=True, seed=0)
    (snapshot,) = grsd.gradient_flow(network, data.inputs, data.targets, [1.0], tolerance=1e-3).snapshots
    inputs, targets = data.inputs.double(), data.targets.double()
    return inputs, targets, snapshot, *grsd.tangent_kernel_and_rate(snapshot.model, inputs, targets)


@pytest.mark.parametrize("name", PICKED)
def test_products_are_those_of_the_dense_kernel(name):
    """In batches, by forward mode where it is the transpose of the backward pass, else by that transpose."""
    model, inputs, targets = FAMILIES[name].make()
    kernel, rate = grsd.tangent_kernel_and_rate(model, inputs, targets)
    operator = KernelOperator(model, inputs, targets, batch=4)
    assert (operator._by, operator._push.__name__) == PICKED[name]
    v, change = normal(2, operator.dimension)
    product, product_rate = operator.product_and_rate(v, change)
    assert relative(operator.product(v), kernel @ v) < 1e-12
    assert relative(product, kernel @ v) < 1e-12
    assert relative(product_rate, rate @ v + kernel @ change) < 1e-12


def test_as_a_scipy_operator(learned):
    inputs, targets, snapshot, kernel, _ = learned
    operator = KernelOperator(snapshot.model, inputs, targets).as_linear_operator()
    top = eigsh(operator, k=3, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(top), torch.linalg.eigvalsh(kernel)[-3:].numpy(), rtol=1e-12)


def test_a_spectrum_is_shown_in_one_line():
    data, network = grsd.digits(4), grsd.Perceptron(64, 10, width=4, depth=1, seed=0)
    found = grsd.krylov_spectrum(network, data.inputs, data.targets, steps=7)
    top = float(found.eigenvalues[-1])
    assert str(found).startswith("KrylovSpectrum(D=40, 7 steps, Ritz values ")
    assert str(found).endswith(f" to {top:.3g}, with rate, 0 probes)")
    assert str(found.tridiagonal).startswith(f"Tridiagonal(m=7, norm={float(found.error.norm()):.3g}, beta=")
    assert str(data) == "Data('digits, one-hot, N=4, seed=0', inputs=(4, 64), targets=(4, 10))"


def test_the_rate_of_the_tridiagonal_matrix():
    """Against fourth-order differences of Lanczos itself, and V' stays consistent with V^T V = 1 to the last step."""
    kernel, rate, error = planted(torch.linspace(0.1, 2, 60, dtype=torch.float64), normal(60))
    found = lanczos(DenseOperator(kernel, rate), error, 20)

    def moved(h):
        return lanczos(DenseOperator(kernel + h * rate, rate), error, 20, rate=False).matrix

    h = 1e-5
    expected = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    assert relative(found.rate, expected) < 1e-9
    assert found.matrix[0, 0] == pytest.approx(float(error @ kernel @ error / (error @ error)), rel=1e-13)


@pytest.mark.parametrize(("distinct", "copies", "steps"), [(48, 1, 48), (2, 15, 2), (1, 5, 1), (12, 3, 36)])
def test_all_steps_give_the_dense_budget(distinct, copies, steps):
    """Where the Krylov space ends everything is exact, and so it is stated.

    Degenerate eigenvalues end it before, in theory: the steps after that follow rounding, to which the energies are
    blind and the flux is not, and so it is stated.
    """
    values = torch.exp(torch.linspace(-3, 2, distinct, dtype=torch.float64)).repeat_interleave(copies)
    turned = rotation(len(values), 0)
    kernel = turned @ torch.diag(values) @ turned.T
    noise = normal(len(values), len(values)) / 10
    rate = kernel + 0.3 * kernel @ kernel + noise
    budget, dense = both(kernel + kernel.T, rate + rate.T, normal(len(values), seed=2), 99)
    assert budget.steps == steps
    assert over_stated(budget, dense) == 0
    np.testing.assert_allclose(budget.energy, dense.energy, rtol=1e-12)
    np.testing.assert_allclose(budget.flux, dense.flux, rtol=1e-11 if steps != 36 else 1e-2)
    assert (budget["mask"] == 0).all()
    assert (budget.boundary_mask == (8 if steps == 36 else 0)).all()


def test_rules_agree_with_the_moments_and_bracket_what_is_not_seen():
    """Radau errs to the other side of Gauss; the truth is between the rules wherever its next step puts the node."""
    values = torch.exp(torch.linspace(-8, 1, 200, dtype=torch.float64))
    kernel, rate, error = planted(values, normal(200, seed=4))
    steps = lanczos(DenseOperator(kernel, rate), error, 16)
    floor = 1e-13

    def moment(rule, function):
        theta, vectors = torch.linalg.eigh(rule.matrix)
        return float((function(theta) * (vectors.T @ rule.start).square()).sum())

    every = alternatives(steps, floor, -10.0, 0.5)
    assert len(every) > 10
    for rule in (*every, best(steps, floor)):
        for power in (0, 1, 2, 7, 31):
            expected = float((values**power * error.square()).sum())
            assert moment(rule, lambda x, power=power: x**power) == pytest.approx(expected, rel=1e-10)
    true = float(((0.01 + values).reciprocal() * error.square()).sum())
    off = [moment(rule, lambda x: (0.01 + x).reciprocal()) - true for rule in (gauss(steps), with_node(steps, -floor))]
    assert off[0] < 0 < off[1]
    assert abs(moment(best(steps, floor), lambda x: (0.01 + x).reciprocal()) - true) < min(map(abs, off))


def test_the_rate_of_a_rule_with_a_node():
    """Against differences of Lanczos and the rule; the node stays where it is."""
    kernel, rate, error = planted(torch.linspace(0.1, 2, 60, dtype=torch.float64), normal(60))

    def rule(h, node=0.01):
        return with_node(lanczos(DenseOperator(kernel + h * rate, rate), error, 12), node)

    h = 1e-6
    assert relative(rule(0).rate, (rule(h).matrix - rule(-h).matrix) / (2 * h)) < 1e-7
    nodes = torch.linalg.eigvalsh(rule(0).matrix)
    assert float((nodes - 0.01).abs().min()) < 1e-13


def test_stated_errors_hold_on_a_network(learned):
    inputs, targets, snapshot, kernel, rate = learned
    found = grsd.krylov_spectrum(snapshot.model, inputs, targets, steps=45, batch=12)
    budget = grsd.energy_budget(found, snapshot.error, SHELLS)
    again, dense = both(kernel, rate, snapshot.error.reshape(-1), 45)
    for mask in BY_MASK:
        np.testing.assert_array_equal(budget[mask], again[mask])
    assert over_stated(budget, dense) == 0
    assert declared(budget) > 0.95
    error = snapshot.error.reshape(-1)
    assert float(budget.energy.sum()) == pytest.approx(float(error @ error) / 2, rel=1e-12)
    assert float(budget.dissipation.sum()) == pytest.approx(float(error @ kernel @ error), rel=1e-10)
    one, two = grsd.energy_budgets(found, error, [SHELLS, grsd.LogShells()])
    xr.testing.assert_identical(one, budget)
    assert two.shell_width == math.log(2)


@pytest.mark.long
def test_relaxation_of_another_loss_is_that_of_the_dense_budget():
    """Each stated error holds, also for <e, w_a e'>; an e' of one's own needs a dense spectrum."""
    data = grsd.digits(16)
    labels = data.targets.argmax(1)
    model = grsd.Perceptron(64, 10, width=12, depth=3, seed=0).double()
    options = {"loss": "cross-entropy"}
    now = grsd.force_and_rate(model, data.inputs, labels, **options)
    modes = grsd.spectrum(*grsd.tangent_kernel_and_rate(model, data.inputs, labels, **options))
    for steps in (12, 80):
        found = grsd.krylov_spectrum(model, data.inputs, labels, steps=steps, batch=5, **options)
        budget = grsd.energy_budget(found, found.error, SHELLS)
        dense = grsd.energy_budget(modes, now.force, same(budget, SHELLS), error_rate=now.rate)
        assert over_stated(budget, dense) == 0
        sure = budget["mask"].values == 0
        assert (np.abs(budget.relaxation - dense.relaxation) <= budget.relaxation_error).values[sure].all()
        assert sure.any()
    assert declared(budget) > 0.95
    size = np.abs(dense.relaxation.values[sure]).max()
    assert budget.relaxation_error.values[sure].max() < 0.01 * size
    assert np.abs(dense.relaxation + dense.dissipation).values[sure].max() > 0.1 * size
    with pytest.raises(ValueError, match=r"^energy_budget\(error_rate=...\): expected a spectrum from grsd.spectrum; "):
        grsd.energy_budget(found, found.error, SHELLS, error_rate=now.rate)


def test_without_the_rate_and_in_float32():
    """The same T from products with M alone; in float32 the stated errors hold what rounding moves."""
    data = grsd.digits(16)
    labels = data.targets.argmax(1)
    model = grsd.Perceptron(64, 10, width=12, depth=3, seed=0).double()
    options = {"loss": "cross-entropy", "steps": 30, "relaxation": False}
    whole = grsd.krylov_spectrum(model, data.inputs, labels, **options)
    found = grsd.krylov_spectrum(model, data.inputs, labels, rate=False, **options)
    torch.testing.assert_close(found.tridiagonal.matrix, whole.tridiagonal.matrix, rtol=1e-9, atol=1e-12)
    assert found.tridiagonal.rate is None
    assert found.relaxing is whole.relaxing is None
    budget = grsd.energy_budget(found, found.error, SHELLS)
    assert not {"flux", "velocity", "relaxation"} & set(budget)
    single = grsd.krylov_spectrum(model, data.inputs, labels, rate=False, dtype=torch.float32, **options)
    assert single.error.dtype == torch.float32
    rounded = grsd.energy_budget(single, single.error, same(budget, SHELLS))
    sure = ((budget["mask"] == 0) & (rounded["mask"] == 0)).values
    assert sure.sum() >= 3
    for name in ("energy", "dissipation"):
        off = np.abs(rounded[name] - budget[name]).values[sure]
        assert (off <= (rounded[f"{name}_error"] + budget[f"{name}_error"]).values[sure]).all()
        assert (off > 0).all()


def test_in_float32_the_worst_case_of_rounding_ends_no_steps():
    """At D = 4 000 000, D * eps is .48: more than beta / alpha of nearly all spectra."""

    class Diagonal:
        dimension, dtype = 4_000_000, torch.float32
        values = torch.linspace(0.01, 1, dimension)

        def product(self, v):
            return self.values * v

    found = lanczos(Diagonal(), torch.ones(Diagonal.dimension), 12, rate=False)
    assert len(found.matrix) == 12
    nodes, _ = np.polynomial.legendre.leggauss(12)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(found.matrix), torch.from_numpy(0.505 + 0.495 * nodes), atol=2e-4, rtol=0
    )


@pytest.mark.parametrize("steps", [12, pytest.param(40, marks=pytest.mark.long), 80])
@pytest.mark.parametrize("kind", ["apart", "unseen", "noise", "opposite", "zero"])
def test_relaxation_holds_for_an_error_rate_that_the_steps_from_the_error_do_not_reach(kind, steps):
    """Apart: e' and e share no large mode; unseen: e has no small ones at all, which e' has."""
    size = 300
    values = torch.exp(torch.linspace(-7, 1, size, dtype=torch.float64))
    kernel, _, error = planted(values, normal(size, seed=5) * values.sqrt())
    large, noise = torch.arange(size) >= size // 2, normal(size, seed=6)
    if kind == "unseen":
        error = error * large
    rate = {
        "apart": noise * torch.where(large, 1e-3, 1.0),
        "unseen": noise,
        "noise": 100 * noise,
        "opposite": -3 * error,
        "zero": 0 * noise,
    }[kind]
    operator = DenseOperator(kernel, kernel)
    taken = lanczos(operator, error, steps)
    found = KrylovSpectrum(error, taken, relaxing=relaxing_steps(operator, error, rate, steps))
    budget = grsd.energy_budget(found, error, SHELLS)
    dense = grsd.energy_budget(grsd.spectrum(kernel, kernel), error, same(budget, SHELLS), error_rate=rate)
    assert (abs(budget.relaxation - dense.relaxation) <= budget.relaxation_error).all()
    assert (budget["mask"] == 0).any() or steps < 80
    total = float(error @ rate)
    np.testing.assert_allclose(
        budget.relaxation.sum(), total, rtol=1e-9, atol=1e-12 * float(error.norm() * rate.norm())
    )
    if steps == 80 and kind != "zero":
        assert (budget.relaxation_error < 0.02 * abs(dense.relaxation)).any()


@pytest.mark.long
def test_eighty_steps_declare_what_a_dense_budget_confirms():
    """At D = 2000; ``python -m grsd.bench.krylov`` does the same for two dozen networks."""
    (row,) = against_dense([(64, 4)], [True], [1.0], steps=[80]).to_dict("records")
    assert row["declared"] > 0.95
    assert all(0 < row[f"worst_{name}"] < 1 for names in BY_MASK.values() for name in names)


def test_flux_is_what_small_steps_of_the_flow_show(learned):
    """F = -dE_</dt - D_<, from the snapshots h before and after, each by Krylov's route itself."""
    inputs, targets, snapshot, *_ = learned
    shells = grsd.LogShells(width=1.0, smoothing=0.5, span=(-4.0, 3.0))

    def budget(at: Snapshot):
        return grsd.energy_budget(
            grsd.krylov_spectrum(at.model, inputs, targets, steps=40, tolerance=1e-3), at.error, shells
        )

    h = 1e-4
    around = nearby(snapshot, inputs, targets, h, [-1, 1])
    below = [np.cumsum(budget(at).energy.values)[:-1] for at in around]
    change = (below[1] - below[0]) / (2 * h)
    here = budget(snapshot)
    flux = -change - np.cumsum(here.dissipation.values)[:-1]
    sure = here.boundary_mask.values == 0
    assert sure.sum() >= 4
    np.testing.assert_allclose(flux[sure], here.flux.values[sure], rtol=1e-3)


@pytest.mark.parametrize("steps", [40, 80])
def test_what_is_not_seen_is_not_declared(steps):
    """White error on a log-uniform spectrum is the worst case, k^(-5/3) a kind one: there 80 steps are enough."""
    size, noise = 500, normal(500, seed=3)
    flat = torch.exp(torch.linspace(-12, 1, size, dtype=torch.float64))
    budget, dense = both(*planted(flat, noise), steps)
    assert over_stated(budget, dense) == 0
    wrong = abs(by_gauss(*planted(flat, noise), steps, budget) / dense.energy - 1) > 0.1
    assert (wrong & (budget.shell < -4)).any()
    assert (budget["mask"].where(budget.shell < -6, 8) == 8).all()
    budget, dense = both(*planted(torch.arange(1, size + 1, dtype=torch.float64) ** (-5 / 3), noise), steps)
    assert over_stated(budget, dense) == 0
    assert declared(budget) > 0.95 or steps < 80


@pytest.mark.parametrize("steps", [12, 15, 18, 40])
def test_structure_far_below_a_gap_is_not_declared_too_soon(steps):
    """Two small eigenvalues pose as one until the steps can tell them: all agree, and all are wrong."""
    low = torch.tensor([1e-6, 1e-4], dtype=torch.float64)
    values = torch.cat([low, torch.linspace(0.1, 1, 298, dtype=torch.float64)])
    error = normal(300, seed=3)
    error[:2] = 10
    shells = grsd.LogShells(width=1.0, smoothing=0.2)
    budget, dense = both(*planted(values, error), steps, shells)
    assert over_stated(budget, dense) == 0
    if steps < 20:
        plain = by_gauss(*planted(values, error), steps, budget, shells)
        assert abs(plain[0] / dense.energy[0] - 1) > 0.01
        assert budget["mask"][0] == 8


def test_where_there_is_no_dense_budget_the_flow_itself_is_the_judge():
    """The check that the benchmark's module makes at D = 1e5, on few samples."""
    found, table = against_flow(60, 60)
    assert found["dimension"] == 600
    assert found["sum_energy"] < 1e-12
    assert found["sum_dissipation"] < 1e-10
    sure = table[table.boundary_mask == 0]
    assert len(sure) >= 4
    assert sure.relative_difference.max() < 1e-3


def test_probes_count_modes(learned):
    inputs, targets, snapshot, kernel, _ = learned
    found = grsd.krylov_spectrum(snapshot.model, inputs, targets, steps=24, probes=6, seed=1)
    budget = grsd.energy_budget(found, snapshot.error, SHELLS)
    span = (float(budget.shell_index[0]), float(budget.shell_index[-1] + 1))
    exact = grsd.energy_budget(grsd.spectrum(kernel), snapshot.error.reshape(-1), grsd.LogShells(1.0, 0.5, span))
    assert float(budget.modes.sum()) == pytest.approx(240)
    deviation = (budget.modes - exact.modes) / budget.modes_error
    assert (abs(deviation) < 4).all()
    deviation = (budget.local_modes - exact.local_modes) / budget.local_modes_error
    assert (abs(deviation) < 4).all()


def test_refusals(learned, as_users_run_it):
    inputs, targets, snapshot, *_ = learned
    model = snapshot.model
    with pytest.raises(ValueError, match=r"krylov_spectrum\(steps=...\): expected a whole number of at least 6"):
        grsd.krylov_spectrum(model, inputs, targets, steps=2)
    with pytest.raises(ValueError, match=r"krylov_spectrum\(probes=...\): expected 0 or at least 2"):
        grsd.krylov_spectrum(model, inputs, targets, probes=1)
    with pytest.raises(ValueError, match=r"krylov_spectrum\(\.\.\., inputs\): found NaN"):
        grsd.krylov_spectrum(model, inputs * float("nan"), targets)
    with pytest.raises(TypeError, match=r"KernelOperator\(dtype=\.\.\.\): expected torch.float32 or torch.float64"):
        KernelOperator(model, inputs, targets, dtype=torch.float16)
    with pytest.raises(ValueError, match="expected exactly the output's shape"):
        grsd.krylov_spectrum(model, inputs, targets[:, :1])
    with pytest.raises(ValueError, match="the error f\\(X\\) - Y is zero"):
        grsd.krylov_spectrum(model, inputs, model(inputs).detach())
    batched = nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10, track_running_stats=False)).double()
    with pytest.raises(ValueError, match="changes with the other samples of its batch"):
        grsd.krylov_spectrum(batched, inputs, targets)
    once = FAMILIES["function of one's own, once"].make()
    with pytest.raises(RuntimeError, match=r"krylov_spectrum\(model, \.\.\.\): torch cannot differentiate it here"):
        grsd.krylov_spectrum(*once)
    found = grsd.krylov_spectrum(model, inputs, targets, steps=6)
    with pytest.raises(ValueError, match="expected the error that krylov_spectrum started from"):
        grsd.energy_budget(found, snapshot.error + 1, SHELLS)
    with pytest.raises(TypeError, match=r"energy_budget\(spectrum=\.\.\.\)"):
        grsd.energy_budget("spectrum", snapshot.error, SHELLS)
    with pytest.raises(ValueError, match=r"merge_shells\(budget\): 'modes' is missing"):
        grsd.merge_shells(grsd.energy_budget(found, snapshot.error, SHELLS), 2)


def test_a_dense_spectrum_is_not_approximate(learned):
    *_, kernel, rate = learned
    assert isinstance(grsd.spectrum(kernel, rate), Spectrum)
    assert not isinstance(grsd.spectrum(kernel, rate), grsd.shells.budget.Approximate)

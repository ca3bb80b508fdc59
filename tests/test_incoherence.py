from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from grsd.conditions import incoherence
from grsd.decomposition import Spectrum, spectrum
from grsd.kernel import tangent_kernel_and_rate
from grsd.networks import Perceptron
from grsd.shells import LogShells, energy_budget
from grsd.solvable import AlignedDeepLinear, PlantedShells
from grsd.studies.initial_incoherence import SHELLS, Protocol, at_depth, planted_signs, table


@pytest.fixture(scope="module")
def network():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    targets = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    return Perceptron(5, 3, width=10, depth=3, seed=2).double(), inputs, targets


def test_off_diagonal_flux_is_the_budgets_rotation(network):
    model, inputs, targets = network
    modes = spectrum(*tangent_kernel_and_rate(model, inputs, targets))
    error = (model(inputs) - targets).detach()
    budget = energy_budget(modes, error, SHELLS)
    found = incoherence.measure(model, inputs, targets, shells=SHELLS, flips=99)
    scale = float(np.abs(budget.flux_rotation).max())
    assert np.allclose(found.flux_off, budget.flux_rotation, atol=1e-9 * scale)


def test_variance_is_that_of_all_flips():
    """All sign patterns of seven modes up to a common sign: mean 0 and variance V_c."""
    modes, g = planted_signs(7, seed=1)
    shells = LogShells(2.0, 0.5)
    found = incoherence.measure_modes(modes, g, shells, flips=99)
    fluxes = []
    for signs in product((1.0, -1.0), repeat=7):
        turned = incoherence.measure_modes(modes, g * torch.tensor(signs, dtype=g.dtype), shells, flips=19)
        fluxes.append(turned.flux_off.values)
        if len(fluxes) == 64:
            break
    assert np.allclose(np.mean(fluxes, 0), 0, atol=1e-12)
    assert np.allclose(np.std(fluxes, 0), found.null_sd)


def test_degenerate_pairs_take_the_derivative():
    """Two equal eigenvalues: the limit of close ones."""
    values = torch.tensor([0.1, 0.5, 0.5 * (1 + 1e-4), 1.0], dtype=torch.float64)
    rate, g = torch.ones(4, 4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    fluxes = []
    for gap in (1e-4, 0.0):
        values[2] = 0.5 * (1 + gap)
        modes = Spectrum(values.clone(), torch.eye(4, dtype=torch.float64), rate, 1e-15)
        fluxes.append(incoherence.measure_modes(modes, g, SHELLS, flips=19).flux_off.values)
    assert np.allclose(*fluxes, rtol=1e-3)


def test_independent_signs_are_standard_normal():
    z, p = [], []
    for seed in range(60):
        found = incoherence.measure_modes(*planted_signs(80, seed=seed), SHELLS, flips=99, seed=seed)
        z.append(float(found.z.sel(boundary=-4.0)))
        p.append(float(found.p_max))
    assert stats.kstest(z, "norm").pvalue > 0.01
    assert stats.binomtest(int(np.sum(np.array(p) <= 0.05)), 60, 0.05).pvalue > 0.01


def test_verdicts_of_planted_cases():
    independent = [incoherence.measure_modes(*planted_signs(300, seed=s), SHELLS, flips=199) for s in range(8)]
    verdict = incoherence.judge(independent)
    assert verdict.verdict == "holds"
    assert verdict.interval[1] <= 0.25
    assert (verdict.details.low <= verdict.details.coherence).all()
    aligned = [incoherence.measure_modes(*planted_signs(100, aligned=1.0, seed=s), SHELLS, flips=199) for s in range(4)]
    verdict = incoherence.judge(aligned)
    assert (verdict.verdict, verdict.details.by_boundary, verdict.details.rejected) == ("fails", "fails", 1.0)
    assert all((found.flux_off > 0).all() for found in aligned)


def test_planted_couplings_are_coherent():
    """A law of couplings with one sign is a rotation in which all pairs pull together."""
    planted = PlantedShells(exponent=1.5, rotation=0.1)
    found = incoherence.measure_modes(*planted.run(0), SHELLS, flips=99)
    assert float(found.excess) > 0.25


def test_an_aligned_linear_net_without_rotation_has_no_pairs():
    model, inputs, targets = AlignedDeepLinear().problem(1.0)
    found = incoherence.measure(model, inputs, targets, shells=LogShells(1.0, 0.2), flips=19)
    assert np.isnan(float(found.excess))
    assert (found.pairs < 10).all()


def test_recomputed_flips(network):
    """M' is linear in the error: under -e the flux changes its sign exactly."""
    model, inputs, targets = network
    error = (model(inputs) - targets).detach()
    found = incoherence.measure(model, inputs, targets, shells=SHELLS, flips=19, recomputed=2)
    assert found.flux_recomputed.shape == (2, found.sizes["boundary"])
    turned = incoherence.measure(model, inputs, targets + 2 * error, shells=SHELLS, flips=19)
    assert np.allclose(turned.flux_off, -found.flux_off, atol=1e-12)
    sizes = np.sqrt((found.flux_recomputed**2).mean("flip"))
    assert np.allclose(found.z_recomputed, found.flux_off / sizes)


def test_aligned_layers_are_found_out():
    aligned = at_depth(Protocol("aligned linear", samples=16, width=32, flips=99), 4, 0)
    critical = at_depth(Protocol("critical", samples=16, width=32, flips=99), 4, 0)
    assert float(aligned.excess) > 0.25 > float(critical.excess)
    rows = table([aligned, critical])
    assert rows.excess.sel(kind="critical", task="one-hot", depth=4, seed=0) == critical.excess


@pytest.mark.usefixtures("as_users_run_it")
def test_refusals(network):
    model, inputs, targets = network
    modes, g = planted_signs(10)
    with pytest.raises(ValueError, match="expected a spectrum with its rate"):
        incoherence.measure_modes(Spectrum(modes.eigenvalues, modes.eigenvectors, None, modes.floor), g, SHELLS)
    with pytest.raises(ValueError, match=r"flips=...\): expected a whole number of at least 19"):
        incoherence.measure_modes(modes, g, SHELLS, flips=3)
    with pytest.raises(ValueError, match="recomputed"):
        incoherence.measure(model, inputs, targets, recomputed=-1)
    with pytest.raises(ValueError, match="at least 4 networks"):
        incoherence.judge([])
    with pytest.raises(ValueError, match="a share between 0 and 1"):
        planted_signs(aligned=2.0)

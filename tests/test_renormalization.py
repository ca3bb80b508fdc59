from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import grsd
from grsd.conditions import closure, locality, profile_flow
from grsd.conditions.profile_flow import coarser_profile
from grsd.shells import merge_shells
from grsd.shells.blocks import blocks
from grsd.solvable import ShellLattice
from grsd.studies import renormalization as cases
from grsd.studies import stages
from grsd.theory import power_law

EXACT = ShellLattice(swell=0.0, extent=16.0, width=0.25, velocity=power_law(1.4, 1.0))
RUNS = range(8)
ALL = cases.EVERYTHING


@pytest.fixture(scope="module")
def closed():
    return cases.lattice_budgets(cases.CLOSED, 0)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize(("exponent", "growth"), [(1.0, 0.0), (1.4, 0.3), (0.7, -0.5)])
def test_the_map_of_the_profile_against_lattice_sums(factor, exponent, growth):
    """T_ab = kappa(a-b) e^{(b-1)(s_a+s_b)/2} sqrt(E_a E_b) summed shell by shell over two blocks k apart."""
    h, kappa = 0.3, np.exp(-0.4 * np.arange(1, 9)) * [1, 1, -0.5, 1, 2, 1, 0.1, 1]
    mapped = coarser_profile(kappa, h, exponent, growth, factor)
    assert len(mapped) == (8 + factor - 1) // factor
    for k, value in enumerate(mapped, start=1):
        upper, lower = np.arange(factor) + k * factor - 5, np.arange(factor) - 5
        s = [(part + 0.5) * h for part in (upper, lower)]
        apart = upper[:, None] - lower[None, :]
        law = np.where(apart <= 8, kappa[np.minimum(apart, 8) - 1], 0.0)
        law = law * np.exp((exponent - 1) * (s[0][:, None] + s[1][None, :]) / 2)
        energy = [np.exp(growth * part) for part in s]
        exchanged = (law * np.sqrt(energy[0][:, None] * energy[1][None, :])).sum()
        middle = (s[0].mean() + s[1].mean()) / 2
        block = exchanged / np.sqrt(energy[0].sum() * energy[1].sum()) / np.exp((exponent - 1) * middle)
        assert np.isclose(value, block, rtol=1e-12)


def test_a_short_profile_flows_to_nearest_neighbours_and_a_power_does_not():
    short, far = np.exp(-np.arange(1, 200) * 0.5), np.arange(1, 200) ** -1.3
    for step in range(4):
        short, far = (coarser_profile(kappa, 0.25 * 2**step, 1.0, 0.0) for kappa in (short, far))
    assert short[1] / short[0] < 0.02
    assert 0.2 < far[1] / far[0] < 0.5


def test_blocks_are_what_merged_shells_are(closed):
    """At multiples of the factor."""
    found, merged = blocks("test", closed, None), merge_shells(closed[0], 4)
    at = found.boundaries(4)
    at = at[found.index[at] % 4 == 0]
    energy = merged.energy.values
    assert np.allclose(found.states(4, at)[0], np.sqrt(energy[1:] * energy[:-1]), rtol=1e-13)
    coupling = np.diagonal(merged.coupling.values, -1)
    assert np.allclose(found.neighbours(4, at)[0], coupling, rtol=1e-12)
    couplings, middle = found.pairs(4, 1)
    place = np.searchsorted(middle, merged.boundary.values)
    assert np.allclose(couplings[0, place], coupling / np.sqrt(energy[1:] * energy[:-1]), rtol=1e-12)


def test_local_couplings_close():
    for number in range(4):
        found = closure.judge(cases.lattice_budgets(cases.CLOSED, number), window=ALL)
        assert found.verdict == "holds"
        assert found.details.p == 1 / 200
        assert (np.diff(found.details.defect) < 0).all(), "block spin brings the description nearer"
    assert str(found).startswith("holds: 0.")


@pytest.mark.parametrize("lattice", [cases.HIDDEN, cases.LONG_RANGE], ids=["hidden state", "long range"])
def test_what_is_not_local_does_not_close(lattice):
    verdicts = [closure.judge(cases.lattice_budgets(lattice, number), window=ALL).verdict for number in range(4)]
    assert verdicts == ["fails"] * 4


def test_what_cannot_be_told_is_inconclusive(closed):
    assert closure.judge(closed[:7], window=ALL).verdict == "inconclusive"
    same = replace(cases.CLOSED, swell=0.01).budgets(RUNS)
    found = closure.judge(same, window=ALL)
    assert found.details.variation < 0.05
    assert "too little to tell one from another" in found.reason
    assert found.verdict == "inconclusive"


def test_the_permutation_test_is_calibrated():
    """States of other lattices: p is uniform; 60 ensembles, bounds missed once in a thousand times."""
    tiny = replace(cases.SHORT, extent=3.0)
    p = np.array([closure.judge(cases.unrelated_budgets(tiny, number), window=ALL).details.p for number in range(60)])
    assert (p <= 0.05).sum() <= 9
    assert 0.38 < p.mean() < 0.62


def test_exact_law_follows_the_map_exactly():
    judged = profile_flow.judge(EXACT.budgets(RUNS), separations=3, window=ALL)
    assert judged.verdict == "holds"
    flow = judged.details
    assert flow.exponent == pytest.approx(1.4, abs=1e-6)
    assert flow.growth == pytest.approx(0.3, abs=1e-9)
    assert np.allclose(flow.measured, flow.mapped, atol=1e-6)
    assert (np.diff(flow.measured[:, 0]) < 0).all()
    assert flow.measured[0, 0] < flow.finest[0]


def test_profile_flow_tells_the_law_from_a_reach_that_widens():
    for number in range(3):
        law, widening = (cases.lattice_budgets(case, number) for case in (cases.CLOSED, cases.WIDENING))
        assert profile_flow.judge(law, window=cases.INTERIOR).verdict == "holds"
        broken = profile_flow.judge(widening, window=cases.INTERIOR)
        assert broken.verdict == "fails"
        assert broken.details.studentized > broken.details.critical


def test_the_range_of_an_exponential():
    """Flux from shells at most k apart: sum of j e^{-j h / l}, j <= k, where the law is flat and energies are equal."""
    flat = ShellLattice(velocity=power_law(1.0, 1.0), swell=0.0, growth=0.0, extent=20.0)
    found = locality.locality_range(flat.budgets(range(4)), window=(-10.5, -9.5))
    j = np.arange(1, 80)
    weight = j * np.exp(-j * 0.25 / 0.5)
    expected = weight.cumsum() / weight.sum()
    assert np.allclose(found.share[:20], expected[:20], atol=1e-6)
    assert found.distance_90 == pytest.approx(np.interp(0.9, expected, j * 0.25), abs=1e-6)
    assert np.allclose(found.share_interval[:, 0], found.share_interval[:, 1])
    assert (np.diff(found.neighbours) > 0).all()
    single = grsd.locality(flat.budget(0)).share.sel(boundary=-10.0, method="nearest")
    assert np.allclose(found.share, single.values, atol=1e-6)


def test_the_range_of_nearest_neighbours_is_one_shell():
    found = locality.locality_range(ShellLattice(reach=0.02).budgets(range(4)))
    assert found.distance_90 == 0.25
    assert np.allclose(found.neighbours, 1, atol=1e-4)


def test_a_diagonal_network_closes_and_has_no_power_law():
    closed, law = cases.closed_without_a_law(1)
    assert closed.verdict == "holds"
    assert law.verdict == "fails"


def as_measured(budgets):
    """As ``invariance.measure`` gives them, at one width."""
    return [budget.assign(time=1.0).assign_attrs(seed=seed) for seed, budget in enumerate(budgets)]


def test_a_summary_of_runs(closed):
    runs = as_measured(closed)
    table = cases.summary({("plain", 4): runs, ("residual", 4): runs[:4]}, within=9.0)
    plain = table.sel(architecture="plain", depth=4)
    assert dict(table.sizes) == {"architecture": 2, "depth": 1, "factor": 3}
    assert set(plain.verdict.values) == {"holds"}
    assert (plain.ratio_low <= plain.ratio).all()
    assert np.allclose(plain.second, plain.second_mapped, atol=0.02)
    few = table.sel(architecture="residual", depth=4)
    assert set(few.verdict.values) == {"inconclusive"}
    assert few.second.isnull().all(), "four runs are too few for the flow"


def test_pseudo_values_average_to_the_jackknife_estimate():
    without = np.linspace(0.4, 0.7, 8)
    values = [cases.pseudo_value(0.5, without, place) for place in range(8)]
    assert np.isclose(np.mean(values), 8 * 0.5 - 7 * without.mean())


def test_broken_input_is_refused(closed, as_users_run_it):
    with pytest.raises(
        ValueError, match=r"closure.judge\(factors=\.\.\.\): expected 1 and larger whole numbers, increasing"
    ):
        closure.judge(closed, factors=(2, 4))
    with pytest.raises(
        ValueError, match=r"closure.judge\(ensemble\): no unmasked boundary has 4 shells on either side"
    ):
        closure.judge(closed, window=(-0.5, -0.3))
    with pytest.raises(ValueError, match=r"closure.judge\(ensemble\): expected at least 4 runs, got 2"):
        closure.judge(closed[:2], window=ALL)
    with pytest.raises(ValueError, match=r"profile_flow.judge\(ensemble\): expected at least 5 runs, got 4"):
        profile_flow.judge(closed[:4], window=ALL)
    with pytest.raises(ValueError, match=r"no two blocks fit into the window at a coarser width"):
        profile_flow.judge(closed, window=(-2.0, -1.0))
    with pytest.raises(ValueError, match=r"locality_range\(window=\.\.\.\): expected \(low, high\)"):
        locality.locality_range(closed, window=(0.0, -1.0))

    with pytest.raises(ValueError, match=r"coarser_profile\(kappa\): expected kappa\(1\), kappa\(2\)"):
        coarser_profile(np.ones((2, 2)), 0.5, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"ShellLattice\(profile=\.\.\.\): expected one of"):
        ShellLattice(profile="cosine")
    with pytest.raises(ValueError, match=r"ShellLattice\(noise=\.\.\.\): expected a number of at least 0"):
        ShellLattice(noise=-1.0)


def test_a_seed_of_the_networks(closed, monkeypatch):
    asked = []
    run = xr.Dataset({"loss": ("time", [0.9, 0.01]), "start_loss": 1.0})
    monkeypatch.setattr(stages, "ensemble", lambda specs, **_: [run] * len(specs))
    monkeypatch.setattr(stages, "of_specs", lambda _, specs, **__: asked.extend(specs) or as_measured(closed))
    early = cases.Networks((stages.EARLY.block("plain", 2, 1000),))
    value = cases.closure_ratio(early, 1003)
    assert [(spec.seed, spec.depth, spec.architecture) for spec in asked] == [(1000 + n, 2, "plain") for n in range(8)]
    found, local = cases.network(early.blocks[0], early.factors)
    assert value == 8 * found.estimate - 7 * found.details.without[3]
    assert cases.locality_range(early, 1000) == 8 * local.estimate - 7 * local.details.without[0]
    assert len(asked) == 8, "one block of seeds is measured once"
    cases.closure_ratio(cases.Networks((stages.LATE.block("plain", 2, 2000),)), 2030)
    assert [spec.seed for spec in asked[8:]] == list(range(2024, 2048)), "blocks are counted from the first seed"
    cases.network.cache_clear()


@pytest.mark.parametrize("condition", [closure, locality, profile_flow])
def test_a_verdict_needs_its_window(closed, condition):
    with pytest.raises(
        ValueError, match=rf"^{condition.name}\.judge\(window=\.\.\.\): expected \(low, high\) .* got None; .*$"
    ):
        condition.judge(closed)
    assert condition.judge(closed, window=(-9.5, -0.5)).verdict == "holds"

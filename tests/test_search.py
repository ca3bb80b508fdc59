"""Diagonal nets with clocks of their own against torch and closed forms; what the search plants and finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import grsd
from grsd.laws import beyond_growth
from grsd.shells import LogShells
from grsd.solvable import PlantedShells
from grsd.solvable.clocks import ModeClocks
from grsd.studies.the_whole_chain import search

SMALL = {"modes": 8, "span": (-3.0, 0.0)}
SHELLS = LogShells(1.0, 0.1)
WINDOW = (-11.0, -1.0)


@pytest.mark.parametrize(
    "net",
    [
        ModeClocks(layers="equal", share=0.3, target=-0.3, start=0.4, **SMALL),
        ModeClocks(layers="crossed", share=0.7, gain=1.3, target=-0.4, **SMALL),
    ],
)
def test_the_integrated_net_is_the_torch_module(net):
    """Kernel, its rate and the error of the module at the integrated weights, and of the module's own flow."""
    begun, later = net.trajectory(3, [0.0, 2.0])
    for state in (begun, later):
        module, inputs, targets = state.problem()
        kernel, rate = grsd.tangent_kernel_and_rate(module, inputs, targets)
        expected, moving, error = state.matrices()
        turn = inputs / torch.from_numpy(np.sqrt(8 * state.eigenvalues))
        assert torch.allclose(kernel, turn @ expected @ turn.T, atol=1e-12)
        assert torch.allclose(rate, turn @ moving @ turn.T, atol=1e-12)
        assert torch.allclose(module(inputs).detach() - targets, turn @ error, atol=1e-12)
    module, inputs, targets = begun.problem()
    flow = grsd.gradient_flow(module, inputs, targets, [2.0], tolerance=1e-5)
    found = flow.snapshots[-1].model
    assert torch.allclose(found(inputs).detach(), later.problem()[0](inputs).detach(), atol=1e-3)


def test_equal_layers_learn_logistically():
    """beta' = 2 lambda beta (beta* - beta) has the logistic curve as its solution."""
    net = ModeClocks(layers="equal", share=0.2, noise=0.4, **SMALL)
    (state,) = net.trajectory(1, [5.0])
    grown = np.exp(2 * state.eigenvalues * state.targets * 5.0)
    expected = state.targets * 0.2 * grown / (state.targets + 0.2 * (grown - 1))
    assert np.allclose(state.a * state.w, expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("settings", "exponent"),
    [
        ({"layers": "equal"}, 2.0),
        ({"layers": "crossed"}, 3.0),
        ({"layers": "equal", "start": 1.0}, 1.5),
        ({"layers": "equal", "start": -3.0}, 0.5),
        ({"layers": "crossed", "start": 1.0, "target": -0.25}, 1.75),
    ],
)
def test_the_exponent_of_modes_that_have_hardly_moved(settings, exponent):
    """u from M' itself: a power of the eigenvalue with exponent b - 1."""
    net = ModeClocks(share=1e-6, noise=0.0, **SMALL, **settings)
    (state,) = net.trajectory(0, [1e-7])
    kernel, rate, _ = (matrix.numpy() for matrix in state.matrices())
    m, u = np.diag(kernel), np.diag(rate) / np.diag(kernel)
    assert net.exponent == pytest.approx(exponent)
    assert np.polyfit(np.log(m), np.log(u), 1)[0] == pytest.approx(exponent - 1, abs=1e-3)


def test_a_shared_gain_grows_as_derived():
    """3 nu / (1 + nu) = -delta / (1 + delta), once the start is forgotten."""
    net = replace(search.GAIN.net, noise=0.0, modes=200, gain=3.0 / 2 ** (1 / 3))
    times = np.exp([2.0, 3.0, 4.0]).tolist()
    gains = [state.gain for state in net.trajectory(0, times)]
    assert np.diff(np.log(gains)) == pytest.approx([search.GAIN_POWER] * 2, abs=0.02)
    nu = search.GAIN_POWER
    assert 3 * nu / (1 + nu) == pytest.approx(0.4 / 0.6)


def test_refusals_of_the_clocks():
    with pytest.raises(ValueError, match=r"^ModeClocks\(layers=\.\.\.\): expected one of \('equal', 'crossed'\)"):
        ModeClocks(layers="tied")
    with pytest.raises(ValueError, match=r"^ModeClocks\(span=\.\.\.\): expected \(low, high\) within 30 of 0"):
        ModeClocks(span=(-40.0, 0.0))
    with pytest.raises(ValueError, match=r"^ModeClocks.trajectory\(times=\.\.\.\): expected increasing times up to"):
        ModeClocks(**SMALL).trajectory(0, [2.0, 1.0])


@pytest.mark.long
def test_a_planted_law_is_found_where_only_growth_was():
    """A law with a share of .2 is beyond growth, one of .001 is not told from growth."""
    growing = PlantedShells(exponent=1.0, kappa=(0.1,), shells=SHELLS, scale=0.4, noise=0.1, modes=36)
    budgets = growing.budgets(range(search.RUNS), SHELLS)
    kappa = search.amplitude(budgets, WINDOW, 0.2)
    found = beyond_growth(search.with_law(budgets, WINDOW, kappa), window=WINDOW)
    assert found.share == pytest.approx(0.2, abs=0.05)
    assert found.verdict in ("beyond growth", "non-trivial invariance")
    assert found.free.exponent == pytest.approx(2.0, abs=0.15)
    with pytest.raises(ValueError, match=r"^amplitude\(share=\.\.\.\): no amplitude of this law carries 0\.99"):
        search.amplitude(budgets, WINDOW, 0.99)


def small_block(runs=8):
    """A block of networks of 100 samples, which takes seconds."""
    network = search.Learner(samples=100, features=32, width=16, depth=2, factor=4.0, times=(0.5, 60.0, 6))
    return search.Block(network, log_loss=-1.2, reach=4.5, runs=runs, first=0)


@pytest.mark.long
def test_pseudo_values_are_those_of_the_jackknife(tmp_path, monkeypatch):
    monkeypatch.setenv("GRSD_RUNS", str(tmp_path))
    monkeypatch.setattr(search, "ensemble", lambda specs, function, threads, **_: [function(spec) for spec in specs])
    block = small_block()
    found = search.read_block(block)
    every = search.without_each(block)
    assert every["share"][0] == pytest.approx(found.beyond.share, abs=1e-9)
    values = [search.share_beyond(block, seed) for seed in range(8)]
    assert np.mean(values) == pytest.approx(8 * every["share"][0] - 7 * every["share"][1:].mean())
    assert search.velocity_exponent(block, 0) == pytest.approx(8 * every["exponent"][0] - 7 * every["exponent"][1])


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(search.CLOCK_CLAIMS))
def test_the_instruments_see_what_was_derived(name, monkeypatch):
    """Of three ensembles of pilot seeds most read as derived, and none if the derivation were another."""
    protocol = search.CLOCK_CLAIMS[name]
    found = [search.read_clocks(protocol, number) for number in range(3)]
    monkeypatch.setattr(search, "read_clocks", lambda _, number: found[number])
    assert sum(search.as_derived(protocol, number) for number in range(3)) >= 2
    wrong = [replace(protocol, covariance="inconclusive"), replace(protocol, verdict="growth only")]
    if protocol.exponent is not None:
        wrong.append(replace(protocol, exponent=protocol.exponent + 0.5))
    if protocol.clock is not None:
        wrong.append(replace(protocol, clock=protocol.clock + 0.1))
    for other in wrong:
        assert not any(search.as_derived(other, number) for number in range(3))


@pytest.mark.long
def test_the_table_has_a_row_for_every_candidate(monkeypatch):
    """Rows are read with the smallest ensembles that decide something."""
    few = {name: replace(clocks, runs=8) for name, clocks in list(search.CLOCKS.items())[:2]}
    monkeypatch.setattr(search, "CLOCKS", few)
    monkeypatch.setattr(search, "BLOCKS", {})
    table = search.searched()
    assert isinstance(table, xr.Dataset)
    assert list(table.candidate.values) == list(few)
    assert (table.share > 0.1).all()
    assert np.allclose(table.exponent, [2.0, 3.0], atol=0.15)
    assert (table.velocity_exponent_low < table.velocity_exponent).all()

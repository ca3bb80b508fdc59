"""Figures of notebooks 03 and 04, from small networks; what their studies compare."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import grsd
from grsd.conditions import incoherence, propagation
from grsd.evidence import results
from grsd.evidence.tables import read_table
from grsd.networks import Perceptron, architecture
from grsd.plotting import gradient_propagation as gains
from grsd.plotting import initial_incoherence as signs
from grsd.plotting import look
from grsd.studies import gradient_propagation, initial_incoherence
from grsd.studies.gradient_propagation import Protocol, compared, drawn, over_depth, shown_kinds, slopes

PROTOCOL = Protocol(depths=(2, 4), width=8, samples=3)


@pytest.fixture(autouse=True)
def headless():
    mpl.use("Agg")
    with mpl.rc_context():
        yield
    plt.close("all")


def wider(features, outputs, *, width, **settings):
    return Perceptron(features, outputs, width=2 * width, **settings)


@pytest.fixture
def another(monkeypatch):
    """An architecture that a reader has registered."""
    monkeypatch.setattr(architecture, "_entries", dict(architecture.entries))
    architecture("wider", compared=True)(wider)
    return "wider"


def test_a_registered_architecture_is_compared(another):
    """It is in every comparison of 03 and 04 by its own name, built by its function, in a look of its own."""
    assert compared() | {"residual": "residual", "plain": "critical", another: another} == compared()
    assert another in shown_kinds()
    network, _ = drawn(grsd.Spec(width=6, depth=2, samples=3), another, 0)
    assert network.readout.in_features == 12
    found = over_depth(another, 0, PROTOCOL)
    here = gradient_propagation.table([found])
    deep = read_table("03_gradient_propagation-depth")
    worst = gains.over_depth(deep, here, propagation.RULE).axes[0]
    assert [line.get_color() for line in worst.lines] == [look(another)["color"]]
    assert gains.kind_look(another) == look(another)


def test_gains_pair_by_pair_and_on_the_way_back():
    found = {}
    for kind in ("residual", "sub-critical"):
        network, data = drawn(grsd.Spec(width=8, depth=4, samples=3), kind, 0)
        found[kind] = propagation.measure(network, data.inputs)
    figure = gains.pairs(found)
    shown = figure.axes[1].collections[0].get_array()
    assert np.allclose(shown.compressed(), (np.log10(found["sub-critical"].gain) / 2).values[np.triu_indices(4, 1)])
    reach = read_table("03_gradient_propagation-distance")
    random, worst, far = gains.way_back(found, reach).axes
    assert np.allclose(far.lines[0].get_ydata(), reach.amplitude.isel(architecture=0))
    assert [line.get_label() for line in random.lines[:2]] == [gains.LABELS[kind] for kind in found]
    assert np.allclose(worst.lines[0].get_ydata(), found["residual"].norm.isel(m=-1), equal_nan=True)


def test_slopes_beside_the_threshold_of_the_rule():
    deep = read_table("03_gradient_propagation-depth")
    found = slopes(deep)
    one = deep.worst.sel(kind="critical", seed=3)
    assert float(found.worst.sel(kind="critical", seed=3)) == pytest.approx(np.polyfit(np.log(one.depth), one, 1)[0])
    here = gradient_propagation.table([over_depth(kind, 0, PROTOCOL) for kind in ("residual", "critical")])
    *_, panel = gains.over_depth(deep, here, propagation.RULE).axes
    assert [line for line in panel.lines if set(line.get_xdata()) == {propagation.RULE.threshold}]
    assert len(panel.get_yticklabels()) == deep.sizes["kind"]


def test_growth_decay_and_reach(monkeypatch):
    """The stored table has the networks of the claims: the slope of each seed is its stored value."""
    table, reach = (read_table(f"03_gradient_propagation-{what}") for what in ("growth", "distance"))
    stored = results()
    judged = {cell: stored[claim] for cell, claim in gradient_propagation.GROWTH_CLAIMS.items()}
    for (what, name), result in judged.items():
        one = table.sel(architecture=name)
        if what == "far":
            mean = np.mean(result.values[: table.sizes["seed"]])
            assert mean == pytest.approx(float(reach.amplitude.sel(architecture=name, distance=32)))
        else:
            each = [np.polyfit(np.log(one.depth), one[what].sel(seed=seed), 1)[0] for seed in one.seed]
            assert np.allclose(result.values[: len(each)], each)
    figure = gains.growth(table, judged)
    assert figure.axes[0].get_legend_handles_labels()[1][0].startswith("plain: slope ")
    monkeypatch.setattr(gradient_propagation.one_network, "gains", few_gains)
    found = gradient_propagation.growth_table([0, 1], (3, 4, 5))
    assert found.growth.dims == ("architecture", "depth", "seed")
    found = gradient_propagation.distance_table([0, 1], (3, 4, 5))
    assert found.amplitude.shape == (2, 4)


def few_gains(spec, seeds, *, depths):
    return [
        propagation.measure(
            Perceptron(64, 1, width=6, depth=depth, residual=spec.architecture == "residual", seed=seed).double(),
            spec.batch().inputs[:2],
            parameters={"architecture": spec.architecture, "depth": depth, "seed": seed},
        )
        for seed in seeds
        for depth in depths
    ]


@pytest.fixture(scope="module")
def coherent():
    """Two seeds of both architectures on both tasks, by (task, architecture)."""
    groups = {}
    for task in initial_incoherence.SAMPLES:
        for name, kind in compared().items():
            protocol = initial_incoherence.Protocol(kind, task, 24, width=12, flips=19, recomputed=1)
            groups[task, name] = [initial_incoherence.at_depth(protocol, 4, seed) for seed in range(2)]
    return groups


def test_coherence_boundary_by_boundary(coherent):
    stored = results()
    judged = {cell: stored[claim] for cell, claim in initial_incoherence.SAME_CLAIMS.items()}
    figure = signs.networks(coherent, 4, judged, incoherence.RULE)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["ten outputs, depth 4", "one output, depth 4"]
    forest = figure.axes[2]
    said = [f"{name},\n{signs.OUTPUTS[task]}:\n{one.verdict}" for (task, name), one in judged.items()]
    assert [label.get_text() for label in forest.get_yticklabels()] == said
    assert [line for line in forest.lines if set(line.get_xdata()) == {incoherence.RULE.threshold}]
    excess = np.nanmean([float(one.excess) for one in coherent["parity", "plain"]])
    assert f"plain: excess {excess:.2f}" in figure.axes[1].get_legend_handles_labels()[1]
    (axes,) = signs.cases({"a case": coherent["one-hot", "plain"]}).axes
    kept = initial_incoherence.judged_boundaries(coherent["one-hot", "plain"][0])
    assert np.allclose(axes.lines[0].get_ydata(), kept.z)
    assert (kept.pairs >= incoherence.LEAST_PAIRS).all()
    assert (kept.boundary_mask == 0).all()


def test_coherence_over_depth(coherent):
    here = initial_incoherence.table([one for group in coherent.values() for one in group])
    deep = read_table("04_initial_incoherence-depth")
    for axes in signs.over_depth(deep, here, incoherence.RULE).axes:
        assert [line for line in axes.lines if set(line.get_ydata()) == {incoherence.RULE.threshold}]
        assert axes.get_legend_handles_labels()[1][-2:] == ["residual", "plain"]


def test_exchange_over_distance(coherent):
    group = coherent["one-hot", "residual"]
    left, right = signs.exchange(coherent["parity", "residual"], coherent, "a title").axes
    assert left.get_legend_handles_labels()[1] == ["seed 0", "seed 1"]
    assert len(right.get_legend_handles_labels()[1]) == len(coherent)
    exact = 10.0 ** -np.abs(np.subtract.outer(group[0].shell_index.values, group[0].shell_index.values))
    falling = [one.assign(operator_normalized=(("shell", "shell_from"), exact)) for one in (group[0], group[0])]
    found = initial_incoherence.by_distance(falling)
    assert np.allclose(found["mean"], -found.distance / group[0].attrs["shell_width"])
    assert np.allclose(found.standard_error, 0)

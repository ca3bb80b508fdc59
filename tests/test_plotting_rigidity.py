"""Figures of notebook 08 from small data: what is drawn is what was given, and thresholds are the rules'."""

from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from grsd.conditions.covariance import RULE, Collapse
from grsd.evidence import claims
from grsd.networks import architecture
from grsd.plotting import look
from grsd.plotting import rigidity as draw
from grsd.theory import EXAMPLES, worst_curve
from grsd.theory.band import Band

X = np.array([-2.0, -1.0, 0.0])


@pytest.fixture(autouse=True)
def headless():
    mpl.use("Agg")
    with mpl.rc_context():
        yield
    plt.close("all")


def collapse(defect=0.2):
    values = np.array([[0.1, 0.2, np.nan], [0.1, 0.3, 0.4]])
    return Collapse(X, np.array([1.0, 10.0]), values, 0.01 * np.ones((2, 3)), defect, (0.1, 0.3), 8)


def test_counterexamples():
    """One panel for each example that breaks a hypothesis; under covariance alone the times lie on one curve."""
    figure = draw.counterexamples(EXAMPLES)
    names = list(EXAMPLES)[1:]
    assert [axes.get_title().partition("\n")[0] for axes in figure.axes] == names
    early, middle, late = (line for line in figure.axes[1].lines if line.get_linestyle() != "-" or line.get_lw() < 3)
    for line in (early, late):
        inside = np.abs(line.get_xdata()) < 1.5
        expected = np.interp(line.get_xdata()[inside], middle.get_xdata(), middle.get_ydata())
        assert np.allclose(line.get_ydata()[inside], expected, atol=1e-3)


@pytest.mark.parametrize("threshold", [None, 0.7])
def test_stability_draws_the_rules_threshold(threshold):
    rule = claims()["rigidity"].judged
    rule = rule if threshold is None else replace(rule, threshold=threshold)
    figure = draw.stability({n: worst_curve(n, 1) for n in (2, 3, 4)}, [0.5, 0.6, 0.8], rule)
    (line,) = figure.axes[2].lines
    assert list(line.get_xdata()) == [rule.threshold] * 2
    assert sum(patch.get_height() for patch in figure.axes[2].patches) == 3
    assert list(figure.axes[0].lines[1].get_ydata()) == pytest.approx([1 / 2, 2 / 3, 3 / 4])


def test_collapse():
    """A panel for each network, with what is judged in its title; the rule is read from the rule."""
    networks = {(name, 6): (collapse(0.25), collapse()) for name in architecture.names(compared=True)}
    figure = draw.collapse({"one start": collapse(1e-5), "other start": collapse(0.03)}, networks, RULE)
    exact, *shown = figure.axes
    assert f"{RULE.threshold:g}" in exact.get_title()
    assert [text.get_text() for text in exact.get_legend().get_texts()] == [
        "one start, $D^2$ = 1e-05",
        "other start, $D^2$ = 0.03",
    ]
    for axes, name in zip(shown, architecture.names(compared=True), strict=True):
        assert axes.get_title() == f"{name}, depth 6, 8 runs\n$D^2$ = 0.25 [0.10, 0.30]"


def test_certified():
    """Bars from least to most where they are finite, in the colour of the architecture."""
    s = np.linspace(-3, 0, 7)
    velocity = np.exp(0.5 * s)
    band = Band(s, velocity, np.ones(7), 0.5 * s - 0.1, 0.5 * s + 0.1, 2.0, 0.95, 8)
    shape, names = (2, 2, 3), ["plain", "residual"]
    most = np.full(shape, np.inf)
    most[1, 0, 1] = 0.5
    cells = {"distance": np.full(shape, 0.2), "least": np.zeros(shape), "most": most}
    axes = {"architecture": names, "depth": [16, 32], "part": ["both", "frontier", "below"]}
    table = xr.Dataset({name: (list(axes), values) for name, values in cells.items()}, axes, {"log_loss": -1.0})
    figure = draw.certified({"power law": band}, {"power law": 0.0}, {"early": table})
    planted, networks = figure.axes
    assert planted.get_title() == "planted: power law\nleast 0.00, most 0.10, true 0.00"
    ticks = [label.get_text() for label in networks.get_xticklabels()]
    assert ticks == [f"early\n{name}, {depth}" for name in ("residual", "plain") for depth in (16, 32)]
    (bar,) = networks.containers
    (segment,) = bar.lines[2][0].get_segments()
    place = ticks.index("early\nresidual, 16")
    assert np.allclose(segment, [[place, 0.0], [place, 0.5]])
    assert mpl.colors.same_color(bar.lines[2][0].get_color()[0][:3], look("residual")["color"])

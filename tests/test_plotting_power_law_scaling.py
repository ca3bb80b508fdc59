"""Figures of notebook 09 from small data: what is drawn is what was given, and thresholds are the rules'."""

import math
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from grsd.evidence import claims
from grsd.networks import architecture
from grsd.plotting import power_law_scaling as draw
from grsd.studies.power_law_scaling import axes, exact, forecasts

NAMES = architecture.names(compared=True)


@pytest.fixture(autouse=True)
def headless():
    mpl.use("Agg")
    with mpl.rc_context():
        yield
    plt.close("all")


def test_characteristics():
    """The mapped laws as paths, every law as lines and points; the title says the largest difference."""
    laws = {"one": exact.Case(1.0, 0.5, 0.0), "two": exact.Case(0.7, -0.4, 0.0, tau=2.0)}
    energy = np.array([0.5, 0.1])
    found = xr.Dataset(
        {
            "characteristics": ("time", energy),
            "finite_volume": ("time", energy * 1.001),
            "difference": ("time", [0.0, -2e-3]),
        },
        {"time": [10.0, 100.0]},
    )
    figure = draw.characteristics(laws, ["two"], dict.fromkeys(laws, found))
    paths, energies = figure.axes
    assert paths.get_title() == "two"
    assert "at most 2e-03 apart" in energies.get_title()
    assert [text.get_text() for text in energies.get_legend().get_texts()] == list(laws)
    assert np.allclose(energies.lines[1].get_ydata(), np.log10(energy * 1.001))


def test_exponents():
    """Curves end at their limits, measured exponents stand at their beta."""
    times = np.array([1.0, 2.0])
    published = pd.DataFrame({"beta": [0.5, 1.5], "p": [0.66, 1.5], "published": [2 / 3, 1.5]})
    figure = draw.exponents(times, {"law": np.array([0.9, 1.0])}, {"law": 1.25}, published, [0.6])
    laws, beside, finite = figure.axes
    assert laws.lines[1].get_ydata() == [1.25]
    assert np.array_equal(beside.lines[2].get_xydata(), published[["beta", "p"]])
    assert finite.lines[2].get_ydata()[0] == pytest.approx(0.6 * 2 / 1.6), "the published limit"


def example():
    size = len(forecasts.METHODS)
    return xr.Dataset(
        {
            "loss": (("method", "ahead"), np.full((size, 2), 0.1)),
            "loss_after": ("ahead", [0.2, 0.1]),
            "loss_seen": ("snapshot", [0.4, 0.3]),
            "time_seen": ("snapshot", [0.5, 1.0]),
        },
        {"method": list(forecasts.METHODS), "ahead": [2.0, 10.0]},
    )


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_forecasts_draw_the_rules_threshold(threshold):
    rule = claims()[forecasts.ACCURACY["residual", "digits"]].judged
    rule = rule if threshold is None else replace(rule, threshold=threshold)
    values = np.arange(1.0, 1 + 2 * len(NAMES) * len(forecasts.METHODS)).reshape(len(NAMES), 2, -1)
    values[0, 0, 1] = math.nan
    score = xr.DataArray(values, {"architecture": list(NAMES), "seed": [0, 1], "method": list(forecasts.METHODS)})
    figure = draw.forecasts({"model": example(), "network": example()}, {"parity": score}, rule)
    model, _, scores = figure.axes
    assert model.get_title() == "model"
    assert [label.get_text() for label in scores.get_xticklabels()] == [f"{name},\nparity" for name in NAMES]
    drawn = [line for line in scores.lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in drawn] == [[rule.threshold] * 2]
    means = [bar.lines[0].get_ydata()[0] for bar in scores.containers]
    assert means == pytest.approx(np.nanmean(values, axis=1).ravel())


def test_accuracy_claims_exist_and_share_their_threshold():
    """The figure draws one line for all cells."""
    known = claims()
    assert set(forecasts.ACCURACY) == {(name, data) for name in ("residual", "plain") for data in forecasts.DATA}
    assert len({known[claim].judged.threshold for claim in forecasts.ACCURACY.values()}) == 1


def test_axes_of_scaling():
    """Slopes of exact power laws are read off exactly, for regressions and for networks."""
    sizes, times = np.array([8, 16, 32]), np.append(np.geomspace(*axes.TIMES), math.inf)
    falling = 1 / sizes[:, None] + np.append(times[:-1] ** -0.5, 0)
    regression = xr.Dataset(
        {f"features{kind}": (("size", "time"), falling) for kind in ("", "_theory")}
        | {f"samples{kind}": ("size", 2 / sizes) for kind in ("", "_theory")},
        {"size": sizes, "time": times},
    )
    seeds = {"seed": [0, 1], "size": sizes, "width": sizes}
    curves = {
        name: (("seed", where), np.array([[1.0], [2.0]]) / sizes**power)
        for name, where, power in (
            ("by_samples", "size", 0.5),
            ("lazy", "size", 1.0),
            ("by_width", "width", 0.25),
            ("readout", "width", 0.75),
        )
    }
    losses = xr.Dataset(curves, seeds, {"samples": 64, "pool": 100})
    figure = draw.axes_of_scaling([regression], losses, losses)
    drawn, samples, width = ([text.get_text() for text in one.get_legend().get_texts()] for one in figure.axes)
    assert "features $P$: -1.00, theory -1.00" in drawn
    assert samples == ["theory, before: slope -0.50", "initial kernel: -1.00 ± 0.00", "trained: -0.50 ± 0.00"]
    assert width[1:] == ["only the readout, on all: -0.75 ± 0.00", "all layers, on 64: -0.25 ± 0.00"]
    assert figure.axes[1].get_ylim() == figure.axes[2].get_ylim()

"""Figures of notebook 12 from small tables: what is drawn is what was given."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from grsd.evidence import Result
from grsd.plotting import architectures as draw

CELL = {"cell": np.arange(4)}


@pytest.fixture(autouse=True)
def headless():
    mpl.use("Agg")
    with mpl.rc_context():
        yield
    plt.close("all")


def result(values, low, high):
    judged = {"estimate": float(np.mean(values)), "low": low, "high": high, "verdict": "holds"}
    origin = {"claim": "a-claim", "rule_hash": "", "protocol": {}, "provenance": {}}
    return Result(seeds=(1, 2), values=tuple(values), **judged, **origin)


def test_skips():
    """One row per cell: pairs, their mean with the verdict's interval; nothing where nothing was measured."""
    judged = {
        ("flow", "resnet", "digits"): result([0.1, 0.3], 0.05, 0.4),
        ("adam", "resnet", "digits"): result([0.0, 0.2], -0.1, 0.3),
        ("adam", "vit", "patches"): result([-0.2, -0.4], -0.5, -0.1),
    }
    figure = draw.skips(judged, {"flow": [0.7], "adam": [0.6, 0.5]})
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "ResNet, digits",
        "transformer, patches",
        "trained here",
    ]
    for panel, expected in zip(
        figure.axes, ([(0, 0.2, 0.05, 0.4)], [(0, 0.1, -0.1, 0.3), (1, -0.3, -0.5, -0.1)]), strict=True
    ):
        drawn = []
        for container in panel.containers:
            (x,), (y,) = container[0].get_data()
            drawn.append((y, pytest.approx(x), *map(pytest.approx, container[2][0].get_segments()[0][:, 0])))
        assert drawn == expected
    hollow = [list(line.get_xdata()) for panel in figure.axes for line in panel.lines if line.get_mfc() == "none"]
    assert hollow == [[0.7], [0.6, 0.5]]


def test_depths():
    """Means of every depth with and without skips, and the difference of the same networks."""
    flow = [[0.9, 0.8], [0.7, 0.4], [0.95, 0.85], [0.6, 0.5]]
    adam = [[0.5, 0.7], [0.6, 0.6], [0.5, 0.3], [0.2, 0.1]]
    shares = {"flow": (("cell", "seed"), flow), "adam": (("cell", "seed"), adam)}
    labels = {
        "skips": (("cell", "seed"), [[1, 1], [0, 0]] * 2),
        "depth": (("cell", "seed"), [[2, 2]] * 2 + [[4, 4]] * 2),
    }
    figure = draw.depths(xr.Dataset(shares | labels, CELL | {"seed": [1, 2]}))

    def heights(panel, label):
        found = {bars.get_label(): bars[0].get_ydata() for bars in figure.axes[panel].containers}
        return found[label]

    assert heights(0, "with skips") == pytest.approx([0.85, 0.9])
    assert heights(1, "without") == pytest.approx([0.6, 0.15])
    assert heights(2, "gradient flow, squared error") == pytest.approx([0.3, 0.35])
    assert heights(2, "Adam, cross-entropy") == pytest.approx([0.0, 0.25])


def test_scales():
    """Medians of the speed with skips and without, and means of the share and of its control."""
    growth, rest = [[3.0, 0.6], [0.0, 0.0]], [[4.0, 0.8], [2.0, 6.0]]
    rows = {"growth": growth, "rest": rest, "share": [[0.9, 0.7], [0.2, 0.4]], "tilted": [[0.5, 0.6], [0.7, 0.9]]}
    table = xr.Dataset({name: (("cell", "seed"), values) for name, values in rows.items()}, {"seed": [1, 2]})
    figure = draw.scales(
        table.assign(skips=(("cell", "seed"), [[1, 1], [0, 0]]), output_scale=(("cell", "seed"), [[4.0, 4.0]] * 2))
    )
    heights = [{bars.get_label(): bars[0].get_ydata() for bars in panel.containers} for panel in figure.axes]
    assert heights[0]["with skips"] == pytest.approx([3.0])
    assert heights[0]["without"] == pytest.approx([4.0])
    assert heights[1]["with skips"] == pytest.approx([0.8])
    assert heights[1]["control, with skips"] == pytest.approx([0.55])
    assert heights[1]["control, without"] == pytest.approx([0.8])

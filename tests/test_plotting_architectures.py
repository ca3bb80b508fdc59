"""Figures of notebook 12 from small tables: what is drawn is what was given."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from grsd.plotting import architectures as draw

LABELS = {
    "family": ("cell", ["resnet", "resnet", "vit", "vit"]),
    "data": ("cell", ["digits"] * 4),
    "skips": ("cell", [1, 0, 1, 0]),
}
CELL = {"cell": np.arange(4)}


@pytest.fixture(autouse=True)
def headless():
    mpl.use("Agg")
    with mpl.rc_context():
        yield
    plt.close("all")


def of(figure, panel, label):
    """x of the first marks with this label."""
    for container in figure.axes[panel].containers:
        if container.get_label() == label:
            return container[0].get_xdata().tolist()
    raise AssertionError(label)


def test_skips():
    flow = [[0.9, 0.95], [0.5, 0.4], [0.8, 0.7], [0.6, 0.5]]
    adam = [[0.8, 0.9], [0.2, 0.1], [np.nan] * 2, [np.nan] * 2]
    ways = {"flow": (("cell", "seed"), flow), "adam": (("cell", "seed"), adam)}
    runs = xr.Dataset(ways | LABELS, CELL | {"seed": [1, 2]})
    live = {(way, skips): [0.1 * (1 + skips)] for way in ("flow", "adam") for skips in (1, 0)}
    figure = draw.skips(runs, live)
    assert of(figure, 0, "with skips") == [pytest.approx(0.925)]
    assert of(figure, 1, "without") == [pytest.approx(0.15)]
    assert len(figure.axes[1].containers) == 2  # nothing where nothing was measured
    hollow = [line.get_xdata().tolist() for line in figure.axes[1].lines if line.get_mfc() == "none"]
    assert hollow == [[0.2], [0.1]]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "resnet, digits",
        "vit, digits",
        "trained here",
    ]


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


def test_phases():
    rows = (("scale", "skips"), [[0.9, 0.4], [0.8, 0.3]])
    names = ("log_growth", "growth_share", "rotation_share")
    figure = draw.phases(xr.Dataset(dict.fromkeys(names, rows), {"scale": [1.0, 4.0], "skips": [1, 0]}))
    for panel in figure.axes:
        assert [line.get_ydata().tolist() for line in panel.lines] == [[0.9, 0.8], [0.4, 0.3]]

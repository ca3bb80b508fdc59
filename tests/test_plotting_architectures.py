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
    cells = xr.Dataset({"tilted_share": ("cell", [0.3, 0.9, 0.4, 0.9])} | LABELS, CELL)
    live = {(way, skips): [0.1 * (1 + skips)] for way in ("flow", "adam") for skips in (1, 0)}
    figure = draw.skips(runs, cells, live)
    assert of(figure, 0, "with skips") == [pytest.approx(0.925)]
    assert of(figure, 1, "without") == [pytest.approx(0.15)]
    assert len(figure.axes[1].containers) == 2  # nothing where nothing was measured
    grey = next(line for line in figure.axes[0].lines if line.get_label() == "fluxes that are no growth")
    assert grey.get_xdata().tolist() == [0.3, 0.4]
    hollow = [line.get_xdata().tolist() for line in figure.axes[1].lines if line.get_mfc() == "none"]
    assert hollow == [[0.2], [0.1]]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "resnet, digits",
        "vit, digits",
        "trained here",
    ]


def test_velocities():
    """The whole is the sum of its parts; places past the end of a cell are not drawn."""
    place = ("cell", "place")
    parts = {"growth": np.full((4, 3), 0.5), "crossing": np.full((4, 3), 0.1), "rotation": np.full((4, 3), 0.2)}
    parts["growth"][2, 2] = np.nan
    position = np.tile(np.array([-2.0, -1.0, 0.0]) * np.log(10), (4, 1))
    table = {name: (place, values) for name, values in (parts | {"position": position}).items()}
    figure = draw.velocities(xr.Dataset(table | LABELS, CELL | {"place": np.arange(3)}))
    assert [axes.get_title() for axes in figure.axes] == ["resnet, digits", "vit, digits"]
    drawn = {line.get_label(): line for line in figure.axes[1].lines}
    assert drawn["with skips"].get_xdata().tolist() == pytest.approx([-2, -1])
    assert drawn["without"].get_ydata().tolist() == pytest.approx([0.8] * 3)


def test_clocks():
    numbers = {"clock": [2.0, 1.0, 0.5, 0.1], "forecast_growth": [0.1] * 4, "forecast_lazy": [0.3, 0.4, 0.5, 0.6]}
    table = {name: ("cell", values) for name, values in numbers.items()}
    table |= {f"{name}_error": ("cell", [0.01] * 4) for name in numbers} | {"seeds": ("cell", [16] * 4)}
    figure = draw.clocks(xr.Dataset(table | LABELS, CELL))
    assert of(figure, 0, "with skips") == [2.0]
    assert of(figure, 1, "without") == [0.1]
    low, high = figure.axes[0].containers[0][2][0].get_segments()[0][:, 0]
    assert high - low == pytest.approx(2 * 0.01 * 2.131, rel=1e-3)

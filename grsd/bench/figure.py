"""The benchmark's table as a figure: seconds and memory of every method for each problem, and the floor."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grsd.bench.stages import STAGES
from grsd.bench.worker import FLOOR, OURS, RATE, RATE_FLOOR
from grsd.plotting import COLOURS, STYLE
from grsd.support.files import write_atomically

QUANTITIES = {"cpu_s": "CPU time [s]", "peak_gib": "peak memory above the start [GiB]"}
RATIOS = {"cpu_s": "cpu_ratio", "peak_gib": "peak_ratio"}
OWN_STAGES = STAGES.keys() - {"eigh alone", "one gradient"}
GREY = "#666666"
LEAST_GIB = 1e-3  # a few pages are no measurement


def draw(table: pd.DataFrame, path: Path) -> Path:
    """Write the SVG ``path``: one row of panels per case; the dashed line is the floor of the chosen routes.

    ``table``: as ``grsd.bench`` writes it. Methods without a number are listed with their note.
    """
    with mpl.rc_context(STYLE):
        figure = panels(table)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    return write_atomically(path, drawn.getvalue())


def panels(table: pd.DataFrame) -> Figure:
    cases = [case for _, case in table.groupby(["problem", "samples", "dtype"], sort=False)]
    heights = [len(case) + 1.2 for case in cases]
    figure, rows = plt.subplots(
        len(cases),
        len(QUANTITIES),
        figsize=(10, 0.26 * sum(heights) + 0.5),
        height_ratios=heights,
        sharex="col",
        sharey="row",
        squeeze=False,
    )
    for case, row in zip(cases, rows, strict=True):
        for axes, quantity in zip(row, QUANTITIES, strict=True):
            _panel(axes, case, quantity)
        first = case.iloc[0]
        row[0].set_title(f"{first.problem}, N = {first.samples}, {first['dtype']}", loc="left", fontsize=9)
    for axes, label in zip(rows[-1], QUANTITIES.values(), strict=True):
        axes.set_xlabel(label)
    return figure


def _panel(axes: Axes, case: pd.DataFrame, quantity: str) -> None:
    axes.set_xscale("log")
    axes.tick_params(axis="x", which="minor", labelsize=5)
    axes.margins(x=0.15)
    case = case.assign(value=case[quantity], ratio=case[RATIOS[quantity]])
    for place, row in enumerate(case.itertuples()):
        if row.value > (LEAST_GIB if quantity == "peak_gib" else 0):
            colour, shape = _style(row.method)
            axes.plot(row.value, place, shape, color=colour, markersize=7)
            said = f"{row.ratio:.2f}x" if row.ratio < 10 else f"{row.ratio:.0f}x"
            if place and row.ratio > 0:
                axes.annotate(said, (row.value, place), (7, 0), textcoords="offset points", va="center", size=7)
        elif quantity == "cpu_s":
            note = row.note.split(":")[0]
            axes.text(0.02, place, note, transform=axes.get_yaxis_transform(), va="center", size=7, color=GREY)
    if quantity == "cpu_s":
        for value in case.value[case.method == FLOOR]:
            axes.axvline(value, color=COLOURS["black"], ls="--", lw=0.8, zorder=0)
    axes.set_yticks(range(len(case)), case.method, fontsize=8)
    axes.set_ylim(len(case) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3, lw=0.5)


def _style(method: str) -> tuple[str, str]:
    if method in (FLOOR, RATE_FLOOR):
        return COLOURS["black"], "|"
    return (COLOURS["blue"], "o") if method in (OURS, RATE) or method in OWN_STAGES else (GREY, "s")

"""The growth share of deeper ResNets on digits, with skips and without: how what skips change depends on depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.evidence import Measurement, results
from grsd.studies.architectures import flows, tables, trained
from grsd.studies.architectures.cells import Cell, cell

DEEP = 8
DEPTHS = (2, 4, 8, 16)
RUNS = 8


@dataclass(frozen=True)
class Trend:
    """Pairs of cells of several depths with the same seeds: the slope in log2 of the depth of what a pair measures."""

    pairs: tuple[flows.Pair, ...] | tuple[trained.Pair, ...]


def of(skips: bool, depth: int) -> Cell:
    """ResNets of a depth on digits."""
    return cell("resnet", skips, "digits", depth)


def flow(skips: bool, depth: int) -> flows.Reading:
    """``of`` by gradient flow."""
    return flows.Reading(of(skips, depth), runs=RUNS)


def adam(skips: bool, depth: int) -> trained.Adam:
    """``of`` by Adam and cross-entropy."""
    return trained.Adam(of(skips, depth))


FLOWS = tuple(flows.Pair(flow(True, depth), flow(False, depth)) for depth in DEPTHS)
ADAMS = {depth: trained.Pair(adam(True, depth), adam(False, depth)) for depth in DEPTHS}


def slope(values: list[float]) -> float:
    """The least-squares slope of one value per depth of ``DEPTHS`` in log2 of the depth."""
    x = np.log2(DEPTHS)
    x = (x - x.mean()) / np.square(x - x.mean()).sum()
    return float(x @ values)


def share_trend(protocol: Trend, seed: int) -> float:
    """The slope of ``share_contrast``, with skips minus without."""
    measure = flows.share_contrast if isinstance(protocol.pairs[0], flows.Pair) else trained.share_contrast
    return slope([measure(pair, seed) for pair in protocol.pairs])


def beyond_trend(protocol: Trend, seed: int) -> float:
    """The slope of D_0^2 without skips minus that with skips."""
    return slope([-flows.beyond_contrast(pair, seed) for pair in protocol.pairs])


def depth_table() -> xr.Dataset:
    """One row per depth, with skips and without: the growth share of every seed, by each way that has a result."""
    cells = [(depth, skips) for depth in DEPTHS for skips in (True, False)]
    seeds, stored = range(flows.FIRST, flows.FIRST + RUNS), results()
    ways = {"flow": (flow, flows.growth_share), "adam": (adam, trained.growth_share)}
    columns = {
        way: (("cell", "seed"), [[share(protocol(skips, depth), seed) for seed in seeds] for depth, skips in cells])
        for way, (protocol, share) in ways.items()
        if TRENDS[way] in stored
    }
    columns["depth"] = ("cell", [depth for depth, _ in cells])
    table = xr.Dataset(columns, {"cell": np.arange(len(cells)), "seed": list(seeds)})
    return tables.labelled(table, [("resnet", "digits", skips) for _, skips in cells])


TRENDS = {
    "flow": "skips-depth-growth-share-resnet-digits",
    "adam": "skips-depth-growth-share-adam-resnet-digits",
}
MEASUREMENTS = {
    f"skips-growth-share-adam-resnet-{DEEP}-digits": Measurement(ADAMS[DEEP], trained.share_contrast),
    TRENDS["flow"]: Measurement(Trend(FLOWS), share_trend),
    "skips-depth-beyond-resnet-digits": Measurement(Trend(FLOWS), beyond_trend),
    TRENDS["adam"]: Measurement(Trend(tuple(ADAMS.values())), share_trend),
}
TABLES = {"12_architectures-depth": depth_table}

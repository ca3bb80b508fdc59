"""The growth share of deeper ResNets, by Adam and cross-entropy, with skips and without."""

from __future__ import annotations

import xarray as xr

from grsd.evidence import Measurement
from grsd.studies.architectures.cells import cell
from grsd.studies.architectures.trained import LEVELS, Adam, Pair, growth_share, share_contrast
from grsd.support.provenance import provenance

DEPTHS = (1, 3, 8)
SEEDS = range(4000, 4016)
DEEP = 8


def way(skips: bool, depth: int) -> Adam:
    """ResNets of a depth on digits."""
    return Adam(cell("resnet", skips, "digits", depth))


def depth_table() -> xr.Dataset:
    """``share(skips, depth, seed)``: the growth share of ResNets on digits, as ``trained.growth_share``."""
    found = [[[growth_share(way(own, depth), seed) for seed in SEEDS] for depth in DEPTHS] for own in (False, True)]
    coords = {"skips": [0, 1], "depth": list(DEPTHS), "seed": list(SEEDS)}
    settings = {"family": "resnet", "data": "digits", "levels": list(LEVELS)}
    return xr.Dataset({"share": (list(coords), found)}, coords, provenance(settings))


MEASUREMENTS = {
    f"skips-growth-share-adam-resnet-{DEEP}-digits": Measurement(
        Pair(way(True, DEEP), way(False, DEEP)), share_contrast
    )
}
TABLES = {"12_architectures-depth": depth_table}

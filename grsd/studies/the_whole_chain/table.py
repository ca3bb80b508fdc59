"""The table of notebook 10: one network per row, one link of the chain per column."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from grsd.studies.the_whole_chain.exponents import exponent
from grsd.studies.the_whole_chain.links import FEW_SEEDS, LINKS, SEEDS, Link, growth
from grsd.studies.the_whole_chain.networks import NETWORKS
from grsd.support.provenance import provenance

WHOLE = "residual chain, depth 8"
ROWS = (WHOLE, "residual chain, depth 4", "two layers", "two layers, one output", "chain without skips")
COLUMNS = ("C1", "C2", "C3", "C4, growth only", "C4, non-trivial", "closure", "covariance", "power law", "exponent")


def links_of(name: str) -> dict[str, Link]:
    """Every link of one of ``NETWORKS``: ``WHOLE`` on all confirmatory seeds, the others on the first eight."""
    chain, seeds = NETWORKS[name], SEEDS if name == WHOLE else SEEDS[:FEW_SEEDS]
    found = {link: judge(chain, seeds) for link, judge in LINKS.items()} | growth(chain, seeds)
    return found | {"exponent": exponent(name, seeds)}


def dataset_of(found: Mapping[str, Mapping[str, Link]]) -> xr.Dataset:
    """``verdict``, ``estimate``, ``low``, ``high`` and ``says`` over (network, link), one row for each of ``found``."""
    cells = [[links[link] for link in COLUMNS] for links in found.values()]
    parts = {"verdict": "verdict", "estimate": "value", "low": "low", "high": "high", "says": "says"}
    data = {
        name: (("network", "link"), np.array([[getattr(cell, field) for cell in row] for row in cells]))
        for name, field in parts.items()
    }
    return xr.Dataset(data, {"network": list(found), "link": list(COLUMNS)})


def chain_table() -> xr.Dataset:
    """``dataset_of`` the linear networks; no cell is empty."""
    found = {name: links_of(name) for name in ROWS}
    seeds = {"seeds": str(list(SEEDS)), "all_seeds": WHOLE, "seeds_of_others": FEW_SEEDS}
    return dataset_of(found).assign_attrs(provenance(seeds))


TABLES = {"10_the_whole_chain-table": chain_table}

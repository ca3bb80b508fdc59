"""The table of notebook 10: one network or one stated family a row, one link of the chain a column."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr

from grsd.studies.the_whole_chain.exponents import exponent
from grsd.studies.the_whole_chain.links import LINKS, SEEDS, Link, growth
from grsd.studies.the_whole_chain.networks import NETWORKS
from grsd.studies.the_whole_chain.perceptrons import PERCEPTRONS, links_of_perceptron
from grsd.support.provenance import provenance

COLUMNS = ("C1", "C2", "C3", "C4, growth only", "C4, non-trivial", "closure", "covariance", "power law", "exponent")


def links_of_chain(name: str) -> dict[str, Link]:
    """Every link of one of ``NETWORKS`` on the confirmatory seeds."""
    chain = NETWORKS[name]
    found = {link: judge(chain, SEEDS) for link, judge in LINKS.items()} | growth(chain, SEEDS)
    return found | {"exponent": exponent(name)}


ROWS: Mapping[str, Callable[[str], dict[str, Link]]] = dict.fromkeys(NETWORKS, links_of_chain) | dict.fromkeys(
    PERCEPTRONS, links_of_perceptron
)


def chain_table() -> xr.Dataset:
    """``verdict``, ``estimate``, ``low``, ``high`` and ``says`` over (network, link); no cell is empty."""
    found = {name: links(name) for name, links in ROWS.items()}
    axes = {"network": list(found), "link": list(COLUMNS)}
    cells = [[found[name][link] for link in COLUMNS] for name in found]
    parts = {"verdict": "verdict", "estimate": "value", "low": "low", "high": "high", "says": "says"}
    data = {
        name: (("network", "link"), np.array([[getattr(cell, field) for cell in row] for row in cells]))
        for name, field in parts.items()
    }
    return xr.Dataset(data, axes, attrs=provenance({"seeds": str(list(SEEDS))}))


TABLES = {"10_the_whole_chain-table": chain_table}

"""From lazy to rich learning by the scale of the outputs, an exploration: where the shells grow, and where they rotate.

No claim rests on it: pilot seeds, few runs a cell.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import numpy as np
import xarray as xr
from torch import Tensor, nn

from grsd.conditions.matched import budget_at_loss
from grsd.runs import Spec, run
from grsd.shells import transport_parts
from grsd.studies.architectures import flows
from grsd.studies.architectures.cells import Cell, cell
from grsd.studies.stages import REACH
from grsd.support.provenance import provenance

SCALES = (0.25, 1.0, 4.0, 16.0)
SEEDS = range(3)


class Centred(nn.Module):
    """``scale`` times what a network has learnt: its outputs minus those of its start.

    A large scale makes learning lazy: Chizat, Oyallon, Bach, arXiv 1812.07956.
    """

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.start = copy.deepcopy(network).requires_grad_(False)
        self.network, self.scale = network, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (self.network(x) - self.start(x))


def scaled(experiment: Mapping[str, object]) -> xr.Dataset:
    """``flows.follow`` the ``Centred`` network of a spec's fields, with ``output_scale`` and ``until``."""
    own = dict(experiment)
    scale, until = own.pop("output_scale"), own.pop("until")
    spec = Spec.from_dict(own)
    data = spec.batch()
    return flows.follow(spec, data, Centred(spec.network(data), scale), until)


def history(cell: Cell, scale: float, seed: int) -> xr.Dataset:
    """``scaled`` of a seed, kept in a file."""
    how = {"output_scale": scale, "until": flows.UNTIL}
    return run(cell.spec(seed).to_dict() | how, scaled, progress=False)


def point(cell: Cell, scale: float, seed: int) -> dict[str, float]:
    """One run at e^-1 of its first loss: shares of the squared flux, the clock, and ``log_growth``."""
    found = history(cell, scale, seed)
    budget = budget_at_loss("point", found, flows.SHELLS, flows.LOG_LOSS)
    frontier = -math.log(float(budget.time))
    parts = transport_parts(budget, window=(frontier - REACH, frontier))
    shares = {f"{part}_share": float(parts.share.sel(part=part)) for part in parts.part.values}
    top = found.largest_eigenvalue.interp(time=budget.time)
    grown = float(np.log(top / found.start_largest_eigenvalue))
    return shares | {"clock": float(parts.clock), "log_growth": grown}


def phase_table() -> xr.Dataset:
    """Over (scale, skips): means over ``SEEDS`` of ``point``, ResNets of 3 blocks on digits.

    ``log_growth``: of the largest eigenvalue since the start, which tells lazy learning (0) from rich.
    """
    rows = [
        [[point(cell("resnet", bool(skips)), scale, seed) for seed in SEEDS] for skips in (1, 0)] for scale in SCALES
    ]
    columns = {
        name: (("scale", "skips"), [[float(np.mean([row[name] for row in runs])) for runs in pair] for pair in rows])
        for name in rows[0][0][0]
    }
    table = xr.Dataset(columns, {"scale": list(SCALES), "skips": [1, 0]})
    return table.assign_attrs(provenance({"seeds": len(SEEDS), "first_seed": SEEDS[0]}))


TABLES = {"12_architectures-phase": phase_table}

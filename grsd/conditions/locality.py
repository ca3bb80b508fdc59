r"""Locality: from how far the flux through a boundary comes, in signed shares.

With F_c(Delta) the part of the flux between shells at most Delta apart, the share is the least-squares slope of
F(Delta) on F over runs and boundaries,

.. math:: \varphi(\Delta) = \sum_{rc} F_{rc}\, F_{rc}(\Delta) \Big/ \sum_{rc} F_{rc}^2 ,

so that no small flux is divided by; sums of |T| would count noise. This project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.laws.ensemble import jackknife_interval
from grsd.shells.blocks import blocks, check_factors
from grsd.support.values import level_of


@dataclass(frozen=True)
class Reach:
    """Locality of R runs.

    Attributes:
        distance: Delta (n,), in s. share, share_interval: phi (n,), (n, 2), 95 % jackknife.
        reach_90, interval: Delta_90, from which on the share stays within .1 of one, in s (interpolated).
        without: (R,) Delta_90 without each run.
        widths: (K,) block widths. neighbours, neighbours_interval: (K,), (K, 2) share of the flux that the two blocks
            beside the boundary exchange: one at the nearest-neighbour fixed point.
    """

    distance: np.ndarray
    share: np.ndarray
    share_interval: np.ndarray
    reach_90: float
    interval: tuple[float, float]
    without: np.ndarray
    widths: np.ndarray
    neighbours: np.ndarray
    neighbours_interval: np.ndarray


def reach(
    budgets: Sequence[xr.Dataset],
    *,
    factors: tuple[int, ...] = (1, 2, 4),
    window: tuple[float, float] | None = None,
    level: float = 0.95,
) -> Reach:
    """How far the exchange reaches, over R >= 4 runs. Arguments and errors as in ``closure``."""
    factors, level = check_factors("reach", factors), level_of("reach", level)
    found = blocks("reach", budgets, window)
    at = found.boundaries(max(factors))
    if not at.size:
        raise ValueError(
            f"reach(budgets): no unmasked boundary has {max(factors)} shells on either side; widen the window"
        )
    if not (np.square(found.flux[:, at - 1]).sum() > 0).any():
        raise ValueError("reach(budgets): nothing flows through any boundary in the window")
    steps = range(1, len(found.index))
    flux = found.flux[:, at - 1]
    shares = _slopes(flux, np.stack([found.reached(step, at) for step in steps]))
    blocked = _slopes(flux, np.stack([found.neighbours(factor, at) for factor in factors]))
    distance = np.array(steps) * found.width
    settled = np.array([_settled(distance, row) for row in shares])
    return Reach(
        distance=distance,
        share=shares[0],
        share_interval=np.array([jackknife_interval(column, level) for column in shares.T]),
        reach_90=float(settled[0]),
        interval=jackknife_interval(settled, level),
        without=settled[1:],
        widths=found.width * np.array(factors),
        neighbours=blocked[0],
        neighbours_interval=np.array([jackknife_interval(column, level) for column in blocked.T]),
    )


def _slopes(flux: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(1 + R, n) slopes of the parts (n, R, B) on the flux (R, B): of all runs, then without each."""
    along, size = (parts * flux).sum(-1), np.square(flux).sum(-1)
    alone = ((along.sum(1, keepdims=True) - along) / (size.sum() - size)).T
    return np.concatenate([(along.sum(1) / size.sum())[None], alone])


def _settled(distance: np.ndarray, share: np.ndarray) -> float:
    """Where the share enters the band .9 to 1.1 for good, linear between the distances."""
    far = np.flatnonzero(np.abs(share - 1) > 0.1)
    if not far.size:
        return float(distance[0])
    if far[-1] + 1 == len(share):
        raise ValueError("reach(budgets): the couplings do not add up to the flux; expected budgets of energy_budget")
    last = far[-1]
    edge = 0.9 if share[last] < 1 else 1.1
    part = (edge - share[last]) / (share[last + 1] - share[last])
    return float(distance[last] + part * (distance[last + 1] - distance[last]))

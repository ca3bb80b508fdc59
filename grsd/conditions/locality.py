r"""Locality: from how far the flux through a boundary comes, in signed shares.

Let F_c(Delta) be the part of the flux between shells at most Delta apart. Its share is the least-squares slope of
F(Delta) on F over runs and boundaries,

.. math:: \varphi(\Delta) = \sum_{rc} F_{rc}\, F_{rc}(\Delta) \Big/ \sum_{rc} F_{rc}^2 ,

which avoids dividing by small fluxes; sums of |T| would count noise. The measure is this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.conditions.contract import Estimate, Verdict, conclude
from grsd.conditions.matched import at_first_width, measure_at_loss
from grsd.evidence import DecisionRule
from grsd.laws.ensemble import jackknife_interval
from grsd.shells.blocks import blocks, check_factors
from grsd.support.arguments import required_window
from grsd.support.values import level_of

name = "locality"
paper = "locality of the exchange between shells"
reads = "history"

RULE = DecisionRule(
    statistic="Delta_90, from which on the share of the flux stays within .1 of one",
    direction="at most",
    threshold=2.773,
    reason="four shells of width log 2, the coarsest block: within it the flux is an affair of neighbours once the "
    "shells are merged twice",
)


@dataclass(frozen=True)
class LocalityRange:
    """Locality of R runs.

    Attributes:
        distance: Delta (n,), in s. share, share_interval: phi (n,), (n, 2), 95 % jackknife.
        distance_90, interval: Delta_90 in s (interpolated), beyond which the share stays within .1 of one.
        without: (R,) Delta_90 without each run.
        widths: (K,) block widths. neighbours, neighbours_interval: (K,), (K, 2) share of the flux that the two blocks
            beside the boundary exchange; it is one at the nearest-neighbour fixed point.
    """

    distance: np.ndarray
    share: np.ndarray
    share_interval: np.ndarray
    distance_90: float
    interval: tuple[float, float]
    without: np.ndarray
    widths: np.ndarray
    neighbours: np.ndarray
    neighbours_interval: np.ndarray


measure = measure_at_loss("locality")


def judge(
    ensemble: Sequence[xr.Dataset],
    *,
    factors: tuple[int, ...] = (1, 2, 4),
    window: tuple[float, float] | None = None,
) -> Verdict:
    """Judge whether the flux is local: nine tenths of it come from shells at most four log 2 apart.

    Args and errors: as in ``closure.judge``. Returns: a verdict on Delta_90 by our ``RULE``, inconclusive with fewer
    than 8 runs; its ``details`` are a ``LocalityRange``.
    """
    window = required_window("locality.judge", window)
    found = _ranged("locality.judge", "ensemble", ensemble, factors, window, RULE.confidence)
    verdict = RULE.verdict(*found.interval) if len(ensemble) >= RULE.seeds else "inconclusive"
    decided = Estimate("Delta_90", found.distance_90, found.interval, RULE.threshold)
    return conclude(name, verdict, decided, len(ensemble), found, least=RULE.seeds, confidence=RULE.confidence)


def locality_range(
    budgets: Sequence[xr.Dataset],
    *,
    factors: tuple[int, ...] = (1, 2, 4),
    window: tuple[float, float] | None = None,
    level: float = 0.95,
) -> LocalityRange:
    """Estimate how far the exchange reaches, over R >= 4 runs; without a window, in the whole spectrum.

    Other arguments and errors: as in ``closure.judge``.
    """
    return _ranged("locality_range", "budgets", budgets, factors, window, level)


def _ranged(
    call: str,
    argument: str,
    budgets: Sequence[xr.Dataset],
    factors: tuple[int, ...],
    window: tuple[float, float] | None,
    level: float,
) -> LocalityRange:
    factors, level = check_factors(call, factors), level_of(call, level)
    budgets = at_first_width(budgets)
    found = blocks(call, budgets, window, argument)
    at = found.boundaries(max(factors))
    if not at.size:
        raise ValueError(
            f"{call}({argument}): no unmasked boundary has {max(factors)} shells on either side; widen the window"
        )
    if not (np.square(found.flux[:, at - 1]).sum() > 0).any():
        raise ValueError(f"{call}({argument}): nothing flows through any boundary in the window")
    steps = range(1, len(found.index))
    flux = found.flux[:, at - 1]
    shares = _slopes(flux, np.stack([found.reached(step, at) for step in steps]))
    blocked = _slopes(flux, np.stack([found.neighbours(factor, at) for factor in factors]))
    distance = np.array(steps) * found.width
    settled = np.array([_settled(call, argument, distance, row) for row in shares])
    return LocalityRange(
        distance=distance,
        share=shares[0],
        share_interval=np.array([jackknife_interval(column, level) for column in shares.T]),
        distance_90=float(settled[0]),
        interval=jackknife_interval(settled, level),
        without=settled[1:],
        widths=found.width * np.array(factors),
        neighbours=blocked[0],
        neighbours_interval=np.array([jackknife_interval(column, level) for column in blocked.T]),
    )


def _slopes(flux: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return slopes (1 + R, n) of the parts (n, R, B) on the flux (R, B), for all runs, then without each."""
    along, size = (parts * flux).sum(-1), np.square(flux).sum(-1)
    alone = ((along.sum(1, keepdims=True) - along) / (size.sum() - size)).T
    return np.concatenate([(along.sum(1) / size.sum())[None], alone])


def _settled(call: str, argument: str, distance: np.ndarray, share: np.ndarray) -> float:
    """Return the distance beyond which the share stays between .9 and 1.1, by linear interpolation."""
    far = np.flatnonzero(np.abs(share - 1) > 0.1)
    if not far.size:
        return float(distance[0])
    if far[-1] + 1 == len(share):
        raise ValueError(
            f"{call}({argument}): the couplings do not add up to the flux; expected budgets of energy_budget"
        )
    last = far[-1]
    edge = 0.9 if share[last] < 1 else 1.1
    part = (edge - share[last]) / (share[last + 1] - share[last])
    return float(distance[last] + part * (distance[last + 1] - distance[last]))

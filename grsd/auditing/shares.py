"""What moved the shells' energies in one network: a frozen kernel, one that grows as a whole, or the rest.

Every e-fold that the loss falls counts alike, however small the energies have become.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.training.labelled import PARTS

LATE = 1.0  # e-folds of the loss at the end from which the clock is read
ROUNDING = 1e-12


@dataclass(frozen=True)
class Shares:
    """Of one network.

    Attributes:
        moved: what the motion of the kernel did to the shells' energies over how they changed, root mean square.
        growth: share of the squared flux that the best growth of the whole kernel gives; NaN without flux.
        clock: c in M ~ t^c over the last e-fold of the loss; NaN without times.
        drift: c in the later half of the steps of that e-fold minus that in the earlier one; 0 if there is one step.
        log_growth: e-folds by which the whole kernel grew.
        parts: signed shares of the change of the shells' energies, by the names in ``PARTS``; they add to one.
        fallen: e-folds by which the loss fell. ``position``: spectral position at the start and at the end.
    """

    moved: float
    growth: float
    clock: float
    drift: float
    log_growth: float
    parts: dict[str, float]
    fallen: float
    position: tuple[float, float]


def shares_of(between: xr.Dataset) -> Shares:
    """Read the shares from budgets between states along ``step``; dense, or Krylov's with its own growth."""
    dense = "growth" in between
    growth_name, lazy_name, rho_name = (
        ("growth", "laziness", "log_growth")
        if dense
        else ("growth_rayleigh", "laziness_rayleigh", "log_growth_rayleigh")
    )
    weight = weights(between)
    rows = between.transport.sum("shell_from").values
    change = (between.energy_after - between.energy_before).values
    size = np.square(change).sum(1)
    ratio = np.divide(np.square(rows).sum(1), size, out=np.zeros_like(size), where=size > 0)
    flux, growth = (through(between[name]) for name in ("transport", growth_name))
    along, square, grown = (flux * growth).sum(1), np.square(flux).sum(1), np.square(growth).sum(1)
    share = np.divide(along**2, square * grown, out=np.full_like(square, np.nan), where=(square > 0) & (grown > 0))
    rho = between[rho_name].values
    lazy = between[lazy_name].values if lazy_name in between else np.full((len(rho), len(PARTS)), np.nan)
    ends = [f"spectral_position_{side}" for side in ("before", "after")]
    position = tuple(
        float(between[name][k]) if name in between else np.nan for name, k in zip(ends, (0, -1), strict=True)
    )
    clock, drift = _clock(between, rho)
    return Shares(
        moved=float(np.sqrt(mean(ratio, weight))),
        growth=mean(share, weight),
        clock=clock,
        drift=drift,
        log_growth=float(np.nansum(rho)),
        parts={name: mean(lazy[:, k], weight) for k, name in enumerate(PARTS)},
        fallen=float(np.log(between.loss_before.values[0] / between.loss_after.values[-1])),
        position=position,
    )


def weights(between: xr.Dataset) -> np.ndarray:
    """Return by how many e-folds the loss falls in each step, 0 where it rises."""
    return np.maximum(np.log(between.loss_before.values / between.loss_after.values), 0.0)


def mean(values: np.ndarray, weight: np.ndarray) -> float:
    """Return the weighted mean of the finite values; NaN if there are none."""
    kept = np.isfinite(values) & (weight > 0)
    return float((values[kept] * weight[kept]).sum() / weight[kept].sum()) if kept.any() else float("nan")


def through(pairs: xr.DataArray) -> np.ndarray:
    """Return the flux through each boundary (step, boundary) of antisymmetric transport between pairs of shells."""
    net = pairs.sum("shell_from").values
    return net[..., ::-1].cumsum(-1)[..., ::-1][..., 1:]


def _clock(between: xr.Dataset, grown: np.ndarray) -> tuple[float, float]:
    """Return c over the last e-fold of the loss, by how much the whole kernel grew over log time, and its drift."""
    if "time_before" not in between:
        return float("nan"), 0.0
    left = np.log(between.loss_before.values / between.loss_after.values[-1])
    late = (left <= LATE + 1e-9) & (between.time_before.values > 0) & np.isfinite(grown)
    late[-1] |= bool(np.isfinite(grown[-1]))
    if not late.any():
        return float("nan"), 0.0
    passed = np.log(between.time_after.values / np.maximum(between.time_before.values, 1e-300))
    grown, passed, half = grown[late], passed[late], int(late.sum()) // 2
    ends = [grown[part].sum() / passed[part].sum() for part in (slice(half, None), slice(None, half)) if half]
    return float(grown.sum() / passed.sum()), float(ends[0] - ends[1]) if half else 0.0

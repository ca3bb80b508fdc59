"""The law of the velocities, u = [r +] c e^{(b-1)(s - s_0)}."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from grsd.laws.ensemble import Ensemble
from grsd.laws.fit import LawFit, fit_law
from grsd.shells.common import common_shells, same_runs
from grsd.support.arguments import optional_window
from grsd.support.values import flag


def velocity_law(
    budgets: Sequence[xr.Dataset],
    *,
    scale: bool = False,
    window: tuple[float, float] | None = None,
    reference: float | None = None,
    level: float = 0.95,
) -> LawFit:
    """Fit u = c e^{(b-1)(s - s_0)}, with ``scale`` u = r + c e^{(b-1)(s - s_0)}, to the velocities of R >= 4 runs.

    Args:
        budgets: one energy budget per run, over common shells, at matched states of the runs.
        scale: also fit a common scale r; the fit is then not ``conclusive`` for b near 1.
        window: (low, high) in s of the boundaries used; ``None``: all boundaries that no run masks. Judge the law at
            and below the frontier lambda t = 1, and away from the ends of the spectrum.
        reference: s_0; ``None``: the middle of the fitted boundaries. Far from the data c inherits the error of b.
        level: of the intervals.

    Source: this project's. Cost: negligible.
    Errors: ``ValueError`` for fewer than 4 runs, or unless there are more common unmasked boundaries than parameters.
    """
    flag("velocity_law", "scale", scale)
    return fit_law("velocity", velocities("velocity_law", budgets, scale=scale, window=window), reference, level)


def pooled_velocities(
    call: str, widths: Sequence[Sequence[xr.Dataset]], *, window: tuple[float, float] | None
) -> Ensemble:
    """Return u at the boundaries of several shell widths over the same runs, by increasing s.

    A boundary that several widths share counts once: u depends on the smoothing, not on the width.
    """
    widths = same_runs(call, "budgets", widths, "width")
    parts = [_boundaries(call, item, window) for item in widths]
    flux, density, x = (np.concatenate(item, axis=-1) for item in zip(*parts, strict=True))
    _, order = np.unique(np.round(x, 9), return_index=True)
    return _ensemble(flux[:, order], density[:, order], x[order], scale=False).enough_for(call, 2)


def velocities_over_times(
    call: str, budgets: Sequence[Sequence[xr.Dataset]], times: np.ndarray, *, window: tuple[float, float] | None
) -> tuple[Ensemble, np.ndarray]:
    """Return t u by increasing x = log(lambda t), and the index of each value's time; ``window`` is in x."""
    budgets = same_runs(call, "budgets, times", budgets, "time")
    if len(budgets) != len(times):
        raise ValueError(f"{call}(budgets, times): expected the same number of runs at each of the times")
    low, high = optional_window(call, window)
    fluxes, densities, places, which = [], [], [], []
    for number, (item, time) in enumerate(zip(budgets, times, strict=True)):
        flux, density, s = _boundaries(call, item, (low - np.log(time), high - np.log(time)))
        fluxes.append(time * flux)
        densities.append(density)
        places.append(s + np.log(time))
        which.append(np.full(len(s), number))
    flux, density, x, which = (np.concatenate(item, axis=-1) for item in (fluxes, densities, places, which))
    order = np.argsort(x, kind="stable")
    return _ensemble(flux[:, order], density[:, order], x[order], scale=False).enough_for(call, 2), which[order]


def velocities(
    call: str, budgets: Sequence[xr.Dataset], *, scale: bool, window: tuple[float, float] | None
) -> Ensemble:
    """Return u = sum F / sum eps over runs at the unmasked boundaries in the window."""
    return _ensemble(*_boundaries(call, budgets, window), scale=scale).enough_for(call, 2 + scale)


def _boundaries(
    call: str, budgets: Sequence[xr.Dataset], window: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    common = common_shells(call, budgets, window)
    x = common.index[1:] * common.width
    kept = (common.boundaries("boundary_mask") == 0).all(0) & (x >= common.low) & (x <= common.high)
    flux, density = (common.boundaries(name)[:, kept] for name in ("flux", "density"))
    return flux, density, x[kept]


def _ensemble(flux: np.ndarray, density: np.ndarray, x: np.ndarray, *, scale: bool) -> Ensemble:
    none, ones = np.zeros(len(x), dtype=int), np.ones((len(flux) + 1, len(x)))
    return Ensemble(flux, density, x, none, none, ones, scale)

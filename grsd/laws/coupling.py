"""The law of the couplings, K_ab = kappa(a-b) e^{(b-1)((s_a+s_b)/2 - s_0)}."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from grsd.laws.ensemble import Ensemble, leave_out
from grsd.laws.fit import LawFit, fit_law
from grsd.shells.common import CommonShells, common_shells
from grsd.support.values import flag, whole_number


def coupling_law(
    budgets: Sequence[xr.Dataset],
    *,
    k_max: int = 2,
    scale: bool = False,
    window: tuple[float, float] | None = None,
    reference: float | None = None,
    level: float = 0.95,
) -> LawFit:
    """Fit K_ab = kappa(a-b) e^{(b-1)((s_a+s_b)/2 - s_0)}, 1 <= a - b <= k_max, to the couplings of R >= 4 runs.

    K is the mean over runs of T_ab / sqrt(E_a E_b). The end shells, which reach to infinity, are left out; ``window``
    must contain both shells of a pair completely. ``scale`` fits the term r eps(s) / sqrt(E_a E_b) that a common scale
    adds to neighbours (exactly, if no eigenvalue lies in three windows). Other arguments and errors: as in
    ``velocity_law``; k_max must be less than R, or the joint region has no degrees of freedom. Source: this project's.
    """
    flag("coupling_law", "scale", scale)
    observed = couplings("coupling_law", budgets, k_max=k_max, scale=scale, window=window)
    return fit_law("coupling", observed, reference, level)


def couplings(
    call: str, budgets: Sequence[xr.Dataset], *, k_max: int, scale: bool, window: tuple[float, float] | None
) -> Ensemble:
    """Return K_ab of the unmasked pairs of shells in the window; its value is the mean of the runs' own K_ab."""
    common, lower, upper = pairs(call, budgets, k_max, window)
    index, width, places = common.index, common.width, common.places()
    distance = index[upper] - index[lower]
    found = np.unique(distance)
    energy, density = common.shells("energy"), common.boundaries("density")
    root = np.sqrt(energy[:, upper] * energy[:, lower])
    exchanged = [b.coupling.values[np.ix_(at, at)][upper, lower] for b, at in zip(budgets, places, strict=True)]
    pumped = np.where(distance == 1, density[:, np.minimum(lower, density.shape[1] - 1)], 0.0)
    x = (index[lower] + index[upper] + 1) * width / 2
    group = np.searchsorted(found, distance)
    normalized, ones = np.stack(exchanged) / root, np.ones_like(root)
    ensemble = Ensemble(normalized, ones, x, group, distance, leave_out(pumped / root), scale)
    return ensemble.enough_for(call, len(found) + 1 + scale)


def pairs(
    call: str,
    budgets: Sequence[xr.Dataset],
    k_max: int,
    window: tuple[float, float] | None,
    name: str = "budgets",
) -> tuple[CommonShells, np.ndarray, np.ndarray]:
    """Return the common shells and the positions (lower, upper) of their unmasked pairs at most ``k_max`` apart.

    End shells, which reach to infinity, are left out. Errors: ``ValueError`` unless each separation has a pair.
    """
    common = common_shells(call, budgets, window, name)
    whole_number(call, "k_max", k_max, 1)
    if k_max >= len(common.budgets):
        raise ValueError(f"{call}(k_max=...): expected fewer than the {len(common.budgets)} runs, got {k_max}")
    index, width = common.index, common.width
    kept = (common.shells("mask") == 0).all(0)
    kept &= (index * width >= common.low - 1e-9) & ((index + 1) * width <= common.high + 1e-9)
    for at, budget in zip(common.places(), budgets, strict=True):
        kept &= (at > 0) & (at < len(budget.shell_index) - 1)
    lower, upper = np.nonzero(np.triu(kept[:, None] & kept[None, :], 1))
    distance = index[upper] - index[lower]
    lower, upper = lower[distance <= k_max], upper[distance <= k_max]
    if len(np.unique(index[upper] - index[lower])) < k_max:
        raise ValueError(f"{call}(k_max={k_max}): no unmasked pair of shells for some separation in the window")
    return common, lower, upper

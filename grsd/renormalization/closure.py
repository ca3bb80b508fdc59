r"""Closure: whether the local state of shells of width h predicts the flux through their boundaries.

Energies, dissipation and couplings merge exactly by sums, and the flux through a boundary does not depend on the width;
that F = u eps is a tautology. So closure is a question about the state. With phi_c = sqrt(E_{c-1} E_c) at width h,

.. math:: r^2(h) = \Big\langle \frac{\sum_r (F_{rc} - U_c \phi_{rc})^2}{\sum_r F_{rc}^2} \Big\rangle_c ,

U_c fitted without run r, over the boundaries that all widths have. The same with the states of other runs, r_perm, is
what remains if phi says nothing about F. This definition is this project's; that the four conditions make the shell
dynamics renormalizable is arXiv 2512.18209's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.checks import whole
from grsd.laws.ensemble import common_shells, jackknife_interval
from grsd.shells import merge_shells

LEAST_VARIATION = 0.05


@dataclass(frozen=True)
class Closure:
    """Closure of an ensemble of R runs.

    Attributes:
        widths: h, 2h, 4h, ... (K,). boundaries: s (B,), common to all of them.
        defect: r (K,). permuted: r_perm (K,), the root mean square over permutations of the states among runs.
        ratio, ratio_interval: r / r_perm at the coarsest width, and its jackknife interval over runs.
        slope, slope_interval: of log r on log h.
        variation: smallest over widths of the mean standard deviation of log phi over runs.
        verdict: "closed" where the interval of the ratio is at most .5 and that of the slope at most .1; "not closed"
            where one of them is wholly above; "inconclusive" otherwise, and where phi hardly varies.
    """

    widths: np.ndarray
    boundaries: np.ndarray
    defect: np.ndarray
    permuted: np.ndarray
    ratio: float
    ratio_interval: tuple[float, float]
    slope: float
    slope_interval: tuple[float, float]
    variation: float
    verdict: str


def closure(
    budgets: Sequence[xr.Dataset],
    *,
    steps: int = 2,
    window: tuple[float, float] | None = None,
    permutations: int = 200,
    level: float = 0.95,
    most_ratio: float = 0.5,
    most_slope: float = 0.1,
) -> Closure:
    """The closure defect of R >= 6 energy budgets at the finest width h, and after each of ``steps`` block-spin steps.

    Args:
        budgets: one a run, at matched states of the runs, over common shells of one width.
        window: (low, high) in s of the boundaries used; all that no run masks otherwise.
        permutations: of states among runs, drawn with a fixed seed.
        level: of the jackknife intervals. most_ratio, most_slope: the thresholds of the verdict.

    Cost: negligible. Errors: ``ValueError`` for fewer than 6 runs, or no boundary common to all widths.
    """
    if len(budgets) < 6:
        raise ValueError(f"closure(budgets): expected at least 6 runs, got {len(budgets)}")
    whole("closure", "steps", steps, 1)
    whole("closure", "permutations", permutations, 1)
    merged = [[merge_shells(budget, 2**step) for budget in budgets] for step in range(steps + 1)]
    states, fluxes, places, kept = [], [], [], []
    for level_budgets in merged:
        common = common_shells("closure", level_budgets, window)
        energy, flux = common.shells("energy"), common.boundaries("flux")
        states.append(np.sqrt(energy[:, :-1] * energy[:, 1:]))
        fluxes.append(flux)
        places.append(np.round(common.index[1:] * common.width, 9))
        fine = (common.boundaries("boundary_mask") == 0).all(0) & (states[-1] > 0).all(0)
        kept.append(set(places[-1][fine & (places[-1] >= common.low) & (places[-1] <= common.high)]))
    shared = np.array(sorted(set.intersection(*kept)))
    if not shared.size:
        raise ValueError("closure(budgets): no unmasked boundary is common to all widths; widen the window")
    picked = [np.isin(place, shared) for place in places]
    phi = np.stack([state[:, chosen] for state, chosen in zip(states, picked, strict=True)])
    flux = fluxes[0][:, picked[0]]
    widths = np.array([level_budgets[0].attrs["shell_width"] for level_budgets in merged])

    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(budgets)) for _ in range(permutations)]
    everyone = np.arange(len(budgets))
    keeps = [everyone, *(np.delete(everyone, run) for run in everyone)]
    real = np.stack([_defect(phi[:, keep], flux[keep]) for keep in keeps])
    shuffled = np.stack([_shuffled(phi[:, keep], flux[keep], orders, keep) for keep in keeps])
    ratios = real[:, -1] / shuffled[:, -1]
    slopes = np.polyfit(np.log(widths), np.log(np.maximum(real, 1e-12)).T, 1)[0]
    ratio_interval, slope_interval = (jackknife_interval(values, level) for values in (ratios, slopes))
    variation = float(np.log(phi).std(axis=1, ddof=1).mean(-1).min())
    verdict = "inconclusive"
    if variation >= LEAST_VARIATION:
        if ratio_interval[1] <= most_ratio and slope_interval[1] <= most_slope:
            verdict = "closed"
        elif ratio_interval[0] > most_ratio or slope_interval[0] > most_slope:
            verdict = "not closed"
    return Closure(
        widths=widths,
        boundaries=shared,
        defect=real[0],
        permuted=shuffled[0],
        ratio=float(ratios[0]),
        ratio_interval=ratio_interval,
        slope=float(slopes[0]),
        slope_interval=slope_interval,
        variation=variation,
        verdict=verdict,
    )


def _defect(phi: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """r (K,) of states (K, R, B) and fluxes (R, B)."""
    along, size = (phi * flux).sum(1, keepdims=True), np.square(phi).sum(1, keepdims=True)
    others = (along - phi * flux) / (size - np.square(phi))
    missed = np.square(flux - others * phi).sum(1) / np.square(flux).sum(0)
    return np.sqrt(missed.mean(-1))


def _shuffled(phi: np.ndarray, flux: np.ndarray, orders: Sequence[np.ndarray], keep: np.ndarray) -> np.ndarray:
    place = {run: at for at, run in enumerate(keep)}
    squares = [
        np.square(_defect(phi[:, [place[run] for run in order if run in place]], flux)) for order in orders
    ]
    return np.sqrt(np.mean(squares, axis=0))

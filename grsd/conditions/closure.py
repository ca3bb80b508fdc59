r"""Closure: whether the local state of the shells beside a boundary predicts the flux through it, at every width.

Energies and couplings merge by exact sums, the flux F_c through a boundary does not depend on the width, and F = u eps
is a tautology. So closure is a question about the state. Let phi_c = sqrt(E_below E_above), with the energies of the
blocks of width m h below and above the boundary. For runs r at matched states the defect is

.. math:: r^2(mh) = \Big\langle \frac{\sum_r (F_{rc} - U_c \phi_{rc})^2}{\sum_r F_{rc}^2} \Big\rangle_c ,

where U_c is fitted without run r. r_perm is the same with the states of other runs: the defect if phi tells nothing
about F. The claim that the four conditions make the shell dynamics renormalizable is arXiv 2512.18209's; this measure
is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from grsd.conditions.contract import Estimate, Verdict, conclude
from grsd.conditions.matched import at_first_width, measure_at_loss
from grsd.evidence import DecisionRule
from grsd.laws.ensemble import jackknife_interval
from grsd.shells.blocks import blocks, check_factors
from grsd.support.arguments import required_window
from grsd.support.values import whole_number

name = "closure"
paper = "a renormalizable coarse-grained description"
reads = "history"

LEAST_VARIATION = 0.05
MOST_PERMUTATIONS = 100_000
RULE = DecisionRule(
    statistic="r / r_perm, the largest over widths",
    direction="at most",
    threshold=0.5,
    reason="the run's own state halves the error that another run's makes; 0 is a closed description, 1 says nothing",
)


@dataclass(frozen=True)
class Closure:
    """Closure of an ensemble of R runs; the verdict's estimate is the largest over widths of r / r_perm.

    Attributes:
        without: (R,) the estimate without each run.
        p: share of the permutations of states among runs (including the identity) whose mean log r is at most the
            observed one.
        widths: h, 2h, 4h (K,). defect, permuted: r and r_perm (K,). boundaries: s (B,), common to all widths.
        slope, slope_interval: of log r on log width.
        variation: standard deviation over runs of log phi, mean over boundaries, smallest over widths.
    """

    without: np.ndarray
    p: float
    widths: np.ndarray
    defect: np.ndarray
    permuted: np.ndarray
    boundaries: np.ndarray
    slope: float
    slope_interval: tuple[float, float]
    variation: float


measure = measure_at_loss("closure")


def judge(
    ensemble: Sequence[xr.Dataset],
    *,
    factors: tuple[int, ...] = (1, 2, 4),
    window: tuple[float, float] | None = None,
    permutations: int = 199,
) -> Verdict:
    """Judge closure by the defect of R >= 4 energy budgets at the finest width and after block spin.

    Args:
        ensemble: one budget per run, at matched states of the runs, over common shells; the first width is used.
        factors: block sizes in units of the finest shells.
        window: (low, high) in s of the boundaries, required because the verdict depends on it; infinite ends take all
            boundaries. Boundaries that a run masks, or with less than the largest block on either side, are left out.
        permutations: number of permutations of states among runs, drawn with a fixed seed.

    Returns: a verdict whose ``details`` are a ``Closure``. By our rule it holds (the shells are closed) if the upper
    limit of the ratio is at most .5 and p <= .05, and fails if the lower limit is above .5. It is inconclusive
    otherwise, with fewer than 8 runs, and if log phi varies by less than .05 over runs (states then hardly differ).
    Cost: negligible.
    Errors: ``ValueError`` for fewer than 4 runs, runs whose shells differ, or no boundary with enough shells beside it.
    """
    factors = check_factors("closure.judge", factors)
    if whole_number("closure.judge", "permutations", permutations, 19) > MOST_PERMUTATIONS:
        raise ValueError(f"closure.judge(permutations=...): expected at most {MOST_PERMUTATIONS}, got {permutations}")
    window = required_window("closure.judge", window)
    ensemble = at_first_width(ensemble)
    found = blocks("closure.judge", ensemble, window, "ensemble")
    at = found.boundaries(max(factors))
    phi = np.stack([found.states(factor, at) for factor in factors])
    flux = found.flux[:, at - 1]
    fine = (phi > 0).all((0, 1)) & (np.abs(flux) > 0).any(0)
    at, phi, flux = at[fine], phi[:, :, fine], flux[:, fine]
    if not at.size:
        raise ValueError(
            f"closure.judge(ensemble): no unmasked boundary has {max(factors)} shells on either side; widen the window"
        )
    rng = np.random.default_rng(0)
    orders = np.stack([rng.permutation(len(ensemble)) for _ in range(permutations)])
    everyone = np.arange(len(ensemble))
    keeps = [everyone, *(np.delete(everyone, run) for run in everyone)]
    real = np.stack([defect(phi[:, keep], flux[keep]) for keep in keeps])
    shuffled = [_shuffled(phi, flux, orders, keep) for keep in keeps]
    null = np.stack([np.sqrt(np.square(defects).mean(1)) for defects in shuffled])
    ratios = (real / null).max(1)
    widths = found.width * np.array(factors)
    slopes = np.polyfit(np.log(widths), np.log(np.maximum(real, 1e-12)).T, 1)[0]
    interval = jackknife_interval(ratios, RULE.confidence)
    variation = float(np.log(phi).std(axis=1, ddof=1).mean(-1).min())
    scores = np.log(np.maximum(shuffled[0], 1e-12)).mean(0)
    p = float((1 + (scores <= np.log(np.maximum(real[0], 1e-12)).mean()).sum()) / (1 + permutations))
    verdict = RULE.verdict(*interval)
    if len(ensemble) < RULE.seeds or variation < LEAST_VARIATION or (verdict == "holds" and p > 0.05):
        verdict = "inconclusive"
    details = Closure(
        without=ratios[1:],
        p=p,
        widths=widths,
        defect=real[0],
        permuted=null[0],
        boundaries=found.index[at] * found.width,
        slope=float(slopes[0]),
        slope_interval=jackknife_interval(slopes, RULE.confidence),
        variation=variation,
    )
    also = f"permuted states give p = {p:.3f}"
    if variation < LEAST_VARIATION:
        also = f"states vary by {variation:.2g} over runs, too little to tell one from another"
    return conclude(
        name,
        verdict,
        Estimate("the largest r / r_perm", float(ratios[0]), interval, RULE.threshold),
        len(ensemble),
        details,
        least=RULE.seeds,
        confidence=RULE.confidence,
        also=also,
    )


def defect(phi: Float[np.ndarray, "... R B"], flux: Float[np.ndarray, "R B"]) -> np.ndarray:
    """Return r of the states, with each run's U_c fitted to the other runs."""
    along, size = (phi * flux).sum(-2, keepdims=True), np.square(phi).sum(-2, keepdims=True)
    others = (along - phi * flux) / (size - np.square(phi))
    missed = np.square(flux - others * phi).sum(-2) / np.square(flux).sum(0)
    return np.sqrt(missed.mean(-1))


def _shuffled(
    phi: Float[np.ndarray, "K R B"], flux: Float[np.ndarray, "R B"], orders: Int[np.ndarray, "P R"], keep: np.ndarray
) -> Float[np.ndarray, "K P"]:
    """Return r of the kept runs with permuted states; the permutations do not depend on the run left out."""
    kept = orders[np.isin(orders, keep)].reshape(len(orders), len(keep))
    return defect(phi[:, kept], flux[keep])

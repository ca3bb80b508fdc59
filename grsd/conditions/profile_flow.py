r"""The flow of the coupling profile under block spin.

If K_ab = kappa(a-b) e^{(b-1)(s_a+s_b)/2}, where s_a are the middles of shells of width h, and E_a ~ e^{gamma s_a}, then
blocks of m shells follow the same law with

.. math:: \kappa_{mh}(k) = \frac{\sum_{i,j=0}^{m-1} \kappa(mk + i - j)\, e^{\beta h (i + j - m + 1)/2}}
                                {\sum_{i=0}^{m-1} e^{\gamma h (i - (m-1)/2)}}, \qquad \beta = b - 1 + \gamma ;

for m = 2 this is [kappa(2k-1) + kappa(2k+1) + 2 cosh(beta h/2) kappa(2k)] / (2 cosh(gamma h/2)). A profile of short
range flows to one with nearest neighbours only; a power of k stays a power over much of its range. The computation is
this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy import stats

from grsd.conditions.contract import Estimate, Verdict, conclude
from grsd.conditions.matched import at_first_width, measure_at_loss
from grsd.evidence import DecisionRule
from grsd.laws import coupling_law
from grsd.shells.blocks import Blocks, blocks, check_factors
from grsd.shells.windows import MOST_SHELLS
from grsd.support.arguments import listed, required_window, vector
from grsd.support.values import number, positive, said, whole_number

name = "profile_flow"
paper = "the flow of the couplings under coarse-graining"
reads = "history"

LEAST_RUNS = 5
LARGEST_LOG = 200.0
RULE = DecisionRule(
    statistic="largest |kappa(k)/kappa(1) at mh minus what the map makes of the profile at h|",
    direction="at most",
    threshold=0.02,
    reason="pilots of 8 noisy runs: planted laws stay under .01, a reach that doubles over 3 e-folds departs by .03",
)


def coarser_profile(
    kappa: Float[np.ndarray, " K"], width: float, exponent: float, growth: float, factor: int = 2
) -> Float[np.ndarray, " k"]:
    """Map kappa(1) .. kappa(K) at width h to kappa(1), kappa(2), ... at width ``factor`` h, in the same units.

    ``width``: h; ``exponent``: b; ``growth``: gamma. kappa is zero beyond K. Returns all values that can differ from
    zero; they are exact under the law.
    """
    call = "coarser_profile"
    kappa = vector(call, "kappa", kappa, wanted="kappa(1), kappa(2), ...")
    if whole_number(call, "factor", factor, 1) > MOST_SHELLS:
        raise ValueError(f"{call}(factor=...): expected at most {MOST_SHELLS} shells, got {said(factor)}")
    h, m = positive(call, "width", width), whole_number(call, "factor", factor, 1)
    beta = number(call, "exponent", exponent) - 1 + number(call, "growth", growth)
    grown = h * m * max(abs(beta), abs(growth))
    if grown > LARGEST_LOG:
        raise ValueError(
            f"{call}(width, exponent, growth, factor): expected factors e^x over a block, x at most "
            f"{LARGEST_LOG:g}, got {grown:.3g}"
        )
    count = (len(kappa) + m - 1) // m
    padded = np.zeros(m * (count + 1))
    padded[1 : len(kappa) + 1] = kappa
    i, j = np.meshgrid(np.arange(m), np.arange(m), indexing="ij")
    weight = np.exp(beta * h * (i + j - m + 1) / 2)
    size = np.exp(growth * h * (np.arange(m) - (m - 1) / 2)).sum()
    return np.array([(padded[m * k + i - j] * weight).sum() for k in range(1, count + 1)]) / size


@dataclass(frozen=True)
class ProfileFlow:
    """The measured flow of kappa(k)/kappa(1) and the flow that the map predicts.

    The verdict's estimate is the largest |measured - mapped|, with a simultaneous 95 % interval (Bonferroni over the
    entries).

    Attributes:
        studentized, critical: the largest |difference| in standard errors, and its critical value at 5 %.
        factors: block sizes beyond 1 (F,). separations: k = 2, 3, ... (S,).
        finest: kappa(k)/kappa(1) at h for k = 2, 3, ... (S,), with ``finest_error``.
        measured, mapped: (F, S) at ``factor`` h; NaN if no pair of blocks fits. error: of their difference.
        exponent, growth: b and gamma.
    """

    studentized: float
    critical: float
    factors: tuple[int, ...]
    separations: np.ndarray
    finest: np.ndarray
    finest_error: np.ndarray
    measured: np.ndarray
    mapped: np.ndarray
    error: np.ndarray
    exponent: float
    growth: float


measure = measure_at_loss("profile_flow")


def judge(
    ensemble: Sequence[xr.Dataset],
    *,
    factors: tuple[int, ...] = (1, 2, 4),
    separations: int = 2,
    window: tuple[float, float] | None = None,
) -> Verdict:
    """Compare kappa(k)/kappa(1), k = 2 .. ``separations``, of blocks with the map of the profile at the finest width.

    b comes from ``coupling_law`` (k_max 2), gamma is the slope of the log of the mean energies, and kappa at each width
    is the least-squares amplitude for that b. A jackknife repeats this without each run. ``window``, required as in
    ``closure``, must contain complete blocks. Returns: a verdict by our ``RULE`` on the simultaneous interval,
    inconclusive with fewer than 8 runs; its ``details`` are a ``ProfileFlow``.
    Errors: ``ValueError`` for fewer than 5 runs, or no block pair at any coarser width.
    """
    ensemble = listed("profile_flow.judge", "ensemble", ensemble, "runs", LEAST_RUNS)
    factors = check_factors("profile_flow.judge", factors)
    if whole_number("profile_flow.judge", "separations", separations, 2) > MOST_SHELLS:
        raise ValueError(
            f"profile_flow.judge(separations=...): expected at most {MOST_SHELLS}, got {said(separations)}"
        )
    window = required_window("profile_flow.judge", window)
    ensemble = at_first_width(ensemble)
    found = blocks("profile_flow.judge", ensemble, window, "ensemble")
    if not (found.energy[:, found.whole] > 0).all():
        raise ValueError("profile_flow.judge(ensemble): expected energies above 0 in every shell of the window")
    runs = np.arange(len(ensemble))
    ratios = []
    for keep in [runs, *(np.delete(runs, run) for run in runs)]:
        law = coupling_law([ensemble[run] for run in keep], window=window)
        ratios.append(_ratios(found.only(keep), law.exponent, factors, separations))
    measured, mapped = (np.stack(part) for part in zip(*((m, p) for m, p, _ in ratios), strict=True))
    growth = ratios[0][2]
    difference = measured[:, 1:] - mapped[:, 1:]
    known = np.isfinite(difference[0])
    if not known.any():
        raise ValueError(
            "profile_flow.judge(ensemble): no two blocks fit into the window at a coarser width; widen the window"
        )
    critical = float(stats.t.ppf(1 - 0.025 / known.sum(), len(runs) - 1))
    error = _jackknife_error(difference)
    size = np.abs(difference[0])
    interval = float(np.nanmax(np.maximum(size - critical * error, 0))), float(np.nanmax(size + critical * error))
    exact = np.nanmax(error) < 1e-9
    verdict = RULE.verdict(*interval) if len(runs) >= RULE.seeds else "inconclusive"
    details = ProfileFlow(
        studentized=0.0 if exact else float(np.nanmax(size / error)),
        critical=critical,
        factors=factors[1:],
        separations=np.arange(2, separations + 1),
        finest=measured[0, 0],
        finest_error=_jackknife_error(measured[:, 0]),
        measured=measured[0, 1:],
        mapped=mapped[0, 1:],
        error=error,
        exponent=float(coupling_law(ensemble, window=window).exponent),
        growth=growth,
    )
    what = "the largest |kappa(k)/kappa(1) minus that of the map|"
    decided = Estimate(what, float(np.nanmax(size)), interval, RULE.threshold)
    return conclude(name, verdict, decided, len(runs), details, least=RULE.seeds, confidence=RULE.confidence)


def _ratios(
    found: Blocks, exponent: float, factors: tuple[int, ...], separations: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return kappa(k)/kappa(1), k = 2 .. ``separations``, measured and mapped, each (factors, S), and gamma."""
    s = (found.index[found.whole] + 0.5) * found.width
    growth = float(np.polyfit(s, np.log(found.energy[:, found.whole].mean(0)), 1)[0])
    far = max(factors) * (separations + 1) - 1
    fine = np.array([_amplitude(found, 1, k, exponent) for k in range(1, far + 1)])
    shape = len(factors), separations - 1
    measured, mapped = np.full(shape, np.nan), np.full(shape, np.nan)
    for row, factor in enumerate(factors):
        kappa = np.array([_amplitude(found, factor, k, exponent) for k in range(1, separations + 1)])
        measured[row] = kappa[1:] / kappa[0]
        blocked = coarser_profile(np.nan_to_num(fine), found.width, exponent, growth, factor)
        mapped[row] = np.where(np.isfinite(kappa[1:]), blocked[1:separations] / blocked[0], np.nan)
    return measured, mapped, growth


def _amplitude(found: Blocks, factor: int, distance: int, exponent: float) -> float:
    """Return kappa of blocks by least squares over their positions; NaN if no pair of blocks fits."""
    couplings, middle = found.pairs(factor, distance)
    if not middle.size:
        return np.nan
    shape = np.exp((exponent - 1) * middle)
    return float((couplings.mean(0) @ shape) / (shape @ shape))


def _jackknife_error(estimates: np.ndarray) -> np.ndarray:
    """Return the jackknife error of (1 + R, ...) estimates, of which the first is from all runs."""
    runs = len(estimates) - 1
    return np.sqrt((runs - 1) / runs * np.square(estimates[1:] - estimates[1:].mean(0)).sum(0))

r"""Couplings beyond growth: is there anything but a kernel that grows as a whole, and does it follow the law?

M' = r M couples neighbours alone and obeys the law of the couplings with b = 1, whatever the network. So growth is
projected out of every run: with K_ab = T_ab / sqrt(E_a E_b), z_ab the same of the coupling that M' = M would give, and
r_i = <K_i, z_i> / <z_i, z_i> of run i, the remainder is K_i - r_i z_i. Two shares, both from products of different
runs, so that the spread over runs does not bias them, decide:

.. math:: D_0^2 = \frac{\sum_{i \ne j} \langle K_i - r_i z_i, K_j - r_j z_j \rangle}{\sum_{i \ne j} \langle K_i, K_j
          \rangle}, \qquad D_{rest}^2 = \frac{\sum_{i \ne j} \langle \rho_i, \rho_j \rangle}{\sum_{i \ne j} \langle K_i
          - r_i z_i, K_j - r_j z_j \rangle} ,

where rho is what the law K_ab = kappa(a-b) e^{(b-1)(s_a+s_b)/2}, minus its own growth, leaves of the remainder. One r
fitted to all runs would be biased, and so would weights that follow the errors of single pairs: a tiny remainder of
constant sign would count. The weights <.,.> are one over the mean square coupling of neighbours, log-linear in s and
the same for every separation. The rule is this project's, and its numbers are proposals, checked on planted ensembles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.laws.crossed import crossed_values
from grsd.laws.ensemble import jackknife_interval, leave_out, mean_interval
from grsd.laws.fit import EXPONENTS
from grsd.laws.growth_pairs import GrowthPairs, growth_pairs
from grsd.laws.more_seeds import more_seeds_said
from grsd.support.values import level_of

VERDICTS = ("growth only", "beyond growth", "non-trivial invariance", "inconclusive")
NEGLIGIBLE = 0.04  # as for condition 4: what leaves 4 % of the squared couplings is followed within 20 %
ENOUGH = 0.1  # below it the remainder is too small a part of the couplings for its own law to be judged
LEAST_RUNS = 8  # fewer decide nothing, as for condition 4
LEAST_RUNS_OF_A_LAW = 24  # with fewer, kinks inside the window pass too often
ROUNDING = 1e-9  # shares below it are zero
RIDGE = 1e-10  # where the law is growth itself, its amplitude is not defined and is set to zero


@dataclass(frozen=True)
class LawBeyond:
    """The law fitted to the remainder.

    Attributes:
        exponent, exponent_interval: b; the interval is (1, 1) if b is held at 1.
        amplitudes: kappa (k_max,), 1 / time, at the middle of the positions.
        share, share_interval: D_rest^2, the part of the squared remainder that the law leaves, and its interval.
        values: (R,) one number per run, with the mean and the standard error of D_rest^2.
        exponents: (R,) jackknife pseudo-values of b, one per run.

    All are NaN (amplitudes 0) if there is no remainder.
    """

    exponent: float
    exponent_interval: tuple[float, float]
    amplitudes: np.ndarray
    share: float
    share_interval: tuple[float, float]
    values: np.ndarray
    exponents: np.ndarray


@dataclass(frozen=True)
class BeyondGrowth:
    """Couplings beyond growth, judged. Intervals are at ``level``: of shares, those of ``crossed_values``; of
    exponents, delete-one-run jackknives.

    Attributes:
        verdict: one of ``VERDICTS``. ``reason``: one sentence with the number that decides.
        share, share_interval: D_0^2, the part of the squared couplings beyond growth.
        values: (R,) one number per run, with the mean and the standard error of D_0^2.
        free, strict: the law of the remainder with b free (homogeneity) and with b = 1 (strict invariance of K).
        halves, halves_intervals: b fitted to the lower and to the upper half of the window.
        difference, difference_interval: upper b minus lower b. These and the halves are NaN if a half has too few
            pairs for its own b.
        rates: (R,) r of every run, 1 / time.
        positions, separations: (s_a + s_b)/2 and a - b of the pairs (m,). ``runs``: R.
    """

    verdict: str
    reason: str
    share: float
    share_interval: tuple[float, float]
    values: np.ndarray
    free: LawBeyond
    strict: LawBeyond
    halves: tuple[float, float]
    halves_intervals: tuple[tuple[float, float], tuple[float, float]]
    difference: float
    difference_interval: tuple[float, float]
    rates: np.ndarray
    positions: np.ndarray
    separations: np.ndarray
    level: float
    runs: int

    def __str__(self) -> str:
        low, high = self.share_interval
        return f"{self.verdict}: D_0^2 = {self.share:.3g} [{low:.3g}, {high:.3g}], {self.runs} runs; {self.reason}"


def beyond_growth(
    ensemble: Sequence[xr.Dataset],
    *,
    window: tuple[float, float] | None = None,
    k_max: int = 2,
    level: float = 0.95,
) -> BeyondGrowth:
    """Judge whether the couplings of R >= 4 runs contain more than growth of the whole kernel, and by which law.

    Args:
        ensemble: one energy budget per run, over common shells, at matched states of the runs.
        window: (low, high) in log eigenvalue, which must contain both shells of a pair. Judge at and below the
            frontier.
        k_max: largest a - b. ``level``: of the intervals.

    The verdict is "growth only" if the upper limit of D_0^2 is at most .04, and "beyond growth" if its lower limit is
    above .04, in both cases if there is no remainder or the squared couplings common to the runs are told from 0. It is
    "non-trivial invariance" if besides, with at least 24 runs, the lower limit of D_0^2 is above .1,
    the interval of D_rest^2 of the law with b free contains 0 and ends at or below .04, the interval of the difference
    between b in the upper and the lower half of the window contains 0, and the interval of b excludes 1. With fewer
    than 8 runs, or else, it is "inconclusive". An exact M' = r M has no remainder and is "growth only" by construction:
    a control that can fail is ``growth_surrogate``.

    Source: this project's. Cost: under .2 s.
    Errors: ``ValueError`` as in ``coupling_law``, and unless the window has more pairs than the law has parameters. A
    half of the window that has not leaves D_0^2 judged, but no law.
    """
    call = "beyond_growth"
    level = level_of(call, level)
    found, separations, positions = growth_pairs(call, ensemble, k_max, window)
    if len(found.x) <= k_max + 2:
        raise ValueError(
            f"{call}(ensemble): expected at least {k_max + 3} unmasked pairs in the window, got {len(found.x)}"
        )
    middle = (found.x.min() + found.x.max()) / 2
    halves = [found.only(found.x <= middle), found.only(found.x >= middle)]
    comparable = all(len(half.x) > k_max + 2 and len(np.unique(half.group)) == k_max for half in halves)
    rest = found.without_growth(found.coupling)
    rest = np.where(np.abs(rest) > ROUNDING * np.abs(found.coupling).max(), rest, 0.0)
    values = crossed_values(rest @ rest.T, found.coupling @ found.coupling.T)
    share, interval = mean_interval(values, level)
    none = np.full(1 + len(rest), math.nan)
    fitted = comparable and rest.any()
    slopes = [_slopes(half, half.without_growth(half.coupling)) if fitted else none for half in halves]
    free = _law(found, rest, _slopes(found, rest) if rest.any() else none, level)
    strict = _law(found, rest, np.zeros(1 + len(rest)), level)
    difference = slopes[1] - slopes[0]
    apart = float(difference[0]), jackknife_interval(difference, level)
    common = mean_interval(crossed_values(found.coupling @ found.coupling.T, np.ones((len(rest), len(rest)))), level)[1]
    verdict, reason = _judge(len(rest), bool(common[0] > 0 or not rest.any()), interval, free, apart[1])
    return BeyondGrowth(
        verdict=verdict,
        reason=reason,
        share=share,
        share_interval=interval,
        values=values,
        free=free,
        strict=strict,
        halves=(float(1 + slopes[0][0]), float(1 + slopes[1][0])),
        halves_intervals=(jackknife_interval(1 + slopes[0], level), jackknife_interval(1 + slopes[1], level)),
        difference=apart[0],
        difference_interval=apart[1],
        rates=found.rates(),
        positions=positions,
        separations=separations,
        level=level,
        runs=len(rest),
    )


def _slopes(found: GrowthPairs, rest: np.ndarray) -> np.ndarray:
    """Return b - 1 (1 + R,), of all runs and with each left out, that minimizes sum_i |P_i (K_i - law)|^2.

    P_i projects out z_i. The amplitudes are solved for at every slope: first on a grid, then on ever finer ones.
    """
    unit = found.growth / np.sqrt(np.square(found.growth).sum(1))[:, None]
    mean, projected = leave_out(rest), leave_out(unit[:, :, None] * unit[:, None, :])
    low, high = EXPONENTS[0] - 1, EXPONENTS[1] - 1
    grid, step = np.linspace(low, high, 121), (high - low) / 120
    gains = np.stack([_gain(found.shapes(slope), mean, projected)[0] for slope in grid], axis=1)
    centre = grid[gains.argmax(1)]
    rows = np.arange(len(mean))
    for _ in range(6):
        slopes = np.clip(centre[:, None] + step * np.linspace(-1, 1, 9), low, high)
        step /= 4
        gains = np.stack([_gain(found.shapes(column), mean, projected)[0] for column in slopes.T], axis=1)
        centre = slopes[rows, gains.argmax(1)]
    return centre


def _gain(shapes: np.ndarray, mean: np.ndarray, projected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what the best amplitudes take from the squared remainder (n,), and these amplitudes (n, G)."""
    shapes = np.broadcast_to(shapes, (len(mean), *shapes.shape[-2:]))
    squares = shapes @ np.swapaxes(shapes, 1, 2)
    normal = squares - shapes @ projected @ np.swapaxes(shapes, 1, 2)
    groups = np.arange(shapes.shape[1])
    normal[:, groups, groups] += RIDGE * squares[:, groups, groups]
    along = (shapes @ mean[:, :, None])[:, :, 0]
    amplitudes = np.linalg.solve(normal, along[:, :, None])[:, :, 0]
    return (along * amplitudes).sum(1), amplitudes


def _law(found: GrowthPairs, rest: np.ndarray, slopes: np.ndarray, level: float) -> LawBeyond:
    """Fit the amplitudes at the slope of all runs; judge what is left, without the fit's tangent space."""
    intervals = jackknife_interval(1 + slopes, level)
    pseudo = 1 + len(rest) * slopes[0] - (len(rest) - 1) * slopes[1:]
    if not rest.any():
        nothing, none = np.zeros(found.group.max() + 1), np.full(len(rest), math.nan)
        return LawBeyond(math.nan, (math.nan, math.nan), nothing, math.nan, (math.nan, math.nan), none, none)
    unit = found.growth / np.sqrt(np.square(found.growth).sum(1))[:, None]
    shapes = found.shapes(slopes[0])
    mean, projected = rest.mean(0)[None], (unit.T @ unit / len(unit))[None]
    amplitudes = _gain(shapes, mean, projected)[1][0]
    law = amplitudes @ shapes
    tangent = list(shapes)
    if slopes.any():
        tangent.append(law * (found.x - found.x.mean()))
    basis = np.linalg.svd(np.stack(tangent, axis=1), full_matrices=False)[0]
    left = rest - found.without_growth(np.broadcast_to(law, rest.shape))
    left = left - left @ basis @ basis.T
    values = crossed_values(left @ left.T, rest @ rest.T)
    share, interval = mean_interval(values, level)
    return LawBeyond(float(1 + slopes[0]), intervals, amplitudes, share, interval, values, pseudo)


def _judge(
    runs: int, common: bool, interval: tuple[float, float], free: LawBeyond, difference: tuple[float, float]
) -> tuple[str, str]:
    """Return the verdict and its reason."""
    low, high = interval
    said = f"D_0^2 lies in [{low:.3g}, {high:.3g}]"
    needed = more_seeds_said((low + high) / 2, interval, NEGLIGIBLE, runs, least=LEAST_RUNS, of="runs")
    needed = f"; {needed}" if needed else ""
    if runs < LEAST_RUNS:
        return "inconclusive", f"{runs} runs are fewer than the {LEAST_RUNS} that a verdict needs{needed}"
    if not common:
        return (
            "inconclusive",
            "the squared couplings common to the runs are not told from 0, and D_0^2 is a part of them",
        )
    if high <= NEGLIGIBLE:
        return "growth only", f"{said}, all of it at most {NEGLIGIBLE:g}"
    if not low > NEGLIGIBLE:
        return "inconclusive", f"{said}, not decided beside {NEGLIGIBLE:g}{needed}"
    rest = free.share_interval
    misses = [
        what
        for what, missed in {
            f"{runs} runs are fewer than {LEAST_RUNS_OF_A_LAW}": runs < LEAST_RUNS_OF_A_LAW,
            f"it is not above {ENOUGH:g}": not low > ENOUGH,
            f"D_rest^2 lies in [{rest[0]:.3g}, {rest[1]:.3g}]": not (
                rest[0] <= ROUNDING and 0 <= rest[1] <= NEGLIGIBLE
            ),
            "a half of the window has too few pairs for b": math.isnan(difference[0]),
            "b differs between the halves of the window": difference[0] > 0 or difference[1] < 0,
            "b lies at an end of its range": not EXPONENTS[0] + 0.01 < free.exponent < EXPONENTS[1] - 0.01,
            "the interval of b contains 1": free.exponent_interval[0] <= 1 <= free.exponent_interval[1],
        }.items()
        if missed
    ]
    if misses:
        return "beyond growth", f"{said}, all of it above {NEGLIGIBLE:g}; not by a law: {'; '.join(misses)}"
    return "non-trivial invariance", f"{said}; the law leaves D_rest^2 in [{rest[0]:.3g}, {rest[1]:.3g}]"

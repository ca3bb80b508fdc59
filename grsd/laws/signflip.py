"""Test a law by flipping the signs of the residuals of whole runs, on one or several shell widths together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import xarray as xr

from grsd.laws.coupling import couplings
from grsd.laws.ensemble import Ensemble, jackknife_interval
from grsd.laws.fit import LawFit, fit_law
from grsd.laws.velocity import velocities
from grsd.shells.common import same_runs
from grsd.support.arguments import listed
from grsd.support.values import choice, flag, level_of

OBSERVABLES = ("coupling", "velocity")
MOST_FLIPS = 4096


@dataclass(frozen=True)
class LawTest:
    """The test of a law on one or several shell widths.

    Attributes:
        p: share of the sign patterns (including the identity) whose statistic is at least the observed one.
        p_by_width: the same for each width alone.
        statistic: |sum_r rho_r|^2, where rho_r are the runs' standardized residuals, minus its mean over sign patterns
            and divided by its standard deviation over them; the largest over widths.
        defect, defect_interval: D^2, the share of the squared observable that the law leaves unexplained, from products
            of different runs only (unbiased up to the fit; may be negative), and its jackknife interval at ``level``.
        flips: number of sign patterns: all 2^(R-1) if these are at most 4096, else 4096; p >= 1 / flips.
        fits: one ``LawFit`` per width.
        parameters, observations: fitted and observed numbers over all widths.
    """

    p: float
    p_by_width: tuple[float, ...]
    statistic: float
    defect: float
    defect_interval: tuple[float, float]
    flips: int
    fits: tuple[LawFit, ...]
    parameters: int
    observations: int


def law_test(
    budgets: Sequence[xr.Dataset] | Sequence[Sequence[xr.Dataset]],
    *,
    observable: str = "coupling",
    k_max: int = 2,
    scale: bool = False,
    window: tuple[float, float] | None = None,
    level: float = 0.95,
) -> LawTest:
    """Test whether couplings (or velocities) follow the law, from R >= 4 runs (R >= 6 for p < .05).

    Args: ``budgets`` is one ensemble, or one for each of several shell widths over the same runs in the same order. One
    width can never exclude a log-periodic law of its own period; two incommensurate widths can (log 2 and log 3), with
    a smoothing of at most .15 periods. Each width is fitted separately; the residuals are judged together.

    Each run deviates from the fitted law by (F_r - u_fit eps_r) / mean density for velocities and by K_r - K_fit for
    couplings. These deviations are standardized by smoothed errors, and the fit's tangent space is projected out. Under
    the law they are independent with mean zero; if they are also symmetric, the sign-flip test is exact. (Pseudo-values
    of the ratio divide by fluctuating densities and are skewed: in trials they rejected 8 % of planted laws.) The
    defect uses products of different runs, which equals an average over all splits of the runs into halves. The
    velocity is local in s and the sharper observable; couplings average a wave over the shells' width, and hardly show
    one shorter than about 1.5 widths.

    Source: this project's. Cost: negligible. Errors: as in ``coupling_law``.
    """
    level = level_of("law_test", level)
    observed = observe(budgets, observable=observable, k_max=k_max, scale=scale, window=window)
    return judge_observed(observable, observed, level)


def observe(
    budgets: Sequence[xr.Dataset] | Sequence[Sequence[xr.Dataset]],
    *,
    observable: str = "coupling",
    k_max: int = 2,
    scale: bool = False,
    window: tuple[float, float] | None = None,
) -> list[Ensemble]:
    """Return the ensembles that ``law_test`` judges, one per width.

    Arguments and errors: as in ``law_test``; without a window, all of the spectrum.
    """
    choice("law_test", "observable", observable, OBSERVABLES)
    flag("law_test", "scale", scale)
    given = listed("law_test", "budgets", budgets, "runs, or lists of them")
    widths = same_runs("law_test", "budgets", [given] if isinstance(given[0], xr.Dataset) else given, "width")
    options = {"scale": scale, "window": window}
    read = {"velocity": velocities, "coupling": partial(couplings, k_max=k_max)}[observable]
    return [read("law_test", item, **options) for item in widths]


def judge_observed(observable: str, observed: Sequence[Ensemble], level: float = 0.95) -> LawTest:
    """Apply ``law_test`` to the ensembles from ``observe``."""
    choice("judge_observed", "observable", observable, OBSERVABLES)
    observed = listed("judge_observed", "observed", observed, "ensembles from observe")
    if not all(isinstance(item, Ensemble) for item in observed):
        raise TypeError(
            f"judge_observed(observed=...): expected ensembles from observe, got {type(observed[0]).__name__}"
        )
    fits = [fit_law(observable, item, None, level) for item in observed]
    parts = [_standardize(item, fit) for item, fit in zip(observed, fits, strict=True)]
    signs = _signs(observed[0].runs)
    totals = np.stack([np.square(signs @ residuals).sum(1) for residuals, _ in parts])
    scores = (totals - totals.mean(1, keepdims=True)) / totals.std(1, keepdims=True)
    residuals, signals = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    defect, interval = crossed_share(residuals @ residuals.T, signals @ signals.T, level)
    return LawTest(
        p=_share(scores.max(0)),
        p_by_width=tuple(_share(row) for row in scores),
        statistic=float(scores[:, 0].max()),
        defect=defect,
        defect_interval=interval,
        flips=len(signs),
        fits=tuple(fits),
        parameters=sum(1 + len(fit.amplitudes) + (fit.scale is not None) for fit in fits),
        observations=residuals.shape[1],
    )


def _standardize(observed: Ensemble, fit: LawFit) -> tuple[np.ndarray, np.ndarray]:
    """Return (R, m) deviations from the fit, without its tangent space, and from zero, in standard errors."""
    shape = np.exp((fit.exponent - 1) * (observed.x - fit.reference))
    member = observed.group[:, None] == np.arange(len(fit.amplitudes))
    law = fit.amplitudes[observed.group] * shape
    columns = [*(shape[:, None] * member).T, law * (observed.x - fit.reference)]
    if observed.scaled:
        columns.append(observed.pumped[0])
    tangent, _ = np.linalg.qr(np.stack(columns, axis=1) / fit.standard_errors[:, None])
    residuals = observed.departures(fit.fitted) / fit.standard_errors
    return residuals - residuals @ tangent @ tangent.T, observed.departures(0 * fit.fitted) / fit.standard_errors


def _share(scores: np.ndarray) -> float:
    return float(np.mean(scores >= scores[0] - 1e-9))


def _signs(runs: int) -> np.ndarray:
    """Return sign patterns (flips, R), the identity first: all of them up to a common sign, or 4096 random ones."""
    if 2 ** (runs - 1) <= MOST_FLIPS:
        return np.array([(1, *rest) for rest in product((1, -1), repeat=runs - 1)], dtype=float)
    drawn = np.random.default_rng(0).choice([-1.0, 1.0], size=(MOST_FLIPS, runs))
    drawn[0] = 1
    return drawn


def crossed_share(
    residual_gram: np.ndarray, signal_gram: np.ndarray, level: float
) -> tuple[float, tuple[float, float]]:
    """Return sum_{r != q} rho_r . rho_q over the same sum of the signals, and its interval; Gram matrices (R, R)."""

    def crossed(gram: np.ndarray) -> np.ndarray:
        off = gram - np.diag(np.diag(gram))
        return np.concatenate([[off.sum()], off.sum() - 2 * off.sum(1)])

    estimates = crossed(residual_gram) / crossed(signal_gram)
    return float(estimates[0]), jackknife_interval(estimates, level)

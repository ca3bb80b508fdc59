r"""Condition 4: log-shift invariance of the renormalized couplings between shells.

The condition is named by arXiv 2512.18209; the measurement and the rule are this project's. The condition is that
K_ab = T_ab / sqrt(E_a E_b), over runs at one matched loss, at and below the frontier lambda t = 1, obeys

.. math:: K_{ab} = \kappa(a - b)\, e^{(b - 1)(s_a + s_b)/2} \, ,

and the defect D^2 is the share of the squared couplings that the best such law does not explain (``grsd.laws``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.conditions.contract import Estimate, Verdict, conclude
from grsd.conditions.matched import budget_at_loss, widths_of
from grsd.evidence import DecisionRule
from grsd.flow import Flow
from grsd.laws import LawTest, judge_observed, observe, resampled
from grsd.laws.ensemble import Ensemble
from grsd.shells import LogShells
from grsd.support.arguments import integers, required_window
from grsd.support.values import flag, whole_number

name = "invariance"
paper = "log-shift invariance of the renormalized couplings"
reads = "history"

WIDTHS = (math.log(2), math.log(3))
SMOOTHING = 0.1
SHELLS = tuple(LogShells(width, SMOOTHING) for width in WIDTHS)
LEAST_RUNS = 8
LEAST_OBSERVED, MOST_DRAWN = 4, 1_000_000
RULE = DecisionRule(
    statistic="D^2 of the couplings",
    direction="at most",
    threshold=0.04,
    reason="a law that leaves 4 % of the squared couplings unexplained is followed within 20 % in root mean square",
)


@dataclass(frozen=True)
class Invariance:
    """The details of the fit of the couplings; the verdict's estimate is D^2, with a jackknife over runs.

    Attributes:
        p: p-value of the sign flips for all widths together; at least 2^(1 - runs).
        exponents, exponent_intervals: b fitted at each width.
        window: (low, high) in log eigenvalue of the judged couplings. ``test``: the full test.
    """

    p: float
    exponents: tuple[float, ...]
    exponent_intervals: tuple[tuple[float, float], ...]
    window: tuple[float, float]
    test: LawTest


def measure(
    history: Flow | xr.Dataset,
    *,
    shells: LogShells | Sequence[LogShells] = SHELLS,
    log_loss: float = -2.0,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Measure the energy budget of one network at the time when its loss is e^``log_loss`` times that at time 0.

    Args:
        history: a ``grsd.gradient_flow`` with time 0 among its times, or a dataset from ``grsd.run``.
        shells: for a flow, shells of one or several widths; a dataset has its own.
        log_loss: natural log of loss / loss at time 0, negative. All variables are interpolated linearly in this log
            between the two snapshots around it; networks reach it at different ``time``.
        parameters: values to write into the attributes (seed, depth, ...).

    Returns: the variables of ``energy_budget``, joined as for ``at_width`` if there are several widths, and ``time``.
    Errors: ``ValueError`` if the snapshots do not bracket that loss.
    """
    return budget_at_loss("invariance.measure", history, shells, log_loss, parameters)


def judge(
    ensemble: Sequence[xr.Dataset],
    *,
    window: tuple[float, float] | None = None,
    observable: str = "coupling",
    k_max: int = 2,
    scale: bool = False,
) -> Verdict:
    """Judge log-shift invariance: D^2, the defect of the law, with its interval.

    Args:
        ensemble: results of ``measure``, one per run, or budgets of each run at one time (for example planted ones),
            joined by ``join_widths`` if there are several widths.
        window: (low, high) in log eigenvalue, required because the verdict depends on it. ``frontier_window(ensemble)``
            reaches up to the frontier; infinite ends take the whole spectrum.
        observable: "coupling", the condition itself; "velocity", a sharper consequence.
        k_max: largest a - b. ``scale``: also fit a common scale M' = r M, and remove it.

    Returns: a verdict whose ``details`` are an ``Invariance``. By our rule it holds if the upper 95 % limit of D^2 is
    at most .04, and fails if p < .05 and the lower limit is above .04. Otherwise, and with fewer than 8 runs, it is
    inconclusive.
    Errors: as in ``grsd.laws.law_test``.
    """
    window = required_window("invariance.judge", window)
    observed = _observed("invariance.judge", ensemble, window, observable, k_max, scale)
    test = judge_observed(observable, observed)
    details = Invariance(
        p=test.p,
        exponents=tuple(fit.exponent for fit in test.fits),
        exponent_intervals=tuple(fit.exponent_interval for fit in test.fits),
        window=window,
        test=test,
    )
    return conclude(
        name,
        _verdict(test),
        Estimate(f"D^2 of the {observable}", test.defect, test.defect_interval, RULE.threshold),
        test.fits[0].runs,
        details,
        least=LEAST_RUNS,
        also=f"sign flips give p = {test.p:.3f}",
    )


def power(
    ensemble: Sequence[xr.Dataset],
    runs: Sequence[int],
    *,
    window: tuple[float, float] | None = None,
    observable: str = "coupling",
    lawful: bool = False,
    draws: int = 40,
) -> xr.Dataset:
    """Estimate how often each verdict results for ensembles of ``runs`` runs, by simulation from the measured ones.

    Simulated runs are normal, with the measured covariance between shells, and with the measured mean or, if
    ``lawful``, that of the fitted law (``grsd.laws.resampled``). ``draws``: ensembles per size; other arguments: as in
    ``judge``.

    Returns: ``share(runs, verdict)`` of the draws, and ``half_width(runs)``, the median half width of the interval of
    D^2.
    """
    call = "invariance.power"
    window = required_window(call, window)
    runs, flags = integers(call, "runs", runs, low=LEAST_OBSERVED), flag(call, "lawful", lawful)
    whole_number(call, "draws", draws, 1)
    if max(runs) * draws > MOST_DRAWN:
        raise ValueError(f"{call}(runs, draws): expected at most {MOST_DRAWN} runs drawn, got {max(runs) * draws}")
    observed = _observed(call, ensemble, window, observable, 2, False)
    verdicts = ("holds", "inconclusive", "fails")
    share, half = np.zeros((len(runs), len(verdicts))), np.zeros((len(runs), draws))
    for row, count in enumerate(runs):
        for draw in range(draws):
            test = judge_observed(observable, resampled(observable, observed, count, draw, lawful=flags))
            share[row, verdicts.index(_verdict(test))] += 1 / draws
            half[row, draw] = np.ptp(test.defect_interval) / 2
    data = {"share": (("runs", "verdict"), share), "half_width": ("runs", np.median(half, axis=1))}
    return xr.Dataset(data, {"runs": list(runs), "verdict": list(verdicts)}, {"draws": draws})


def _observed(
    call: str,
    ensemble: Sequence[xr.Dataset],
    window: tuple[float, float],
    observable: str,
    k_max: int,
    scale: bool,
) -> list[Ensemble]:
    widths = widths_of(call, ensemble)
    try:
        return observe(widths, observable=observable, k_max=k_max, scale=scale, window=window)
    except (TypeError, ValueError) as error:  # it names law_test, which the user has not called
        said = re.sub(r"^law_test\((budgets)?", lambda start: f"{call}({'ensemble' if start[1] else ''}", str(error))
        raise type(error)(said) from None


def _verdict(test: LawTest) -> str:
    verdict = RULE.verdict(*test.defect_interval)
    if test.fits[0].runs < LEAST_RUNS or (verdict == "fails" and test.p >= 0.05):
        return "inconclusive"
    return verdict

r"""Condition 3 by eta: is there a trend in time that the covariance of gradient flow does not explain?

.. math:: \log(t\,\rho_a) = G(\log \lambda t) + \eta \log t , \qquad \lambda t < 1 .

A covariant law v = lambda^2 Phi(lambda t), each power law lambda^b t^(b-2) among them, has eta = 0 whatever Phi, while
the slopes of ``evolution.judge_slopes`` refuse it unless b = 1. Only growth is not controlled: the rule is one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.conditions.contract import Estimate, Verdict, conclude, deciding
from grsd.conditions.rates import JACOBIAN_RATES, RELATIVE_RATES, check_points, points
from grsd.laws.ensemble import jackknife_interval, mean_interval
from grsd.support.arguments import attribute
from grsd.support.values import choice, said

LEAST_RUNS = 8
TREND = 0.1  # of log(t rho) in log t at fixed lambda t
BOUND = 3.0  # at 3 an eigenvalue grows as the cube of time
SMALL = 0.1  # rates that move a shell's kernel by a tenth per e-fold of time are controlled whatever their trend


@dataclass(frozen=True)
class Eta:
    """The trend of a rate that covariance does not explain, eta; 0 if t rho is a function of lambda t alone.

    Attributes:
        value, interval: eta and its two-sided 95 % interval, by jackknife over seeds; NaN if some rate is 0.
        covariant: whether that interval contains 0, so that no departure from covariance is seen, in either direction.
        without: eta with each seed left out.
        supremum, supremum_interval: mean over seeds of the largest t rho below the frontier, Student's 95 % interval.
        largest: the largest t rho of any run there.
        verdict: "holds", "fails" or "inconclusive", by the rule of ``eta``.
        seeds, points: number of seeds, and of points below the frontier.
    """

    value: float
    interval: tuple[float, float]
    covariant: bool
    without: tuple[float, ...]
    supremum: float
    supremum_interval: tuple[float, float]
    largest: float
    verdict: str
    seeds: int
    points: int


def eta(ensemble: Sequence[xr.Dataset], *, rate: str = "rho") -> Eta:
    """Fit log(t rho) = G(log lambda t) + eta log t below the frontier lambda t = 1, to runs from ``evolution.measure``.

    G is free: one constant per shell-wide bin of log lambda t and per depth.

    Args: ``rate``: "rho" or "omega", of M'; "jacobian" or "jacobian_typical", of J' itself.

    Returns: an ``Eta``. By our rule the evolution is controlled ("holds") if the upper limit of eta is at most .1 and
    no t rho is above 3, or if no t rho is above .1: a small constant M' has eta = 1 and moves least of all. It "fails"
    if the whole interval of eta is above .1 and that of the mean supremum above .1, or the latter above 3. Otherwise,
    and with fewer than 8 seeds, it is "inconclusive".
    Errors: ``ValueError`` for fewer than 2 seeds, or unless some bin has two times below the frontier.
    """
    return _eta("evolution.eta", ensemble, rate)


def judge(ensemble: Sequence[xr.Dataset], *, rate: str = "rho") -> Verdict:
    """Judge controlled evolution over runs from ``evolution.measure`` by the rule of ``eta``.

    Returns: a verdict whose ``details`` are an ``Eta``; its estimate is eta or the mean supremum, whichever decides.
    """
    found = _eta("evolution.judge", ensemble, rate)
    trend = Estimate(f"eta, the trend of t {rate} at fixed lambda t,", found.value, found.interval, TREND)
    what = f"the largest t {rate} below the frontier, mean over seeds,"
    top = Estimate(what, found.supremum, found.supremum_interval, BOUND)
    small = found.largest <= SMALL
    decided = top._replace(threshold=SMALL) if small else deciding(found.verdict, [trend, top])
    also = f"the largest of any run is {found.largest:.2g}"
    options = {"least": LEAST_RUNS, "seeds": found.seeds, "also": also}
    return conclude("evolution", found.verdict, decided, len(ensemble), found, **options)


def eta_of(run: xr.Dataset, *, rate: str = "rho") -> float:
    """Return eta of one run, with a G of its own; NaN if some rate is 0. Errors: as ``eta``."""
    call = "evolution.eta_of"
    return _trend(call, _below(call, [run], rate), rate)


def largest_of(run: xr.Dataset, *, rate: str = "rho") -> float:
    """Return the largest t rho (or t ``rate``) of one run below the frontier lambda t = 1. Errors: as ``eta``."""
    return float(_below("evolution.largest_of", [run], rate)[f"t_{rate}"].max())


def _below(call: str, ensemble: Sequence[xr.Dataset], rate: str) -> xr.Dataset:
    """Return the points below the frontier, with their shell-wide ``bin`` of log lambda t."""
    choice(call, "rate", rate, RELATIVE_RATES + JACOBIAN_RATES)
    measured = points(call, ensemble)
    if rate in JACOBIAN_RATES and f"t_{rate}" not in measured:
        raise ValueError(
            f"{call}(rate={rate!r}): expected runs of evolution.measure(..., jacobian=True), some have no t_{rate}"
        )
    check_points(call, measured, "ensemble", [rate])
    widths = {attribute(call, "ensemble", run, "shell_width") for run in ensemble}
    if len(widths) != 1 or widths == {0.0}:
        raise ValueError(f"{call}(ensemble): expected one shell width above 0 in all runs, got {said(sorted(widths))}")
    place = measured.shell.values + np.log(measured.time.values)
    if not (place < 0).any():
        raise ValueError(f"{call}(ensemble): expected points below the frontier lambda t = 1, got none")
    return measured.isel(point=place < 0).assign_coords(bin=("point", np.floor(place[place < 0] / widths.pop())))


def _eta(call: str, ensemble: Sequence[xr.Dataset], rate: str) -> Eta:
    measured = _below(call, ensemble, rate)
    seeds = np.unique(measured.seed.values)
    if len(seeds) < 2:
        raise ValueError(
            f"{call}(ensemble): expected at least 2 seeds with points below the frontier, got {len(seeds)}"
        )
    parts = [measured, *(measured.isel(point=measured.seed.values != seed) for seed in seeds)]
    found = np.array([_trend(call, part, rate) for part in parts])
    low, high = jackknife_interval(found, 0.95)
    highest = measured[f"t_{rate}"].groupby("seed").max().values
    mean, (least, most) = mean_interval(highest, 0.95)
    largest = float(highest.max())
    holds = largest <= SMALL or (high <= TREND and largest <= BOUND)
    fails = least > BOUND or (low > TREND and least > SMALL)
    verdict = "inconclusive" if len(seeds) < LEAST_RUNS else "holds" if holds else "fails" if fails else "inconclusive"
    return Eta(
        value=float(found[0]),
        interval=(low, high),
        covariant=low <= 0 <= high,
        without=tuple(found[1:].tolist()),
        supremum=mean,
        supremum_interval=(least, most),
        largest=largest,
        verdict=verdict,
        seeds=len(seeds),
        points=measured.sizes["point"],
    )


def _trend(call: str, measured: xr.Dataset, rate: str) -> float:
    """Return eta: the slope of log(t rate) on log t with the mean of each bin and depth removed; NaN if a rate is 0."""
    if not (measured[f"t_{rate}"].values > 0).all():
        return math.nan
    keys = np.stack([measured.bin.values, measured.depth.values])
    group = np.unique(keys, axis=1, return_inverse=True)[1].reshape(-1)
    count = np.bincount(group)
    x, y = (
        values - (np.bincount(group, values) / count)[group]
        for values in (np.log(measured.time.values), np.log(measured[f"t_{rate}"].values))
    )
    if not x @ x > 1e-12 * len(x):
        raise ValueError(f"{call}(ensemble): expected two times below the frontier in some shell-wide bin of lambda t")
    return float(x @ y / (x @ x))

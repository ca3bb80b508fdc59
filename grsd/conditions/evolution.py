r"""Condition 3: controlled evolution of the Jacobian along training.

The condition is named by arXiv 2512.18209; the operational form is this project's. ``measure`` gives rates of M' and of
J' per shell (``grsd.conditions.rates``), times t. ``judge`` asks for a bound and for no growth in time beyond what the
covariance of gradient flow explains (``grsd.conditions.trend``). ``judge_slopes`` is the older rule: no trend in time,
along the spectrum or with depth at all. It refuses each covariant power law lambda^b t^(b-2) with |b - 1| > .1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from grsd.conditions.contract import Estimate, Verdict, conclude, deciding, flow_from_start
from grsd.conditions.rates import (
    FIRST_TIME,
    JACOBIAN_RATES,
    RELATIVE_RATES,
    along,
    check_points,
    gather,
    points,
    refuse_zeros,
    shell_rates,
)
from grsd.conditions.trend import BOUND, LEAST_RUNS, SMALL, TREND, Eta, eta, eta_of, judge, largest_of
from grsd.decomposition import spectrum
from grsd.flow import Flow
from grsd.kernel import tangent_kernel, tangent_kernel_and_rate
from grsd.kernel.jacobian_rate import jacobian_rate_kernel
from grsd.laws.ensemble import jackknife_interval, mean_interval
from grsd.shells import LogShells
from grsd.support.arguments import described
from grsd.support.values import choice, flag, instance, number

__all__ = [
    "BOUND",
    "JACOBIAN_RATES",
    "LEAST_RUNS",
    "RELATIVE_RATES",
    "SLOPE",
    "SLOPES",
    "SMALL",
    "TREND",
    "Eta",
    "Evolution",
    "along",
    "control_ratio",
    "eta",
    "eta_of",
    "gather",
    "judge",
    "judge_slopes",
    "largest_of",
    "measure",
    "name",
    "paper",
    "reads",
    "shell_rates",
    "slopes",
]

name = "evolution"
paper = "controlled Jacobian evolution along training"
reads = "flow"

SHELLS = LogShells(0.7, 0.1)
SLOPE = 0.1
LARGEST = 100.0
SLOPES = ("time", "shell", "depth")


@dataclass(frozen=True)
class Evolution:
    """Estimates of ``judge_slopes``; the verdict's estimate is the slope or supremum that decides.

    Attributes:
        slopes, slope_intervals: of log(t rho) and log(t omega) on log t, s and (for several depths) log depth, with
            keys ("rho", "time"), ("omega", "shell"), ...; 95 % intervals by jackknife over seeds.
        suprema, supremum_intervals: mean over seeds of the largest t rho and t omega, with Student's 95 % interval.
        seeds: number of seeds.
    """

    slopes: dict[tuple[str, str], float]
    slope_intervals: dict[tuple[str, str], tuple[float, float]]
    suprema: dict[str, float]
    supremum_intervals: dict[str, tuple[float, float]]
    seeds: int

    def __str__(self) -> str:
        parts = [
            f"{rate} on {of} {value:.2f} [{self.slope_intervals[rate, of][0]:.2f}, "
            f"{self.slope_intervals[rate, of][1]:.2f}]"
            for (rate, of), value in self.slopes.items()
        ]
        parts += [f"sup t {rate} {value:.2g}" for rate, value in self.suprema.items()]
        return f"{'; '.join(parts)}; {self.seeds} seeds"


def measure(
    history: Flow,
    *,
    shells: LogShells = SHELLS,
    jacobian: bool = False,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Apply ``along`` to the snapshots of a flow from t = 1 / lambda_max(0) on.

    Args:
        history: a ``grsd.gradient_flow`` of any module, with time 0 among its times.
        jacobian: measure J' itself too (``t_jacobian``), which takes about twice as long.
        parameters: values to write into the attributes. ``judge`` reads ``depth`` (default 1) and ``seed`` (default:
            each network counts as a seed).

    Cost: one kernel with its rate per snapshot.
    """
    call = "evolution.measure"
    flow = flow_from_start(call, history)
    instance(call, "shells", shells, LogShells, "LogShells")
    flag(call, "jacobian", jacobian)
    described(call, parameters)
    start, *later = flow.snapshots
    kernel = tangent_kernel(start.model, flow.inputs, dtype=start.error.dtype)
    top = float(torch.linalg.eigvalsh(kernel)[-1])
    late = [snap for snap in later if snap.time * top >= FIRST_TIME * (1 - 1e-9)]
    if not late:
        raise ValueError(f"{call}(history): expected a snapshot at t >= 1 / lambda_max(0) = {1 / top:.3g}, got none")
    compute = jacobian_rate_kernel if jacobian else tangent_kernel_and_rate
    found = ((snap.time, compute(snap.model, flow.inputs, flow.targets, dtype=snap.error.dtype)) for snap in late)
    states = ((time, spectrum(*matrices[:2]), *matrices[2:]) for time, matrices in found)
    return along(states, shells, top=top, **(parameters or {}))


def judge_slopes(ensemble: Sequence[xr.Dataset], *, exponent: float = 1.0) -> Verdict:
    """Judge over runs from ``measure`` whether rates have no trend at all: the older, stricter rule.

    Args: ``exponent``: b; for b other than 1 the rate t rho x^(1-b), with x = lambda t, should be constant.

    The fit is log(t rho) = alpha + beta_t log t + beta_s s + beta_L log depth by least squares, with beta_L only for
    several depths; intervals come from leaving out one seed with all its runs.

    Returns: a verdict whose ``details`` are an ``Evolution``. By our rule it holds if the upper 95 % limit of each
    |beta| is at most .1 and no t rho or t omega is above 3. It fails if the whole interval of some |beta| is above .1,
    or the whole interval of the mean supremum is above 3. Otherwise, and with fewer than 8 seeds, it is inconclusive.
    Errors: ``ValueError`` for fewer than 2 seeds, or if a single seed has all runs of a second depth.
    """
    call = "evolution.judge_slopes"
    measured = points(call, ensemble)
    check_points(call, measured, "ensemble")
    refuse_zeros(f"{call}(ensemble)", measured, RELATIVE_RATES)
    exponent = number(call, "exponent", exponent, -LARGEST, LARGEST)
    seeds = np.unique(measured.seed.values)
    if len(seeds) < 2:
        raise ValueError(f"{call}(ensemble): expected at least 2 seeds, got {len(seeds)}")
    depths = {seed: set(measured.depth.values[measured.seed.values != seed].tolist()) for seed in seeds}
    alone = [seed for seed, others in depths.items() if len(others) == 1]
    if alone and np.ptp(measured.depth.values) > 0:
        raise ValueError(
            f"{call}(ensemble): expected several depths without any one seed, got one depth without seed {alone[0]}; "
            "give each depth at least 2 seeds, or runs of one depth"
        )
    values, intervals, suprema, tops, estimates = {}, {}, {}, {}, []
    holds, fails, largest = True, False, 0.0
    for rate in RELATIVE_RATES:
        fitted = [slopes(measured, rate, exponent)]
        fitted += [slopes(measured.isel(point=measured.seed.values != seed), rate, exponent) for seed in seeds]
        for of in fitted[0]:
            column = np.array([item[of] for item in fitted])
            values[rate, of] = float(column[0])
            low, high = intervals[rate, of] = jackknife_interval(column, 0.95)
            holds &= max(abs(low), abs(high)) <= SLOPE
            fails |= max(low, -high) > SLOPE
            size = max(low, -high, 0.0), max(abs(low), abs(high))
            estimates.append(Estimate(f"|slope| of log(t {rate}) on {of}", abs(values[rate, of]), size, SLOPE))
        highest = measured[f"t_{rate}"].groupby("seed").max().values
        suprema[rate], tops[rate] = mean_interval(highest, 0.95)
        estimates.append(Estimate(f"the largest t {rate}, mean over seeds,", suprema[rate], tops[rate], BOUND))
        largest = max(largest, float(highest.max()))
        fails |= tops[rate][0] > BOUND
    holds &= largest <= BOUND
    verdict = "inconclusive" if len(seeds) < LEAST_RUNS else "fails" if fails else "holds" if holds else "inconclusive"
    details = Evolution(values, intervals, suprema, tops, len(seeds))
    also = f"the largest rate of any run is {largest:.2g}"
    decided = deciding(verdict, estimates)
    return conclude(name, verdict, decided, len(ensemble), details, least=LEAST_RUNS, seeds=len(seeds), also=also)


def control_ratio(measured: xr.Dataset, exponent: float = 1.0) -> float:
    """Return the largest of |beta| / .1 and sup / 3 over rho and omega; at most 1 if the evolution is controlled."""
    check_points("control_ratio", measured)
    refuse_zeros("control_ratio(measured)", measured, RELATIVE_RATES)
    exponent = number("control_ratio", "exponent", exponent, -LARGEST, LARGEST)
    parts = []
    for rate in RELATIVE_RATES:
        parts += [abs(value) / SLOPE for value in slopes(measured, rate, exponent).values()]
        parts.append(float(measured[f"t_{rate}"].max()) / BOUND)
    return max(parts)


def slopes(measured: xr.Dataset, rate: str, exponent: float = 1.0) -> dict[str, float]:
    """Return slopes of log(t rho) or log(t omega) on "time", "shell" and, for several depths, "depth"."""
    check_points("evolution.slopes", measured)
    choice("evolution.slopes", "rate", rate, RELATIVE_RATES)
    refuse_zeros("evolution.slopes(measured)", measured, [rate])
    exponent = number("evolution.slopes", "exponent", exponent, -LARGEST, LARGEST)
    log_t, s, depth = np.log(measured.time.values), measured.shell.values, np.log(measured.depth.values)
    y = np.log(measured[f"t_{rate}"].values) + (1 - exponent) * (s + log_t)
    columns = [log_t, s] + ([depth] if np.ptp(depth) > 0 else [])
    design = np.stack([np.ones_like(y), *columns], axis=1)
    found = np.linalg.lstsq(design, y, rcond=None)[0][1:]
    return dict(zip(SLOPES, found.tolist(), strict=False))

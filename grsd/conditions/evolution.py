r"""Condition 3: controlled evolution of the Jacobian along training.

The condition is named by arXiv 2512.18209; the operational form is this project's. For shell a with window w_a,

.. math:: \rho_a = \left\| \left[ \sqrt{w_a(\lambda_u) w_a(\lambda_v)}\,
          M'_{uv}/\sqrt{\lambda_u \lambda_v} \right]_{uv} \right\| , \qquad
          \omega_a = \delta \sqrt{2\pi}\, \| w_a^{[1]} \circ M' \| ,

with operator norms. rho is the relative rate of change of a shell's kernel; omega is the rate of change of the shell's
projector w_a(M), scaled so that M' = r M gives at most r for both. The evolution is controlled if t rho and t omega
stay bounded and show no trend in time, along the spectrum, or with depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
import xarray as xr
from scipy import stats

from grsd.conditions.contract import Estimate, Verdict, conclude, deciding, flow_from_start
from grsd.decomposition import Spectrum, spectrum
from grsd.flow import Flow
from grsd.kernel import tangent_kernel, tangent_kernel_and_rate
from grsd.laws.ensemble import jackknife_interval
from grsd.shells import LogShells, log_range
from grsd.shells.windows import shell_coords
from grsd.support.arguments import attribute, dataset, described, finite, listed
from grsd.support.provenance import provenance
from grsd.support.values import choice, instance, number, positive, said

name = "evolution"
paper = "controlled Jacobian evolution along training"
reads = "flow"

SHELLS = LogShells(0.7, 0.1)
NEAR = 1e-4
LEAST_WEIGHT = 1e-14
LEAST_MODES = 2.0
FIRST_TIME = 1.0
SLOPE = 0.1
BOUND = 3.0
LEAST_RUNS = 8
LARGEST = 100.0
RELATIVE_RATES = ("rho", "omega")
SLOPES = ("time", "shell", "depth")
TREND = 0.1  # of log(t rho) in log t at fixed lambda t
SMALL = 0.1  # rates that move a shell's kernel by a tenth per e-fold of time are controlled whatever their trend


@dataclass(frozen=True)
class Eta:
    """The trend of a rate that covariance does not explain, eta; 0 if t rho is a function of lambda t alone.

    Attributes:
        value, interval: eta and its two-sided 95 % interval, by jackknife over seeds; a test of covariance.
        supremum, supremum_interval: mean over seeds of the largest t rho below the frontier, Student's 95 % interval.
        largest: the largest t rho of any run there.
        verdict: "holds", "fails" or "inconclusive", by the rule of ``eta``.
        seeds, points: number of seeds, and of points below the frontier.
    """

    value: float
    interval: tuple[float, float]
    supremum: float
    supremum_interval: tuple[float, float]
    largest: float
    verdict: str
    seeds: int
    points: int


@dataclass(frozen=True)
class Evolution:
    """Estimates of the rates; the verdict's estimate is the slope or supremum that decides.

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


def shell_rates(decomposed: Spectrum, shells: LogShells) -> xr.Dataset:
    """Compute rho and omega of every shell at one time.

    Args: a spectrum with its rate; shells, whose smoothing sets the scale of omega.
    Returns: ``rho(shell)``, ``omega(shell)`` in 1/time, ``modes(shell)``; both rates are NaN in the end shells, which
    reach to infinity, in shells that reach below the precision floor, and in shells with fewer than two modes.
    Cost: per shell two norms of D x D symmetric matrices. Errors: ``ValueError`` without a rate.
    """
    instance("shell_rates", "decomposed", decomposed, Spectrum, "what grsd.spectrum(kernel, rate) gave")
    instance("shell_rates", "shells", shells, LogShells, "LogShells")
    if decomposed.rate is None:
        raise ValueError("shell_rates(decomposed): expected a spectrum with its rate, made by spectrum(kernel, rate)")
    index = np.array(shells.indices(*log_range(decomposed)))
    values, rate = decomposed.eigenvalues, decomposed.rate
    above = values > decomposed.floor
    s = torch.where(above, values, torch.ones_like(values)).log()
    s = torch.where(above, s, torch.full_like(s, -torch.inf))
    edges = torch.as_tensor(index[1:] * shells.width, dtype=values.dtype, device=values.device)
    (windows,) = shells.derivatives(s, edges, 0)
    modes = (windows * above).sum(1).cpu().numpy()
    relative = rate * torch.where(above, values, torch.full_like(values, torch.inf)).rsqrt()[:, None]
    relative = relative * torch.where(above, values, torch.full_like(values, torch.inf)).rsqrt()[None, :]
    near = (s[:, None] - s[None, :]).abs() <= NEAR * shells.smoothing
    near |= ~above[:, None] & ~above[None, :]
    gap = torch.where(near, torch.ones_like(rate), values[:, None] - values[None, :])
    middle = torch.where(above, s, torch.zeros_like(s))
    slope = shells.derivatives(middle, edges, 1)[1] * above / torch.where(above, values, torch.ones_like(values))
    kept = (modes >= LEAST_MODES) & (index * shells.width >= math.log(decomposed.floor))
    kept[[0, -1]] = False
    found = {name: np.full(len(index), np.nan) for name in RELATIVE_RATES}
    for a in np.flatnonzero(kept):
        inside = windows[a] > LEAST_WEIGHT
        root = windows[a][inside].sqrt()
        found["rho"][a] = _norm(root[:, None] * relative[inside][:, inside] * root[None, :])
        divided = torch.where(
            near, (slope[a][:, None] + slope[a][None, :]) / 2, (windows[a][:, None] - windows[a]) / gap
        )
        found["omega"][a] = _norm(divided * rate) * shells.smoothing * math.sqrt(2 * math.pi)
    data = {name: ("shell", array, {"units": "1/time"}) for name, array in found.items()}
    data["modes"] = ("shell", modes, {"long_name": "effective number of modes", "units": "1"})
    result = xr.Dataset(data, shell_coords(index, shells.width)).drop_vars(["shell_from", "shell_lower", "shell_upper"])
    result["rho"].attrs["long_name"] = "operator norm of M' on the shell, relative to M"
    result["omega"].attrs["long_name"] = "operator norm of the rate of w_a(M), times smoothing sqrt(2 pi)"
    return result.assign_attrs(shell_width=shells.width, smoothing=shells.smoothing)


def along(
    states: Iterable[tuple[float, Spectrum]], shells: LogShells, *, top: float, **parameters: object
) -> xr.Dataset:
    """Compute ``shell_rates`` at several (time, spectrum) of one run; ``top`` is lambda_max(0).

    Returns: ``t_rho(time, shell)``, ``t_omega(time, shell)``, dimensionless; ``time`` in units of 1 / lambda_max(0),
    from 1 on, and ``shell`` relative to log lambda_max(0), so that runs can be compared.
    """
    call = "evolution.along"
    positive(call, "top", top)
    rows, times = [], []
    if not isinstance(states, Iterable) or getattr(states, "ndim", 1) == 0:
        raise TypeError(f"{call}(states): expected pairs of a time and a spectrum, got {said(states)}")
    for state in states:
        if not isinstance(state, Sequence) or len(state) != 2:
            raise TypeError(f"{call}(states): expected pairs of a time and a spectrum, got {said(state)}")
        time, decomposed = number(call, "states", state[0], 0.0), state[1]
        if time * top < FIRST_TIME * (1 - 1e-9):
            continue
        row = shell_rates(decomposed, shells).drop_vars(["shell_index", "modes"])
        rows.append((time * row).rename({name: f"t_{name}" for name in RELATIVE_RATES}))
        times.append(time * top)
    if not rows:
        raise ValueError("evolution.along(states): expected at least one state at t >= 1 / lambda_max(0), got none")
    axis = xr.DataArray(times, dims="time", name="time", attrs={"long_name": "time", "units": "1/lambda_max(0)"})
    joined = xr.concat(rows, dim=axis, join="outer", combine_attrs="drop")
    for name in RELATIVE_RATES:
        joined[f"t_{name}"].attrs = {"long_name": f"t {name}", "units": "1"}
    joined["shell"] = joined.shell - math.log(top)
    joined.shell.attrs = {"long_name": "shell's centre, log of lambda / lambda_max(0)", "units": "1"}
    settings = {"shell_width": shells.width, "smoothing": shells.smoothing, "largest_eigenvalue_0": top}
    return joined.assign_attrs(provenance(parameters) | settings)


def measure(history: Flow, *, shells: LogShells = SHELLS, parameters: Mapping[str, object] | None = None) -> xr.Dataset:
    """Apply ``along`` to the snapshots of a flow from t = 1 / lambda_max(0) on.

    Args: a ``grsd.gradient_flow`` of any module, with time 0 among its times; ``parameters``: values to write into the
    attributes. ``judge`` reads ``depth`` (default 1) and ``seed`` (default: each network counts as a seed).
    Cost: one kernel with its rate per snapshot.
    """
    call = "evolution.measure"
    flow = flow_from_start(call, history)
    instance(call, "shells", shells, LogShells, "LogShells")
    described(call, parameters)
    start, *later = flow.snapshots
    kernel = tangent_kernel(start.model, flow.inputs, dtype=start.error.dtype)
    top = float(torch.linalg.eigvalsh(kernel)[-1])
    late = [snap for snap in later if snap.time * top >= FIRST_TIME * (1 - 1e-9)]
    if not late:
        raise ValueError(f"{call}(history): expected a snapshot at t >= 1 / lambda_max(0) = {1 / top:.3g}, got none")
    states = (
        (snap.time, spectrum(*tangent_kernel_and_rate(snap.model, flow.inputs, flow.targets, dtype=snap.error.dtype)))
        for snap in late
    )
    return along(states, shells, top=top, **(parameters or {}))


def gather(ensemble: Sequence[xr.Dataset]) -> xr.Dataset:
    """Gather the points of several runs from ``measure`` or ``along``.

    Returns: ``t_rho`` and ``t_omega`` over (point). A point is one shell of one run at one time, with the coordinates
    ``time`` and ``shell``, and ``depth`` and ``seed`` from the run's attributes; masked shells are left out.
    """
    return _points("evolution.gather", ensemble)


def _points(call: str, ensemble: Sequence[xr.Dataset]) -> xr.Dataset:
    runs = listed(call, "ensemble", ensemble, "datasets from evolution.measure")
    needed = {"t_rho": ("time", "shell"), "t_omega": ("time", "shell"), "time": ("time",), "shell": ("shell",)}
    depths, seeds = [], []
    for position, run in enumerate(runs):
        dataset(call, "ensemble", run, needed, "it with evolution.measure")
        depths.append(_label(call, run, "depth", 1, 1))
        seeds.append(_label(call, run, "seed", position, 0))
    parts = []
    for run, depth, seed in zip(runs, depths, seeds, strict=True):
        flat = run.stack(point=("time", "shell")).reset_index("point").dropna("point")
        size = flat.sizes["point"]
        parts.append(flat.assign_coords(depth=("point", [depth] * size), seed=("point", [seed] * size)))
    joined = xr.concat(parts, dim="point", combine_attrs="drop")
    return joined.assign_attrs({**runs[0].attrs, "depth": str(sorted(set(depths))), "seed": str(sorted(set(seeds)))})


def _label(call: str, run: xr.Dataset, which: str, default: int, least: int) -> int:
    found = run.attrs.get(which, default)
    if isinstance(found, bool) or not isinstance(found, Integral) or found < least:
        raise ValueError(
            f"{call}(ensemble): expected a whole number of at least {least} in the attribute {which!r}, "
            f"got {said(found)}"
        )
    return int(found)


def judge(ensemble: Sequence[xr.Dataset], *, exponent: float = 1.0) -> Verdict:
    """Judge controlled evolution over runs from ``measure``.

    Args: ``exponent``: b; for b other than 1 the rate t rho x^(1-b), with x = lambda t, should be constant.

    The fit is log(t rho) = alpha + beta_t log t + beta_s s + beta_L log depth by least squares, with beta_L only for
    several depths; intervals come from leaving out one seed with all its runs.

    Returns: a verdict whose ``details`` are an ``Evolution``. By our rule it holds if the upper 95 % limit of each
    |beta| is at most .1 and no t rho or t omega is above 3. It fails if the whole interval of some |beta| is above .1,
    or the whole interval of the mean supremum is above 3. Otherwise, and with fewer than 8 seeds, it is inconclusive.
    Errors: ``ValueError`` for fewer than 2 seeds.
    """
    call = "evolution.judge"
    measured = _points(call, ensemble)
    _check(call, measured, "ensemble")
    exponent = number(call, "exponent", exponent, -LARGEST, LARGEST)
    seeds = np.unique(measured.seed.values)
    if len(seeds) < 2:
        raise ValueError(f"{call}(ensemble): expected at least 2 seeds, got {len(seeds)}")
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
        suprema[rate] = float(highest.mean())
        half = stats.t.ppf(0.975, len(seeds) - 1) * highest.std(ddof=1) / math.sqrt(len(seeds))
        tops[rate] = (suprema[rate] - half, suprema[rate] + half)
        estimates.append(Estimate(f"the largest t {rate}, mean over seeds,", suprema[rate], tops[rate], BOUND))
        largest = max(largest, float(highest.max()))
        fails |= tops[rate][0] > BOUND
    holds &= largest <= BOUND
    verdict = "inconclusive" if len(seeds) < LEAST_RUNS else "fails" if fails else "holds" if holds else "inconclusive"
    details = Evolution(values, intervals, suprema, tops, len(seeds))
    also = f"the largest rate of any run is {largest:.2g}"
    decided = deciding(verdict, estimates)
    return conclude(name, verdict, decided, len(ensemble), details, least=LEAST_RUNS, seeds=len(seeds), also=also)


def eta(ensemble: Sequence[xr.Dataset], *, rate: str = "rho") -> Eta:
    """Fit log(t rho) = G(log lambda t) + eta log t below the frontier lambda t = 1, to runs from ``measure``.

    A covariant law v = lambda^2 Phi(lambda t) has eta = 0 whatever Phi, while the slopes of ``judge`` refuse it unless
    t rho is constant. G is free: one constant per shell-wide bin of log lambda t and per depth.

    Args: ``rate``: "rho" or "omega".

    Returns: an ``Eta``. By our rule the evolution is controlled ("holds") if the upper limit of eta is at most .1 and
    no t rho is above 3, or if no t rho is above .1: a small constant M' has eta = 1 and moves least of all. It "fails"
    if the whole interval of eta is above .1 and that of the mean supremum above .1, or the latter above 3. Otherwise,
    and with fewer than 8 seeds, it is "inconclusive".
    Errors: ``ValueError`` for fewer than 2 seeds, or unless some bin has two times below the frontier.
    """
    call = "evolution.eta"
    choice(call, "rate", rate, RELATIVE_RATES)
    measured = _points(call, ensemble)
    _check(call, measured, "ensemble")
    widths = {attribute(call, "ensemble", run, "shell_width") for run in ensemble}
    if len(widths) != 1 or widths == {0.0}:
        raise ValueError(f"{call}(ensemble): expected one shell width above 0 in all runs, got {said(sorted(widths))}")
    place = measured.shell.values + np.log(measured.time.values)
    measured = measured.isel(point=place < 0).assign_coords(bin=("point", np.floor(place[place < 0] / widths.pop())))
    seeds = np.unique(measured.seed.values)
    if len(seeds) < 2:
        raise ValueError(
            f"{call}(ensemble): expected at least 2 seeds with points below the frontier, got {len(seeds)}"
        )
    parts = [measured, *(measured.isel(point=measured.seed.values != seed) for seed in seeds)]
    found = np.array([_trend(call, part, rate) for part in parts])
    low, high = jackknife_interval(found, 0.95)
    highest = measured[f"t_{rate}"].groupby("seed").max().values
    mean, largest = float(highest.mean()), float(highest.max())
    half = float(stats.t.ppf(0.975, len(seeds) - 1) * highest.std(ddof=1) / math.sqrt(len(seeds)))
    holds = largest <= SMALL or (high <= TREND and largest <= BOUND)
    fails = mean - half > BOUND or (low > TREND and mean - half > SMALL)
    verdict = "inconclusive" if len(seeds) < LEAST_RUNS else "holds" if holds else "fails" if fails else "inconclusive"
    top = (mean - half, mean + half)
    return Eta(float(found[0]), (low, high), mean, top, largest, verdict, len(seeds), measured.sizes["point"])


def _trend(call: str, measured: xr.Dataset, rate: str) -> float:
    """Return eta: the slope of log(t rate) on log t with the mean of each bin and depth removed from both."""
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


def control_ratio(measured: xr.Dataset, exponent: float = 1.0) -> float:
    """Return the largest of |beta| / .1 and sup / 3 over rho and omega; at most 1 if the evolution is controlled."""
    _check("control_ratio", measured)
    exponent = number("control_ratio", "exponent", exponent, -LARGEST, LARGEST)
    parts = []
    for rate in RELATIVE_RATES:
        parts += [abs(value) / SLOPE for value in slopes(measured, rate, exponent).values()]
        parts.append(float(measured[f"t_{rate}"].max()) / BOUND)
    return max(parts)


def slopes(measured: xr.Dataset, rate: str, exponent: float = 1.0) -> dict[str, float]:
    """Return slopes of log(t rho) or log(t omega) on "time", "shell" and, for several depths, "depth"."""
    _check("evolution.slopes", measured)
    choice("evolution.slopes", "rate", rate, RELATIVE_RATES)
    exponent = number("evolution.slopes", "exponent", exponent, -LARGEST, LARGEST)
    log_t, s, depth = np.log(measured.time.values), measured.shell.values, np.log(measured.depth.values)
    y = np.log(measured[f"t_{rate}"].values) + (1 - exponent) * (s + log_t)
    columns = [log_t, s] + ([depth] if np.ptp(depth) > 0 else [])
    design = np.stack([np.ones_like(y), *columns], axis=1)
    found = np.linalg.lstsq(design, y, rcond=None)[0][1:]
    return dict(zip(SLOPES, found.tolist(), strict=False))


def _check(call: str, measured: xr.Dataset, argument: str = "measured") -> None:
    """Refuse a dataset that does not come from ``gather``."""
    needed = ("t_rho", "t_omega", "time", "shell", "depth", "seed")
    dataset(call, argument, measured, dict.fromkeys(needed, ("point",)), "it with evolution.gather(ensemble)")
    if not measured.sizes["point"]:
        raise ValueError(f"{call}({argument}): expected at least one point, got none")
    for variable in needed:
        finite(call, argument, measured, variable)
    if not all((measured[variable].values > 0).all() for variable in ("t_rho", "t_omega", "time", "depth")):
        raise ValueError(f"{call}({argument}): expected rates, times and depths above 0")


def _norm(matrix: torch.Tensor) -> float:
    return float(torch.linalg.eigvalsh((matrix + matrix.T) / 2).abs().max())

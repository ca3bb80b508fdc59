"""Notebook 02: what the instruments find where a law was planted, how often they err, and what they can detect."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np
import xarray as xr
from scipy import stats

from grsd.evidence import Measurement
from grsd.laws import OBSERVABLES, coupling_law, law_test, velocity_law
from grsd.shells import LogShells, energy_budget
from grsd.shells.common import LEAST_RUNS
from grsd.solvable.planted import PlantedShells
from grsd.support.arguments import integers, listed, span_of, vector
from grsd.support.progress import bar
from grsd.support.provenance import provenance
from grsd.support.values import SEEDS, choice, flag, instance, level_of, positive, said, seed_of, whole_number

LEVEL = 0.05
MOST_RUNS = 100
RUNS = 8
EFFECTS = ("wiggle", "scale")
POINTS_PER_PERIOD = 7.3

# The ensembles that fit and test are judged on: a law at every width, shells of one width, two incommensurate widths.
LAW = PlantedShells(exponent=1.5, drift=0.3, rotation=0.1, reach=0.5, noise=0.2)
WIDTHS = (LogShells(math.log(2), 0.1), LogShells(math.log(3), 0.1))
SHELLS = PlantedShells(exponent=1.4, kappa=(0.5, 0.2), shells=WIDTHS[0], noise=0.3)
INTERIOR = (-10.4, -1.9)


def ensemble_budgets(
    planted: PlantedShells, shells: Sequence[LogShells], ensemble: int, runs: int
) -> list[list[xr.Dataset]]:
    """Budgets of ensemble n, one list for each of the shells: run r has the seed 100 n + r."""
    check_runs("ensemble_budgets", runs)
    return planted.budgets_at_widths([MOST_RUNS * ensemble + run for run in range(runs)], list(shells))


def outcomes(
    planted: PlantedShells,
    shells: Sequence[LogShells],
    window: tuple[float, float],
    ensemble: int,
    *,
    runs: int = 8,
    k_max: int = 2,
    scale: bool = False,
) -> dict[str, bool]:
    """What happened in one planted ensemble, by name.

    "b_velocity", "c", "b_coupling", "kappa" (the joint region): whether the 95 % interval at the first shells contains
    the truth, where the plant gives it. "velocity_test", "coupling_test": whether the test of all widths rejects at
    5 %, and "velocity_test_0", "coupling_test_0", ... whether that of each width does.

    b is judged against ``planted.exponent``; c, quoted at the middle of the window, against the noiseless mean,
    ``planted.population()``, which holds drift and rotation (a kernel); kappa, quoted there, against ``planted.kappa``,
    exact at the shells that were planted. Where the plant is no law only the rejections mean anything.

    Source: this project's. Cost: at D = 200 and two shells some 20 ms a run. Errors: as in ``law_test``.
    """
    middle = (window[0] + window[1]) / 2
    options = {"scale": scale, "window": window}
    budgets = ensemble_budgets(planted, shells, ensemble, runs)
    found = {}
    for observable in OBSERVABLES:
        test = law_test(budgets, observable=observable, k_max=k_max, **options)
        found[f"{observable}_test"] = test.p <= LEVEL
        for number, p in enumerate(test.p_by_width):
            found[f"{observable}_test_{number}"] = p <= LEVEL
    velocity = velocity_law(budgets[0], reference=middle, **options)
    coupling = coupling_law(budgets[0], k_max=k_max, reference=middle, **options)
    for fit in (velocity, coupling):
        low, high = fit.exponent_interval
        found[f"b_{fit.observable}"] = low <= planted.exponent <= high
    if not planted.kappa and planted.spectrum != "random":
        low, high = velocity.log_amplitude_intervals[0]
        found["c"] = low <= math.log(abs(_amplitude_of_the_mean(planted, shells[0], window, scale))) <= high
    if planted.kappa and shells[0] == planted.shells and not (planted.drift or planted.rotation):
        kappa = np.array([*planted.kappa, *[0.0] * k_max])[:k_max] * math.exp((planted.exponent - 1) * middle)
        found["kappa"] = coupling.contains(kappa)
    return {name: bool(value) for name, value in found.items()}


@cache
def _amplitude_of_the_mean(
    planted: PlantedShells, shells: LogShells, window: tuple[float, float], scale: bool
) -> float:
    mean = [energy_budget(*planted.population(), shells)] * 4
    return float(velocity_law(mean, reference=sum(window) / 2, scale=scale, window=window).amplitudes[0])


def coverage(
    planted: PlantedShells,
    shells: Sequence[LogShells],
    window: tuple[float, float],
    *,
    ensembles: int = 200,
    runs: int = 8,
    seed: int = 0,
    k_max: int = 2,
    scale: bool = False,
    level: float = 0.99,
    progress: bool | None = None,
) -> xr.Dataset:
    """Shares of ``outcomes`` over the ensembles ``seed``, ``seed`` + 1, ... of planted shells.

    Returns: ``hits(outcome)``, ``share(outcome)``, its exact binomial (Clopper and Pearson) interval ``low(outcome)``,
    ``high(outcome)`` at ``level``, and ``nominal(outcome)``, .95 for an interval and .05 for a test; settings and
    versions in the attributes. ``to_dataframe().to_csv(...)`` is the table.
    """
    whole_number("coverage", "ensembles", ensembles, 1)
    shells, window, level = check_plan("coverage", planted, shells, window, ensembles, seed, level)
    flag("coverage", "scale", scale)
    check_runs("coverage", runs)
    hits: Counter[str] = Counter()
    for ensemble in bar(range(seed, seed + ensembles), show=progress, desc="coverage", unit="ensemble"):
        hits.update(outcomes(planted, shells, window, ensemble, runs=runs, k_max=k_max, scale=scale))
    names = sorted(hits)
    nominal = [LEVEL if "_test" in name else 1 - LEVEL for name in names]
    data = proportions(xr.DataArray([hits[name] for name in names], {"outcome": names}, "outcome"), ensembles, level)
    settings = {"ensembles": ensembles, "runs": runs, "seed": seed, "k_max": k_max, "window": window, "level": level}
    return data.assign(nominal=("outcome", nominal)).assign_attrs(described(planted, shells, settings))


def check_plan(
    call: str,
    planted: PlantedShells,
    shells: Sequence[LogShells],
    window: tuple[float, float],
    ensembles: int,
    seed: int,
    level: float,
) -> tuple[list[LogShells], tuple[float, float], float]:
    """The shells, the window and the level of a plan; refuse one that cannot be carried out."""
    instance(call, "planted", planted, PlantedShells, "PlantedShells")
    shells = listed(call, "shells", shells, "LogShells")
    for item in shells:
        instance(call, "shells", item, LogShells, "LogShells")
    low, high = span_of(call, "window", window)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"{call}(window=...): expected finite ends, got {window!r}")
    whole_number(call, "ensembles", ensembles, 0)
    seed_of(call, "seed", seed)
    if MOST_RUNS * (seed + ensembles) >= SEEDS:
        raise ValueError(f"{call}(ensembles, seed): expected seeds below 2^63 for all runs, got {said(seed)}")
    return shells, (low, high), level_of(call, level)


def check_runs(call: str, runs: int) -> None:
    """Refuse a number of runs that no ensemble has."""
    if not LEAST_RUNS <= whole_number(call, "runs", runs, 1) <= MOST_RUNS:
        raise ValueError(f"{call}(runs=...): expected from {LEAST_RUNS} to {MOST_RUNS}, got {runs}")


def proportions(hits: xr.DataArray, of: int, level: float) -> xr.Dataset:
    """``hits``, ``share`` and the exact binomial interval ``low``, ``high`` of the share."""
    intervals = [stats.binomtest(int(k), of).proportion_ci(level, "exact") for k in hits.values.ravel()]
    low, high = (np.reshape([getattr(item, end) for item in intervals], hits.shape) for end in ("low", "high"))
    text = f"exact binomial interval of the share at {level:g}"
    return xr.Dataset(
        {
            "hits": hits.assign_attrs(long_name=f"how many of {of} ensembles"),
            "share": (hits / of).assign_attrs(long_name="share of the ensembles", units="1"),
            "low": hits.copy(data=low).assign_attrs(long_name=f"lower end, {text}", units="1"),
            "high": hits.copy(data=high).assign_attrs(long_name=f"upper end, {text}", units="1"),
        }
    )


def described(planted: PlantedShells, shells: Sequence[LogShells], settings: dict[str, object]) -> dict[str, object]:
    """Attributes: versions, what was planted, how it was read."""
    read = ", ".join(f"width {item.width:g} smoothing {item.smoothing:g}" for item in shells)
    return provenance(asdict(planted) | {"read_shells": read} | settings)


def power_curve(
    planted: PlantedShells,
    shells: Sequence[LogShells],
    window: tuple[float, float],
    *,
    effect: Sequence[float],
    runs: Sequence[int] = (6, 8, 16),
    kind: str = "wiggle",
    observable: str = "velocity",
    ensembles: int = 20,
    seed: int = 0,
    k_max: int = 2,
    scale: bool = False,
    level: float = 0.99,
    progress: bool | None = None,
) -> xr.Dataset:
    """Share of planted ensembles in which the test of all ``shells`` together rejects the law at 5 %.

    Args:
        effect: sizes of what is planted against the law, ``kind``: "wiggle" (relative amplitude, of ``planted.period``)
            or "scale" (r, 1 / time). 0 gives the share of false rejections.
        runs: numbers of runs R. Under 6 no p-value gets under .05.
        ensembles, seed: ensembles ``seed``, ``seed`` + 1, ... The same ones serve every size, and the first R runs of
            each serve R, so that curves differ by what was changed and not by the draw.
        level: of the exact binomial intervals. Others as in ``law_test``.

    Returns: ``hits``, ``share``, ``low``, ``high`` over (effect, runs); versions and settings in the attributes.
    Source: this project's. Cost: at D = 200 and two widths some 20 ms a run, for each size and the largest R.
    Errors: ``ValueError`` for an unknown ``kind`` and as in ``law_test``.
    """
    choice("power_curve", "kind", kind, EFFECTS)
    whole_number("power_curve", "ensembles", ensembles, 1)
    shells, window, level = check_plan("power_curve", planted, shells, window, ensembles, seed, level)
    effect, runs = vector("power_curve", "effect", effect).tolist(), integers("power_curve", "runs", runs)
    for count in runs:
        check_runs("power_curve", count)
    hits = xr.DataArray(0, {"effect": list(effect), "runs": list(runs)}, ["effect", "runs"])
    hits.effect.attrs = {"long_name": kind, "units": {"wiggle": "1", "scale": "1/time"}[kind]}
    hits.runs.attrs = {"long_name": "runs R"}
    options = {"observable": observable, "k_max": k_max, "scale": scale, "window": window}
    for size in bar(list(effect), show=progress, desc="power", unit=kind):
        changed = replace(planted, **{kind: size})
        for ensemble in range(seed, seed + ensembles):
            budgets = ensemble_budgets(changed, shells, ensemble, max(runs))
            for count in runs:
                test = law_test([item[:count] for item in budgets], **options)
                hits.loc[size, count] += test.p <= LEVEL
    settings = {"kind": kind, "ensembles": ensembles, "seed": seed, "window": window, "level": level}
    return proportions(hits, ensembles, level).assign_attrs(
        described(planted, shells, settings | {"observable": observable, kind: "varied"})
    )


def detection_limit(
    planted: PlantedShells,
    window: tuple[float, float],
    *,
    period: Sequence[float],
    smoothing: Sequence[float],
    widths: Sequence[float] = (math.log(2), math.log(3)),
    ensembles: int = 0,
    runs: int = 8,
    seed: int = 0,
    level: float = 0.99,
    progress: bool | None = None,
) -> xr.Dataset:
    """What smoothing leaves of a log-periodic wiggle of the velocity, and with ``ensembles`` how often it is caught.

    Args:
        planted: its ``wiggle`` is the amplitude; a kernel (no planted kappa).
        period, smoothing: p and delta in s.
        widths: of the shells of the test, which reads the velocity.

    Returns over (period, smoothing): ``damping``, the amplitude seen in u of the noiseless mean ``population()``,
    relative to the planted one, by least squares over the window; ``damping_theory``, exp(-(2 pi delta / p)^2 / 2),
    exact for drift alone where p and delta span several modes (a rotation kernel averages over its own reach besides);
    and ``hits``, ``share``, ``low``, ``high`` where ``ensembles`` is not 0.

    Source: this project's; the factor is the Fourier transform of the normal window. Cost: 0.1 s a cell, and
    ``ensembles`` times ``runs`` times 20 ms.
    Errors: ``ValueError`` for no wiggle, a planted kappa, and as in ``law_test``.
    """
    instance("detection_limit", "planted", planted, PlantedShells, "PlantedShells")
    if not planted.wiggle:
        raise ValueError("detection_limit(planted): expected a wiggle that is not 0; use replace(planted, wiggle=.2)")
    call = "detection_limit"
    _, window, level = check_plan(call, planted, [LogShells()], window, ensembles, seed, level)
    check_runs(call, runs)
    widths = vector(call, "widths", widths).tolist()
    axes = {"period": vector(call, "period", period).tolist()}
    axes |= {"smoothing": vector(call, "smoothing", smoothing).tolist()}
    for name, values in axes.items():
        for value in values:
            positive("detection_limit", name, value)
    damping = xr.DataArray(np.nan, axes, list(axes), attrs={"long_name": "damping, measured", "units": "1"})
    p, delta = damping.period, damping.smoothing
    theory = np.exp(-((2 * math.pi * delta / p) ** 2) / 2).transpose(*axes)
    theory.attrs = {"long_name": "damping, exp(-(2 pi delta / p)^2 / 2)", "units": "1"}
    hits = xr.zeros_like(damping, dtype=int)
    cells = [(p, delta) for p in axes["period"] for delta in axes["smoothing"]]
    for p, delta in bar(cells, show=progress, desc="detection limit", unit="cell"):
        waved = replace(planted, period=p)
        damping.loc[p, delta] = _amplitude(waved, delta, window) / abs(planted.wiggle)
        shells = [LogShells(width, delta) for width in widths]
        for ensemble in range(seed, seed + ensembles):
            budgets = ensemble_budgets(waved, shells, ensemble, runs)
            hits.loc[p, delta] += law_test(budgets, observable="velocity", window=window).p <= LEVEL
    found = xr.Dataset({"damping": damping, "damping_theory": theory})
    settings = {"ensembles": ensembles, "window": window, "widths": ", ".join(f"{width:g}" for width in widths)}
    settings["period"] = "varied"
    if ensembles:
        found = found.merge(proportions(hits, ensembles, level))
        settings |= {"runs": runs, "seed": seed, "level": level}
    return found.assign_attrs(described(planted, (), settings))


def _amplitude(planted: PlantedShells, smoothing: float, window: tuple[float, float]) -> float:
    """Of u / u without the wiggle - 1 at the planted period."""
    fine = LogShells(planted.period / POINTS_PER_PERIOD, smoothing)
    wavy, flat = (energy_budget(*item.population(), fine) for item in (planted, replace(planted, wiggle=0.0)))
    kept = (wavy.boundary_mask == 0) & (wavy.boundary >= window[0]) & (wavy.boundary <= window[1])
    excess = (wavy.velocity / flat.velocity - 1).values[kept.values]
    angle = 2 * math.pi * wavy.boundary.values[kept.values] / planted.period
    wave = np.stack([np.cos(angle), np.sin(angle), np.ones_like(angle)], axis=1)
    return float(np.hypot(*np.linalg.lstsq(wave, excess, rcond=None)[0][:2]))


@dataclass(frozen=True)
class Protocol:
    """Ensembles of a planted system, read by all ``shells``: whether ``outcome`` (``outcomes``) happens in one."""

    planted: PlantedShells
    outcome: str
    shells: tuple[LogShells, ...] = WIDTHS
    window: tuple[float, float] = INTERIOR
    runs: int = RUNS


def happened(protocol: Protocol, ensemble: int) -> float:
    """One or zero."""
    found = _outcomes(protocol.planted, protocol.shells, protocol.window, ensemble, protocol.runs)
    return float(found[protocol.outcome])


@cache
def _outcomes(
    planted: PlantedShells, shells: tuple[LogShells, ...], window: tuple[float, float], ensemble: int, runs: int
) -> dict[str, bool]:
    return outcomes(planted, shells, window, ensemble, runs=runs)


def _wave(wiggle: float, period: float) -> PlantedShells:
    return replace(LAW, wiggle=wiggle, period=period)


def coverage_table() -> xr.Dataset:
    """Shares over 200 pilot ensembles of the law at every width."""
    return coverage(LAW, WIDTHS, INTERIOR)


def shells_table() -> xr.Dataset:
    """The same for couplings planted between shells of one width."""
    return coverage(SHELLS, WIDTHS[:1], INTERIOR)


def wiggle_table() -> xr.Dataset:
    """The power against a log-periodic wiggle of period 1.7."""
    return _power("wiggle", (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2))


def scale_table() -> xr.Dataset:
    """The power against a scale besides the law."""
    return _power("scale", (0.0, 0.001, 0.003, 0.005, 0.01, 0.02, 0.03))


def _power(kind: str, effect: Sequence[float]) -> xr.Dataset:
    planted = replace(LAW, period=1.7)
    return power_curve(planted, WIDTHS, INTERIOR, effect=effect, kind=kind, ensembles=60)


TABLES = {
    "02_calibration-coverage": coverage_table,
    "02_calibration-coverage-shells": shells_table,
    "02_calibration-power-wiggle": wiggle_table,
    "02_calibration-power-scale": scale_table,
}

MEASUREMENTS = {
    "coverage-b": Measurement(Protocol(LAW, "b_velocity"), happened),
    "coverage-c": Measurement(Protocol(LAW, "c"), happened),
    "coverage-kappa": Measurement(Protocol(SHELLS, "kappa", WIDTHS[:1]), happened),
    "false-rejection": Measurement(Protocol(LAW, "velocity_test"), happened),
    "wiggle-detected": Measurement(Protocol(_wave(0.2, 1.7), "velocity_test"), happened),
    "scale-detected": Measurement(Protocol(replace(LAW, scale=0.03), "velocity_test"), happened),
    "second-width": Measurement(Protocol(_wave(0.4, math.log(2)), "velocity_test_1"), happened),
}

COVERED = {"b_velocity": "coverage-b", "c": "coverage-c", "kappa": "coverage-kappa", "velocity_test": "false-rejection"}
"""The claims about how often an outcome of ``coverage`` happens if the law is true."""

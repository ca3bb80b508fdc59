"""How often the law's intervals contain what was planted, and how often its test rejects."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache

import numpy as np
import xarray as xr
from scipy import stats

from grsd.laws import OBSERVABLES, coupling_law, law_test, velocity_law
from grsd.shells import LogShells, energy_budget
from grsd.shells.common import LEAST_RUNS
from grsd.solvable.planted import PlantedShells
from grsd.support.arguments import listed, span_of
from grsd.support.progress import bar
from grsd.support.provenance import provenance
from grsd.support.values import SEEDS, flag, instance, level_of, said, seed_of, whole

LEVEL = 0.05
MOST_RUNS = 100

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
    return planted.budgets([MOST_RUNS * ensemble + run for run in range(runs)], list(shells))


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
    whole("coverage", "ensembles", ensembles, 1)
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
    whole(call, "ensembles", ensembles, 0)
    seed_of(call, "seed", seed)
    if MOST_RUNS * (seed + ensembles) >= SEEDS:
        raise ValueError(f"{call}(ensembles, seed): expected seeds below 2^63 for all runs, got {said(seed)}")
    return shells, (low, high), level_of(call, level)


def check_runs(call: str, runs: int) -> None:
    """Refuse a number of runs that no ensemble has."""
    if not LEAST_RUNS <= whole(call, "runs", runs, 1) <= MOST_RUNS:
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

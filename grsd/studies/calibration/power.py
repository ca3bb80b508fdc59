"""What the test of the law can detect: share of planted ensembles caught, by effect, runs, period and smoothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from grsd.laws import law_test
from grsd.shells import LogShells, energy_budget
from grsd.solvable.planted import PlantedShells
from grsd.studies.calibration.coverage import LEVEL, check_plan, check_runs, described, ensemble_budgets, proportions
from grsd.support.arguments import integers, vector
from grsd.support.progress import bar
from grsd.support.values import choice, instance, positive, whole

EFFECTS = ("wiggle", "scale")
POINTS_PER_PERIOD = 7.3


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
    whole("power_curve", "ensembles", ensembles, 1)
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

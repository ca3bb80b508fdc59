"""Cases for conditions 3 and 4: one that holds by construction, one that is built to break it, and the networks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import xarray as xr

from grsd.conditions import Verdict, evolution, invariance, of_specs
from grsd.conditions.matched import frontier_window
from grsd.decomposition import spectrum
from grsd.runs import Spec, ensemble
from grsd.runs.history import join_widths
from grsd.shells import LogShells
from grsd.solvable import DiagonalNet, PlantedShells, ProjectedTwoLayer
from grsd.studies.calibration.coverage import INTERIOR, LAW, WIDTHS, ensemble_budgets
from grsd.support.provenance import provenance

RUNS = 8
DEPTHS = (4, 16, 32)
EXACT_SHELLS = LogShells(0.7, 0.1)
EVOLUTION = Spec(width=48, task="parity", samples=100, times=(1.0, 30.0, 6), shell_widths=(0.7,), smoothing=0.1)
INVARIANCE = Spec(
    width=48,
    task="parity",
    samples=240,
    times=(0.5, 60.0, 10),
    shell_widths=invariance.WIDTHS,
    smoothing=invariance.SMOOTHING,
)
LOG_LOSS, REACH = -1.0, 6.0


@dataclass(frozen=True, eq=False)
class Stage:
    """Where on the way condition 4 is read: ``log_loss`` of ``runs`` seeds a cell; the spec of each architecture."""

    log_loss: float
    runs: int
    specs: Mapping[str, Spec]

    def block(self, architecture: str, depth: int, first: int) -> list[Spec]:
        """The runs of the seeds from ``first`` on."""
        return replace(self.specs[architecture], depth=depth).with_seeds(range(first, first + self.runs))

    def measure(self, architecture: str, depth: int, first: int, **options: object) -> list[xr.Dataset]:
        """``invariance.measure`` of each run of the block.

        One that is past the loss at its first snapshot is watched from a quarter of that time on. ``options``: workers
        and progress.
        """
        specs = self.block(architecture, depth, first)
        runs = ensemble(specs, threads=1, **options)
        early = [float(run.loss[0]) <= math.exp(self.log_loss) * float(run.start_loss) for run in runs]
        specs = [
            replace(spec, times=(spec.times[0] / 4, *spec.times[1:])) if passed else spec
            for spec, passed in zip(specs, early, strict=True)
        ]
        return of_specs(invariance, specs, log_loss=self.log_loss, **options)


def _stage(log_loss: float, runs: int, times: Mapping[str, tuple[float, float, int]], **changes: object) -> Stage:
    specs = {name: replace(INVARIANCE, architecture=name, times=of, **changes) for name, of in times.items()}
    return Stage(log_loss, runs, specs)


# Late windows reach fewer shells of the residual networks, so the second width is 1/2 there, as far from a fraction of
# log 2 as log 3 is; the flows pass a given loss at different times.
EARLY = _stage(LOG_LOSS, RUNS, dict.fromkeys(("residual", "plain"), INVARIANCE.times))
LATE = _stage(-2.5, 24, {"residual": (12.0, 300.0, 6), "plain": (5.0, 160.0, 6)}, shell_widths=(math.log(2), 0.5))
INVARIANT = replace(LAW, noise=0.1)
LOG_PERIODIC = replace(LAW, wiggle=0.6, period=2.5)
SCALED = replace(LAW, scale=0.1)


def controlled(seed: int, modes: int = 120) -> xr.Dataset:
    """Condition 3 by construction: the projected two-layer network, whose u is flat and t u tends to a constant.

    The decay of the spectrum (1 to 3) and the source exponent (.2 to .8) are drawn by ``seed``; t from 1e2 to 1e6.
    """
    rng = np.random.default_rng(seed)
    net = ProjectedTwoLayer(alpha=rng.uniform(1, 3), beta=rng.uniform(0.2, 0.8), modes=modes)
    states = ((time, spectrum(*net.matrices(time)[:2])) for time in np.geomspace(1e2, 1e6, 8))
    return evolution.along(states, EXACT_SHELLS, top=1.0, case="projected two-layer network", seed=seed)


def sudden(seed: int, modes: int = 120) -> xr.Dataset:
    """Condition 3 broken: a diagonal network of depth 4 that starts small, then aligns suddenly, mode after mode.

    The scale of the start (.05 to .1) is drawn by ``seed``; t from 1 to 30.
    """
    net = DiagonalNet(4, a=1.05, start=float(np.random.default_rng(seed).uniform(0.05, 0.1)), modes=modes)
    top = float(net.eigenvalues(0.0).max())
    states = ((time, spectrum(*net.matrices(time)[:2])) for time in np.geomspace(1, 30, 8) / top)
    return evolution.along(states, EXACT_SHELLS, top=top, case="diagonal network, small start", seed=seed)


def exact_control(case: str, seed: int) -> float:
    """``evolution.control_ratio`` of one draw of "controlled" or "sudden"."""
    run = {"controlled": controlled, "sudden": sudden}[case](seed)
    return evolution.control_ratio(evolution.gather([run]))


@cache
def network_evolution(architecture: str, seed: int) -> xr.Dataset:
    """The rates of one seed of a network at depths 4, 16 and 32, as ``evolution.gather`` gives them."""
    specs = [replace(EVOLUTION, architecture=architecture, depth=depth, seed=seed) for depth in DEPTHS]
    return evolution.gather(of_specs(evolution, specs, workers=1, progress=False))


def network_slope(architecture: str, of: str, seed: int) -> float:
    """The slope of log(t rho) or log(t omega), whichever is larger, on ``of``: "time", "shell" or "depth"."""
    return max(evolution.slopes(network_evolution(architecture, seed), rate)[of] for rate in evolution.RATES)


def network_supremum(architecture: str, seed: int) -> float:
    """The largest t rho or t omega over shells, times and depths."""
    return max(float(network_evolution(architecture, seed)[f"t_{rate}"].max()) for rate in evolution.RATES)


def planted_runs(
    planted: PlantedShells, number: int, runs: int = RUNS, shells: Sequence[LogShells] = WIDTHS
) -> list[xr.Dataset]:
    """The runs of ensemble n of a plant, each measured at all ``shells``, as ``invariance.judge`` takes them."""
    return [join_widths(run) for run in zip(*ensemble_budgets(planted, shells, number, runs), strict=True)]


def planted_verdict(planted: PlantedShells, ensemble: int) -> str:
    """The verdict of condition 4 on one planted ensemble of 8 runs at widths log 2 and log 3."""
    return invariance.judge(planted_runs(planted, ensemble), window=INTERIOR).verdict


LATE_LARGE = replace(LATE, runs=96)


@cache
def network_invariance(stage: Stage, architecture: str, depth: int, first: int) -> tuple[Verdict, tuple[float, ...]]:
    """Condition 4 for the networks of a stage with the seeds from ``first`` on, and D^2 without each of them."""
    measured = stage.measure(architecture, depth, first, progress=False)
    window = frontier_window(measured, REACH)
    rest = (measured[:run] + measured[run + 1 :] for run in range(stage.runs))
    without = tuple(invariance.judge(part, window=window).estimate for part in rest)
    return invariance.judge(measured, window=window), without


def defect_of_seed(stage: Stage, architecture: str, depth: int, seed: int, first: int) -> float:
    """The jackknife pseudo-value of a seed in its block of R from ``first`` on: R D^2 - (R - 1) D^2 without it."""
    place = (seed - first) % stage.runs
    found, without = network_invariance(stage, architecture, depth, seed - place)
    return pseudo_value(found.estimate, without, place)


def pseudo_value(estimate: float, without: Sequence[float] | np.ndarray, place: int) -> float:
    """R x - (R - 1) x without one of R runs, the one at ``place``: their mean is the jackknife estimate."""
    return len(without) * estimate - (len(without) - 1) * float(without[place])


def contrast_of_seed(stage: Stage, depth: int, seed: int, first: int) -> float:
    """``defect_of_seed`` of the plain network less that of the residual one, which starts from the same weights."""
    plain, residual = (defect_of_seed(stage, kind, depth, seed, first) for kind in ("plain", "residual"))
    return plain - residual


def defect_table(measured: Mapping[tuple[str, int], Sequence[xr.Dataset]], reach: float = REACH) -> xr.Dataset:
    """D^2 over (architecture, depth, observable, scale_removed): ``defect``, ``low``, ``high``, ``p``, ``verdict``.

    Args: ``measured`` by (architecture, depth), each a list of runs from ``invariance.measure``.
    NaN and "inconclusive" where the window has too few shells for the fit.
    """
    axes = {
        "architecture": list(dict.fromkeys(architecture for architecture, _ in measured)),
        "depth": list(dict.fromkeys(depth for _, depth in measured)),
        "observable": ["coupling", "velocity"],
        "scale_removed": [0, 1],
    }
    shape = [len(axis) for axis in axes.values()]
    numbers = {name: np.full(shape, np.nan) for name in ("defect", "low", "high", "p")}
    verdicts = np.full(shape, "inconclusive", dtype=object)
    for at in np.ndindex(*shape):
        architecture, depth, observable, scale = (axis[k] for axis, k in zip(axes.values(), at, strict=True))
        runs = measured[architecture, depth]
        window = frontier_window(runs, reach)
        with contextlib.suppress(ValueError):
            found = invariance.judge(runs, window=window, observable=observable, scale=bool(scale))
            values = (found.estimate, *found.interval, found.details.p)
            for array, value in zip(numbers.values(), values, strict=True):
                array[at] = value
            verdicts[at] = found.verdict
    data = {name: (list(axes), array) for name, array in numbers.items()} | {"verdict": (list(axes), verdicts)}
    return xr.Dataset(data, axes, attrs=_common(measured, reach))


def stage_runs(stage: Stage, depths: Sequence[int], first: int) -> dict[tuple[str, int], list[xr.Dataset]]:
    """``invariance.measure`` of a stage's seeds from ``first`` on, by (architecture, depth)."""
    return {
        (architecture, depth): stage.measure(architecture, depth, first)
        for depth in depths
        for architecture in stage.specs
    }


def coupling_table(measured: Mapping[tuple[str, int], Sequence[xr.Dataset]], reach: float = REACH) -> xr.Dataset:
    """K_ab t and the fitted law over (architecture, depth, pair), at the first width; t the geometric mean over runs.

    ``position`` in log(lambda t), ``separation``, ``value``, ``error`` (standard), ``fitted``; NaN past a cell's last.
    """
    rows = []
    for (architecture, depth), runs in measured.items():
        fit = invariance.judge(runs, window=frontier_window(runs, reach)).details.test.fits[0]
        time = float(np.exp(np.mean([np.log(run.time) for run in runs])))
        scaled = {"value": fit.values * time, "error": fit.standard_errors * time, "fitted": fit.fitted * time}
        columns = {"position": fit.positions + math.log(time), "separation": fit.separations.astype(float)} | scaled
        row = xr.Dataset({name: ("pair", column) for name, column in columns.items()})
        labels = {"pair": np.arange(len(fit.values)), "architecture": [architecture], "depth": [depth]}
        rows.append(row.assign_coords(pair=labels.pop("pair")).expand_dims(labels))
    return xr.combine_by_coords(rows).assign_attrs(_common(measured, reach))


def power_table(
    measured: Mapping[tuple[str, int], Sequence[xr.Dataset]],
    runs: Sequence[int],
    *,
    lawful: bool = True,
    draws: int = 40,
) -> xr.Dataset:
    """``invariance.power`` of the couplings over (architecture, depth, runs, verdict).

    ``lawful``: if the fitted law is true; otherwise if what was measured is.
    """
    rows = []
    for (architecture, depth), cell in measured.items():
        window = frontier_window(cell, REACH)
        found = invariance.power(cell, runs, window=window, lawful=lawful, draws=draws)
        rows.append(found.expand_dims({"architecture": [architecture], "depth": [depth]}))
    settings = {"draws": draws, "lawful": int(lawful)}
    return xr.combine_by_coords(rows, combine_attrs="drop").assign_attrs(_common(measured, REACH) | settings)


def _common(measured: Mapping[tuple[str, int], Sequence[xr.Dataset]], reach: float) -> dict[str, object]:
    runs = next(iter(measured.values()))
    return common_attributes(runs) | {"reach": reach}


def common_attributes(runs: Sequence[xr.Dataset]) -> dict[str, object]:
    """What describes runs that differ in their seed: versions, settings and ``seeds``, without what tells one apart."""
    own = {"architecture", "depth", "seed", "spec", "function", "code", "threads"}
    kept = {name: value for name, value in runs[0].attrs.items() if name not in own}
    return kept | {"seeds": str([int(run.attrs["seed"]) for run in runs])}


def slope_table(spec: Spec, depths: Sequence[int], seeds: Sequence[int]) -> xr.Dataset:
    """The slopes of condition 3 over (architecture, rate, of): ``slope``, ``low``, ``high``; verdicts as attributes.

    ``of`` is "time", "shell" or "depth". ``supremum(architecture, rate)``: mean over seeds of the largest t rate.
    """
    axes = {"architecture": ["residual", "plain"], "rate": list(evolution.RATES), "of": list(evolution.SLOPES)}
    numbers = {name: np.full([len(axis) for axis in axes.values()], np.nan) for name in ("slope", "low", "high")}
    supremum, verdicts = np.full((2, 2), np.nan), {}
    for i, architecture in enumerate(axes["architecture"]):
        specs = [s for d in depths for s in replace(spec, architecture=architecture, depth=d).with_seeds(seeds)]
        judged = evolution.judge(of_specs(evolution, specs))
        verdicts[f"verdict_{architecture}"], found = judged.verdict, judged.details
        for (rate, of), value in found.slopes.items():
            place = i, axes["rate"].index(rate), axes["of"].index(of)
            for array, number in zip(numbers.values(), (value, *found.slope_intervals[rate, of]), strict=True):
                array[place] = number
        supremum[i] = [found.suprema[rate] for rate in axes["rate"]]
    data = {name: (list(axes), array) for name, array in numbers.items()}
    data["supremum"] = (["architecture", "rate"], supremum)
    described = {name: value for name, value in spec.to_dict().items() if name not in {"architecture", "depth", "seed"}}
    settings = {"seeds": str(list(seeds)), "depths": str(list(depths))} | verdicts
    return xr.Dataset(data, axes, attrs=provenance({name: str(v) for name, v in described.items()} | settings))

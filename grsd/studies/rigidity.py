"""Notebook 08: the rigidity theorem on drawn velocities, planted laws to rank, exact models and trained networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
import xarray as xr

from grsd.conditions.covariance import Collapse, along_runs, between_problems
from grsd.conditions.matched import frontier_window, widths_of
from grsd.decomposition import spectrum
from grsd.evidence import Measurement
from grsd.laws import Comparison, Exponents, compare_laws, exponents
from grsd.laws.velocity import pooled_velocities
from grsd.runs import Spec, ensemble
from grsd.shells import LogShells, energy_budget
from grsd.solvable import DiagonalNet, PlantedShells, ProjectedTwoLayer
from grsd.studies.calibration import INTERIOR, LAW, WIDTHS, ensemble_budgets
from grsd.studies.log_shift_invariance import LOG_PERIODIC
from grsd.studies.stages import EARLY, LATE, REACH, RUNS, Block, pseudo_value
from grsd.support.provenance import provenance
from grsd.theory import (
    EXAMPLES,
    Band,
    covariance_error,
    nearest_affine,
    nearest_law,
    shift_defect,
    shift_error,
    velocity_band,
)

EXACT_SHELLS = LogShells(0.5, 0.1)
EXACT_TIMES = {"diagonal": (3.0, 300.0), "projected": (1e3, 1e6)}
PROBLEM = Spec(samples=24, width=16, depth=3)
RANKED_RUNS = 16
PLANTED = {
    "power law": LAW,
    "log-periodic": replace(LAW, wiggle=LOG_PERIODIC.wiggle, period=LOG_PERIODIC.period),
    "broken power law": replace(LAW, exponent=2.5, bend=(-6.0, 0.5)),
}


@dataclass(frozen=True)
class Drawn:
    """How many velocity fields are drawn."""

    draws: int = 20


@dataclass(frozen=True)
class Problem:
    """A network on digits, both drawn by the seed, and when and how its velocities are read."""

    network: Spec = PROBLEM
    time: float = 3.0
    shells: LogShells = EXACT_SHELLS
    steps: int = 2


@dataclass(frozen=True)
class Exact:
    """Exact models of that many modes."""

    modes: int = 300


@dataclass(frozen=True)
class Planted:
    """Ensembles of all systems of ``PLANTED``, the ranking from ``ranked`` runs, the certificate from ``runs``."""

    outcome: str
    systems: tuple[PlantedShells, ...] = tuple(PLANTED.values())
    window: tuple[float, float] = INTERIOR
    shells: tuple[LogShells, ...] = WIDTHS
    ranked: int = RANKED_RUNS
    runs: int = RUNS


def violations(s: np.ndarray) -> pd.DataFrame:
    """By how much each of ``EXAMPLES`` violates each hypothesis at s and time 1, and its distance to a power law."""
    rows = {}
    for name, example in EXAMPLES.items():
        shifts = {f"shift log {n}": shift_error(example.velocity, math.log(n), 1.0, s) for n in (2, 3)}
        covariance = max(covariance_error(example.velocity, factor, 1.0, s) for factor in (0.3, 2.0, 7.0))
        distance = nearest_affine(s, np.log(example.velocity(np.exp(s), 1.0))).distance
        rows[name] = shifts | {"covariance": covariance, "distance to a power law": distance}
    return pd.DataFrame(rows).T


def theorem_ratio(protocol: Drawn, seed: int) -> float:
    """Largest ratio, over random velocity fields, of the distance to the nearest law to its bound epsilon + delta.

    Theorem 3: at most 1.
    Velocities on a grid of s and log t: one slice drawn (a random walk, noise, or steps), carried to the other times by
    covariance, with errors up to delta drawn (half the seeds: none). epsilon and delta are measured on what came out.
    """
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(protocol.draws):
        cells = int(rng.integers(2, 17))
        rough = rng.standard_normal(cells + 1)
        curve = (np.cumsum(rough), rough, np.sign(rough))[rng.integers(3)]
        noise = float(rng.choice([0.0, rng.uniform(0, 1)]))
        slice_s, log_t = np.arange(cells + 1.0), np.arange(-3.0, 4.0)
        place = np.tile(slice_s, (len(log_t), 1))
        s, log_times = place - log_t[:, None], np.broadcast_to(log_t[:, None], place.shape)
        log_v = curve + rng.uniform(-4, 4) * place - 2 * log_times + noise * rng.uniform(-1, 1, place.shape)
        slice_v = log_v[len(log_t) // 2]
        delta = float(np.abs(log_v + 2 * log_times - slice_v).max())
        bound = shift_defect(slice_v) + delta
        if bound > 1e-9:
            distance = nearest_law(s.ravel(), log_times.ravel(), log_v.ravel()).distance
            worst = max(worst, distance / bound)
    return worst


def problems_gap(protocol: Problem, seed: int) -> float:
    """The discrepancy of ``between_problems`` for a small network on digits."""
    spec = replace(protocol.network, seed=seed, data_seed=seed)
    data = spec.batch()
    network = spec.network(data).double()
    found = between_problems(network, data.inputs, data.targets, protocol.time, protocol.shells, steps=protocol.steps)
    return float(found.attrs["discrepancy"])


def exact_collapse(case: str, seed: int = 0, modes: int = 300) -> Collapse:
    """``along_runs`` of an exact model, t over two or three decades.

    "projected" and "flat" (targets) and "proportional" (start) keep the covariance along a run, "common" (start,
    decaying targets) does not. ``seed`` draws the decay of the spectrum.
    """
    a = float(np.random.default_rng(seed).uniform(1.05, 1.2))
    models = {
        "projected": lambda: ProjectedTwoLayer(alpha=a, beta=0.4, modes=modes),
        "flat": lambda: DiagonalNet(3, a=a, start=0.1, modes=modes),
        "proportional": lambda: DiagonalNet(3, a=a, d=0.3, start=0.1, modes=modes),
        "common": lambda: DiagonalNet(3, a=a, d=0.3, start=0.1, common=True, modes=modes),
    }
    if case not in models:
        raise ValueError(f"exact_collapse(case=...): expected one of {tuple(models)}, got {case!r}")
    model = models[case]()
    times = np.geomspace(*EXACT_TIMES["projected" if case == "projected" else "diagonal"], 5)
    budgets = []
    for time in times:
        kernel, rate, error = model.matrices(float(time))
        budgets.append(energy_budget(spectrum(kernel, rate), error, EXACT_SHELLS))
    history = xr.concat(budgets, "time", join="inner").assign_coords(time=times)
    return along_runs([history] * 3)


def separation(protocol: Exact, seed: int) -> float:
    """Log10 of the defect where the covariance along a run is broken over the largest where it is kept."""
    kept = max(exact_collapse(case, seed, protocol.modes).defect for case in ("projected", "flat", "proportional"))
    return math.log10(exact_collapse("common", seed, protocol.modes).defect / kept)


def planted_budgets(number: int = 0) -> dict[str, list[list[xr.Dataset]]]:
    """By planted law: for each of ``WIDTHS`` the budgets of ``RANKED_RUNS`` runs of the ensemble of that number."""
    return {name: ensemble_budgets(law, WIDTHS, number, RANKED_RUNS) for name, law in PLANTED.items()}


def planted_band(budgets: list[list[xr.Dataset]]) -> Band:
    """The band of the velocities of the first ``RUNS`` runs of an ensemble of ``planted_budgets``."""
    return velocity_band([width[:RUNS] for width in budgets], window=INTERIOR)


def ranked(budgets: list[list[xr.Dataset]]) -> Comparison:
    """The rival laws on all runs of an ensemble of ``planted_budgets``."""
    return compare_laws(budgets, window=INTERIOR)


def clocks() -> dict[str, Exponents]:
    """The exponents of ``LAW`` from profile, couplings and clock, at four times from 1 to 30 and with 8 runs.

    "covariant": the clock is the one that covariance demands; "not covariant": c ~ 1 / t, which is log-shift invariant.
    """
    times = np.geomspace(1, 30, 4)
    found = {}
    for name, power in (("covariant", LAW.exponent - 2), ("not covariant", -1.0)):
        laws = [replace(LAW, drift=0.3 * t**power, rotation=0.1 * t**power) for t in times]
        budgets = [ensemble_budgets(law, WIDTHS[:1], 10 + number, RUNS)[0] for number, law in enumerate(laws)]
        found[name] = exponents(budgets, times, window=INTERIOR)
    return found


@cache
def true_distance(case: str) -> float:
    """The Chebyshev distance to affine of log u of a planted case, from its noiseless mean."""
    mean = [[energy_budget(*PLANTED[case].population(), shells)] * 4 for shells in WIDTHS]
    observed = pooled_velocities("true_distance", mean, window=INTERIOR)
    return nearest_affine(observed.x, np.log(observed.y[0])).distance


def planted_outcomes(protocol: Planted, number: int) -> dict[str, bool]:
    """What happened in the planted ensembles of that number, all systems of ``PLANTED``.

    "ranked": the planted law was chosen. "certified": the certificate contains the true distance, and excludes power
    laws (``least`` above 0) just where none was planted.
    """
    return _planted_outcomes(replace(protocol, outcome=""), number)


@cache
def _planted_outcomes(protocol: Planted, number: int) -> dict[str, bool]:
    ranked = certified = True
    for name, planted in zip(PLANTED, protocol.systems, strict=True):
        budgets = ensemble_budgets(planted, protocol.shells, number, protocol.ranked)
        ranked &= compare_laws(budgets, window=protocol.window).chosen == name
        band = velocity_band([item[: protocol.runs] for item in budgets], window=protocol.window)
        found = band.certificate()
        certified &= found.least <= true_distance(name) <= found.most
        certified &= (found.least == 0) == (name == "power law")
    return {"ranked": bool(ranked), "certified": bool(certified)}


def planted_outcome(protocol: Planted, number: int) -> float:
    """One or zero."""
    return float(planted_outcomes(protocol, number)[protocol.outcome])


@cache
def collapse(block: Block) -> tuple[Collapse, tuple[float, ...]]:
    """Covariance along the runs of a block, and D^2 without each of them."""
    histories = ensemble(block.specs, workers=1, threads=1, progress=False)
    without = tuple(along_runs([*histories[:run], *histories[run + 1 :]]).defect for run in range(block.runs))
    return along_runs(histories), without


def collapse_of_seed(protocol: Block, seed: int) -> float:
    """The jackknife pseudo-value of a seed: R D^2 - (R - 1) D^2 without it, in its block of R seeds."""
    block, place = protocol.of(seed)
    found, without = collapse(block)
    return pseudo_value(found.defect, without, place)


def distance_table(cells: Mapping[tuple[str, int], Block]) -> xr.Dataset:
    """Certified distances of networks to a power law, over (architecture, depth, part), at one loss.

    ``part``: "frontier", the upper half of the window of ``REACH`` e-folds below lambda t = 1, "below", the lower, and
    "both". ``distance``: of the mean velocities themselves; ``least``, ``most``: the certificate; ``changes``: surely
    negative and surely positive boundaries both; ``unsure``: share of boundaries whose sign is; ``collapse``,
    ``collapse_low``, ``collapse_high``: D^2 of ``along_runs``. NaN where fewer than three boundaries are unmasked.
    """
    axes = {
        "architecture": list(dict.fromkeys(architecture for architecture, _ in cells)),
        "depth": list(dict.fromkeys(depth for _, depth in cells)),
        "part": ["both", "frontier", "below"],
    }
    names = ("distance", "least", "most", "changes", "unsure")
    numbers = {name: np.full([len(axis) for axis in axes.values()], np.nan) for name in names}
    collapse = {
        name: np.full([len(axes["architecture"]), len(axes["depth"])], np.nan) for name in ("", "_low", "_high")
    }
    for (architecture, depth), block in cells.items():
        place = axes["architecture"].index(architecture), axes["depth"].index(depth)
        found = along_runs(ensemble(block.specs, threads=1, progress=False), reach=REACH)
        for array, value in zip(collapse.values(), (found.defect, *found.interval), strict=True):
            array[place] = value
        measured = block.measure()
        low, high = frontier_window(measured, REACH)
        middle = (low + high) / 2
        for number, window in enumerate([(low, high), (middle, high), (low, middle)]):
            try:
                band = velocity_band(widths_of("distance_table", measured), window=window)
            except ValueError:
                continue
            certificate = band.certificate()
            one_sign = (np.sign(band.velocity) == np.sign(band.velocity[0])).all()
            distance = nearest_affine(band.s, np.log(np.abs(band.velocity))).distance if one_sign else math.inf
            changes = float({-1.0, 1.0} <= set(band.signs.tolist()))
            values = (distance, certificate.least, certificate.most, changes, float((band.signs == 0).mean()))
            for array, value in zip(numbers.values(), values, strict=True):
                array[(*place, number)] = value
    data = {name: (list(axes), array) for name, array in numbers.items()}
    data |= {f"collapse{name}": (["architecture", "depth"], array) for name, array in collapse.items()}
    first = next(iter(cells.values()))
    described = {n: str(v) for n, v in first.network.to_dict().items() if n not in {"architecture", "depth", "seed"}}
    settings = {"seeds": str([spec.seed for spec in first.specs]), "log_loss": first.log_loss, "reach": REACH}
    return xr.Dataset(data, axes, attrs=provenance(described | settings))


def early_distances() -> xr.Dataset:
    """``distance_table`` of 8 pilot seeds per cell."""
    return distance_table(EARLY.cells((4, 8, 16, 32), 0))


def late_distances() -> xr.Dataset:
    """``distance_table`` of the late confirmatory seeds."""
    return distance_table(LATE.cells((16, 32), 2000))


TABLES = {"08_rigidity-distance": early_distances, "08_rigidity-late": late_distances}

MEASUREMENTS = {
    "rigidity": Measurement(Drawn(), theorem_ratio),
    "covariance-between-problems": Measurement(Problem(), problems_gap),
    "covariance-exact-models": Measurement(Exact(), separation),
    "covariance-along-a-run": Measurement(EARLY.block("residual", 16, 1000), collapse_of_seed),
    "alternatives-rank": Measurement(Planted("ranked"), planted_outcome),
    "certified-distance": Measurement(Planted("certified"), planted_outcome),
}

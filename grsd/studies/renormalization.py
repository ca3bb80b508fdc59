"""Cases: lattices that close and that do not, an exact network that closes without a power law, and the networks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import xarray as xr

from grsd.conditions import Verdict, closure, invariance, locality, profile_flow
from grsd.conditions.matched import frontier_window, widths_of
from grsd.conditions.profile_flow import ProfileFlow
from grsd.decomposition import spectrum
from grsd.runs.history import join_widths
from grsd.shells import LogShells, energy_budget
from grsd.solvable import DiagonalNet, ShellLattice
from grsd.studies.calibration.coverage import MOST_RUNS
from grsd.studies.training_cases import EARLY, REACH, RUNS, Stage, common_attributes, pseudo_value

FACTORS = (1, 2, 4)
CLOSED = ShellLattice(noise=0.1)
HIDDEN = replace(CLOSED, hidden=1.5, smooth=1.0, extent=16.0)
LONG_RANGE = replace(CLOSED, profile="flat", smooth=0.5)
WIDENING = replace(CLOSED, widening=0.3)
SHORT = replace(CLOSED, extent=5.0)
INTERIOR = (-9.5, -0.5)
EVERYTHING = (-math.inf, math.inf)
DIAGONAL = {"depth": 2, "start": 0.1, "modes": 500}
DIAGONAL_TIME = 100.0
DIAGONAL_SHELLS = (LogShells(0.4, 0.08), LogShells(0.6, 0.08))


def lattice_budgets(lattice: ShellLattice, ensemble: int) -> list[xr.Dataset]:
    """The 8 runs of ensemble n: seeds 100 n, 100 n + 1, ..."""
    return lattice.budgets(range(MOST_RUNS * ensemble, MOST_RUNS * ensemble + RUNS))


def unrelated_budgets(lattice: ShellLattice, ensemble: int) -> list[xr.Dataset]:
    """The same with the energies of 8 further runs: states and fluxes have nothing to do with each other."""
    start = MOST_RUNS * ensemble + RUNS
    others = lattice.budgets(range(start, start + RUNS))
    own = lattice_budgets(lattice, ensemble)
    return [budget.assign(energy=other.energy) for budget, other in zip(own, others, strict=True)]


def diagonal_budgets(ensemble: int) -> list[xr.Dataset]:
    """Diagonal networks of depth 2 from a small start, at one time, over spectra k^-a with a drawn for each run.

    All runs share the velocity v = t^-2 Psi(lambda t) of the exact solution, which is no power law; their energies
    differ smoothly in s. 8 runs, each at the widths of ``DIAGONAL_SHELLS``.
    """
    members = []
    for run in range(RUNS):
        rng = np.random.default_rng(MOST_RUNS * ensemble + run)
        kernel, rate, error = DiagonalNet(a=rng.uniform(1.05, 1.25), **DIAGONAL).matrices(DIAGONAL_TIME)
        members.append(join_widths(energy_budget(spectrum(kernel, rate), error, DIAGONAL_SHELLS)))
    return members


def closed_without_a_law(ensemble: int) -> tuple[Verdict, Verdict]:
    """Closure of the diagonal networks, and the verdict on a power law of their velocity."""
    budgets = diagonal_budgets(ensemble)
    law = invariance.judge(budgets, observable="velocity", window=EVERYTHING)
    return closure.judge(budgets, window=EVERYTHING), law


@cache
def network(stage: Stage, architecture: str, depth: int, first: int) -> tuple[Verdict, Verdict]:
    """Closure and locality of condition 4's networks of a stage, seeds from ``first`` on, at the matched loss."""
    measured = stage.measure(architecture, depth, first, progress=False)
    options = {"factors": FACTORS, "window": frontier_window(measured, REACH)}
    return closure.judge(measured, **options), locality.judge(measured, **options)


def closure_of_seed(architecture: str, depth: int, seed: int, stage: Stage = EARLY, first: int = 1000) -> float:
    """The pseudo-value of r / r_perm, in the seed's block of R seeds from ``first`` on."""
    place = (seed - first) % stage.runs
    found = network(stage, architecture, depth, seed - place)[0]
    return pseudo_value(found.estimate, found.details.without, place)


def locality_of_seed(architecture: str, depth: int, seed: int, stage: Stage = EARLY, first: int = 1000) -> float:
    """The pseudo-value of Delta_90, in s."""
    place = (seed - first) % stage.runs
    found = network(stage, architecture, depth, seed - place)[1]
    return pseudo_value(found.estimate, found.details.without, place)


def summary(
    measured: Mapping[tuple[str, int], Sequence[xr.Dataset]], within: float = REACH, factors: tuple[int, ...] = FACTORS
) -> xr.Dataset:
    """Closure, locality and profile flow of networks over (architecture, depth, factor).

    Args: ``measured`` by (architecture, depth), each a list of runs from ``invariance.measure``; the shells of their
    first width, from the frontier ``within`` e-folds down. What does not depend on ``factor`` is repeated. NaN and
    "inconclusive" where the window has too few shells or the ensemble too few runs.
    Returns: ``ratio``, ``ratio_low``, ``ratio_high``, ``p``, ``verdict``; ``defect``, ``permuted`` by factor;
    ``reach_90``, ``reach_low``, ``reach_high``; ``neighbours``, ``neighbours_low``, ``neighbours_high`` by factor;
    ``flow``, ``flow_low``, ``flow_high``, ``flow_verdict``; ``second``, ``second_mapped``, kappa(2)/kappa(1) by factor.
    """
    rows = []
    for (architecture, depth), runs in measured.items():
        budgets = widths_of("summary", runs)[0]
        row = _row(budgets, frontier_window(runs, within), factors)
        data = {name: ("factor", np.broadcast_to(value, len(factors))) for name, value in row.items()}
        place = {"architecture": [architecture], "depth": [depth]}
        rows.append(xr.Dataset(data, {"factor": list(factors)}).expand_dims(place))
    table = xr.combine_by_coords(rows, combine_attrs="drop")
    return table.assign_attrs(common_attributes(next(iter(measured.values()))) | {"within": within})


def _row(
    budgets: list[xr.Dataset], window: tuple[float, float], factors: tuple[int, ...]
) -> dict[str, float | str | np.ndarray]:
    numbers = "ratio ratio_low ratio_high p defect permuted reach_90 reach_low reach_high neighbours neighbours_low "
    numbers += "neighbours_high flow flow_low flow_high second second_mapped"
    row: dict[str, float | str | np.ndarray] = dict.fromkeys(numbers.split(), np.nan)
    row |= {"verdict": "inconclusive", "flow_verdict": "inconclusive"}
    with contextlib.suppress(ValueError):
        judged = closure.judge(budgets, factors=factors, window=window)
        found, (low, high) = judged.details, judged.interval
        row |= {"ratio": judged.estimate, "ratio_low": low, "ratio_high": high, "p": found.p}
        row |= {"defect": found.defect, "permuted": found.permuted, "verdict": judged.verdict}
    with contextlib.suppress(ValueError):
        local = locality.locality_range(budgets, factors=factors, window=window)
        row |= {"reach_90": local.distance_90, "reach_low": local.interval[0], "reach_high": local.interval[1]}
        low, high = local.neighbours_interval.T
        row |= {"neighbours": local.neighbours, "neighbours_low": low, "neighbours_high": high}
    with contextlib.suppress(ValueError):
        judged = profile_flow.judge(budgets, factors=factors, window=window)
        flow: ProfileFlow = judged.details
        row |= {"flow": judged.estimate, "flow_low": judged.interval[0], "flow_high": judged.interval[1]}
        second = np.concatenate([flow.finest[:1], flow.measured[:, 0]])
        mapped = np.concatenate([flow.finest[:1], flow.mapped[:, 0]])
        row |= {"second": second, "second_mapped": mapped, "flow_verdict": judged.verdict}
    return row

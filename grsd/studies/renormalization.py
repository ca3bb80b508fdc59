"""Notebook 07: shells merged into blocks, in planted lattices, exact networks and trained ones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import xarray as xr

from grsd.conditions import Verdict, closure, invariance, locality, profile_flow
from grsd.conditions.interventions import LAWS, RULE, TRUTHS, explained, permuted
from grsd.conditions.matched import at_first_width, frontier_window, widths_of
from grsd.conditions.profile_flow import ProfileFlow
from grsd.decomposition import spectrum
from grsd.evidence import Measurement, results
from grsd.runs.history import join_widths
from grsd.shells import LogShells, energy_budgets
from grsd.shells.blocks import blocks
from grsd.solvable import DiagonalNet, ShellLattice
from grsd.studies import interventions
from grsd.studies.calibration import MOST_RUNS
from grsd.studies.stages import EARLY, LATE, REACH, RUNS, Block, common_attributes, measured, pseudo_value
from grsd.support.provenance import provenance

FACTORS = (1, 2, 4)
CLOSED = ShellLattice(noise=0.1)
HIDDEN = replace(CLOSED, hidden=1.5, smooth=1.0, extent=16.0)
LONG_RANGE = replace(CLOSED, profile="flat", smooth=0.5)
WIDENING = replace(CLOSED, widening=0.3)
SHORT = replace(CLOSED, extent=5.0)
OBEYING = tuple(
    replace(CLOSED, reach=0.05, hidden=0.5, smooth=1.0, extent=16.0, swell=swell) for swell in (0.1, 0.2, 0.5, 1.0, 2.0)
)
INTERIOR = (-9.5, -0.5)
EVERYTHING = (-math.inf, math.inf)
SURROGATES = 40
DIAGONAL_TIME = 100.0
DIAGONAL_SHELLS = (LogShells(0.4, 0.08), LogShells(0.6, 0.08))


def lattice_budgets(lattice: ShellLattice, ensemble: int) -> list[xr.Dataset]:
    """The 8 runs of ensemble n: seeds 100 n, 100 n + 1, and so on."""
    return lattice.budgets(range(MOST_RUNS * ensemble, MOST_RUNS * ensemble + RUNS))


def unrelated_budgets(lattice: ShellLattice, ensemble: int) -> list[xr.Dataset]:
    """The same with the energies of 8 further runs: states and fluxes have nothing to do with each other."""
    start = MOST_RUNS * ensemble + RUNS
    others = lattice.budgets(range(start, start + RUNS))
    own = lattice_budgets(lattice, ensemble)
    return [budget.assign(energy=other.energy) for budget, other in zip(own, others, strict=True)]


@dataclass(frozen=True)
class Networks:
    """Closure or locality of a cell; of two cells with the same seeds, that of the first minus that of the second."""

    blocks: tuple[Block, ...]
    factors: tuple[int, ...] = FACTORS


@dataclass(frozen=True)
class Lattices:
    """Ensembles of planted lattices: whether each lattice gets the verdict that stands at its place."""

    lattices: tuple[ShellLattice, ...]
    verdicts: tuple[str, ...]
    window: tuple[float, float] = EVERYTHING
    runs: int = RUNS


@dataclass(frozen=True)
class Diagonals:
    """Ensembles of diagonal networks at one time over spectra k^-a, a drawn for each run."""

    depth: int = 2
    start: float = 0.1
    modes: int = 500
    time: float = DIAGONAL_TIME
    runs: int = RUNS


def diagonal_budgets(ensemble: int, protocol: Diagonals = Diagonals()) -> list[xr.Dataset]:
    """The budgets of each run, at the widths of ``DIAGONAL_SHELLS``.

    All runs share the velocity v = t^-2 Psi(lambda t) of the exact solution, which is no power law; their energies
    differ smoothly in s.
    """
    members = []
    for run in range(protocol.runs):
        a = np.random.default_rng(MOST_RUNS * ensemble + run).uniform(1.05, 1.25)
        net = DiagonalNet(protocol.depth, a=a, start=protocol.start, modes=protocol.modes)
        kernel, rate, error = net.matrices(protocol.time)
        members.append(join_widths(energy_budgets(spectrum(kernel, rate), error, DIAGONAL_SHELLS)))
    return members


def closed_without_a_law(ensemble: int, protocol: Diagonals = Diagonals()) -> tuple[Verdict, Verdict]:
    """Closure of the diagonal networks, and the verdict on a power law of their velocity."""
    budgets = diagonal_budgets(ensemble, protocol)
    law = invariance.judge(budgets, observable="velocity", window=EVERYTHING)
    return closure.judge(budgets, window=EVERYTHING), law


@cache
def network(block: Block, factors: tuple[int, ...]) -> tuple[Verdict, Verdict]:
    """Closure and locality of a block at its loss."""
    found = block.measure(progress=False)
    options = {"factors": factors, "window": frontier_window(found, block.reach)}
    return closure.judge(found, **options), locality.judge(found, **options)


def closure_ratio(protocol: Networks, seed: int) -> float:
    """The pseudo-value of r / r_perm."""
    return _pseudo(protocol, seed, 0)


def locality_range(protocol: Networks, seed: int) -> float:
    """The pseudo-value of Delta_90, in s."""
    return _pseudo(protocol, seed, 1)


def _pseudo(protocol: Networks, seed: int, which: int) -> float:
    values = []
    for block in protocol.blocks:
        own, place = block.of(seed)
        found = network(own, protocol.factors)[which]
        values.append(pseudo_value(found.estimate, found.details.without, place))
    return values[0] - sum(values[1:])


def closes(protocol: Lattices, ensemble: int) -> float:
    """One or zero: whether ``closure`` gives the verdicts."""
    found = (closure.judge(lattice_budgets(lattice, ensemble), window=protocol.window) for lattice in protocol.lattices)
    return float([one.verdict for one in found] == list(protocol.verdicts))


def flows(protocol: Lattices, ensemble: int) -> float:
    """One or zero: whether ``profile_flow`` gives the verdicts."""
    found = (
        profile_flow.judge(lattice_budgets(lattice, ensemble), window=protocol.window) for lattice in protocol.lattices
    )
    return float([one.verdict for one in found] == list(protocol.verdicts))


def rejects_unrelated(protocol: Lattices, ensemble: int) -> float:
    """Whether the permutation test rejects at 5 % if states and fluxes are unrelated, as one or zero."""
    (lattice,) = protocol.lattices
    return float(closure.judge(unrelated_budgets(lattice, ensemble), window=protocol.window).details.p <= 0.05)


def closes_without_a_law(protocol: Diagonals, ensemble: int) -> float:
    """One or zero: closed, and no power law."""
    closed, law = closed_without_a_law(ensemble, protocol)
    return float(closed.verdict == "holds" and law.verdict == "fails")


def summary(
    cells: Mapping[tuple[str, int], Sequence[xr.Dataset]], within: float = REACH, factors: tuple[int, ...] = FACTORS
) -> xr.Dataset:
    """Closure, locality and profile flow of networks over (architecture, depth, factor).

    Args: ``cells`` by (architecture, depth), each a list of runs from ``invariance.measure``; the shells of their
    first width, from the frontier ``within`` e-folds down. What does not depend on ``factor`` is repeated. NaN and
    "inconclusive" if the window has too few shells or the ensemble too few runs.
    Returns: ``ratio``, ``ratio_low``, ``ratio_high``, ``p``, ``verdict``; ``defect``, ``permuted`` by factor;
    ``reach_90``, ``reach_low``, ``reach_high``; ``neighbours``, ``neighbours_low``, ``neighbours_high`` by factor;
    ``flow``, ``flow_low``, ``flow_high``, ``flow_verdict``; ``second``, ``second_mapped``, kappa(2)/kappa(1) by factor.
    """
    rows = []
    for (architecture, depth), runs in cells.items():
        row = _row(widths_of("summary", runs)[0], frontier_window(runs, within), factors)
        data = {name: ("factor", np.broadcast_to(value, len(factors))) for name, value in row.items()}
        place = {"architecture": [architecture], "depth": [depth]}
        rows.append(xr.Dataset(data, {"factor": list(factors)}).expand_dims(place))
    table = xr.combine_by_coords(rows, combine_attrs="drop")
    return table.assign_attrs(common_attributes(next(iter(cells.values()))) | {"within": within})


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


def states_and_fluxes(budgets: Sequence[xr.Dataset], factor: int = 4) -> xr.Dataset:
    """``state(run, boundary)``, phi of the blocks of ``factor`` shells beside a boundary, and ``flux`` through it."""
    found = blocks("states_and_fluxes", at_first_width(budgets), None)
    at = found.boundaries(factor)
    data = {"state": found.states(factor, at), "flux": found.flux[:, at - 1]}
    data = {name: (("run", "boundary"), array) for name, array in data.items()}
    return xr.Dataset(data, {"boundary": found.index[at] * found.width})


def interventions_table() -> xr.Dataset:
    """Closure of 24 networks of each cell (depth 16) that has its results, over (architecture, stage, law).

    ``explained``, ``low``, ``high``, ``verdict``, ``power`` and ``permuted`` of each law. Repeated over laws:
    ``bound_m`` and ``share_m``, medians over runs of ``bounds`` and ``neighbour_shares``; what ``surrogate`` reads at
    blocks of 4: ``measured``, ``v``, ``w``, ``expected``; ``lawful``, mean and 2.5 and 97.5 % quantiles of 40 draws.
    """
    stored = results()
    cells = [place for place in interventions.CELLS if f"closure-clock-{place}" in stored]
    rows = [_verdicts(*place.split("-")) for place in cells]
    seeds = list(range(interventions.FIRST, interventions.FIRST + interventions.RUNS))
    return xr.combine_by_coords(rows, combine_attrs="drop").assign_attrs(provenance({"seeds": str(seeds)}))


def _verdicts(architecture: str, stage: str) -> xr.Dataset:
    protocol = interventions.cell(interventions.STAGES[stage], architecture)
    seeds = range(interventions.FIRST, interventions.FIRST + interventions.RUNS)
    runs = [interventions.reading(protocol, seed) for seed in seeds]
    windows = [interventions.window_of(run, protocol.reach) for run in runs]
    pairs = list(zip(runs, windows, strict=True))
    score = [explained(run, window) for run, window in pairs]
    mixed = [permuted(run, window) for run, window in pairs]
    found = []
    for law in LAWS:
        estimate, low, high = RULE.interval([float(np.median(one[law])) for one in score])
        row = {"explained": estimate, "low": low, "high": high, "verdict": RULE.verdict(low, high)}
        row["power"] = interventions.power_of(RULE, max(high - estimate, estimate - low), TRUTHS)
        row["permuted"] = float(np.median([np.median(one[law]) for one in mixed]))
        found.append(row)
    alone = {}
    for name, of in (("bound", interventions.bounds), ("share", interventions.neighbour_shares)):
        middle = np.median([of(run, window) for run, window in pairs], axis=0)
        alone |= {f"{name}_{factor}": float(value) for factor, value in zip(FACTORS, middle, strict=True)}
    window = frontier_window(runs, protocol.reach)
    draws = [interventions.surrogate(runs, window, FACTORS[-1], seed) for seed in range(SURROGATES)]
    ratios = [draw.pop("ratio") for draw in draws]
    alone |= draws[0] | {"lawful": float(np.mean(ratios))}
    alone |= dict(zip(("lawful_low", "lawful_high"), np.quantile(ratios, [0.025, 0.975]).tolist(), strict=True))
    data = {name: ("law", [row[name] for row in found]) for name in found[0]}
    data |= {name: ("law", [value] * len(LAWS)) for name, value in alone.items()}
    place = {"architecture": [architecture], "stage": [stage]}
    return xr.Dataset(data, {"law": list(LAWS)}).expand_dims(place)


def networks_table() -> xr.Dataset:
    """``summary`` of 8 pilot seeds per cell."""
    return summary(measured(EARLY.cells((4, 8, 16, 32), 0)))


TABLES = {
    "07_renormalization-networks": networks_table,
    "07_renormalization-interventions": interventions_table,
}

RESIDUAL, PLAIN = (EARLY.block(name, 32, 1000) for name in ("residual", "plain"))
MEASUREMENTS = {
    "renormalizable": Measurement(Networks((RESIDUAL,)), closure_ratio),
    "renormalizable-late": Measurement(Networks((LATE.block("residual", 16, 2000),)), closure_ratio),
    "closure-plain": Measurement(Networks((PLAIN,)), closure_ratio),
    "locality-residual": Measurement(Networks((RESIDUAL,)), locality_range),
    "locality-plain": Measurement(Networks((PLAIN,)), locality_range),
    "locality-contrast": Measurement(Networks((PLAIN, RESIDUAL)), locality_range),
    "renormalizable-is-not-enough": Measurement(Diagonals(), closes_without_a_law),
    "closure-constructed": Measurement(Lattices((CLOSED,), ("holds",)), closes),
    "closure-broken": Measurement(Lattices((HIDDEN, LONG_RANGE), ("fails", "fails")), closes),
    "closure-null": Measurement(Lattices((SHORT,), ("rejected",)), rejects_unrelated),
    "profile-flow": Measurement(Lattices((CLOSED, WIDENING), ("holds", "fails"), INTERIOR), flows),
} | interventions.MEASUREMENTS
# The claims of a cell (architecture, depth) on locality.
LOCALITY_CLAIMS = {("residual", 32): "locality-residual", ("plain", 32): "locality-plain"}

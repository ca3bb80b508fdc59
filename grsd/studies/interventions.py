"""Notebook 07, closure in four verdicts: networks at a given loss, interventions on their shells, many tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from scipy.stats import norm

from grsd.conditions import closure, interventions
from grsd.datasets.data import Data
from grsd.decomposition import spectrum
from grsd.evidence import DecisionRule, Measurement
from grsd.flow import Descent, Snapshot
from grsd.kernel import tangent_kernel, tangent_kernel_and_rate
from grsd.runs import Spec, ensemble
from grsd.shells import LogShells, energy_budget
from grsd.shells.blocks import blocks
from grsd.solvable import CubicLattice
from grsd.studies.stages import EARLY, LATE, REACH, Stage

FACTORS = (1, 2, 4)
SHELLS = LogShells(math.log(2), 0.1)
FIRST, RUNS, NETWORKS = 4000, 24, 8
ONE_CLOCK, OWN_CLOCKS = CubicLattice("clock", rest=0.3), CubicLattice("clocks", rest=0.3)
LOCAL = CubicLattice("local", rest=0.3, growth=3.0)
PARTS = 5  # into which the step across the loss is cut, twice
TASKS = 32
FAR = 2  # shells between a boundary and those that its clock is read from
EVERYTHING = (-math.inf, math.inf)


@dataclass(frozen=True)
class Intervened:
    """One network when its loss is e^``log_loss`` times that at the start; ``draws`` interventions on its shells.

    ``reach``: e-folds of the window down from the frontier. ``law``: the one whose R^2 is read.
    """

    network: Spec
    log_loss: float
    law: str = "clock"
    draws: int = interventions.DRAWS
    reach: float = REACH


@dataclass(frozen=True)
class ManyTasks:
    """One initial network trained on each of ``tasks`` random halvings of the ten digits, to the same share of loss."""

    network: Spec
    log_loss: float
    tasks: int = TASKS
    reach: float = REACH


@dataclass(frozen=True)
class Planted:
    """Ensembles of planted networks: whether the law gets "holds" in the first and "fails" in the second."""

    closed: CubicLattice
    broken: CubicLattice
    law: str
    networks: int = NETWORKS


def at_loss(spec: Spec, data: Data, log_loss: float) -> Snapshot:
    """Train the network of ``spec`` on ``data`` until its loss is e^``log_loss`` times that at the start.

    The snapshot is the first one at or below; its log loss is nearer to ``log_loss`` than a 25th of a step of
    ``spec.times``. Errors: ``ValueError`` if the loss is not reached.
    """
    before = Snapshot(0.0, spec.network(data), torch.empty(0, dtype=torch.float64, device="cpu"))
    top = float(torch.linalg.eigvalsh(tangent_kernel(before.model, data.inputs))[-1])
    times = np.geomspace(*(time / top for time in spec.times[:2]), spec.times[2])
    start = None
    for _ in range(3):
        descent = Descent(before.model, data.inputs, data.targets, tolerance=spec.tolerance)
        start, begun = descent.row()["loss"] if start is None else start, before.time
        for time in times:
            snapshot = descent.snapshot(float(time - begun))
            if descent.row()["loss"] <= start * math.exp(log_loss):
                break
            before = Snapshot(float(time), snapshot.model, snapshot.error)
        else:
            raise ValueError(f"at_loss(log_loss={log_loss:g}): {spec} does not reach it; give it a later last time")
        times = np.linspace(before.time, time, PARTS + 1)[1:]
    return Snapshot(float(time), snapshot.model, snapshot.error)


def measured_at_loss(experiment: Mapping[str, object]) -> xr.Dataset:
    """One experiment of ``reading``: ``interventions.measure`` of a spec's fields, ``log_loss`` and ``draws``."""
    own = dict(experiment)
    log_loss, draws = own.pop("log_loss"), own.pop("draws")
    spec = Spec.from_dict(own)
    data = spec.batch()
    snapshot = at_loss(spec, data, log_loss)
    return interventions.measure(snapshot, data.inputs, data.targets, shells=SHELLS, draws=draws)


def measured_tasks(experiment: Mapping[str, object]) -> xr.Dataset:
    """One experiment of ``task_reading``: energies, densities and fluxes over ``task`` and the common shells."""
    own = dict(experiment)
    log_loss, tasks = own.pop("log_loss"), own.pop("tasks")
    spec = Spec.from_dict(own)
    parity, digits = spec.batch(), replace(spec, task="one-hot").batch().targets.argmax(1)
    found = []
    for task in range(tasks):
        data = replace(parity, targets=halved(digits, task))
        snapshot = at_loss(spec, data, log_loss)
        modes = spectrum(*tangent_kernel_and_rate(snapshot.model, data.inputs, data.targets))
        found.append(energy_budget(modes, snapshot.error, SHELLS).assign(time=snapshot.time))
    common = blocks("measured_tasks", found, None, "tasks")
    at = [budget.boundary.values.searchsorted(common.index[1:] * common.width - 1e-9) for budget in found]
    density = np.stack([budget.density.values[place] for budget, place in zip(found, at, strict=True)])
    rows = {"energy": (("task", "shell"), common.energy), "flux": (("task", "boundary"), common.flux)}
    rows |= {"density": (("task", "boundary"), density), "usable": ("boundary", common.usable)}
    whole = [2 * float(budget.energy.sum()) for budget in found]
    rows |= {"time": ("task", [float(budget.time) for budget in found]), "size": ("task", np.sqrt(whole))}
    return xr.Dataset(rows, {"boundary": common.index[1:] * common.width})


def halved(digits: torch.Tensor, task: int) -> torch.Tensor:
    """Return targets (N, 1): +1 for a random half of the ten digits, -1 for the others; the same for all networks."""
    chosen = np.random.default_rng(task).permutation(10)[:5]
    return (
        2.0
        * torch.isin(digits, torch.tensor(chosen.tolist(), dtype=digits.dtype, device=digits.device)).double()[:, None]
        - 1
    )


def reading(protocol: Intervened, seed: int) -> xr.Dataset:
    """``interventions.measure`` of the network from ``seed``, kept in a file."""
    asked = {"log_loss": protocol.log_loss, "draws": protocol.draws}
    experiment = replace(protocol.network, seed=seed).to_dict() | asked
    (found,) = ensemble([experiment], measured_at_loss, workers=1, progress=False)
    return found.assign_attrs(seed=seed)


def task_reading(protocol: ManyTasks, seed: int) -> xr.Dataset:
    """The tasks of the network from ``seed``, kept in a file."""
    asked = {"log_loss": protocol.log_loss, "tasks": protocol.tasks}
    experiment = replace(protocol.network, seed=seed).to_dict() | asked
    (found,) = ensemble([experiment], measured_tasks, workers=1, progress=False)
    return found


def window_of(run: xr.Dataset, reach: float) -> tuple[float, float]:
    """(low, high) from the frontier ``reach`` e-folds down; the geometric mean time of tasks."""
    frontier = -float(np.log(run.time.values).mean())
    return frontier - reach, frontier


def law_explained(protocol: Intervened, seed: int) -> float:
    """The median over boundaries of R^2 of the law."""
    run = reading(protocol, seed)
    return float(np.median(interventions.explained(run, window_of(run, protocol.reach))[protocol.law]))


def flux_bound(protocol: Intervened, seed: int) -> float:
    """The largest over boundaries of t |F| / (E_below + E_above) at the finest width."""
    run = reading(protocol, seed)
    return float(bounds(run, window_of(run, protocol.reach))[0])


def flux_beyond(protocol: Intervened, seed: int) -> float:
    """The distance from one of the share of the flux that neighbouring blocks of four shells exchange."""
    run = reading(protocol, seed)
    return abs(1 - float(neighbour_shares(run, window_of(run, protocol.reach))[-1]))


def bounds(run: xr.Dataset, window: tuple[float, float]) -> np.ndarray:
    """The largest over boundaries of t |F| / (E_below + E_above), for blocks of each of ``FACTORS`` (K,)."""
    at, energy = _kept(run, window), run.energy.values
    moved = float(run.time) * np.abs(run.flux.values[at - 1])
    held = [[energy[max(0, c - m) : c + m].sum() for c in at] for m in FACTORS]
    return (moved / np.array(held)).max(1)


def neighbour_shares(run: xr.Dataset, window: tuple[float, float]) -> np.ndarray:
    """The slope over boundaries of what the two blocks beside it exchange on the flux, for ``FACTORS`` (K,)."""
    at, coupling = _kept(run, window), run.coupling.values
    flux = run.flux.values[at - 1]
    near = [[coupling[c : c + m, max(0, c - m) : c].sum() for c in at] for m in FACTORS]
    return (np.array(near) * flux).sum(1) / np.square(flux).sum()


def _kept(run: xr.Dataset, window: tuple[float, float]) -> np.ndarray:
    """Positions of the unmasked boundaries in the window, counted from 1."""
    place = run.boundary.values
    return 1 + np.flatnonzero((run.boundary_mask.values == 0) & (place >= window[0]) & (place <= window[1]))


def across_tasks(run: xr.Dataset, window: tuple[float, float]) -> dict[str, np.ndarray]:
    """R^2 over tasks at each boundary, of laws that have not seen the task.

    "state", "local": U_c of the other tasks; "clock": eps_c times the ratio of sums of F and eps over the boundaries
    of the same task at least ``FAR`` shells away, with nothing fitted. 1 minus the mean square error over that of the
    mean flux of the other tasks.
    """
    place = run.boundary.values
    at = np.flatnonzero(run.usable.values & (place >= window[0]) & (place <= window[1]))
    flux, density, energy = run.flux.values[:, at], run.density.values[:, at], run.energy.values
    phi = np.sqrt(energy[:, at] * energy[:, at + 1])
    far = (np.abs(at[:, None] - at) >= FAR).astype(float)
    clock = (flux @ far) / (density @ far)
    predicted = {"state": _others(phi, flux), "local": _others(phi * run["size"].values[:, None], flux)}
    predicted["clock"] = density * clock
    constant = np.square(flux - _others(np.ones_like(flux), flux)).sum(0)
    return {law: 1 - np.square(flux - value).sum(0) / constant for law, value in predicted.items()}


def _others(state: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Return U_c times the state, U_c fitted to the other tasks."""
    along, size = state * flux, np.square(state)
    return state * (along.sum(0) - along) / (size.sum(0) - size)


def tasks_explained(protocol: ManyTasks, seed: int) -> float:
    """The median over boundaries of R^2 over tasks, of the clock read from distant boundaries."""
    run = task_reading(protocol, seed)
    return float(np.median(across_tasks(run, window_of(run, protocol.reach))["clock"]))


def planted_runs(lattice: CubicLattice, number: int, networks: int = NETWORKS) -> list[xr.Dataset]:
    """The interventions of ensemble ``number``: networks from seeds 100 n, 100 n + 1, and so on."""
    seeds = range(100 * number, 100 * number + networks)
    pairs = zip(lattice.ensemble(seeds), seeds, strict=True)
    return [interventions.intervened(responses, seed=seed) for responses, seed in pairs]


def told_apart(protocol: Planted, number: int) -> float:
    """One or zero: whether the closed ensemble is found closed and the broken one not closed."""
    cases = ((protocol.closed, "holds"), (protocol.broken, "fails"))
    return float(
        all(
            interventions.judge(
                planted_runs(lattice, number, protocol.networks), window=EVERYTHING, law=protocol.law
            ).verdict
            == verdict
            for lattice, verdict in cases
        )
    )


def nothing_explained(protocol: Planted, number: int) -> float:
    """The largest over laws and both cases of the median R^2 of states of other draws."""
    found = [
        interventions.judge(planted_runs(lattice, number, protocol.networks), window=EVERYTHING).details.permuted
        for lattice in (protocol.closed, protocol.broken)
    ]
    return max(float(np.median(values)) for laws in found for values in laws.values())


def surrogate(budgets: Sequence[xr.Dataset], window: tuple[float, float], factor: int, seed: int) -> dict[str, float]:
    """What r / r_perm of ``closure`` reads on runs that do obey F = U phi, with the runs' own spread.

    The fluxes are U_c phi_rc (1 + sqrt(w_c) xi), w_c the variance over runs of F / (U phi), at blocks of ``factor``.
    Returns: ``ratio`` of the surrogate and ``measured`` at that width; ``v``, the variance over runs of log phi, and
    ``w``, medians over boundaries; ``expected``, sqrt(w / (w + 2 v)).
    """
    found = blocks("surrogate", budgets, window)
    at = found.boundaries(factor)
    phi, flux = found.states(factor, at), found.flux[:, at - 1]
    u = (phi * flux).sum(0) / np.square(phi).sum(0)
    w, v = (flux / (u * phi)).var(0, ddof=1), np.log(phi).var(0, ddof=1)
    lawful = u * phi * (1 + np.sqrt(w) * np.random.default_rng(seed).standard_normal(phi.shape))
    real, obeying = (_ratio(phi, values, seed) for values in (flux, lawful))
    v, w = float(np.median(v)), float(np.median(w))
    return {"measured": real, "ratio": obeying, "v": v, "w": w, "expected": math.sqrt(w / (w + 2 * v))}


def _ratio(phi: np.ndarray, flux: np.ndarray, seed: int) -> float:
    """Return r / r_perm as ``closure`` defines them."""
    rng = np.random.default_rng(seed)
    states = np.stack([phi, *(phi[rng.permutation(len(phi))] for _ in range(199))])
    real, *shuffled = closure.defect(states, flux)
    return float(real / np.sqrt(np.square(shuffled).mean()))


def power_of(rule: DecisionRule, half: float, margin: float) -> float:
    """The probability that an interval of this half width decides, if the truth lies ``margin`` beyond a threshold."""
    quantile = float(norm.ppf((1 + rule.confidence) / 2))
    return float(norm.cdf(quantile * (margin - half) / half))


def cell(stage: Stage, architecture: str, law: str = "clock") -> Intervened:
    """The networks of depth 16 of a stage."""
    block = stage.block(architecture, 16, FIRST)
    return Intervened(block.network, block.log_loss, law)


def tasks_cell(architecture: str) -> ManyTasks:
    """The networks of depth 16, at 120 digits so that 32 tasks can be trained for each, early."""
    block = EARLY.block(architecture, 16, FIRST)
    return ManyTasks(replace(block.network, samples=120, tolerance=1e-3), block.log_loss)


STAGES = {"early": EARLY, "late": LATE}
CELLS = {
    f"{architecture}-{name}": (stage, architecture)
    for name, stage in STAGES.items()
    for architecture in ("residual", "plain")
}
MEASUREMENTS = {
    "interventions-clock-planted": Measurement(Planted(ONE_CLOCK, OWN_CLOCKS, "clock"), told_apart),
    "interventions-local-planted": Measurement(Planted(LOCAL, OWN_CLOCKS, "local"), told_apart),
    "interventions-null": Measurement(Planted(ONE_CLOCK, LOCAL, "clock"), nothing_explained),
}
for _cell, _where in CELLS.items():
    MEASUREMENTS[f"flux-bounded-{_cell}"] = Measurement(cell(*_where), flux_bound)
    MEASUREMENTS[f"flux-local-{_cell}"] = Measurement(cell(*_where), flux_beyond)
    MEASUREMENTS[f"closure-local-{_cell}"] = Measurement(cell(*_where, "local"), law_explained)
    MEASUREMENTS[f"closure-clock-{_cell}"] = Measurement(cell(*_where, "clock"), law_explained)
for _name in ("residual", "plain"):
    MEASUREMENTS[f"closure-tasks-{_name}"] = Measurement(tasks_cell(_name), tasks_explained)

"""Cases for the rigidity theorem: what it says on drawn velocities, planted laws to rank, exact models, networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import xarray as xr

from grsd.conditions import invariance, of_specs
from grsd.conditions.covariance import Collapse, along_runs, between_problems
from grsd.conditions.matched import frontier_window, widths_of
from grsd.datasets import digits
from grsd.decomposition import spectrum
from grsd.laws import compare_laws
from grsd.laws.velocity import pooled_velocities
from grsd.networks import Perceptron
from grsd.runs import Spec, ensemble
from grsd.shells import LogShells, energy_budget
from grsd.solvable import DiagonalNet, ProjectedTwoLayer
from grsd.studies.calibration.coverage import INTERIOR, LAW, WIDTHS, ensemble_budgets
from grsd.studies.training_cases import INVARIANCE, LOG_LOSS, LOG_PERIODIC, REACH, RUNS, pseudo_value
from grsd.support.provenance import provenance
from grsd.theory import nearest_affine, nearest_law, shift_defect, velocity_band

EXACT_SHELLS = LogShells(0.5, 0.1)
EXACT_TIMES = {"diagonal": (3.0, 300.0), "projected": (1e3, 1e6)}
PROBLEM = {"samples": 24, "width": 16, "depth": 3, "time": 3.0, "shell_width": 0.5, "smoothing": 0.1, "steps": 2}
RANKED_RUNS = 16
PLANTED = {
    "power law": LAW,
    "log-periodic": replace(LAW, wiggle=LOG_PERIODIC.wiggle, period=LOG_PERIODIC.period),
    "broken power law": replace(LAW, exponent=2.5, bend=(-6.0, 0.5)),
}


def theorem_ratio(seed: int) -> float:
    """Distance to the nearest law over epsilon + delta, the larger of two: theorem 3 says at most 1.

    Velocities on a grid of s and log t: one slice drawn (a random walk, noise, or steps), carried to the other times by
    covariance, with errors up to delta drawn (half the seeds: none). epsilon and delta are measured on what came out.
    """
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(20):
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


def problems_gap(seed: int) -> float:
    """The discrepancy of ``between_problems`` for a small residual network on digits."""
    data = digits(PROBLEM["samples"], seed=seed)
    network = Perceptron(64, 10, width=PROBLEM["width"], depth=PROBLEM["depth"], residual=True, seed=seed).double()
    shells = LogShells(PROBLEM["shell_width"], PROBLEM["smoothing"])
    found = between_problems(network, data.inputs, data.targets, PROBLEM["time"], shells, steps=PROBLEM["steps"])
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


def separation(seed: int) -> float:
    """Log10 of the defect where the covariance along a run is broken over the largest where it is kept."""
    kept = max(exact_collapse(case, seed).defect for case in ("projected", "flat", "proportional"))
    return math.log10(exact_collapse("common", seed).defect / kept)


@cache
def true_distance(case: str) -> float:
    """The Chebyshev distance to affine of log u of a planted case, from its noiseless mean."""
    mean = [[energy_budget(*PLANTED[case].population(), shells)] * 4 for shells in WIDTHS]
    observed = pooled_velocities("true_distance", mean, window=INTERIOR)
    return nearest_affine(observed.x, np.log(observed.y[0])).distance


@cache
def planted_outcomes(number: int) -> dict[str, bool]:
    """What happened in the planted ensembles of that number, all three cases.

    "ranked": the planted law was chosen (16 runs). "certified": the certificate of 8 runs contains the true distance,
    and excludes power laws (``least`` above 0) just where none was planted.
    """
    ranked = certified = True
    for name, planted in PLANTED.items():
        budgets = ensemble_budgets(planted, WIDTHS, number, RANKED_RUNS)
        ranked &= compare_laws(budgets, window=INTERIOR).chosen == name
        found = velocity_band([item[:RUNS] for item in budgets], window=INTERIOR).certificate()
        certified &= found.least <= true_distance(name) <= found.most
        certified &= (found.least == 0) == (name == "power law")
    return {"ranked": bool(ranked), "certified": bool(certified)}


@cache
def network_collapse(architecture: str, depth: int, first: int) -> tuple[Collapse, tuple[float, ...]]:
    """Covariance along the runs with seeds ``first`` to ``first`` + 7, and D^2 without each."""
    specs = replace(INVARIANCE, architecture=architecture, depth=depth).with_seeds(range(first, first + RUNS))
    histories = ensemble(specs, workers=1, threads=1, progress=False)
    without = tuple(along_runs([*histories[:run], *histories[run + 1 :]]).defect for run in range(RUNS))
    return along_runs(histories), without


def collapse_of_seed(architecture: str, depth: int, seed: int) -> float:
    """The jackknife pseudo-value of a seed: R D^2 - (R - 1) D^2 without it, in its block of R = 8 seeds."""
    found, without = network_collapse(architecture, depth, seed - seed % RUNS)
    return pseudo_value(found.defect, without, seed % RUNS)


def distance_table(cells: Mapping[tuple[str, int], list[Spec]], log_loss: float = LOG_LOSS) -> xr.Dataset:
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
    for (architecture, depth), specs in cells.items():
        place = axes["architecture"].index(architecture), axes["depth"].index(depth)
        found = along_runs(ensemble(specs, threads=1, progress=False), reach=REACH)
        for array, value in zip(collapse.values(), (found.defect, *found.interval), strict=True):
            array[place] = value
        measured = of_specs(invariance, specs, log_loss=log_loss)
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
    described = {n: str(v) for n, v in first[0].to_dict().items() if n not in {"architecture", "depth", "seed"}}
    settings = {"seeds": str([spec.seed for spec in first]), "log_loss": log_loss, "reach": REACH}
    return xr.Dataset(data, axes, attrs=provenance(described | settings))

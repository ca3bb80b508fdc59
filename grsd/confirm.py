"""What each judged claim measures for one seed, and the command that turns it into a stored result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial

import numpy as np

from grsd.conditions import incoherence, initial_cases, propagation, rigidity_cases, training_cases
from grsd.datasets import digits
from grsd.evidence import Result, claims, confirm, results, write_result
from grsd.flow import Flow, gradient_flow
from grsd.kernel import tangent_kernel
from grsd.networks import Perceptron
from grsd.progress import bar
from grsd.renormalization import cases as renormalization_cases
from grsd.renormalization import closure, profile_flow
from grsd.renormalization.cases import CLOSED, HIDDEN, LONG_RANGE, SHORT, WIDENING
from grsd.runs import measured_energy_change, run, shell_history
from grsd.scaling import axes, bottlenecks, exact, networks
from grsd.shells import LogShells
from grsd.solvable import PlantedShells, ShellLattice
from grsd.solvable.coverage import INTERIOR, LAW, SHELLS, WIDTHS, outcomes
from grsd.spectrum import spectrum
from grsd.tables import path_of

DIGITS = {"samples": 48, "width": 48, "depth": 8, "residual": True, "end": 30.0, "shell_width": 0.5, "smoothing": 0.1}
RUNS = 8
PROPAGATION = {"depths": str(initial_cases.DEPTHS), "width": 64, "samples": 8}
INCOHERENCE = {
    "width": 64,
    "shell_width": initial_cases.SHELLS.width,
    "smoothing": initial_cases.SHELLS.smoothing,
    "flips": 999,
}
TASKS = {"one-hot": 30, "parity": 200}


@dataclass(frozen=True)
class Measurement:
    """``measure(seed)`` gives the claim's statistic; ``parameters`` go into the result's provenance."""

    measure: Callable[[int], float]
    parameters: dict[str, object]


@cache
def _trained(seed: int, tolerance: float = 1e-4) -> Flow:
    data = digits(DIGITS["samples"], seed=seed)
    network = Perceptron(64, 10, width=DIGITS["width"], depth=DIGITS["depth"], residual=DIGITS["residual"], seed=seed)
    top = float(spectrum(tangent_kernel(network, data.inputs)).eigenvalues[-1])
    return gradient_flow(network, data.inputs, data.targets, [DIGITS["end"] / top], tolerance=tolerance)


def _shells() -> LogShells:
    return LogShells(DIGITS["shell_width"], DIGITS["smoothing"])


def _budget_gap(seed: int) -> float:
    check = measured_energy_change(_trained(seed), -1, _shells())
    return float(check.discrepancy[check.mask.values == 0].max(skipna=False))


def _asymmetry(seed: int) -> float:
    coupling = shell_history(_trained(seed), _shells()).coupling.values
    return float(np.abs(coupling + coupling.swapaxes(-1, -2)).max() / np.abs(coupling).max())


def _end_error(seed: int) -> float:
    end, reference = (_trained(seed, tolerance).snapshots[-1].error for tolerance in (1e-4, 1e-6))
    return float((end - reference).norm() / reference.norm())


@cache
def _outcomes(planted: PlantedShells, shells: tuple[LogShells, ...], seed: int) -> dict[str, bool]:
    return outcomes(planted, shells, INTERIOR, seed, runs=RUNS)


def _planted(outcome: str, planted: PlantedShells, shells: tuple[LogShells, ...] = WIDTHS) -> Measurement:
    """One or zero: whether ``outcome`` happened in the ensemble of that number."""
    read = {"shell_widths": str([item.width for item in shells]), "smoothing": shells[0].smoothing}
    return Measurement(
        lambda seed: float(_outcomes(planted, shells, seed)[outcome]),
        asdict(planted) | read | {"outcome": outcome, "runs": RUNS, "window": str(INTERIOR)},
    )


def _propagation(*kinds: str) -> Measurement:
    """The larger of the two slopes on log depth; the smaller over ``kinds``."""

    def measure(seed: int) -> float:
        return float(min(propagation.slopes(initial_cases.propagation_over_depth(kind, seed)).max() for kind in kinds))

    return Measurement(measure, PROPAGATION | {"kinds": ", ".join(kinds)})


def _incoherence(kind: str, task: str, depths: Sequence[int] = initial_cases.DEPTHS) -> Measurement:
    """The excess coherence, mean over depths."""

    def measure(seed: int) -> float:
        found = [initial_cases.incoherence_at(kind, depth, seed, task=task, samples=TASKS[task]) for depth in depths]
        return float(np.mean([item.excess for item in found]))

    settings = {"kind": kind, "task": task, "samples": TASKS[task], "depths": str(tuple(depths))}
    return Measurement(measure, INCOHERENCE | settings)


def _planted_excess(seed: int) -> float:
    return float(
        incoherence.measure_modes(*initial_cases.planted_signs(400, seed=seed), initial_cases.SHELLS, seed=seed).excess
    )


EVOLUTION = training_cases.EVOLUTION.to_dict() | {"depth": str(training_cases.DEPTHS)}
INVARIANCE = training_cases.INVARIANCE.to_dict() | {
    "log_loss": training_cases.LOG_LOSS,
    "reach": training_cases.REACH,
    "runs": training_cases.RUNS,
}


def _described(spec: dict[str, object], **changed: object) -> dict[str, object]:
    listed = {name: str(value) if isinstance(value, list) else value for name, value in spec.items() if name != "seed"}
    return listed | changed


def _planted_invariance(verdict: str, *planted: PlantedShells) -> Measurement:
    """One or zero: whether condition 4 got this verdict in the ensemble of that number, for all that were planted."""
    described = {f"planted_{number}": str(asdict(item)) for number, item in enumerate(planted)}
    return Measurement(
        lambda seed: float(all(training_cases.planted_verdict(item, seed) == verdict for item in planted)),
        described | {"runs": training_cases.RUNS},
    )


def _evolution(architecture: str, of: str) -> Measurement:
    def measure(seed: int) -> float:
        if of == "supremum":
            return training_cases.network_supremum(architecture, seed)
        return training_cases.network_slope(architecture, of, seed)

    return Measurement(measure, _described(EVOLUTION, architecture=architecture, of=of))


def _invariance(
    depth: int, architecture: str | None = None, stage: training_cases.Stage = training_cases.EARLY, first: int = 1000
) -> Measurement:
    """The defect of one architecture, or of the plain less that of the residual one."""
    spec = stage.specs[architecture or "residual"]
    settings = {"log_loss": stage.log_loss, "reach": training_cases.REACH, "runs": stage.runs, "depth": depth}
    if architecture is None:
        parameters = _described(spec.to_dict(), **settings, architecture="plain - residual")
        parameters["times"] = "; ".join(dict.fromkeys(str(list(item.times)) for item in stage.specs.values()))
        return Measurement(lambda seed: training_cases.contrast_of_seed(stage, depth, seed, first), parameters)
    parameters = _described(spec.to_dict(), **settings)
    return Measurement(lambda seed: training_cases.defect_of_seed(stage, architecture, depth, seed, first), parameters)


def _renormalization(read: Callable[[str, int, int], float], *architectures: str) -> Measurement:
    """A pseudo-value of the networks of condition 4 at depth 32; with two architectures the first less the second."""

    def measure(seed: int) -> float:
        first, *rest = (read(architecture, 32, seed) for architecture in architectures)
        return first - sum(rest)

    settings = {"architecture": " - ".join(architectures), "depth": 32, "factors": str(renormalization_cases.FACTORS)}
    return Measurement(measure, _described(INVARIANCE, **settings))


def _late_closure(architecture: str, depth: int) -> Measurement:
    stage = training_cases.LATE

    def measure(seed: int) -> float:
        return renormalization_cases.closure_of_seed(architecture, depth, seed, stage, 2000)

    settings = {"log_loss": stage.log_loss, "reach": training_cases.REACH, "runs": stage.runs, "depth": depth}
    factors = str(renormalization_cases.FACTORS)
    return Measurement(measure, _described(stage.specs[architecture].to_dict(), **settings, factors=factors))


def _lattice(read: Callable[[int], bool], **lattices: ShellLattice) -> Measurement:
    """One or zero: whether ``read`` is true of the ensemble of that number."""
    described = {
        name: str({field: value for field, value in vars(lattice).items() if field != "velocity"})
        for name, lattice in lattices.items()
    }
    return Measurement(lambda seed: float(read(seed)), described | {"runs": RUNS})


def _closes(lattice: ShellLattice, verdict: str, ensemble: int) -> bool:
    return closure(renormalization_cases.lattice_budgets(lattice, ensemble)).verdict == verdict


def _flows(lattice: ShellLattice, verdict: str, ensemble: int) -> bool:
    budgets = renormalization_cases.lattice_budgets(lattice, ensemble)
    return profile_flow(budgets, window=renormalization_cases.INTERIOR).verdict == verdict


def _closed_without_a_law(ensemble: int) -> float:
    closed, law = renormalization_cases.closed_without_a_law(ensemble)
    return float(closed.verdict == "closed" and law.verdict == "fails")


def _planted_three(outcome: str, runs: int) -> Measurement:
    described = {name: str(asdict(item)) for name, item in rigidity_cases.PLANTED.items()}
    return Measurement(
        lambda seed: float(rigidity_cases.planted_outcomes(seed)[outcome]),
        described | {"outcome": outcome, "runs": runs, "window": str(INTERIOR)},
    )


def _forecast(read: Callable[..., float], architecture: str, *compared: str, data: str = "digits") -> Measurement:
    """``read`` for a rival and one task, or for all tasks of the data set."""
    known = networks.DATA[data]
    rivals, tasks = [name for name in compared if name not in known.tasks], set(compared) & set(known.tasks)
    settings = {"architecture": architecture, "compared": ", ".join(compared), "tasks": str(known.tasks)}
    return Measurement(
        lambda seed: read(architecture, *rivals, *(tasks or known.tasks), seed=seed),
        settings | {"width": 48, "depth": 8, "predictions": known.file},
    )


_patches = partial(_forecast, data="patches")


def _axis(read: Callable[..., float], *axis: str) -> Measurement:
    """Of one seed of the regression, computed once for all axes."""
    return Measurement(
        lambda seed: read(run(axes.case(seed), axes.losses, progress=False), *axis),
        _described(axes.case(0), axis=", ".join(axis or axes.AXES), fitted=str(axes.FITTED)),
    )


def _bottleneck(read: Callable[..., float], *compared: str) -> Measurement:
    """Of one seed of networks, trained once for all claims."""
    return Measurement(
        lambda seed: read(*compared, seed=seed),
        _described(bottlenecks.case(0), compared=", ".join(compared), predictions=bottlenecks.FILE),
    )


MEASUREMENTS = {
    "budget-closes": Measurement(_budget_gap, DIGITS),
    "coupling-antisymmetric": Measurement(_asymmetry, DIGITS),
    "flow-is-accurate": Measurement(_end_error, DIGITS | {"tolerance": 1e-4, "reference_tolerance": 1e-6}),
    "coverage-b": _planted("b_velocity", LAW),
    "coverage-c": _planted("c", LAW),
    "coverage-kappa": _planted("kappa", SHELLS, WIDTHS[:1]),
    "false-rejection": _planted("velocity_test", LAW),
    "wiggle-detected": _planted("velocity_test", replace(LAW, wiggle=0.2, period=1.7)),
    "scale-detected": _planted("velocity_test", replace(LAW, scale=0.03)),
    "second-width": _planted("velocity_test_1", replace(LAW, wiggle=0.4, period=math.log(2))),
    "gradient-propagation": _propagation("residual"),
    "gradient-propagation-isometry": _propagation("orthogonal linear"),
    "gradient-propagation-off-critical": _propagation("sub-critical", "super-critical"),
    "gradient-propagation-plain": _propagation("critical"),
    "initial-incoherence": _incoherence("residual", "one-hot"),
    "initial-incoherence-plain": _incoherence("critical", "one-hot"),
    "initial-incoherence-one-output": _incoherence("residual", "parity"),
    "initial-incoherence-one-output-plain": _incoherence("critical", "parity"),
    "initial-incoherence-planted": Measurement(_planted_excess, INCOHERENCE | {"modes": 400, "aligned": 0}),
    "initial-incoherence-aligned": _incoherence("aligned linear", "one-hot", (8,)),
    "jacobian-evolution": _evolution("residual", "time"),
    "evolution-time-plain": _evolution("plain", "time"),
    "evolution-depth-residual": _evolution("residual", "depth"),
    "evolution-depth-plain": _evolution("plain", "depth"),
    "evolution-bound-residual": _evolution("residual", "supremum"),
    "evolution-bound-plain": _evolution("plain", "supremum"),
    "evolution-constructed": Measurement(partial(training_cases.exact_control, "controlled"), {"case": "controlled"}),
    "evolution-broken": Measurement(partial(training_cases.exact_control, "sudden"), {"case": "sudden"}),
    "log-shift-invariance": _invariance(32, "residual"),
    "invariance-residual-16": _invariance(16, "residual"),
    "invariance-plain-16": _invariance(16, "plain"),
    "invariance-plain-32": _invariance(32, "plain"),
    "residual-networks": _invariance(32),
    "invariance-contrast-16": _invariance(16),
    "late-invariance-residual-16": _invariance(16, "residual", training_cases.LATE, 2000),
    "late-invariance-residual-32": _invariance(32, "residual", training_cases.LATE, 2000),
    "late-invariance-plain-16": _invariance(16, "plain", training_cases.LATE, 2000),
    "late-invariance-plain-32": _invariance(32, "plain", training_cases.LATE, 2000),
    "late-contrast-16": _invariance(16, None, training_cases.LATE, 2000),
    "late-contrast-32": _invariance(32, None, training_cases.LATE, 2000),
    "late-invariance-residual-16-96": _invariance(16, "residual", training_cases.LATE_LARGE, 3000),
    "late-invariance-residual-32-96": _invariance(32, "residual", training_cases.LATE_LARGE, 3000),
    "renormalizable": _renormalization(renormalization_cases.closure_of_seed, "residual"),
    "renormalizable-late": _late_closure("residual", 16),
    "closure-plain": _renormalization(renormalization_cases.closure_of_seed, "plain"),
    "locality-residual": _renormalization(renormalization_cases.reach_of_seed, "residual"),
    "locality-plain": _renormalization(renormalization_cases.reach_of_seed, "plain"),
    "locality-contrast": _renormalization(renormalization_cases.reach_of_seed, "plain", "residual"),
    "renormalizable-is-not-enough": Measurement(
        _closed_without_a_law,
        renormalization_cases.DIAGONAL | {"time": renormalization_cases.DIAGONAL_TIME, "runs": RUNS},
    ),
    "closure-constructed": _lattice(partial(_closes, CLOSED, "closed"), closed=CLOSED),
    "closure-broken": _lattice(
        lambda seed: _closes(HIDDEN, "not closed", seed) and _closes(LONG_RANGE, "not closed", seed),
        hidden=HIDDEN,
        long_range=LONG_RANGE,
    ),
    "closure-null": _lattice(
        lambda seed: closure(renormalization_cases.unrelated_budgets(SHORT, seed)).p <= 0.05, lattice=SHORT
    ),
    "profile-flow": _lattice(
        lambda seed: _flows(CLOSED, "holds", seed) and _flows(WIDENING, "fails", seed),
        law=CLOSED,
        widening=WIDENING,
    ),
    "invariance-constructed": _planted_invariance("holds", training_cases.INVARIANT),
    "rigidity": Measurement(rigidity_cases.theorem_ratio, {"draws": 20}),
    "covariance-between-problems": Measurement(rigidity_cases.problems_gap, rigidity_cases.PROBLEM),
    "covariance-exact-models": Measurement(rigidity_cases.separation, {"modes": 300}),
    "covariance-along-a-run": Measurement(
        partial(rigidity_cases.collapse_of_seed, "residual", 16),
        _described(training_cases.INVARIANCE.to_dict(), architecture="residual", depth=16, runs=training_cases.RUNS),
    ),
    "alternatives-rank": _planted_three("ranked", rigidity_cases.RANKED_RUNS),
    "certified-distance": _planted_three("certified", training_cases.RUNS),
    "invariance-broken": _planted_invariance("fails", training_cases.LOG_PERIODIC, training_cases.SCALED),
    "transport-agrees": Measurement(exact.disagreement, {"rows": ", ".join(exact.ROWS)}),
    "loss-exponents": Measurement(exact.exponent_error, {"log_times": str(exact.LOG_TIMES)}),
    "bordelon-recovered": Measurement(exact.bordelon_error, {"time": exact.LATE}),
    "forecast-exact-models": Measurement(exact.forecast_ratio, {"ahead": 10.0}),
    "forecast-residual-parity": _forecast(networks.gain, "residual", "lazy", "parity"),
    "forecast-residual-one-hot": _forecast(networks.gain, "residual", "lazy", "one-hot"),
    "forecast-residual-line": _forecast(networks.gain, "residual", "straight line"),
    "forecast-residual-accurate": _forecast(networks.accuracy, "residual"),
    "forecast-plain-parity": _forecast(networks.gain, "plain", "lazy", "parity"),
    "forecast-plain-one-hot": _forecast(networks.gain, "plain", "lazy", "one-hot"),
    "forecast-plain-line": _forecast(networks.gain, "plain", "straight line"),
    "forecast-plain-accurate": _forecast(networks.accuracy, "plain"),
    "forecast-patches-residual-photograph": _patches(networks.gain, "residual", "lazy", "photograph"),
    "forecast-patches-residual-pixel": _patches(networks.gain, "residual", "lazy", "pixel"),
    "forecast-patches-residual-line": _patches(networks.gain, "residual", "straight line"),
    "forecast-patches-residual-profile": _patches(networks.gain, "residual", "power law", "photograph"),
    "forecast-patches-residual-accurate": _patches(networks.accuracy, "residual"),
    "forecast-patches-plain-photograph": _patches(networks.gain, "plain", "lazy", "photograph"),
    "forecast-patches-plain-pixel": _patches(networks.gain, "plain", "lazy", "pixel"),
    "forecast-patches-plain-line": _patches(networks.gain, "plain", "straight line"),
    "forecast-patches-plain-profile": _patches(networks.gain, "plain", "power law", "photograph"),
    "forecast-patches-plain-accurate": _patches(networks.accuracy, "plain"),
    "slope-model": _axis(axes.slope_error, "model"),
    "slope-data": _axis(axes.slope_error, "data"),
    "slope-time": _axis(axes.slope_error, "time"),
    "slope-compute": _axis(axes.slope_error, "compute"),
    "scaling-theory": _axis(axes.theory_gap),
    "network-samples-lazy": _bottleneck(bottlenecks.distance, "lazy", "by_samples"),
    "network-samples-slope": _bottleneck(bottlenecks.slope_gap, "by_samples", "by_samples"),
    "network-samples-gain": _bottleneck(bottlenecks.excess, "by_samples", "lazy"),
    "network-width-readout": _bottleneck(bottlenecks.distance, "readout", "by_width"),
    "network-width-readout-slope": _bottleneck(bottlenecks.slope_gap, "readout", "by_width"),
    "network-width-slope": _bottleneck(bottlenecks.slope_gap, "by_width", "by_width"),
}
REPEATED = {
    "initial-incoherence-64": "initial-incoherence",
    "initial-incoherence-one-output-plain-64": "initial-incoherence-one-output-plain",
    "evolution-depth-residual-32": "evolution-depth-residual",
    "invariance-constructed-300": "invariance-constructed",
}
MEASUREMENTS |= {again: MEASUREMENTS[first] for again, first in REPEATED.items()}


def forecast_claims() -> None:
    """Write what the claims on networks are judged by and is not written yet, for their confirmatory seeds.

    Errors: ``FileExistsError`` where all is written already; before anything is computed.
    """
    rule = claims()["forecast-plain-parity"].judged
    seeds = range(rule.first_seed, rule.first_seed + rule.seeds)
    writers = {item.file: partial(networks.forecast_networks, seeds, name) for name, item in networks.DATA.items()}
    writers[bottlenecks.FILE] = partial(bottlenecks.write_theories, seeds)
    missing = [file for file in writers if not path_of(file, networks.FOLDER).exists()]
    for file in missing or writers:
        writers[file]()


def confirm_claims(names: Sequence[str] = ()) -> list[Result]:
    """Measure the claims that have a rule and no result yet (or ``names``) on confirmatory seeds; store the results.

    Errors: ``ValueError`` for a claim that has no measurement; before anything is measured.
    """
    known = claims()
    for name in names:
        if name not in known or name not in MEASUREMENTS:
            raise ValueError(f"no measurement for claim {name!r}; there are {', '.join(MEASUREMENTS)}")
    wanted = names or sorted(MEASUREMENTS.keys() - results().keys())
    found = []
    for name in bar(wanted, desc="claims", unit="claim"):
        measurement = MEASUREMENTS[name]
        found.append(confirm(known[name], measurement.measure, measurement.parameters))
        write_result(found[-1])
    return found

"""The public calls, each with arguments that are right, for the tests that make them wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch
from material import (
    PLANTED,
    SHELLS,
    WINDOW,
    S,
    batch,
    beyond,
    coarse,
    coherences,
    decomposed,
    digits,
    error,
    exact_history,
    files_of_states,
    fine,
    flow,
    gains,
    history,
    history_of_states,
    inference,
    learning,
    made,
    matrices,
    measured,
    model,
    observed,
    points,
    rates,
    runs,
    seen,
    shell_runs,
    squared,
    start,
    states,
    still,
    tridiagonal,
    whole_flow,
)

import grsd
from grsd import datasets, krylov, laws, networks, solvable, theory, workflow
from grsd.conditions import (
    closure,
    covariance,
    evolution,
    flow_to_loss,
    incoherence,
    invariance,
    judge_models,
    locality,
    matched,
    profile_flow,
    propagation,
)
from grsd.krylov.tridiagonal import lanczos
from grsd.laws import profile
from grsd.plan import plan
from grsd.shells import coupling_crossing, log_range, parts_over_runs, transport_parts
from grsd.studies import calibration, initial_incoherence


@dataclass(frozen=True)
class Public:
    """A public call. ``arguments()``: right ones, by name. ``names``: how its refusals may begin.

    ``costly``: arguments that decide how long it takes, which are never made huge.
    """

    function: Callable
    arguments: Callable[[], dict[str, object]]
    names: tuple[str, ...]
    costly: frozenset[str] = frozenset()


def _fields(kind: type, **values: object) -> Public:
    return Public(kind, lambda: dict(values), (kind.__name__,))


def _call(function: Callable, arguments: Callable[[], dict], *names: str, costly: tuple[str, ...] = ()) -> Public:
    return Public(function, arguments, names or (function.__name__,), frozenset(costly))


def _fresh() -> torch.nn.Module:
    return torch.nn.Linear(learning()["inputs"].shape[1], learning()["targets"].shape[1])


SHELL_CALLS = {
    "LogShells": _fields(grsd.LogShells, width=0.5, smoothing=0.1, span=(-5.0, 2.0)),
    "LogShells.indices": _call(
        lambda **given: SHELLS.indices(**given), lambda: {"low": -3.0, "high": 1.0}, "LogShells"
    ),
    "Spectrum": _call(
        grsd.Spectrum,
        lambda: {name: getattr(decomposed(), name) for name in ("eigenvalues", "eigenvectors", "rate", "floor")},
    ),
    "spectrum": _call(grsd.spectrum, lambda: dict(zip(("kernel", "rate"), matrices(), strict=True))),
    "energy_budget": _call(
        grsd.energy_budget, lambda: {"spectrum": decomposed(), "error": error(), "shells": SHELLS, "parameters": None}
    ),
    "energy_budgets": _call(
        grsd.energy_budgets,
        lambda: {"spectrum": decomposed(), "error": error(), "shells": [SHELLS], "parameters": None},
        "energy_budgets",
        "energy_budget",
        "LogShells",
    ),
    "energy_budget of Krylov": _call(
        grsd.energy_budget,
        lambda: {"spectrum": tridiagonal(), "error": tridiagonal().error, "shells": SHELLS, "parameters": None},
        "energy_budget",
        "LogShells",
    ),
    "checkpoint_budget": _call(
        grsd.checkpoint_budget,
        lambda: states() | {"loss": "mse", "method": "dense", "dtype": torch.float64, "parameters": None},
    ),
    "checkpoint_history": _call(
        grsd.checkpoint_history,
        lambda: history_of_states() | {"loss": "mse", "method": "dense", "memory_limit": "1GiB", "device": None},
    ),
    "checkpoints": _call(
        grsd.checkpoints,
        lambda: (
            files_of_states() | {"loss": "mse", "method": "dense", "labels": [0.0, 1.0], "folder": None, "key": None}
        ),
    ),
    "force_and_rate": _call(
        grsd.force_and_rate,
        lambda: learning() | {"loss": "mse", "direction": None, "dtype": torch.float64, "device": None, "batch": 3},
    ),
    "log_range": _call(log_range, lambda: {"spectrum": decomposed()}),
    "merge_shells": _call(grsd.merge_shells, lambda: {"budget": runs()[0], "factor": 2}),
    "merge_shells of a history": _call(grsd.merge_shells, lambda: {"budget": history(), "factor": 2}, "merge_shells"),
    "velocity_over_runs": _call(grsd.velocity_over_runs, lambda: {"budgets": list(runs())}),
    "remove_scale": _call(grsd.remove_scale, lambda: {"budget": runs()[0], "low": -8.0, "high": -2.0}),
    "transport_parts": _call(transport_parts, lambda: {"budget": runs()[0], "window": WINDOW, "rate": None}),
    "transport_parts of a history": _call(
        transport_parts, lambda: {"budget": exact_history(), "window": None, "rate": None}, "transport_parts"
    ),
    "parts_over_runs": _call(parts_over_runs, lambda: shell_runs() | {"rate": None}),
    "coupling_crossing": _call(
        coupling_crossing,
        lambda: {"spectrum": decomposed(), "error": error(), "shells": SHELLS},
        "coupling_crossing",
        "LogShells",
    ),
    "locality": _call(grsd.locality, lambda: {"budget": runs()[0]}),
    "flux_from_differences": _call(grsd.flux_from_differences, lambda: {"history": history()}),
    "measured_energy_change": _call(
        grsd.measured_energy_change, lambda: {"flow": flow(), "index": 1, "shells": SHELLS, "step": 0.01}
    ),
    "shell_history": _call(
        grsd.shell_history, lambda: {"flow": flow(), "shells": SHELLS, "progress": False, "parameters": None}
    ),
    "at_width": _call(grsd.at_width, lambda: {"run": history(), "width": 1.0}),
}

NETWORK = {"activation": "tanh", "weight_scale": 1.0, "branch_scale": 0.5, "seed": 0, "dtype": torch.float64}
NETWORK_CALLS = {
    "Perceptron": _fields(grsd.Perceptron, features=5, outputs=3, width=4, depth=2, residual=True, activation="tanh",
                          weight_scale=1.0, branch_scale=0.5, seed=0, dtype=torch.float64),
    "ResNet": _fields(networks.ResNet, features=16, outputs=2, width=4, depth=1, skips=True, norm="group",
                      start="fan-in", **NETWORK),
    "GatedPerceptron": _fields(networks.GatedPerceptron, features=5, outputs=2, width=4, depth=1, skips=False,
                               **NETWORK),
    "StateSpace": _fields(networks.StateSpace, features=6, outputs=2, width=4, depth=1, states=2, skips=True,
                          **NETWORK),
    "Transformer": _fields(networks.Transformer, features=6, outputs=2, width=4, depth=1, tokens=3, causal=True,
                           skips=True, **NETWORK),
    "digits": _call(grsd.digits, lambda: {"samples": 4, "task": "parity", "seed": 0}),
    "patches": _call(datasets.patches, lambda: {"samples": 4, "task": "pixel", "seed": 0}),
    "mnist1d": _call(datasets.mnist1d, lambda: {"samples": 4, "task": "parity", "seed": 0}),
    "prose": _call(datasets.prose, lambda: {"samples": 4, "task": "next", "seed": 0}),
    "power_law of data": _call(
        datasets.power_law,
        lambda: {"samples": 4, "features": 8, "a": 1.5, "r": 0.5, "task": "linear", "seed": 0},
        costly=("samples", "features"),
    ),
    "tangent_kernel": _call(
        grsd.tangent_kernel,
        lambda: inference() | {"dtype": torch.float64, "device": None, "memory_limit": "1GiB", "tf32": False},
    ),
    "tangent_kernel_and_rate": _call(
        grsd.tangent_kernel_and_rate,
        lambda: (
            learning()
            | {"loss": "mse", "dtype": torch.float64, "device": None, "memory_limit": "1GiB", "tf32": False}
        ),
    ),
    "tangent_kernel of parts": _call(
        grsd.tangent_kernel,
        lambda: inference() | {"others": 2 * batch()[0], "parameters": ["hidden.*", "readout.weight"],
                               "outputs": "trace", "positions": "all", "normalized": False},
        "tangent_kernel",
    ),
    "parameter_kernels": _call(
        grsd.parameter_kernels,
        lambda: inference() | {"parameters": ["readout"], "dtype": torch.float64, "memory_limit": "1GiB"},
    ),
    "memory_estimate": _call(grsd.memory_estimate, lambda: inference() | {"rate": True, "dtype": torch.float64}),
    "memory_estimate of parts": _call(
        grsd.memory_estimate, lambda: inference() | {"others": batch()[0].clone(), "outputs": "diagonal"},
        "memory_estimate",
    ),
    "CrossProducts": _call(
        krylov.CrossProducts,
        lambda: inference() | {"others": 2 * batch()[0], "parameters": ["readout"], "batch": 3, "device": None},
    ),
    "output": _call(grsd.output, lambda: {"model": model(), "key": "logits"}),
    "packed": _call(grsd.packed, lambda: {"model": model(), "inputs": {"x": batch()[0].clone()}}),
    "linearized_flow": _call(
        grsd.linearized_flow,
        lambda: learning() | {"times": [0.5, 2.0], "others": 2 * batch()[0], "parameters": ["readout"]},
        "linearized_flow", "tangent_kernel",
    ),
    "linear_outputs": _call(
        grsd.linear_outputs,
        lambda: {"model": model(), "state": states()["after"], "inputs": batch()[0].clone(), "batch": 3},
    ),
    "Flow.from_checkpoints": _call(
        grsd.Flow.from_checkpoints,
        lambda: learning() | {"states": [model(), states()["after"]], "times": [0.0, 1.0], "parameters": None},
        "Flow.from_checkpoints", "gradient_flow",
    ),
    "gradient_flow": _call(
        grsd.gradient_flow,
        lambda: (
            learning()
            | {"times": [0.5], "loss": "mse", "tolerance": 1e-3, "dtype": torch.float64, "parameters": None}
        ),
        costly=("times", "tolerance"),
    ),
    "audit": _call(
        grsd.audit,
        lambda: {"model": _fresh, "inputs": learning()["inputs"], "targets": learning()["targets"], "seeds": [0, 1],
                 "loss": "mse", "budget": 0.1, "samples": None, "fall": 0.5, "shell_width": 0.7, "conditions": False,
                 "method": "dense", "checkpoints": None, "key": None, "device": None, "folder": None,
                 "progress": False, "name": "x"},
        costly=("seeds", "samples", "budget", "fall"),
    ),
    "log_times": _call(grsd.log_times, lambda: {"first": 0.1, "last": 10.0, "count": 5}),
    "krylov_spectrum": _call(
        grsd.krylov_spectrum,
        lambda: learning() | {"loss": "mse", "steps": 8, "probes": 0, "tolerance": 0.1, "batch": 10, "device": None},
        costly=("probes",),
    ),
    "DenseOperator": _call(krylov.DenseOperator, lambda: dict(zip(("kernel", "rate"), matrices(), strict=True))),
    "KernelOperator": _call(
        krylov.KernelOperator, lambda: learning() | {"loss": "mse", "batch": 10, "dtype": torch.float64}
    ),
    "lanczos": _call(
        lanczos,
        lambda: {"operator": krylov.DenseOperator(*matrices()), "start": error().reshape(-1), "steps": 6, "rate": True},
    ),
    "Spec": _fields(grsd.Spec, architecture="residual", width=4, depth=2, activation="tanh", weight_scale=1.0,
                    branch_scale=0.5, task="parity", samples=4, data_seed=0, times=(0.1, 1.0, 3), tolerance=1e-3,
                    shell_widths=(0.5,), smoothing=0.1, seed=0, device="cpu", dtype="float64"),
    "project": _call(grsd.project, lambda: {"where": grsd.project()}, "project", "no notebooks"),
}  # fmt: skip

LAW_CALLS = {
    "velocity_law": _call(laws.velocity_law, lambda: shell_runs() | {"scale": False, "reference": -5.0, "level": 0.9}),
    "coupling_law": _call(
        laws.coupling_law,
        lambda: shell_runs() | {"k_max": 1, "scale": False, "reference": -5.0, "level": 0.9},
    ),
    "law_test": _call(
        laws.law_test,
        lambda: shell_runs() | {"observable": "velocity", "k_max": 1, "scale": False, "level": 0.9},
        "law_test",
        "velocity_law",
        "coupling_law",
    ),
    "observe": _call(laws.observe, lambda: shell_runs() | {"observable": "coupling", "k_max": 1}, "law_test"),
    "judge_observed": _call(laws.judge_observed, lambda: {"observable": "velocity", "observed": observed()},
                            "judge_observed", "velocity_law", "coupling_law"),
    "beyond_growth": _call(laws.beyond_growth, lambda: {**beyond(), "k_max": 1, "level": 0.9}),
    "growth_surrogate": _call(laws.growth_surrogate, lambda: {**beyond(), "k_max": 1, "seed": 0, "enlarged": True}),
    "growth_power": _call(
        laws.growth_power, lambda: {**beyond(), "k_max": 1, "runs": (8, 9), "share": 0.1, "draws": 2}
    ),
    "resampled": _call(
        laws.resampled,
        lambda: {"observable": "velocity", "observed": observed(), "runs": 5, "seed": 0, "lawful": True},
    ),
    "compare_laws": _call(laws.compare_laws, lambda: {"budgets": [list(fine())], "window": WINDOW, "times": None}),
    "exponents": _call(
        laws.exponents,
        lambda: {"budgets": [list(runs())] * 4, "times": [1.0, 2.0, 3.0, 4.0], "window": WINDOW, "level": 0.9},
    ),
    "fit_power_law": _call(
        grsd.fit_power_law,
        lambda: {"x": S + 6, "y": 2 * (S + 6) ** -0.5 + 0.3, "errors": np.ones(12), "offset": None, "level": 0.9,
                 "draws": 19, "seed": 0},
        costly=("draws",),
    ),
    "fit_power_law of runs": _call(
        grsd.fit_power_law, lambda: {"x": S + 6, "y": np.exp(-0.1 * np.outer(range(1, 5), S)).tolist(), "draws": 19},
        "fit_power_law",
        costly=("draws",),
    ),
    "PowerLawFit.predict": _call(
        lambda x: grsd.fit_power_law(S + 6, 2 * (S + 6) ** -0.5, draws=19).predict(x), lambda: {"x": [1.0, 9.0]},
        "PowerLawFit.predict",
    ),
    "loss_slope": _call(
        laws.loss_slope,
        lambda: {"histories": [exact_history()] * 4, "first": 4.0, "last": 25.0, "offset": 0.0, "draws": 19},
        "loss_slope", "fit_power_law",
        costly=("draws",),
    ),
    "more_seeds_said": _call(
        laws.more_seeds_said,
        lambda: {"estimate": 0.0, "interval": (-2.0, 2.0), "threshold": 1.0, "seeds": 8, "least": 4},
        "more_seeds",
    ),
    "closure.judge": _call(closure.judge, lambda: coarse() | {"permutations": 19}, "closure.judge"),
    "profile_flow.judge": _call(profile_flow.judge, lambda: coarse() | {"separations": 2},
                                "profile_flow.judge", "coupling_law"),
    "locality.judge": _call(locality.judge, coarse, "locality.judge"),
    "locality_range": _call(
        locality.locality_range,
        lambda: {"budgets": list(runs()), "window": WINDOW, "factors": (1, 2), "level": 0.9},
    ),
    "coarser_profile": _call(
        profile_flow.coarser_profile,
        lambda: {"kappa": np.array([1.0, 0.5]), "width": 0.5, "exponent": 1.2, "growth": 0.3, "factor": 2},
    ),
    "velocity_band": _call(theory.velocity_band, lambda: {"budgets": [list(runs())], "window": WINDOW, "level": 0.9}),
    "nearest_affine": _call(theory.nearest_affine, lambda: {"s": S, "g": S**2}),
    "nearest_law": _call(theory.nearest_law, lambda: {"s": S, "log_time": S, "log_velocity": S**2}),
    "certify": _call(theory.certify, lambda: {"s": S, "low": S**2, "high": S**2 + 1}),
    "shift_defect": _call(theory.shift_defect, lambda: {"g": S**2, "furthest": 3}),
    "worst_curve": _call(theory.worst_curve, lambda: {"cells": 4, "middle": 2}),
    "shift_error": _call(theory.shift_error, lambda: {"velocity": squared, "shift": 0.5, "time": 2.0, "s": S}),
    "covariance_error": _call(
        theory.covariance_error, lambda: {"velocity": squared, "factor": 2.0, "time": 2.0, "s": S}
    ),
    "additive": _call(theory.additive, lambda: {"rational": 3}),
    "power_law": _call(theory.power_law, lambda: {"b": 1.5, "c": 0.3}),
    "log_periodic": _call(theory.log_periodic, lambda: {"b": 1.5, "period": 0.7, "amplitude": 0.4}),
    "Rescaled": _call(covariance.Rescaled, lambda: {"model": model(), "factor": 2.0}),
    "between_problems": _call(
        covariance.between_problems,
        lambda: digits() | {"time": 0.5, "shells": grsd.LogShells(2.0, 0.4), "steps": 1, "tolerance": 1e-3},
        "between_problems", "gradient_flow", "tangent_kernel_and_rate", "spectrum", "energy_budget",
        costly=("time", "tolerance"),
    ),
    "along_runs": _call(
        covariance.along_runs, lambda: {"histories": [exact_history()] * 3, "reach": 6.0, "above": 0.0, "level": 0.9}
    ),
    "covariance.judge": _call(
        covariance.judge, lambda: {"ensemble": [exact_history()] * 3, "reach": 6.0, "above": 0.0}, "covariance.judge"
    ),
}  # fmt: skip


CONDITION_CALLS = {
    "propagation.measure": _call(
        propagation.measure,
        lambda: {"history": whole_flow(), "node": None, "side": "input", "norms": True, "parameters": None},
        "propagation.measure",
    ),
    "propagation.measure of a module": _call(
        propagation.measure,
        lambda: start() | {"node": None, "side": "input", "norms": True, "parameters": None},
        "propagation.measure",
    ),
    "propagation.nodes": _call(
        propagation.nodes, lambda: inference() | {"side": "input", "dtype": torch.float64, "device": None},
        "propagation.nodes",
    ),
    "judge_models": _call(
        judge_models,
        lambda: {"condition": "propagation", "make": made, "depths": [2, 3, 4], "seeds": [0, 1, 2, 3], "log_loss": -0.1,
                 "latest": 10.0, "norms": False} | dict(zip(("inputs", "targets"), batch(), strict=True)),
        "judge_models", "propagation.measure", "propagation.judge",
        costly=("latest", "depths", "seeds"),
    ),
    "flow_to_loss": _call(
        flow_to_loss, lambda: learning() | {"log_loss": -0.1, "latest": 100.0, "tolerance": 1e-3},
        "flow_to_loss", "gradient_flow", "tangent_kernel",
        costly=("latest", "tolerance", "log_loss"),
    ),
    "propagation.slopes": _call(propagation.slopes, lambda: {"ensemble": gains()[::4]}, "propagation.slopes"),
    **{
        f"propagation.{judge.__name__}": _call(
            judge, lambda: {"ensemble": list(gains()), "rule": propagation.RULE},
            f"propagation.{judge.__name__}", "propagation.slopes",
        )
        for judge in (propagation.judge, propagation.judge_two_sided)
    },
    "incoherence.measure": _call(
        incoherence.measure,
        lambda: start() | {"shells": SHELLS, "flips": 19, "recomputed": 1, "seed": 0, "device": None},
        "incoherence.measure", "tangent_kernel_and_rate", "spectrum", "energy_budget", "incoherence.measure_modes",
        costly=("flips", "recomputed"),
    ),
    "incoherence.measure_modes": _call(
        incoherence.measure_modes,
        lambda: {"modes": decomposed(), "error": error(), "shells": SHELLS, "flips": 19, "seed": 0},
        "incoherence.measure_modes", "energy_budget",
        costly=("flips",),
    ),
    "incoherence.judge": _call(
        incoherence.judge, lambda: {"ensemble": list(coherences()), "rule": incoherence.RULE}, "incoherence.judge"
    ),
    "evolution.shell_rates": _call(
        evolution.shell_rates, lambda: {"decomposed": decomposed(), "shells": SHELLS}, "shell_rates", "LogShells"
    ),
    "evolution.along": _call(
        evolution.along, lambda: {"states": [(2.0, decomposed())], "shells": SHELLS, "top": 1.0},
        "evolution.along", "shell_rates",
    ),
    "evolution.measure": _call(
        evolution.measure,
        lambda: {"history": whole_flow(), "shells": SHELLS, "jacobian": True, "parameters": None},
        "evolution.measure", "shell_rates", "evolution.along", "jacobian_rate_kernel",
    ),
    "evolution.gather": _call(evolution.gather, lambda: {"ensemble": [rates(0), rates(1)]}, "evolution.gather"),
    "evolution.judge_slopes": _call(
        evolution.judge_slopes, lambda: {"ensemble": [rates(seed) for seed in range(3)], "exponent": 1.0},
        "evolution.judge_slopes", "evolution.slopes",
    ),
    **{
        f"evolution.{call.__name__}": _call(
            call,
            lambda: {"ensemble": [rates(seed).assign_attrs(shell_width=1.0) for seed in range(3)], "rate": "rho"},
            f"evolution.{call.__name__}",
        )
        for call in (evolution.eta, evolution.judge)
    },
    **{
        f"evolution.{call.__name__}": _call(
            call, lambda: {"run": rates(0).assign_attrs(shell_width=1.0), "rate": "rho"},
            f"evolution.{call.__name__}",
        )
        for call in (evolution.eta_of, evolution.largest_of)
    },
    "evolution.slopes": _call(
        evolution.slopes, lambda: {"measured": points(), "rate": "rho", "exponent": 1.0}, "evolution.slopes"
    ),
    "evolution.control_ratio": _call(
        evolution.control_ratio, lambda: {"measured": points(), "exponent": 1.0}, "control_ratio", "evolution.slopes"
    ),
    "profile": _call(profile.profile, lambda: {"measured": points(), "of": "time", "rate": "rho"}),
    "invariance.judge": _call(
        invariance.judge,
        lambda: {"ensemble": measured(), "window": WINDOW, "observable": "velocity", "k_max": 1, "scale": False},
        "invariance.judge", "law_test", "velocity_law", "coupling_law", "at_width",
    ),
    "invariance.power": _call(
        invariance.power,
        lambda: {"ensemble": list(runs()), "runs": [5], "window": WINDOW, "observable": "velocity", "draws": 1},
        "invariance.power", "law_test", "velocity_law", "coupling_law", "resampled",
        costly=("draws", "runs"),
    ),
    "frontier_window": _call(matched.frontier_window, lambda: {"ensemble": measured(), "reach": 6.0}),
    **{
        f"{condition.name}.measure": _call(
            condition.measure,
            lambda: {"history": history().assign(start_loss=2 * float(history().loss[0])), "log_loss": -1.0},
            f"{condition.name}.measure",
        )
        for condition in (invariance, closure, locality, profile_flow)
    },
    "invariance.measure of a flow": _call(
        invariance.measure, lambda: {"history": whole_flow(), "shells": [SHELLS], "log_loss": -2.0, "parameters": None},
        "invariance.measure", "LogShells", "energy_budget",
    ),
    "covariance.measure": _call(
        covariance.measure, lambda: {"history": whole_flow(), "shells": SHELLS, "parameters": None},
        "covariance.measure", "LogShells", "energy_budget",
    ),
    "planted_signs": _call(initial_incoherence.planted_signs, lambda: {"modes": 10, "aligned": 0.5, "seed": 0}),
}  # fmt: skip

MODEL_CALLS = {
    "AlignedDeepLinear": _fields(solvable.AlignedDeepLinear, strengths=(2.0, 1.0), start=0.01, seed=0),
    "DiagonalNet": _fields(solvable.DiagonalNet, depth=3, a=1.5, d=0.2, start=1e-3, common=False, modes=4, seed=0),
    "LazyPowerLaw": _fields(solvable.LazyPowerLaw, a=1.5, r=0.5, modes=4, seed=0),
    "ProjectedTwoLayer": _fields(solvable.ProjectedTwoLayer, alpha=2.0, beta=0.5, gamma=1.0, modes=4),
    "ShellLattice": _fields(
        solvable.ShellLattice, velocity=squared, profile="power", reach=0.5, widening=0.1, growth=0.3, swell=0.5,
        smooth=2.0, hidden=0.1, noise=0.1, width=0.25, extent=5.0,
    ),
    "PlantedShells": _fields(
        solvable.PlantedShells, exponent=1.4, drift=0.3, rotation=0.1, reach=0.5, kappa=(0.5,), shells=SHELLS,
        growth=0.3, modes=20, span=(-6.0, 0.0), spectrum="even", rotated=False, noise=0.1, noise_reach=1.0, scale=0.1,
        wiggle=0.1, period=1.5, phase=0.1, bend=(-3.0, 1.1),
    ),
    "coverage": _call(
        calibration.coverage,
        lambda: {"planted": PLANTED, "shells": [SHELLS], "window": WINDOW, "ensembles": 1, "runs": 4, "seed": 0,
                 "k_max": 1, "scale": False, "level": 0.9},
        "coverage", "law_test", "velocity_law", "coupling_law", costly=("ensembles",),
    ),
    "power_curve": _call(
        calibration.power_curve,
        lambda: {"planted": PLANTED, "shells": [SHELLS], "window": WINDOW, "effect": [0.1], "runs": [4],
                 "kind": "wiggle", "observable": "velocity", "ensembles": 1, "seed": 0, "level": 0.9},
        "power_curve", "law_test", "velocity_law", "coupling_law", "PlantedShells", costly=("ensembles",),
    ),
    "detection_limit": _call(
        calibration.detection_limit,
        lambda: {"planted": solvable.PlantedShells(drift=0.3, wiggle=0.2, modes=60), "window": WINDOW, "period": [1.5],
                 "smoothing": [0.2], "widths": [1.0], "ensembles": 0, "runs": 4, "seed": 0},
        "detection_limit", "LogShells", "PlantedShells", costly=("ensembles",),
    ),
    "PowerLawVelocity": _fields(theory.PowerLawVelocity, b=1.5, c=-0.3),
    "loss_exponent": _call(theory.loss_exponent, lambda: {"b": 1.5, "c": -0.3, "q": 0.2}),
    "local_exponent": _call(
        theory.local_exponent, lambda: {"times": np.arange(1.0, 6), "energy": np.arange(6.0, 1, -1)}
    ),
    "extrapolated_exponent": _call(
        theory.extrapolated_exponent,
        lambda: {"times": np.geomspace(2, 100, 20), "energy": np.geomspace(2, 1e-3, 20)},
        "extrapolated_exponent", "local_exponent",
    ),
    "transport": _call(
        theory.transport,
        lambda: {"edges": np.linspace(-4, 0, 9), "energy": np.ones(8), "velocity": still, "times": [1.5, 2.0],
                 "start": 1.0, "below": 0.1, "courant": 0.3, "negligible": 1e-9},
        costly=("times",),
    ),
    "early": _call(theory.early, lambda: {"history": exact_history(), "until": 20.0}),
    "velocity_profile": _call(theory.velocity_profile, lambda: {"seen": seen(), "efolds": 1.0}),
    "fitted_power_law": _call(
        theory.fitted_power_law, lambda: {"profile": theory.velocity_profile(seen()), "highest": 0.0}
    ),
    "predict_loss": _call(
        theory.predict_loss, lambda: {"seen": seen(), "times": [25.0, 30.0], "velocity": "lazy"},
        "predict_loss", "transport", costly=("times",),
    ),
    "extended_fit": _call(theory.extended_fit, lambda: {"seen": seen(), "times": [25.0, 30.0], "efolds": 1.0}),
}  # fmt: skip


def _method(kind: object, name: str, **arguments: object) -> Public:
    return Public(getattr(kind, name), lambda: dict(arguments), (f"{type(kind).__name__}.{name}", type(kind).__name__))


METHOD_CALLS = {
    f"{type(model_).__name__}.{name}": _method(model_, name, **arguments)
    for model_, names in {
        solvable.AlignedDeepLinear((2.0, 1.0)): ("learned", "eigenvalues", "velocity", "error", "loss", "problem"),
        solvable.DiagonalNet(3, modes=4): (
            "predictor",
            "eigenvalues",
            "velocity",
            "error",
            "loss",
            "matrices",
            "problem",
        ),
        solvable.LazyPowerLaw(1.5, 0.5, modes=4): ("error", "loss", "asymptotic_loss"),
        solvable.ProjectedTwoLayer(modes=4): ("clock", "relative_velocity", "eigenvalues", "error", "loss", "matrices"),
    }.items()
    for name in names
    for arguments in [{"times": [0.5, 2.0]} if "loss" in name else {"time": 0.5}]
}
METHOD_CALLS |= {
    "PlantedShells.run": _method(PLANTED, "run", seed=1),
    "PlantedShells.budgets": _call(
        PLANTED.budgets,
        lambda: {"seeds": [1], "shells": SHELLS},
        "PlantedShells.budgets",
        "PlantedShells.run",
        "energy_budget",
    ),
    "PlantedShells.trajectory": _method(
        solvable.PlantedShells(drift=0.3, modes=4), "trajectory", seed=1, times=[0.5], tolerance=1e-6
    ),
    "ShellLattice.budget": _method(solvable.ShellLattice(extent=5.0), "budget", seed=1),
    "PowerLawVelocity.energy": _method(
        theory.PowerLawVelocity(1.5, -0.3), "energy", times=[1.5, 2.0], q=0.2, start=1.0, top=1.0
    ),
}


def _requested() -> list:
    return plan(grsd.project(), only=["06"], profile="test")


def _cost() -> workflow.Cost:
    return workflow.Cost(grsd.Spec(samples=8), 3, 10, 2, 0.1, 0.2, 2**20)


WORKFLOW_CALLS = {
    "workflow.gpu_named": _call(workflow.gpu_named, lambda: {"name": "H100"}),
    "workflow.needed": _call(workflow.needed, lambda: {"run": _requested()[0]}),
    "workflow.jobs_of": _call(
        workflow.jobs_of,
        lambda: (
            {"requested": _requested(), "root": grsd.project()}
            | {name: Path(gettempdir()) / "grsd-no-folder" for name in ("folder", "store")}
        ),
    ),
    "workflow.predicted": _call(
        workflow.predicted,
        lambda: {"specs": [grsd.Spec(samples=8, width=4, depth=1, times=(0.5, 2.0, 2))], "gpu": workflow.GPUS["H100"]},
        "predicted",
        "Spec",
    ),
    "workflow.report": _call(workflow.report, lambda: {"costs": [_cost()], "jobs": 2, "gpu": None}),
    "workflow.resnet18_table": _call(
        workflow.resnet18_table, lambda: {"gpu": workflow.GPUS["A100"], "dtype": "float32"}
    ),
}

PUBLIC: dict[str, Public] = SHELL_CALLS | NETWORK_CALLS | LAW_CALLS | CONDITION_CALLS | MODEL_CALLS | METHOD_CALLS
PUBLIC |= WORKFLOW_CALLS

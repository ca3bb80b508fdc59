"""Each premise of the chain broken alone in the two-layer network, and what becomes of the conclusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import xarray as xr

from grsd.conditions import covariance, interventions
from grsd.decomposition import spectrum
from grsd.kernel import tangent_kernel_and_rate
from grsd.laws import beyond_growth
from grsd.shells import energy_budget
from grsd.studies.the_whole_chain.exponents import bend, clock_exponents, measured_exponent
from grsd.studies.the_whole_chain.links import budgets
from grsd.studies.the_whole_chain.networks import (
    CLOSURE_SHELLS,
    TWO,
    WINDOW,
    Chain,
    chain_of,
    followed,
    judged_state,
    near_window,
)

RANDOM_DRAWS = 80
INTACT = "nothing"
BROKEN = {
    INTACT: TWO,
    "start, large": replace(TWO, model=replace(TWO.model, lopsided=20.0), times=(2.0, 20.0, 5)),
    "task, easy (beta 1.5)": replace(TWO, model=replace(TWO.model, beta=1.5)),
    "target, kinked": replace(TWO, model=replace(TWO.model, bend=(-7.5, 1.0))),
    "spectrum of the error, wiggly": replace(TWO, model=replace(TWO.model, wiggle=(0.9, 6.0))),
}


@dataclass(frozen=True)
class Readings:
    """What is read of a network: per seed the ``clock`` c = t r at its first time, the loss exponents ``predicted``
    beta (1 + c) and ``measured``, the ``bend`` of log loss; of all seeds D_0^2 (``beyond``) and D^2 along the run
    (``moved``)."""

    clock: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray
    bend: np.ndarray
    beyond: float
    moved: float


def readings(chain: Chain, seeds: Sequence[int]) -> Readings:
    """Follow the chain on these seeds, at least 8."""
    runs = chain.measured(seeds, followed)
    clock = clock_exponents(chain, runs)
    return Readings(
        clock=clock,
        predicted=chain.model.beta * (1 + clock),
        measured=np.array([measured_exponent(run) for run in runs]),
        bend=np.array([bend(run) for run in runs]),
        beyond=beyond_growth(budgets(chain, runs, chain.judged)[0], window=chain.window(chain.judged)).share,
        moved=covariance.along_runs(runs, reach=-WINDOW[0], above=WINDOW[1]).defect,
    )


def table(found: Mapping[str, Readings]) -> pd.DataFrame:
    """One row per broken premise: means over seeds."""
    rows = {
        name: {
            "t r": one.clock.mean(),
            "C4: D_0^2": one.beyond,
            "covariance: D^2": one.moved,
            "predicted": one.predicted.mean(),
            "measured": one.measured.mean(),
            "bend of log loss": one.bend.mean(),
        }
        for name, one in found.items()
    }
    return pd.DataFrame(rows).T


def turned(experiment: Mapping[str, object]) -> xr.Dataset:
    """``interventions.measure`` of errors whose modes have random signs: directions that no training made.

    The weights are those of the judged time, and so are the energies before each draw of amplitudes; M' is that of
    the turned error. Each draw has its own signs.
    """
    chain = chain_of(experiment)
    rng = np.random.default_rng(chain.model.seed)
    module, inputs, targets = chain.model.problem(judged_state(chain))
    modes = spectrum(tangent_kernel_and_rate(module, inputs, targets)[0])
    with torch.no_grad():
        outputs = module(inputs)
    g = modes.eigenvectors.T @ (outputs - targets).reshape(-1)
    shells = near_window(CLOSURE_SHELLS, chain.moments[[chain.judged]])
    index = energy_budget(modes, outputs - targets, shells).shell_index.values
    member = torch.from_numpy(np.clip(np.floor(modes.eigenvalues.log().numpy() / shells.width), index[0], index[-1]))
    budgets, amplitudes = [], []
    for _ in range(RANDOM_DRAWS):
        factors = np.exp(interventions.SPREAD * rng.standard_normal(len(index)))
        each = torch.from_numpy(factors[(member.numpy() - index[0]).astype(int)] * rng.choice([-1.0, 1.0], len(g)))
        error = (modes.eigenvectors @ (each * g)).reshape(outputs.shape)
        kernel, rate = tangent_kernel_and_rate(module, inputs, outputs - error)
        budgets.append(energy_budget(spectrum(kernel, rate), error, shells))
        parts = [torch.linalg.vector_norm((each * g)[member == place]) for place in index]
        amplitudes.append(torch.stack(parts).numpy())
    found = budgets[0].copy()
    found["amplitudes"] = ("draw", "shell"), np.array(amplitudes)
    for name, of in {"energies": "energy", "densities": "density", "fluxes": "flux"}.items():
        found[name] = ("draw", budgets[0][of].dims[0]), np.array([one[of].values for one in budgets])
    return found


def explained(chain: Chain, seeds: Sequence[int], law: str = "clock") -> np.ndarray:
    """R^2 over random directions of the best law of one clock, median over boundaries, of each seed."""
    window = chain.window(chain.judged)
    return np.array([np.median(interventions.explained(run, window)[law]) for run in chain.measured(seeds, turned)])


@dataclass(frozen=True)
class Broken:
    """One reading of a network with one premise broken, of each seed."""

    chain: Chain
    reading: str


def reading_of_seed(protocol: Broken, seed: int) -> float:
    """One number of one seed.

    "gain": the measured loss exponent minus the lazy one; "error": |predicted - measured|, with the c of this seed and
    three others, whose weights it shares; "bend": of log loss; "random directions": R^2 of the law with one clock.
    """
    chain = protocol.chain
    if protocol.reading == "random directions":
        return float(explained(chain, [seed])[0])
    (run,) = chain.measured([seed], followed)
    if protocol.reading == "bend":
        return bend(run)
    if protocol.reading == "gain":
        return measured_exponent(run) - chain.model.beta
    group = [seed, *(other for other in range(seed // 4 * 4, seed // 4 * 4 + 4) if other != seed)]
    clock = clock_exponents(chain, chain.measured(group, followed))[0]
    return abs(chain.model.beta * (1 + clock) - measured_exponent(run))

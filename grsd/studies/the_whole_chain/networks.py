"""The linear networks of notebook 10, and what is measured of each: functions whose results are stored as runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import xarray as xr

from grsd.conditions import incoherence, interventions, propagation, rates
from grsd.decomposition import spectrum
from grsd.runs import ensemble
from grsd.runs.history import join_budgets, join_widths
from grsd.shells import LogShells, energy_budgets
from grsd.solvable.chain import ChainState, LinearChain

WIDTHS = (math.log(2), math.log(3))
SMOOTHING = 0.1
START_SHELLS = LogShells(1.0, 0.2)  # as for condition 2 of other networks
RATE_SHELLS = LogShells(0.7, 0.1)
CLOSURE_SHELLS = LogShells(1.0, 0.1)
FLIPS, DRAWS = 199, 200
GAIN_SAMPLES = 2  # a linear network has the same gains at every sample
HIGHEST = 8.0  # log eigenvalues end below it; shells with one span can be compared between runs and times
MARGIN = 8.0  # below the smallest log lambda: from a small start the kernel is small
WINDOW = (-8.0, -2.0)  # log(lambda t): above -2 the error is no power law of lambda, since it is being learned
DEPTHS = (4, 8, 16)


@dataclass(frozen=True)
class Chain:
    """A network, seen at ``times`` (first, last, number, equally spaced in log t) and judged at number ``judged``."""

    model: LinearChain
    times: tuple[float, float, int]
    judged: int = 2

    @property
    def moments(self) -> np.ndarray:
        """The times."""
        return np.geomspace(*self.times)

    def of(self, seeds: Sequence[int]) -> list[dict[str, object]]:
        """The experiments of these seeds, plain values that name a run."""
        own = {"first": self.times[0], "last": self.times[1], "count": self.times[2], "judged": self.judged}
        return [asdict(replace(self.model, seed=seed)) | own for seed in seeds]

    def window(self, at: int) -> tuple[float, float]:
        """``WINDOW`` as log eigenvalues at time number ``at``."""
        frontier = -math.log(self.moments[at])
        return frontier + WINDOW[0], frontier + WINDOW[1]

    def measured(self, seeds: Sequence[int], function: Callable[..., xr.Dataset]) -> list[xr.Dataset]:
        """One of the functions of this file for each seed, stored."""
        return ensemble(self.of(seeds), function, workers=1, threads=1, progress=False)


def chain_of(experiment: Mapping[str, object]) -> Chain:
    """The chain of an experiment from ``Chain.of``."""
    left = dict(experiment)
    times = left.pop("first"), left.pop("last"), left.pop("count")
    judged = left.pop("judged")
    own = left | {name: tuple(value) for name, value in left.items() if isinstance(value, list)}
    return Chain(LinearChain(**own), times, judged)


def followed(experiment: Mapping[str, object]) -> xr.Dataset:
    """Shell histories of both widths at the chain's times, with ``loss(time)`` and ``clock(time)``, from M exactly."""
    chain = chain_of(experiment)
    model, states = chain.model, chain.model.states(chain.moments)
    shells = [LogShells(width, SMOOTHING, (model.lowest - MARGIN, HIGHEST)) for width in WIDTHS]
    budgets = []
    for state in states:
        kernel, rate, error = model.matrices(state)
        modes = spectrum(kernel, rate)
        top = float(modes.eigenvalues[-1])
        budgets.append([one.assign(largest_eigenvalue=top) for one in energy_budgets(modes, error, shells)])
    values = {"loss": ("time", [model.loss(state) for state in states])}
    values["clock"] = "time", [model.clock(state) for state in states]
    flow = xr.Dataset(values, {"time": ("time", chain.moments, {"units": "time"})})
    parts = [join_budgets(own, flow, item) for own, item in zip(zip(*budgets, strict=True), shells, strict=True)]
    return join_widths(parts).assign_attrs(seed=model.seed)


def changing(experiment: Mapping[str, object]) -> xr.Dataset:
    """``evolution.along`` at every second of the chain's times, from M and M' exactly, around the window."""
    chain = chain_of(experiment)
    model, times = chain.model, chain.moments[::2]
    shells = near_window(RATE_SHELLS, times)
    top = float(torch.linalg.eigvalsh(model.matrices(model.initial())[0])[-1])
    states = ((state.time, spectrum(*model.matrices(state)[:2])) for state in model.states(times))
    return rates.along(states, shells, top=top, seed=model.seed, depth=model.layers + 1)


def beginning(experiment: Mapping[str, object]) -> xr.Dataset:
    """``incoherence.measure_modes`` at the start, from M and M' exactly."""
    model = chain_of(experiment).model
    kernel, rate, error = model.matrices(model.initial())
    shells = LogShells(START_SHELLS.width, START_SHELLS.smoothing, (model.lowest - MARGIN, HIGHEST))
    return incoherence.measure_modes(spectrum(kernel, rate), error, shells, flips=FLIPS, seed=model.seed)


def propagating(experiment: Mapping[str, object]) -> xr.Dataset:
    """``propagation.measure`` of the torch module at its start."""
    model = chain_of(experiment).model
    module, inputs, _ = model.problem()
    settings = {"depth": model.layers, "seed": model.seed}
    return propagation.measure(module, inputs[:GAIN_SAMPLES], parameters=settings)


def intervened(experiment: Mapping[str, object]) -> xr.Dataset:
    """``interventions.measure`` of the torch module at the judged time."""
    chain = chain_of(experiment)
    module, inputs, targets = chain.model.problem(judged_state(chain))
    shells = near_window(CLOSURE_SHELLS, chain.moments[[chain.judged]])
    options = {"draws": DRAWS, "seed": chain.model.seed, "parameters": {"seed": chain.model.seed}}
    return interventions.measure(module, inputs, targets, shells=shells, **options)


def early(experiment: Mapping[str, object]) -> xr.Dataset:
    """``followed`` at the chain's first time alone: nothing later is computed."""
    return followed({**experiment, "last": experiment["first"], "count": 1})


def near_window(shells: LogShells, times: np.ndarray) -> LogShells:
    """The shells of ``WINDOW`` at these times and a few beside it; the end shells take all the rest."""
    low, high = -math.log(times[-1]) + WINDOW[0], -math.log(times[0])
    return LogShells(shells.width, shells.smoothing, (low - 2.0, high + 2.0))


def judged_state(chain: Chain) -> ChainState:
    """The weights at the judged time."""
    return chain.model.states(chain.moments[: chain.judged + 1])[-1]


TWO = Chain(LinearChain(), (60.0, 600.0, 5))
ONE_OUTPUT = replace(TWO, model=LinearChain(outputs=1, modes=480))
RESIDUAL = {depth: Chain(LinearChain(layers=depth, inner=0.5), (12.0, 120.0, 5)) for depth in DEPTHS}
SKIPLESS = Chain(LinearChain(layers=2, skips=False, start=1.0), (20.0, 200.0, 5))
NETWORKS = {
    "two layers": TWO,
    "two layers, one output": ONE_OUTPUT,
    **{f"residual chain, depth {depth}": chain for depth, chain in RESIDUAL.items()},
    "chain without skips": SKIPLESS,
}

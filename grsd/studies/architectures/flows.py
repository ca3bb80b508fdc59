"""Gradient flow of the squared error: one flow per network, read for every condition, and what its clock foretells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import xarray as xr
from torch import nn

from grsd.conditions import evolution
from grsd.conditions.matched import budget_at_loss, frontier_window, widths_of
from grsd.datasets import Data
from grsd.decomposition import spectrum
from grsd.evidence import Measurement
from grsd.flow import Descent
from grsd.kernel import tangent_kernel, tangent_kernel_and_rate
from grsd.laws import BeyondGrowth, beyond_growth
from grsd.runs import Spec, run
from grsd.runs.history import join_budgets, spectrum_budgets
from grsd.shells import LogShells, transport_parts
from grsd.studies.architectures.cells import CELLS, Cell, cell
from grsd.studies.stages import REACH
from grsd.theory.prediction import early, predict_loss

SHELLS = LogShells(0.5, 0.1)
UNTIL = -1.3  # log of the loss over that at the start, where a run ends
LOG_LOSS = -1.0  # where the conditions are read
SEEN = -0.5  # where a forecast of the rest begins
STEP, DROP = 1.5, 0.3  # between two snapshots: at most this factor of time, about this much log loss
MOST = 64  # snapshots
FORECASTS = ("growth", "lazy")
RUNS, FIRST = 16, 4000


def followed(experiment: Mapping[str, object]) -> xr.Dataset:
    """``follow`` the network of a spec's fields until its loss is e^``until`` of the start."""
    own = dict(experiment)
    until = own.pop("until")
    spec = Spec.from_dict(own)
    data = spec.batch()
    return follow(spec, data, spec.network(data), until)


def follow(spec: Spec, data: Data, network: nn.Module, until: float) -> xr.Dataset:
    """Follow a network until its loss is e^``until`` of the start; read its shells on the way.

    The first snapshot is at 1 / lambda_max(0), or before much is learned. Returns: ``shell_history``, and over
    (rate_time, rate_shell) ``t_rho`` and ``t_omega`` of ``evolution.along``; ``start_loss`` and
    ``start_largest_eigenvalue``.
    Errors: ``RuntimeError`` if the loss is not reached within ``MOST`` snapshots.
    """
    kernel = tangent_kernel(network, data.inputs, dtype=torch.float64)
    top = float(torch.linalg.eigvalsh(kernel)[-1])
    descent = Descent(network, data.inputs, data.targets, tolerance=spec.tolerance)
    start, error = descent.row()["loss"], descent.snapshot(0.0).error.reshape(-1)
    time = min(1 / top, DROP * float(error @ error / (2 * error @ kernel @ error)))
    budgets, rows, states = [], [], []
    while not rows or rows[-1]["loss"] > start * math.exp(until) or states[-1][0] < 1 / top:
        if len(rows) == MOST or (rows and not math.isfinite(rows[-1]["loss"])):
            raise RuntimeError(
                f"{spec}: its loss is {rows[-1]['loss'] / start:.3g} of the start after {MOST} snapshots"
            )
        snapshot = descent.snapshot(time)
        modes = spectrum(*tangent_kernel_and_rate(snapshot.model, data.inputs, data.targets))
        (budget,) = spectrum_budgets(modes, snapshot.error, [SHELLS])
        rows.append(descent.row())
        budgets.append(budget)
        states.append((time, modes))
        falls = float(budget.dissipation.sum() / budget.energy.sum())
        time = min(time * STEP, time + DROP / falls)
    settings = {name: value for name, value in spec.to_dict().items() if not isinstance(value, list)}
    found = join_budgets(budgets, descent.history([time for time, _ in states], rows), SHELLS, parameters=settings)
    rates = evolution.along(states, evolution.SHELLS, top=top)
    for name in ("t_rho", "t_omega"):
        found[name] = (("rate_time", "rate_shell"), rates[name].values)
    return found.assign_coords(rate_time=rates.time.values, rate_shell=rates.shell.values).assign(
        start_loss=start, start_largest_eigenvalue=top
    )


def history(cell: Cell, seed: int, until: float = UNTIL) -> xr.Dataset:
    """``followed`` of the network of a seed, kept in a file."""
    return run(cell.spec(seed).to_dict() | {"until": until}, followed, progress=False)


@dataclass(frozen=True)
class Reading:
    """The ``runs`` seeds from ``first`` on of a cell, where the loss is e^``log_loss`` of the start.

    ``reach``: e-folds of the window down from the frontier.
    """

    cell: Cell
    log_loss: float = LOG_LOSS
    runs: int = RUNS
    first: int = FIRST
    reach: float = REACH

    def of(self, seed: int) -> tuple[Reading, int]:
        """The block of runs that holds ``seed``, and its place in it."""
        place = (seed - self.first) % self.runs
        return replace(self, first=seed - place), place

    @property
    def histories(self) -> list[xr.Dataset]:
        return [history(self.cell, seed) for seed in range(self.first, self.first + self.runs)]

    @property
    def budgets(self) -> list[xr.Dataset]:
        """Budgets of the runs at the loss, with their ``time``."""
        return [budget_at_loss("Reading", run, SHELLS, self.log_loss) for run in self.histories]


@dataclass(frozen=True)
class Pair:
    """Two cells with the same seeds: the number of the first minus that of the second."""

    one: Reading
    other: Reading


@cache
def judged(reading: Reading) -> BeyondGrowth:
    """The couplings of a cell beyond growth, from the frontier down."""
    found = reading.budgets
    return beyond_growth(*widths_of("judged", found), window=frontier_window(found, reading.reach))


def beyond(protocol: Reading, seed: int) -> float:
    """D_0^2 of the block of a seed, as the number of that seed: the mean over seeds is D_0^2."""
    reading, place = protocol.of(seed)
    return float(judged(reading).values[place])


def growth_share(protocol: Reading, seed: int) -> float:
    """The part of the squared flux of one run that the best growth of the whole kernel gives, in its own window."""
    budget = budget_at_loss("growth_share", history(protocol.cell, seed), SHELLS, protocol.log_loss)
    frontier = -math.log(float(budget.time))
    return float(transport_parts(budget, window=(frontier - protocol.reach, frontier)).share.sel(part="growth"))


def beyond_contrast(protocol: Pair, seed: int) -> float:
    """``beyond`` of the first cell minus that of the second."""
    return beyond(protocol.one, seed) - beyond(protocol.other, seed)


def share_contrast(protocol: Pair, seed: int) -> float:
    """``growth_share`` of the first cell minus that of the second."""
    return growth_share(protocol.one, seed) - growth_share(protocol.other, seed)


def foretold(run: xr.Dataset) -> dict[str, np.ndarray]:
    """The rest of a run from e^-.5 of its first loss on: ``time``, the loss ``measured``, and foretold by method.

    The forecasts know what happened until the first snapshot at or below e^-.5, at least two, and nothing later.
    """
    passed = np.log(run.loss.values / float(run.start_loss))
    now = max(1, int(np.argmax(passed <= SEEN)))
    seen, later = early(run, float(run.time[now])), run.isel(time=slice(now + 1, None))
    found = {method: predict_loss(seen, later.time.values, method).values for method in FORECASTS}
    return {"time": later.time.values, "measured": later.loss.values} | found


def forecasts(run: xr.Dataset) -> dict[str, float]:
    """Mean |log(forecast / true)| of the loss from e^-.5 of its start to the end of a run, by method."""
    found = foretold(run)
    return {method: float(np.abs(np.log(found[method] / found["measured"])).mean()) for method in FORECASTS}


def forecast_gain(protocol: Reading, seed: int) -> float:
    """The error of the forecast by a clock minus that of the lazy forecast, of one run."""
    errors = forecasts(history(protocol.cell, seed))
    return errors["growth"] - errors["lazy"]


def reading(family: str, skips: bool, data: str) -> Reading:
    """The confirmatory runs of a cell of ``CELLS``."""
    return Reading(cell(family, skips, data))


MEASUREMENTS = {}
for _family, _data in CELLS:
    _with, _without = (reading(_family, skips, _data) for skips in (True, False))
    MEASUREMENTS |= {
        f"beyond-growth-{_family}-{_data}": Measurement(_with, beyond),
        f"beyond-growth-{_family}-no-skips-{_data}": Measurement(_without, beyond),
        f"skips-beyond-growth-{_family}-{_data}": Measurement(Pair(_without, _with), beyond_contrast),
        f"skips-growth-share-{_family}-{_data}": Measurement(Pair(_with, _without), share_contrast),
        f"clock-forecast-{_family}-{_data}": Measurement(_with, forecast_gain),
        f"clock-forecast-{_family}-no-skips-{_data}": Measurement(_without, forecast_gain),
    }

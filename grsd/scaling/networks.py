"""Loss curves of networks, forecast from their early part and written down before the later part is computed. Ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import xarray as xr

from grsd.datasets import Data, digits, patches
from grsd.evidence.tables import read_table, refuse_to_replace, save_table
from grsd.flow import Descent
from grsd.kernel import tangent_kernel
from grsd.networks import Perceptron
from grsd.provenance import provenance
from grsd.runs import ensemble, run
from grsd.runs.history import join_budgets, snapshot_budgets
from grsd.scaling.prediction import Early, early, extended_fit, fitted_power_law, predict_loss, velocity_profile
from grsd.shells import LogShells

ARCHITECTURES = ("residual", "plain")
METHODS = ("covariant", "power law", "lazy", "straight line")
AHEAD = np.geomspace(1, 10, 10)[1:]
SHELLS = LogShells(0.6, 0.2)
FIRST, STEP = 0.1, 1.25
HALF = 0.5
EFOLDS = 1.0
FOLDER = "predictions"


@dataclass(frozen=True)
class DataSet:
    """What is learnt: ``draw(samples, task=, seed=)``, how many samples a task has, and where the forecasts stand."""

    draw: Callable[..., Data]
    tasks: Mapping[str, int]
    file: str


DATA = {
    "digits": DataSet(digits, {"parity": 200, "one-hot": 30}, "09_power_law_scaling-networks"),
    "patches": DataSet(patches, {"photograph": 200, "pixel": 200}, "09_power_law_scaling-patches"),
}


def case(architecture: str, task: str, seed: int, *, width: int = 48, depth: int = 8) -> dict[str, object]:
    """One network, as plain values: what ``early_run`` takes. The seed draws its weights and its samples."""
    of = {"architecture": architecture, "task": task, "samples": set_of(task).tasks[task]}
    return of | {"width": width, "depth": depth, "seed": seed}


def set_of(task: str) -> DataSet:
    """The data set that a task belongs to. Errors: ``KeyError``."""
    return {name: item for item in DATA.values() for name in item.tasks}[task]


def early_run(spec: Mapping[str, object]) -> xr.Dataset:
    """``shell_history`` of a network over the last e-fold of time until its loss has halved; nothing later is computed.

    The times are .1 x 1.25^n in units of 1 / lambda_max(0); the last is the first with half the loss of the start.
    """
    descent, top = _begun(spec)
    half, times, rows, snapshots = HALF * descent.row()["loss"], [], [], []
    while not rows or rows[-1]["loss"] > half:
        times.append(FIRST * STEP ** len(times) / top)
        snapshots.append(descent.snapshot(times[-1]))
        rows.append(descent.row())
    kept = [i for i, time in enumerate(times) if time >= times[-1] * math.exp(-EFOLDS) / (1 + 1e-9)]
    budgets = [snapshot_budgets(snapshots[i], descent.inputs, descent.targets, [SHELLS])[0] for i in kept]
    flow = descent.history([times[i] for i in kept], [rows[i] for i in kept])
    return join_budgets(budgets, flow, SHELLS, parameters=spec)


def later_run(spec: Mapping[str, object]) -> xr.Dataset:
    """``loss(time)`` of the same network at 9 times up to ten times ``spec["until"]``."""
    descent, _ = _begun(spec)
    times, rows = (spec["until"] * AHEAD).tolist(), []
    for time in times:
        descent.snapshot(time)
        rows.append(descent.row())
    return descent.history(times, rows)


def _begun(spec: Mapping[str, object]) -> tuple[Descent, float]:
    data = set_of(spec["task"]).draw(spec["samples"], task=spec["task"], seed=spec["seed"])
    network = Perceptron(
        data.inputs.shape[1],
        data.targets.shape[1],
        width=spec["width"],
        depth=spec["depth"],
        residual=spec["architecture"] == "residual",
        seed=spec["seed"],
    )
    top = float(torch.linalg.eigvalsh(tangent_kernel(network, data.inputs))[-1])
    return Descent(network, data.inputs, data.targets), top


def forecast(seen: Early, ahead: np.ndarray = AHEAD) -> xr.Dataset:
    """``loss(method, ahead)`` at ``ahead`` times t1, and ``time(ahead)``, from the early part alone.

    Methods: as ``predict_loss`` calls them, and "straight line" (``extended_fit``). NaN where the power law refuses a
    velocity that changes sign. Errors: ``TypeError`` for anything but an ``Early``.
    """
    if not isinstance(seen, Early):
        raise TypeError(f"forecast(seen): expected an Early, which holds nothing later, got {type(seen).__name__}")
    times = seen.until * np.asarray(ahead, dtype=float)
    found = []
    for method in METHODS:
        if method == "straight line":
            found.append(extended_fit(seen, times).values)
        elif method == "power law" and not _has_power_law(seen):
            found.append(np.full(times.shape, math.nan))
        else:
            found.append(predict_loss(seen, times, method).values)
    return xr.Dataset(
        {"loss": (("method", "ahead"), found, {"units": "loss"}), "time": ("ahead", times, {"units": "time"})},
        {"method": list(METHODS), "ahead": np.asarray(ahead, dtype=float)},
    )


def _has_power_law(seen: Early) -> bool:
    try:
        fitted_power_law(velocity_profile(seen))
    except ValueError:
        return False
    return True


def write_forecasts(seen: Mapping[tuple[str, str, int], Early], data: str = "digits") -> None:
    """Write ``forecast`` of each (architecture, task, seed) to data/predictions, once: what is there is never replaced.

    ``data``: one of ``DATA``, to which the tasks belong. Errors: ``FileExistsError``; as ``forecast``.
    """
    refuse_to_replace(DATA[data].file, FOLDER)
    parts = [
        forecast(part).expand_dims(architecture=[architecture], task=[task], seed=[seed])
        for (architecture, task, seed), part in seen.items()
    ]
    tasks = DATA[data].tasks
    settings = case("", next(iter(tasks)), 0) | {"task": str(tasks), "efolds": EFOLDS, "half": HALF}
    settings |= {"shell_width": SHELLS.width, "smoothing": SHELLS.smoothing}
    kept = {name: value for name, value in settings.items() if name not in {"architecture", "samples", "seed"}}
    save_table(xr.combine_by_coords(parts).assign_attrs(provenance(kept)), DATA[data].file, FOLDER)


def forecast_networks(seeds: Sequence[int], data: str = "digits") -> None:
    """Compute the early parts of all networks of ``seeds`` and write their forecasts; no later loss is computed."""
    refuse_to_replace(DATA[data].file, FOLDER)
    cases = [(kind, task, seed) for kind in ARCHITECTURES for task in DATA[data].tasks for seed in seeds]
    runs = ensemble([case(*names) for names in cases], early_run)
    write_forecasts({names: everything(part) for names, part in zip(cases, runs, strict=True)}, data)


def everything(history: xr.Dataset) -> Early:
    """All of a run of ``early_run``, which ends where it has to."""
    return early(history, float(history.time[-1]))


@cache
def _written(file: str) -> xr.Dataset:
    return read_table(file, FOLDER)


def later_loss(spec: Mapping[str, object], until: float) -> xr.DataArray:
    """The true ``loss(ahead)`` of ``case`` up to ten times ``until``, computed once."""
    found = run(dict(spec) | {"until": until}, later_run, progress=False).loss
    return xr.DataArray(found.values, {"ahead": AHEAD}, ["ahead"], attrs=found.attrs)


def score(predicted: xr.DataArray, loss: xr.DataArray) -> xr.DataArray:
    """Mean |log(predicted / loss)| over ``ahead``, which both have; NaN where a forecast is missing."""
    return np.abs(np.log(predicted / loss.values)).mean("ahead", skipna=False)


def compared(spec: Mapping[str, object]) -> xr.Dataset:
    """A network of ``case`` seen and forecast here and now: ``forecast`` with the true ``loss_after(ahead)``.

    ``loss_seen(snapshot)`` at ``time_seen`` / t1 is what the forecast had, ``score(method)`` what it is worth.
    """
    seen = everything(run(spec, early_run, progress=False))
    found, true = forecast(seen), later_loss(spec, seen.until)
    found["loss_after"] = true
    found["loss_seen"] = "snapshot", seen.history.loss.values
    found["time_seen"] = "snapshot", seen.history.time.values / seen.until
    return found.assign(score=score(found.loss, true))


def scores(architecture: str, task: str, seed: int) -> xr.DataArray:
    """``score(method)`` of a written forecast."""
    written = _written(set_of(task).file).sel(architecture=architecture, task=task, seed=seed)
    last = written.time.isel(ahead=-1).max()
    return score(written.loss, later_loss(case(architecture, task, seed), float(last / written.ahead[-1])))


def all_scores(data: str = "digits") -> xr.Dataset:
    """``score(architecture, task, seed, method)`` of a data set's written forecasts, with the file's provenance."""
    written = _written(DATA[data].file)
    found = written.loss.isel(ahead=0, drop=True).copy(deep=True)
    for kind in ARCHITECTURES:
        for task in DATA[data].tasks:
            for seed in written.seed.values.tolist():
                found.loc[{"architecture": kind, "task": task, "seed": seed}] = scores(kind, task, seed)
    text = {"long_name": "mean |log(forecast / loss)|", "units": "1"}
    return xr.Dataset({"score": found.assign_attrs(text)}, attrs=written.attrs)


def gain(architecture: str, rival: str, *tasks: str, seed: int) -> float:
    """Score of the covariant forecast less that of ``rival``, below zero where it is better; mean over ``tasks``."""
    found = [scores(architecture, task, seed) for task in tasks]
    return float(np.mean([_of(part, "covariant") - _of(part, rival) for part in found]))


def accuracy(architecture: str, *tasks: str, seed: int) -> float:
    """Score of the covariant forecast, mean over ``tasks``."""
    return float(np.mean([_of(scores(architecture, task, seed), "covariant") for task in tasks]))


def _of(score: xr.DataArray, method: str) -> float:
    return score.sel({"method": method}).item()  # as a keyword, sel takes "method" for its own

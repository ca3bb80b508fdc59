"""Loss curves of networks, forecast from their early part and written down before the later part is computed. Ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pandas as pd
import torch
import xarray as xr

from grsd.evidence import Measurement
from grsd.evidence.tables import read_table, refuse_to_replace, save_table
from grsd.flow import Descent
from grsd.kernel import tangent_kernel
from grsd.networks import architecture
from grsd.runs import Spec, ensemble, run
from grsd.runs.history import join_budgets, snapshot_budgets
from grsd.shells import LogShells
from grsd.support.provenance import provenance
from grsd.theory.prediction import Early, early, extended_fit, fitted_power_law, predict_loss, velocity_profile

METHODS = ("covariant", "power law", "growth", "lazy", "straight line")
AHEAD = np.geomspace(1, 10, 10)[1:]
SHELLS = LogShells(0.6, 0.2)
FIRST, STEP = 0.1, 1.25
HALF = 0.5
EFOLDS = 1.0
FOLDER = "predictions"


@dataclass(frozen=True)
class Forecasts:
    """Networks of all compared architectures on the ``tasks`` (samples by task) of a data set; ``file``: where the
    forecasts stand. One seed draws weights and samples."""

    network: Spec
    tasks: tuple[tuple[str, int], ...]
    file: str

    def spec(self, name: str, task: str, seed: int) -> Spec:
        """The network of one cell."""
        samples = dict(self.tasks)[task]
        return replace(self.network, architecture=name, task=task, samples=samples, seed=seed, data_seed=seed)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tasks."""
        return tuple(dict(self.tasks))


DIGITS = Forecasts(Spec(width=48), (("parity", 200), ("one-hot", 30)), "09_power_law_scaling-networks")
PATCHES = Forecasts(
    Spec(width=48, data="patches", task="pixel"),
    (("photograph", 200), ("pixel", 200)),
    "09_power_law_scaling-patches",
)
DATA = {"digits": DIGITS, "patches": PATCHES}
SCORES = {"digits": "09_power_law_scaling-forecasts", "patches": "09_power_law_scaling-forecasts-patches"}
# The same questions to fresh seeds, where the rival is a kernel that only grows.
AGAIN = {name: replace(of, file=f"09_power_law_scaling-growth-{name}") for name, of in DATA.items()}
SCORES_AGAIN = {name: f"09_power_law_scaling-forecasts-growth-{name}" for name in AGAIN}
RIVALS = METHODS[1:]


@dataclass(frozen=True)
class Score:
    """The score of the covariant forecast of an architecture, mean over ``tasks``; minus that of ``rival``, if any."""

    forecasts: Forecasts
    architecture: str
    tasks: tuple[str, ...]
    rival: str | None = None


@dataclass(frozen=True)
class Beside:
    """The score of ``method`` minus that of ``rival``, of one architecture, mean over ``tasks``."""

    forecasts: Forecasts
    architecture: str
    tasks: tuple[str, ...]
    method: str
    rival: str


def early_run(spec: Spec) -> xr.Dataset:
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
    return join_budgets(budgets, flow, SHELLS, parameters=_settings(spec))


def later_run(spec: Mapping[str, object]) -> xr.Dataset:
    """``loss(time)`` of the same network at 9 times up to ten times ``spec["until"]``."""
    descent, _ = _begun(Spec.from_dict({name: value for name, value in spec.items() if name != "until"}))
    times, rows = (spec["until"] * AHEAD).tolist(), []
    for time in times:
        descent.snapshot(time)
        rows.append(descent.row())
    return descent.history(times, rows)


def _settings(spec: Spec) -> dict[str, object]:
    return {name: value for name, value in spec.to_dict().items() if not isinstance(value, list)}


def _begun(spec: Spec) -> tuple[Descent, float]:
    data = spec.batch()
    network = spec.network(data)
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


def write_forecasts(seen: Mapping[tuple[str, str, int], Early], of: Forecasts = DIGITS) -> None:
    """Write ``forecast`` of each (architecture, task, seed) to data/predictions, once: what is there is never replaced.

    Errors: ``FileExistsError``; as ``forecast``.
    """
    refuse_to_replace(of.file, FOLDER)
    parts = [
        forecast(part).expand_dims(architecture=[name], task=[task], seed=[seed])
        for (name, task, seed), part in seen.items()
    ]
    settings = {"width": of.network.width, "depth": of.network.depth, "task": str(dict(of.tasks))}
    settings |= {"efolds": EFOLDS, "half": HALF, "shell_width": SHELLS.width, "smoothing": SHELLS.smoothing}
    save_table(xr.combine_by_coords(parts).assign_attrs(provenance(settings)), of.file, FOLDER)


def forecast_networks(seeds: Sequence[int], of: Forecasts = DIGITS) -> None:
    """Compute the early parts of all networks of ``seeds`` and write their forecasts; no later loss is computed."""
    refuse_to_replace(of.file, FOLDER)
    cells = [(name, task, seed) for name in architecture.names(compared=True) for task in of.names for seed in seeds]
    runs = ensemble([of.spec(*cell) for cell in cells], early_run)
    write_forecasts({cell: everything(part) for cell, part in zip(cells, runs, strict=True)}, of)


def everything(history: xr.Dataset) -> Early:
    """Treat the whole history as seen: ``early_run`` already stops at t1."""
    return early(history, float(history.time[-1]))


@cache
def _written(file: str) -> xr.Dataset:
    return read_table(file, FOLDER)


def later_loss(spec: Spec, until: float) -> xr.DataArray:
    """The true ``loss(ahead)`` of a network up to ten times ``until``, computed once."""
    found = run(spec.to_dict() | {"until": until}, later_run, progress=False).loss
    return xr.DataArray(found.values, {"ahead": AHEAD}, ["ahead"], attrs=found.attrs)


def score(predicted: xr.DataArray, loss: xr.DataArray) -> xr.DataArray:
    """Mean |log(predicted / loss)| over ``ahead``, which both have; NaN where a forecast is missing."""
    return np.abs(np.log(predicted / loss.values)).mean("ahead", skipna=False)


def compared(spec: Spec) -> xr.Dataset:
    """A network seen and forecast here and now: ``forecast`` with the true ``loss_after(ahead)``.

    ``loss_seen(snapshot)`` at ``time_seen`` / t1 is what the forecast had, ``score(method)`` what it is worth.
    """
    seen = everything(run(spec, early_run, progress=False))
    found, true = forecast(seen), later_loss(spec, seen.until)
    found["loss_after"] = true
    found["loss_seen"] = "snapshot", seen.history.loss.values
    found["time_seen"] = "snapshot", seen.history.time.values / seen.until
    return found.assign(score=score(found.loss, true))


def scores(of: Forecasts, name: str, task: str, seed: int) -> xr.DataArray:
    """``score(method)`` of a written forecast."""
    written = _written(of.file).sel(architecture=name, task=task, seed=seed)
    last = written.time.isel(ahead=-1).max()
    return score(written.loss, later_loss(of.spec(name, task, seed), float(last / written.ahead[-1])))


def all_scores(of: Forecasts = DIGITS) -> xr.Dataset:
    """``score(architecture, task, seed, method)`` of a data set's written forecasts, with the file's provenance."""
    written = _written(of.file)
    found = written.loss.isel(ahead=0, drop=True).copy(deep=True)
    for name in written.architecture.values.tolist():
        for task in of.names:
            for seed in written.seed.values.tolist():
                found.loc[{"architecture": name, "task": task, "seed": seed}] = scores(of, name, task, seed)
    text = {"long_name": "mean |log(forecast / loss)|", "units": "1"}
    return xr.Dataset({"score": found.assign_attrs(text)}, attrs=written.attrs)


def measured_score(protocol: Score, seed: int) -> float:
    """Below zero the covariant forecast is better than the rival."""
    values = []
    for task in protocol.tasks:
        found = scores(protocol.forecasts, protocol.architecture, task, seed)
        values.append(_of(found, "covariant") - (_of(found, protocol.rival) if protocol.rival else 0.0))
    return float(np.mean(values))


def gain(protocol: Beside, seed: int) -> float:
    """Below zero ``method`` is better than ``rival``."""
    found = (scores(protocol.forecasts, protocol.architecture, task, seed) for task in protocol.tasks)
    return float(np.mean([_of(score, protocol.method) - _of(score, protocol.rival) for score in found]))


def _of(score: xr.DataArray, method: str) -> float:
    return score.sel({"method": method}).item()  # as a keyword, sel takes "method" for its own


def patches_scores() -> xr.Dataset:
    """``all_scores`` of the photographs' patches."""
    return all_scores(PATCHES)


TABLES = {SCORES["digits"]: all_scores, SCORES["patches"]: patches_scores} | {
    table: partial(all_scores, AGAIN[name]) for name, table in SCORES_AGAIN.items()
}


def stored_scores() -> dict[str, xr.DataArray]:
    """The stored ``score(architecture, seed, method)`` of the forecasts with fresh seeds, by task, of all data sets."""
    stored = {name: read_table(table).score for name, table in SCORES_AGAIN.items()}
    return {task: stored[name].sel(task=task) for name, of in AGAIN.items() for task in of.names}


def paired_table(scores: Mapping[str, xr.DataArray]) -> pd.DataFrame:
    """The covariant score by task and architecture, minus that of each rival: mean, standard error, number of seeds."""
    rows = []
    for task, found in scores.items():
        for name in [one for one in architecture.names(compared=True) if one in found.architecture]:
            part = found.sel(architecture=name)
            covariant = part.sel({"method": "covariant"})
            row = {"network": f"{name}, {task}", "covariant": float(covariant.mean())}
            for rival in RIVALS:
                gap = (covariant - part.sel({"method": rival})).values
                gap = gap[np.isfinite(gap)]
                error = gap.std(ddof=1) / math.sqrt(gap.size) if gap.size > 1 else math.nan
                row |= {f"minus {rival}": f"{gap.mean():.3f} ± {error:.3f}", f"{rival}: n": gap.size}
            rows.append(row)
    return pd.DataFrame(rows)


CELLS = {
    ("residual", "digits"): "forecast-residual",
    ("plain", "digits"): "forecast-plain",
    ("residual", "patches"): "forecast-patches-residual",
    ("plain", "patches"): "forecast-patches-plain",
}
ACCURACY = {cell: f"{prefix}-accurate" for cell, prefix in CELLS.items()}


def _claims(of: Forecasts, name: str, prefix: str) -> dict[str, Measurement]:
    """The gain over the lazy forecast by task, over a straight line, over a power law, and the accuracy."""
    found = {f"{prefix}-{task}": Score(of, name, (task,), "lazy") for task in of.names}
    found[f"{prefix}-line"] = Score(of, name, of.names, "straight line")
    found[f"{prefix}-accurate"] = Score(of, name, of.names)
    if of is PATCHES:
        found[f"{prefix}-profile"] = Score(of, name, ("photograph",), "power law")
    return {claim: Measurement(protocol, measured_score) for claim, protocol in found.items()}


MEASUREMENTS = {
    claim: measurement
    for (name, data), prefix in CELLS.items()
    for claim, measurement in _claims(DATA[data], name, prefix).items()
}
MEASUREMENTS |= {
    f"{prefix}-{end}": Measurement(Beside(AGAIN[data], name, AGAIN[data].names, *pair), gain)
    for (name, data), prefix in CELLS.items()
    for end, pair in {"growth": ("covariant", "growth"), "clock": ("growth", "lazy")}.items()
}

"""Runs at a matched loss: the energy budget of a network when its loss is a given share of that at the start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from grsd.conditions.contract import flow_from_start
from grsd.flow import Flow
from grsd.kernel import tangent_kernel
from grsd.runs import at_width
from grsd.runs.history import join_budgets, join_widths, snapshot_budgets
from grsd.shells import LogShells
from grsd.support.arguments import dataset, described, listed
from grsd.support.values import instance, number, positive, real

SHELLS = LogShells(math.log(2), 0.1)
MADE = "it with the condition's measure"
LINEAR = ("energy", "dissipation", "modes", "density", "coupling", "scale_coupling", "drift", "flux", "flux_crossing")
MASKS = ("mask", "boundary_mask")
START = {
    "start_loss": {"long_name": "loss at time 0", "units": "1"},
    "start_largest_eigenvalue": {"long_name": "largest eigenvalue of M at time 0", "units": "1/time"},
}


def history_of(
    call: str,
    history: Flow | xr.Dataset,
    shells: LogShells | Sequence[LogShells],
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Return the budgets of a flow at its times after 0, as ``grsd.run`` does; a dataset is returned unchanged.

    Errors: ``TypeError`` or ``ValueError`` for a flow without its start, or for invalid shells.
    """
    described(call, parameters)
    if isinstance(history, xr.Dataset):
        return history.assign_attrs(parameters or {})
    flow = flow_from_start(call, history)
    several = listed(call, "shells", [shells] if isinstance(shells, LogShells) else shells, "LogShells")
    for item in several:
        instance(call, "shells", item, LogShells, "LogShells")
    start, *later = flow.snapshots
    budgets = [snapshot_budgets(snapshot, flow.inputs, flow.targets, several) for snapshot in later]
    rows = flow.history.isel(time=slice(1, None))
    parts = [
        join_budgets(own, rows, item, parameters=parameters)
        for own, item in zip(zip(*budgets, strict=True), several, strict=True)
    ]
    kernel = tangent_kernel(start.model, flow.inputs, dtype=start.error.dtype)
    values = float(flow.history.loss[0]), float(torch.linalg.eigvalsh(kernel)[-1])
    return join_widths(parts).assign(
        {name: ((), value, text) for (name, text), value in zip(START.items(), values, strict=True)}
    )


def budget_at_loss(
    call: str,
    history: Flow | xr.Dataset,
    shells: LogShells | Sequence[LogShells],
    log_loss: float,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Return the budget at the ``time`` when the loss is e^``log_loss`` times that at time 0.

    All variables are interpolated linearly in the log of the loss between the two snapshots around it; of the time, its
    log is interpolated. Errors: ``ValueError`` if the snapshots do not bracket that loss; as ``history_of``.
    """
    log_loss = number(call, "log_loss", log_loss)
    run = history_of(call, history, shells, parameters)
    needed = {"loss": ("time",), "start_loss": (), "time": ("time",)}
    dataset(call, "history", run, needed, "it with grsd.run(spec)")
    losses = np.append(run.loss.values, run.start_loss.values)
    if not run.sizes["time"] or not ((losses > 0) & (losses < math.inf)).all():
        raise ValueError(f"{call}(history): expected finite losses above 0 at some times")
    for name in run.data_vars:
        if run[name].dtype.kind not in "biuf":
            raise TypeError(f"{call}(history): expected real numbers in {str(name)!r}, got {run[name].dtype}")
    passed = np.log(run.loss.values / float(run.start_loss))
    after = int(np.argmax(passed <= log_loss))
    if not passed[after] <= log_loss or after == 0:
        labels = {name: run.attrs[name] for name in ("architecture", "depth", "seed") if name in run.attrs}
        which = ", ".join(f"{name} {value}" for name, value in labels.items()) or "the run"
        raise ValueError(
            f"{call}(log_loss={log_loss:g}): {which} has snapshots from {passed[0]:.2f} to "
            f"{passed[-1]:.2f} of it; choose one between, or other times"
        )
    share = (log_loss - passed[after - 1]) / (passed[after] - passed[after - 1])
    before, behind = run.isel(time=after - 1, drop=True), run.isel(time=after, drop=True)
    budget = xr.Dataset(attrs=run.attrs | {"log_loss": log_loss})
    for name in run.data_vars:
        if name in LINEAR:
            budget[name] = (1 - share) * before[name] + share * behind[name]
        elif name in MASKS:
            budget[name] = before[name] | behind[name]
        if name in budget:
            budget[name].attrs = run[name].attrs
    times = np.log(run.time.values[after - 1 : after + 1])
    time = math.exp((1 - share) * times[0] + share * times[1])
    return budget.assign(time=((), time, {"long_name": "time at which the loss is passed", "units": "time"}))


def measure_at_loss(condition: str) -> Callable[..., xr.Dataset]:
    """Return the ``measure`` of a condition that reads one budget at a matched loss; refusals name the condition."""

    def measure(
        history: Flow | xr.Dataset,
        *,
        shells: LogShells | Sequence[LogShells] = SHELLS,
        log_loss: float = -2.0,
        parameters: Mapping[str, object] | None = None,
    ) -> xr.Dataset:
        """Measure one network's energy budget at e^``log_loss`` times its first loss, as ``invariance.measure``."""
        return budget_at_loss(f"{condition}.measure", history, shells, log_loss, parameters)

    return measure


def widths_of(call: str, ensemble: Sequence[xr.Dataset]) -> list[list[xr.Dataset]]:
    """Return the budgets of all runs for each shell width, as ``grsd.laws`` takes them.

    Errors: ``ValueError`` for runs measured at different widths.
    """
    runs = listed(call, "ensemble", ensemble, "budgets of runs")
    for run in runs:
        dataset(call, "ensemble", run, dict.fromkeys(("energy", "coupling")), MADE)
    found = [
        np.atleast_1d(run.attrs.get("shell_widths", run.attrs.get("shell_width", np.nan))).tolist() for run in runs
    ]
    if any(widths != found[0] for widths in found):
        raise ValueError(f"{call}(ensemble): expected the same shell widths in all runs, got {found!s:.80}")
    parts = [run.drop_vars("time", errors="ignore") if run.get("time", run.energy).ndim == 0 else run for run in runs]
    return [[at_width(run, width) for run in parts] for width in found[0]]


def at_first_width(ensemble: Sequence[xr.Dataset]) -> Sequence[xr.Dataset]:
    """Return runs measured at several shell widths at their first width; return all others unchanged, unchecked."""
    if not isinstance(ensemble, Sequence):
        return ensemble
    several = [isinstance(run, xr.Dataset) and "shell_width" in run.dims for run in ensemble]
    pairs = zip(ensemble, several, strict=True)
    return [at_width(run, float(run.shell_width[0])) if joined else run for run, joined in pairs]


def frontier_window(ensemble: Sequence[xr.Dataset], reach: float = math.inf) -> tuple[float, float]:
    """Return (low, high) in log eigenvalue, from ``reach`` below the frontier lambda t = 1 up to the frontier.

    The frontier is the geometric mean over runs. Args: ``ensemble``: results of ``measure`` of invariance, closure,
    locality or profile_flow, one per run.
    """
    call = "frontier_window"
    runs = listed(call, "ensemble", ensemble, "budgets of runs")
    for run in runs:
        dataset(call, "ensemble", run, {"time": ()}, MADE)
    times = np.array([float(run.time) for run in runs])
    if not ((times > 0) & (times < math.inf)).all():
        raise ValueError(f"{call}(ensemble): expected finite times after 0")
    if real(reach) != math.inf:
        positive(call, "reach", reach)
    frontier = -float(np.log(times).mean())
    return frontier - reach, frontier

"""The computation of a ``Spec``: train the network and measure its shells; it can be interrupted and resumed."""

from __future__ import annotations

import time

import numpy as np
import torch
import xarray as xr

from grsd.flow import HISTORY, Descent, StepUnderflow, log_times
from grsd.kernel import tangent_kernel
from grsd.runs.history import join_budgets, join_widths, snapshot_budgets
from grsd.runs.spec import Spec
from grsd.runs.store import Scratch
from grsd.support.checks import resolve_device
from grsd.support.progress import bar

ROW = "row_"
SECONDS_BETWEEN_CHECKPOINTS = 5.0
START = {
    "start_loss": ("loss at time 0", "1"),
    "start_largest_eigenvalue": ("largest eigenvalue of M at time 0", "1/time"),
}


def train(spec: Spec, *, scratch: Scratch | None = None, progress: bool | None = None) -> xr.Dataset:
    """Compute the shell history of the network of ``spec``; ``grsd.run`` computes it once and stores it.

    Args:
        spec: the experiment.
        scratch: stores a checkpoint every few seconds; if it has one already, the computation resumes from there and
            ends with the same bits.
        progress: show a bar over the snapshots; ``None``: on a terminal and in Jupyter.

    Returns: ``shell_history``'s dataset at the spec's times, with ``start_loss`` and ``start_largest_eigenvalue``;
    several shell widths lie along a dimension ``shell_width``, see ``at_width``.

    Errors: ``RuntimeError`` if the flow cannot be continued; ``ValueError`` if the spec wants CUDA and there is none.
    """
    data = spec.batch()
    model = spec.network(data)
    device, dtype = resolve_device("run", spec.device, model), getattr(torch, spec.dtype)
    state, budgets = _taken_up(scratch, len(spec.shells))
    descent = Descent(
        model,
        data.inputs,
        data.targets,
        tolerance=spec.tolerance,
        dtype=dtype,
        device=device,
        parameters={name: value for name, value in spec.to_dict().items() if not isinstance(value, list)},
        state=state or None,
    )
    if not state:
        top = float(torch.linalg.eigvalsh(tangent_kernel(model, data.inputs, device=device, dtype=dtype))[-1])
        first, last, count = spec.times
        state = {"times": log_times(first / top, last / top, count), "start_loss": np.array(descent.row()["loss"])}
        state["start_largest_eigenvalue"] = np.array(top)
    constant = {name: state[name] for name in ("times", *START)}
    rows = [{name: state[ROW + name][number].item() for name in HISTORY} for number in range(len(budgets))]
    saved, saved_at = len(budgets), time.monotonic()

    def keep_sometimes() -> None:
        nonlocal saved, saved_at
        if scratch is None or time.monotonic() - saved_at < SECONDS_BETWEEN_CHECKPOINTS:
            return
        for number in range(saved, len(budgets)):
            for index, budget in enumerate(budgets[number]):
                scratch.save(_part(number, index), budget)
        done = {ROW + name: np.array([row[name] for row in rows]) for name in HISTORY}
        arrays = {**descent.state(), **constant, **done}
        scratch.save(
            "state", xr.Dataset({n: ([f"{n}_{axis}" for axis in range(a.ndim)], a) for n, a in arrays.items()})
        )
        saved, saved_at = len(budgets), time.monotonic()

    times = constant["times"].tolist()
    shown = bar(range(len(times)), show=progress, desc=str(spec), unit="snapshot")
    for number in shown:
        if number < len(rows):
            continue
        try:
            snapshot = descent.snapshot(times[number], keep_sometimes)
        except StepUnderflow as error:
            raise RuntimeError(f"run({spec}): {error}") from None
        budgets.append(snapshot_budgets(snapshot, descent.inputs, descent.targets, spec.shells))
        rows.append(descent.row())
        keep_sometimes()
        shown.set_postfix(loss=f"{rows[-1]['loss']:.3g}")
    history = descent.history(times, rows)
    per_width = zip(*budgets, strict=True)
    joined = join_widths([join_budgets(own, history, s) for own, s in zip(per_width, spec.shells, strict=True)])
    start = {name: ((), constant[name], {"long_name": text, "units": units}) for name, (text, units) in START.items()}
    return joined.assign(start)


def _part(number: int, index: int) -> str:
    return f"budget-{number}-{index}"


def _taken_up(scratch: Scratch | None, widths: int) -> tuple[dict[str, np.ndarray], list[tuple[xr.Dataset, ...]]]:
    """Return the state of an interrupted computation and its budgets so far; empty if any part is missing or bad."""
    found = scratch.load("state") if scratch is not None else None
    if found is None:
        return {}, []
    state = {str(name): variable.values for name, variable in found.variables.items()}
    budgets = []
    for number in range(len(state[ROW + "loss"])):
        loaded = [scratch.load(_part(number, index)) for index in range(widths)]
        if any(part is None for part in loaded):
            return {}, []
        budgets.append(tuple(loaded))
    return state, budgets

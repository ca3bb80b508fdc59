"""One experiment from its spec: computed once whoever asks, taken up again where it was interrupted."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from grsd.checks import resolve_device
from grsd.flow import HISTORY, Descent, StepUnderflow, log_times
from grsd.kernel import tangent_kernel
from grsd.progress import bar
from grsd.runs.fingerprint import fingerprint, sources
from grsd.runs.history import join_budgets, join_widths, snapshot_budgets
from grsd.runs.spec import Spec
from grsd.runs.store import load, locked, runs_folder, save

SOURCES = sources("runs.compute")
CODE = fingerprint(SOURCES)
WORK, ROW = ".work", "row_"
SECONDS_BETWEEN_CHECKPOINTS = 5.0
START = {
    "start_loss": ("loss at time 0", "1"),
    "start_largest_eigenvalue": ("largest eigenvalue of M at time 0", "1/time"),
}


def run(spec: Spec, *, folder: str | os.PathLike | None = None, progress: bool | None = None) -> xr.Dataset:
    """The shell history of the experiment ``spec``, from its file if there is one, computed and kept otherwise.

    The file is named after the spec and the code that computed it (sources of the package's modules involved, versions
    of torch, numpy, xarray and scikit-learn); whatever changes, it is computed again. It is checked byte by byte when
    read. Several processes that ask for the same spec compute it once; one that was interrupted, even killed, goes on
    from where it was some seconds before (at its last step, or before a kernel) and ends with the same bytes.

    Args:
        spec: the experiment.
        folder: of the results; ``None``: $GRSD_RUNS, else data/runs in the project.
        progress: show a bar over the snapshots; ``None``: on a terminal and in Jupyter.

    Returns: ``shell_history``'s dataset at the spec's times, with ``start_loss`` and ``start_largest_eigenvalue``; with
    several shell widths those after the first stand beside it, see ``at_width``. Attributes ``spec`` and ``code`` say
    what was computed by what, ``threads`` with how many: another number of threads may change last digits.

    Errors: ``RuntimeError`` where the flow cannot be continued, or where the package's source has changed since it
    was imported; ``ProjectNotFound`` where there is no folder for results.
    """
    return obtain(spec, folder, progress)[1]


def obtain(
    spec: Spec, folder: str | os.PathLike | None = None, progress: bool | None = None
) -> tuple[Path, xr.Dataset, float | None]:
    """(file, dataset, seconds it took), the last ``None`` where it was already there."""
    if not isinstance(spec, Spec):
        raise TypeError(f"run(spec): expected a grsd.Spec, got {type(spec).__name__}")
    if fingerprint(SOURCES) != CODE:
        raise RuntimeError("run(spec): the source of grsd has changed since it was imported; restart Python")
    folder = runs_folder(folder)
    stem = f"{spec.key[:16]}-{CODE[:16]}"
    marks = {"spec": spec.to_json(), "code": CODE, "part": "result"}
    if found := load(folder, stem, marks):
        return *found, None
    with locked(folder / WORK / f"{stem}.lock"):
        if found := load(folder, stem, marks):
            return *found, None
        begun = time.perf_counter()
        scratch = folder / WORK / stem
        save(folder, stem, compute(spec, scratch, marks, progress), marks)
        shutil.rmtree(scratch, ignore_errors=True)
        if found := load(folder, stem, marks):
            return *found, time.perf_counter() - begun
    raise RuntimeError(f"run(spec): what was written to {folder} could not be read back")


def compute(spec: Spec, scratch: Path, marks: Mapping[str, str], progress: bool | None = None) -> xr.Dataset:
    """Compute ``spec``, keeping in ``scratch`` what an interrupted computation needs to go on."""
    data = spec.batch()
    model = spec.network(data)
    device = resolve_device("run", spec.device, model)
    state, budgets = _taken_up(scratch, marks, len(spec.shells))
    parameters = {name: value for name, value in spec.to_dict().items() if not isinstance(value, list)}
    descent = Descent(
        model,
        data.inputs,
        data.targets,
        tolerance=spec.tolerance,
        dtype=getattr(torch, spec.dtype),
        device=device,
        parameters={**parameters, "threads": torch.get_num_threads()},
        state=state or None,
    )
    if not state:
        top = float(torch.linalg.eigvalsh(tangent_kernel(model, data.inputs, device=device))[-1])
        first, last, count = spec.times
        state = {"times": log_times(first / top, last / top, count), "start_loss": np.array(descent.row()["loss"])}
        state["start_largest_eigenvalue"] = np.array(top)
    constant = {name: state[name] for name in ("times", *START)}
    rows = [{name: state[ROW + name][number].item() for name in HISTORY} for number in range(len(budgets))]
    saved, saved_at = len(budgets), time.monotonic()

    def keep_sometimes() -> None:
        nonlocal saved, saved_at
        if time.monotonic() - saved_at < SECONDS_BETWEEN_CHECKPOINTS:
            return
        for number in range(saved, len(budgets)):
            for index, budget in enumerate(budgets[number]):
                part = _part(number, index)
                save(scratch, part, budget, {**marks, "part": part})
        done = {ROW + name: np.array([row[name] for row in rows]) for name in HISTORY}
        arrays = {**descent.state(), **constant, **done}
        variables = {name: ([f"{name}_{axis}" for axis in range(a.ndim)], a) for name, a in arrays.items()}
        save(scratch, "state", xr.Dataset(variables), {**marks, "part": "state"})
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


def _taken_up(
    scratch: Path, marks: Mapping[str, str], widths: int
) -> tuple[dict[str, np.ndarray], list[tuple[xr.Dataset, ...]]]:
    """The state of an interrupted computation and its budgets so far; nothing where any part is missing or bad."""
    found = load(scratch, "state", {**marks, "part": "state"})
    if found is None:
        return {}, []
    state = {str(name): variable.values for name, variable in found[1].variables.items()}
    budgets = []
    for number in range(len(state[ROW + "loss"])):
        parts = [_part(number, index) for index in range(widths)]
        loaded = [load(scratch, part, {**marks, "part": part}) for part in parts]
        if None in loaded:
            return {}, []
        budgets.append(tuple(dataset for _, dataset in loaded))
    return state, budgets

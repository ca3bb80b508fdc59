"""The computation of a ``Spec``: train the network and measure its shells; it can be interrupted and resumed."""

from __future__ import annotations

import time

import numpy as np
import torch
import xarray as xr

from grsd.decomposition import spectrum
from grsd.flow import HISTORY, Descent, StepUnderflow, log_times
from grsd.flow.questions import Course, Kernel
from grsd.flow.together import answered_together
from grsd.runs.family import descent_of, family_of
from grsd.runs.history import join_parts, join_width_parts, spectrum_parts
from grsd.runs.spec import Spec
from grsd.runs.store import Scratch
from grsd.support.labelled import Parts
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

    Small networks take a route on which many seeds can be computed at once (``grsd.runs.family``): whether one does
    depends on its spec and on the number of threads alone, and its bits do not depend on its company.

    Returns: ``shell_history``'s dataset at the spec's times, with ``start_loss`` and ``start_largest_eigenvalue``;
    several shell widths lie along a dimension ``shell_width``, see ``at_width``.

    Errors: ``RuntimeError`` if the flow cannot be continued; ``ValueError`` if the spec wants CUDA and there is none.
    """
    family = family_of(spec)
    member = None if family is None else family.member(spec)
    if member is None:
        descent = descent_of(spec)
        return descent.answer(course(spec, descent, scratch, progress, begun=True))
    (found,) = answered_together(family.stacked, [course(spec, member, scratch, progress)])
    if isinstance(found, Exception):
        raise found
    return found


def course(
    spec: Spec,
    descent: Descent,
    scratch: Scratch | None,
    progress: bool | None,
    *,
    begun: bool = False,
    company: int = 1,
) -> Course[xr.Dataset]:
    """The computation of ``train`` as a course (``grsd.flow.questions``), along a flow that has ``begun`` or not.

    ``company``: how many courses share the time, and so the time between two checkpoints.
    """
    state, budgets = _taken_up(scratch, len(spec.shells))
    if state or not begun:
        yield from descent.begin(state or None)
    if not state:
        kernel, _ = yield Kernel(descent.theta)
        top = float(torch.linalg.eigvalsh(kernel)[-1])
        first, last, count = spec.times
        state = {"times": log_times(first / top, last / top, count), "start_loss": np.array(descent.row()["loss"])}
        state["start_largest_eigenvalue"] = np.array(top)
    constant = {name: state[name] for name in ("times", *START)}
    rows = [{name: state[ROW + name][number].item() for name in HISTORY} for number in range(len(budgets))]
    saved, saved_at = len(budgets), time.monotonic()

    def keep_sometimes() -> None:
        nonlocal saved, saved_at
        if scratch is None or time.monotonic() - saved_at < SECONDS_BETWEEN_CHECKPOINTS * company:
            return
        for number in range(saved, len(budgets)):
            for index, budget in enumerate(budgets[number]):
                scratch.save(_part(number, index), budget.dataset())
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
            yield from descent.advance(times[number], keep_sometimes)
        except StepUnderflow as error:
            raise RuntimeError(f"run({spec}): {error}") from None
        modes = spectrum(*(yield Kernel(descent.theta, descent.rate)))
        budgets.append(spectrum_parts(modes, descent.error, spec.shells))
        rows.append(descent.row())
        keep_sometimes()
        shown.set_postfix(loss=f"{rows[-1]['loss']:.3g}")
    history = Parts.of(descent.history(times, rows))
    per_width = zip(*budgets, strict=True)
    joined = join_width_parts([join_parts(own, history, s) for own, s in zip(per_width, spec.shells, strict=True)])
    for name, (text, units) in START.items():
        joined.variables[name] = ((), constant[name], {"long_name": text, "units": units})
    return joined.dataset()


def _part(number: int, index: int) -> str:
    return f"budget-{number}-{index}"


def _taken_up(scratch: Scratch | None, widths: int) -> tuple[dict[str, np.ndarray], list[tuple[Parts, ...]]]:
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
        budgets.append(tuple(map(Parts.of, loaded)))
    return state, budgets

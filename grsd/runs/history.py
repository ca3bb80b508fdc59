"""Shell dynamics along a whole run, from the snapshots of one gradient flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from grsd.decomposition import Spectrum, spectrum
from grsd.flow import Flow, Snapshot, nearby
from grsd.kernel import tangent_kernel, tangent_kernel_and_rate
from grsd.losses import Loss, force_along
from grsd.shells import MASK_FLAGS, LogShells, energy_budget, log_range
from grsd.shells.budget import budget_parts
from grsd.shells.windows import shell_coords
from grsd.support.arguments import attribute, described
from grsd.support.labelled import Labelled, Parts
from grsd.support.progress import bar
from grsd.support.provenance import provenance
from grsd.support.values import instance, number, optional_flag, positive, said, whole_number

UNREACHED = MASK_FLAGS["few_modes"] | MASK_FLAGS["no_energy"]
EMPTY = dict.fromkeys(("velocity", "drift", "operator", "operator_normalized", "effective_modes"), np.nan)
SHELL_DIMENSIONS = {"shell", "shell_from", "boundary"}
STEPS = (1e-6, 1.0)  # below, rounding spoils a difference; above, its finite order does
EMPTY |= {"mask": UNREACHED, "boundary_mask": UNREACHED}


def shell_history(
    flow: Flow,
    shells: LogShells,
    *,
    progress: bool | None = None,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Return the energy budget at every snapshot of ``flow``: ``energy_budget``'s variables over ``time``.

    Without a span the shells cover, at each time, the spectrum and eight smoothings more on either side, where the
    windows vanish to rounding; shells that a snapshot does not reach are exactly empty there, and masked. The dataset
    also has ``largest_eigenvalue(time)`` and the flow's own history. Cost: one kernel with its rate and one
    eigendecomposition per snapshot; only shell-sized results are kept.
    """
    call = "shell_history"
    instance(call, "flow", flow, Flow, "what grsd.gradient_flow gave")
    instance(call, "shells", shells, LogShells, "LogShells")
    optional_flag(call, "progress", progress)
    described(call, parameters)
    budgets = []
    for snapshot in bar(flow.snapshots, show=progress, desc="shell history", unit="snapshot"):
        budgets += snapshot_budgets(snapshot, flow.inputs, flow.targets, [shells], loss=flow.loss, call=call)
    return join_budgets(budgets, flow.history, shells, parameters=parameters)


def snapshot_budgets(
    snapshot: Snapshot,
    inputs: Tensor,
    targets: Tensor,
    shells: Sequence[LogShells],
    *,
    loss: Loss = "mse",
    call: str = "snapshot_budgets",
) -> tuple[xr.Dataset, ...]:
    """Return the energy budget of one snapshot for each of ``shells``, in its dtype, with ``largest_eigenvalue``.

    For another ``loss`` than squared error the budgets have ``relaxation``, by e' = -H M e.
    """
    decomposed, rate = _decomposed(call, snapshot, inputs, targets, loss)
    return spectrum_budgets(decomposed, snapshot.error, shells, error_rate=rate)


def spectrum_budgets(
    decomposed: Spectrum, error: Tensor, shells: Sequence[LogShells], *, error_rate: Tensor | None = None
) -> tuple[xr.Dataset, ...]:
    """Return the same from a spectrum with its rate; ``error_rate``: e' where it is not -M e."""
    return tuple(found.dataset() for found in spectrum_parts(decomposed, error, shells, error_rate=error_rate))


def spectrum_parts(
    decomposed: Spectrum, error: Tensor, shells: Sequence[LogShells], *, error_rate: Tensor | None = None
) -> tuple[Parts, ...]:
    """Return ``spectrum_budgets`` before they are datasets."""
    spans = [_covering(item, decomposed) for item in shells]
    budgets = budget_parts(decomposed, error, spans, error_rate=error_rate)
    largest = float(decomposed.eigenvalues[-1])
    for budget in budgets:
        budget.variables["largest_eigenvalue"] = ((), np.array(largest), {})
    return budgets


def _decomposed(
    call: str, snapshot: Snapshot, inputs: Tensor, targets: Tensor, loss: Loss
) -> tuple[Spectrum, Tensor | None]:
    """Return the decomposed kernel with its rate, and e' along gradient flow, ``None`` where it is -M e."""
    e = snapshot.error
    kernel, kernel_rate = tangent_kernel_and_rate(snapshot.model, inputs, targets, loss=loss, dtype=e.dtype)
    decomposed = spectrum(kernel, kernel_rate)
    if loss == "mse":
        return decomposed, None
    with torch.no_grad():
        outputs = snapshot.model(inputs)
    moved = -(kernel.to(e) @ e.reshape(-1)).view_as(outputs)
    return decomposed, force_along(call, loss, outputs, targets, moved).reshape(-1).to(decomposed.eigenvalues)


def join_budgets(
    budgets: Sequence[xr.Dataset],
    flow_history: xr.Dataset,
    shells: LogShells,
    *,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Build ``shell_history`` from the budgets of the snapshots and the flow's own history, which has their times."""
    parts = [Parts.of(budget) for budget in budgets]
    return join_parts(parts, Parts.of(flow_history), shells, parameters=parameters).dataset()


def join_parts(
    budgets: Sequence[Parts],
    flow_history: Parts,
    shells: LogShells,
    *,
    parameters: Mapping[str, object] | None = None,
) -> Parts:
    """Do the same before the results are datasets."""
    index, at = (np.unique(np.concatenate([b.values(name) for b in budgets])) for name in ("shell_index", "boundary"))
    places = [
        {"boundary": np.searchsorted(at, budget.values("boundary"))}
        | dict.fromkeys(("shell", "shell_from"), np.searchsorted(index, budget.values("shell_index")))
        for budget in budgets
    ]
    sizes = {"shell": len(index), "shell_from": len(index), "boundary": len(at)}
    variables = {}
    for name, (dims, first, attributes) in budgets[0].variables.items():
        shape = [len(budgets), *(sizes[dim] for dim in dims)]
        values = np.full(shape, EMPTY.get(name, 0), first.dtype)
        for row, (budget, place) in enumerate(zip(budgets, places, strict=True)):
            values[row, *np.ix_(*(place[dim] for dim in dims))] = budget.values(name)
        variables[name] = (("time", *dims), values, dict(attributes))
    variables["largest_eigenvalue"][2].update(long_name="largest eigenvalue of M", units="1/time")
    coords = {"time": flow_history.coords["time"], "boundary": ("boundary", at, budgets[0].coords["boundary"][2])}
    settings = {"shell_width": shells.width, "smoothing": shells.smoothing}
    attributes = {**flow_history.attributes, **provenance(parameters), **settings}
    return Parts(variables | flow_history.variables, coords | shell_coords(index, shells.width), attributes)


def join_widths(histories: Sequence[xr.Dataset]) -> xr.Dataset:
    """Join histories or budgets of one flow at several shell widths into one dataset; ``at_width`` splits it again.

    A single one is returned unchanged. Several are joined along a dimension ``shell_width``, with shells counted from
    the lowest: ``shells(shell_width)`` is their number, and the entries past it are zero.
    """
    return join_width_parts([Parts.of(history) for history in histories]).dataset()


def join_width_parts(histories: Sequence[Parts]) -> Parts:
    """Do the same before the results are datasets."""
    first = histories[0]
    widths = [history.attributes["shell_width"] for history in histories]
    attributes = {**first.attributes, "shell_widths": widths}
    if len(histories) == 1:
        return Parts(first.variables, first.coords, attributes)
    counts = [len(history.values("shell")) for history in histories]
    sizes = {dim: max(counts) - (dim == "boundary") for dim in SHELL_DIMENSIONS}

    def joined(dims: Sequence[str], rows: Sequence[np.ndarray], attrs: dict[str, object]) -> Labelled:
        shape = [sizes.get(dim, size) for dim, size in zip(dims, rows[0].shape, strict=True)]
        whole = np.zeros([len(rows), *shape], rows[0].dtype)
        for place, row in zip(whole, rows, strict=True):
            place[tuple(map(slice, row.shape))] = row
        return ("shell_width", *dims), whole, attrs

    variables = {
        name: joined(dims, [history.values(name) for history in histories], attrs)
        if SHELL_DIMENSIONS & set(dims)
        else (dims, values, attrs)
        for name, (dims, values, attrs) in first.variables.items()
    }
    coords = {}
    for name, old in {"shell_index": "shell_index", "boundary_position": "boundary"}.items():
        dims, _, attrs = first.coords[old]
        coords[name] = joined(dims, [history.values(old) for history in histories], attrs)
    coords["shells"] = ("shell_width", np.array(counts), {})
    coords |= {name: found for name, found in first.coords.items() if name == "time"}
    coords["shell_width"] = ("shell_width", np.array(widths), {"units": "log(1/time)"})
    return Parts(variables, coords, attributes)


def at_width(run: xr.Dataset, width: float) -> xr.Dataset:
    """Return the part of a run measured with shells of ``width``, with the names of ``shell_history``.

    Errors: ``ValueError`` if the run was not measured at that width.
    """
    instance("at_width", "run", run, xr.Dataset, "a dataset from grsd.run or grsd.shell_history")
    attribute("at_width", "run", run, "shell_width")
    widths = np.atleast_1d(run.attrs.get("shell_widths", run.attrs["shell_width"])).tolist()
    if positive("at_width", "width", width) not in widths:
        raise ValueError(f"at_width(width=...): expected one of {', '.join(map(repr, widths))}, got {said(width)}")
    if "shell_width" in run.dims:
        run = run.isel(shell_width=widths.index(width))
        count, edges = int(run.shells), run.boundary_position
        span = {name: slice(count - (name == "boundary")) for name in SHELL_DIMENSIONS & run.sizes.keys()}
        run = run.isel(span).drop_vars(["shell_width", "shells", "boundary_position"])
        coords = shell_coords(run.shell_index.values, width)
        run = run.assign_coords(coords | {"boundary": ("boundary", edges.values[: count - 1], edges.attrs)})
    return run.assign_attrs(shell_width=width, shell_widths=width)


def measured_energy_change(flow: Flow, index: int, shells: LogShells, *, step: float = 0.01) -> xr.Dataset:
    """Compute dE_a/dt of snapshot ``index`` twice: from the budget, and without M' from a central difference.

    The difference is of fourth order in ``step`` (in units of 1 / lambda_max) and uses the energies of the shells at
    four neighbouring times of the flow, each from its own kernel and decomposition. The shells cover the snapshot's
    spectrum.

    Returns: ``budget(shell)``, ``difference(shell)``, ``largest_term(shell)`` (the largest of the shell's couplings and
    of its dissipation, or of its relaxation for another loss than squared error), ``discrepancy(shell)`` = |budget -
    difference| / largest_term, and the snapshot's ``mask``.
    """
    call = "measured_energy_change"
    instance(call, "flow", flow, Flow, "what grsd.gradient_flow gave")
    instance(call, "shells", shells, LogShells, "LogShells")
    count = len(flow.snapshots)
    if not -count <= whole_number(call, "index", index, -count) < count:
        raise ValueError(f"{call}(index=...): expected one of {count} snapshots, got {said(index)}")
    positive(call, "step", step)
    number(call, "step", step, *STEPS)
    snapshot = flow.snapshots[index]
    decomposed, rate = _decomposed(call, snapshot, flow.inputs, flow.targets, flow.loss)
    low, high = log_range(decomposed)
    fixed = replace(shells, span=shells.span or (low, max(high, low + shells.width)))
    budget = energy_budget(decomposed, snapshot.error, fixed, error_rate=rate)
    own = -budget.dissipation if rate is None else budget.relaxation
    terms = np.column_stack([budget.coupling.values, own.values])
    change = terms[:, :-1].sum(1) + terms[:, -1]

    duration = step / float(decomposed.eigenvalues[-1])
    energies = []
    for neighbour in nearby(snapshot, flow.inputs, flow.targets, duration, (-2, -1, 1, 2), loss=flow.loss):
        kernel = tangent_kernel(neighbour.model, flow.inputs, dtype=neighbour.error.dtype)
        energies.append(energy_budget(spectrum(kernel), neighbour.error, fixed).energy.values)
    before2, before, after, after2 = energies
    difference = (8 * (after - before) - (after2 - before2)) / (12 * duration)
    largest = np.abs(terms).max(1)
    rate = {"units": "energy/time"}
    return xr.Dataset(
        {
            "budget": ("shell", change, {"long_name": "sum_b T_ab - D_a, or plus the relaxation", **rate}),
            "difference": ("shell", difference, {"long_name": "central difference of E_a", **rate}),
            "largest_term": ("shell", largest, {"long_name": "largest term of the shell's budget", **rate}),
            "discrepancy": ("shell", np.abs(change - difference) / largest, {"units": "1"}),
            "mask": budget.mask,
        },
        attrs={**budget.attrs, "time": snapshot.time, "difference_step": duration},
    )


def _covering(shells: LogShells, decomposed: Spectrum) -> LogShells:
    if shells.span is not None:
        return shells
    low, high = log_range(decomposed)
    margin = 8 * shells.smoothing
    return replace(shells, span=(low - margin, high + margin))

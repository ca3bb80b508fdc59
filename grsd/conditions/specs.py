"""Measure a condition on specs: each network is trained once for all conditions, and results are stored."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
import xarray as xr

from grsd.conditions.contract import Condition
from grsd.conditions.registry import CONDITIONS
from grsd.flow import gradient_flow, log_times
from grsd.kernel import tangent_kernel
from grsd.runs import Spec, ensemble
from grsd.support.arguments import listed
from grsd.support.values import instance

OPTION = "measure_"
GIVEN = ("history", "inputs", "targets", "shells", "parameters")  # of measure; a spec decides them


def of_specs(
    condition: Condition,
    specs: Spec | Sequence[Spec],
    *,
    workers: int | None = None,
    progress: bool | None = None,
    **options: object,
) -> list[xr.Dataset]:
    """Measure the network of each spec by ``condition.measure``, in order, and store results as ``grsd.ensemble`` does.

    Args:
        condition: one of ``grsd.conditions.CONDITIONS``.
        specs: one, or several (``Spec.with_seeds``). Shells, times, device and precision are the spec's.
        workers, progress: as in ``grsd.ensemble``.
        options: of ``condition.measure``; they must be plain values if the condition reads a start or a flow.

    Returns: datasets with the spec's ``seed`` and ``depth`` among their attributes, ready for ``condition.judge``.
    Errors: before anything runs, ``ValueError`` for no specs and ``TypeError`` for an unknown option; as
    ``grsd.ensemble`` and ``condition.measure``.
    """
    instance("of_specs", "condition", condition, Condition, "a condition of grsd.conditions.CONDITIONS")
    specs = listed("of_specs", "specs", [specs] if isinstance(specs, Spec) else specs, "grsd.Spec")
    for spec in specs:
        instance("of_specs", "specs", spec, Spec, "a grsd.Spec")
    taken = [name for name in inspect.signature(condition.measure).parameters if name not in GIVEN]
    for name in options:
        if name not in taken:
            raise TypeError(f"of_specs({name}=...): {condition.name}.measure takes {', '.join(taken) or 'no options'}")
    how = {"workers": workers, "threads": 1, "progress": progress}
    if condition.reads == "history":
        return [condition.measure(run, **options) for run in ensemble(specs, **how)]
    asked = {"condition": condition.name} | {OPTION + name: value for name, value in options.items()}
    return ensemble([asked | spec.to_dict() for spec in specs], measured, **how)


def measured(experiment: Mapping[str, object]) -> xr.Dataset:
    """Run one experiment of ``of_specs``: a spec's fields, ``condition``, and options of its ``measure``."""
    own = {name: value for name, value in experiment.items() if name == "condition" or name.startswith(OPTION)}
    spec = Spec.from_dict({name: value for name, value in experiment.items() if name not in own})
    condition = CONDITIONS[own.pop("condition")]
    options = {name.removeprefix(OPTION): value for name, value in own.items()}
    taken = inspect.signature(condition.measure).parameters
    shells = {"shells": spec.shells[0]} if "shells" in taken else {}
    labels = {name: value for name, value in spec.to_dict().items() if not isinstance(value, list)}
    data = spec.batch()
    network, dtype = spec.network(data), getattr(torch, spec.dtype)
    times = [0.0]
    if condition.reads == "flow":
        top = float(torch.linalg.eigvalsh(tangent_kernel(network, data.inputs, device=spec.device, dtype=dtype))[-1])
        times += log_times(spec.times[0] / top, spec.times[1] / top, spec.times[2]).tolist()
    flow = gradient_flow(
        network,
        data.inputs,
        data.targets,
        times,
        tolerance=spec.tolerance,
        dtype=dtype,
        device=spec.device,
        progress=False,
    )
    return condition.measure(flow, parameters=labels, **shells, **options)

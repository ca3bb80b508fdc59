"""What runs would cost before they start: seconds, memory and jobs, from unit costs measured here in a few seconds.

A run costs its gradients and its snapshots. What one of each takes is measured on the network itself. How many
gradients the flow needs is counted on a small network of the same depth, times and tolerance: times are in units of 1
over the largest eigenvalue, so the number depends little on the width and the number of samples.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from grsd.flow import Descent, log_times
from grsd.kernel import tangent_kernel
from grsd.runs import Spec
from grsd.runs.history import snapshot_budgets
from grsd.support.arguments import listed
from grsd.support.pinned import pinned
from grsd.support.values import instance, whole_number
from grsd.workflow.gpus import Gpu

SMALL = {"samples": 40, "width": 16}
SHARE = 0.5  # of the first time: gradients are timed before the first snapshot
MATRICES, BYTES = 8, {"float64": 8, "float32": 4}  # D x D numbers that a snapshot holds at a time: M, M', modes, work
WITHIN = 3.0  # factor within which the tests hold a prediction to the measured CPU seconds


@dataclass(frozen=True)
class Cost:
    """The predicted cost of ``runs`` runs that differ in their seed.

    ``gradients`` and ``snapshots``: of one run; ``gradient``, ``snapshot``: seconds of one; ``memory``: bytes of a job.
    """

    spec: Spec
    runs: int
    gradients: int
    snapshots: int
    gradient: float
    snapshot: float
    memory: int

    @property
    def seconds(self) -> float:
        """Of one run."""
        return self.gradients * self.gradient + (self.snapshots + 1) * self.snapshot

    def __str__(self) -> str:
        what = f"{self.runs} runs of {self.gradients} gradients and {self.snapshots} snapshots"
        return f"{self.spec}: {what}: {said_seconds(self.seconds)} each, {self.memory / 2**30:.2f} GiB a job"


def predicted(specs: Sequence[Spec], gpu: Gpu | None = None) -> list[Cost]:
    """Return what ``specs`` would cost, one ``Cost`` for those that differ in their seed alone; nothing is stored.

    Args:
        specs: experiments, such as those of ``grsd.workflow.needed``.
        gpu: predict for this GPU from counted operations and its maker's figures, unmeasured; ``None``: CPU seconds of
            one thread of this machine, measured.

    Errors: ``ValueError`` for no specs; as ``grsd.run``.
    """
    specs = listed("predicted", "specs", specs, "grsd.Spec")
    for spec in specs:
        instance("predicted", "specs", spec, Spec, "a grsd.Spec")
    if gpu is not None:
        instance("predicted", "gpu", gpu, Gpu, "a GPU, as of grsd.workflow.gpu_named('H100')")
    kinds = Counter(replace(spec, seed=0) for spec in specs)
    return [_cost(replace(spec, device="cpu"), runs, gpu) for spec, runs in kinds.items()]


def report(costs: Sequence[Cost], jobs: int = 1, gpu: Gpu | None = None) -> str:
    """Return lines: each kind of run, then all of them with ``jobs`` at a time. Errors: ``ValueError`` for no costs."""
    costs = listed("report", "costs", costs, "costs from predicted")
    for cost in costs:
        instance("report", "costs", cost, Cost, "a Cost from predicted")
    if gpu is not None:
        instance("report", "gpu", gpu, Gpu, "a GPU, as of grsd.workflow.gpu_named('H100')")
    jobs = whole_number("report", "jobs", jobs, 1)
    total = sum(cost.runs * cost.seconds for cost in costs)
    runs = sum(cost.runs for cost in costs)
    longest = max(cost.seconds for cost in costs)
    memory = max(cost.memory for cost in costs) * jobs
    unit = "CPU time, measured unit costs" if gpu is None else f"on one {gpu.name}: estimated, unmeasured"
    together = f"{jobs} at a time: {said_seconds(max(total / jobs, longest))}, {memory / 2**30:.1f} GiB"
    return "\n".join([*map(str, costs), f"{runs} runs: {said_seconds(total)} ({unit}); {together}"])


def said_seconds(seconds: float) -> str:
    """Return seconds, minutes or hours with two figures."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.2g} s"


def _cost(spec: Spec, runs: int, gpu: Gpu | None) -> Cost:
    with pinned(1, 0):
        small = replace(spec, **{name: min(most, getattr(spec, name)) for name, most in SMALL.items()})
        gradients = _gradients(small)
        descent, unit = _begun(spec)
        moments = [part * SHARE * spec.times[0] * unit for part in (0.5, 1.0, 1.5)]
        descent.snapshot(moments[0])  # the first calls prepare what later ones find
        if gpu is None:
            gradient, snapshot = _measured(descent, moments[1:], spec)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        else:
            gradient, snapshot = _counted(descent, moments[1:], spec, gpu)
            memory = MATRICES * descent.targets.numel() ** 2 * BYTES[spec.dtype] + gpu.context
    return Cost(spec, runs, gradients, spec.times[2], gradient, snapshot, memory)


def _begun(spec: Spec) -> tuple[Descent, float]:
    """Return the flow of ``spec`` at time 0, and 1 over the largest eigenvalue there."""
    data, dtype = spec.batch(), getattr(torch, spec.dtype)
    model = spec.network(data)
    descent = Descent(model, data.inputs, data.targets, tolerance=spec.tolerance, dtype=dtype, device="cpu")
    kernel = tangent_kernel(model, data.inputs, device="cpu", dtype=dtype)
    return descent, 1 / float(torch.linalg.eigvalsh(kernel)[-1])


def _gradients(spec: Spec) -> int:
    descent, unit = _begun(spec)
    first, last, count = spec.times
    for moment in log_times(first * unit, last * unit, count).tolist():
        descent.snapshot(moment)
    return int(descent.row()["gradient_evaluations"])


def _measured(descent: Descent, moments: Sequence[float], spec: Spec) -> tuple[float, float]:
    """Return CPU seconds of one gradient, with its share of the integrator, and of one snapshot."""
    snapshot = descent.snapshot(moments[0])
    snapshot_budgets(snapshot, descent.inputs, descent.targets, spec.shells)
    before, began = descent.row()["gradient_evaluations"], time.process_time()
    snapshot = descent.snapshot(moments[1])
    gradient = (time.process_time() - began) / max(1, descent.row()["gradient_evaluations"] - before)
    began = time.process_time()
    snapshot_budgets(snapshot, descent.inputs, descent.targets, spec.shells)
    return gradient, time.process_time() - began


def _counted(descent: Descent, moments: Sequence[float], spec: Spec, gpu: Gpu) -> tuple[float, float]:
    """Return seconds of one gradient and of one snapshot on ``gpu``: its operations, or its launches if longer."""
    before = descent.row()["gradient_evaluations"]
    with FlopCounterMode(display=False) as flops, _Calls() as calls:
        snapshot = descent.snapshot(moments[0])
    gradients = max(1, descent.row()["gradient_evaluations"] - before)
    gradient = max(flops.get_total_flops() / gpu.speed(spec.dtype), calls.count * gpu.launch) / gradients
    with FlopCounterMode(display=False) as flops, _Calls() as calls:
        snapshot_budgets(snapshot, descent.inputs, descent.targets, spec.shells)
    decomposition = 9 * descent.targets.numel() ** 3  # which the counter leaves out
    operations = flops.get_total_flops() + decomposition
    return gradient, max(operations / gpu.speed(spec.dtype), calls.count * gpu.launch)


class _Calls(TorchDispatchMode):
    """Counts calls of torch's operations: each is at least one launch on a device."""

    count = 0

    def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        self.count += 1
        return func(*args, **(kwargs or {}))

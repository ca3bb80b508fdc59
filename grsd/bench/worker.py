"""Runs in the processes of the benchmark: one call measures memory and agreement, rounds of calls measure time."""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from grsd.bench.floor import floor, floor_with_rate
from grsd.bench.methods import METHODS
from grsd.bench.peers import PEERS
from grsd.bench.problems import PROBLEMS
from grsd.bench.stages import STAGES
from grsd.support.faults import is_slip

OURS, RATE = "grsd", "grsd, with rate"
FLOOR, RATE_FLOOR = "floor", "floor, with rate"
AGREE = {"float32": 1e-4, "float64": 1e-10}
KERNELS = METHODS | PEERS
PREPARED = STAGES | {FLOOR: floor, RATE_FLOOR: floor_with_rate}


@dataclass(frozen=True)
class Case:
    """One problem of the benchmark's plan; ``methods`` run in turn, the fast ones ``repeats`` times each."""

    problem: str
    samples: int
    dtype: str
    methods: tuple[str, ...]
    repeats: int = 7
    memory_limit: str | None = None


def alone(case: Case, method: str, device: str, threads: int) -> dict[str, object]:
    """Wall and CPU seconds of one call after a small one, and its peak bytes minus those held before.

    A kernel that differs from this package's is a ``RuntimeError``; a peer that is missing or raises gets a ``note``.
    """
    _prepare(threads)
    model, inputs, targets = PROBLEMS[case.problem].make(case.samples, getattr(torch, case.dtype), device)
    try:
        if method in KERNELS:
            KERNELS[method](model, inputs[:2], targets[:2], None)
        run = _ready(method, model, inputs, targets, case.memory_limit)
        before = peak(device)
        wall, cpu, result = _timed(run, device)
    except Exception as error:
        missing = isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in ("", "grsd")
        if method not in PEERS or (is_slip(error) and not missing):
            raise
        if missing:
            return {"note": "not installed"}
        return {"note": f"refuses: {(str(error).splitlines() or [type(error).__name__])[0][:100]}"}
    most = peak(device)
    if method in KERNELS and method != OURS:
        check_same(method, result, METHODS[OURS](model, inputs, targets, case.memory_limit), case.dtype)
    times = {"wall_s": wall, "cpu_s": cpu, "repeats": 1}
    if method in (FLOOR, RATE_FLOOR):  # its factors were made before, so that its memory means nothing
        return times
    return times | {"peak_gib": (most - before) / 2**30, "process_gib": most / 2**30}


def together(case: Case, methods: Sequence[str], device: str, threads: int) -> dict[str, dict[str, float]]:
    """Median seconds over ``case.repeats`` rounds of all methods in turn, after one round that is not counted."""
    _prepare(threads)
    problem = PROBLEMS[case.problem].make(case.samples, getattr(torch, case.dtype), device)
    runs = {method: _ready(method, *problem, case.memory_limit) for method in methods}
    seconds: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    for _ in range(1 + case.repeats):
        for method, run in runs.items():
            seconds[method].append(_timed(run, device)[:2])
    counted = {method: list(zip(*pairs[1:], strict=True)) for method, pairs in seconds.items()}
    return {
        method: {"wall_s": median(wall), "cpu_s": median(cpu), "repeats": case.repeats}
        for method, (wall, cpu) in counted.items()
    }


def _prepare(threads: int) -> None:
    """In this process every method computes float32 in float32: by default cuDNN rounds it to ten bits."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False


def check_same(method: str, kernel: Tensor, ours: Tensor, dtype: str) -> None:
    if not float((kernel - ours).norm() / ours.norm()) <= AGREE[dtype]:
        raise RuntimeError(f"{method} gives another kernel than {OURS}")


def _ready(
    method: str, model: torch.nn.Module, inputs: Tensor, targets: Tensor, limit: str | None
) -> Callable[[], object]:
    if method in PREPARED:
        return PREPARED[method](model, inputs, targets, limit)
    return lambda: KERNELS[method](model, inputs, targets, limit)


def _timed(run: Callable[[], object], device: str) -> tuple[float, float, object]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def peak(device: str) -> int:
    """Peak bytes so far, of the process or on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""Rows of the benchmark: methods in turn in one process for time, each in a process of its own for memory."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from grsd.bench.methods import METHODS
from grsd.bench.problems import PROBLEMS
from grsd.progress import bar
from grsd.project import project
from grsd.provenance import provenance

AGREE = {"float32": 1e-3, "float64": 1e-10}


@dataclass(frozen=True)
class Case:
    """One line of the benchmark's plan; ``methods`` are run in turn, ``repeats`` times each."""

    problem: str
    samples: int
    dtype: str
    methods: tuple[str, ...]
    repeats: int = 7
    memory_limit: str | None = None


SMALL = (
    Case("mlp", 100, "float32", ("grsd", "torch.func jacrev"), 3),
    Case("mlp", 256, "float32", ("grsd", "grsd, with rate")),
    Case("cnn", 128, "float32", ("grsd", "grsd, with rate", "torch.func jacrev")),
)
LARGE = (
    Case("resnet18", 64, "float64", ("grsd",), 1, "5GiB"),
    Case("resnet18", 64, "float32", ("grsd, with rate",), 1, "5GiB"),
)
LARGE_CUDA = (Case("resnet18", 1000, "float64", ("grsd", "grsd, with rate"), 1),)


def bench(*, large: bool = False, device: str = "cpu", threads: int = 1, folder: Path | None = None) -> Path:
    """Run the benchmark and write data/benchmarks/DEVICE.csv: medians of wall and CPU seconds, peak bytes, ratios.

    ``large``: the ResNet-18 rows instead of the small ones. The results of all methods of a case are compared first;
    one that differs is an error. Peak memory is that of a fresh process above what it held before the call.
    """
    cases = LARGE if large else SMALL
    if large and device == "cuda":
        cases = LARGE_CUDA
    rows = []
    for case in bar(cases, desc="grsd bench", unit="case"):
        timed = _in_a_process(case, device, threads, "time")
        for method in case.methods:
            memory = _in_a_process(case, device, threads, "memory", method)
            rows.append({**_described(case), "method": method, **timed[method], **memory})
    table = pd.DataFrame(rows)
    first = table.groupby(["problem", "samples", "dtype"], sort=False)["cpu_s"].transform("first")
    table["cpu_ratio"] = table["cpu_s"] / first
    name = _device_name(device)
    path = (folder or project() / "data" / "benchmarks") / f"{'large-' if large else ''}{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = f"{provenance()['versions']}; {name}; threads {threads}"
    head = f"# {made}; ratios of CPU seconds are to the first row of each case\n"
    path.write_text(head + table.round(4).to_csv(index=False, lineterminator="\n"), encoding="utf-8")
    print(table.round(4).to_string(index=False))
    return path


def _described(case: Case) -> dict[str, object]:
    kept = asdict(case)
    return {name: kept[name] for name in ("problem", "samples", "dtype", "repeats", "memory_limit")}


def _device_name(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu-{platform.machine()}-{os.cpu_count()}"
    return name.lower().replace(" ", "-")


def _in_a_process(case: Case, device: str, threads: int, what: str, method: str = "") -> dict:
    task = json.dumps({"case": asdict(case), "device": device, "threads": threads, "what": what, "method": method})
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "grsd.bench.measure", task], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"grsd bench: {case.problem} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _work(task: dict) -> dict:
    torch.set_num_threads(task["threads"])
    case, device = Case(**task["case"] | {"methods": tuple(task["case"]["methods"])}), task["device"]
    model, inputs, targets = PROBLEMS[case.problem].make(case.samples, getattr(torch, case.dtype), device)

    def run(method: str) -> torch.Tensor:
        result = METHODS[method](model, inputs, targets, case.memory_limit)
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    if task["what"] == "memory":
        small = METHODS[task["method"]](model, inputs[:2], targets[:2], None)
        del small
        before = _peak(device)
        run(task["method"])
        return {"peak_gib": (_peak(device) - before) / 2**30, "process_gib": _peak(device) / 2**30}
    seconds: dict[str, list[tuple[float, float]]] = {method: [] for method in case.methods}
    reference = None
    for _ in range(case.repeats + (case.repeats > 1)):
        for method in case.methods:
            wall, cpu = time.perf_counter(), time.process_time()
            result = run(method)
            seconds[method].append((time.perf_counter() - wall, time.process_time() - cpu))
            reference = result if reference is None else reference
            if float((result - reference).norm() / reference.norm()) > AGREE[case.dtype]:
                raise RuntimeError(f"{method} gives another kernel than {case.methods[0]}")
    return {method: _medians(pairs[case.repeats > 1 :]) for method, pairs in seconds.items()}


def _medians(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = (sorted(values) for values in zip(*pairs, strict=True))
    return {"wall_s": wall[len(wall) // 2], "cpu_s": cpu[len(cpu) // 2]}


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(_work(json.loads(sys.argv[1]))))

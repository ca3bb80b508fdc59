"""The CPU time of a monitor beside that of the training it records, and beside a single spectral position."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from grsd.bench.measure import device_name
from grsd.bench.problems import PROBLEMS
from grsd.bench.process import in_a_process
from grsd.bench.request import check_request
from grsd.datasets import digits
from grsd.losses import loss_and_force
from grsd.support.files import say_swept, write_atomically
from grsd.support.folders import project
from grsd.support.progress import bar
from grsd.support.provenance import provenance
from grsd.training import Monitor
from grsd.training.monitor import undisturbed

PROBLEM, STEPS, BATCH, TRAINED_ON, REPEATS = "cnn", 2000, 128, 1024, 3
PROBES = (32, 64, 128)
VECTORS = 10
LIMITS = {"float32": 0.1, "float64": 0.2}  # shares of the training's CPU time, at the smallest probe
TRAINING, MONITOR = "training", "grsd.Monitor"
POSITION = f"spectral position, {VECTORS} products"
COLUMNS = [
    "problem", "steps", "batch", "method", "probe", "dtype", "records", "cpu_s", "share", "least", "most", "limit",
    "verdict", "repeats", "error",
]  # fmt: skip


@dataclass
class Watch:
    """CPU seconds of one method, and the values it gave."""

    run: Callable[[int], float | None]
    seconds: float = 0.0
    values: list[float | None] = field(default_factory=list)

    def __call__(self, step: int) -> None:
        start = time.process_time()
        value = self.run(step)
        self.seconds += time.process_time() - start
        self.values.append(value)


def bench_monitor(*, folder: Path | None = None, steps: int = STEPS, repeats: int = REPEATS) -> Path:
    """Write data/benchmarks/monitor-DEVICE.csv: CPU seconds of a training and of its records, on one thread.

    One training of the narrow convolutional network on digits, by Adam in float32, for each repetition, in a process of
    its own. All methods run in turn at the same log-spaced steps and after the last; each is timed alone. ``share`` is
    the median over repetitions of a method's CPU time over that of the steps alone; ``least`` and ``most`` are over
    repetitions too. A monitor's records are written to files, and its construction is counted. ``error``: the median
    relative error of the spectral position, for which ``Monitor`` in float64 gives the exact value.

    Args:
        folder: folder of the file, instead of data/benchmarks.
        steps, repeats: fewer of them for a first look.

    Errors: ``ValueError`` in one line, before anything is timed, for a folder that cannot be written to.
    """
    folder = folder or project() / "data" / "benchmarks"
    check_request("cpu", 1, folder, None)
    runs = [
        in_a_process(f"monitor, repetition {number}", timed, steps, number)
        for number in bar(range(repeats), desc="grsd bench", unit="training")
    ]
    table = pd.DataFrame(summary(runs, steps)).reindex(columns=COLUMNS)
    name = device_name("cpu")
    path = folder / f"monitor-{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    say_swept(path.parent)
    head = f"# {provenance()['versions']}; {name}; threads 1; shares are of the training's CPU time\n"
    print(table.round(4).drop(columns=["problem", "steps", "batch"]).to_string(index=False, na_rep=""))
    return write_atomically(path, (head + table.round(4).to_csv(index=False, lineterminator="\n")).encode())


def timed(steps: int, seed: int) -> dict[tuple[str, int, str], dict[str, float]]:
    """Train once and return CPU seconds, the number of records and the error by (method, probe, dtype)."""
    torch.set_num_threads(1)
    model, inputs, labels = _task()
    optimizer = torch.optim.Adam(model.train().parameters(), 1e-3)
    batches = torch.Generator().manual_seed(seed)
    seconds = 0.0
    with TemporaryDirectory() as folder, _watches(model, inputs, labels, Path(folder)) as (watches, due):
        for step in range(steps + 1):
            if step == steps or due(step):
                for watch in watches.values():
                    watch(step)
            start = time.process_time()
            chosen = torch.randint(len(inputs), (BATCH,), generator=batches)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
            seconds += time.process_time() - start if step < steps else 0.0
    rows = {(TRAINING, 0, "float32"): {"cpu_s": seconds}}
    for (method, probe, dtype), watch in watches.items():
        exact = watches[MONITOR, probe, "float64"].values
        errors = [abs(one / other - 1) for one, other in zip(watch.values, exact, strict=True) if other is not None]
        rows[method, probe, dtype] = {
            "cpu_s": watch.seconds,
            "records": len(watch.values),
            "error": median(errors) if errors else float("nan"),
        }
    return rows


def summary(runs: list[dict[tuple[str, int, str], dict[str, float]]], steps: int) -> list[dict[str, object]]:
    """Return the rows of the table from the repetitions."""
    rows = []
    for key in runs[0]:
        method, probe, dtype = key
        own = {name: median(run[key][name] for run in runs) for name in runs[0][key]}
        row = {"problem": PROBLEM, "steps": steps, "batch": BATCH, "method": method, "dtype": dtype, **own}
        if method != TRAINING:
            shares = [run[key]["cpu_s"] / run[TRAINING, 0, "float32"]["cpu_s"] for run in runs]
            row |= {"probe": probe, "share": median(shares), "least": min(shares), "most": max(shares)}
        if method == MONITOR and probe == PROBES[0] and steps == STEPS:
            row |= {"limit": LIMITS[dtype], "verdict": "within" if row["share"] <= LIMITS[dtype] else "above"}
        rows.append(row | {"repeats": len(runs)})
    return rows


def spectral_position(model: nn.Module, inputs: Tensor, labels: Tensor, vectors: int = VECTORS) -> float:
    """<e, M e> / (<e, e> tr M) by one forward and ``vectors`` + 1 backward passes; e: the force of cross-entropy.

    The trace is Hutchinson's: the mean of <v, M v> over vectors v of random signs, the same in each call.
    """
    parameters = {name: p.detach().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    outputs = functional_call(model, parameters, (inputs,))
    _, force = loss_and_force("spectral_position", "cross-entropy", outputs.detach(), labels)
    generator = torch.Generator().manual_seed(0)

    def energy(v: Tensor) -> Tensor:
        """<v, M v> = |J^T v|^2, without the 1/N that cancels."""
        found = torch.autograd.grad(outputs, [*parameters.values()], v, retain_graph=True)
        return sum(part.square().sum() for part in found)

    signs = (torch.randint(2, outputs.shape, generator=generator) * 2.0 - 1 for _ in range(vectors))
    trace = sum(energy(v.to(outputs)) for v in signs) / vectors
    return float(energy(force) / force.square().sum() / trace)


def _task() -> tuple[nn.Module, Tensor, Tensor]:
    model, _, _ = PROBLEMS[PROBLEM].make(1, torch.float32, "cpu")
    data = digits(TRAINED_ON)
    inputs = data.inputs.float().reshape(-1, 1, 8, 8).expand(-1, 3, -1, -1).contiguous()
    return model, inputs, data.targets.argmax(1)


@contextmanager
def _watches(
    model: nn.Module, inputs: Tensor, labels: Tensor, folder: Path
) -> Iterator[tuple[dict[tuple[str, int, str], Watch], Callable[[int], bool]]]:
    """Yield the methods by (method, probe, dtype), and the function that says whether records are due."""
    watches, monitors = {}, []
    for probe in PROBES:
        pair = inputs[:probe], labels[:probe]
        for dtype in LIMITS:
            start = time.process_time()
            where = folder / f"{probe}-{dtype}"
            monitor = Monitor(model, pair, "cross-entropy", dtype=getattr(torch, dtype), folder=where, strict=True)
            watches[MONITOR, probe, dtype] = Watch(_recording(monitor), time.process_time() - start)
            monitors.append(monitor)
        watches[POSITION, probe, "float32"] = Watch(_positions(model, *pair))
    yield watches, monitors[0].due


def _recording(monitor: Monitor) -> Callable[[int], float | None]:
    def record(step: int) -> float | None:
        found = monitor.record(step, now=True)
        return None if found is None else float(found.spectral_position_after)

    return record


def _positions(model: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[int], float]:
    def position(step: int) -> float:
        with undisturbed(model):
            return spectral_position(model, inputs, labels)

    return position

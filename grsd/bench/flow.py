"""A whole run beside its floor: the same number of plain gradients, kernels and decompositions, and nothing else.

Beside both, the same run among many seeds that are computed at once, where its network is small enough for that.

``python -m grsd.bench.flow`` writes data/benchmarks/flow-DEVICE.csv; about two minutes on one core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

from grsd.bench.measure import device_name
from grsd.kernel import tangent_kernel, tangent_kernel_and_rate
from grsd.runs import Spec, ensemble, run, train
from grsd.runs.family import descent_of, family_of
from grsd.runs.together import train_together
from grsd.runs.training import course
from grsd.studies.stages import LATE, quick
from grsd.support.files import write_atomically
from grsd.support.folders import project
from grsd.support.pinned import pinned
from grsd.support.provenance import provenance

QUICK = quick(samples=80, width=24, seeds=1, times=(0.4, 16.0, 4), tolerance=1e-3, device="cpu")
CELLS = {
    "quick cell of notebook 06": QUICK.block("residual", 6, 0).network,
    "late cell": LATE.block("residual", 16, 0).network,
}
REPEATS = 3
SEEDS = 24


def beside_floor(spec: Spec, repeats: int = REPEATS) -> dict[str, float]:
    """CPU seconds of ``train(spec)`` on one thread and of the parts of its floor, medians of alternating repeats.

    ``gradients``: as many gradients of the loss, by torch alone, as the run took, its forward derivatives counted as
    gradients. ``kernels``: one of M at the start, one of M and M' per snapshot. ``decompositions``: of each of these,
    and M' in the eigenbasis. ``ratio``: of the run to the sum of the three.
    """
    data = spec.batch()
    model = spec.network(data).double()
    own = list(model.parameters())
    inputs, targets = data.inputs.double(), data.targets.double()
    pair = tangent_kernel_and_rate(model, inputs, targets)
    taken: dict[str, int] = {}

    def whole() -> None:
        history = train(spec, progress=False)
        taken.update(gradients=int(history.gradient_evaluations[-1]), snapshots=history.sizes["time"])

    def gradients() -> None:
        for _ in range(taken["gradients"]):
            torch.autograd.grad((model(inputs) - targets).square().sum() / (2 * len(inputs)), own)

    def kernels() -> None:
        tangent_kernel(model, inputs)
        for _ in range(taken["snapshots"]):
            tangent_kernel_and_rate(model, inputs, targets)

    def decompositions() -> None:
        torch.linalg.eigvalsh(pair[0])
        for _ in range(taken["snapshots"]):
            vectors = torch.linalg.eigh(pair[0])[1]
            _ = vectors.T @ (pair[1] @ vectors)

    parts = {"run": whole} | {part.__name__: part for part in (gradients, kernels, decompositions)}
    with pinned(1, 0):
        for part in parts.values():
            part()
        seconds = [{name: _seconds(part) for name, part in parts.items()} for _ in range(repeats)]
    medians = {name: float(np.median([row[name] for row in seconds])) for name in parts}
    floor = sum(medians[name] for name in parts if name != "run")
    return taken | {f"{name}_s": value for name, value in medians.items()} | {"ratio": medians["run"] / floor}


def among_others(spec: Spec, seeds: int = SEEDS, repeats: int = REPEATS) -> dict[str, float]:
    """CPU seconds a seed by its own network alone and among ``seeds`` computed at once, and their ratio.

    ``kept``: the same through ``grsd.run`` and ``grsd.ensemble``, each result in a file. Medians of alternating
    repeats. Empty if ``spec`` is of no family whose runs are computed at once.
    """
    specs = spec.with_seeds(range(1, seeds + 1))

    def alone() -> None:
        descent = descent_of(spec)
        descent.answer(course(spec, descent, None, False, begun=True))

    def together() -> None:
        train_together(specs)

    def alone_kept() -> None:
        with TemporaryDirectory() as folder:
            run(spec, folder=folder, progress=False)

    def together_kept() -> None:
        with TemporaryDirectory() as folder:
            ensemble(specs, workers=1, folder=folder, progress=False)

    with pinned(1, 0):
        if family_of(spec) is None:
            return {}
        alone()
        train_together(specs[:2])
        alone_kept()
        seconds = [
            (_seconds(alone), _seconds(together) / seeds, _seconds(alone_kept), _seconds(together_kept) / seeds)
            for _ in range(repeats)
        ]
    own, each, own_kept, each_kept = np.median(seconds, axis=0).tolist()
    found = {"seeds": seeds, "alone_s": own, "together_s": each, "gain": own / each}
    return found | {"alone_kept_s": own_kept, "together_kept_s": each_kept, "gain_kept": own_kept / each_kept}


def _seconds(part: Callable[[], None]) -> float:
    start = time.process_time()
    part()
    return time.process_time() - start


def main(folder: Path | None = None, cells: Mapping[str, Spec] = CELLS, seeds: int = SEEDS) -> Path:
    """Print the table and write it to ``folder`` (default: data/benchmarks in the project)."""
    folder = folder or project() / "data" / "benchmarks"
    table = pd.DataFrame(
        [{"cell": name} | beside_floor(spec) | among_others(spec, seeds) for name, spec in cells.items()]
    )
    print(table.round(3).to_string(index=False))
    folder.mkdir(parents=True, exist_ok=True)
    head = f"# {provenance()['versions']}; CPU seconds on one thread; medians of {REPEATS}\n"
    text = table.to_csv(index=False, lineterminator="\n", float_format="%.4g")
    path = folder / f"flow-{device_name('cpu')}.csv"
    write_atomically(path, (head + text).encode())
    return path


if __name__ == "__main__":
    main()

"""Times every model family beside torch's own Jacobian, and the first kernel of a process."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch import Tensor, nn

from grsd.bench import first
from grsd.bench.families import FAMILIES
from grsd.bench.jacobians import WAYS, by_jacobian
from grsd.bench.measure import device_name
from grsd.bench.process import in_a_fresh_interpreter, in_a_process
from grsd.kernel import tangent_kernel
from grsd.support.files import write_atomically
from grsd.support.folders import project
from grsd.support.progress import bar
from grsd.support.provenance import provenance

REPEATS = 5
SHARE, ALLOWANCE = 1.1, 0.005  # factor of the Jacobian's seconds; additional seconds
FIRST = {"grsd": 0.6, "rate": 0.9}  # seconds for known layers; others may take as long as the Jacobian
AGREE = 1e-6  # some families compute in float32
LIMIT = f"limit = {SHARE} * jacrev + {1000 * ALLOWANCE:.0f} ms"
KNOWN = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d,
    nn.BatchNorm2d, nn.BatchNorm3d, nn.MultiheadAttention, nn.modules.linear.NonDynamicallyQuantizableLinear,
)  # fmt: skip
STARTS = (
    "plain", "tied weights, sequence", "resnet", "transformer encoder", "gpt", "batch norm, 1d",
    "raw parameters", "llama", "lstm", "state space by fft", "weight norm", "looks at values", "checkpoint", "hooks",
)  # fmt: skip
COLUMNS = ["family", "samples", "outputs", "parameters", "grsd_s", "jacrev_s", "jacrev_by", "limit_s", "verdict"]
START_COLUMNS = [
    "first_s",
    "first_limit_s",
    "first_verdict",
    "first_rate_s",
    "first_rate_limit_s",
    "first_rate_verdict",
]


def bench_zoo(
    *, folder: Path | None = None, names: Sequence[str] | None = None, starts: Sequence[str] | None = None
) -> Path:
    """Write data/benchmarks/zoo-DEVICE.csv: CPU seconds of ``tangent_kernel`` in float64, on one thread, N * C >= 80.

    Args:
        folder: folder of the file, instead of data/benchmarks.
        names: some of the families; ``None``: all whose kernel is exact.
        starts: families whose first kernel in a fresh process is also timed; ``None``: ``STARTS`` within ``names``.

    ``grsd_s``, checks included, and ``jacrev_s`` are medians of 5 alternating calls; ``jacrev_by`` is the first method
    that gives the kernel: ``torch.func.jacrev`` under ``vmap``, of the whole batch, or one backward pass per output.
    ``first_s`` are seconds beyond ``import torch``. A family that cannot be timed is listed with the reason.
    """
    known = [name for name, family in FAMILIES.items() if family.kernel is None]
    names = known if names is None else list(names)
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"bench_zoo(names=...): no family with an exact kernel is called {missing[0]!r}")
    starts = [name for name in STARTS if name in names] if starts is None else starts
    rows = [timed(name) for name in bar(names, desc="grsd bench --zoo", unit="family")]
    timeable = [row for row in rows if row["family"] in starts and "jacrev_by" in row]
    for row in bar(timeable, desc="first kernels", unit="family"):
        row |= started(row["family"], row["jacrev_by"])
    table = pd.DataFrame(rows).reindex(columns=COLUMNS + START_COLUMNS)
    counts = ["samples", "outputs", "parameters"]
    table[counts] = table[counts].astype("Int64")
    name = device_name("cpu")
    path = (folder or project() / "data" / "benchmarks") / f"zoo-{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# {provenance()['versions']}; {name}; threads 1; {LIMIT}\n"
    write_atomically(path, (head + table.round(4).to_csv(index=False, lineterminator="\n")).encode())
    print(table[COLUMNS].round(4).to_string(index=False, na_rep="", max_colwidth=60))
    print(table.loc[table.first_s.notna(), ["family", *START_COLUMNS]].round(2).to_string(index=False))
    print(f"{LIMIT}: {int((table.verdict == 'ok').sum())} of {len(table)} ok")
    return path


def timed(name: str) -> dict[str, object]:
    """The row of one family."""
    try:
        row = in_a_process(name, measured, name)
    except RuntimeError as error:
        return {"family": name, "verdict": str(error).removeprefix(f"grsd bench: {name}: ").splitlines()[0]}
    return row | verdict(row["grsd_s"], SHARE * row["jacrev_s"] + ALLOWANCE)


def verdict(seconds: float, limit: float, prefix: str = "") -> dict[str, object]:
    return {f"{prefix}limit_s": limit, f"{prefix}verdict": "ok" if seconds <= limit else "over"}


def measured(name: str) -> dict[str, object]:
    """Time both methods in this process: one call each that is not counted, then alternating calls.

    Each Jacobian is that of a new network, without traces of earlier calls. If no Jacobian gives the kernel, a
    ``RuntimeError`` is raised.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    family = FAMILIES[name]
    model, inputs, _ = family.make(family.enough)
    with family.around():
        kernel = tangent_kernel(model, inputs)

    def right(other: Tensor) -> bool:
        return float((kernel - other).abs().max()) <= AGREE * float(other.abs().max())

    way = by_jacobian(lambda: family.make(family.enough)[0], inputs, right)
    if not way:
        raise RuntimeError("no Jacobian of torch gives the kernel of grsd")
    seconds: dict[str, list[float]] = {"grsd": [], "jacrev": []}
    for _ in range(REPEATS):
        again = family.make(family.enough)[0]
        with family.around():
            seconds["grsd"].append(_seconds(lambda: tangent_kernel(model, inputs)))
        seconds["jacrev"].append(_seconds(lambda again=again: WAYS[way](again, inputs)))
    return {
        "family": name,
        "samples": len(inputs),
        "outputs": len(kernel),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **{f"{method}_s": median(times) for method, times in seconds.items()},
        "jacrev_by": way,
    }


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def started(name: str, way: str) -> dict[str, object]:
    """Time the first kernel, and the first kernel with its rate, in fresh processes, and compare with their limits."""
    program = Path(first.__file__)
    cpu: dict[str, float] = {}
    for method in ("grsd", "rate", way):
        try:
            cpu[method] = in_a_fresh_interpreter(program, [name, method], 1)["cpu_s"]
        except RuntimeError as error:
            return {"first_verdict": str(error)}
    allowed = dict(FIRST) if is_known(FAMILIES[name].build()) else {k: max(s, cpu[way]) for k, s in FIRST.items()}
    row: dict[str, object] = {"first_s": cpu["grsd"], "first_rate_s": cpu["rate"]}
    row |= verdict(cpu["grsd"], allowed["grsd"], "first_")
    return row | verdict(cpu["rate"], allowed["rate"], "first_rate_")


def is_known(model: nn.Module) -> bool:
    """Whether all trainable parameters belong to layers with a factored route."""
    own = [part for part in model.modules() if any(p.requires_grad for p in part.parameters(recurse=False))]
    return all(type(part) in KNOWN for part in own)

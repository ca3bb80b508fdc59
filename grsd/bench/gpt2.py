"""Krylov's route on a language model of GPT-2 small's shape: time and memory of its shells, where M fits nowhere.

All positions: energies and dissipations from products with M alone. Last positions: the flux too, from M and M'. Each
row is measured in a process of its own and compared with one gradient by plain autograd.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grsd.bench.measure import device_name
from grsd.bench.process import in_a_process
from grsd.bench.worker import peak
from grsd.krylov import krylov_spectrum
from grsd.shells import LogShells, energy_budget
from grsd.support.files import write_atomically
from grsd.support.folders import project, writable
from grsd.support.provenance import provenance

SHELLS = LogShells(width=1.0, smoothing=0.5)
SPREAD = 0.02  # of all random weights, as in GPT-2


@dataclass(frozen=True)
class Shape:
    """The shape of a GPT-2; the defaults are those of the small one, with 124 439 808 parameters."""

    vocabulary: int = 50_257
    context: int = 1024
    width: int = 768
    heads: int = 12
    depth: int = 12


@dataclass(frozen=True)
class Row:
    """``last``: predict the token after the last one alone, else the one after each. ``rate``: M' too."""

    last: bool
    rate: bool
    steps: int
    samples: int = 8
    tokens: int = 64


SMALL = Shape()
ROWS = (Row(last=False, rate=False, steps=32), Row(last=True, rate=True, steps=8))


class GPT2(nn.Module):
    """Pre-normalized causal transformer with learned positions and tied embeddings; Radford et al. 2019.

    Input: tokens (N, T). Output: logits of all positions, (N, T V), or of the ``last``, (N, V).
    """

    def __init__(self, shape: Shape, *, last: bool) -> None:
        super().__init__()
        self.last = last
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                shape.width, shape.heads, 4 * shape.width, activation=nn.GELU(approximate="tanh"), **options
            )
            for _ in range(shape.depth)
        )
        self.norm = nn.LayerNorm(shape.width)
        for p in self.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=SPREAD)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        later = torch.full((tokens.shape[1],) * 2, -torch.inf, dtype=h.dtype, device=h.device).triu(1)
        for block in self.blocks:
            h = block(h, src_mask=later)
        return F.linear(self.norm(h[:, -1] if self.last else h), self.tokens.weight).flatten(1)


def summed(outputs: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each sample, summed over its positions; labels (N, T)."""
    logits = outputs.view(*labels.shape, -1)
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)


def measured(row: Row, shape: Shape, threads: int) -> dict[str, object]:
    """Time, peak memory and result of one row, in float32; ``off``: the share by which e^T M e is off |J^T e|^2 / N."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = GPT2(shape, last=row.last).eval()
    text = torch.randint(
        shape.vocabulary, (row.samples, row.tokens + 1), generator=torch.Generator().manual_seed(1), device="cpu"
    )
    inputs, labels = text[:, :-1], text[:, -1] if row.last else text[:, 1:]
    loss = "cross-entropy" if row.last else summed
    before, wall, cpu = peak("cpu"), time.perf_counter(), time.process_time()
    found = krylov_spectrum(
        model, inputs, labels, loss=loss, steps=row.steps, rate=row.rate, dtype=torch.float32, relaxation=False
    )
    budget = energy_budget(found, found.error, SHELLS)
    wall, cpu, most = time.perf_counter() - wall, time.process_time() - cpu, peak("cpu")
    losses = F.cross_entropy(model(inputs), labels, reduction="none") if row.last else summed(model(inputs), labels)
    gradients = torch.autograd.grad(losses.sum(), list(model.parameters()), allow_unused=True)
    expected = sum(float(g.double().square().sum()) for g in gradients if g is not None) / row.samples
    rayleigh = found.tridiagonal.norm**2 * float(found.tridiagonal.matrix[0, 0])
    sure = budget["mask"].values == 0
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        **asdict(row) | {"steps": len(found.tridiagonal.matrix)},
        "dimension": found.dimension,
        "threads": threads,
        "wall_s": wall,
        "cpu_s": cpu,
        "before_gib": before / 2**30,
        "process_gib": most / 2**30,
        "declared": float(budget.energy.values[sure].sum() / budget.energy.sum()),
        "off": abs(rayleigh / expected - 1),
    }


def bench_gpt2(*, folder: Path | None = None, rows: Sequence[Row] = ROWS, shape: Shape = SMALL) -> Path:
    """Write data/benchmarks/gpt2-DEVICE.csv: time and memory of Krylov's route on a GPT-2 with random weights.

    On one thread, in float32; many minutes of CPU and 7 GiB.

    Args:
        folder: folder of the file, instead of data/benchmarks.
        rows, shape: what is measured, instead of the two rows on GPT-2 small.

    Errors: ``ValueError`` in one line, before anything is timed, for a folder that cannot be written to.
    """
    folder = folder or project() / "data" / "benchmarks"
    writable("bench_gpt2(folder=...)", folder)
    table = pd.DataFrame([in_a_process(f"gpt2, {row}", measured, row, shape, 1) for row in rows])
    path = folder / f"gpt2-{device_name('cpu')}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    print(table.round(4).to_string(index=False))
    head = f"# {provenance()['versions']}; {device_name('cpu')}\n"
    write_atomically(path, (head + table.to_csv(index=False, lineterminator="\n", float_format="%.6g")).encode())
    return path

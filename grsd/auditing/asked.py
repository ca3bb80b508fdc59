"""The audit of a network: one call from a stranger's module to a verdict, a report and a file of numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.auditing.choices import plan
from grsd.auditing.document import document
from grsd.auditing.finished import read
from grsd.auditing.followed import follow, scratch
from grsd.auditing.question import CALL, question
from grsd.auditing.terminal import screen
from grsd.support.files import write_atomically
from grsd.support.folders import writable, writable_file
from grsd.support.progress import bar
from grsd.support.values import optional_flag
from grsd.training import Loss

KEPT = "kept"


@dataclass(frozen=True)
class Audit:
    """The answers. ``document``: plain values by the committed schema; ``runs``: each run's budgets between states.

    ``verdict``: "lazy", "running clock", "transport" or "inconclusive". In Jupyter it shows itself as the report.
    """

    document: dict[str, object]
    runs: tuple[xr.Dataset, ...]

    @property
    def verdict(self) -> str:
        return str(self.document["verdict"]["verdict"])

    @property
    def dataset(self) -> xr.Dataset:
        """The budgets between states of all runs, along ``run``; NaN where a run has no such step or shell."""
        runs = [run.assign_coords(step=np.arange(run.sizes["step"])) for run in self.runs]
        return xr.concat(runs, "run", join="outer", combine_attrs="drop_conflicts")

    def to_json(self) -> str:
        """Return the document as text, the same bytes for the same question on the same versions."""
        return json.dumps(self.document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def html(self, path: str | os.PathLike | None = None) -> str:
        """Return the report, one page without any request, and write it to ``path`` if one is given."""
        from grsd.auditing.report import page

        text = page(self.document)
        if path is not None:
            write_atomically(writable_file("Audit.html", path), text.encode())
        return text

    def _repr_html_(self) -> str:
        from grsd.auditing.report import fragment

        return fragment(self.document)

    def __str__(self) -> str:
        return screen(self.document)


def audit(
    model: Callable[..., nn.Module] | nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    checkpoints: Sequence | None = None,
    key: str | None = None,
    seeds: int | Sequence[int] = 8,
    loss: Loss = "mse",
    budget: float = 2.0,
    samples: int | None = None,
    fall: float = 3.0,
    shell_width: float = 0.7,
    conditions: bool = True,
    method: str = "auto",
    device: str | torch.device | None = None,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
    name: str | None = None,
) -> Audit:
    """Say whether a training is lazy, a running clock or transport, whether conditions hold, what the loss will do.

    Args:
        model: a function that makes a new module with random weights; torch's seed is set before each call, and a
            parameter named ``seed`` gets it. With ``checkpoints`` a module will do. Modules in evaluation mode.
        inputs, targets: samples (N, ...) and what the loss compares; for "cross-entropy" whole numbers (N,).
        checkpoints: states of a finished training, in order: files of torch or safetensors (weights alone; nothing in
            a file is executed), or state dicts; or such a list for each of several trainings. ``None``: the networks
            are trained here, by gradient flow on the samples chosen. ``key``: as for ``grsd.checkpoints``.
        seeds: how many networks, or their seeds.
        loss: "mse", "cross-entropy", or a function of (outputs, targets) that returns the losses (N,).
        budget: minutes on one core, nominally; it decides how many samples and gradients. ``samples``: that many.
        fall: e-folds of the loss after which a flow has learned enough.
        shell_width: of the shells, in natural log of the eigenvalue.
        conditions: measure the conditions too, which takes the kernel's rates.
        method: "dense", "krylov" or "auto", as for ``grsd.checkpoint_budget``.
        folder: finished parts are kept there, and the same call goes on after an interruption.
        progress: show a bar with the time left; ``None``: on a terminal and in Jupyter.
        name: of the network, in the report.

    Returns: an ``Audit``. Verdict: "lazy" if the kernel's motion did at most a tenth of what learning did to the
    shells' energies; else "running clock" if growth of the whole kernel gives at least .75 of the squared flux between
    shells, "transport" if it gives less; "inconclusive" if the 95 % interval over runs leaves this open, and then
    about how many more seeds would tell. Computed on one thread in float64: equal questions have
    equal answers, to the byte.
    Errors: ``TypeError``, ``ValueError`` or ``RuntimeError`` in one line.
    """
    optional_flag(CALL, "progress", progress)
    if folder is not None:
        folder = Path(writable(CALL, folder)) / KEPT
    asked = question(
        model,
        inputs,
        targets,
        checkpoints=checkpoints,
        key=key,
        seeds=seeds,
        loss=loss,
        budget=budget,
        samples=samples,
        fall=fall,
        shell_width=shell_width,
        conditions=conditions,
        method=method,
        device=device,
        name=name,
    )
    planned = plan(asked)
    if asked.runs:
        followed = read(asked, planned, folder, progress)
    else:
        kept = scratch(asked, planned, None if folder is None else str(folder))
        shown = bar(asked.seeds, show=progress, desc=CALL, unit="network")
        followed = [follow(asked, planned, seed, kept) for seed in shown]
    return Audit(document(asked, planned, followed), tuple(one.found["between"] for one in followed))

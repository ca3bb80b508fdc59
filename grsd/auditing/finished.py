"""Finished trainings, read from their checkpoints: budgets between states, over runs or over groups of samples."""

from __future__ import annotations

import os

import torch
import xarray as xr

from grsd.auditing.choices import Plan
from grsd.auditing.followed import Followed, naming
from grsd.auditing.question import CALL, Question
from grsd.shells import LogShells
from grsd.support.pinned import pinned
from grsd.support.progress import bar
from grsd.training import checkpoints
from grsd.training.files import read_state


def read(question: Question, plan: Plan, folder: str | os.PathLike | None, progress: bool | None) -> list[Followed]:
    """Return one ``Followed`` for each training, or for each group of samples of a single one.

    Errors: in one line for states that are not those of the model, or that contain NaN or infinity.
    """
    model = question.make(question.seeds[0])
    for run in question.runs:
        for source in run:
            _finite(read_state(CALL, "checkpoints", source, question.key), source)
    batches = question.chosen(plan.samples, plan.groups)
    parts = [(run, batch) for run in question.runs for batch in batches]
    shells, found = LogShells(question.shell_width), []
    options = {"key": question.key, "loss": question.loss, "method": plan.route, "device": question.device}
    for number, (run, (inputs, targets)) in enumerate(bar(parts, show=progress, desc=CALL, unit="group")):
        with pinned(1, 0), naming(""):
            between = checkpoints(model, list(run), inputs, targets, shells, folder=folder, progress=False, **options)
        found.append(Followed(number, "the last checkpoint", {"between": between}))
    return found


def labels(between: xr.Dataset) -> list[str]:
    """Return the names of the states, in order."""
    names = [str(name) for name in between.label_before.values]
    return [*names, str(between.label_after.values[-1])]


def _name(source: object) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "a state"


def _finite(state: dict, source: object) -> None:
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{CALL}(checkpoints=...): {_name(source)}: {name!r} contains NaN or infinity: the training diverged "
                "(a learning rate past the edge of stability?); leave this state and later ones out"
            )

"""Finished trainings, read from their checkpoints: budgets between states, over runs or over groups of samples."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
import xarray as xr
from torch import Tensor, nn

from grsd.auditing.blind import blindness, constant
from grsd.auditing.choices import Plan
from grsd.auditing.followed import PLACES, Followed, naming, positive_loss
from grsd.auditing.question import CALL, Question
from grsd.flow.states import module_of
from grsd.losses import fitting_targets, loss_and_force
from grsd.shells import LogShells
from grsd.support.pinned import pinned
from grsd.support.progress import bar
from grsd.training import checkpoints
from grsd.training.files import is_file, naming_source, read_state
from grsd.training.names import by_own_names

GIVEN = "checkpoints"
Batches = Sequence[tuple[Tensor, Tensor]]


def read(question: Question, plan: Plan, folder: str | os.PathLike | None, progress: bool | None) -> list[Followed]:
    """Return one ``Followed`` for each training, or for each group of samples of a single one.

    Errors: in one line for states that are not those of the model, that contain NaN or infinity, or that cannot learn.
    """
    model = question.make(question.seeds[0])
    for number, run in enumerate(question.runs):
        _check(question, plan, model, run, _places(question, number))
    batches = question.chosen(plan.samples, plan.groups)
    parts = [(n, run, batch) for n, run in enumerate(question.runs) for batch in batches]
    shells, found = LogShells(question.shell_width), []
    options = {"key": question.key, "loss": question.loss, "method": plan.route, "device": question.device}
    for number, (n, run, (inputs, targets)) in enumerate(bar(parts, show=progress, desc=CALL, unit="group")):
        with pinned(1, 0), naming("", {"(files[": f"({_places(question, n)}[", **PLACES}):
            between = checkpoints(model, list(run), inputs, targets, shells, folder=folder, progress=False, **options)
        found.append(Followed(number, "the last checkpoint", {"between": between}))
    return found


def labels(between: xr.Dataset) -> list[str]:
    """Return the names of the states, in order."""
    names = [str(name) for name in between.label_before.values]
    return [*names, str(between.label_after.values[-1])]


def _places(question: Question, number: int) -> str:
    """Return how the user writes the list of states of a training."""
    return GIVEN if len(question.runs) == 1 else f"{GIVEN}[{number}]"


def _check(question: Question, plan: Plan, model: nn.Module, run: Sequence[object], places: str) -> None:
    """Refuse a training whose states cannot be compared, in one line that names the file, or the place of a state."""
    first, unchanged = None, True
    batches = question.chosen(plan.samples, plan.groups)
    for k, source in enumerate(run):
        place = f"{places}[{k}]"
        state = read_state(CALL, GIVEN if is_file(source) else place, source, question.key)
        with pinned(1, 0), naming_source(CALL, GIVEN, place, source):
            _finite(place, state)
            module = module_of(CALL, place, (model, by_own_names(CALL, place, state, model)))
            _alive(question, place, module, batches, last=k == len(run) - 1)
        first = state if first is None else first
        unchanged = unchanged and _equal(state, first)
    if unchanged:
        kept = "are they files of the network that the optimizer trains?"
        if not is_file(run[0]):
            kept = "keep copies, copy.deepcopy(model.state_dict()): the dict itself follows the training"
        raise ValueError(f"{CALL}({places}=...): all {len(run)} states are equal, so nothing was learned; {kept}")


def _alive(question: Question, place: str, module: nn.Module, batches: Batches, last: bool) -> None:
    """Refuse a state that cannot learn from the inputs, whose loss has no log, or that has learned a constant."""
    private = module.cpu().double()
    batches = [(x.cpu().double() if x.is_floating_point() else x.cpu(), y.cpu()) for x, y in batches]
    why = blindness(private, torch.cat([x for x, _ in batches]))
    if why is not None:
        raise ValueError(f"{CALL}({place}=...): {why}")
    try:
        with torch.no_grad():
            found = [private(x) for x, _ in batches]
    except Exception:  # a foreign model may raise anything; what refuses it below says more
        return
    if not all(isinstance(outputs, Tensor) and bool(torch.isfinite(outputs).all()) for outputs in found):
        return
    for outputs, (_, targets) in zip(found, batches, strict=True):
        fitting = fitting_targets(CALL, question.loss, outputs, targets)
        positive_loss(place, loss_and_force(CALL, question.loss, outputs, fitting)[0])
    if last and constant(torch.cat(found)):
        raise ValueError(
            f"{CALL}({place}=...): the outputs are the same for all samples, so that nothing was learned from the "
            "inputs (dead units, or layers of zeros?)"
        )


def _finite(place: str, state: Mapping[str, object]) -> None:
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{CALL}({place}=...): {name!r} contains NaN or infinity: the training diverged "
                "(a learning rate past the edge of stability?); leave this state and later ones out"
            )


def _equal(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Return whether two states have the same tensors."""
    tensors = [{name: value for name, value in state.items() if isinstance(value, Tensor)} for state in (one, other)]
    return tensors[0].keys() == tensors[1].keys() and all(torch.equal(v, tensors[1][k]) for k, v in tensors[0].items())

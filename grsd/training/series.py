"""A history over many checkpoints, read from files one after the other and kept as it grows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.losses import Loss, check_loss
from grsd.runs.fingerprint import UNKNOWN, code_of, fingerprint
from grsd.runs.store import Scratch
from grsd.shells.windows import LogShells
from grsd.support.arguments import described, listed
from grsd.support.checks import in_one_line
from grsd.support.folders import writable
from grsd.support.progress import bar
from grsd.support.provenance import provenance
from grsd.support.values import instance, optional_flag, said
from grsd.training.files import Source, is_file, naming_source, read_state
from grsd.training.identity import architecture, hashed
from grsd.training.names import by_own_names
from grsd.training.reading import Force, Reading
from grsd.training.recorder import Seen, budgets_between

CALL = "checkpoints"
Labels = Sequence[str] | Sequence[float]


def checkpoints(
    model: nn.Module | Callable[[], nn.Module],
    files: Sequence[Source],
    inputs: Tensor,
    targets: Tensor,
    shells: LogShells,
    *,
    labels: Labels | None = None,
    key: str | None = None,
    folder: str | os.PathLike | None = None,
    loss: Loss = "mse",
    method: str = "auto",
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    memory_limit: str | int | None = None,
    steps: int = 80,
    tolerance: float = 0.1,
    batch: int = 1000,
    progress: bool | None = None,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """``checkpoint_budget`` between each two neighbours of many checkpoints in files, along ``step``.

    Args:
        model: a module, or a function that makes one, into whose copies the states are loaded.
        files: two or more, in order: ``.safetensors``, else files of ``torch.save`` (weights alone: nothing in a file
            is executed), or state dicts. One or two states are in memory at a time. One prefix before all names, as
            trainers and wrappers put it there, is looked through.
        shells: without a span they cover the spectra of the first and the last state, the end shells reach to infinity.
        labels: one for each file, numbers (of training steps) or texts; ``None``: the names of the files without their
            endings, or the positions.
        key: under which a file holds its state dict, such as Lightning's "state_dict".
        folder: each finished step is kept there, and found again by what it was computed from: the states, the samples,
            the settings and the code. A call that was interrupted, even killed, goes on where it was; more files at
            the end add their own steps alone if the shells have a span. ``None``: nothing is kept.
        Others: as for ``checkpoint_budget``.

    Returns: the dataset of ``checkpoint_history``, with ``label_before(step)`` and ``label_after(step)``. Every file is
    read and checked before any kernel is computed; each kernel is computed once.
    Errors: as ``checkpoint_budget``; ``ValueError`` or ``OSError`` for files that hold no weights that fit the model.
    """
    limits = (dtype, device, memory_limit, steps, tolerance, batch)
    reading = Reading(CALL, inputs, targets, shells, loss, method, *limits)
    described(CALL, parameters)
    optional_flag(CALL, "progress", progress)
    sources = listed(CALL, "files", files, "files or state dicts", 2)
    named = _labels(labels, sources)
    module = _module(model)
    marks = {} if folder is None else _marks(reading, module)
    spec = marks.get("spec", "")
    folder = None if folder is None else writable(CALL, folder)

    def state(k: int) -> tuple[nn.Module, Mapping[str, Tensor]]:
        read = read_state(CALL, "files" if is_file(sources[k]) else f"files[{k}]", sources[k], key)
        return module, by_own_names(CALL, f"files[{k}]", read, module)

    digests = []
    for k in range(len(sources)):
        with naming_source(CALL, "files", f"files[{k}]", sources[k]):
            given = state(k)
            force = reading.force(f"files[{k}]", given)
        if reading.route is None:
            reading.decide(force.force, 2)
        digests.append(_digest(given[1], force))
    seen: dict[int, Seen] = {}

    def look(k: int) -> Seen:
        if k not in seen:
            with naming_source(CALL, "files", f"files[{k}]", sources[k]):
                seen[k] = reading.look(f"files[{k}]", state(k))
        return seen[k]

    kept = None if folder is None else Scratch(Path(folder), marks | {"route": reading.route})
    span = shells.span
    if span is None:
        span = _span(kept, look, digests, _part(f"span {digests[0]} {digests[-1]}", spec, reading))
        reading.shells = replace(shells, span=span)
    budgets = []
    for k in bar(range(len(sources) - 1), show=progress, desc=CALL, unit="step"):
        part = _part("{} {} {:.12g}-{:.12g}".format(*digests[k : k + 2], *span), spec, reading)
        found = None if kept is None else kept.load(part)
        if found is None:
            found = budgets_between(reading, [look(k), look(k + 1)], None)
            if kept is not None:
                kept.save(part, found)
        budgets.append(found)
        seen.pop(k, None)
    return _joined(budgets, named, parameters, (*marks, "route", "part"))


def _part(what: str, spec: str, reading: Reading) -> str:
    """Return the name under which a part is kept: other settings have other names, so that none replaces another's."""
    return hashlib.sha256(f"{what} {spec} {reading.route}".encode()).hexdigest()[:32]


def _span(kept: Scratch | None, look: Callable[[int], Seen], digests: Sequence[str], part: str) -> tuple[float, float]:
    """Return the range of the spectra of the first and the last state, kept too: it takes their kernels."""
    found = None if kept is None else kept.load(part)
    if found is None:
        ranges = [look(k).range() for k in (0, len(digests) - 1)]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        if not low < high:
            raise ValueError(f"{CALL}(shells=...): the first and the last state do not say a span; give LogShells one")
        found = xr.Dataset({"span": ("end", [low, high])})
        if kept is not None:
            kept.save(part, found)
    low, high = found.span.values
    return float(low), float(high)


def _module(model: object) -> nn.Module:
    def failed(error: Exception) -> str:
        text = (str(error).strip() or "no message").splitlines()[0]
        return f"(model=...): the function that makes the module failed ({type(error).__name__}: {text})"

    made = model
    if callable(model) and not isinstance(model, nn.Module):
        with in_one_line(CALL, failed):
            made = model()
    if not isinstance(made, nn.Module):
        raise TypeError(f"{CALL}(model=...): expected a torch.nn.Module or a function that makes one, got {said(made)}")
    return made


def _labels(labels: object, sources: Sequence[object]) -> np.ndarray:
    if labels is None:
        names = [Path(source).stem for source in sources if is_file(source)]
        return np.array(names) if len(set(names)) == len(sources) else np.arange(len(sources))
    given = listed(CALL, "labels", labels, "numbers or texts")
    numbers = all(
        isinstance(label, int | float | np.number) and not isinstance(label, bool) and np.isfinite(label)
        for label in given
    )
    if len(given) != len(sources) or not (numbers or all(isinstance(label, str) for label in given)):
        raise ValueError(
            f"{CALL}(labels=...): expected {len(sources)} finite numbers or texts, one for each file, "
            f"got {said(labels)}"
        )
    return np.array(given)


def _marks(reading: Reading, module: nn.Module) -> dict[str, str]:
    """Return what identifies the kept steps of a call, besides the states themselves."""
    for name, value in (("inputs", reading.inputs), ("targets", reading.targets)):
        instance(CALL, name, value, Tensor, "a torch.Tensor")
    code = fingerprint(checkpoints)
    if callable(reading.loss):
        own = code_of(reading.loss)
        if own == UNKNOWN:
            raise ValueError(f"{CALL}(folder=..., loss=...): steps are kept only for a loss that stands in a file")
        code = hashlib.sha256(f"{code} {own}".encode()).hexdigest()
    modes = [part.training for part in module.modules()]
    spec = {
        "loss": check_loss(CALL, reading.loss),
        "width": reading.shells.width,
        "smoothing": reading.shells.smoothing,
        "dtype": str(reading.dtype),
        "steps": reading.steps,
        "tolerance": reading.tolerance,
        "samples": hashed(reading.inputs, reading.targets),
        "model": hashlib.sha256(f"{architecture(module)} {modes}".encode()).hexdigest(),
    }
    return {"function": CALL, "spec": json.dumps(spec, sort_keys=True), "code": code}


def _digest(state: Mapping[str, object], force: Force) -> str:
    """Return sha256 of a state; the loss and the force stand for what the module does with it."""
    size = f"{force.loss:.6g} {float(force.force.norm()):.6g}"
    tensors = [(name, value) for name, value in sorted(state.items()) if isinstance(value, Tensor)]
    text = " ".join(name for name, _ in tensors)
    return hashlib.sha256(f"{hashed(*(value for _, value in tensors))} {text} {size}".encode()).hexdigest()


def _joined(
    budgets: Sequence[xr.Dataset], labels: np.ndarray, parameters: Mapping[str, object] | None, marks: Sequence[str]
) -> xr.Dataset:
    data = xr.concat(
        budgets, "step", data_vars="minimal", coords="minimal", compat="override", combine_attrs="override"
    )
    attributes = {name: value for name, value in budgets[0].attrs.items() if name not in marks}
    about = {"long_name": "step, from state k to state k + 1"}
    coords = {
        "step": ("step", np.arange(len(budgets)), about),
        "label_before": ("step", labels[:-1], {"long_name": "label of the first state"}),
        "label_after": ("step", labels[1:], {"long_name": "label of the second state"}),
    }
    data.attrs = attributes | provenance(parameters)
    return data.assign_coords(coords)

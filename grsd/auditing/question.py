"""What an audit is asked: a network by seed or in checkpoints, samples, targets, loss; refused before any computing."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from grsd.support.arguments import integers, listed
from grsd.support.checks import adapter, check_inputs, in_one_line, resolve_device
from grsd.support.pinned import pinned
from grsd.support.values import choice, flag, instance, number, positive, said, seed_of, whole_number
from grsd.training import Loss, check_loss, fitting_targets
from grsd.training.files import is_file
from grsd.training.reading import METHODS

CALL = "audit"
MINUTES = 0.05, 1e5
FALL = 0.5, 20.0
SAMPLES_SEED = 0
FEW = 4


@dataclass(frozen=True)
class Question:
    """A checked question; ``runs`` holds the checkpoints of each finished training, none for gradient flow.

    ``inputs`` and ``targets`` are all samples given, ``outputs`` the shape of the model's outputs for one sample.
    """

    make: Callable[[int], nn.Module]
    inputs: Tensor
    targets: Tensor
    runs: tuple[tuple[object, ...], ...]
    key: str | None
    seeds: tuple[int, ...]
    loss: Loss
    budget: float
    samples: int | None
    fall: float
    shell_width: float
    conditions: bool
    method: str
    device: str | torch.device | None
    name: str
    outputs: tuple[int, ...]
    parameters: int

    @property
    def mode(self) -> str:
        return "checkpoints" if self.runs else "flow"

    def chosen(self, count: int, groups: int = 1) -> list[tuple[Tensor, Tensor]]:
        """Return ``groups`` disjoint batches of ``count`` samples, drawn with a fixed seed, each in its order."""
        order = np.random.default_rng(SAMPLES_SEED).permutation(len(self.inputs))
        parts = [np.sort(order[k * count : (k + 1) * count]) for k in range(groups)]
        return [(self.inputs[part], self.targets[part]) for part in parts]


def question(
    model: object,
    inputs: object,
    targets: object,
    *,
    checkpoints: object,
    key: str | None,
    seeds: object,
    loss: Loss,
    budget: float,
    samples: int | None,
    fall: float,
    shell_width: float,
    conditions: bool,
    method: str,
    device: str | torch.device | None,
    name: str | None,
) -> Question:
    """Check everything that can be checked without a kernel. Errors: ``TypeError`` or ``ValueError`` in one line."""
    check_loss(CALL, loss)
    choice(CALL, "method", method, METHODS)
    positive(CALL, "budget", budget, *MINUTES)
    number(CALL, "fall", fall, *FALL)
    positive(CALL, "shell_width", shell_width, 0.1, 5.0)
    flag(CALL, "conditions", conditions)
    for title, text in (("key", key), ("name", name)):
        if text is not None:
            instance(CALL, title, text, str, "a text")
    chosen = _seeds(seeds)
    runs = () if checkpoints is None else _runs(checkpoints)
    for title, tensor in (("inputs", inputs), ("targets", targets)):
        if not isinstance(tensor, Tensor):
            kind = said(tensor)
            if isinstance(tensor, Mapping | list | tuple):
                keys = f" of {', '.join(map(str, tensor))!s:.60}" if isinstance(tensor, Mapping) else ""
                kind = f"a {type(tensor).__name__}{keys}"
            raise TypeError(f"{CALL}({title}=...): expected a torch.Tensor, got {kind}{_as_tensor(title, tensor)}")
        if tensor.ndim == 0 or tensor.device.type == "meta":
            raise ValueError(f"{CALL}({title}=...): expected a batch (N, ...) with values, got {said(tensor)}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{CALL}({title}=...): found NaN or infinity; the data must be finite")
    if len(inputs) != len(targets) or len(inputs) < FEW:
        raise ValueError(
            f"{CALL}(inputs, targets): expected as many inputs as targets, at least {FEW}, got {len(inputs)} and "
            f"{len(targets)}"
        )
    flat = targets.reshape(len(targets), -1)
    if bool((flat == flat[0]).all()):
        raise ValueError(
            f"{CALL}(targets=...): all {len(targets)} targets are the same; a constant is learned without any feature, "
            "so there is nothing to tell shells apart; pass targets that differ"
        )
    rows = inputs.reshape(len(inputs), -1)
    if bool((rows == rows[0]).all()):
        raise ValueError(
            f"{CALL}(inputs=...): all {len(inputs)} inputs are the same, so that no network can tell samples apart; "
            "pass inputs that differ"
        )
    if samples is not None and whole_number(CALL, "samples", samples, FEW) > len(inputs):
        raise ValueError(f"{CALL}(samples=...): expected at most the {len(inputs)} samples given, got {samples}")
    make = factory(model)
    first = make(chosen[0])
    if not any(p.requires_grad for p in first.parameters()):
        raise ValueError(f"{CALL}(model=...): the model has no parameter with requires_grad=True; nothing can learn")
    check_inputs(CALL, first, inputs)
    resolve_device(CALL, device, first)
    outputs = _outputs(first, inputs[:FEW])
    _check_targets(loss, outputs, targets)
    if not runs and len(chosen) > 1:
        _differ(first, make(chosen[1]), chosen[:2])
    return Question(
        make=make,
        inputs=inputs,
        targets=targets,
        runs=runs,
        key=key,
        seeds=chosen,
        loss=loss,
        budget=float(budget),
        samples=samples,
        fall=float(fall),
        shell_width=float(shell_width),
        conditions=conditions,
        method=method,
        device=device,
        name=name or type(first).__name__,
        outputs=outputs,
        parameters=sum(p.numel() for p in first.parameters() if p.requires_grad),
    )


def _as_tensor(title: str, value: object) -> str:
    """Return how a batch that is no tensor becomes one, as the end of a refusal."""
    if hasattr(value, "__array__"):
        return f"; use torch.as_tensor({title})"
    if title == "targets":
        return ""
    parts = list(value.values()) if isinstance(value, Mapping) else []
    if parts and all(isinstance(part, Tensor) and part.ndim for part in parts) and len({len(p) for p in parts}) == 1:
        return (
            "; take grsd.packed(make(0), inputs)[1] for inputs, and for the model lambda seed: "
            "grsd.packed(make(seed), inputs)[0]"
        )
    return "; one tensor (N, ...) of N samples: pad sequences to one length, graphs to dense adjacency matrices"


def factory(model: object) -> Callable[[int], nn.Module]:
    """Return a function from a seed to a module, whatever the user's function takes.

    torch's seed is set before each call. The seed is passed on if the function has a parameter named ``seed``, or one
    that has no default. A module is copied: it serves checkpoints.
    """
    if isinstance(model, nn.Module):
        return lambda seed: copy.deepcopy(model)
    if not callable(model):
        raise TypeError(
            f"{CALL}(model=...): expected a function from a seed to a torch.nn.Module, or with checkpoints a module, "
            f"got {said(model)}"
        )
    passing = _passing(model)

    def make(seed: int) -> nn.Module:
        def failed(error: Exception) -> str:
            return f"(model=...): the function fails for seed {seed} ({type(error).__name__}: {_short(error)})"

        with pinned(1, seed), in_one_line(CALL, failed):
            made = model(**{passing: seed}) if passing == "seed" else model(*[seed] if passing else [])
        if not isinstance(made, nn.Module):
            raise TypeError(
                f"{CALL}(model=...): expected a function that returns a torch.nn.Module, it gave {said(made)}"
            )
        return made

    return make


def _passing(model: Callable) -> str | None:
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.name == "seed" and p.kind is not p.VAR_KEYWORD for p in parameters):
        return "seed"
    fixed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.default is p.empty and p.kind in fixed]
    if len(needed) > 1:
        raise TypeError(
            f"{CALL}(model=...): expected a function of the seed alone, it needs {', '.join(p.name for p in needed)}; "
            "wrap it in a lambda seed: ..."
        )
    return needed[0].name if needed else None


def _seeds(seeds: object) -> tuple[int, ...]:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        return tuple(range(whole_number(CALL, "seeds", seeds, 2)))
    found = integers(CALL, "seeds", seeds, 2)
    if len(set(found)) < len(found):
        raise ValueError(f"{CALL}(seeds=...): a seed stands twice in {said(seeds)}")
    return tuple(seed_of(CALL, "seeds", seed) for seed in found)


def _runs(checkpoints: object) -> tuple[tuple[object, ...], ...]:
    found = listed(CALL, "checkpoints=...", checkpoints, "files of one training in order, or such a list per training")
    nested = [isinstance(item, list | tuple) for item in found]
    if any(nested) and not all(nested):
        raise TypeError(f"{CALL}(checkpoints=...): expected files, or a list of files for each training, got both")
    runs = tuple(tuple(item) for item in found) if all(nested) else (tuple(found),)
    for run in runs:
        if len(run) < 2:
            raise ValueError(f"{CALL}(checkpoints=...): expected two or more states of each training, got {len(run)}")
        for source in run:
            if is_file(source) and not Path(source).exists():
                raise FileNotFoundError(f"{CALL}(checkpoints=...): {source}: there is no such file")
    return runs


def _outputs(model: nn.Module, inputs: Tensor) -> tuple[int, ...]:
    """Run a copy of the model, in float64, on a few samples; return the shape of its outputs for one of them."""

    def failed(error: Exception) -> str:
        text = f"(inputs=...): the model fails on {tuple(inputs.shape)} ({type(error).__name__}: {_short(error)})"
        if not inputs.is_floating_point():
            return f"{text}; inputs of {inputs.dtype} are given as they are: inputs.float(), unless they are tokens"
        return f"{text}; if inputs are tokens: inputs.long()" if "Long" in str(error) else text

    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{CALL}(model=...): {name!r} contains NaN or infinity at the start")

    with in_one_line(CALL, failed), torch.no_grad(), torch.random.fork_rng(devices=[]):
        private = copy.deepcopy(model).cpu().double()
        found = private(inputs.detach().cpu().double() if inputs.is_floating_point() else inputs.detach().cpu())
    if not isinstance(found, Tensor):
        raise TypeError(
            f"{CALL}(model=...): expected outputs (N, C) or (N,), the model gives {type(found).__name__}; in the "
            f"function that makes it, {adapter(found, len(inputs))}"
        )
    if found.ndim not in (1, 2) or len(found) != len(inputs):
        several = found.ndim > 2 and len(found) == len(inputs)
        hint = (
            "take one position, such as the last, in a wrapper: def forward(self, x): return self.model(x)[:, -1]"
            if several
            else "each sample needs outputs of its own"
        )
        raise ValueError(
            f"{CALL}(model=...): expected outputs (N, C) or (N,) for {len(inputs)} samples, the model gives "
            f"{tuple(found.shape)}; {hint}"
        )
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{CALL}(model=...): the outputs at the start contain NaN or infinity")
    return tuple(found.shape[1:])


def _check_targets(loss: Loss, outputs: tuple[int, ...], targets: Tensor) -> None:
    """Refuse targets that do not fit outputs of this shape, and say what makes them fit."""
    count = len(targets)
    shape, change = (count, *outputs), None
    if loss == "mse" and targets.is_floating_point() and targets.numel() == math.prod(shape):
        change = f"targets.reshape({shape})" if tuple(targets.shape) != shape else None
    elif loss == "cross-entropy" and len(outputs) == 1 and outputs[0] > 1:
        change = _as_labels(targets, shape)
    if change is not None:
        wanted = "whole numbers (N,)" if loss == "cross-entropy" else f"the shape of the outputs, {shape}"
        raise TypeError(f"{CALL}(targets=...): expected {wanted} for loss={loss!r}, got {said(targets)}; use {change}")
    fitting_targets(CALL, loss, torch.zeros(1, dtype=torch.float32, device="cpu").expand(shape), targets)


def _as_labels(targets: Tensor, shape: tuple[int, ...]) -> str | None:
    """Return what makes class labels (N,) of targets, for outputs of ``shape`` (N, C); ``None`` if nothing does."""
    if tuple(targets.shape) == (shape[0], 1):
        return "targets.squeeze(1)"
    if targets.ndim == 1 and (targets.is_floating_point() or targets.dtype == torch.bool):
        return "targets.long()"
    return "targets.argmax(1), if they are one-hot" if tuple(targets.shape) == shape else None


def _differ(one: nn.Module, other: nn.Module, seeds: Sequence[int]) -> None:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=False)
    if all(a.shape == b.shape and bool((a == b).all()) for a, b in pairs):
        raise ValueError(
            f"{CALL}(model=...): the seeds {seeds[0]} and {seeds[1]} give equal weights, so that runs cannot differ; "
            "pass a function that makes a new module with random weights at each call"
        )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= 160 else f"{text[:157]}..."


def size_of(question: Question, count: int) -> int:
    """Return D, the number of outputs on ``count`` samples."""
    return count * math.prod(question.outputs)

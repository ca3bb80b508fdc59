"""Records of a training while it runs: the energy budget of the shells between log-spaced steps, on a fixed probe."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.losses import Loss, check_samples
from grsd.runs.store import say
from grsd.shells.windows import LogShells
from grsd.support.arguments import described
from grsd.support.checks import DTYPES, check_inputs, check_module, resolve_device
from grsd.support.values import flag, instance, positive, said, whole_number
from grsd.training.identity import weights_of
from grsd.training.kept import Kept
from grsd.training.recorder import Recorder

CALL, RECORD = "Monitor", "Monitor.record"
WIDTH = 1.0
ROOM = 5.0  # e-folds: how far the largest eigenvalue may grow before it lies in the open end shell
PER_DECADE = (0.1, 1e4)
FAILURES = (TypeError, ValueError, RuntimeError, MemoryError)


class Monitor:
    """Records a model on a probe at log-spaced steps of any training loop: the budget between each two records.

    Call ``record(step)`` in every step of the loop, with the number of optimizer steps taken so far; it does nothing
    unless a record is due. The training is the same with a monitor as without one, to the last bit.

    Args:
        model: the module that is trained, which maps a batch of inputs to outputs (N, C) or (N,).
        probe: (inputs, targets), the samples on which every record is made. They are copied.
        loss: as for ``checkpoint_budget``: "mse", "cross-entropy", or a function that gives one loss per sample.
        shells: ``None``: shells of width 1 in log eigenvalue. Without a span they cover the spectrum of the first
            record and 5 more e-folds above it; all records share them, and the end shells reach to infinity.
        per_decade: how many records are due per factor of ten in the number of steps; each step is one at first. The
            default, 6, makes 20 records of 2,000 steps.
        folder: where records are kept, one file per record. ``None``: in memory alone. A folder that holds records of
            the same probe and settings is gone on with; of others, it is refused.
        method, device, memory_limit: as for ``checkpoint_budget``.
        dtype: of the records. ``None``: the model's own, float32 for half precision. In float32 the precision floor is
            D * 1.2e-7 of the largest eigenvalue, and shells under it are masked; float64 goes lower, and takes longer.
        strict: whether a later record that fails raises. Otherwise it is left out with a warning, and the training
            goes on. The first record always raises.
        parameters: values to write into the attributes of every record.

    While a record is made, every module of the model is in evaluation mode, with autocast off. Modes, hooks, gradients,
    ``requires_grad``, buffers and the states of the random generators are afterwards what they were, also after an
    exception. Forward hooks of the model run, on a private copy of it; hooks on gradients do not. Wrappers for several
    devices are looked through; call ``record`` in one process alone.

    Attributes: ``steps``, the recorded steps, among them those of an earlier process in the same folder.

    Records survive a kill: each is on the disk before ``record`` returns. The process that goes on continues with the
    budget since the last record, whose decomposed kernel is kept beside it, D^2 numbers; with ``method="krylov"`` it is
    not kept, and the first record of the new process begins a new sequence. If a training goes on from a checkpoint
    earlier than the last record, ``record`` waits until it is past that record. At the recorded steps on the way the
    weights are compared: if they are others, a warning says so (with ``strict`` an error), and the next record begins a
    new sequence.

    All records are of the same trainable parameters; after some are frozen or freed, make another monitor.

    Errors: ``TypeError`` or ``ValueError`` in one line.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: tuple[Tensor, Tensor],
        loss: Loss,
        *,
        shells: LogShells | None = None,
        per_decade: float = 6,
        folder: str | os.PathLike | None = None,
        method: str = "auto",
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        memory_limit: str | int | None = None,
        strict: bool = False,
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        instance(CALL, "model", model, nn.Module, "a torch.nn.Module")
        inputs, targets = _pair(probe)
        check_inputs(CALL, model, inputs)
        where = resolve_device(CALL, device, model)
        with undisturbed(model):
            check_module(CALL, model, where)
        self.model, self.per_decade = model, positive(CALL, "per_decade", per_decade, *PER_DECADE)
        self.strict, self.parameters = flag(CALL, "strict", strict), parameters
        described(CALL, parameters)
        dtype = _own_dtype(model) if dtype is None else dtype
        options = {"loss": loss, "method": method, "dtype": dtype, "device": device, "memory_limit": memory_limit}
        asked = LogShells(WIDTH) if shells is None else shells
        self._recorder = Recorder(inputs, targets, asked, **options, call=CALL)
        check_samples(CALL, loss, len(inputs), targets)
        self._kept = Kept(CALL, folder, model, self._recorder.reading)
        self._recorder.reading.call = RECORD
        self.steps, self._budgets = self._kept.open(self._recorder, where)
        self._tried = self._earlier = self.steps[-1] if self.steps else -1
        self._compared = self._told = False

    def __repr__(self) -> str:
        last = f", the last at step {self.steps[-1]}" if self.steps else ""
        samples = len(self._recorder.reading.inputs)
        return f"Monitor({type(self.model).__name__}, {samples} samples, {len(self.steps)} records{last})"

    def due(self, step: int) -> bool:
        """Whether a record is due: at the first call, then at each first step at or past a log-spaced one.

        The log-spaced steps are 0 and the rounded powers 10^(k / per_decade).
        """
        return whole_number("Monitor.due", "step", step, 0) >= self._next()

    def record(self, step: int, *, now: bool = False) -> xr.Dataset | None:
        """Record the model if that is due; return the budget since the record before, ``None`` if there is none.

        Args:
            step: the number of optimizer steps taken so far, a whole number. A step that is not past the last record
                is left out.
            now: record although it is not due, for example after the last step, or once more after a failure.

        Returns: the variables of ``checkpoint_budget``, with the coordinates ``step`` and ``step_before``.
        Errors: as ``checkpoint_budget``; for later records only with ``strict``.
        """
        step = whole_number(RECORD, "step", step, 0)
        asked = flag(RECORD, "now", now)
        if self.steps and step <= self.steps[-1]:
            self._not_past(step)
            return None
        if not (asked or step >= self._next()):
            return None
        first, self._tried = not self.steps, step
        try:
            with undisturbed(self.model):
                budget = self._recorder.add(self.model, name="model", parameters=self.parameters)
        except FAILURES as error:
            if first:
                self._tried = -1
            if first or self.strict:
                raise
            text = " ".join(str(error).split())
            warnings.warn(f"step {step} is not recorded: {text}", stacklevel=2)
            return None
        if first:
            self._fix_span()
        if budget is not None:
            budget = budget.assign_coords(step=step, step_before=self.steps[-1])
            self._budgets.append(budget)
        self.steps.append(step)
        self._kept.keep(step, budget, self._recorder)
        return budget

    def _not_past(self, step: int) -> None:
        """Tell another training from one that goes on, at a step that is not past the last record; say one line."""
        last = self.steps[-1]
        if self._told:
            return
        if step > self._earlier:
            if step < last:
                self._told = True
                text = (
                    f"{RECORD}(step={step}): step {last} is recorded already; nothing is recorded until a step past it"
                )
                warnings.warn(text, stacklevel=3)
            return
        expected = self._kept.weights.get(step)
        if expected is None:
            if not self._compared:
                self._compared = True
                say(
                    f"{RECORD}(step={step}): steps up to {self._earlier} are of an earlier process; waiting until a "
                    "step past it"
                )
            return
        self._compared = True
        if weights_of(self.model) == expected:
            return
        self._told, self._recorder.latest = True, None
        text = (
            f"{RECORD}(step={step}): expected the weights that {self._kept.folder} holds of this step, got others: it "
            f"is another training, or one that does not repeat exactly; the record after step {last} begins a new "
            "sequence; choose another folder for another training"
        )
        if self.strict:
            raise ValueError(text)
        warnings.warn(text, stacklevel=3)

    def history(self) -> xr.Dataset:
        """Return all budgets along ``step``, the later step of each; ``step_before`` is the earlier one.

        Errors: ``ValueError`` if there are fewer than two records.
        """
        if not self._budgets:
            raise ValueError(
                f"Monitor.history(): expected at least two records, got {len(self.steps)}; call record(step) in the "
                "training loop, or record(step, now=True)"
            )
        rows = [one.drop_vars("step_before").expand_dims("step") for one in self._budgets]
        data = xr.concat(
            rows, "step", data_vars="all", coords="minimal", compat="override", join="exact", combine_attrs="override"
        )
        before = [int(one.step_before) for one in self._budgets]
        data["step"].attrs["long_name"] = "number of optimizer steps at the second state"
        text = {"long_name": "number of optimizer steps at the first state"}
        return data.assign_coords(step_before=("step", np.array(before), text))

    def _next(self) -> int:
        """Return the least step at which a record is due."""
        if self._tried < 1:
            return self._tried + 1
        k = int(np.log10(self._tried) * self.per_decade)
        while (step := round(10 ** (k / self.per_decade))) <= self._tried:
            k += 1
        return step

    def _fix_span(self) -> None:
        """Fix the span of the shells, so that all records share them."""
        reading = self._recorder.reading
        if reading.shells.span is not None:
            return
        low, high = self._recorder.latest.range()
        if not low < np.inf:
            self._recorder.latest, self._tried = None, -1
            raise ValueError(f"{RECORD}(step=...): the force is zero; pass shells with a span, or record later")
        reading.shells = replace(reading.shells, span=(low, high + ROOM))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, all parts of the model are in evaluation mode and autocast is off; modes and random states come back.

    Modes are set as attributes: ``train()`` of a module may do more than that. Hooks on the gradients of parameters are
    off, too: they change how the model is trained, not its outputs.
    """
    tensors = [one for one in [*model.parameters(), *model.buffers()] if one._backward_hooks]
    hooks = [one._backward_hooks for one in tensors]
    modes = [(part, part.training) for part in model.modules()]
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    python, numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        for kind in ["cpu", "cuda"] if devices else ["cpu"]:
            stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            for part, _ in modes:
                part.training = False
            for one in tensors:
                one._backward_hooks = None
            yield
        finally:
            for one, own in zip(tensors, hooks, strict=True):
                one._backward_hooks = own
            for part, mode in modes:
                part.training = mode
            random.setstate(python)
            np.random.set_state(numpy)


def _pair(probe: object) -> tuple[Tensor, Tensor]:
    pair = tuple(probe) if isinstance(probe, tuple | list) else ()
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise TypeError(f"{CALL}(probe=...): expected (inputs, targets), two tensors, got {said(probe)}")
    for part in pair:
        if part.device.type == "meta" or part.layout != torch.strided:
            raise TypeError(f"{CALL}(probe=...): expected dense tensors with values, got {said(part)}")
    return pair[0].detach().clone(), pair[1].detach().clone()


def _own_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of the first trainable parameter, float32 if that is neither float32 nor float64."""
    own = next((p.dtype for p in model.parameters() if p.requires_grad), torch.float32)
    return own if own in DTYPES else torch.float32

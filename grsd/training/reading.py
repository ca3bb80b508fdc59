"""How the states of one call are read: the samples, the targets, the shells and the loss that all of them share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grsd.decomposition import spectrum
from grsd.jacobian import exact_derivatives
from grsd.jacobian.prepare import prepare
from grsd.kernel.computation import KernelComputation
from grsd.shells.windows import LogShells
from grsd.support.checks import floating_dtype, memory_bytes
from grsd.support.values import choice, instance
from grsd.training.dense import DenseState
from grsd.training.forces import Loss, check_loss, fitting_targets, loss_and_force
from grsd.training.states import State, module_of

METHODS = ("auto", "dense")
WORKING_MATRICES = 4  # beside the spectra that are held: a kernel, its eigenvectors, and twice that for the solver


@dataclass(frozen=True)
class Force:
    """The loss and the force e (D,) of one state."""

    loss: float
    force: Tensor


@dataclass(frozen=True)
class Reading:
    """How the states of one call are read; refuses wrong settings at once."""

    call: str
    inputs: Tensor
    targets: Tensor
    shells: LogShells
    loss: Loss
    method: str
    dtype: torch.dtype
    device: str | torch.device | None
    memory_limit: str | int | None
    first: dict[str, torch.Size] = field(default_factory=dict, init=False)  # name of the first state, its outputs

    def __post_init__(self) -> None:
        instance(self.call, "shells", self.shells, LogShells, "LogShells")
        check_loss(self.call, self.loss)
        choice(self.call, "method", self.method, METHODS)
        floating_dtype(self.call, self.dtype)
        if self.memory_limit is not None:
            memory_bytes(self.call, self.memory_limit)

    def force(self, name: str, state: State) -> Force:
        """Return loss and force of a state after all checks of the state and of the targets; no kernel is computed."""
        with exact_derivatives(), self.naming(name):
            module = module_of(self.call, name, state)
            outputs = prepare(self.call, module, self.inputs, self.dtype, self.device).outputs.detach()
        return self._force(name, outputs)

    def dense(self, name: str, state: State) -> DenseState:
        """Return the state with its decomposed kernel; refuses what ``force`` refuses before it computes."""
        with exact_derivatives(), self.naming(name):
            module, limits = module_of(self.call, name, state), (self.dtype, self.device, self.memory_limit)
            computation = KernelComputation(self.call, module, self.inputs, None, *limits)
        found = self._force(name, computation.outputs)
        with exact_derivatives(), self.naming(name):
            (kernel,) = computation.total()
            return DenseState(found.loss, found.force, spectrum(kernel))

    def _force(self, name: str, outputs: Tensor) -> Force:
        for first, shape in self.first.items():
            if outputs.shape != shape:
                raise ValueError(
                    f"{self.call}({name}=...): expected outputs of shape {tuple(shape)}, as those of {first}, got "
                    f"{tuple(outputs.shape)}; a budget compares states of one network"
                )
        targets = fitting_targets(self.call, self.loss, outputs, self.targets)
        loss, force = loss_and_force(self.call, self.loss, outputs, targets)
        if not self.first:
            self.first[name] = outputs.shape
        return Force(loss, force.reshape(-1))

    @contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """Name the state in refusals of its model or of its kernel."""
        try:
            yield
        except (TypeError, ValueError, RuntimeError, MemoryError) as error:
            text = str(error)
            for start in (f"{self.call}(model, ...)", f"{self.call}(model, inputs)", "spectrum(kernel=...)"):
                if text.startswith(start):
                    raise type(error)(f"{self.call}({name}=...){text.removeprefix(start)}") from error.__cause__
            raise

"""How the states of one call are read: the samples, the targets, the shells and the loss that all of them share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grsd.decomposition import spectrum
from grsd.flow.states import State, module_of
from grsd.jacobian import exact_derivatives
from grsd.jacobian.operators import KernelProducts
from grsd.jacobian.prepare import prepare
from grsd.kernel.computation import KernelComputation
from grsd.kernel.plan import free_memory
from grsd.losses import Loss, check_loss, fitting_targets, loss_and_force
from grsd.shells.windows import LogShells
from grsd.support.checks import floating_dtype, memory_bytes
from grsd.support.values import choice, instance, positive, whole_number
from grsd.training.dense import DenseState
from grsd.training.identity import Parameters, difference, parameters_of
from grsd.training.krylov import KrylovState
from grsd.training.names import by_own_names

METHODS = ("auto", "dense", "krylov")
WORKING_MATRICES = 4  # beside the spectra that are held: a kernel, its eigenvectors, and twice that for the solver
LEAST_STEPS = 6


@dataclass(frozen=True)
class Force:
    """The loss and the force e (D,) of one state."""

    loss: float
    force: Tensor


@dataclass
class Reading:
    """How the states of one call are read; refuses wrong settings at once.

    ``first``: the name of the first state that was read and the shape of its outputs; ``network``: the shapes of its
    parameters, and whether each is trained. ``route``: "dense" or "krylov",
    decided with the first state.
    """

    call: str
    inputs: Tensor
    targets: Tensor
    shells: LogShells
    loss: Loss
    method: str
    dtype: torch.dtype
    device: str | torch.device | None
    memory_limit: str | int | None
    steps: int = 80
    tolerance: float = 0.1
    batch: int = 1000
    first: tuple[str, torch.Size] | None = None
    network: Parameters | None = None
    route: str | None = None

    def __post_init__(self) -> None:
        instance(self.call, "shells", self.shells, LogShells, "LogShells")
        check_loss(self.call, self.loss)
        choice(self.call, "method", self.method, METHODS)
        floating_dtype(self.call, self.dtype)
        if self.memory_limit is not None:
            memory_bytes(self.call, self.memory_limit)
        whole_number(self.call, "steps", self.steps, LEAST_STEPS)
        positive(self.call, "tolerance", self.tolerance)
        whole_number(self.call, "batch", self.batch, 1)

    @property
    def dimension(self) -> int:
        """D, known with the first state."""
        return self.first[1].numel()

    def decide(self, force: Tensor, held: int) -> None:
        """Decide the route by whether ``held`` decomposed kernels and the work on one more fit into the memory."""
        if self.method != "auto":
            self.route = self.method
            return
        limit = free_memory(force.device) if self.memory_limit is None else memory_bytes(self.call, self.memory_limit)
        needed = (held + WORKING_MATRICES) * len(force) ** 2 * force.element_size()
        self.route = "dense" if needed <= limit else "krylov"

    def look(self, name: str, state: State) -> DenseState | KrylovState:
        """Read one state by the decided route; everything that ``force`` refuses is refused before any kernel."""
        return self._dense(name, state) if self.route == "dense" else self._krylov(name, state)

    def force(self, name: str, state: State) -> Force:
        """Return loss and force of a state after all checks of the state and of the targets; no kernel is computed."""
        with exact_derivatives(), self.naming(name):
            module = self._module(name, state)
            outputs = prepare(self.call, module, self.inputs, self.dtype, self.device).outputs.detach()
        return self._force(name, module, outputs)

    def _dense(self, name: str, state: State) -> DenseState:
        with exact_derivatives(), self.naming(name):
            module, limits = self._module(name, state), (self.dtype, self.device, self.memory_limit)
            computation = KernelComputation(self.call, module, self.inputs, None, *limits)
        found = self._force(name, module, computation.outputs)
        with exact_derivatives(), self.naming(name):
            (kernel,) = computation.total()
            return DenseState(found.loss, found.force, spectrum(kernel))

    def _krylov(self, name: str, state: State) -> KrylovState:
        with self.naming(name):
            module, options = self._module(name, state), {"dtype": self.dtype, "device": self.device}
            products = KernelProducts(module, self.inputs, **options, batch=self.batch, call=self.call)
        found = self._force(name, module, products.outputs)
        return KrylovState.of(found.loss, found.force, products, self.steps, self.tolerance)

    def _module(self, name: str, state: State) -> nn.Module:
        """Return the module in the state; one prefix before all names of a state dict is looked through."""
        if isinstance(state, tuple | list) and len(state) == 2:
            module, values = state
            if isinstance(module, nn.Module) and isinstance(values, Mapping):
                state = module, by_own_names(self.call, name, values, module)
        return module_of(self.call, name, state)

    def _force(self, name: str, module: nn.Module, outputs: Tensor) -> Force:
        if self.first is not None and outputs.shape != self.first[1]:
            raise ValueError(
                f"{self.call}({name}=...): expected outputs of shape {tuple(self.first[1])}, as those of "
                f"{self.first[0]}, got {tuple(outputs.shape)}; a budget compares states of one network"
            )
        network = parameters_of(module)
        other = None if self.network is None else difference(self.network, network)
        if other is not None:
            raise ValueError(
                f"{self.call}({name}=...): expected the parameters of {self.first[0]}, all trained or frozen as there, "
                f"got {other}; a budget compares states of one network, and freezing alone changes its kernel"
            )
        targets = fitting_targets(self.call, self.loss, outputs, self.targets)
        loss, force = loss_and_force(self.call, self.loss, outputs, targets)
        if self.first is None:
            self.first = name, outputs.shape
            self.network = network
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

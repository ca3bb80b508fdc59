"""Gradient flow of the full-batch mean loss, with snapshots at given times."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.flow.chebyshev import Chebyshev, Problem, StepUnderflow
from grsd.flow.questions import Course, T
from grsd.flow.states import module_of
from grsd.jacobian import ForwardTrace, Network, exact_derivatives, trace_with_graph
from grsd.jacobian.prepare import changes, check_leaves, copied, evaluated
from grsd.losses import Loss, check_loss, checked_force, fitting_targets
from grsd.support.arguments import described, listed, vector
from grsd.support.checks import (
    FEW,
    check_inputs,
    check_module,
    check_outputs,
    floating_dtype,
    repeatable,
    resolve_device,
)
from grsd.support.faults import is_slip
from grsd.support.progress import bar
from grsd.support.provenance import provenance
from grsd.support.values import fits_memory, positive, said, whole_number

CALL = "gradient_flow"
TOLERANCES = 1e-10, 1.0  # below, rounding decides whether a step is accepted
HISTORY = {
    "loss": ("mean loss of the samples, for the squared error |e|^2 / (2N)", "1"),
    "error_estimate": ("sum of the local error estimates, for the squared error |J est| / |e|, since the start", "1"),
    "spectral_radius": ("spectral radius of the Hessian of the loss, last estimate", "1/time"),
    "gradient_evaluations": ("full-batch gradients so far, power iterations and error estimates included", "1"),
    "steps": ("accepted steps so far", "1"),
    "rejected": ("rejected steps so far", "1"),
}


@dataclass(frozen=True)
class Snapshot:
    """The network at one time: ``model`` is a copy of the user's module, ``error`` e = dl/df of shape (N, C).

    For the squared error e is f(X) - Y.
    """

    time: float
    model: nn.Module
    error: Tensor

    def __repr__(self) -> str:
        return f"Snapshot(time={self.time:.4g}, model={type(self.model).__name__}, error={tuple(self.error.shape)})"


@dataclass(frozen=True)
class Flow:
    """A gradient flow: its snapshots, the batch it ran on, a labelled ``history`` (one row per snapshot), its loss."""

    snapshots: tuple[Snapshot, ...]
    inputs: Tensor
    targets: Tensor
    history: xr.Dataset
    loss: Loss = "mse"

    @property
    def times(self) -> np.ndarray:
        return self.history.time.values

    @classmethod
    def from_checkpoints(
        cls,
        model: nn.Module,
        states: Sequence[nn.Module | Mapping[str, Tensor]],
        times: Sequence[float] | np.ndarray,
        inputs: Tensor,
        targets: Tensor,
        *,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> Flow:
        """Return the states of any training, by any optimizer, as a flow that ``measure`` of the conditions reads.

        Args:
            model: the module of the states. states: at each time, a state dict or a module. For files,
                ``torch.load(file, weights_only=True)`` gives one, or ``safetensors.torch.load_file(file)``.
            times: increasing from 0, in the unit of gradient flow: for gradient descent learning rate times steps.
            inputs, targets: the batch on which the kernels are taken; its loss is the mean squared error.

        Exact, whatever the training was: everything that is a function of one state, such as kernels, spectra, energies
        of shells, and what gradient flow of this loss would do from that state on: rates of the kernel, dissipation,
        couplings, fluxes and velocities. Not exact: whatever compares states or reads a time, since the training moved
        between them by other steps than gradient flow: the trend eta of condition 3, frontiers and collapses in
        lambda t, and the change of an energy from one state to the next, which is not the flux integrated.
        ``grsd.checkpoints`` gives the exact budget between two states, and takes any loss. The history has no counts
        of steps and no error estimate: these are NaN.

        Errors: as ``gradient_flow``; ``ValueError`` for a state that does not fit, or another number of times.
        """
        return _from_checkpoints(model, states, times, inputs, targets, dtype, device, parameters)

    def __repr__(self) -> str:
        span = f"times {self.times[0]:.4g} to {self.times[-1]:.4g}" if self.times.size else "no times"
        loss = f"loss {float(self.history.loss[-1]):.4g} at the end" if self.times.size else "no loss"
        return f"Flow({len(self.snapshots)} snapshots, {span}, {len(self.inputs)} samples, {loss})"


class FlowError(RuntimeError):
    """Raised if the flow cannot be continued; ``flow`` holds the snapshots computed so far."""

    def __init__(self, message: str, flow: Flow) -> None:
        super().__init__(message)
        self.flow = flow


def log_times(first: float, last: float, count: int) -> np.ndarray:
    """Return ``count`` times, equally spaced in log time, from ``first`` to ``last`` inclusive; float64, (count,)."""
    first, last = positive("log_times", "first", first), positive("log_times", "last", last)
    if not first < last:
        raise ValueError(f"log_times(last=...): expected more than first={first!r}, got {last!r}")
    fits_memory("log_times", "count", whole_number("log_times", "count", count, 2))
    return np.geomspace(first, last, int(count))


def gradient_flow(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    times: Sequence[float] | np.ndarray,
    *,
    loss: Loss = "mse",
    tolerance: float = 1e-4,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    parameters: Mapping[str, object] | None = None,
) -> Flow:
    """Follow theta' = -grad L, L the mean loss, on a copy of ``model`` and keep a snapshot at each of ``times``.

    Args:
        model: any module mapping (N, ...) to (N, C) or (N,). Left untouched; frozen parameters stay frozen.
        inputs: the full batch, shape (N, ...).
        targets: for "mse" floating point, of exactly the output's shape; for "cross-entropy" class labels (N,).
        loss: "mse", l = |f - y|^2 / 2; "cross-entropy"; or a function of (outputs, targets) that returns the losses
            (N,). The snapshots carry its force e = dl/df, for "mse" f(X) - Y.
        times: increasing, not negative; 0 is the start. ``log_times`` gives equally spaced log times.
        tolerance: accepted local error of a step, in e and relative to it, for "mse" |J est| <= tolerance |e|; for
            other losses also in the outputs and relative to these. Once |e| is below 1e4 rounding errors, the flow
            stops moving.
        dtype: of the copy.
        device: ``None`` (the model's), ``"auto"``, ``"cpu"`` or ``"cuda"``.
        progress: show a bar; ``None``: on a terminal and in Jupyter.
        parameters: values to write into the history's attributes besides versions and settings (seed, depth, ...).

    Returns:
        ``Flow``. Its history counts the gradients and sums the local error estimates. If the flow contracts and its
        errors decay no slower than e itself, this sum bounds the relative error at the end.

    Errors: ``TypeError`` or ``ValueError`` in one line before any computing; ``FlowError`` with the snapshots already
    made if the step underflows (a loss that is not smooth, or numbers that overflow) or the model or the loss fails.
    """
    times = _check_times(times)
    options = {"loss": loss, "tolerance": tolerance, "dtype": dtype, "device": device, "parameters": parameters}
    descent = Descent(model, inputs, targets, **options)
    snapshots: list[Snapshot] = []
    rows: list[dict[str, float]] = []

    def result() -> Flow:
        history = descent.history([snapshot.time for snapshot in snapshots], rows)
        return Flow(tuple(snapshots), descent.inputs, descent.targets, history, loss)

    shown = bar(times, show=progress, desc="gradient flow", unit="snapshot")
    for time in shown:
        try:
            snapshot, row = descent.snapshot(float(time)), descent.row()
        except Exception as error:  # the model or the loss may raise anything on its way
            if is_slip(error):
                raise
            own = isinstance(error, StepUnderflow)
            why = str(error) if own else f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
            raise FlowError(
                f"{CALL}: {why}; the {len(snapshots)} snapshots before it are in this exception's .flow", result()
            ) from (None if own else error)
        snapshots.append(snapshot)
        rows.append(row)
        shown.set_postfix(loss=f"{rows[-1]['loss']:.3g}", gradients=rows[-1]["gradient_evaluations"])
    return result()


class Descent:
    """A gradient flow that can be stopped at any step and resumed in another process with the same bits.

    Arguments and errors are those of ``gradient_flow``. ``state``: a result of ``state()`` from the same flow; the bits
    are the same on the same machine with the same number of threads.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        loss: Loss = "mse",
        tolerance: float = 1e-4,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device | None = None,
        parameters: Mapping[str, object] | None = None,
        state: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        check_inputs(CALL, model, inputs)
        check_loss(CALL, loss)
        floating_dtype(CALL, dtype)
        positive(CALL, "tolerance", tolerance, *TOLERANCES)
        described(CALL, parameters)
        device = resolve_device(CALL, device, model)
        check_module(CALL, model, device)
        self.inputs = inputs.detach().to(device=device, dtype=dtype if inputs.is_floating_point() else None)
        with exact_derivatives():
            network, outputs = _network(model, self.inputs, dtype, device)
        self.targets = fitting_targets(CALL, loss, outputs, targets)
        checked_force(CALL, loss, outputs, self.targets)
        self._problem = Problem(network, self.inputs, self.targets, loss)
        self._integrator = Chebyshev(self._problem, tolerance, self._problem.start())
        self.answer(self._integrator.begin(state))
        self._settings = {"tolerance": tolerance, "dtype": dtype, "device": device}
        self._attributes = provenance({**(parameters or {}), **self._settings})
        self._attributes |= {"loss": check_loss(CALL, loss)} if loss != "mse" else {}
        self._attributes |= {"integrator": "RKC2 (Sommeijer, Shampine, Verwer 1998)", "samples": inputs.shape[0]}

    def sibling(self, theta: Tensor, parameters: Mapping[str, object]) -> Descent:
        """Return the flow of the same network from other parameters ``theta``; it is to be begun."""
        other = copy.copy(self)
        other._integrator = Chebyshev(self._problem, self._integrator.tolerance, theta)
        other._attributes = self._attributes | provenance({**parameters, **self._settings})
        return other

    def begin(self, state: Mapping[str, np.ndarray] | None = None) -> Course[None]:
        """Start a sibling, or take up its ``state``: a course, to be answered."""
        return self._integrator.begin(state)

    def advance(self, time: float, after_step: Callable[[], None] | None = None) -> Course[None]:
        """Continue to ``time``, as ``snapshot`` does: a course, to be answered."""
        return self._integrator.advance(time, after_step)

    def answer(self, course: Course[T]) -> T:
        """Run a course to its end by this flow's own network; return its result."""
        return self._problem.answer(course)

    @property
    def network(self) -> Network:
        return self._problem.network

    @property
    def theta(self) -> Tensor:
        """The present parameters, a flat vector."""
        return self._integrator.theta

    @property
    def rate(self) -> Tensor:
        """theta' = -grad L at the present parameters."""
        return self._integrator.rate

    @property
    def error(self) -> Tensor:
        """The present e = dl/df."""
        return self._integrator.error.detach()

    def snapshot(self, time: float, after_step: Callable[[], None] | None = None) -> Snapshot:
        """Continue to ``time``, calling ``after_step`` after each step; raise ``StepUnderflow`` if no step succeeds."""
        self.answer(self.advance(time, after_step))
        return Snapshot(time, self._problem.module(self.theta), self.error.clone())

    def row(self) -> dict[str, float]:
        """Return the row of ``history`` for the current time."""
        return self._integrator.row()

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that the rest of the flow depends on, bit by bit: four vectors and some scalars."""
        return self._integrator.state()

    def history(self, times: Sequence[float], rows: Sequence[Mapping[str, float]]) -> xr.Dataset:
        """Return the labelled history of a ``Flow`` from its times and rows."""
        return xr.Dataset(
            {
                name: ("time", np.array([row[name] for row in rows]), {"long_name": text, "units": units})
                for name, (text, units) in HISTORY.items()
            },
            coords={"time": ("time", np.array(times), {"long_name": "time of gradient flow", "units": "time"})},
            attrs=self._attributes,
        )


def nearby(
    snapshot: Snapshot,
    inputs: Tensor,
    targets: Tensor,
    duration: float,
    offsets: Sequence[int],
    *,
    loss: Loss = "mse",
) -> list[Snapshot]:
    """Return the flow at ``snapshot.time + k * duration`` for each k of ``offsets``; k may be negative.

    Each ``duration`` is one step of the classical fourth-order Runge-Kutta method. It must be small compared with
    1 / lambda_max; the error of a step is of order (lambda_max duration)^5. ``inputs``, ``targets`` and ``loss`` are
    the flow's.
    """
    network = Network(snapshot.model, snapshot.error.dtype, snapshot.error.device)
    problem = Problem(network, inputs, targets, loss)
    found: dict[int, Tensor] = {0: problem.start()}
    for sign in (-1, 1):
        for k in range(1, max([sign * offset for offset in offsets] + [0]) + 1):
            theta, h = found[sign * (k - 1)], sign * duration
            k1 = problem.velocity(theta)[0]
            k2 = problem.velocity(theta + h / 2 * k1)[0]
            k3 = problem.velocity(theta + h / 2 * k2)[0]
            k4 = problem.velocity(theta + h * k3)[0]
            found[sign * k] = theta + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return [
        Snapshot(snapshot.time + k * duration, problem.module(found[k]), problem.force(problem.outputs(found[k])))
        for k in offsets
    ]


def _from_checkpoints(
    model: nn.Module,
    states: Sequence[nn.Module | Mapping[str, Tensor]],
    times: Sequence[float] | np.ndarray,
    inputs: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    device: str | torch.device | None,
    parameters: Mapping[str, object] | None,
) -> Flow:
    call = "Flow.from_checkpoints"
    states = listed(call, "states", states, "state dicts or modules", 2)
    array = vector(call, "times", times, len(states), wanted="increasing times from 0, one for each state, (T,)")
    if len(array) != len(states) or array[0] != 0 or (np.diff(array) <= 0).any():
        raise ValueError(
            f"{call}(times): expected increasing times from 0, one for each of {len(states)} states, got {said(times)}"
        )
    check_inputs(call, model, inputs)
    snapshots, rows = [], []
    for number, (time, state) in enumerate(zip(array, states, strict=True)):
        name = f"states[{number}]"
        module = module_of(call, name, state if isinstance(state, nn.Module) else (model, state))
        descent = Descent(module, inputs, targets, dtype=dtype, device=device, parameters=parameters)
        snapshots.append(descent.snapshot(0.0))
        if not bool(torch.isfinite(snapshots[-1].error).all()):
            raise ValueError(f"{call}({name}): the outputs contain NaN or infinity; leave this state out")
        snapshots[-1] = replace(snapshots[-1], time=float(time))
        rows.append(dict.fromkeys(HISTORY, np.nan) | {"loss": descent.row()["loss"]})
    history = descent.history(array.tolist(), rows).assign_attrs(integrator="none: states of a training")
    history.time.attrs["long_name"] = "time of the states"
    return Flow(tuple(snapshots), descent.inputs, descent.targets, history)


def _network(model: nn.Module, inputs: Tensor, dtype: torch.dtype, device: torch.device) -> tuple[Network, Tensor]:
    """Return (network, outputs) after checking that the outputs are a function of the parameters alone."""
    network = copied(CALL, model, dtype, device)
    network.forget(inputs[:FEW])

    def outputs() -> Tensor:
        graph = evaluated(CALL, model, network, inputs, trace_with_graph)
        network.composed = graph.composed
        graphs.append(graph)
        return graph.without_graph().outputs

    graphs: list[ForwardTrace] = []
    found = repeatable(CALL, outputs, network.fixed | network.parameters | {"inputs": inputs})
    check_outputs(CALL, found, inputs.shape[0])
    ends = check_leaves(CALL, network, graphs[0], None, [])
    check_leaves(CALL, network, graphs[1], graphs[0].leaves, ends)
    if network.keeps and not network.repeats(inputs):
        raise ValueError(f"{CALL}(model, ...): {changes('gives another output each time')}")
    return network, found


def _check_times(times: Sequence[float] | np.ndarray) -> np.ndarray:
    array = vector(CALL, "..., times", times, wanted="finite, increasing times >= 0 of shape (T,)")
    if array[0] < 0 or (np.diff(array) <= 0).any():
        raise ValueError(f"{CALL}(..., times): expected finite, increasing times >= 0 of shape (T,), got {said(times)}")
    return array

r"""Gradient flow of the full-batch mean squared error, with snapshots at given times.

theta' = -grad L is stiff (rates spread over decades) but dissipative, so stability rather than accuracy limits an
explicit method. The integrator is the second-order Runge-Kutta-Chebyshev method of Sommeijer, Shampine and Verwer
(RKC: an explicit solver for parabolic PDEs, J. Comput. Appl. Math. 88 (1998) 315): s gradients buy a stable step of
about .65 s^2 / rho, rho the spectral radius of the Hessian, re-estimated along the way.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from grsd.checks import check_inputs, check_outputs, check_targets, floating_dtype, positive, resolve_device, whole
from grsd.progress import bar
from grsd.provenance import provenance

CALL = "gradient_flow"
STEPS_PER_RADIUS = 25
SMALLEST_STEP = 1e-14
ROUNDING = 4
VECTORS = ("theta", "rate", "error", "direction")
SCALARS = ("time", "step", "previous", "radius", "steps_on_radius", "estimate", "accepted", "rejected")
HISTORY = {
    "loss": ("mean squared error |e|^2 / (2N)", "1"),
    "error_estimate": ("sum of the local error estimates |J est| / |e| since the start", "1"),
    "spectral_radius": ("spectral radius of the Hessian of the loss, last estimate", "1/time"),
    "gradient_evaluations": ("full-batch gradients so far, power iterations and error estimates included", "1"),
    "steps": ("accepted steps so far", "1"),
    "rejected": ("rejected steps so far", "1"),
}


@dataclass(frozen=True)
class Snapshot:
    """The network at one time: ``model`` is a copy of the user's module, ``error`` e = f(X) - Y of shape (N, C)."""

    time: float
    model: nn.Module
    error: Tensor


@dataclass(frozen=True)
class Flow:
    """A gradient flow: its snapshots, the batch it ran on and a labelled ``history`` (one row per snapshot)."""

    snapshots: tuple[Snapshot, ...]
    inputs: Tensor
    targets: Tensor
    history: xr.Dataset

    @property
    def times(self) -> np.ndarray:
        return self.history.time.values


class FlowError(RuntimeError):
    """The flow could not be continued; ``flow`` holds what had been computed."""

    def __init__(self, message: str, flow: Flow) -> None:
        super().__init__(message)
        self.flow = flow


def log_times(first: float, last: float, count: int) -> np.ndarray:
    """``count`` times equally spaced in log time from ``first`` to ``last``, both included; float64, shape (count,)."""
    positive("log_times", "first", first)
    if not first < positive("log_times", "last", last):
        raise ValueError(f"log_times(last=...): expected more than first={first!r}, got {last!r}")
    return np.geomspace(first, last, whole("log_times", "count", count, 2))


def gradient_flow(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    times: Sequence[float] | np.ndarray,
    *,
    tolerance: float = 1e-4,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    parameters: Mapping[str, object] | None = None,
) -> Flow:
    """Follow theta' = -grad |f(X) - Y|^2 / (2N) on a copy of ``model`` and keep a snapshot at each of ``times``.

    Args:
        model: any module mapping (N, ...) to (N, C) or (N,). Left untouched; frozen parameters stay frozen.
        inputs: the full batch, shape (N, ...).
        targets: floating point, of exactly the output's shape.
        times: increasing, not negative; 0 is the start. ``log_times`` gives equally spaced log times.
        tolerance: accepted local error of a step, in the residual and relative to it: |J est| <= tolerance |e|, or
            at the rounding of the targets where that is more (a flow that has fitted them to all digits).
        dtype: of the copy; float64 unless asked otherwise.
        device: ``None`` (the model's), ``"auto"``, ``"cpu"`` or ``"cuda"``.
        progress: show a bar; ``None``: on a terminal and in Jupyter.
        parameters: what to write into the history's attributes besides versions and settings (seed, depth, ...).

    Returns:
        ``Flow``. Its history counts every gradient spent and sums the local error estimates: for a flow that
        contracts, the sum bounds the relative end error as far as the estimates are sharp.

    Errors: ``TypeError`` or ``ValueError`` in one line before any computing; ``FlowError``, which carries the
    snapshots already made, where the step underflows (a loss that is not smooth, or numbers that overflow).
    """
    times = _check_times(times)
    descent = Descent(model, inputs, targets, tolerance=tolerance, dtype=dtype, device=device, parameters=parameters)
    snapshots: list[Snapshot] = []
    rows: list[dict[str, float]] = []

    def result() -> Flow:
        history = descent.history([snapshot.time for snapshot in snapshots], rows)
        return Flow(tuple(snapshots), descent.inputs, descent.targets, history)

    shown = bar(times, show=progress, desc="gradient flow", unit="snapshot")
    for time in shown:
        try:
            snapshots.append(descent.snapshot(float(time)))
        except StepUnderflow as error:
            raise FlowError(
                f"{CALL}: {error}; the {len(snapshots)} snapshots before it are in this exception's .flow", result()
            ) from None
        rows.append(descent.row())
        shown.set_postfix(loss=f"{rows[-1]['loss']:.3g}", gradients=rows[-1]["gradient_evaluations"])
    return result()


class StepUnderflow(RuntimeError):
    """No step is small enough: a loss that is not smooth, or numbers that overflow."""


class Descent:
    """A gradient flow under way: it can be stopped at any step and taken up again elsewhere with the same bits.

    Arguments and refusals as ``gradient_flow``. ``state``: what ``state()`` gave during the same flow; the same bits
    follow on the same machine with the same number of threads.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        tolerance: float = 1e-4,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device | None = None,
        parameters: Mapping[str, object] | None = None,
        state: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        check_inputs(CALL, model, inputs)
        floating_dtype(CALL, dtype)
        positive(CALL, "tolerance", tolerance)
        device = resolve_device(CALL, device, model)
        working = copy.deepcopy(model).to(device=device, dtype=dtype)
        self.inputs = inputs.to(device=device, dtype=dtype if inputs.is_floating_point() else None)
        with torch.no_grad():
            outputs = working(self.inputs)
        check_outputs(CALL, outputs, inputs.shape[0])
        check_targets(CALL, targets, tuple(outputs.shape))
        self.targets = targets.to(device=device, dtype=dtype)
        self._problem = _Problem(working, self.inputs, self.targets)
        self._integrator = _Chebyshev(self._problem, tolerance, state)
        self._attributes = provenance({**(parameters or {}), "tolerance": tolerance, "dtype": dtype, "device": device})
        self._attributes |= {"integrator": "RKC2 (Sommeijer, Shampine, Verwer 1998)", "samples": inputs.shape[0]}

    def snapshot(self, time: float, after_step: Callable[[], None] | None = None) -> Snapshot:
        """Go on to ``time``, calling ``after_step`` after each step; ``StepUnderflow`` where that is impossible."""
        self._integrator.advance(time, after_step)
        return Snapshot(time, self._problem.module(self._integrator.theta), self._integrator.error.detach().clone())

    def row(self) -> dict[str, float]:
        """One row of ``history``, where the flow is now."""
        return self._integrator.row()

    def state(self) -> dict[str, np.ndarray]:
        """All that the rest of the flow depends on: four vectors and some scalars, exactly."""
        return self._integrator.state()

    def history(self, times: Sequence[float], rows: Sequence[Mapping[str, float]]) -> xr.Dataset:
        """The labelled history of a ``Flow``, from the rows at the times."""
        return xr.Dataset(
            {
                name: ("time", np.array([row[name] for row in rows]), {"long_name": text, "units": units})
                for name, (text, units) in HISTORY.items()
            },
            coords={"time": ("time", np.array(times), {"long_name": "time of gradient flow", "units": "time"})},
            attrs=self._attributes,
        )


def nearby(
    snapshot: Snapshot, inputs: Tensor, targets: Tensor, duration: float, offsets: Sequence[int]
) -> list[Snapshot]:
    """The flow at ``snapshot.time + k * duration`` for each k of ``offsets``, backwards too.

    One step of the classical fourth-order Runge-Kutta method per ``duration``: for durations small against
    1 / lambda_max, where its error is of order (lambda_max duration)^5. ``inputs`` and ``targets`` as in the ``Flow``.
    """
    problem = _Problem(snapshot.model, inputs, targets)
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
        Snapshot(snapshot.time + k * duration, problem.module(found[k]), problem.residual(found[k]).detach())
        for k in offsets
    ]


def _check_times(times: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(times, dtype=float)
    if (
        array.ndim != 1
        or array.size == 0
        or not np.isfinite(array).all()
        or array[0] < 0
        or (np.diff(array) <= 0).any()
    ):
        raise ValueError(f"{CALL}(..., times): expected finite, increasing times >= 0 of shape (T,), got {times!r:.80}")
    return array


class _Problem:
    """The flow as an ordinary differential equation in one flat vector of trainable parameters."""

    def __init__(self, working: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        self.working, self.inputs, self.targets = working, inputs, targets
        self.trainable = {name: p.detach() for name, p in working.named_parameters() if p.requires_grad}
        self.evaluations = 0

    def start(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.trainable.values()]).clone()

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        parts = theta.split([p.numel() for p in self.trainable.values()])
        return {name: part.view_as(p) for (name, p), part in zip(self.trainable.items(), parts, strict=True)}

    def residual(self, theta: Tensor) -> Tensor:
        return functional_call(self.working, self.unflatten(theta), (self.inputs,)) - self.targets

    def velocity(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """-grad L = -J^T e / N and e."""
        self.evaluations += 1
        error, pullback = vjp(self.residual, theta)
        (gradient,) = pullback(error)
        return gradient.div_(-self.inputs.shape[0]), error

    def pushed(self, theta: Tensor, direction: Tensor) -> Tensor:
        """J direction: what a change of the parameters does to the residual. Counted as one gradient."""
        self.evaluations += 1
        return jvp(self.residual, (theta,), (direction,))[1]

    def module(self, theta: Tensor) -> nn.Module:
        module = copy.deepcopy(self.working)
        with torch.no_grad():
            own = dict(module.named_parameters())
            for name, value in self.unflatten(theta).items():
                own[name].copy_(value)
        return module


@cache
def _coefficients(stages: int) -> list[tuple[float, float, float, float]]:
    """(mu, nu, mu~, gamma~) of stages 1..s (SSV 1998, equations 2.7 to 2.10), damping 2/13."""
    w0 = 1 + 2 / (13 * stages**2)
    t, dt, ddt = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, stages + 1):
        ddt.append(2 * (2 * dt[-1] + w0 * ddt[-1]) - ddt[-2])
        dt.append(2 * (t[-1] + w0 * dt[-1]) - dt[-2])
        t.append(2 * w0 * t[-1] - t[-2])
    w1 = dt[stages] / ddt[stages]
    b = [ddt[j] / dt[j] ** 2 if j >= 2 else math.nan for j in range(stages + 1)]
    b[0] = b[1] = b[2]
    table = [(0.0, 0.0, b[1] * w1, 0.0)]
    for j in range(2, stages + 1):
        mu, mu_tilde = 2 * b[j] * w0 / b[j - 1], 2 * b[j] * w1 / b[j - 1]
        table.append((mu, -b[j] / b[j - 2], mu_tilde, -(1 - b[j - 1] * t[j - 1]) * mu_tilde))
    return table


class _Chebyshev:
    """The integrator's state: where the flow is, and what it has cost."""

    def __init__(self, problem: _Problem, tolerance: float, state: Mapping[str, np.ndarray] | None = None) -> None:
        self.problem, self.tolerance = problem, tolerance
        self.rounding = ROUNDING * torch.finfo(problem.targets.dtype).eps * float(problem.targets.norm())
        self.time, self.theta = 0.0, problem.start()
        self.accepted = self.rejected = self.steps_on_radius = 0
        self.estimate = self.radius = 0.0
        self.previous = (math.nan, math.nan)
        if state is not None:
            self._restore(state)
            return
        self.rate, self.error = problem.velocity(self.theta)
        self.direction = self.rate.clone()
        self.radius = self._spectral_radius()
        self.step = 0.1 / self.radius

    def state(self) -> dict[str, np.ndarray]:
        tensors = {name: getattr(self, name).detach().cpu().numpy().copy() for name in VECTORS}
        scalars = {name: np.array(getattr(self, name)) for name in SCALARS}
        return {**tensors, **scalars, "evaluations": np.array(self.problem.evaluations)}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        for name in VECTORS:
            setattr(self, name, torch.tensor(state[name], dtype=self.theta.dtype, device=self.theta.device))
        for name in SCALARS:
            value = state[name].tolist()
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        self.problem.evaluations = int(state["evaluations"])

    def row(self) -> dict[str, float]:
        return {
            "loss": float(self.error.square().sum()) / (2 * self.problem.inputs.shape[0]),
            "error_estimate": self.estimate,
            "spectral_radius": self.radius,
            "gradient_evaluations": self.problem.evaluations,
            "steps": self.accepted,
            "rejected": self.rejected,
        }

    def advance(self, end: float, after_step: Callable[[], None] | None = None) -> None:
        """Step to exactly ``end``. The last step is shortened; the controller's own step is kept for the next."""
        while self.time < end:
            remaining = end - self.time
            step = min(self.step, remaining)
            if remaining < 2 * step < 2 * remaining:
                step = remaining / 2
            if step < SMALLEST_STEP * max(end, 1e-300):
                raise StepUnderflow(f"the step fell under {SMALLEST_STEP:g} of the time reached, t = {self.time:.6g}")
            if self.steps_on_radius >= STEPS_PER_RADIUS:
                self.radius = self._spectral_radius()
            if self._try(step):
                self.time = end if step == remaining else self.time + step
                self.steps_on_radius += 1
            else:
                self.radius = self._spectral_radius()
            if after_step is not None:
                after_step()

    def _try(self, step: float) -> bool:
        """One step and its verdict. The next step follows the error (SSV 1998, section 3); a step cut short by a
        snapshot never shrinks it."""
        stages = max(2, 1 + int(math.sqrt(1 + 1.54 * step * self.radius)))
        theta = self._stages(step, stages)
        rate, error = self.problem.velocity(theta)
        defect = 0.8 * (self.theta - theta) + 0.4 * step * (self.rate + rate)
        scale = max(float(torch.linalg.vector_norm(error)), 1e-300)
        local = float(torch.linalg.vector_norm(self.problem.pushed(theta, defect))) / scale
        if not math.isfinite(local):
            self.rejected += 1
            self.step = step / 10
            return False
        ratio = max(local / max(self.tolerance, self.rounding / scale), 1e-9)
        factor = 0.8 / ratio ** (1 / 3)
        if ratio > 1:
            self.rejected += 1
            self.step = step * max(0.1, factor)
            return False
        cut_short = step < self.step
        if not cut_short:
            last_step, last_ratio = self.previous
            if not math.isnan(last_step):
                factor = min(factor, factor * step / last_step * (last_ratio / ratio) ** (1 / 3))
            self.previous = (step, ratio)
        proposed = step * min(10.0, max(0.1, factor))
        self.step = max(self.step, proposed) if cut_short else proposed
        self.accepted += 1
        self.estimate += local
        self.theta, self.rate, self.error = theta, rate, error
        return True

    def _stages(self, step: float, stages: int) -> Tensor:
        table = _coefficients(stages)
        before = self.theta
        current = self.theta + table[0][2] * step * self.rate
        for mu, nu, mu_tilde, gamma_tilde in table[1:]:
            rate, _ = self.problem.velocity(current)
            following = (1 - mu - nu) * self.theta + mu * current + nu * before
            following += step * (mu_tilde * rate + gamma_tilde * self.rate)
            before, current = current, following
        return current

    def _spectral_radius(self, iterations: int = 30) -> float:
        """Power method on the Hessian by differences of the gradient, started where the last one ended (SSV 1998).

        The result carries the authors' safety factor 1.2.
        """
        self.steps_on_radius = 0
        size = math.sqrt(torch.finfo(self.theta.dtype).eps) * max(float(self.theta.norm()), 1e-8)
        radius = 0.0
        direction = self.direction
        if float(direction.norm()) == 0:
            direction = torch.ones_like(direction)
        for _ in range(iterations):
            direction = direction / direction.norm()
            rate, _ = self.problem.velocity(self.theta + size * direction)
            direction = (rate - self.rate) / size
            before, radius = radius, float(direction.norm())
            if not math.isfinite(radius):
                return max(self.radius, 1e-12)
            if radius == 0 or abs(radius - before) <= 0.01 * radius:
                break
        self.direction = direction
        return max(1.2 * radius, 1e-12)

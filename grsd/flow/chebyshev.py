r"""The integrator of gradient flow, and the flow as an ordinary differential equation in one flat vector.

theta' = -grad L is stiff (rates spread over decades) but dissipative, so stability rather than accuracy limits an
explicit method. The integrator is the second-order Runge-Kutta-Chebyshev method of Sommeijer, Shampine and Verwer
(RKC: an explicit solver for parabolic PDEs, J. Comput. Appl. Math. 88 (1998) 315): s gradients allow a stable step of
about .65 s^2 / rho, where rho is the spectral radius of the Hessian, which is estimated again along the way.

The integrator asks for what it needs (``grsd.flow.questions``), so that several of them can be answered at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from grsd.flow.questions import Course, Kernel, Numbers, Push, T, Velocity
from grsd.jacobian import Network, exact_derivatives, outputs_and_gradient, push, push_back_and_forth
from grsd.kernel import tangent_kernel, tangent_kernel_and_rate
from grsd.losses import Loss, force_of, losses_of
from grsd.support.host import read

STEPS_PER_RADIUS = 25
SMALLEST_STEP = 1e-14
ARRIVED = 1e4
VECTORS = ("theta", "rate", "error", "direction")
SCALARS = (
    "time", "step", "previous", "radius", "steps_on_radius", "noise", "estimate", "accepted", "rejected", "evaluations"
)  # fmt: skip


class StepUnderflow(RuntimeError):
    """Raised if no step is small enough, because the loss is not smooth or numbers overflow."""


class Problem:
    """The flow as an ordinary differential equation in one flat vector of trainable parameters.

    ``loss`` and ``targets`` as ``grsd.losses.fitting_targets`` takes and gives them; e is the force dl/df.
    """

    def __init__(self, network: Network, inputs: Tensor, targets: Tensor, loss: Loss = "mse") -> None:
        self.network, self.inputs, self.targets, self.loss = network, inputs, targets, loss
        self.push = push

    def start(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.network.parameters.values()]).clone()

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        trainable = self.network.parameters
        parts = theta.split([p.numel() for p in trainable.values()])
        return {name: part.view_as(p) for (name, p), part in zip(trainable.items(), parts, strict=True)}

    def outputs(self, theta: Tensor) -> Tensor:
        return self.network(self.unflatten(theta), self.inputs).detach()

    def force(self, outputs: Tensor) -> Tensor:
        """Return e."""
        return force_of(self.loss, outputs, self.targets)

    def mean_loss(self, theta: Tensor, force: Tensor) -> float:
        """Return the mean of l over samples; ``force``: e at ``theta``, from which a squared error follows."""
        if self.loss == "mse":
            return read([force.square().sum()])[0] / (2 * self.inputs.shape[0])
        return read([losses_of(self.loss, self.outputs(theta), self.targets).mean()])[0]

    def answer(self, course: Course[T]) -> T:
        """Run a course to its end, answering its questions one by one; return its result."""
        found = None
        while True:
            try:
                question = course.send(found)
            except StopIteration as end:
                return end.value
            if isinstance(question, Numbers):
                found = read(question.scalars)
            elif isinstance(question, Velocity):
                found = self.velocity(question.theta)
            elif isinstance(question, Push):
                found = self.pushed(question.theta, question.direction)
            else:
                found = self.kernels(question)

    def velocity(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (-grad L, f, e), with -grad L = -J^T e / N."""
        network = self.network.at(self.unflatten(theta))
        with exact_derivatives():
            outputs, gradient = outputs_and_gradient(network, self.inputs, self.force)
        rate = torch.cat([g.reshape(-1) for g in gradient.values()]).div_(-self.inputs.shape[0])
        return rate, outputs, self.force(outputs)

    def rounding(self, outputs: Tensor, force: Tensor) -> Course[tuple[float, float]]:
        """Find the size of rounding errors of e at these outputs, and |e|."""
        norm, eps = torch.linalg.vector_norm, torch.finfo(outputs.dtype).eps
        if self.loss == "mse":
            size = norm(self.targets) + norm(force + self.targets)
        else:
            nudge = math.sqrt(eps)
            size = norm(force) + norm((self.force(outputs * (1 + nudge)) - force) / nudge)
        size, distance = yield Numbers([size, norm(force)])
        return max(eps * size, 1e-300), distance

    def deviation(self, outputs: Tensor, force: Tensor, error: Tensor, noise: float) -> Course[tuple[float, float]]:
        """Find how far e would be off, over |e|, if the outputs were off by ``error``, and |e|.

        ``noise``: the least |e|. For the squared error e is off by ``error`` itself; for other losses it is the larger
        of this share and that of the outputs, ``error`` over |f|.
        """
        norm = torch.linalg.vector_norm
        if self.loss == "mse":
            distance, moved = yield Numbers([norm(force), norm(error)])
            return moved / max(distance, noise), distance
        bent = norm(self.force(outputs + error) - force)
        distance, bent, moved, size = yield Numbers([norm(force), bent, norm(error), norm(outputs)])
        return max(bent / max(distance, noise), moved / max(size, torch.finfo(outputs.dtype).tiny)), distance

    def pushed(self, theta: Tensor, direction: Tensor) -> Tensor:
        """Return J times ``direction``, the change of the outputs."""
        network = self.network.at(self.unflatten(theta))
        with exact_derivatives():
            try:
                return self.push(network, self.inputs, self.unflatten(direction))
            except NotImplementedError:  # a function without a forward mode
                self.push = push_back_and_forth
                return self.push(network, self.inputs, self.unflatten(direction))

    def kernels(self, wanted: Kernel) -> tuple[Tensor, Tensor | None]:
        """Return M, and M' along the flow if a direction is wanted."""
        module, dtype = self.module(wanted.theta), self.network.dtype
        if wanted.direction is None:
            return tangent_kernel(module, self.inputs, dtype=dtype), None
        return tangent_kernel_and_rate(module, self.inputs, self.targets, loss=self.loss, dtype=dtype)

    def module(self, theta: Tensor) -> nn.Module:
        module = self.network.trainable_module()
        with torch.no_grad():
            own = dict(module.named_parameters())
            for name, value in self.unflatten(theta).items():
                own[name].copy_(value)
        return module


@cache
def coefficients(stages: int) -> list[tuple[float, float, float, float]]:
    """Return (mu, nu, mu~, gamma~) of stages 1..s (SSV 1998, equations 2.7 to 2.10), for damping 2/13."""
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


class Chebyshev:
    """The integrator and its state: the current point of the flow, and the gradients spent so far.

    ``begin`` and ``advance`` are courses: generators that yield questions and are sent the answers. A forward
    derivative counts as one gradient. A course may end after any step; another one goes on from there.
    """

    def __init__(self, problem: Problem, tolerance: float, theta: Tensor) -> None:
        self.problem, self.tolerance = problem, tolerance
        self.time, self.theta = 0.0, theta
        self.accepted = self.rejected = self.steps_on_radius = self.evaluations = 0
        self.estimate = self.radius = 0.0
        self.previous = (math.nan, math.nan)

    def begin(self, state: Mapping[str, np.ndarray] | None = None) -> Course[None]:
        """Start, or take up a ``state``."""
        if state is not None:
            for name in VECTORS:
                setattr(self, name, torch.tensor(state[name], dtype=self.theta.dtype, device=self.theta.device))
            for name in SCALARS:
                value = state[name].tolist()
                setattr(self, name, tuple(value) if isinstance(value, list) else value)
            (self.distance,) = yield Numbers([torch.linalg.vector_norm(self.error)])
            return
        self.rate, outputs, self.error = yield from self._velocity(self.theta)
        self.noise, self.distance = yield from self.problem.rounding(outputs, self.error)
        self.direction = self.rate.clone()
        self.radius = yield from self._spectral_radius()
        self.step = 0.1 / self.radius

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that the rest of the flow depends on, bit by bit."""
        tensors = {name: getattr(self, name).detach().cpu().numpy().copy() for name in VECTORS}
        return {**tensors, **{name: np.array(getattr(self, name)) for name in SCALARS}}

    def row(self) -> dict[str, float]:
        return {
            "loss": self.problem.mean_loss(self.theta, self.error),
            "error_estimate": self.estimate,
            "spectral_radius": self.radius,
            "gradient_evaluations": self.evaluations,
            "steps": self.accepted,
            "rejected": self.rejected,
        }

    def advance(self, end: float, after_step: Callable[[], None] | None = None) -> Course[None]:
        """Step to exactly ``end``. The last step is shortened; the controller's step is kept for the next call."""
        while self.time < end:
            if self.distance <= ARRIVED * self.noise:
                self.time = end
                return
            remaining = end - self.time
            step = min(self.step, remaining)
            if remaining < 2 * step < 2 * remaining:
                step = remaining / 2
            if step < SMALLEST_STEP * max(end, 1e-300):
                raise StepUnderflow(f"the step fell under {SMALLEST_STEP:g} of the time reached, t = {self.time:.6g}")
            if self.steps_on_radius >= STEPS_PER_RADIUS:
                self.radius = yield from self._spectral_radius()
            if (yield from self._try(step)):
                self.time = end if step == remaining else self.time + step
                self.steps_on_radius += 1
            else:
                self.radius = yield from self._spectral_radius()
            if after_step is not None:
                after_step()

    def _try(self, step: float) -> Course[bool]:
        """Try one step and return whether it is accepted.

        The error sets the next step (SSV 1998, section 3); a step shortened for a snapshot never reduces it.
        """
        stages = max(2, 1 + int(math.sqrt(1 + 1.54 * step * self.radius)))
        theta = yield from self._stages(step, stages)
        rate, outputs, error = yield from self._velocity(theta)
        defect = 0.8 * (self.theta - theta) + 0.4 * step * (self.rate + rate)
        self.evaluations += 1
        moved = yield Push(theta, defect)
        local, distance = yield from self.problem.deviation(outputs, error, moved, self.noise)
        if not math.isfinite(local):
            self.rejected += 1
            self.step = step / 10
            return False
        ratio = max(local / self.tolerance, 1e-9)
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
        self.theta, self.rate, self.error, self.distance = theta, rate, error, distance
        return True

    def _velocity(self, theta: Tensor) -> Course[tuple[Tensor, Tensor, Tensor]]:
        self.evaluations += 1
        return (yield Velocity(theta))

    def _stages(self, step: float, stages: int) -> Course[Tensor]:
        table = coefficients(stages)
        before = self.theta
        current = self.theta + table[0][2] * step * self.rate
        for mu, nu, mu_tilde, gamma_tilde in table[1:]:
            rate, _, _ = yield from self._velocity(current)
            following = (1 - mu - nu) * self.theta + mu * current + nu * before
            following += step * (mu_tilde * rate + gamma_tilde * self.rate)
            before, current = current, following
        return current

    def _spectral_radius(self, iterations: int = 30) -> Course[float]:
        """Estimate the spectral radius of the Hessian by a power method on differences of the gradient (SSV 1998).

        It starts from the last vector found. The result includes the authors' safety factor 1.2.
        """
        self.steps_on_radius = 0
        direction, radius = self.direction, 0.0
        length, own = yield Numbers([self.theta.norm(), direction.norm()])
        size = math.sqrt(torch.finfo(self.theta.dtype).eps) * max(length, 1e-8)
        if own == 0:
            direction = torch.ones_like(direction)
        for _ in range(iterations):
            direction = direction / direction.norm()
            rate, _, _ = yield from self._velocity(self.theta + size * direction)
            direction = (rate - self.rate) / size
            before, (radius,) = radius, (yield Numbers([direction.norm()]))
            if not math.isfinite(radius):
                return max(self.radius, 1e-12)
            if radius == 0 or abs(radius - before) <= 0.01 * radius:
                break
        self.direction = direction
        return max(1.2 * radius, 1e-12)

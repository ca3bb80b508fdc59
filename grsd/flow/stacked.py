"""Networks of one anatomy as one function of stacked parameters: what one call costs is paid once for all of them.

The module itself runs, on the samples of all B networks in a row, while its linear layers take weights (B, out, in).
This is right for modules of linear layers and elementwise functions; ``stacked`` finds out whether a module is one.

The bits of a network depend neither on the others nor on their number. Products are batched ones for any B > 1, and the
last slot is a copy that nobody reads, since the last numbers of an array take other instructions than the rest. Other
devices than CPUs choose algorithms by B; there every evaluation has the same number of slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from grsd.flow.gradient import Descent
from grsd.flow.questions import AtPoint, Course, Kernel, Push, Velocity
from grsd.jacobian import Network, exact_derivatives, random_like
from grsd.jacobian.duals import dual, in_forward_mode
from grsd.support.host import read

SLOTS, SLOTS_OF_A_DEVICE = 32, 128  # a device is left waiting by fewer
KERNEL_BYTES = 2**30
DEVICE_BYTES = 2**33  # a slot of a wide network with many samples may hold gigabytes, and even one run fills all slots
NUMBERS_OF_D2 = 10  # held at once for the kernel and the rate of one network
FAILED = "the kernel's self-check failed"
SAME = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass
class _Call:
    inputs: Tensor
    outputs: Tensor
    bias: Tensor | None


class _SeedAxis(TorchFunctionMode):
    """Inside, ``F.linear`` takes inputs (B N, in) and weights (B, out, in). ``calls``: its tensors (B, ...)."""

    def __init__(self, networks: int) -> None:
        super().__init__()
        self.networks = networks
        self.calls: list[_Call] = []

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        return self.linear(*args, **(kwargs or {})) if func is F.linear else func(*args, **(kwargs or {}))

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        features = input.unflatten(0, (self.networks, -1))
        outputs = features @ weight.mT if bias is None else torch.baddbmm(bias[:, None], features, weight.mT)
        self.calls.append(_Call(features, outputs, bias))
        return outputs.flatten(0, 1)


def most(kind: str) -> int:
    """The largest number of networks that are evaluated at once on a device of this kind; one slot is a copy."""
    return (SLOTS if kind == "cpu" else SLOTS_OF_A_DEVICE) - 1


class Stacked:
    """Networks that differ in their parameters alone, each a row of theta (B, P); squared error.

    ``network``: one of them, whose parameters are not used. ``answers`` may be asked about any number of networks; at
    most ``most(device)`` are evaluated at once, fewer for kernels if these would take more than ``KERNEL_BYTES``, and
    on other devices than CPUs if the slots would take more than ``DEVICE_BYTES``. A slot holds its activations and
    their derivatives, about six numbers per sample and unit, and a dozen of its parameters. Their number depends on
    sizes alone, never on the memory that is free, since the bits depend on it.
    """

    def __init__(self, network: Network, inputs: Tensor, targets: Tensor) -> None:
        self.network, self.inputs, self.targets = network, inputs, targets
        self.fixed = inputs.device.type != "cpu"

    def answers(self, questions: Sequence[AtPoint]) -> list:
        """Answer questions of one kind, each about another network; an ``Exception`` stands where one has no answer."""
        room, found = self._room(), []
        if isinstance(questions[0], Kernel):
            each = NUMBERS_OF_D2 * self.targets.numel() ** 2 * self.targets.element_size()
            room = max(1, min(room, KERNEL_BYTES // each - 1))
        for start in range(0, len(questions), room):
            few = questions[start : start + room]
            idle = room + 1 - len(few) if self.fixed else 1
            found += self._answered([*few, *few[:1] * idle])[: len(few)]
        return found

    def _room(self) -> int:
        """The most networks at once; one slot is a copy."""
        room = most(self.inputs.device.type)
        if not self.fixed:
            return room
        weights = [p for p in self.network.parameters.values() if p.ndim > 1]
        numbers = 6 * len(self.inputs) * sum(len(weight) for weight in weights)
        numbers += 12 * sum(p.numel() for p in self.network.parameters.values())
        return max(1, min(room, DEVICE_BYTES // (numbers * self.inputs.element_size()) - 1))

    def _answered(self, questions: Sequence[AtPoint]) -> list:
        theta = torch.stack([question.theta for question in questions])
        if isinstance(questions[0], Velocity):
            rows = zip(*(part.unbind() for part in self.velocity(theta)), strict=True)
            return [tuple(part.clone() for part in row) for row in rows]  # views would keep the numbers of all
        wanted = [question.direction for question in questions if question.direction is not None]
        if isinstance(questions[0], Push):
            return list(self.pushed(theta, torch.stack(wanted)).unbind())
        kernels, rates, off = self.kernels(theta, torch.stack(wanted) if wanted else None)
        pairs = zip(kernels.unbind(), [None] * len(theta) if rates is None else rates.unbind(), strict=True)
        return [
            pair if away <= SAME[theta.dtype] else RuntimeError(f"{FAILED}, it is off by {away:.2g}")
            for pair, away in zip(pairs, read(off.unbind()), strict=True)
        ]

    def velocity(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (-grad L, f, e) of every row."""
        leaf = theta.detach().requires_grad_()
        with exact_derivatives():
            outputs = self._outputs(leaf, _SeedAxis(len(theta)))
            error = outputs.detach() - self.targets
            (gradient,) = torch.autograd.grad(outputs, leaf, error)
        return gradient.div_(-len(self.inputs)), outputs.detach(), error

    def gives(self, theta: Tensor, outputs: Tensor) -> bool:
        """Whether these are the outputs of the network at ``theta``, up to rounding."""
        found = self.answers([Velocity(theta)])[0][1]
        return found.shape == outputs.shape and _close(found, outputs)

    def pushed(self, theta: Tensor, direction: Tensor) -> Tensor:
        """Return J times ``direction`` of every row."""

        def pushed() -> Tensor:
            return _pair(self._outputs(dual(theta, direction), _SeedAxis(len(theta)), tangents=True))[1]

        with exact_derivatives(), torch.no_grad():
            return in_forward_mode(pushed)

    def _outputs(self, theta: Tensor, axis: _SeedAxis, *, tangents: bool = False) -> Tensor:
        own = self.network.parameters
        parts = theta.split([p.numel() for p in own.values()], dim=1)
        stacked = {name: part.view(-1, *p.shape) for (name, p), part in zip(own.items(), parts, strict=True)}
        with self.network.precision(), self.network._composed(tangents), axis:
            inputs = self.inputs.expand(len(theta), *self.inputs.shape).flatten(0, 1)
            return self.network.plain(stacked, inputs).unflatten(0, (len(theta), -1))

    def kernels(self, theta: Tensor, direction: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return M (B, D, D), M' along ``direction``, and how far either is from J^T of a random cotangent (B,).

        A layer adds to M the inner products of its inputs, plus one for a bias, times those of its cotangents; M' is
        ``None`` without a direction. The last is relative, and of the size of rounding if the module is what this
        class takes it for.
        """
        with exact_derivatives():
            leaf = theta.detach().requires_grad_()
            if direction is None:
                return self._kernels(leaf, leaf, tangents=False)
            return in_forward_mode(lambda: self._kernels(leaf, dual(leaf, direction), tangents=True))

    def _kernels(self, leaf: Tensor, theta: Tensor, *, tangents: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        axis = _SeedAxis(len(leaf))
        outputs = self._outputs(theta, axis, tangents=tangents)
        shape, samples = outputs.shape[1:], len(self.inputs)
        classes = shape[1:].numel()
        select = torch.eye(classes, dtype=outputs.dtype, device=outputs.device).view(classes, *shape[1:])
        at = [call.outputs for call in axis.calls]
        per_class = [
            torch.autograd.grad(outputs, at, one.expand_as(outputs), retain_graph=True) for one in select.unbind()
        ]
        blocks = [outputs.new_zeros(len(leaf), samples, classes, samples, classes) for _ in range(2)]
        for call, *cotangents in zip(axis.calls, *per_class, strict=True):
            inner, half_inner = _products(call.inputs)
            weight, half_weight = (part.view_as(blocks[0]) for part in _products(torch.stack(cotangents, 2)))
            inner = (inner if call.bias is None else inner + 1)[:, :, None, :, None]
            blocks[0].addcmul_(weight, inner)
            if tangents:
                blocks[1].addcmul_(weight, half_inner[:, :, None, :, None]).addcmul_(half_weight, inner)
        kernel, half = (part.flatten(3).flatten(1, 2) for part in blocks)
        rate = half + half.mT
        probe = random_like(outputs[0])
        pull, pull_rate = _pair(torch.autograd.grad(outputs, theta, probe.expand_as(outputs))[0])
        square, change = pull.square().sum(1), 2 * (pull * pull_rate).sum(1)
        off = (_quadratic(kernel, probe) / square - 1).abs()
        if not tangents:
            return kernel.div_(samples), None, off
        most = 2 * pull.norm(dim=1) * pull_rate.norm(dim=1)
        off = torch.maximum(
            off, (_quadratic(rate, probe) - change).abs() / most.clamp_min(torch.finfo(most.dtype).tiny)
        )
        return kernel.div_(samples), rate.div_(samples), off


def _pair(found: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value and the tangent without their graphs; the tangent of a constant is zero."""
    primal, tangent = forward_ad.unpack_dual(found)
    return primal.detach(), torch.zeros_like(primal) if tangent is None else tangent.detach()


def _products(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Return A A^T and A' A^T of the rows A (B, R, K) of factors (B, ..., K)."""
    a, a_rate = (part.flatten(1, -2) for part in _pair(factors))
    return a @ a.mT, a_rate @ a.mT


def _quadratic(matrices: Tensor, probe: Tensor) -> Tensor:
    v = probe.reshape(-1)
    return (matrices @ v) @ v


def stacked(descent: Descent) -> Stacked | None:
    """Return the flow's network as one of ``Stacked``, or ``None`` if its answers would be others there.

    At two random points they must be its own up to rounding, and the same bits alone as among others.
    """
    network, theta = descent.network, descent.theta
    here = theta + 0.1 * theta.norm() / theta.numel() ** 0.5 * random_like(theta)
    there = theta - 0.1 * (here - theta)
    found = Stacked(network, descent.inputs, descent.targets)
    try:
        rates = [found.answers([Velocity(point)])[0][0] for point in (here, there)]
        for kind in (lambda point, _: Velocity(point), Push, Kernel):
            first, other = map(kind, (here, there), rates)
            (alone,), (_, among, _) = found.answers([first]), found.answers([other, first, other])
            if not (_close(alone, _own(descent, first)) and _equal(alone, among)):
                return None
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # the module may do anything with inputs and weights of these shapes
        return None
    return found


def _own(descent: Descent, question: AtPoint) -> Any:
    def course() -> Course[Any]:
        return (yield question)

    return descent.answer(course())


def _tensors(answer: Any) -> Sequence[Tensor]:
    return [answer] if isinstance(answer, Tensor) else answer


def _close(found: Any, expected: Any) -> bool:
    pairs = zip(_tensors(found), _tensors(expected), strict=True)
    off = [((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny)) for a, b in pairs]
    return max(read(off)) <= SAME[off[0].dtype]


def _equal(found: Any, other: Any) -> bool:
    return all(read((a == b).all() for a, b in zip(_tensors(found), _tensors(other), strict=True)))

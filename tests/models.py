"""One table of models, in float64, that every fast route is compared over with a naive dense reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp
from zoo import MODELS

from grsd.networks import Perceptron
from grsd.tangents import exact_derivatives


class Reused(nn.Module):
    """One layer used three times, and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.readout = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.inner(x))
        return self.readout(x)


class Tied(nn.Module):
    """Two layers that share a weight but not a bias, on a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.readout = nn.Linear(5, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.readout((h + self.second(h) ** 2).mean(1))


class Flat(nn.Module):
    """A network whose output has shape (N,), with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 1))
        self.register_buffer("scale", torch.tensor(1.7))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x)[:, 0]


def _frozen(model: nn.Module, *names: str) -> nn.Module:
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    tokens: int = 0

    def make(self) -> tuple[nn.Module, Tensor, Tensor]:
        """(model in float64, inputs, targets), the same each time."""
        torch.manual_seed(0)
        model = self.build().double().eval()
        generator = torch.Generator().manual_seed(1)
        draw = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (self.inputs, self.outputs)]
        if self.tokens:
            draw[0] = torch.randint(0, self.tokens, self.inputs, generator=generator)
        return model, *draw


CASES = [
    Case("plain", lambda: Perceptron(5, 3, width=8, depth=4), (6, 5), (6, 3)),
    Case("residual", lambda: Perceptron(5, 3, width=8, depth=4, residual=True), (6, 5), (6, 3)),
    Case("deep linear", lambda: Perceptron(5, 2, width=6, depth=3, activation="identity"), (6, 5), (6, 2)),
    Case("erf, one output", lambda: Perceptron(5, 1, width=8, depth=2, activation="erf"), (7, 5), (7, 1)),
    Case("one layer, no bias", lambda: nn.Linear(5, 3, bias=False), (6, 5), (6, 3)),
    Case("flat output, buffer", Flat, (6, 5), (6,)),
    Case("one sample", lambda: Perceptron(5, 3, width=8, depth=2), (1, 5), (1, 3)),
    Case(
        "frozen layer",
        lambda: _frozen(Perceptron(5, 3, width=8, depth=3), "hidden.1.weight", "hidden.1.bias"),
        (6, 5),
        (6, 3),
    ),
    Case(
        "frozen weight, live bias",
        lambda: _frozen(Perceptron(5, 3, width=8, depth=3), "hidden.1.weight"),
        (6, 5),
        (6, 3),
    ),
    Case("reused layer", Reused, (6, 5), (6, 3)),
    Case("tied weights, sequence", Tied, (4, 3, 5), (4, 2)),
]


ZOO = [Case(name, build, inputs, outputs, *tokens) for name, (build, inputs, outputs, *tokens) in MODELS.items()]


def dense(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Callable[[float], Tensor]]:
    """(M, M' by forward mode, M along the straight line theta + h theta') by one dense Jacobian of everything.

    Forward mode of ``torch.func.jacrev`` is wrong for some models of the zoo (half a percent for a transformer), and
    not to be had for others: those have None for M', and differences along the line are their reference.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    samples = inputs.shape[0]

    def outputs(p: dict[str, Tensor]) -> Tensor:
        return functional_call(model, p, (inputs,)).reshape(-1)

    def kernel(p: dict[str, Tensor]) -> Tensor:
        jacobian = jacrev(outputs)(p)
        j = torch.cat([part.reshape(part.shape[0], -1) for part in jacobian.values()], 1)
        return j @ j.T / samples

    with exact_derivatives():
        error = outputs(parameters) - targets.reshape(-1)
        direction = {name: -g / samples for name, g in vjp(outputs, parameters)[1](error)[0].items()}
        try:
            m, rate = jvp(kernel, (parameters,), (direction,))
        except NotImplementedError:
            m, rate = kernel(parameters), None

    def along(h: float) -> Tensor:
        with exact_derivatives():
            return kernel({name: p + h * direction[name] for name, p in parameters.items()})

    return m, rate, along


def differences(along: Callable[[float], Tensor], h: float) -> Tensor:
    """The derivative of M along the line, to fourth order."""
    return (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)

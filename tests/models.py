"""The families that every fast route is compared over with a naive dense reference, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp

from grsd.bench.families import FAMILIES
from grsd.jacobian import exact_derivatives


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


def _case(name: str) -> Case:
    family = FAMILIES[name]
    outputs = (family.samples,) if family.classes is None else (family.samples, family.classes)
    return Case(name, family.build, (family.samples, *family.shape), outputs, family.tokens)


CASES = [
    _case(name)
    for name in [
        "plain",
        "residual",
        "deep linear",
        "erf, one output",
        "one layer, no bias",
        "flat output, buffer",
        "one sample",
        "frozen layer",
        "frozen weight, live bias",
        "reused layer",
        "tied weights, sequence",
    ]
]
ZOO = [
    _case(name)
    for name in [
        "conv1d, stride, dilation",
        "conv2d, groups, same",
        "conv2d, circular, valid",
        "conv3d",
        "wide convolution",
        "layer norm",
        "layer norm, no bias",
        "group norm",
        "rms norm",
        "batch norm, 1d",
        "embedding",
        "short embedding",
        "attention",
        "attention, sequence first, as many positions as samples",
        "cross attention, bias rows",
        "weight norm",
        "weight norm by a hook",
        "orthogonal convolution",
        "raw parameters",
        "prelu",
        "branches on shapes",
        "folded patches",
        "recurrent cell",
        "looks at values",
        "resnet",
        "transformer, tied output",
        "transformer, norms last",
    ]
]
SOME_CASES = pytest.mark.parametrize(
    "any_case",
    [*CASES, *(pytest.param(case, marks=[pytest.mark.long] if n % 3 else []) for n, case in enumerate(ZOO))],
    ids=[case.name for case in CASES + ZOO],
    indirect=True,
)  # the perceptrons and a third of the other layers in every run, the rest in the long one


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

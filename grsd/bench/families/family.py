"""A row of the table of families, and components that many of its networks share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Refusal:
    """``line``: regular expression that matches the message of the error; ``error``: its type."""

    line: str
    error: type[Exception] | tuple[type[Exception], ...] = (ValueError, TypeError, RuntimeError)


OTHER_SAMPLES = Refusal("other samples|couples samples")
NOT_A_DERIVATIVE = Refusal("not dM/dt")
TOO_LARGE = Refusal("overflow|infinit|not finite|range of", (ValueError, RuntimeError, OverflowError))
NOT_TWICE = Refusal("not dM/dt|twice|second derivative|not implemented")


@dataclass(frozen=True)
class Family:
    """A kind of network, and how the kernel's calls treat it.

    Args:
        build: the network with random weights.
        shape: of one sample.
        classes: C; ``None`` for outputs of shape (N,).
        tokens: inputs are whole numbers below it; 0: inputs are normal.
        kernel: ``None`` if M is exact, else its refusal.
        rate: the same for M'.
        samples: default of N.
        called: the network has been called on its inputs before.
        around: context manager that the user has entered around the calls.
        slow: more than a second in a test.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (5,)
    classes: int | None = 3
    tokens: int = 0
    kernel: Refusal | None = None
    rate: Refusal | None = None
    samples: int = 4
    called: bool = False
    around: Callable[[], AbstractContextManager] = nullcontext
    slow: bool = False

    @property
    def size(self) -> int:
        """Outputs of one sample."""
        return self.classes or 1

    @property
    def enough(self) -> int:
        """N for timings: N * C of at least 80."""
        return -(-80 // self.size)

    def make(self, samples: int | None = None, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
        """(model in evaluation mode, inputs, targets), the same each time."""
        samples = samples or self.samples
        torch.manual_seed(0)
        model = self.build().to(dtype).eval()
        generator = torch.Generator().manual_seed(1)
        shapes = (samples, *self.shape), (samples,) if self.classes is None else (samples, self.classes)
        inputs, targets = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
        if self.tokens:
            inputs = torch.randint(0, self.tokens, shapes[0], generator=generator)
        if self.called:
            model(inputs)
        return model, inputs, targets


class Net(nn.Module):
    """``function(self, x)`` of parts given by name: modules, parameters, tensors (buffers) and plain values."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **parts: object) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Then(nn.Sequential):
    """Layers one after another, then a function of their output."""

    def __init__(self, *layers: nn.Module, then: Callable[[Tensor], Tensor] = lambda h: h.flatten(1)) -> None:
        super().__init__(*layers)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(super().forward(x))


class Skip(nn.Sequential):
    """x plus the layers' output."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def perceptron(*activations: nn.Module) -> nn.Module:
    """Three linear layers with two activations between them."""
    first, second = activations or (nn.Tanh(), nn.Tanh())
    return nn.Sequential(nn.Linear(5, 6), first, nn.Linear(6, 6), second, nn.Linear(6, 3))


def raw(*shape: int, scale: float = 1.0) -> nn.Parameter:
    """A parameter of normal numbers with standard deviation scale / sqrt(fan-in)."""
    return nn.Parameter(scale * torch.randn(shape) / max(1, shape[-1] if shape else 1) ** 0.5)


def scalar(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value))


def frozen(model: nn.Module, *names: str) -> nn.Module:
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


def randomized(model: nn.Module) -> nn.Module:
    """Move scales, shifts and running statistics away from 0 and 1; the model is in evaluation mode."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and (tensor.ndim <= 1 or "norm" in name):
                tensor.copy_(
                    0.5 + torch.rand_like(tensor) if "var" in name else tensor + 0.3 * torch.randn_like(tensor)
                )
    return model.eval()


def wide(model: nn.Module) -> nn.Module:
    """Switch off the network's casts to float32, for a reference without their rounding."""
    for part in model.modules():
        if hasattr(part, "narrow"):
            part.narrow = False
    return model


def cast(part: nn.Module, x: Tensor) -> Tensor:
    """``x.float()``, as in large models, unless ``wide`` has switched it off."""
    return x.float() if part.narrow else x

"""Networks that change derivatives: custom autograd functions, checkpoints, gradients in the forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils.checkpoint import checkpoint

from grsd.bench.families.family import NOT_A_DERIVATIVE, NOT_TWICE, Family, Net, perceptron


class Swish(torch.autograd.Function):
    """x sigmoid(x), in the old form with ctx; its backward can be differentiated."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s + x * s * (1 - s))


class SwishWithContext(torch.autograd.Function):
    """The same with ``setup_context``, and no rule for ``torch.vmap``."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    backward = Swish.backward


class SwishWithRule(SwishWithContext):
    """The same with a generated rule for ``torch.vmap``."""

    generate_vmap_rule = True


class SwishOnce(torch.autograd.Function):
    """The same, declared differentiable once."""

    forward = Swish.forward

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return Swish.backward(ctx, gradient)


class Reversed(torch.autograd.Function):
    """The identity with a reversed gradient (domain-adversarial training)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -gradient


class Own(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.use_reentrant = use_reentrant

    def block(self, h: Tensor) -> Tensor:
        return torch.tanh(self.second(h))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.last(checkpoint(self.block, h, use_reentrant=self.use_reentrant))


class Hamiltonian(nn.Module):
    """The symplectic gradient of a learned energy, by ``torch.autograd.grad`` in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        q, p = slope.chunk(2, -1)
        return torch.cat([p, -q], -1)


class Score(nn.Module):
    """Minus the gradient of an energy, by ``torch.func.grad`` under ``torch.vmap``."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        return -vmap(grad(lambda row: self.energy(row)[0]))(x)


class Descent(nn.Module):
    """The inputs after three steps of gradient descent on a learned energy."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.clone().requires_grad_()
            for _ in range(3):
                y = y - 0.1 * torch.autograd.grad(self.energy(y).sum(), y, create_graph=True)[0]
        return y


def gradient_hook() -> nn.Module:
    """A perceptron whose gradient is halved by a hook."""
    model = perceptron()

    def halve(h: Tensor) -> Tensor:
        if h.requires_grad:
            h.register_hook(lambda g: g / 2)
        return h

    return Net(lambda m, x: m.net[2:](halve(m.net[:2](x))), net=model)


GRADIENTS = {
    "checkpoint": Family(lambda: Checkpointed(False)),
    "checkpoint, reentrant": Family(lambda: Checkpointed(True)),
    "function of one's own, old form": Family(lambda: perceptron(Own(Swish), nn.Tanh())),
    "function of one's own": Family(lambda: perceptron(Own(SwishWithContext), nn.Tanh())),
    "function of one's own, vmap rule": Family(lambda: perceptron(Own(SwishWithRule), nn.Tanh())),
    "function of one's own, once": Family(lambda: perceptron(Own(SwishOnce), nn.Tanh()), rate=NOT_TWICE),
    "gradient reversal": Family(lambda: perceptron(nn.Tanh(), Own(Reversed)), rate=NOT_A_DERIVATIVE),
    "gradient halved by a hook": Family(gradient_hook, rate=NOT_A_DERIVATIVE),
    "hamiltonian": Family(Hamiltonian, (4,), 4),
    "score by torch.func": Family(Score, (4,), 4),
    "descent in the forward pass": Family(Descent, (4,), 4),
}

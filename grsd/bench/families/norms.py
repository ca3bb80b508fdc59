"""Normalizations, parametrized weights, and weights that autograd takes for constants."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from grsd.bench.families.convolutions import convolved
from grsd.bench.families.family import NOT_A_DERIVATIVE, Family, Net, Then, randomized, raw


def normed(norm: nn.Module) -> nn.Module:
    return randomized(Then(norm, nn.Tanh(), then=lambda h: h.reshape(len(h), -1, 2).sum(1)))


def between(norm: nn.Module) -> nn.Module:
    """A norm between two linear layers."""
    return randomized(nn.Sequential(nn.Linear(5, 6), norm, nn.Tanh(), nn.Linear(6, 3)))


def old(function: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Apply a deprecated function of torch without its warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(function(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 2))


def used(model: nn.Module) -> nn.Module:
    """Run the power iterations of a spectral norm, which happen only in training mode."""
    for _ in range(20):
        model.train()(torch.zeros(2, 5))
    return model.eval()


class Cached(nn.Module):
    """Enters ``parametrize.cached()`` in its own forward pass, and uses the weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.readout = parametrizations.orthogonal(nn.Linear(5, 5)), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        with parametrize.cached():
            return self.readout(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Softplus(nn.Module):
    """A custom parametrization: positive weights."""

    def forward(self, w: Tensor) -> Tensor:
        return F.softplus(w)


def positive() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    parametrize.register_parametrization(model[0], "weight", Softplus())
    return model


class Straight(nn.Module):
    """A weight rounded in the forward pass, whose gradient passes straight through."""

    def __init__(self, here: int, there: int, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.step = raw(there, here), step

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        return F.linear(x, w + (self.step(w) - w).detach())


class Binary(torch.autograd.Function):
    """The sign; the gradient passes where the argument is at most one."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1).to(x.dtype)


def straight(step: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(Straight(5, 6, step), nn.Tanh(), nn.Linear(6, 3))


def quantized_by_codes() -> nn.Module:
    """Features replaced by the nearest of a few codes, the gradient passed straight through, as VQ-VAE does."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = torch.tanh(m.into(x))
        nearest = (h[:, None] - m.codes).square().sum(-1).argmin(1)
        return m.out(torch.tanh(h + (m.codes[nearest] - h).detach()))

    return Net(forward, into=nn.Linear(5, 4), codes=raw(6, 4, scale=2), out=nn.Linear(4, 3))


def binarized() -> nn.Module:
    return Net(
        lambda m, x: m.readout(torch.tanh(x @ Binary.apply(m.weight).T * m.weight.detach().abs().mean())),
        weight=raw(6, 5),
        readout=nn.Linear(6, 3),
    )


def detached_norm() -> nn.Module:
    return Net(
        lambda m, x: m.readout(torch.tanh(F.linear(x, m.weight / m.weight.detach().norm(dim=1, keepdim=True)))),
        weight=raw(6, 5),
        readout=nn.Linear(6, 3),
    )


def detached_factor(shared: bool) -> nn.Module:
    """A factor without gradient; its parameters are also used elsewhere, or else they do not learn."""
    first = nn.Linear(5, 5) if shared else nn.Identity()
    a, b = nn.Linear(5, 3), nn.Linear(5, 3)
    return Net(lambda m, x: m.a(m.first(x)) * torch.tanh(m.b(m.first(x))).detach(), first=first, a=a, b=b)


def without_gradient() -> nn.Module:
    """One factor computed under ``no_grad``."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            attention = m.score(torch.tanh(m.first(x))).softmax(-1)
        return m.out(torch.tanh(m.first(x))) * attention

    return Net(forward, first=nn.Linear(5, 6), score=nn.Linear(6, 3), out=nn.Linear(6, 3))


NORMS = {
    "layer norm": Family(lambda: normed(nn.LayerNorm((3, 4))), (2, 3, 4), 2),
    "layer norm, no bias": Family(lambda: normed(nn.LayerNorm(4, bias=False)), (3, 4), 2),
    "layer norm, nothing trained": Family(lambda: between(nn.LayerNorm(6, elementwise_affine=False))),
    "group norm": Family(lambda: normed(nn.GroupNorm(2, 4)), (4, 3), 2),
    "rms norm": Family(lambda: normed(nn.RMSNorm(4)), (3, 4), 2),
    "batch norm, 1d": Family(lambda: normed(nn.BatchNorm1d(4)), (4,), 2, samples=5),
    "batch norm, frozen scale": Family(lambda: between(nn.BatchNorm1d(6).requires_grad_(False))),
    "instance norm": Family(lambda: normed(nn.InstanceNorm1d(4, affine=True)), (4, 3), 2),
    "instance norm, running statistics": Family(
        lambda: normed(nn.InstanceNorm1d(4, affine=True, track_running_stats=True)), (4, 3), 2
    ),
    "local response norm": Family(
        lambda: convolved(nn.Conv1d(2, 4, 2), nn.LocalResponseNorm(3, alpha=0.5), nn.Conv1d(4, 2, 2)), (2, 5), 2
    ),
    "weight norm": Family(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 2)), classes=2
    ),
    "weight norm of the whole": Family(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 4), dim=None), nn.Tanh(), nn.Linear(4, 2)),
        classes=2,
    ),
    "weight norm by a hook": Family(lambda: old(nn.utils.weight_norm), classes=2),
    "weight norm by a hook, called before": Family(lambda: old(nn.utils.weight_norm), classes=2, called=True),
    "weight norm by a hook, of the whole": Family(lambda: old(lambda m: nn.utils.weight_norm(m, dim=None)), classes=2),
    "spectral norm": Family(
        lambda: used(nn.Sequential(parametrizations.spectral_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 2))),
        classes=2,
    ),
    "spectral norm by a hook": Family(lambda: used(old(nn.utils.spectral_norm)), classes=2),
    "orthogonal convolution": Family(
        lambda: convolved(parametrizations.orthogonal(nn.Conv1d(2, 3, 2), orthogonal_map="cayley")), (2, 5), 2
    ),
    "orthogonal, matrix exponential": Family(
        lambda: nn.Sequential(
            parametrizations.orthogonal(nn.Linear(5, 5), orthogonal_map="matrix_exp"), nn.Tanh(), nn.Linear(5, 3)
        )
    ),
    "orthogonal, householder": Family(
        lambda: nn.Sequential(
            parametrizations.orthogonal(nn.Linear(5, 4), orthogonal_map="householder"), nn.Tanh(), nn.Linear(4, 3)
        )
    ),
    "positive weights": Family(positive),
    "parametrizations cached inside": Family(Cached),
    "parametrizations cached around the call": Family(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)),
        around=parametrize.cached,
    ),
    "detached norm of a weight": Family(detached_norm, rate=NOT_A_DERIVATIVE),
    "detached factor": Family(lambda: detached_factor(True), rate=NOT_A_DERIVATIVE),
    "detached factor that stands still": Family(lambda: detached_factor(False)),
    "a factor under no_grad": Family(without_gradient),
    "detached term": Family(
        lambda: Net(lambda m, x: m.a(x) + torch.tanh(m.b(x)).detach(), a=nn.Linear(5, 3), b=nn.Linear(5, 3))
    ),
    "straight through a sign": Family(lambda: straight(torch.sign), rate=NOT_A_DERIVATIVE),
    "straight through rounding": Family(lambda: straight(lambda w: torch.round(4 * w) / 4), rate=NOT_A_DERIVATIVE),
    "vector quantization": Family(quantized_by_codes, rate=NOT_A_DERIVATIVE),
    "binarized": Family(binarized, rate=NOT_A_DERIVATIVE),
}

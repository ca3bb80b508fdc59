"""Perceptrons and other networks of linear layers and raw parameters."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grsd.bench.families.family import TOO_LARGE, Family, Net, Skip, frozen, raw, scalar
from grsd.networks import Perceptron


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


class Raw(nn.Module):
    """A mixed net: raw parameters, a weight used in a layer and outside of it, an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(5, 5), nn.Parameter(torch.rand(5))
        self.matrix, self.unused = nn.Parameter(torch.randn(5, 3) / 2), nn.Parameter(torch.randn(4))
        self.token = nn.Parameter(torch.randn(2, 5))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([x[:, None], self.token.expand(len(x), -1, -1)], 1)
        h = torch.tanh(self.gain * self.layer(h) + h @ self.layer.weight)
        return h.sum(1) @ self.matrix


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.change, self.gate, self.readout = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x) - 1)
        return self.readout(gate * torch.tanh(self.change(x)) + (1 - gate) * x)


class ReZero(nn.Module):
    """Residual branches, each behind a 0-dim gate; one activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))
        self.gates = nn.ParameterList(scalar(0.3 * (i + 1)) for i in range(3))
        self.readout = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer, gate in zip(self.layers, self.gates, strict=True):
            x = x + gate * torch.tanh(layer(x))
        return self.readout(x)


class LogitScale(nn.Module):
    """Cosines with class vectors, with a learned 0-dim temperature, as in CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes = nn.Sequential(nn.Linear(5, 6), nn.GELU()), raw(3, 6)
        self.logit_scale = scalar(math.log(1 / 0.5))

    def forward(self, x: Tensor) -> Tensor:
        h, c = F.normalize(self.body(x), dim=-1), F.normalize(self.classes, dim=-1)
        return self.logit_scale.exp() * h @ c.t()


class Experts(nn.Module):
    """A mixture of experts: all of them weighted, or the two best of each sample, gathered by boolean masks."""

    def __init__(self, best: int | None = None) -> None:
        super().__init__()
        self.gate, self.best = nn.Linear(5, 4), best
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(5, 6), nn.SiLU(), nn.Linear(6, 3)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.best is None:
            return torch.einsum("ne,nec->nc", self.gate(x).softmax(-1), torch.stack([e(x) for e in self.experts], 1))
        weights, chosen = self.gate(x).topk(self.best, -1)
        weights, outputs = weights.softmax(-1), x.new_zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == number)
            if len(rows):
                outputs = outputs.index_add(0, rows, weights[rows, place, None] * expert(x[rows]))
        return outputs


class Spline(nn.Module):
    """A Kolmogorov-Arnold layer: a sum of piecewise linear functions of each input, and of Gaussian bumps."""

    def __init__(self, here: int, there: int, knots: int = 6) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.randn(there, here) / here**0.5)
        self.spline = nn.Parameter(torch.randn(there, here, knots) / (here * knots) ** 0.5)
        self.register_buffer("knots", torch.linspace(-2, 2, knots))

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-(((x[..., None] - self.knots) / 0.8) ** 2))
        return F.silu(x) @ self.base.T + torch.einsum("nik,oik->no", bumps, self.spline)


class Hypernetwork(nn.Module):
    """A hypernetwork: another network computes its weights from a learned code, and one weight per sample."""

    def __init__(self, per_sample: bool) -> None:
        super().__init__()
        self.code, self.per_sample = raw(4), per_sample
        self.make, self.readout = nn.Linear(5 if per_sample else 4, 30), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.per_sample:
            h = torch.bmm(self.make(x).view(-1, 6, 5), x[:, :, None]).squeeze(2)
        else:
            h = F.linear(x, self.make(self.code).view(6, 5))
        return self.readout(torch.tanh(h))


class Adapted(nn.Module):
    """A frozen layer with a trainable low-rank adapter (LoRA), the product times alpha / r."""

    def __init__(self, here: int, there: int, rank: int = 2) -> None:
        super().__init__()
        self.base = nn.Linear(here, there).requires_grad_(False)
        self.lora_a, self.lora_b = raw(rank, here), raw(there, rank)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.lora_a), self.lora_b) * (4 / len(self.lora_a))


def deep_sets() -> nn.Module:
    return Net(
        lambda m, x: m.rho(m.phi(x).sum(1)),
        phi=nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)),
        rho=nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)),
    )


def adapters() -> nn.Module:
    return nn.Sequential(Adapted(5, 6), nn.GELU(), Adapted(6, 6), nn.GELU(), Adapted(6, 3))


def siren() -> nn.Module:
    return Net(
        lambda m, x: m.readout(torch.sin(3.0 * m.second(torch.sin(3.0 * m.first(x))))),
        first=nn.Linear(5, 6),
        second=nn.Linear(6, 6),
        readout=nn.Linear(6, 3),
    )


def fourier_features() -> nn.Module:
    return Net(
        lambda m, x: m.body(torch.cat([torch.sin(x @ m.frequencies), torch.cos(x @ m.frequencies)], -1)),
        frequencies=torch.randn(5, 8),
        body=nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)),
    )


PERCEPTRONS = {
    "plain": Family(lambda: Perceptron(5, 3, width=8, depth=4), samples=6),
    "residual": Family(lambda: Perceptron(5, 3, width=8, depth=4, residual=True), samples=6),
    "deep linear": Family(lambda: Perceptron(5, 2, width=6, depth=3, activation="identity"), classes=2, samples=6),
    "erf, one output": Family(lambda: Perceptron(5, 1, width=8, depth=2, activation="erf"), classes=1, samples=7),
    "one layer, no bias": Family(lambda: nn.Linear(5, 3, bias=False), samples=6),
    "one sample": Family(lambda: Perceptron(5, 3, width=8, depth=2), samples=1),
    "flat output, buffer": Family(
        lambda: Net(
            lambda m, x: m.scale * m.net(x)[:, 0],
            net=nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 1)),
            scale=torch.tensor(1.7),
        ),
        classes=None,
        samples=6,
    ),
    "frozen layer": Family(
        lambda: frozen(Perceptron(5, 3, width=8, depth=3), "hidden.1.weight", "hidden.1.bias"), samples=6
    ),
    "frozen weight, live bias": Family(
        lambda: frozen(Perceptron(5, 3, width=8, depth=3), "hidden.1.weight"), samples=6
    ),
    "reused layer": Family(Reused, samples=6),
    "tied weights, sequence": Family(Tied, (3, 5), 2),
    "raw parameters": Family(Raw),
    "residual by a module": Family(
        lambda: nn.Sequential(
            nn.Linear(5, 6), *(Skip(nn.LayerNorm(6), nn.Linear(6, 6), nn.SiLU()) for _ in "ab")
        ).append(nn.Linear(6, 3))
    ),
    "gated (GLU)": Family(lambda: nn.Sequential(nn.Linear(5, 12), nn.GLU(), nn.Linear(6, 3))),
    "sigmoid gates": Family(
        lambda: Net(
            lambda m, x: m.out(torch.sigmoid(m.gate(x)) * m.value(x)),
            gate=nn.Linear(5, 6),
            value=nn.Linear(5, 6),
            out=nn.Linear(6, 3),
        )
    ),
    "highway": Family(Highway),
    "rezero, 0-dim gates": Family(ReZero),
    "logit scale": Family(LogitScale),
    "maxout": Family(
        lambda: Net(
            lambda m, x: m.out(m.pieces(x).view(-1, 6, 3).amax(2)), pieces=nn.Linear(5, 18), out=nn.Linear(6, 3)
        )
    ),
    "mixture of experts, dense": Family(Experts),
    "mixture of experts, two best": Family(lambda: Experts(2)),
    "siren": Family(siren),
    "kolmogorov-arnold": Family(lambda: nn.Sequential(Spline(5, 4), Spline(4, 3))),
    "fourier features": Family(fourier_features),
    "deep sets": Family(deep_sets, (3, 4), 2),
    "hypernetwork": Family(lambda: Hypernetwork(False)),
    "hypernetwork, one weight per sample": Family(lambda: Hypernetwork(True)),
    "low-rank adapters": Family(adapters),
    "low rank": Family(
        lambda: Net(lambda m, x: torch.tanh(x @ m.u @ m.v) @ m.w, u=raw(5, 2), v=raw(2, 6), w=raw(6, 3)),
    ),
    "prelu": Family(lambda: nn.Sequential(nn.Linear(5, 4), nn.PReLU(4), nn.Linear(4, 2)), classes=2),
    "prelu, one slope": Family(lambda: nn.Sequential(nn.Linear(5, 6), nn.PReLU(), nn.Linear(6, 3))),
    "bilinear": Family(
        lambda: Net(
            lambda m, x: m.out(torch.tanh(m.pair(x, m.mix(x)))),
            mix=nn.Linear(5, 4),
            pair=nn.Bilinear(5, 4, 6),
            out=nn.Linear(6, 3),
        )
    ),
    "softmax output": Family(lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3), nn.Softmax(-1))),
    "log softmax output": Family(lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3), nn.LogSoftmax(-1))),
    "einsum network": Family(
        lambda: Net(
            lambda m, x: torch.einsum("nhd,hdc->nc", torch.tanh(torch.einsum("nd,hde->nhe", x, m.a)), m.b),
            a=raw(2, 5, 4),
            b=raw(2, 4, 3),
        )
    ),
    "outputs of 1e100": Family(
        lambda: Net(lambda m, x: 1e100 * m.net(x), net=Perceptron(5, 3, width=6, depth=2)), rate=TOO_LARGE
    ),
    "outputs of 1e-30": Family(lambda: Net(lambda m, x: 1e-30 * m.net(x), net=Perceptron(5, 3, width=6, depth=2))),
}

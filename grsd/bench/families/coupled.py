"""Networks without a kernel: samples that depend on each other, outputs that are not (N, C), randomness."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from grsd.bench.families.family import OTHER_SAMPLES, Family, Net, Refusal, raw
from grsd.bench.families.plumbing import quantized_layer


def after(function: Callable[[Tensor], object]) -> Callable[[], nn.Module]:
    """A perceptron, then a function of all its outputs."""
    return lambda: Net(lambda m, x: function(m.net(x)), net=nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)))


def refused(build: Callable[[], nn.Module], refusal: Refusal, **options: object) -> Family:
    return Family(build, kernel=refusal, rate=refusal, **options)


def only_in_the_gradient(y: Tensor) -> Tensor:
    """The value of y with the gradient of y minus its mean over the batch."""
    mean = y.mean(0)
    return y - mean + mean.detach()


def scaled_in_the_gradient(y: Tensor) -> Tensor:
    """The value of y with a gradient that is scaled by the deviation over the batch."""
    scale = y.std(0)
    return y * (scale / scale.detach())


def recurrent_over_the_batch() -> nn.Module:
    """``nn.LSTM`` without batch_first on (N, T, F): it takes samples for time steps."""
    return Net(lambda m, x: m.readout(m.body(x)[0][:, -1]), body=nn.LSTM(4, 5), readout=nn.Linear(5, 2))


def attention_over_the_batch() -> nn.Module:
    return Net(lambda m, x: m.readout(m.body(x, x, x)[0]), body=nn.MultiheadAttention(4, 2), readout=nn.Linear(4, 2))


def quantized() -> nn.Module:
    """A dynamically quantized layer, whose grid depends on the whole batch, before trainable ones."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.readout(torch.tanh(m.quantized(x.float()).to(x.dtype)))

    return Net(forward, quantized=quantized_layer(), readout=nn.Linear(6, 3))


class Remembers(nn.Module):
    """Adds the output of its last call."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.last = nn.Linear(5, 3), 0.0

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.net(x)) + 0.5 * self.last
        self.last = float(y.detach().sum())
        return y


class KeptOutside(nn.Module):
    """Normalizes its weight once for all calls and keeps it in the default of an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 3)
        kept: dict[str, Tensor] = {}

        def weight(net: nn.Linear, kept: dict[str, Tensor] = kept) -> Tensor:
            if "weight" not in kept:
                kept["weight"] = torch.tanh(net.weight)
            return kept["weight"]

        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight(self.net), self.net.bias)


class RefersToItself(nn.Module):
    """A function among its attributes closes over the module, so that a copy still uses the original."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 3)
        self.twice = lambda x: self.net(x) * 2

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.twice(x))


class Factor(nn.Module):
    """Its factor requires gradients but is not registered."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.factor = nn.Linear(5, 3), torch.rand(3).requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.factor


class Unregistered(nn.Module):
    """One of its layers is stored where torch does not look for modules."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.layers = nn.Linear(5, 3), [nn.Linear(5, 5)]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.tanh(self.layers[0](x)))


SHAPE, CHANCE = Refusal("it gave"), Refusal("another output each time")

COUPLED = {
    "batch norm in training mode": refused(
        lambda: Net(
            lambda m, x: m.readout(m.norm.train()(m.first(x))),
            first=nn.Linear(5, 6),
            norm=nn.BatchNorm1d(6),
            readout=nn.Linear(6, 3),
        ),
        Refusal("changes 'norm.running_mean'"),
    ),
    "batch norm without statistics": refused(
        lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3)),
        OTHER_SAMPLES,
    ),
    "running sum over the batch": refused(after(lambda y: y.cumsum(0)), OTHER_SAMPLES),
    "less the first sample": refused(after(lambda y: y - y[:1]), OTHER_SAMPLES),
    "less the last sample": refused(after(lambda y: y - y[-1:]), OTHER_SAMPLES),
    "rolled along the batch": refused(after(lambda y: y + y.roll(1, 0)), OTHER_SAMPLES),
    "less the mean": refused(after(lambda y: torch.tanh(y - y.mean(0))), OTHER_SAMPLES),
    "less the detached mean": refused(after(lambda y: y - y.mean(0).detach()), OTHER_SAMPLES),
    "less the mean in the gradient only": refused(after(only_in_the_gradient), OTHER_SAMPLES),
    "scaled over the batch in the gradient only": refused(after(scaled_in_the_gradient), OTHER_SAMPLES),
    "the first sample's gradient only": refused(
        after(lambda y: y + torch.tanh(y[:1]) - torch.tanh(y[:1]).detach()), OTHER_SAMPLES
    ),
    "softmax over the batch": refused(after(lambda y: y.softmax(0)), OTHER_SAMPLES),
    "sorted along the batch": refused(after(lambda y: y.sort(0).values), OTHER_SAMPLES),
    "divided by the batch's size": refused(after(lambda y: y / len(y)), OTHER_SAMPLES),
    "lstm over the batch": refused(recurrent_over_the_batch, OTHER_SAMPLES, shape=(3, 4), classes=2),
    "attention over the batch": refused(attention_over_the_batch, OTHER_SAMPLES, shape=(4,), classes=2),
    "quantized dynamically": refused(quantized, Refusal("take dtype=torch.float32")),
    "everything unused": refused(
        lambda: Net(lambda m, x: m.fixed(x), fixed=nn.Linear(5, 3).requires_grad_(False), unused=raw(4)),
        Refusal("no output depends on a trainable parameter"),
    ),
    "kept in a default argument": refused(
        KeptOutside, Refusal("keeps a tensor computed from 'net.weight'|kept from an earlier call")
    ),
    "a layer in a plain list": refused(
        Unregistered, Refusal("the model uses 'layers\\[0\\].(weight|bias)', which requires")
    ),
    "a plain tensor that requires gradients": refused(
        Factor, Refusal("the model uses 'factor', which requires gradients")
    ),
    "refers to itself": refused(RefersToItself, Refusal("the model uses its 'net.(weight|bias)' by a reference")),
    "active dropout": refused(
        lambda: Net(lambda m, x: m.net(nn.functional.dropout(x, 0.5, training=True)), net=nn.Linear(5, 3)),
        CHANCE,
    ),
    "noise in the forward pass": refused(after(lambda y: y + torch.randn_like(y)), CHANCE),
    "remembers its last call": refused(Remembers, CHANCE),
    "counts in a buffer": refused(
        lambda: Net(lambda m, x: m.net(x) + 0 * m.steps.add_(1), net=nn.Linear(5, 3), steps=torch.zeros(())),
        Refusal("changes 'steps'"),
    ),
    "a tuple": refused(after(lambda y: (y, y)), Refusal("must return one tensor, it returned tuple")),
    "a dict": refused(after(lambda y: {"logits": y}), Refusal("must return one tensor, it returned dict")),
    "an image": refused(after(lambda y: y[:, None, None]), SHAPE),
    "one number of the batch": refused(after(lambda y: y.mean()), SHAPE),
    "complex outputs": refused(after(lambda y: torch.complex(y, y)), Refusal("must be real floating point")),
    "nan": refused(after(lambda y: y.abs().neg().sqrt()), Refusal("NaN or infinity")),
    "nothing trainable": refused(
        lambda: nn.Linear(5, 3).requires_grad_(False), Refusal("no parameter with requires_grad=True")
    ),
}

"""Networks that use difficult features of torch: compilers, hooks, state, writes in place, quantized parts."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from grsd.bench.families.family import Family, Net, perceptron, raw


class Keeps(nn.Module):
    """Keeps its activations and counts its calls."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.calls, self.kept, self.history, self.last = layers, 0, {}, [], None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        for name, layer in self.layers.named_children():
            x = self.kept[name] = layer(x)
        self.history.append(x)
        self.last = x
        return x


class Branches(nn.Module):
    """Branches on the number of samples: one, few or many; all branches compute the same function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return torch.tanh(x @ self.first.weight.T + self.first.bias) @ self.second.weight.T + self.second.bias
        if x.shape[0] <= 4:
            return F.linear(torch.tanh(self.first(x)), self.second.weight, self.second.bias + 0)
        return self.second(torch.tanh(self.first(x)))


class WholeBatch(nn.Module):
    """Cannot run under vmap on single samples: it looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.slow = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.tanh(row @ (self.matrix if float(row[0]) > 0 else self.slow)) for row in x])


class InPlace(nn.Module):
    """Adds, multiplies and writes slices in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        change = self.second(h)
        h = h.clone()
        h += change
        h[:, :3] *= 2
        h[:, 3] = h[:, 4].clone().sin()
        return self.out(h)


class Filled(nn.Module):
    """Writes into a fresh tensor, column by column."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(len(x), 3, dtype=x.dtype, device=x.device)
        h = self.inner(x)
        for i in range(3):
            out[:, i] = torch.tanh(h[:, i]) * h[:, i - 1]
        return out


def hooked() -> nn.Module:
    """Hooks that change the input and the output of a layer."""
    model = perceptron()
    model[2].register_forward_pre_hook(lambda m, args: (args[0] * torch.sigmoid(m.weight[0]),))
    model[2].register_forward_hook(lambda m, args, out: out + 0.5 * args[0].square())
    return model


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(perceptron())


def traced() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(perceptron(), torch.randn(2, 5))


def partly_scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(5, 6), nn.Tanh())), nn.Linear(6, 3))


def shared_block() -> nn.Module:
    """The same module registered twice."""
    block = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    return nn.Sequential(block, nn.LayerNorm(5), block, nn.Linear(5, 3))


def meta_learner() -> nn.Module:
    """Calls a layer by ``functional_call`` with weights shifted by a raw parameter."""
    return Net(
        lambda m, x: functional_call(m.net, {"0.bias": m.net[0].bias + m.shift}, (x,)),
        net=nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)),
        shift=raw(6),
    )


def quantized_layer() -> nn.Module:
    """``nn.Linear(5, 6)`` in int8, whose inputs are rounded to a grid that depends on the batch."""
    layer, weight = torch.ao.nn.quantized.dynamic.Linear(5, 6), torch.randn(6, 5)
    layer.set_weight_bias(torch.quantize_per_tensor(weight, float(weight.abs().max()) / 127, 0, torch.qint8), None)
    return layer


def quantized() -> nn.Module:
    """A dynamically quantized layer on each sample by itself, before trainable ones."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = torch.cat([m.quantized(row.float()[None]) for row in x])
        return m.readout(torch.tanh(m.inner(h.to(x.dtype))))

    return Net(forward, quantized=quantized_layer(), inner=nn.Linear(6, 5), readout=nn.Linear(5, 3))


def ensemble() -> nn.Module:
    """Three small perceptrons at once: stacked weights under ``torch.vmap``, averaged."""

    def one(w: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(x @ w) @ v

    return Net(lambda m, x: vmap(one, (0, 0, None))(m.w, m.v, x).mean(0), w=raw(3, 5, 4), v=raw(3, 4, 3))


def autocast() -> nn.Module:
    """Under ``torch.autocast``, which does not change float64."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return m.net(x)

    return Net(forward, net=perceptron())


PLUMBING = {
    "compiled": Family(lambda: torch.compile(perceptron(), backend="eager"), slow=True),
    "scripted": Family(scripted),
    "traced": Family(traced),
    "partly scripted": Family(partly_scripted),
    "data parallel": Family(lambda: nn.DataParallel(perceptron())),
    "relu in place": Family(lambda: perceptron(nn.ReLU(inplace=True), nn.ELU(inplace=True))),
    "in place": Family(InPlace),
    "filled column by column": Family(Filled),
    "keeps its activations": Family(lambda: Keeps(perceptron())),
    "keeps its activations, called before": Family(lambda: Keeps(perceptron()), called=True),
    "hooks": Family(hooked),
    "branches on shapes": Family(Branches, samples=6),
    "looks at values": Family(WholeBatch),
    "functional call inside": Family(meta_learner),
    "autocast inside": Family(autocast),
    "frozen weights in int8": Family(
        lambda: Net(
            lambda m, x: m.out(torch.tanh(m.inner(x) @ (m.packed.to(x.dtype) * m.scale))),
            inner=nn.Linear(5, 4),
            packed=torch.randint(-127, 127, (4, 6), dtype=torch.int8),
            scale=torch.rand(6) / 60,
            out=nn.Linear(6, 3),
        )
    ),
    "ensemble by vmap": Family(ensemble),
    "one block under two names": Family(shared_block),
    "named layers": Family(
        lambda: nn.Sequential(OrderedDict(first=nn.Linear(5, 6), activation=nn.Mish(), last=nn.Linear(6, 3)))
    ),
    "dropout switched off": Family(
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.AlphaDropout(0.2), nn.SELU(), nn.Linear(6, 3))
    ),
    "parameters in containers": Family(
        lambda: Net(
            lambda m, x: torch.tanh(x @ m.kept["into"] + m.biases[0]) @ m.kept["out"] + m.biases[1],
            kept=nn.ParameterDict({"into": raw(5, 6), "out": raw(6, 3)}),
            biases=nn.ParameterList([raw(6), raw(3)]),
        )
    ),
}

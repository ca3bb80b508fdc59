"""Architectures beyond perceptrons: every kind of layer alone and composed, each in a few samples."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Wrap(nn.Module):
    """A body, a function of its output that flattens it, and nothing else."""

    def __init__(self, body: nn.Module, pool=lambda h: h.flatten(1)) -> None:
        super().__init__()
        self.body, self.pool = body, pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.body(x))


def randomized(model: nn.Module) -> nn.Module:
    """Scales, shifts and running statistics away from 0 and 1, in evaluation mode."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and (tensor.ndim <= 1 or "norm" in name):
                tensor.copy_(
                    0.5 + torch.rand_like(tensor) if "var" in name else tensor + 0.3 * torch.randn_like(tensor)
                )
    return model.eval()


class PreActivation(nn.Module):
    """A pre-activation residual block with eval-mode batch norm; a strided, projected short cut where asked."""

    def __init__(self, here: int, there: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(here), nn.BatchNorm2d(there)
        self.conv1 = nn.Conv2d(here, there, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(there, there, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(here, there, 1, stride, bias=False) if (here, 1) != (there, stride) else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm1(x), inplace=True)
        return (x if self.short is None else self.short(h)) + self.conv2(F.softplus(self.norm2(self.conv1(h))))


def resnet() -> nn.Module:
    blocks = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), PreActivation(4, 4), PreActivation(4, 6, 2))
    return randomized(nn.Sequential(blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)))


class Language(nn.Module):
    """A transformer encoder: tokens, positions, output weights tied to the embedding, the last position read out."""

    def __init__(self, norm_first: bool = True) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(7, 8, padding_idx=0), nn.Embedding(5, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.readout = nn.Linear(8, 7, bias=False)
        self.readout.weight = self.token.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x) + self.position(torch.arange(x.shape[1], device=x.device))
        return self.readout(self.encoder(h)[:, -1])


class Attention(nn.Module):
    def __init__(self, batch_first: bool = True, cross: bool = False, **options) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first, **options)
        self.batch_first, self.cross, self.readout = batch_first, cross, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.batch_first else x.transpose(0, 1)
        other = torch.tanh(h) if self.cross else h
        h = self.attention(h, other, other, need_weights=self.cross)[0]
        return self.readout(h.mean(1 if self.batch_first else 0))


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


class Branches(nn.Module):
    """Goes one way for a single sample, another for a few, another for many: the same function in all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return torch.tanh(x @ self.first.weight.T + self.first.bias) @ self.second.weight.T + self.second.bias
        if x.shape[0] <= 4:
            return F.linear(torch.tanh(self.first(x)), self.second.weight, self.second.bias + 0)
        return self.second(torch.tanh(self.first(x)))


class Patches(nn.Module):
    """Folds patches into the batch dimension, and frames of a film into that of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.convolve = nn.Linear(3, 4), nn.Conv1d(4, 4, 2)
        self.scale, self.readout = nn.RMSNorm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x.reshape(-1, 3)))
        h = self.convolve(h.reshape(-1, 3, 4).transpose(1, 2))
        h = self.scale(h.transpose(1, 2)).reshape(len(x), -1, 4)
        return self.readout(h).mean(1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.readout = nn.GRUCell(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 5)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.readout(h)


class WholeBatch(nn.Module):
    """Cannot run under vmap on single samples: it looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.slow = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.tanh(row @ (self.matrix if float(row[0]) > 0 else self.slow)) for row in x])


def normed(norm: nn.Module, *shape: int) -> nn.Module:
    return randomized(Wrap(nn.Sequential(norm, nn.Tanh()), lambda h: h.reshape(len(h), -1, 2).sum(1)))


def convolved(*layers: nn.Module) -> nn.Module:
    return Wrap(nn.Sequential(*layers), lambda h: torch.stack([h.flatten(1).tanh().sum(1), h.flatten(1)[:, 0]], 1))


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 2))


MODELS: dict[str, tuple] = {
    "conv1d, stride, dilation": (
        lambda: convolved(nn.Conv1d(2, 3, 3, stride=2, padding=2, dilation=2), nn.Tanh(), nn.Conv1d(3, 4, 2)),
        (4, 2, 9),
        (4, 2),
    ),
    "conv2d, groups, same": (
        lambda: convolved(nn.Conv2d(4, 6, (3, 2), padding="same", groups=2), nn.Tanh(), nn.Conv2d(6, 6, 3, groups=6)),
        (3, 4, 5, 5),
        (3, 2),
    ),
    "conv2d, circular, valid": (
        lambda: convolved(
            nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False),
            nn.Tanh(),
            nn.Conv2d(3, 3, 2, (2, 1), "valid"),
        ),
        (3, 2, 4, 4),
        (3, 2),
    ),
    "conv3d": (lambda: convolved(nn.Conv3d(1, 2, 2, padding=(1, 0, 1))), (3, 1, 3, 3, 3), (3, 2)),
    "wide convolution": (
        lambda: convolved(nn.Conv2d(8, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3)),
        (3, 8, 4, 4),
        (3, 2),
    ),
    "layer norm": (lambda: normed(nn.LayerNorm((3, 4))), (4, 2, 3, 4), (4, 2)),
    "layer norm, no bias": (lambda: normed(nn.LayerNorm(4, bias=False)), (4, 3, 4), (4, 2)),
    "group norm": (lambda: normed(nn.GroupNorm(2, 4)), (4, 4, 3), (4, 2)),
    "rms norm": (lambda: normed(nn.RMSNorm(4)), (4, 3, 4), (4, 2)),
    "batch norm, 1d": (lambda: normed(nn.BatchNorm1d(4)), (5, 4), (5, 2)),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(6, 4, padding_idx=1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)),
        (5, 3),
        (5, 2),
        6,
    ),
    "short embedding": (
        lambda: nn.Sequential(nn.Embedding(50, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)),
        (7, 2),
        (7, 2),
        50,
    ),
    "attention": (Attention, (4, 3, 4), (4, 2)),
    "attention, sequence first, as many positions as samples": (
        lambda: Attention(batch_first=False),
        (4, 4, 4),
        (4, 2),
    ),
    "cross attention, bias rows": (lambda: Attention(cross=True, add_bias_kv=True), (4, 3, 4), (4, 2)),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 2)),
        (4, 5),
        (4, 2),
    ),
    "weight norm by a hook": (old_weight_norm, (4, 5), (4, 2)),
    "orthogonal convolution": (
        lambda: convolved(nn.utils.parametrizations.orthogonal(nn.Conv1d(2, 3, 2), orthogonal_map="cayley")),
        (4, 2, 5),
        (4, 2),
    ),
    "raw parameters": (Raw, (4, 5), (4, 3)),
    "prelu": (lambda: nn.Sequential(nn.Linear(5, 4), nn.PReLU(4), nn.Linear(4, 2)), (4, 5), (4, 2)),
    "branches on shapes": (Branches, (6, 5), (6, 3)),
    "folded patches": (Patches, (3, 6, 3), (3, 2)),
    "recurrent cell": (Recurrent, (4, 3, 4), (4, 2)),
    "looks at values": (WholeBatch, (4, 5), (4, 3)),
    "resnet": (resnet, (3, 2, 6, 6), (3, 3)),
    "transformer, tied output": (Language, (4, 5), (4, 7), 7),
    "transformer, norms last": (lambda: Language(norm_first=False), (3, 3), (3, 7), 7),
}

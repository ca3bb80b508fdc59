"""The networks that are timed, with random weights and inputs from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grsd.networks import Perceptron


@dataclass(frozen=True)
class Problem:
    """``build`` gives the network in evaluation mode; ``inputs`` are (N, *shape)."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int

    def make(self, samples: int, dtype: torch.dtype, device: str) -> tuple[nn.Module, Tensor, Tensor]:
        """(model, inputs, targets)."""
        torch.manual_seed(0)
        model = self.build().eval().to(device=device, dtype=dtype)
        generator = torch.Generator().manual_seed(1)
        inputs, targets = (
            torch.randn(samples, *shape, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)
            for shape in (self.shape, (self.classes,))
        )
        return model, inputs, targets


class PreActivation(nn.Module):
    """A pre-activation block, norm-relu-conv twice, with a 1x1 shortcut if the shape changes."""

    def __init__(self, here: int, there: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(here), nn.BatchNorm2d(there)
        self.conv1 = nn.Conv2d(here, there, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(there, there, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(here, there, 1, stride, bias=False) if (here, 1) != (there, stride) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        x = x if isinstance(self.short, nn.Identity) else self.short(h)
        return x + self.conv2(F.relu(self.norm2(self.conv1(h))))


class Basic(nn.Module):
    """The block of ResNet-18: conv-norm-relu-conv-norm, added, relu (He et al. 2016)."""

    def __init__(self, here: int, there: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(here, there, 3, stride, 1, bias=False), nn.BatchNorm2d(there)
        self.conv2, self.norm2 = nn.Conv2d(there, there, 3, 1, 1, bias=False), nn.BatchNorm2d(there)
        self.short = nn.Sequential()
        if (here, 1) != (there, stride):
            self.short = nn.Sequential(nn.Conv2d(here, there, 1, stride, bias=False), nn.BatchNorm2d(there))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(h + self.short(x))


def cnn(channels: int, blocks: int = 4) -> nn.Module:
    body = [PreActivation(channels, channels) for _ in range(blocks)]
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)
    )


def resnet18() -> nn.Module:
    """ResNet-18 with a stem for 32x32 images; 11.2 million parameters."""
    widths = [
        (64, 64, 1),
        (64, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
        (512, 512, 1),
    ]
    stem = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    blocks = [Basic(*width) for width in widths]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Encoder(nn.Module):
    """One pre-normalized encoder block on (N, T, d), averaged over positions and read out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.readout = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.block(x).mean(1))


PROBLEMS = {
    "mlp": Problem(lambda: Perceptron(64, 10, width=256, depth=6), (64,), 10),
    "mlp, narrow": Problem(lambda: Perceptron(64, 10, width=64, depth=6), (64,), 10),
    "cnn": Problem(lambda: cnn(16), (3, 8, 8), 10),
    "cnn, wide": Problem(lambda: cnn(128), (3, 8, 8), 10),
    "transformer": Problem(lambda: Encoder(128, 4), (8, 128), 10),
    "resnet18": Problem(resnet18, (3, 32, 32), 10),
}

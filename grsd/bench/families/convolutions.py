"""Convolutions, and the blocks of networks for images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grsd.bench.families.family import Family, Net, Skip, Then, randomized, raw, scalar


def two(h: Tensor) -> Tensor:
    """Two outputs per sample: a sum over all features, and the first feature."""
    return torch.stack([h.flatten(1).tanh().sum(1), h.flatten(1)[:, 0]], 1)


def convolved(*layers: nn.Module) -> nn.Module:
    return Then(*layers, then=two)


def pooled(*layers: nn.Module, channels: int, classes: int = 3) -> nn.Module:
    """Layers on images, then the mean over positions and a readout."""
    return randomized(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)))


class PreActivation(nn.Module):
    """A pre-activation residual block with eval-mode batch norm; an optional strided, projected shortcut."""

    def __init__(self, here: int, there: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(here), nn.BatchNorm2d(there)
        self.conv1 = nn.Conv2d(here, there, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(there, there, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(here, there, 1, stride, bias=False) if (here, 1) != (there, stride) else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm1(x), inplace=True)
        return (x if self.short is None else self.short(h)) + self.conv2(F.softplus(self.norm2(self.conv1(h))))


class Excite(nn.Module):
    """Squeeze and excite: channels weighted by a function of their means."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.fold, self.unfold, self.gate = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1), gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.unfold(F.silu(self.fold(x.mean((2, 3), keepdim=True)))))


def inverted(channels: int, hidden: int, activation: type[nn.Module]) -> nn.Module:
    """The inverted residual of MobileNet: widen, depthwise, excite, narrow; activations in place."""
    return Skip(
        nn.Conv2d(channels, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        activation(inplace=True),
        nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
        nn.BatchNorm2d(hidden),
        activation(inplace=True),
        Excite(hidden, nn.Hardsigmoid()),
        nn.Conv2d(hidden, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


class Dense(nn.Module):
    """DenseNet: every layer sees the outputs of all earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(inplace=True), nn.Conv2d(c, 2, 3, padding=1)) for c in (2, 4, 6)
        )
        self.readout = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.readout(torch.cat(features, 1).mean((2, 3)))


class UNet(nn.Module):
    """U-Net: down, then up by a transposed convolution and by interpolation, with a skip connection."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.down, self.deep = mode, nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.up, self.merge = nn.ConvTranspose2d(4, 3, 2, 2), nn.Conv2d(6, 3, 3, padding=1)
        self.merge_channels = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        here = torch.tanh(self.down(x))
        deep = torch.tanh(self.deep(F.avg_pool2d(here, 2)))
        if self.mode == "transposed":
            up = self.up(deep)
        else:
            up = self.merge_channels(F.interpolate(deep, scale_factor=2, mode=self.mode))
        return torch.tanh(self.merge(torch.cat([here, up], 1))).mean((2, 3))


class ConvNeXt(nn.Module):
    """ConvNeXt: depthwise convolution, layer norm over channels, a perceptron at each position, layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.wide, self.back = nn.Linear(channels, 8), nn.Linear(8, channels)
        self.scale = nn.Parameter(0.5 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        h = self.scale * self.back(F.gelu(self.wide(h)))
        return x + h.permute(0, 3, 1, 2)


class Fixup(nn.Module):
    """A residual block without norms: 0-dim biases and scales between its layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.biases = nn.ParameterList(scalar(0.1 * i) for i in range(4))
        self.scale = scalar(1.2)

    def forward(self, x: Tensor) -> Tensor:
        one, two, three, four = self.biases
        h = F.softplus(self.conv1(x + one) + two)
        return x + self.scale * self.conv2(h + three) + four


class Standardized(nn.Conv2d):
    """The weight minus its mean, divided by its standard deviation, in every call."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Shuffle(nn.Module):
    """ShuffleNet: half of the channels are changed, then all are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1, groups=2))

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        h = torch.stack([kept, self.branch(changed)], 2)
        return h.transpose(1, 2).flatten(1, 2).contiguous()


class Deformable(nn.Module):
    """Images sampled by ``grid_sample`` at offsets that a convolution computes."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.convolve = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (torch.linspace(-0.9, 0.9, n, dtype=x.dtype, device=x.device) for n in x.shape[2:])
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
        grid = grid + 0.1 * self.offset(x).permute(0, 2, 3, 1)
        return torch.tanh(self.convolve(F.grid_sample(x, grid, align_corners=False))).mean((2, 3))


class Involution(nn.Module):
    """Involution: each position computes a kernel of its own, which acts on all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.readout = nn.Conv2d(2, 9, 1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        patches = F.unfold(x, 3, padding=1).view(n, c, 9, h, w)
        return self.readout((patches * self.make(x)[:, None]).sum(2).tanh().mean((2, 3)))


class Patches(nn.Module):
    """Folds patches into the batch dimension, and frames of a video into that of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.convolve = nn.Linear(3, 4), nn.Conv1d(4, 4, 2)
        self.scale, self.readout = nn.RMSNorm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x.reshape(-1, 3)))
        h = self.convolve(h.reshape(-1, 3, 4).transpose(1, 2))
        h = self.scale(h.transpose(1, 2)).reshape(len(x), -1, 4)
        return self.readout(h).mean(1)


CONVOLUTIONS = {
    "conv1d, stride, dilation": Family(
        lambda: convolved(nn.Conv1d(2, 3, 3, stride=2, padding=2, dilation=2), nn.Tanh(), nn.Conv1d(3, 4, 2)), (2, 9), 2
    ),
    "conv2d, groups, same": Family(
        lambda: convolved(nn.Conv2d(4, 6, (3, 2), padding="same", groups=2), nn.Tanh(), nn.Conv2d(6, 6, 3, groups=6)),
        (4, 5, 5),
        2,
        samples=3,
    ),
    "conv2d, circular, valid": Family(
        lambda: convolved(
            nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False),
            nn.Tanh(),
            nn.Conv2d(3, 3, 2, (2, 1), "valid"),
        ),
        (2, 4, 4),
        2,
        samples=3,
    ),
    "conv2d, reflect and replicate": Family(
        lambda: convolved(
            nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
            nn.Tanh(),
            nn.Conv2d(3, 2, 3, padding=1, padding_mode="replicate"),
        ),
        (2, 4, 4),
        2,
    ),
    "conv3d": Family(lambda: convolved(nn.Conv3d(1, 2, 2, padding=(1, 0, 1))), (1, 3, 3, 3), 2, samples=3),
    "wide convolution": Family(
        lambda: convolved(nn.Conv2d(8, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 16, 3)), (8, 4, 4), 2, samples=3
    ),
    "transposed convolutions": Family(
        lambda: convolved(
            nn.ConvTranspose1d(2, 3, 3, stride=2, output_padding=1), nn.Tanh(), nn.ConvTranspose1d(3, 2, 2)
        ),
        (2, 4),
        2,
    ),
    "transposed convolution, 2d, groups": Family(
        lambda: convolved(nn.ConvTranspose2d(4, 4, 3, 2, 1, groups=2, dilation=2), nn.Tanh()), (4, 3, 3), 2
    ),
    "depthwise separable": Family(
        lambda: pooled(nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 5, 1), nn.ReLU(), channels=5), (2, 5, 5)
    ),
    "dilated, wavenet": Family(
        lambda: Net(
            lambda m, x: m.c(torch.tanh(m.a(x)) * torch.sigmoid(m.b(x))).mean(2),
            a=nn.Conv1d(2, 4, 2, dilation=3),
            b=nn.Conv1d(2, 4, 2, dilation=3),
            c=nn.Conv1d(4, 3, 1),
        ),
        (2, 9),
    ),
    "strided, max pool": Family(
        lambda: pooled(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2, 2), channels=4),
        (2, 8, 8),
    ),
    "resnet": Family(
        lambda: pooled(nn.Conv2d(2, 4, 3, padding=1), PreActivation(4, 4), PreActivation(4, 6, 2), channels=6),
        (2, 6, 6),
        samples=3,
    ),
    "inverted residual, hardswish, excite": Family(
        lambda: pooled(nn.Conv2d(2, 4, 3), inverted(4, 6, nn.Hardswish), channels=4), (2, 5, 5)
    ),
    "inverted residual, relu6, excite": Family(
        lambda: pooled(nn.Conv2d(2, 4, 3), inverted(4, 6, nn.ReLU6), channels=4), (2, 5, 5)
    ),
    "squeeze and excite": Family(
        lambda: pooled(nn.Conv2d(2, 4, 3), Excite(4, nn.Sigmoid()), nn.Tanh(), channels=4), (2, 5, 5)
    ),
    "densenet": Family(lambda: randomized(Dense()), (2, 4, 4)),
    "u-net, transposed": Family(lambda: UNet("transposed"), (2, 4, 4)),
    "u-net, bilinear": Family(lambda: UNet("bilinear"), (2, 4, 4)),
    "u-net, nearest": Family(lambda: UNet("nearest"), (2, 4, 4)),
    "convnext": Family(lambda: pooled(nn.Conv2d(2, 4, 2, 2), ConvNeXt(4), nn.GroupNorm(1, 4), channels=4), (2, 6, 6)),
    "fixup": Family(lambda: Then(nn.Conv2d(2, 3, 1), Fixup(3), Fixup(3), then=lambda h: h.mean((2, 3))), (2, 4, 4)),
    "weight standardized": Family(
        lambda: pooled(Standardized(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), Standardized(4, 4, 2), channels=4),
        (2, 5, 5),
    ),
    "shufflenet": Family(lambda: pooled(nn.Conv2d(2, 4, 1), Shuffle(), Shuffle(), channels=4), (2, 4, 4)),
    "pixel shuffle": Family(
        lambda: convolved(nn.Conv2d(2, 8, 3, padding=1), nn.PixelShuffle(2), nn.Tanh(), nn.Conv2d(2, 2, 3)),
        (2, 3, 3),
        2,
    ),
    "deformable": Family(Deformable, (2, 4, 4)),
    "involution": Family(Involution, (2, 4, 4)),
    "folded patches": Family(Patches, (6, 3), 2, samples=3),
    "blur pool, fixed kernel": Family(
        lambda: Net(
            lambda m, x: m.out(F.conv2d(torch.tanh(m.conv(x)), m.blur, stride=2, groups=3).flatten(1)),
            conv=nn.Conv2d(2, 3, 3, padding=1),
            blur=torch.ones(3, 1, 2, 2) / 4,
            out=nn.Linear(12, 3),
        ),
        (2, 4, 4),
    ),
    "functional convolution of a raw kernel": Family(
        lambda: Net(lambda m, x: two(F.conv1d(x, m.kernel.softmax(-1), padding=1)), kernel=raw(3, 2, 3)), (2, 5), 2
    ),
}

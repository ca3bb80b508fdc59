"""Pre-activation residual convolutional networks, and the same without skips."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grsd.networks.perceptron import LAYERS
from grsd.networks.registry import architecture
from grsd.networks.stack import Stack, checked, draw, grid_of, normal
from grsd.support.checks import floating_dtype
from grsd.support.values import choice

NORMS = ("group", "layer", "batch")
STARTS = ("fan-in", "fixup")
GROUPS = 4
BATCH = 256
STRIDE, LARGE = 2, 8  # of the first convolution, from images of 8 x 8 on


def normalization(kind: str, channels: int, **places: object) -> nn.Module:
    """Return a normalization of ``channels``: of at most 4 groups, of one group (layer), or of a batch."""
    if kind == "batch":
        return nn.BatchNorm2d(channels, **places)
    return nn.GroupNorm(math.gcd(GROUPS, channels) if kind == "group" else 1, channels, **places)


class ResNet(nn.Module):
    r"""Convolutions of 3 x 3 in blocks of two, each after a normalization and an activation (He et al., 1603.05027).

    .. math:: h_0 = W_0 * x, \qquad h_{l+1} = h_l + \beta\, W_{l,2} * \sigma(n(W_{l,1} * \sigma(n(h_l)))), \qquad
              f = V\, \mathrm{mean}\, \sigma(n(h_L)) + c

    with skips; without them the sum is its second term alone, without beta. Weights: ``grsd.networks.stack.draw``.

    Args:
        features: d, a square image (grey, or three colours one after the other), else a sequence, whose convolutions
            are 1 x 3. The first convolution takes every second pixel of images of 8 x 8 or more.
        outputs: C.
        width: channels. ``depth``: blocks L, two convolutions each.
        skips: whether there are skips; nothing else changes.
        norm: "group" (4 groups, or what divides the channels), "layer" (one group), or "batch": as at inference, with
            the statistics of 256 normal inputs at the start, which then stand still.
        start: "fan-in", or "fixup" (Zhang et al., arXiv 1901.09321, with the normalization kept): the second weight of
            each block and the readout start at zero, the first is divided by sqrt(L).
        activation, weight_scale, seed, dtype: as in ``Perceptron``. ``branch_scale``: beta, None: 1 / sqrt(L).

    Shapes: input (N, d), output (N, C). Modes: batch norm is in evaluation mode.
    Errors: ``ValueError`` in one line; among others for "fixup" without skips, whose output would not depend on x.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        width: int = 12,
        depth: int = 3,
        skips: bool = True,
        norm: str = "group",
        start: str = "fan-in",
        activation: str = "tanh",
        weight_scale: float = 1.0,
        branch_scale: float | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        sizes, skips, weight_scale, branch_scale, seed = checked(
            "ResNet",
            {"features": features, "outputs": outputs, "width": width, "depth": depth},
            skips=skips,
            activation=activation,
            weight_scale=weight_scale,
            branch_scale=branch_scale,
            seed=seed,
            branches=1,
        )
        features, outputs, width, depth = sizes
        choice("ResNet", "norm", norm, NORMS)
        choice("ResNet", "start", start, STARTS)
        if start == "fixup" and not skips:
            raise ValueError("ResNet(start='fixup', skips=False): its blocks start at zero, so skips are needed")
        places = {"dtype": floating_dtype("ResNet", dtype), "device": "cpu"}
        self.grid = channels, height, _ = grid_of(features)
        kernel = (min(3, height), 3)
        shape = {"kernel_size": kernel, "padding": (kernel[0] // 2, 1), "bias": False, **places}

        def convolution(here: int) -> list[nn.Module]:
            return [normalization(norm, here, **places), LAYERS[activation](), nn.Conv2d(here, width, **shape)]

        self.stem = nn.Conv2d(channels, width, stride=STRIDE if height >= LARGE else 1, **shape)
        blocks = [nn.Sequential(*convolution(width), *convolution(width)) for _ in range(depth)]
        self.blocks = Stack(blocks, skips=skips, scale=branch_scale)
        self.head = nn.Sequential(normalization(norm, width, **places), LAYERS[activation]())
        self.readout = nn.Linear(width, outputs, **places)
        generator = torch.Generator("cpu").manual_seed(seed)
        draw(self, weight_scale, generator)
        if start == "fixup":
            with torch.no_grad():
                for block in blocks:
                    block[2].weight.div_(math.sqrt(depth))
                    block[5].weight.zero_()
                self.readout.weight.zero_()
        if norm == "batch":
            self._settle(features, generator)
        self.eval()

    def forward(self, x: Float[Tensor, "samples features"]) -> Float[Tensor, "samples outputs"]:
        h = self.blocks(self.stem(x.unflatten(1, self.grid)))
        return self.readout(self.head(h).mean((2, 3)))

    def _settle(self, features: int, generator: torch.Generator) -> None:
        """Set the statistics of batch norm to those of normal inputs."""
        norms = [layer for layer in self.modules() if isinstance(layer, nn.BatchNorm2d)]
        x = self.readout.weight.new_empty(BATCH, features)
        normal(x, 1.0, generator)
        for layer in norms:
            layer.momentum = None
        with torch.no_grad():
            self.train()(x)


@architecture("resnet", branches=True)
def resnet(features: int, outputs: int, **settings: object) -> ResNet:
    """A ``ResNet`` with group norm."""
    return ResNet(features, outputs, **settings)


@architecture("resnet-no-skips")
def resnet_no_skips(features: int, outputs: int, **settings: object) -> ResNet:
    """A ``ResNet`` with group norm, without its skips."""
    return ResNet(features, outputs, skips=False, **settings)


@architecture("resnet-layer-norm", branches=True)
def resnet_layer_norm(features: int, outputs: int, **settings: object) -> ResNet:
    """A ``ResNet`` with layer norm."""
    return ResNet(features, outputs, norm="layer", **settings)


@architecture("resnet-layer-norm-no-skips")
def resnet_layer_norm_no_skips(features: int, outputs: int, **settings: object) -> ResNet:
    """A ``ResNet`` with layer norm, without its skips."""
    return ResNet(features, outputs, norm="layer", skips=False, **settings)


@architecture("resnet-batch-norm", branches=True)
def resnet_batch_norm(features: int, outputs: int, **settings: object) -> ResNet:
    """A ``ResNet`` with batch norm as at inference."""
    return ResNet(features, outputs, norm="batch", **settings)


@architecture("resnet-batch-norm-no-skips")
def resnet_batch_norm_no_skips(features: int, outputs: int, **settings: object) -> ResNet:
    """A ``ResNet`` with batch norm as at inference, without its skips."""
    return ResNet(features, outputs, norm="batch", skips=False, **settings)


@architecture("resnet-fixup", branches=True)
def resnet_fixup(features: int, outputs: int, **settings: object) -> ResNet:
    """A ``ResNet`` whose blocks start at zero."""
    return ResNet(features, outputs, start="fixup", **settings)

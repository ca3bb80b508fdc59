"""What the deeper networks share: branches with or without skips, normalizations, and how weights are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from grsd.support.values import ACTIVATIONS, choice, fits_memory, flag, positive, seed_of, whole_number

EACH_BLOCK = 10_000  # the bookkeeping of one block takes about the memory of this many numbers
POSITION = 0.02


class Stack(nn.Module):
    r"""Branches one after another: h <- h + scale * branch(h) with skips, h <- branch(h) without.

    With ``skips=False`` nothing else changes: the same branches have the same parameters.
    """

    def __init__(self, branches: Iterable[nn.Module], *, skips: bool, scale: float) -> None:
        super().__init__()
        self.branches, self.skips, self.scale = nn.ModuleList(branches), skips, scale

    def forward(self, h: Tensor) -> Tensor:
        for branch in self.branches:
            h = h + self.scale * branch(h) if self.skips else branch(h)
        return h


def checked(
    call: str,
    sizes: dict[str, object],
    *,
    skips: object,
    activation: object,
    weight_scale: object,
    branch_scale: object,
    seed: object,
    branches: int,
) -> tuple[list[int], bool, float, float, int]:
    """Check what every network of this package takes.

    ``sizes``: whole numbers by name, with width and depth. ``branches``: branches of one block.
    Returns: (sizes, skips, weight_scale, branch_scale, seed). A branch_scale of None becomes 1 / sqrt(branches in all).
    """
    whole = {name: whole_number(call, name, value, 1) for name, value in sizes.items()}
    choice(call, "activation", activation, sorted(ACTIVATIONS))
    fits_memory(call, "width, depth", (12 * whole["width"] ** 2 + EACH_BLOCK) * whole["depth"], 8)
    ends = [name for name in whole if name not in ("width", "depth")]
    fits_memory(call, ", ".join([*ends, "width"]), sum(whole[name] for name in ends) * whole["width"], 8)
    scale = 1 / math.sqrt(branches * whole["depth"]) if branch_scale is None else branch_scale
    return (
        list(whole.values()),
        flag(call, "skips", skips),
        positive(call, "weight_scale", weight_scale),
        positive(call, "branch_scale", scale),
        seed_of(call, "seed", seed),
    )


def draw(network: nn.Module, weight_scale: float, generator: torch.Generator) -> None:
    """Draw the weights of linear layers and convolutions from N(0, weight_scale^2 / fan_in); the readout's with 1.

    Biases start at zero, positions are drawn from N(0, .02^2). The order is that of ``named_modules``, which skips do
    not change. Sources: LeCun et al., Efficient BackProp (1998), for 1 / fan_in; He et al., arXiv 1502.01852, whose
    relu wants a weight_scale of sqrt(2); Dosovitskiy et al., arXiv 2010.11929, for positions.
    """
    with torch.no_grad():
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                scale = 1.0 if name == "readout" else weight_scale
                normal(layer.weight, scale / math.sqrt(layer.weight[0].numel()), generator)
                if layer.bias is not None:
                    layer.bias.zero_()
        for name, parameter in network.named_parameters():
            if name.endswith("positions"):
                normal(parameter, POSITION, generator)


def normal(parameter: Tensor, scale: float, generator: torch.Generator) -> None:
    """Fill with normal numbers of this standard deviation, the same for every dtype and global random state."""
    drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        parameter.copy_(scale * drawn)


def grid_of(features: int) -> tuple[int, int, int]:
    """Return (channels, height, width) of flat features: a square grey or colour image, else a sequence of height 1."""
    for channels in (1, 3):
        side = math.isqrt(features // channels)
        if features == channels * side**2:
            return channels, side, side
    return 1, 1, features

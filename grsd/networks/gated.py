"""Gated perceptrons, with and without skips."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grsd.networks.perceptron import LAYERS
from grsd.networks.registry import architecture
from grsd.networks.stack import Stack, checked, draw
from grsd.support.checks import floating_dtype


class Gate(nn.Module):
    """n(h) through two layers, one of which gates the other by the activation, and a third back."""

    def __init__(self, width: int, hidden: int, activation: str, **places: object) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, **places)
        self.units, self.gates = (nn.Linear(width, hidden, **places) for _ in "ab")
        self.activation = LAYERS[activation]()
        self.back = nn.Linear(hidden, width, **places)

    def forward(self, h: Tensor) -> Tensor:
        normed = self.norm(h)
        return self.back(self.activation(self.gates(normed)) * self.units(normed))


class GatedPerceptron(nn.Module):
    r"""A stack of gated linear units (Shazeer, arXiv 2002.05202), each after a layer norm.

    .. math:: h_{l+1} = h_l + \beta\, W_3 (\sigma(W_2 n(h_l)) \odot W_1 n(h_l)), \qquad f = V n(h_L) + c

    with skips; without them the sum is its second term alone, without beta. Weights: ``grsd.networks.stack.draw``.

    Args: as in ``ResNet``; ``width``: units of h and of the gates; ``depth``: gated layers L.
    Shapes: input (N, d), output (N, C). Errors: ``ValueError`` in one line.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        width: int = 24,
        depth: int = 6,
        skips: bool = True,
        activation: str = "tanh",
        weight_scale: float = 1.0,
        branch_scale: float | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        sizes, skips, weight_scale, branch_scale, seed = checked(
            "GatedPerceptron",
            {"features": features, "outputs": outputs, "width": width, "depth": depth},
            skips=skips,
            activation=activation,
            weight_scale=weight_scale,
            branch_scale=branch_scale,
            seed=seed,
            branches=1,
        )
        features, outputs, width, depth = sizes
        places = {"dtype": floating_dtype("GatedPerceptron", dtype), "device": "cpu"}
        self.stem = nn.Linear(features, width, **places)
        gates = [Gate(width, width, activation, **places) for _ in range(depth)]
        self.blocks = Stack(gates, skips=skips, scale=branch_scale)
        self.norm = nn.LayerNorm(width, **places)
        self.readout = nn.Linear(width, outputs, **places)
        draw(self, weight_scale, torch.Generator("cpu").manual_seed(seed))

    def forward(self, x: Float[Tensor, "samples features"]) -> Float[Tensor, "samples outputs"]:
        return self.readout(self.norm(self.blocks(self.stem(x))))


@architecture("gated-perceptron", branches=True)
def gated_perceptron(features: int, outputs: int, **settings: object) -> GatedPerceptron:
    """A ``GatedPerceptron``."""
    return GatedPerceptron(features, outputs, **settings)


@architecture("gated-perceptron-no-skips")
def gated_perceptron_no_skips(features: int, outputs: int, **settings: object) -> GatedPerceptron:
    """A ``GatedPerceptron`` without its skips."""
    return GatedPerceptron(features, outputs, skips=False, **settings)

"""Perceptrons, plain and residual."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grsd.networks.registry import architecture
from grsd.support.checks import floating_dtype
from grsd.support.values import ACTIVATIONS, choice, fits_memory, flag, positive, seed_of, whole_number


class Erf(nn.Module):
    """The elementwise error function, an activation whose infinite-width kernels have closed forms."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(x)


LAYERS = {"tanh": nn.Tanh, "erf": Erf, "gelu": nn.GELU, "relu": nn.ReLU, "identity": nn.Identity}
EACH_LAYER = 1000  # the bookkeeping of one layer takes about the memory of this many numbers


class Perceptron(nn.Module):
    r"""A perceptron; its plain and residual forms differ only in the skips and in the scale beta of the branches.

    .. math::
        h_1 = \sigma(W_1 x + b_1), \qquad
        h_{l+1} = \begin{cases} \sigma(W_{l+1} h_l + b_{l+1}) & \text{plain} \\
        h_l + \beta\,\sigma(W_{l+1} h_l + b_{l+1}) & \text{residual,} \end{cases} \qquad f = V h_L + c .

    Weights are drawn from N(0, weight_scale^2 / fan_in), the readout from N(0, 1 / width), biases start at zero. The
    same seed gives the same weights for every form, dtype and global random state.

    Args:
        features: input features d.
        outputs: output features C.
        width: units in a hidden layer.
        depth: hidden layers L; the residual form has L - 1 skips.
        residual: whether there are skips.
        activation: one of ``ACTIVATIONS``.
        weight_scale: standard deviation of a hidden weight times sqrt(fan_in); 1 is critical for tanh.
        branch_scale: beta, the scale of a residual branch; ``None`` means 1 / sqrt(depth). Unused in the plain form.
        seed: seed of the initial weights.
        dtype: of the parameters, which are on the CPU; torch's global defaults change neither.

    Shapes: input (N, d), output (N, C); dtype that of the parameters.
    Errors: ``ValueError`` for a size below one, an unknown activation or a scale that is not positive.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        width: int = 64,
        depth: int = 4,
        residual: bool = False,
        activation: str = "tanh",
        weight_scale: float = 1.0,
        branch_scale: float | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        call = "Perceptron"
        sizes = {"features": features, "outputs": outputs, "width": width, "depth": depth}
        features, outputs, width, depth = (whole_number(call, name, value, 1) for name, value in sizes.items())
        choice(call, "activation", activation, sorted(ACTIVATIONS))
        positive(call, "weight_scale", weight_scale)
        seed = seed_of(call, "seed", seed)
        places = {"dtype": floating_dtype(call, dtype), "device": "cpu"}
        numbers = (features + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * outputs
        fits_memory(call, "width, depth", numbers + depth * EACH_LAYER, dtype.itemsize)
        self.residual = flag(call, "residual", residual)
        self.branch_scale = positive(
            call, "branch_scale", 1 / math.sqrt(depth) if branch_scale is None else branch_scale
        )
        self.activation = LAYERS[activation]()
        sizes = [features] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(p, q, **places) for p, q in pairwise(sizes))
        self.readout = nn.Linear(width, outputs, **places)
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.no_grad():
            for layer in [*self.hidden, self.readout]:
                scale = 1.0 if layer is self.readout else weight_scale
                draw = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64, device="cpu")
                layer.weight.copy_(scale / math.sqrt(layer.in_features) * draw)
                layer.bias.zero_()

    def forward(self, x: Float[Tensor, "samples features"]) -> Float[Tensor, "samples outputs"]:
        h = self.activation(self.hidden[0](x))
        for layer in self.hidden[1:]:
            branch = self.activation(layer(h))
            h = h + self.branch_scale * branch if self.residual else branch
        return self.readout(h)


@architecture("residual", compared=True, branches=True)
def residual(features: int, outputs: int, **settings: object) -> Perceptron:
    """A ``Perceptron`` with skips."""
    return Perceptron(features, outputs, residual=True, **settings)


@architecture("plain", compared=True)
def plain(features: int, outputs: int, **settings: object) -> Perceptron:
    """A ``Perceptron`` without skips."""
    return Perceptron(features, outputs, residual=False, **settings)


@architecture("orthogonal")
def orthogonal(features: int, outputs: int, **settings: object) -> Perceptron:
    """A plain ``Perceptron`` with random orthogonal matrices between the hidden layers.

    With a linear activation every gain is exactly one (dynamical isometry: Saxe, McClelland and Ganguli, arXiv
    1312.6120).
    """
    network = plain(features, outputs, **settings).double()
    with torch.no_grad():
        for layer in network.hidden[1:]:
            layer.weight.copy_(torch.linalg.qr(layer.weight)[0])
    return network


@architecture("aligned")
def aligned(features: int, outputs: int, **settings: object) -> Perceptron:
    """A plain ``Perceptron`` with identities between the hidden layers: all layers share their singular directions."""
    network = plain(features, outputs, **settings).double()
    with torch.no_grad():
        for layer in network.hidden[1:]:
            layer.weight.copy_(torch.eye(*layer.weight.shape, dtype=layer.weight.dtype, device="cpu"))
    return network

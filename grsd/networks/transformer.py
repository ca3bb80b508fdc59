"""Small transformers for images and for sequences, with and without a residual stream."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from grsd.networks.perceptron import LAYERS
from grsd.networks.registry import architecture
from grsd.networks.stack import Stack, checked, draw, grid_of
from grsd.support.checks import floating_dtype
from grsd.support.values import flag, whole_number

HEADS = 2
SIDE = 4


class Attention(nn.Module):
    """Self-attention after a layer norm, with up to 2 heads; ``causal``: no token sees a later one."""

    def __init__(self, width: int, causal: bool, **places: object) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, **places)
        self.heads, self.causal = math.gcd(HEADS, width), causal
        self.query, self.key, self.value, self.back = (nn.Linear(width, width, **places) for _ in "qkvb")

    def forward(self, h: Tensor) -> Tensor:
        normed = self.norm(h)
        split = (self.heads, h.shape[-1] // self.heads)
        q, k, v = (part(normed).unflatten(-1, split).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / math.sqrt(split[1])
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=h.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        return self.back((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Feedforward(nn.Module):
    """A perceptron of one hidden layer, twice as wide, on each token after a layer norm."""

    def __init__(self, width: int, activation: str, **places: object) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, **places)
        self.up, self.down = nn.Linear(width, 2 * width, **places), nn.Linear(2 * width, width, **places)
        self.activation = LAYERS[activation]()

    def forward(self, h: Tensor) -> Tensor:
        return self.down(self.activation(self.up(self.norm(h))))


class Transformer(nn.Module):
    r"""Tokens with learned positions; attention and feedforward in turn, each after a layer norm; a linear readout.

    .. math:: h_0 = W_0 x + p, \qquad h \leftarrow h + \beta\, b(n(h)) \quad \text{for each branch } b, \qquad
              f = V r + c

    with r the mean over tokens of n(h), or for ``causal`` that of the last token; without skips h <- b(n(h)). Sources:
    Vaswani et al., arXiv 1706.03762; norms first and patches: Dosovitskiy et al., arXiv 2010.11929. Weights:
    ``grsd.networks.stack.draw``.

    Args: as in ``ResNet``, and
        width: features of a token. ``depth``: blocks L, two branches each. ``branch_scale``: None: 1 / sqrt(2 L).
        tokens: None: patches of the image, 4 x 4 of them (fewer where the image is smaller, zeros at its edges), and
            of a sequence at most 16 equal pieces: of 16 characters given one-hot, one after another, each is a
            token, and W_0 is their embedding. A number, which divides the features: so many equal pieces.
        causal: read from left to right, as language models do.

    Shapes: input (N, d), output (N, C). Errors: ``ValueError`` in one line.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        width: int = 12,
        depth: int = 3,
        tokens: int | None = None,
        causal: bool = False,
        skips: bool = True,
        activation: str = "tanh",
        weight_scale: float = 1.0,
        branch_scale: float | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        call = "Transformer"
        sizes, skips, weight_scale, branch_scale, seed = checked(
            call,
            {"features": features, "outputs": outputs, "width": width, "depth": depth},
            skips=skips,
            activation=activation,
            weight_scale=weight_scale,
            branch_scale=branch_scale,
            seed=seed,
            branches=2,
        )
        features, outputs, width, depth = sizes
        self.causal = flag(call, "causal", causal)
        self.grid = grid_of(features) if tokens is None else (1, 1, features)
        pieces = SIDE**2 if tokens is None else whole_number(call, "tokens", tokens, 1)
        if tokens is not None and features % pieces:
            raise ValueError(f"{call}(tokens={pieces}): expected a number that divides the {features} features")
        across = SIDE if self.grid[1] > 1 else pieces
        self.patch = tuple(-(-side // across) for side in self.grid[1:])
        places = {"dtype": floating_dtype(call, dtype), "device": "cpu"}
        count = math.prod(-(-side // patch) for side, patch in zip(self.grid[1:], self.patch, strict=True))
        self.stem = nn.Linear(self.grid[0] * math.prod(self.patch), width, **places)
        self.positions = nn.Parameter(torch.zeros(count, width, **places))
        pairs = [(Attention(width, causal, **places), Feedforward(width, activation, **places)) for _ in range(depth)]
        self.blocks = Stack([branch for pair in pairs for branch in pair], skips=skips, scale=branch_scale)
        self.norm = nn.LayerNorm(width, **places)
        self.readout = nn.Linear(width, outputs, **places)
        draw(self, weight_scale, torch.Generator("cpu").manual_seed(seed))

    def forward(self, x: Float[Tensor, "samples features"]) -> Float[Tensor, "samples outputs"]:
        h = self.norm(self.blocks(self.stem(self._tokens(x)) + self.positions))
        return self.readout(h[:, -1] if self.causal else h.mean(1))

    def _tokens(self, x: Tensor) -> Tensor:
        """Cut the image into patches (N, tokens, features of a patch), row by row."""
        (_, height, width), (high, wide) = self.grid, self.patch
        image = F.pad(x.unflatten(1, self.grid), (0, -width % wide, 0, -height % high))
        patches = image.unflatten(2, (-1, high)).unflatten(4, (-1, wide)).permute(0, 2, 4, 1, 3, 5)
        return patches.flatten(3).flatten(1, 2)


@architecture("vit", branches=True)
def vit(features: int, outputs: int, **settings: object) -> Transformer:
    """A ``Transformer`` on patches of images."""
    return Transformer(features, outputs, **settings)


@architecture("vit-no-skips")
def vit_no_skips(features: int, outputs: int, **settings: object) -> Transformer:
    """A ``Transformer`` on patches of images, without its residual stream."""
    return Transformer(features, outputs, skips=False, **settings)


@architecture("transformer", branches=True)
def transformer(features: int, outputs: int, **settings: object) -> Transformer:
    """A causal ``Transformer``, for characters."""
    return Transformer(features, outputs, causal=True, **settings)


@architecture("transformer-no-skips")
def transformer_no_skips(features: int, outputs: int, **settings: object) -> Transformer:
    """A causal ``Transformer`` without its residual stream."""
    return Transformer(features, outputs, causal=True, skips=False, **settings)

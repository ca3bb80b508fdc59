"""Diagonal state spaces, with and without skips."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grsd.networks.perceptron import LAYERS
from grsd.networks.registry import architecture
from grsd.networks.stack import Stack, checked, draw, grid_of, normal
from grsd.support.checks import floating_dtype
from grsd.support.values import whole_number

STATES = 4
STEPS = 16
STEP_SIZES = 0.05, 0.5  # of time, log-uniform: sequences here have about 16 steps, S4D's have thousands


class Filter(nn.Module):
    r"""A diagonal state space per channel as a causal convolution, after a layer norm.

    The kernel is 2 Re sum_n C_n exp(l dt A_n) at lag l, in real arithmetic, with A_n = -1/2 + i pi n at the start
    (S4D-Lin: Gu et al., arXiv 2206.11893), and dt, C and the direct term D learned for each channel.
    """

    def __init__(self, width: int, states: int, length: int, activation: str, **places: object) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, **places)
        self.log_step = nn.Parameter(torch.zeros(width, 1, **places))
        self.log_decay = nn.Parameter(torch.full((width, states), math.log(0.5), **places))
        frequencies = math.pi * torch.arange(states, **places)
        self.frequency = nn.Parameter(frequencies.expand(width, -1).clone())
        self.cosines, self.sines = (nn.Parameter(torch.zeros(width, states, **places)) for _ in "cs")
        self.direct = nn.Parameter(torch.zeros(width, **places))
        self.activation, self.mix = LAYERS[activation](), nn.Linear(width, width, **places)
        lags = torch.arange(length, device="cpu")
        self.register_buffer("lags", lags.to(places["dtype"]))
        self.register_buffer("lag", (lags[:, None] - lags).clamp(min=0))
        self.register_buffer("causal", (lags[:, None] >= lags).to(places["dtype"]))

    def forward(self, h: Tensor) -> Tensor:
        step = self.log_step.exp()
        angle = (step * self.frequency)[..., None] * self.lags
        decay = torch.exp(-(step * self.log_decay.exp())[..., None] * self.lags)
        waves = self.cosines[..., None] * torch.cos(angle) - self.sines[..., None] * torch.sin(angle)
        kernel = 2 * (decay * waves).sum(1)
        past = kernel[:, self.lag] * self.causal
        normed = self.norm(h)
        carried = torch.einsum("clm,nmc->nlc", past, normed) + self.direct * normed
        return self.mix(self.activation(carried))


class StateSpace(nn.Module):
    r"""Diagonal state spaces along a sequence, each followed by an activation and a layer that mixes channels.

    .. math:: h_{l+1} = h_l + \beta\, W_l\, \sigma(k_l * n(h_l) + D_l n(h_l)), \qquad f = V\, \mathrm{mean}\, n(h_L) + c

    with skips; without them the sum is its second term alone, without beta. C is drawn from N(0, 1 / (2 states)) and D
    from N(0, 1), dt log-uniformly from .05 to .5; other weights: ``grsd.networks.stack.draw``.

    Args: as in ``ResNet``, and
        width: channels. ``depth``: state spaces L. ``states``: of each channel.

    The sequence: the rows of an image, else 16 equal pieces of the features, zeros at the end.
    Shapes: input (N, d), output (N, C). Errors: ``ValueError`` in one line.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        width: int = 12,
        depth: int = 4,
        states: int = STATES,
        skips: bool = True,
        activation: str = "tanh",
        weight_scale: float = 1.0,
        branch_scale: float | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        call = "StateSpace"
        sizes, skips, weight_scale, branch_scale, seed = checked(
            call,
            {"features": features, "outputs": outputs, "width": width, "depth": depth},
            skips=skips,
            activation=activation,
            weight_scale=weight_scale,
            branch_scale=branch_scale,
            seed=seed,
            branches=1,
        )
        features, outputs, width, depth = sizes
        states = whole_number(call, "states", states, 1)
        places = {"dtype": floating_dtype(call, dtype), "device": "cpu"}
        self.grid = channels, height, across = grid_of(features)
        self.piece = channels * across if height > 1 else -(-features // STEPS)
        length = height if height > 1 else -(-features // self.piece)
        self.missing = 0 if height > 1 else length * self.piece - features
        self.stem = nn.Linear(self.piece, width, **places)
        filters = [Filter(width, states, length, activation, **places) for _ in range(depth)]
        self.blocks = Stack(filters, skips=skips, scale=branch_scale)
        self.norm = nn.LayerNorm(width, **places)
        self.readout = nn.Linear(width, outputs, **places)
        generator = torch.Generator("cpu").manual_seed(seed)
        draw(self, weight_scale, generator)
        low, high = (math.log(size) for size in STEP_SIZES)
        for part in filters:
            with torch.no_grad():
                uniform = torch.rand(part.log_step.shape, generator=generator, dtype=torch.float64, device="cpu")
                part.log_step.copy_(low + (high - low) * uniform)
            for parameter in (part.cosines, part.sines):
                normal(parameter, 1 / math.sqrt(2 * states), generator)
            normal(part.direct, 1.0, generator)

    def forward(self, x: Float[Tensor, "samples features"]) -> Float[Tensor, "samples outputs"]:
        if self.grid[1] > 1:
            steps = x.unflatten(1, self.grid).transpose(1, 2).flatten(2)
        else:
            steps = nn.functional.pad(x, (0, self.missing)).unflatten(1, (-1, self.piece))
        return self.readout(self.norm(self.blocks(self.stem(steps))).mean(1))


@architecture("state-space", branches=True)
def state_space(features: int, outputs: int, **settings: object) -> StateSpace:
    """A ``StateSpace``."""
    return StateSpace(features, outputs, **settings)


@architecture("state-space-no-skips")
def state_space_no_skips(features: int, outputs: int, **settings: object) -> StateSpace:
    """A ``StateSpace`` without its skips."""
    return StateSpace(features, outputs, skips=False, **settings)

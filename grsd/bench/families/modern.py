"""The registered architectures of notebook 12, with and without skips."""

from __future__ import annotations

from functools import partial

from torch import nn

from grsd.bench.families.family import Family, randomized
from grsd.networks import GatedPerceptron, ResNet, StateSpace, Transformer

SMALL = {"width": 6, "depth": 2}


def _moved(build: type[nn.Module], features: int, **options: object) -> nn.Module:
    """The network with its scales, shifts and statistics away from 0 and 1."""
    return randomized(build(features, 2, **SMALL | options))


KINDS = {
    "pre-activation resnet": (ResNet, 64, {}),
    "pre-activation resnet, layer norm": (ResNet, 25, {"norm": "layer"}),
    "pre-activation resnet, batch norm": (ResNet, 75, {"norm": "batch"}),
    "vision transformer": (Transformer, 64, {}),
    "character transformer": (Transformer, 40, {"causal": True, "tokens": 8}),
    "state spaces": (StateSpace, 64, {}),
    "state spaces, a sequence": (StateSpace, 40, {"activation": "gelu"}),
    "gated perceptron": (GatedPerceptron, 10, {}),
}
MODERN = {
    name + ("" if skips else ", no skips"): Family(
        partial(_moved, build, features, skips=skips, **options), (features,), 2
    )
    for name, (build, features, options) in KINDS.items()
    for skips in (True, False)
}
MODERN["pre-activation resnet, fixup"] = Family(partial(_moved, ResNet, 64, start="fixup", branch_scale=1.0), (64,), 2)

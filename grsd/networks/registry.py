"""The registry of architectures."""

from grsd.support.registry import Registry

SETTINGS = ("width", "depth", "activation", "weight_scale", "branch_scale", "seed")

architecture = Registry(
    "grsd.networks", "architecture", ("features", "outputs"), SETTINGS, compared=False, branches=False
)

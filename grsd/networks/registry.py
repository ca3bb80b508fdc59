"""The registry of architectures."""

from grsd.support.registry import Registry

architecture = Registry("grsd.networks", "architecture", compared=False, branches=False)

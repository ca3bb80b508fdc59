"""The architectures, as ordinary torch modules.

To add one, write a function under ``@architecture("name")``, here or in a file of your own. It takes ``features``,
``outputs`` and, by name, the settings of a ``grsd.Spec`` (width, depth, activation, weight_scale, branch_scale, seed),
and returns the initialized module. ``compared=True`` adds it to every comparison of the studies; ``branches=True``
says that it uses ``branch_scale``.
"""

from typing import TYPE_CHECKING

from grsd.networks.registry import architecture
from grsd.support.lazy import face

if TYPE_CHECKING:
    from grsd.networks.adapters import output, packed
    from grsd.networks.gated import GatedPerceptron
    from grsd.networks.perceptron import LAYERS, Perceptron
    from grsd.networks.resnet import ResNet
    from grsd.networks.state_space import StateSpace
    from grsd.networks.transformer import Transformer

__all__ = [
    "LAYERS",
    "GatedPerceptron",
    "Perceptron",
    "ResNet",
    "StateSpace",
    "Transformer",
    "architecture",
    "output",
    "packed",
]

__getattr__, __dir__ = face(__name__)

"""The architectures, as ordinary torch modules.

A new one is one function here, or in a file of one's own, under ``@architecture("name")``: it takes ``features`` and
``outputs`` and the settings of a ``grsd.Spec`` by name (width, depth, activation, weight_scale, branch_scale, seed) and
returns the module at its start. ``compared=True`` puts it into every comparison of the studies; ``branches=True`` says
that ``branch_scale`` means something to it.
"""

from typing import TYPE_CHECKING

from grsd.networks.registry import architecture
from grsd.support.lazy import face

if TYPE_CHECKING:
    from grsd.networks.perceptron import LAYERS, Perceptron

__all__ = ["LAYERS", "Perceptron", "architecture"]

__getattr__, __dir__ = face(__name__)

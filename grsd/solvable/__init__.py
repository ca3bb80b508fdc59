"""Models whose shells, velocities and exponents are known in closed form.

Each model has its closed forms and a simulation that the estimators treat like a network: a torch module with its batch
(``problem``), or the kernel, its rate and the error at a time (``matrices``).
"""

from grsd.solvable.aligned import AlignedDeepLinear
from grsd.solvable.cubic import CubicLattice
from grsd.solvable.diagonal import DiagonalNet
from grsd.solvable.lattice import ShellLattice
from grsd.solvable.lazy import LazyPowerLaw
from grsd.solvable.planted import PlantedShells
from grsd.solvable.projected import ProjectedTwoLayer

__all__ = [
    "AlignedDeepLinear",
    "CubicLattice",
    "DiagonalNet",
    "LazyPowerLaw",
    "PlantedShells",
    "ProjectedTwoLayer",
    "ShellLattice",
]

"""Models whose shells, velocities and exponents are known in closed form."""

from grsd.solvable.planted import Coverage, PlantedShells, coverage

__all__ = ["Coverage", "PlantedShells", "coverage"]

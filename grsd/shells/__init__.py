"""Shells of the tangent kernel's spectrum: their windows, their energy budget, and operations on budgets."""

from grsd.shells.budget import energy_budget, energy_budgets, log_range
from grsd.shells.combine import flux_from_differences, locality, merge_shells, remove_scale, velocity_over_runs
from grsd.shells.parts import PARTS, coupling_crossing, parts_over_runs, transport_parts
from grsd.shells.windows import MASK_FLAGS, LogShells

__all__ = [
    "MASK_FLAGS",
    "PARTS",
    "LogShells",
    "coupling_crossing",
    "energy_budget",
    "energy_budgets",
    "flux_from_differences",
    "locality",
    "log_range",
    "merge_shells",
    "parts_over_runs",
    "remove_scale",
    "transport_parts",
    "velocity_over_runs",
]

"""Notebook 09: from velocity to loss."""

from grsd.studies.power_law_scaling import axes, bottlenecks, exact, forecasts

PARTS = (exact, forecasts, axes, bottlenecks)
MEASUREMENTS = {name: measurement for part in PARTS for name, measurement in part.MEASUREMENTS.items()}
TABLES = {name: make for part in PARTS for name, make in getattr(part, "TABLES", {}).items()}

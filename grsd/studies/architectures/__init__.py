"""Notebook 12: modern architectures with and without skips."""

from grsd.studies.architectures import flows, trained

PARTS = (flows, trained)
MEASUREMENTS = {name: measurement for part in PARTS for name, measurement in part.MEASUREMENTS.items()}
TABLES = {name: make for part in PARTS for name, make in getattr(part, "TABLES", {}).items()}

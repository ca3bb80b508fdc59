"""Notebook 12: modern architectures with and without skips."""

from grsd.studies.architectures import flows, tables, trained

PARTS = (flows, trained, tables)
MEASUREMENTS = {name: measurement for part in PARTS[:2] for name, measurement in part.MEASUREMENTS.items()}
TABLES = tables.TABLES

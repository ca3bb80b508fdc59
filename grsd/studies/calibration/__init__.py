"""Notebook 02: what the instruments find where a law was planted."""

from grsd.studies.calibration.coverage import coverage
from grsd.studies.calibration.power import detection_limit, power_curve

__all__ = ["coverage", "detection_limit", "power_curve"]

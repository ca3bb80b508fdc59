"""Functional equations of the velocity: the rigidity theorem, what breaks it, and its stability on data."""

from grsd.rigidity.band import Band, velocity_band
from grsd.rigidity.counterexamples import (
    EXAMPLES,
    Example,
    additive,
    covariance_error,
    log_periodic,
    power_law,
    shift_error,
)
from grsd.rigidity.covariance import Collapse, Rescaled, along_runs, between_problems
from grsd.rigidity.distance import Certificate, Nearest, certify, nearest_affine, nearest_law
from grsd.rigidity.stability import shift_defect, worst_curve

__all__ = [
    "EXAMPLES",
    "Band",
    "Certificate",
    "Collapse",
    "Example",
    "Nearest",
    "Rescaled",
    "additive",
    "along_runs",
    "between_problems",
    "certify",
    "covariance_error",
    "log_periodic",
    "nearest_affine",
    "nearest_law",
    "power_law",
    "shift_defect",
    "shift_error",
    "velocity_band",
    "worst_curve",
]

"""Functional equations of the velocity: the rigidity theorem, what breaks it, and its stability on data."""

from grsd.rigidity.counterexamples import (
    EXAMPLES,
    Example,
    additive,
    covariance_error,
    log_periodic,
    power_law,
    shift_error,
)
from grsd.rigidity.distance import Certificate, Nearest, certify, nearest_affine
from grsd.rigidity.stability import shift_defect, worst_curve

__all__ = [
    "EXAMPLES",
    "Certificate",
    "Example",
    "Nearest",
    "additive",
    "certify",
    "covariance_error",
    "log_periodic",
    "nearest_affine",
    "power_law",
    "shift_defect",
    "shift_error",
    "worst_curve",
]

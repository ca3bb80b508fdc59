"""The theory of velocities between shells: rigidity and its stability, transport, exponents, loss predictions."""

from grsd.theory.band import Band, velocity_band
from grsd.theory.characteristics import PowerLawVelocity
from grsd.theory.counterexamples import (
    EXAMPLES,
    Example,
    additive,
    covariance_error,
    log_periodic,
    power_law,
    shift_error,
)
from grsd.theory.distance import Certificate, Nearest, certify, nearest_affine, nearest_law
from grsd.theory.exponents import LossExponent, extrapolated_exponent, local_exponent, loss_exponent
from grsd.theory.finite_volume import transport
from grsd.theory.prediction import (
    Early,
    Profile,
    early,
    extended_fit,
    fitted_power_law,
    predict_loss,
    running_clock,
    velocity_profile,
)
from grsd.theory.stability import shift_defect, worst_curve

__all__ = [
    "EXAMPLES",
    "Band",
    "Certificate",
    "Early",
    "Example",
    "LossExponent",
    "Nearest",
    "PowerLawVelocity",
    "Profile",
    "additive",
    "certify",
    "covariance_error",
    "early",
    "extended_fit",
    "extrapolated_exponent",
    "fitted_power_law",
    "local_exponent",
    "log_periodic",
    "loss_exponent",
    "nearest_affine",
    "nearest_law",
    "power_law",
    "predict_loss",
    "running_clock",
    "shift_defect",
    "shift_error",
    "transport",
    "velocity_band",
    "velocity_profile",
    "worst_curve",
]

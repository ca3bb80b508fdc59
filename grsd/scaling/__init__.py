"""From the velocity of shells to the loss: transport, exponents, and a loss curve predicted from early velocities."""

from grsd.scaling.characteristics import PowerLawVelocity
from grsd.scaling.exponents import LossExponent, extrapolated_exponent, local_exponent, loss_exponent
from grsd.scaling.finite_volume import transport
from grsd.scaling.prediction import (
    Early,
    Profile,
    early,
    extended_fit,
    fitted_power_law,
    predict_loss,
    velocity_profile,
)

__all__ = [
    "Early",
    "LossExponent",
    "PowerLawVelocity",
    "Profile",
    "early",
    "extended_fit",
    "extrapolated_exponent",
    "fitted_power_law",
    "local_exponent",
    "loss_exponent",
    "predict_loss",
    "transport",
    "velocity_profile",
]

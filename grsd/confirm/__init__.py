"""What each judged claim measures for one seed, and the command that turns it into a stored result."""

from grsd.confirm.command import MEASUREMENTS, check_claims, confirm_claims, forecast_claims
from grsd.confirm.measurement import Measurement

__all__ = ["MEASUREMENTS", "Measurement", "check_claims", "confirm_claims", "forecast_claims"]

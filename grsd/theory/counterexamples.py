r"""Counterexamples to the rigidity theorem without one of its hypotheses: velocities that are no power law.

Theorem 1 (notebook 08): a measurable v with v(e^tau lambda, t) = a(tau, t) v(lambda, t) for all tau (log-shift
invariance) is c(t) lambda^{b(t)}; one with v(kappa lambda, t / kappa) = kappa^2 v(lambda, t) (covariance) is
lambda^2 Phi(lambda t); one with both is c lambda^b t^{b-2}. (arXiv 2512.18209 states that the two together force a
power law; this form and the proofs are this project's.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from grsd.support.arguments import vector
from grsd.support.values import number, positive, said, whole_number

Velocity = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Example:
    """A velocity v(lambda, t), the shifts of log lambda that leave it invariant, and whether it is covariant."""

    velocity: Velocity
    shifts: str
    covariant: bool
    text: str


def power_law(b: float = 1.5, c: float = 0.3) -> Velocity:
    """Return the velocity c lambda^b t^{b-2}."""
    b, c = number("power_law", "b", b), number("power_law", "c", c)
    return lambda eigenvalue, time: c * eigenvalue**b * time ** (b - 2)


def log_periodic(b: float = 1.5, period: float = math.log(2), amplitude: float = 0.4) -> Velocity:
    """Return lambda^b t^{b-2} (1 + A cos(2 pi log(lambda t) / p)): covariant, and invariant under shifts by k p."""
    call = "log_periodic"
    b, period, amplitude = number(call, "b", b), positive(call, "period", period), number(call, "amplitude", amplitude)

    def velocity(eigenvalue: np.ndarray, time: float) -> np.ndarray:
        wave = 1 + amplitude * np.cos(2 * math.pi * np.log(eigenvalue * time) / period)
        return eigenvalue**b * time ** (b - 2) * wave

    return velocity


EXAMPLES: Mapping[str, Example] = {
    "power law": Example(power_law(), "all", True, r"$\lambda^{b}\,t^{b-2}$"),
    "one shift, covariance": Example(
        log_periodic(), "log 2", True, r"$\lambda^{b}t^{b-2}\,(1 + A\cos(2\pi\log(\lambda t)/\log 2))$"
    ),
    "covariance only": Example(
        lambda eigenvalue, time: eigenvalue**2 / (1 + eigenvalue * time), "none", True, r"$\lambda^2/(1+\lambda t)$"
    ),
    "all shifts, no covariance": Example(
        lambda eigenvalue, time: eigenvalue ** (1 + 0.5 / (1 + time)), "all", False, r"$\lambda^{1 + 1/(2+2t)}$"
    ),
}


def shift_error(velocity: Velocity, shift: float, time: float, s: np.ndarray) -> float:
    """Return half the spread over s of log v(e^{s + shift}, t) - log v(e^s, t); 0 if v is invariant under the shift."""
    call, moved = "shift_error", number("shift_error", "shift", shift)
    s, time = vector(call, "s", s, low=-300, high=300), positive(call, "time", time)
    return float(np.ptp(_log(call, velocity, np.exp(s + moved), time) - _log(call, velocity, np.exp(s), time)) / 2)


def covariance_error(velocity: Velocity, factor: float, time: float, s: np.ndarray) -> float:
    """Return the largest |log v(kappa lambda, t / kappa) - log(kappa^2 v(lambda, t))| over s = log lambda."""
    call, up = "covariance_error", math.log(positive("covariance_error", "factor", factor))
    s, time = vector(call, "s", s, low=-300, high=300), positive(call, "time", time)
    scaled = _log(call, velocity, factor * np.exp(s), time / factor) - 2 * up
    return float(np.abs(scaled - _log(call, velocity, np.exp(s), time)).max())


def _log(call: str, velocity: Velocity, eigenvalue: np.ndarray, time: float) -> np.ndarray:
    """Return log v; raise ``ValueError`` unless v is positive and finite."""
    if not callable(velocity):
        raise TypeError(f"{call}(velocity=...): expected a function v(lambda, t), got {said(velocity)}")
    try:
        with np.errstate(all="ignore"):
            value = np.log(np.asarray(velocity(eigenvalue, time), dtype=float))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{call}(velocity=...): expected a function v(lambda, t) of arrays, {said(error)}") from error
    if value.shape not in ((), eigenvalue.shape) or not np.isfinite(value).all():
        raise ValueError(f"{call}(velocity=...): expected positive finite velocities, got others at time {time:g}")
    return np.broadcast_to(value, eigenvalue.shape)


def additive(rational: int) -> float:
    """Return A(x) at x = rational + q sqrt(2), q whole, for a solution of A(x + y) = A(x) + A(y) that is not linear.

    A(1) = 1 and A(sqrt 2) = 0, so that only the rational part counts. It is defined on the dense set of numbers
    p + q sqrt(2) with whole (or rational) p and q. Extended to all reals by a basis over the rationals, it makes
    v = lambda^2 e^{A(log lambda)} log-shift invariant, no power law, and not measurable.
    """
    if abs(rational if isinstance(rational, int) else 0) > 2**53:
        raise ValueError(f"additive(rational=...): expected at most 2^53 in size, got {said(rational)}")
    return float(whole_number("additive", "rational", rational, -(2**53)))

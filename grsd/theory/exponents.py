"""The exponent p of E ~ t^-p that a rigid velocity forces, and its estimates from curves of finite length. Ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from grsd.support.arguments import vector
from grsd.support.values import number

LARGEST = 1e100


@dataclass(frozen=True)
class LossExponent:
    """A loss exponent. ``value``: p; 0 if E tends to a floor or falls like a power of log t, inf if exponentially.

    ``regime``: "power", "power with a log", "floor", "logarithmic" or "exponential". ``reason``: why, in a sentence.
    """

    value: float
    regime: str
    reason: str


def loss_exponent(b: float, c: float, q: float) -> LossExponent:
    """Return the limit of -dlog E / dlog t under v = c t^(b-2) lambda^b, for an energy per unit of lambda ~ lambda^q.

    Source: this project's; notebook 09 compares each case with ``PowerLawVelocity.energy`` and with ``transport``.
    Errors: ``ValueError`` for q <= -1 (infinite energy), numbers that are not finite, and b > 2 with c > 0.
    """
    call = "loss_exponent"
    b, c, q = (number(call, name, value, -LARGEST, LARGEST) for name, value in {"b": b, "c": c, "q": q}.items())
    if not q > -1:
        raise ValueError(f"{call}(b, c, q): expected finite numbers and q > -1, got {b!r}, {c!r}, {q!r}")
    p = q + 1
    if c == 0:
        return LossExponent(p, "power", "nothing moves; the modes above 1/t are gone")
    if b == 1:
        if c > -1:
            return LossExponent(
                p * (1 + c), "power", "every eigenvalue grows as t^c, so the frontier falls as t^-(1+c)"
            )
        if c == -1:
            return LossExponent(0.0, "logarithmic", "lambda t stands still at lambda0 t0; E ~ (log t)^-(q+1)")
        return LossExponent(0.0, "floor", "lambda t falls to zero, so every mode keeps a share of its energy")
    if b > 2 and c > 0:
        raise ValueError(
            f"loss_exponent(b={b:g}, c={c:g}): for b > 2 and c > 0 a mode reaches an infinite eigenvalue in finite "
            "time with energy left; the law cannot hold that far and gives no exponent"
        )
    if b > 1 and c > 0:
        return LossExponent(p, "power", "modes of lambda t above a constant are gone; those far below have not moved")
    if b > 1:
        pile = 2 * (-c) ** (-1 / (b - 1))
        if math.isclose(pile, p, rel_tol=1e-12):
            return LossExponent(p, "power with a log", "the pile at the frontier x*/t decays as fast as it is fed")
        slow = "the modes not yet reached" if p < pile else "the pile at the frontier x*/t"
        return LossExponent(min(p, pile), "power", f"{slow} decay(s) slowest")
    if c > 0:
        return LossExponent(math.inf, "exponential", "every mode is lifted above (c t0^(b-1))^(1/(1-b))")
    return LossExponent(0.0, "floor", "small modes stop at zero eigenvalue in finite time and keep their energy")


def local_exponent(
    times: Sequence[float] | np.ndarray, energy: Sequence[float] | np.ndarray
) -> Float[np.ndarray, " T"]:
    """Return -dlog E / dlog t by second-order differences (one-sided at the ends), shape (T,), T >= 3, times > 0."""
    times, energy = vector("local_exponent", "times", times), vector("local_exponent", "energy", energy)
    if times.shape != energy.shape or times.size < 3 or not (np.diff(times) > 0).all():
        raise ValueError(
            f"local_exponent(times, energy): expected >= 3 increasing times and as many energies, got {times.shape}"
        )
    if not (times[0] > 0 and (energy > 0).all()):
        raise ValueError("local_exponent(times, energy): expected times > 0 and energies > 0")
    return -np.gradient(np.log(energy), np.log(times), edge_order=2)


def extrapolated_exponent(times: Sequence[float] | np.ndarray, energy: Sequence[float] | np.ndarray) -> float:
    """Extrapolate the local exponent to its limit, by a quadratic in 1 / log t fitted to the last half of log t.

    The result is right if corrections are powers of 1 / log t, as for a power with a log, or exponentially small. Other
    slow corrections (b near 1) stay in it; compare with later times.
    """
    local = local_exponent(times, energy)
    log_t = np.log(np.asarray(times, dtype=float))
    late = log_t >= (log_t[0] + log_t[-1]) / 2
    late[[0, -1]] = False
    if late.sum() < 4 or log_t[late][0] <= 0:
        raise ValueError(
            "extrapolated_exponent(times): expected at least 4 times > 1 inside the later half of log time"
        )
    return float(np.polynomial.Polynomial.fit(1 / log_t[late], local[late], 2)(0.0))

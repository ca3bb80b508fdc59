r"""How far a curve is from every affine function, and how far a band of curves can be.

If g = log u, an affine function is a power law: a Chebyshev distance d means u = c e^{(b-1)s} e^{+-d} everywhere, and
no power law is nearer. Both distances are linear programs in slope, intercept and distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog

from grsd.support.arguments import vector

UNBOUNDED = 3
FARTHEST = 1e9  # largest logarithm: the linear programs are accurate to 1e-9 of their largest number
MOST = 400


@dataclass(frozen=True)
class Nearest:
    """The affine function ``slope * s + intercept`` nearest in the supremum norm, and its ``distance``."""

    distance: float
    slope: float
    intercept: float


@dataclass(frozen=True)
class Certificate:
    """The range of distances to the nearest affine function, over all curves in a band.

    ``least``, ``most``: the smallest and the largest distance. ``slopes``: the range of slopes of the affine functions
    inside the band if there are any (``least`` is 0), else the slope of the nearest one, twice.
    """

    least: float
    most: float
    slopes: tuple[float, float]


def nearest_affine(s: Float[np.ndarray, " n"], g: Float[np.ndarray, " n"]) -> Nearest:
    """Return the Chebyshev fit of g at s; dimensionless if g is a logarithm.

    Source: a linear program, as in any text on approximation. Errors: ``ValueError`` for fewer than two places or
    numbers that are not finite.
    """
    s, g = _curve("nearest_affine", s, g)
    distance, (slope, intercept) = _between(s, g, g)
    return Nearest(distance, slope, intercept)


def nearest_law(
    s: Float[np.ndarray, " n"], log_time: Float[np.ndarray, " n"], log_velocity: Float[np.ndarray, " n"]
) -> Nearest:
    """Return the law c lambda^b t^{b-2} nearest to velocities v at points (s, log t), in sup |log v - log law|.

    ``slope`` is b, ``intercept`` log c. For the law log v + 2 log t is affine in s + log t, so this is like
    ``nearest_affine``, but several times may share a place. Source: this project's. Errors: ``ValueError`` for numbers
    that are not finite.
    """
    given = {"s": s, "log_time": log_time, "log_velocity": log_velocity}
    arrays = [vector("nearest_law", name, item, 1, -FARTHEST, FARTHEST) for name, item in given.items()]
    if len({item.shape for item in arrays}) > 1:
        raise ValueError("nearest_law(s, log_time, log_velocity): expected finite numbers of one shape (n,)")
    place, scaled = arrays[0] + arrays[1], arrays[2] + 2 * arrays[1]
    distance, (slope, intercept) = _between(place, scaled, scaled)
    return Nearest(distance, slope, intercept)


def certify(s: Float[np.ndarray, " n"], low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"]) -> Certificate:
    """Return the certificate of the band [low, high] at s.

    ``least`` is the smallest d for which some affine l has low - d <= l <= high + d. ``most`` is the largest Chebyshev
    distance of a curve in the band, attained at the three points i < j < k that can bend most. If the band is
    simultaneous at 95 %, so is the certificate. If the band has no lower end somewhere, low is minus infinity there and
    ``most`` is infinite. Source: this project's. Errors: as in ``nearest_affine``, and if low is above high.
    """
    missing = np.isneginf(low) if isinstance(low, np.ndarray) and low.dtype.kind == "f" else False
    low = np.where(missing, -np.inf, _curve("certify", s, np.where(missing, 0.0, low) if np.any(missing) else low)[1])
    if len(low) > MOST:
        raise ValueError(f"certify(s, ...): expected at most {MOST} points, whose triples are compared, got {len(low)}")
    s, high = _curve("certify", s, high)
    if (low > high).any():
        raise ValueError("certify(low, high): expected low <= high everywhere")
    least, (slope, _) = _between(s, low, high)
    slopes = (slope, slope)
    if least == 0:
        slopes = tuple(_program(s, low, high, (sign, 0.0, 0.0), 0.0)[0] for sign in (1.0, -1.0))
    return Certificate(least, _most(s, low, high), slopes)


def _between(s: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, tuple[float, float]]:
    slope, intercept, distance = _program(s, low, high, (0.0, 0.0, 1.0), None)
    return (0.0 if distance < 1e-12 else float(distance)), (float(slope), float(intercept))


def _program(
    s: np.ndarray, low: np.ndarray, high: np.ndarray, cost: tuple[float, float, float], most: float | None
) -> np.ndarray:
    """Minimize cost . (slope, intercept, d) under low - d <= slope s + intercept <= high + d and 0 <= d (<= most)."""
    middle = s.mean()
    ones = np.ones_like(s)
    above = np.stack([s - middle, ones, -ones], axis=1)
    below = np.stack([middle - s, -ones, -ones], axis=1)
    limits = np.concatenate([high, -low])
    bounds = [(None, None), (None, None), (0, most)]
    kept = np.isfinite(limits)
    found = linprog(cost, np.concatenate([above, below])[kept], limits[kept], bounds=bounds, method="highs")
    if found.status == UNBOUNDED:
        return np.array([-cost[0] * np.inf, np.nan, 0.0])
    if found.status:
        raise ValueError(f"the linear program has no solution: {found.message}")
    slope, intercept, distance = found.x
    return np.array([slope, intercept - slope * middle, distance])


def _most(s: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Return the largest distance of a curve in the band to the affine functions.

    By Helly's theorem it is the largest over three points i < j < k, whose distance is |g_j - chord| / 2.
    """
    i, j, k = (index.ravel() for index in np.meshgrid(*[np.arange(len(s))] * 3, indexing="ij"))
    kept = (i < j) & (j < k)
    if not kept.any():
        return 0.0
    i, j, k = i[kept], j[kept], k[kept]
    share = (s[j] - s[i]) / (s[k] - s[i])
    up = high[j] - ((1 - share) * low[i] + share * low[k])
    down = (1 - share) * high[i] + share * high[k] - low[j]
    return float(max(up.max(), down.max(), 0.0) / 2)


def _curve(call: str, s: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wanted = "finite numbers at increasing s"
    s, g = (vector(call, "s, ...", item, 1, -FARTHEST, FARTHEST, wanted) for item in (s, g))
    if s.shape != g.shape or len(s) < 2:
        raise ValueError(f"{call}(s, ...): expected curves (n,) of two or more points, got {s.shape} and {g.shape}")
    if (np.diff(s) <= 0).any():
        raise ValueError(f"{call}(s, ...): expected finite numbers at increasing s")
    return s, g

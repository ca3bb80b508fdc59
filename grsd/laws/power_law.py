r"""A power law with an offset, y = a x^-b + c, fitted to a table, with intervals that stay honest when they are wide.

For each b the law is linear in a and c, so that b is found on nested grids and the sum of squares S(b) is exact. All
intervals are those of the region S <= S_min (1 + F / (n - p)), with Fisher's quantile F on 1 and n - p degrees of
freedom, projected on b, a, c or a prediction: they are as lopsided as the table makes them, and infinite where it does
not bound a value. With several runs, they are jackknives over runs.

The basis (u^-b - 1) / b and 1, with u = x over its geometric mean, passes through the logarithm at b = 0 without a
singularity. Source: variable projection (Golub and Pereyra 1973), profiles (Bates and Watts 1988); the whole is this
project's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

LARGEST_EXPONENT = 10.0
GRID, FINER, ROUNDS = 161, 21, 10
PROFILE = 4001


@dataclass(frozen=True)
class Table:
    """``x`` (n,), increasing; ``scale`` (n,): standard errors of y up to a common factor; ``offset``: None if free."""

    x: np.ndarray
    scale: np.ndarray
    offset: float | None

    @cached_property
    def middle(self) -> float:
        return float(np.exp(np.log(self.x).mean()))

    @cached_property
    def free(self) -> int:
        """Parameters that are fitted."""
        return 2 + (self.offset is None)

    def power(self, b: np.ndarray, x: np.ndarray | None = None) -> np.ndarray:
        """(u^-b - 1) / b for b (...) at x (n,): (..., n); u^-b where the offset is given."""
        log_u = np.log((self.x if x is None else x) / self.middle)
        b = np.asarray(b)[..., None]
        if self.offset is not None:
            return np.exp(-b * log_u)
        small = np.abs(b) < 1e-12
        return np.where(small, -log_u, np.expm1(-np.where(small, 1.0, b) * log_u) / np.where(small, 1.0, b))

    def exponential(self, log_rate: np.ndarray) -> np.ndarray:
        """(1 - e^(-k (x - x_1))) / k for log k (...): (..., n); e^(-k (x - x_1)) where the offset is given."""
        k = np.exp(np.asarray(log_rate))[..., None]
        decayed = -k * (self.x - self.x[0])
        return np.exp(decayed) if self.offset is not None else -np.expm1(decayed) / k

    def rates(self) -> tuple[float, float]:
        """The span of log k: from nearly straight over the whole table to gone at its second point."""
        return float(np.log(1e-2 / (self.x[-1] - self.x[0]))), float(np.log(30 / (self.x[1] - self.x[0])))

    def project(self, shapes: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(coefficients (..., 2) of shape and constant, sum of squares (...)) of the best fits to y (..., n)."""
        f, z = shapes / self.scale, (y if self.offset is None else y - self.offset) / self.scale
        if self.offset is not None:
            slope = (f * z).sum(-1) / np.square(f).sum(-1)
            return np.stack([slope, np.zeros_like(slope)], -1), np.square(z - slope[..., None] * f).sum(-1)
        one = 1 / self.scale
        weight = np.square(one).sum()
        f_mean, z_mean = (f * one).sum(-1) / weight, (z * one).sum(-1) / weight
        f_rest, z_rest = f - f_mean[..., None] * one, z - z_mean[..., None] * one
        slope = (f_rest * z_rest).sum(-1) / np.maximum(np.square(f_rest).sum(-1), 1e-300)
        rest = z_rest - slope[..., None] * f_rest
        return np.stack([slope, z_mean - slope * f_mean], -1), np.square(rest).sum(-1)

    def best(self, family: str, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(b or log k (D,), sums of squares (D,), fitted values (D, n)) for each row of y (D, n)."""
        shape = getattr(self, family)
        low, high = (0.0, LARGEST_EXPONENT) if family == "power" else self.rates()
        rows = np.arange(len(y))
        at, step = np.broadcast_to(np.linspace(low, high, GRID), (len(y), GRID)), (high - low) / (GRID - 1)
        if family == "power":  # finer near 0
            at = np.broadcast_to(high * np.linspace(0, 1, GRID) ** 2, (len(y), GRID))
            step = 2 * (high - low) / (GRID - 1)
        for _ in range(ROUNDS):
            centre = at[rows, self.project(shape(at), y[:, None])[1].argmin(1)]
            at = np.clip(centre[:, None] + step * np.linspace(-1, 1, FINER), low, high)
            step /= FINER // 2 / 1.5
        found, squares = self.project(shape(centre), y)
        fitted = found[:, :1] * shape(centre) + found[:, 1:] + (self.offset or 0.0)
        return centre, squares, fitted


@dataclass(frozen=True)
class Profile:
    """S over b of one table, and what lies within a bound of it.

    Attributes: ``b``: the best exponent; ``least``: S there; ``at``, ``squares``: the grid of exponents and S on it.
    """

    table: Table
    y: np.ndarray
    b: float
    least: float
    level: float

    @classmethod
    def of(cls, table: Table, y: np.ndarray, level: float) -> Profile:
        (b,), (least,), _ = table.best("power", y[None])
        return cls(table, y, float(b), float(least), level)

    @cached_property
    def bound(self) -> float:
        left = len(self.y) - self.table.free
        return self.least * (1 + float(stats.f.ppf(self.level, 1, left)) / left)

    @cached_property
    def region(self) -> np.ndarray:
        """Exponents within the bound, on a grid that is fine beside its width."""
        grid = LARGEST_EXPONENT * np.linspace(0, 1, PROFILE) ** 2
        for _ in range(2):
            inside = grid[self.table.project(self.table.power(grid), self.y)[1] <= self.bound]
            if not len(inside):
                inside = np.array([self.b])
            low, high = min(inside[0], self.b), max(inside[-1], self.b)
            step = max(np.diff(grid).max(), 1e-12)
            step = np.interp(self.b, grid[1:], np.diff(grid)) if high - low < 2 * step else step
            grid = np.unique(
                np.append(np.linspace(max(0.0, low - step), min(LARGEST_EXPONENT, high + step), PROFILE), self.b)
            )
        inside = grid[self.table.project(self.table.power(grid), self.y)[1] <= self.bound]
        return inside if len(inside) else np.array([self.b])

    @property
    def ends(self) -> tuple[bool, bool]:
        """Whether the region reaches exponent 0, where a power law is a logarithm, and the largest exponent."""
        return bool(self.region[0] <= 1e-9), bool(self.region[-1] >= LARGEST_EXPONENT - 1e-9)

    def point(self) -> tuple[float, float, float]:
        """(b, a, c), without their intervals."""
        table, b = self.table, np.array([self.b])
        found = table.project(table.power(b), self.y)[0][0]
        with np.errstate(divide="ignore", over="ignore"):
            factor = float((table.middle**b / (b if table.offset is None else 1.0))[0])
            offset = found[1] - found[0] / self.b if table.offset is None else table.offset
        return self.b, float(found[0] * factor), float(offset)

    def exponent(self) -> tuple[float, float]:
        low, high = self.ends
        return 0.0 if low else float(self.region[0]), np.inf if high else float(self.region[-1])

    def values(self, b: np.ndarray, x: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(the best values (B, m) for each b, half widths at the bound, S (B,)); at x (m,), or of the offset."""
        table, shape = self.table, self.table.power(b)
        found, squares = table.project(shape, self.y)
        with np.errstate(divide="ignore", invalid="ignore"):
            along = -1 / b[:, None] if x is None else table.power(b, x)
        value = found[:, :1] * along + found[:, 1:] + (table.offset or 0.0)
        f, one = shape / table.scale, 1 / table.scale
        weight = np.square(one).sum() if table.offset is None else np.inf
        mean = (f * one).sum(-1, keepdims=True) / weight
        spread = np.square(along - mean) / np.square(f - mean * one).sum(-1, keepdims=True) + 1 / weight
        half = np.sqrt(np.maximum(self.bound - squares, 0)[:, None] * spread)
        return value, half, squares

    def around(self, x: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(values, lower ends, upper ends), (m,) each, at x, or of the offset (1,): the projection of the region."""
        best, *_ = self.values(np.array([self.b]), x)
        inside = self.region if x is not None else self.region[self.region > 0]
        value, half, _ = self.values(inside if len(inside) else np.array([1e-9]), x)
        low, high = (value - half).min(0), (value + half).max(0)
        if x is None and self.ends[0]:
            falls = self.y[0] > self.y[-1]
            low, high = (np.array([-np.inf]), high) if falls else (low, np.array([np.inf]))
        return best[0], np.fmin(low, best[0]), np.fmax(high, best[0])

    def amplitude(self) -> tuple[float, tuple[float, float]]:
        """a = f(1) - c, with its interval: a linear function of the two coefficients for each b."""
        table = self.table

        def pair(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found, squares = table.project(table.power(b), self.y)
            with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                factor = table.middle**b / (b if table.offset is None else 1.0)
            f, one = table.power(b) / table.scale, 1 / table.scale
            mean = (f * one).sum(-1, keepdims=True) / np.square(one).sum() if table.offset is None else 0.0
            spread = np.square(factor) / np.square(f - mean * one).sum(-1)
            return found[:, 0] * factor, np.sqrt(np.maximum(self.bound - squares, 0) * spread)

        (value,), _ = pair(np.array([self.b]))
        middle, half = pair(self.region[self.region > 0] if table.offset is None else self.region)
        if not len(middle) or (table.offset is None and self.ends[0]):
            return float(value), (0.0, np.inf) if value > 0 else (-np.inf, 0.0)
        return float(value), (float((middle - half).min()), float((middle + half).max()))

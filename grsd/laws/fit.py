"""A law fitted to an ensemble: exponent and amplitudes, their jackknife intervals and joint region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from grsd.laws.ensemble import Ensemble, jackknife_interval
from grsd.support.values import level_of, number

EXPONENTS = (-5.0, 7.0)
FARTHEST = 100.0  # e^(6 * 100) is still finite


@dataclass(frozen=True)
class LawFit:
    """A fitted law. G = 1 for the velocity (c), G = k_max for the coupling (kappa(1) .. kappa(k_max)).

    Attributes:
        observable: "velocity" or "coupling".
        exponent, exponent_interval: b, dimensionless.
        amplitudes, amplitude_intervals: c or kappa (G,), (G, 2), each at ``level`` on its own; units 1 / time.
        log_amplitude_intervals: of log |c| or log |kappa| (G, 2); infinite if the sign of the amplitude is uncertain.
        covariance: of the amplitudes (G, G), jackknife.
        scale, scale_interval: r of a common scale M' = r M, units 1 / time; None if it was not fitted.
        reference: s_0, the log eigenvalue at which the amplitudes are quoted.
        positions, separations: s (m,) and a - b (m,) of the fitted values (separation 0 for the velocity).
        values, standard_errors, fitted: (m,), 1 / time.
        runs, degrees_of_freedom: R and R - 1.
        conclusive: False if b lies at the end of its range, or if a free scale cannot be distinguished from the law
            because the interval of b contains 1.
    """

    observable: str
    exponent: float
    exponent_interval: tuple[float, float]
    amplitudes: np.ndarray
    amplitude_intervals: np.ndarray
    log_amplitude_intervals: np.ndarray
    covariance: np.ndarray
    scale: float | None
    scale_interval: tuple[float, float] | None
    reference: float
    positions: np.ndarray
    separations: np.ndarray
    values: np.ndarray
    standard_errors: np.ndarray
    fitted: np.ndarray
    level: float
    runs: int
    degrees_of_freedom: int
    conclusive: bool

    def distance(self, amplitudes: Sequence[float] | np.ndarray) -> float:
        """Return Hotelling's T^2 between a vector of amplitudes (G,) and the estimate."""
        given = np.asarray(amplitudes, dtype=float)
        if given.shape != self.amplitudes.shape:
            raise ValueError(
                f"LawFit.distance(amplitudes): expected {len(self.amplitudes)} numbers, got {amplitudes!r}"
            )
        gap = given - self.amplitudes
        return float(gap @ np.linalg.solve(self.covariance, gap))

    @property
    def region(self) -> float:
        """Return the largest ``distance`` of amplitudes in the joint region: G (R - 1) / (R - G) F(G, R - G)."""
        count, runs = len(self.amplitudes), self.runs
        return float(stats.f.ppf(self.level, count, runs - count) * count * (runs - 1) / (runs - count))

    def contains(self, amplitudes: Sequence[float] | np.ndarray) -> bool:
        """Return whether the joint region at ``level`` contains these amplitudes, quoted at ``reference``."""
        return self.distance(amplitudes) <= self.region


def fit_law(observable: str, observed: Ensemble, reference: float | None, level: float) -> LawFit:
    """Fit the law with weights, to all runs and with each left out. Errors: ``ValueError`` for an invalid level."""
    call = f"{observable}_law"
    level = level_of(call, level)
    if reference is None:
        reference = float((observed.x.min() + observed.x.max()) / 2)
    reference = number(call, "reference", reference, -FARTHEST, FARTHEST)
    variances = observed.variances()
    b, amplitudes, r = _solve(observed, 1 / variances, reference)
    runs = observed.runs

    def interval(estimates: np.ndarray) -> tuple[float, float]:
        return jackknife_interval(estimates, level)

    logs = []
    for column in amplitudes.T:
        sure = (np.sign(column) == np.sign(column[0])).all() and column[0] != 0
        logs.append(interval(np.log(np.abs(column))) if sure else (-np.inf, np.inf))
    of_b = interval(b)
    fitted = amplitudes[0][observed.group] * np.exp((b[0] - 1) * (observed.x - reference))
    scaled = observed.scaled
    if scaled:
        fitted = fitted + r[0] * observed.pumped[0]
    inside = ((b > EXPONENTS[0] + 1e-6) & (b < EXPONENTS[1] - 1e-6)).all()
    spread = amplitudes[1:] - amplitudes[1:].mean(0)
    return LawFit(
        observable=observable,
        exponent=float(b[0]),
        exponent_interval=of_b,
        amplitudes=amplitudes[0],
        amplitude_intervals=np.array([interval(column) for column in amplitudes.T]),
        log_amplitude_intervals=np.array(logs),
        covariance=(runs - 1) / runs * spread.T @ spread,
        scale=float(r[0]) if scaled else None,
        scale_interval=interval(r) if scaled else None,
        reference=reference,
        positions=observed.x,
        separations=observed.separations,
        values=observed.y[0],
        standard_errors=np.sqrt(variances),
        fitted=fitted,
        level=level,
        runs=runs,
        degrees_of_freedom=runs - 1,
        conclusive=bool(inside and not (scaled and of_b[0] <= 1 <= of_b[1])),
    )


def exponents_and_amplitudes(observed: Ensemble, reference: float) -> tuple[np.ndarray, np.ndarray]:
    """Return b (1 + R,) and amplitudes (1 + R, G), for all runs, then with each left out."""
    b, amplitudes, _ = _solve(observed, 1 / observed.variances(), reference)
    return b, amplitudes


def _solve(observed: Ensemble, weights: np.ndarray, reference: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return b (n,), amplitudes (n, G) and r (n,) by variable projection: b on nested grids, linear fits otherwise."""
    y, z = observed.y, observed.pumped
    groups = np.arange(observed.group.max() + 1)
    member = (observed.group[None, :] == groups[:, None]).astype(float)

    def project(slope: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = np.exp(slope[:, :, None] * (observed.x - reference))
        norm = np.einsum("ngm,m,Gm->ngG", shape**2, weights, member)
        along = np.einsum("ngm,nm,Gm->ngG", shape, weights * y, member) / norm
        cost = (weights * y**2).sum(-1)[:, None] - (along**2 * norm).sum(-1)
        r = np.zeros_like(cost)
        if observed.scaled:
            z_along = np.einsum("ngm,nm,Gm->ngG", shape, weights * z, member) / norm
            zz = (weights * z**2).sum(-1)[:, None] - (z_along**2 * norm).sum(-1)
            zy = (weights * z * y).sum(-1)[:, None] - (z_along * along * norm).sum(-1)
            fine = zz > 1e-10 * (weights * z**2).sum(-1)[:, None]
            r = np.where(fine, zy / np.where(fine, zz, 1.0), 0.0)
            cost = cost - r * np.where(fine, zy, 0.0)
            along = along - r[..., None] * z_along
        return cost, along, r

    rows = np.arange(len(y))
    low, high = EXPONENTS[0] - 1, EXPONENTS[1] - 1
    slope = np.broadcast_to(np.linspace(low, high, 241), (len(y), 241))
    step = (high - low) / 240
    for _ in range(6):
        best = project(slope)[0].argmin(1)
        centre = slope[rows, best]
        slope = np.clip(centre[:, None] + step * np.linspace(-1, 1, 21), low, high)
        step /= 10
    _, amplitudes, r = project(centre[:, None])
    return centre + 1, amplitudes[:, 0], r[:, 0]

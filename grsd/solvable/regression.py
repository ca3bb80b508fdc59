r"""Linear regression on data with a power-law spectrum: simulated and theoretical loss over model size, data and time.

Inputs have covariance eigenvalues lambda_k = k^-a; the teacher's power in mode k is lambda_k w_k^2 = k^-(1+r), with
random signs. The simulation draws P random features or N samples and solves gradient flow by an eigendecomposition. The
theory, which needs no draw, is the deterministic equivalent

.. math:: \langle e, (K+z)^{-1} e\rangle \simeq \frac{\kappa}{z} \sum_k \frac{k^{-(1+r)}}{\lambda_k+\kappa}, \qquad
          z = \kappa \Big(1 - \frac1P \sum_k \frac{\lambda_k}{\lambda_k+\kappa}\Big) .

Source: Bahri et al. (arXiv 2102.06701), Maloney, Roberts and Sully (2210.16859), Bordelon, Atanasov and Pehlevan
(2402.01092); the equations in this form are derived in notebook 09.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from grsd.support.values import positive, whole_number

SINGLE = 200
GROUPS = 300
NODES = 24
ROUNDS = 60


def limit(values: np.ndarray, count: np.ndarray | float, size: int) -> float:
    """Solve sum count lambda / (lambda + kappa) = ``size`` for kappa > 0; needs over ``size`` positive eigenvalues."""

    def excess(log_kappa: float) -> float:
        return float(np.sum(count * values / (values + math.exp(log_kappa)))) - size

    return math.exp(brentq(excess, math.log(values.min()) - 40, math.log(values.max()) + 40))


def after_samples(values: np.ndarray, count: np.ndarray | float, power: np.ndarray, size: int) -> float:
    """Return the loss that remains after infinite time on ``size`` samples.

    ``power``: initial power in each mode or group of modes. The loss is sum power (kappa / (lambda + kappa))^2 / 2,
    divided by 1 - sum (lambda / (lambda + kappa))^2 / size.
    """
    kappa = limit(values, count, size)
    noise = float(np.sum(count * (values / (values + kappa)) ** 2)) / size
    return float(power @ (kappa / (values + kappa)) ** 2) / 2 / (1 - noise)


def after_features(values: np.ndarray, count: np.ndarray | float, power: np.ndarray, size: int) -> float:
    """Return the loss that remains with ``size`` features and all samples: sum power kappa / (lambda + kappa) / 2."""
    kappa = limit(values, count, size)
    return float(power @ (kappa / (values + kappa))) / 2


@dataclass(frozen=True)
class PowerLawRegression:
    """A regression problem: covariance decay ``a`` > 1, teacher decay 0 < ``r`` < a, ``modes`` input dimensions.

    Errors: ``ValueError`` for numbers outside these ranges.
    """

    a: float = 2.0
    r: float = 1.0
    modes: int = 10_000

    def __post_init__(self) -> None:
        positive("PowerLawRegression", "r", self.r)
        if not self.a > max(1.0, self.r):
            raise ValueError(f"PowerLawRegression(a=...): expected more than 1 and than r = {self.r:g}, got {self.a!r}")
        whole_number("PowerLawRegression", "modes", self.modes, 1)

    @property
    def exponents(self) -> dict[str, float]:
        """The theory's exponents of the loss for r < a: r / a in time, r in P and in N, r / (1 + a) in C = P t.

        The network learns the first P modes, or those with lambda t > 1, and the tail k^-r / r remains. At the best
        allocation of compute both errors are equal, P = t^(1/a).
        """
        return {"model": -self.r, "data": -self.r, "time": -self.r / self.a, "compute": -self.r / (1 + self.a)}

    @cached_property
    def eigenvalues(self) -> Float[np.ndarray, " modes"]:
        return np.arange(1, self.modes + 1, dtype=float) ** -self.a

    @cached_property
    def power(self) -> Float[np.ndarray, " modes"]:
        """lambda_k w_k^2."""
        return np.arange(1, self.modes + 1, dtype=float) ** -(1 + self.r)

    def features(self, size: int, times: Sequence[float] | np.ndarray, seed: int) -> Float[np.ndarray, " T"]:
        """Simulate the population loss (T,) of ``size`` random features at ``times`` (may be ``math.inf``), N infinite.

        The kernel is Lambda^(1/2) A^T A Lambda^(1/2) / P with a Gaussian matrix A. Cost: one (modes, P) Gram matrix.
        """
        rng = np.random.default_rng([seed, whole_number("features", "size", size, 1)])
        columns = rng.standard_normal((self.modes, size)) * np.sqrt(self.eigenvalues / size)[:, None]
        error = np.sqrt(self.power) * rng.choice([-1.0, 1.0], self.modes)
        rates, vectors = np.linalg.eigh(columns.T @ columns)
        reached = (vectors.T @ (columns.T @ error)) ** 2 / rates
        left = np.exp(-2 * np.outer(np.asarray(times, dtype=float), rates)) @ reached
        return (self.power.sum() - reached.sum() + left) / 2

    def samples(self, size: int, seed: int) -> float:
        """Simulate the population loss after infinite time on ``size`` Gaussian samples, with all features."""
        rng = np.random.default_rng([seed, whole_number("samples", "size", size, 1), 1])
        columns = rng.standard_normal((self.modes, size)) * np.sqrt(self.eigenvalues)[:, None]
        teacher = np.sqrt(self.power / self.eigenvalues) * rng.choice([-1.0, 1.0], self.modes)
        left = teacher - columns @ np.linalg.solve(columns.T @ columns, columns.T @ teacher)
        return float(self.eigenvalues @ left**2) / 2

    @cached_property
    def _grouped(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (lambda, count, power): each mode up to 200, then groups of modes at their middle."""
        last = self.modes + 1
        edges = np.append(np.arange(1, min(SINGLE, last)), np.geomspace(min(SINGLE, last), last, GROUPS))
        edges = np.unique(np.rint(edges))
        middle, count = (edges[:-1] + edges[1:] - 1) / 2, np.diff(edges)
        return middle**-self.a, count, count * middle ** -(1 + self.r)

    def limit(self, size: int) -> float:
        """Return kappa > 0 with sum lambda / (lambda + kappa) = ``size``: ``size`` features learn modes above kappa."""
        if not whole_number("limit", "size", size, 1) < self.modes:
            raise ValueError(f"limit(size=...): expected fewer than the {self.modes} modes, got {size}")
        values, count, _ = self._grouped
        return limit(values, count, size)

    def samples_theory(self, size: int) -> float:
        """Return the theory's mean of ``samples``, by ``after_samples``."""
        self.limit(size)
        return after_samples(*self._grouped, size)

    def features_theory(self, size: int, times: Sequence[float] | np.ndarray) -> Float[np.ndarray, " T"]:
        """Return the theory's mean of ``features``: a deterministic equivalent, inverted in time by Talbot's method."""
        times = np.asarray(times, dtype=float)
        values, count, power = (part[:, None] for part in self._grouped)
        self.limit(size)
        loss = np.full(times.shape, after_features(*self._grouped, size))
        finite = np.isfinite(times)
        tau = 2 * times[finite]
        scale, total, kappa = 2 * NODES / (5 * tau), np.zeros_like(tau), None
        for node in range(NODES):
            angle = node * math.pi / NODES
            slope = angle / math.tan(angle) if node else 1.0
            z = scale * (slope + 1j * angle)
            weight = 1 + 1j * (angle + (slope - 1) / math.tan(angle)) if node else 0.5
            kappa = z + (count * values).sum() / size if kappa is None else kappa
            for _ in range(ROUNDS):
                share = values / (values + kappa)
                step = (kappa * (1 - (count * share).sum(0) / size) - z) / (1 - (count * share**2).sum(0) / size)
                kappa = kappa - step
                if (np.abs(step) <= 1e-11 * np.abs(kappa)).all():
                    break
            transformed = kappa / z * (power / (values + kappa)).sum(0)
            total += np.real(weight * np.exp(z * tau) * transformed)
        loss[finite] = scale / NODES * total / 2
        return loss

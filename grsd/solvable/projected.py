"""The projected two-layer network of Bordelon, Atanasov and Pehlevan: feature learning moves all shells alike.

The model and the exponent chi(beta) are theirs (arXiv 2409.17858). The closed dynamics below is this project's
restatement, checked by reproducing chi; the shell velocity derived from it is this project's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicHermiteSpline
from torch import Tensor

from grsd.solvable.modes import diagonal_matrices, mode_quadrature, not_negative, time_array
from grsd.support.values import fits_memory, number, positive, whole_number
from grsd.theory.characteristics import NODES, WEIGHTS

LOG_CLOCK = (-20.0, 80.0)
STEP = 0.25
LAST = 36.0
LEAST_ALPHA = 0.2


@dataclass(frozen=True)
class ProjectedTwoLayer:
    r"""A model in which every mode decays on one clock S(t), which the learned features speed up.

    .. math:: v_k = w^*_k e^{-\lambda_k S}, \qquad S' = \sqrt{1 + 2 \gamma Q(S)}, \qquad
              Q = \sum_k w^{*2}_k (1 - e^{-\lambda_k S})^2, \qquad \lambda_k = k^{-\alpha}, \quad
              \lambda_k w^{*2}_k = k^{-\alpha\beta - 1} .

    The error e_k = -sqrt(N lambda_k) v_k obeys e' = -M e with eigenvalues m_k = lambda_k S', so u = m'/m = S''/S' is
    the same in every shell (b = 1), and t u -> c = (1 - beta) / (1 + beta) for beta < 1, else 0.

    Args:
        alpha: decay of the spectrum (capacity), at least 0.2.
        beta: source exponent, > 0; below 1 the task is hard.
        gamma: strength of feature learning, >= 0; 0 is the lazy limit.
        modes: K, the nodes of the simulation that ``matrices`` gives.

    Errors: ``ValueError`` for parameters outside these ranges, or for times past the tabulated clock (S = e^80).
    """

    alpha: float = 2.0
    beta: float = 0.5
    gamma: float = 1.0
    modes: int = 200

    def __post_init__(self) -> None:
        call = "ProjectedTwoLayer"
        if positive(call, "alpha", self.alpha) < LEAST_ALPHA:
            raise ValueError(f"{call}(alpha=...): expected at least {LEAST_ALPHA}, got {self.alpha!r}")
        positive(call, "alpha", self.alpha, LEAST_ALPHA, 10.0)
        positive(call, "beta", self.beta, 0.01, 10.0)
        number(call, "gamma", self.gamma, 0.0, 1e6)
        fits_memory(call, "modes", whole_number(call, "modes", self.modes, 2) ** 2)

    @property
    def loss_exponent(self) -> float:
        """chi = beta max(1, 2 / (1 + beta)); beta in the lazy limit."""
        return self.beta * max(1.0, 2 / (1 + self.beta)) if self.gamma else self.beta

    @property
    def bulk_exponent(self) -> float:
        """c, the limit of t u: (1 - beta) / (1 + beta) for beta < 1, else 0."""
        return max(0.0, (1 - self.beta) / (1 + self.beta)) if self.gamma else 0.0

    def clock(self, time: float) -> float:
        """Return S(t)."""
        t = not_negative("ProjectedTwoLayer.clock", "time", time)
        log_s, elapsed, inverse = _table(self)
        if t > elapsed[-1]:
            raise ValueError(f"ProjectedTwoLayer.clock(time=...): expected at most {elapsed[-1]:.4g}, got {time!r}")
        if t <= elapsed[0]:
            return t
        s = float(inverse(math.log(t)))
        panel = min(int((s - log_s[0]) / STEP), len(log_s) - 2)
        for _ in range(3):
            half = (s - log_s[panel]) / 2
            inner = np.exp(log_s[panel] + half + half * NODES)
            speed = _speed(self, np.append(inner, math.exp(s)))[0]
            now = elapsed[panel] + half * float(WEIGHTS @ (inner / speed[:-1]))
            s += math.log(t / now) * now * speed[-1] / math.exp(s)
        return math.exp(s)

    def relative_velocity(self, time: float) -> float:
        """Return u = S''/S', which is the same for every mode; 1 / time."""
        return float(_speed(self, np.array([self.clock(time)]))[1][0])

    def ranks(self, time: float) -> Float[np.ndarray, " K"]:
        """Return k at the K nodes of the simulation, equally spaced in log k.

        They cover four decades of lambda S on either side of 1, but no k below 1; they are not whole numbers.
        """
        s, reach = self.clock(time), math.log(1e4) / self.alpha
        front = math.log(max(s, 1.0)) / self.alpha
        return np.exp(np.linspace(max(0.0, front - reach), front + reach, self.modes))

    def eigenvalues(self, time: float) -> Float[np.ndarray, " K"]:
        """Return m_k = lambda_k S' at ``ranks(time)``; 1 / time."""
        return self.ranks(time) ** -self.alpha * _speed(self, np.array([self.clock(time)]))[0]

    def velocity(self, time: float) -> Float[np.ndarray, " K"]:
        """Return v_k = m_k u; 1 / time^2."""
        return self.eigenvalues(time) * self.relative_velocity(time)

    def error(self, time: float) -> Float[np.ndarray, " K"]:
        """Return e_k at ``ranks(time)``, N = 1; a node represents the modes around it, so |e_k|^2 has a factor dk."""
        k = self.ranks(time)
        spacing = k * math.log(k[1] / k[0])
        return -np.sqrt(spacing * k ** (-self.alpha * self.beta - 1)) * np.exp(-(k**-self.alpha) * self.clock(time))

    def loss(self, times: float | Sequence[float] | np.ndarray) -> Float[np.ndarray, " T"]:
        """Return L(t) = 1/2 sum_k k^(-alpha beta - 1) e^(-2 lambda_k S) over all modes, shape (T,)."""
        clocks = [self.clock(float(t)) for t in time_array("ProjectedTwoLayer.loss", times)]
        log_k, weights = _modes(self)
        r = self.alpha * self.beta
        energy = weights * np.exp(-(r + 1) * log_k)
        rest = math.exp(-r * _last(self)) / r
        return np.array([0.5 * (float(energy @ np.exp(-2 * s * np.exp(-self.alpha * log_k))) + rest) for s in clocks])

    def matrices(self, time: float) -> tuple[Float[Tensor, "K K"], Float[Tensor, "K K"], Float[Tensor, " K"]]:
        """Return the diagonal (M, M', e) at a time, at ``ranks(time)``."""
        return diagonal_matrices(self.eigenvalues(time), self.velocity(time), self.error(time))


def _last(model: ProjectedTwoLayer) -> float:
    """Return the log k at which sums end: beyond it lambda S is below rounding at every tabulated time."""
    return (LOG_CLOCK[1] + LAST) / model.alpha + math.log(1000)


@cache
def _modes(model: ProjectedTwoLayer) -> tuple[np.ndarray, np.ndarray]:
    return mode_quadrature(_last(model))


def _speed(model: ProjectedTwoLayer, clocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return S' = sqrt(1 + 2 gamma Q) and dS'/dS = S''/S' at values of S."""
    log_k, weights = _modes(model)
    energy = weights * np.exp(-(model.alpha * model.beta + 1) * log_k)
    eigenvalues = np.exp(-model.alpha * log_k)
    speed, slope = np.empty(len(clocks)), np.empty(len(clocks))
    for i, s in enumerate(clocks):
        grown = -np.expm1(-eigenvalues * s)
        speed[i] = math.sqrt(1 + 2 * model.gamma * float((energy / eigenvalues) @ grown**2))
        slope[i] = 2 * model.gamma * float(energy @ (grown * (1 - grown))) / speed[i]
    return speed, slope


@cache
def _table(model: ProjectedTwoLayer) -> tuple[np.ndarray, np.ndarray, CubicHermiteSpline]:
    """Return (log S, t) at the edges of panels in log S, and log S as a function of log t; S = t at the lowest edge."""
    log_s = np.arange(LOG_CLOCK[0], LOG_CLOCK[1] + STEP / 2, STEP)
    inner = np.exp(log_s[:-1, None] + STEP / 2 * (1 + NODES))
    speed = _speed(model, inner.ravel())[0].reshape(inner.shape)
    elapsed = math.exp(log_s[0]) + np.append(0.0, np.cumsum(STEP / 2 * (inner / speed) @ WEIGHTS))
    slope = elapsed * _speed(model, np.exp(log_s))[0] * np.exp(-log_s)
    return log_s, elapsed, CubicHermiteSpline(np.log(elapsed), log_s, slope)

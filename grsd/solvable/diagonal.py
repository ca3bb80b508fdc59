"""Balanced diagonal linear networks, whose eigenvalues move but whose eigenvectors do not rotate.

The dynamics of one mode is the literature's (deep diagonal linear networks); the velocity field, its exponents and the
two conventions for the start are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import Chebyshev
from scipy.special import expit
from torch import Tensor, nn

from grsd.solvable.modes import diagonal_matrices, mode_quadrature, not_negative, rotation, time_array
from grsd.support.values import fits_memory, flag, number, positive, said, seed_of, whole_number

LAST = 36.0
LARGEST = 600.0
ITERATIONS = 1000
DECAYS, STARTS, MOST_LAYERS = (0.1, 10.0), (1e-30, 1.0), 50


class DiagonalModule(nn.Module):
    """f(x) = sum_k x_k w_1k ... w_Pk; every layer is the diagonal of the output of a ``nn.Linear(1, K)``.

    Input (N, K), output (N,). Through the intermediate (N, K, K), for small K, the exact tangent kernel supports it.
    """

    def __init__(self, weights: Float[Tensor, "P K"]) -> None:
        super().__init__()
        like = {"dtype": weights.dtype, "device": weights.device}
        self.layers = nn.ModuleList(nn.Linear(1, weights.shape[1], bias=False, **like) for _ in weights)
        with torch.no_grad():
            for layer, weight in zip(self.layers, weights, strict=True):
                layer.weight.copy_(weight[:, None])

    def forward(self, x: Float[Tensor, "N K"]) -> Float[Tensor, " N"]:
        for layer in self.layers:
            x = layer(x.unsqueeze(-1)).diagonal(dim1=-2, dim2=-1)
        return x.sum(-1)


@dataclass(frozen=True)
class DiagonalNet:
    r"""A balanced diagonal linear net of depth P on lambda_k = k^-a with targets beta*_k = k^-d.

    .. math:: m = P \lambda \beta^{2-2/P}, \quad \beta' = m (\beta^* - \beta), \quad
              e = \sqrt{N \lambda} (\beta - \beta^*), \quad v = m' = (2 - 2/P)\, m^2 (\beta^*/\beta - 1) .

    If d = 0, or if the start is proportional to the target, v = t^-2 Psi(m t): it is covariant under a rescaling of
    time, and no power law beyond the growth phase.

    Args:
        depth: P >= 2.
        a: decay of the input spectrum, a > 0.
        d: decay of the targets, d >= 0 (0: flat); a + 2d > 1, so that the loss is finite.
        start: scale of the start, below 1: beta_k(0) = start * beta*_k, or ``start`` for every mode if ``common``.
        common: the same beta(0) for every mode; it must lie below the smallest target. The closed-form loss then has
            the modes whose target lies above the start.
        modes: K, the modes (and samples, N = K) of the simulation.
        seed: of the rotation that mixes the samples of the torch module.

    Errors: ``ValueError`` for parameters outside these ranges.
    """

    depth: int
    a: float = 1.5
    d: float = 0.0
    start: float = 1e-3
    common: bool = False
    modes: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        call = "DiagonalNet"
        if whole_number(call, "depth", self.depth, 2) > MOST_LAYERS:
            raise ValueError(f"{call}(depth=...): expected at most {MOST_LAYERS}, got {said(self.depth)}")
        positive(call, "a", self.a, *DECAYS)
        number(call, "d", self.d, 0.0, DECAYS[1])
        positive(call, "start", self.start, *STARTS)
        fits_memory(call, "modes", whole_number(call, "modes", self.modes, 1) ** 2)
        seed_of(call, "seed", self.seed)
        flag(call, "common", self.common)
        if self.a + 2 * self.d <= 1:
            raise ValueError(f"DiagonalNet(a=..., d=...): expected a + 2d > 1, got {self.a + 2 * self.d:g}")
        least = self.modes**-self.d if self.common else 1.0
        if self.start >= least:
            what = "the smallest target" if self.common else "the target"
            raise ValueError(f"DiagonalNet(start=...): expected less than {what}, {least:g} of it, got {self.start!r}")

    @property
    def power(self) -> float:
        """2 - 2/P, the power of beta in the eigenvalue."""
        return 2 - 2 / self.depth

    @property
    def growth_exponent(self) -> float:
        """g = (3P - 4) / (2P - 2) in m' ~ m^g, for one mode over time while beta is far below beta*."""
        return (3 * self.depth - 4) / (2 * self.depth - 2)

    @property
    def field_exponent(self) -> float:
        """dlog v / dlog lambda at one time over modes that have not grown: 2, or 2 + d/a for a common start."""
        return 2 + self.d / self.a if self.common else 2.0

    @property
    def loss_exponent(self) -> float:
        """r / (a + d(2 - 2/P)), r = a + 2d - 1; for a common small start r / (a + d) (with a log factor if P = 2)."""
        r = self.a + 2 * self.d - 1
        return r / (self.a + self.d * (1.0 if self.common else self.power))

    def predictor(self, time: float) -> Float[np.ndarray, " K"]:
        """Return beta_k(t), k = 1..K."""
        log_k = np.log(np.arange(1, self.modes + 1))
        return np.exp(-self.d * log_k) * self._grown(log_k, time)[0]

    def eigenvalues(self, time: float) -> Float[np.ndarray, " K"]:
        """Return m_k(t) = P lambda beta^(2-2/P); 1 / time."""
        return self.depth * np.arange(1, self.modes + 1) ** -float(self.a) * self.predictor(time) ** self.power

    def velocity(self, time: float) -> Float[np.ndarray, " K"]:
        """Return v_k = m_k' = (2 - 2/P) m^2 (beta*/beta - 1); 1 / time^2."""
        grown, missing = self._grown(np.log(np.arange(1, self.modes + 1)), time)
        return self.power * self.eigenvalues(time) ** 2 * missing / grown

    def error(self, time: float) -> Float[np.ndarray, " K"]:
        """Return e_k(t) = sqrt(N lambda) (beta - beta*) in the eigenbasis, N = K."""
        log_k = np.log(np.arange(1, self.modes + 1))
        return -math.sqrt(self.modes) * np.exp(-(self.a / 2 + self.d) * log_k) * self._grown(log_k, time)[1]

    def loss(
        self, times: float | Sequence[float] | np.ndarray, *, tail: bool = True, direct: int = 1000
    ) -> Float[np.ndarray, " T"]:
        """Return L(t) = |e|^2 / (2N) = 1/2 sum lambda (beta - beta*)^2, shape (T,).

        ``tail``: sum over all modes, the first ``direct`` of them one by one; if False, over the K modes of the
        simulation. For P >= 3 a small start makes a sharp front in k, of relative width about start^(1-2/P); if that is
        less than a few percent, ``direct`` must reach beyond the front.
        """
        whole_number("DiagonalNet.loss", "direct", direct, 1)
        fits_memory("DiagonalNet.loss", "direct", direct)
        r = self.a + 2 * self.d - 1
        losses = []
        for time in time_array("DiagonalNet.loss", times):
            last, counted, rest = math.log(self.modes), self.modes, 0.0
            if tail and self.common and self.d:
                last, counted = min(LARGEST, -math.log(self.start) / self.d), direct
            elif tail:
                reach = math.log(direct) + (math.log(1 + self.depth * time) + LAST) / self.a
                last, counted = min(LARGEST, reach), direct
                rest = (1 - self.start) ** 2 * math.exp(-r * last) / r
            log_k, weights = mode_quadrature(last, counted, panel=0.05)
            missing = self._grown(log_k, time)[1]
            losses.append(0.5 * float((weights * np.exp(-(1 + r) * log_k)) @ missing**2 + rest))
        return np.array(losses)

    def matrices(self, time: float) -> tuple[Float[Tensor, "K K"], Float[Tensor, "K K"], Float[Tensor, " K"]]:
        """Return (M, M', e) at a time from the closed form, for spectra that are too dense for the torch module."""
        return diagonal_matrices(self.eigenvalues(time), self.velocity(time), self.error(time))

    def problem(self, time: float = 0.0) -> tuple[DiagonalModule, Float[Tensor, "K K"], Float[Tensor, " K"]]:
        """Return (module at ``time``, inputs, targets): X = Q diag(sqrt(N lambda)), y = X beta*, balanced weights."""
        weights = torch.from_numpy(self.predictor(time) ** (1 / self.depth)).expand(self.depth, -1)
        k = torch.arange(1, self.modes + 1, dtype=torch.float64, device="cpu")
        inputs = rotation(self.modes, self.seed) * torch.sqrt(self.modes * k**-self.a)
        return DiagonalModule(weights), inputs, inputs @ k**-self.d

    def _grown(self, log_k: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return (x, 1 - x), x = beta / beta*: dx/dtau = x^(2-2/P) (1 - x), tau = P lambda beta*^(2-2/P) t."""
        time = not_negative("DiagonalNet", "time", time)
        tau = self.depth * time * np.exp(-(self.a + self.d * self.power) * log_k)
        x = np.minimum(self.start * np.exp(self.d * log_k), 1 - 1e-15) if self.common else np.array(self.start)
        return _solve(self.depth, np.broadcast_to(x, tau.shape), tau)


def _solve(depth: int, x: np.ndarray, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (x, 1 - x) after tau: solve G(y) = G(y0) + tau by Newton's method, where y = logit x.

    G is concave and increasing, so Newton's method from below never overshoots.
    """
    y = np.log(x) - np.log1p(-x)
    goal = _duration(depth, y)[0] + tau
    for _ in range(ITERATIONS):
        value, slope = _duration(depth, y)
        step = (goal - value) / slope
        y = y + step
        if (np.abs(step) <= 1e-13 * (1 + np.abs(y))).all():
            break
    return expit(y), expit(-y)


def _duration(depth: int, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the time G(y) = int dx / (x^(2-2/P) (1 - x)) and dG/dy = x^-(1-2/P).

    With x = w^P, G = -P/(P-2) w^-(P-2) - log(1 - x) + R(w), where R is smooth on [0, 1]; for P = 2, G is y itself.
    """
    if depth == 2:
        return y, np.ones_like(y)
    log_w = -np.logaddexp(0, -y) / depth
    slope = np.exp(-(depth - 2) * log_w)
    return -depth / (depth - 2) * slope + np.logaddexp(0, y) + _remainder(depth)(np.exp(log_w)), slope


@cache
def _remainder(depth: int) -> Chebyshev:
    """Return R(w) = P int_0^w z (1 - z^(P-2)) / (1 - z^P) dz, with both polynomials divided by 1 - z."""

    def integrand(z: np.ndarray) -> np.ndarray:
        top = sum(z**i for i in range(depth - 2))
        return depth * z * top / sum(z**i for i in range(depth))

    fitted = Chebyshev.interpolate(integrand, 24 + 16 * depth, domain=[0.0, 1.0]).integ(lbnd=0.0)
    return fitted.trim(1e-18)

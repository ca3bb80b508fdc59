r"""Transport of error energy by the rigid velocity, along characteristics.

With v = c t^{b-2} lambda^b, x = lambda t and tau = log(t / t0), the path of a mode obeys an autonomous equation,

.. math:: \frac{d \log x}{d\tau} = 1 + c\, x^{b-1}, \qquad
          \lambda^{1-b} = \lambda_0^{1-b} - c\, (t^{b-1} - t_0^{b-1}), \qquad
          E(t) = \int \lambda_0^q\, e^{-2 \int \lambda\, dt}\, d\lambda_0 .

The velocity law is the paper's (arXiv 2512.18209); the consequences derived here are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from grsd.support.arguments import vector
from grsd.support.values import number, positive, real, said

NODES, WEIGHTS = np.polynomial.legendre.leggauss(10)
PANEL = 0.5
LARGEST = 100.0
NEGLIGIBLE = 45.0
LAYER = np.append(0.0, np.geomspace(1e-6, PANEL, 25))
CLOSE = np.geomspace(1e-12, PANEL, 40)
TIMES = (1e-100, 1e100)


@dataclass(frozen=True)
class PowerLawVelocity:
    """v = c t^(b-2) lambda^b; called with (s, t) it gives u = v / lambda in 1 / time.

    Errors: ``ValueError`` for numbers that are not finite.
    """

    b: float
    c: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(real(value)) for value in (self.b, self.c)):
            raise ValueError(f"PowerLawVelocity(b, c): expected finite numbers, got {said(self.b)}, {said(self.c)}")
        for name in ("b", "c"):
            number("PowerLawVelocity", name, getattr(self, name), -LARGEST, LARGEST)

    def __call__(self, s: Float[np.ndarray, " n"], time: float) -> Float[np.ndarray, " n"]:
        return self.c / time * np.exp((self.b - 1) * (np.asarray(s) + math.log(time)))

    @property
    def fixed_point(self) -> float:
        """x* = |c|^(-1/(b-1)), at which lambda t is constant; NaN unless c < 0 and b != 1."""
        return (-self.c) ** (-1 / (self.b - 1)) if self.c < 0 and self.b != 1 else math.nan

    def log_path(self, log_x: np.ndarray | float, tau: np.ndarray | float) -> np.ndarray | np.floating:
        """Return log(lambda t) at log time ``tau`` after a start at ``log_x``; the two broadcast.

        It is +inf once a mode has reached an infinite eigenvalue (b > 1, c > 0), -inf once it has reached zero (b < 1,
        c < 0).
        """
        log_x, tau = np.asarray(log_x, dtype=float), np.asarray(tau, dtype=float)
        if self.b == 1:
            return log_x + (1 + self.c) * tau
        k = self.b - 1
        with np.errstate(divide="ignore", over="ignore"):
            moved = -self.c * np.exp(k * log_x) * np.expm1(k * tau)
            return log_x + tau - np.log1p(np.maximum(moved, -1.0)) / k

    def eigenvalue(self, start: Float[np.ndarray, " n"], start_time: float, time: float) -> Float[np.ndarray, " n"]:
        """Return lambda(t) of modes with eigenvalue ``start`` at ``start_time``; 1 / time."""
        log_x = np.log(start) + math.log(positive("eigenvalue", "start_time", start_time))
        return np.exp(self.log_path(log_x, math.log(positive("eigenvalue", "time", time) / start_time))) / time

    def losses(self, log_x: Float[np.ndarray, " n"], tau: float) -> Float[np.ndarray, " n"]:
        """Return 2 int lambda dt along paths from ``log_x`` over log time ``tau``; e^-this is the surviving energy."""
        if self.b == 1:
            rate = 1 + self.c
            return 2 * np.exp(log_x) * (np.expm1(rate * tau) / rate if rate else tau)
        return self._losses_along_x(log_x, tau) if self.c >= 0 else self._losses_along_time(log_x, tau)

    def _losses_along_x(self, log_x: np.ndarray, tau: float) -> np.ndarray:
        """Return 2 int dx / (1 + c x^(b-1)), for c >= 0, where x grows without limit."""
        end = self.log_path(log_x, tau)
        gone = np.isposinf(end)
        end = np.where(gone, 0.0, end)
        first = np.minimum(np.maximum(log_x, -NEGLIGIBLE), end)
        half = (end - first)[:, None] / 2 / 90
        total = np.zeros_like(end)
        for panel in range(90):
            x = first[:, None] + half * (2 * panel + 1 + NODES)
            total += (half * np.exp(x) / (1 + self.c * np.exp((self.b - 1) * x))) @ WEIGHTS
        return np.where(gone, np.inf, 2 * total)

    def _losses_along_time(self, log_x: np.ndarray, tau: float) -> np.ndarray:
        """Return 2 int x dtau, for c < 0, where x stays below the larger of its start and its lazy path."""
        edges = np.append(LAYER[tau > LAYER], tau)
        if tau > 2 * PANEL:
            edges = np.append(LAYER, np.linspace(PANEL, tau, 2 + int(tau / PANEL))[1:])
        total = np.zeros_like(log_x)
        for first, last in pairwise(edges):
            half = (last - first) / 2
            total += half * np.exp(self.log_path(log_x[:, None], first + half * (1 + NODES))) @ WEIGHTS
        return 2 * total

    def energy(
        self, times: Sequence[float] | np.ndarray, q: float, *, start: float = 1.0, top: float = 1.0
    ) -> Float[np.ndarray, " T"]:
        """Return E(t) of modes whose energy per unit of lambda is lambda^q up to ``top`` at time ``start``.

        The integral over log lambda0 is by Gauss-Legendre, from the largest mode that is still there; the error is
        about 1e-11. Times are at least ``start``, in any order. Errors: ``ValueError`` for q <= -1, earlier times, or
        b > 2 with c > 0, when energy reaches infinite eigenvalues undissipated.
        """
        call = "PowerLawVelocity.energy"
        q = number(call, "q", q, high=LARGEST)
        if not q > -1:
            raise ValueError(f"{call}(q=...): expected q > -1, so that the energy is finite, got {q!r}")
        start, top = positive(call, "start", start, *TIMES), positive(call, "top", top, *TIMES)
        if self.b > 2 and self.c > 0:
            raise ValueError(f"{call}: b > 2 with c > 0 carries energy to infinite eigenvalues in finite time")
        times = vector(call, "times", times)
        if not (times >= start).all():
            raise ValueError(f"{call}(times=...): expected times from start = {start:g} on, got {times.min():g}")
        return np.array([self._energy(math.log(t / start), q, start, math.log(top * start)) for t in times])

    def _energy(self, tau: float, q: float, start: float, last: float) -> float:
        if self.b > 1 and self.c > 0 and tau > 0:
            last = min(last, -math.log(self.c * math.expm1((self.b - 1) * tau)) / (self.b - 1))
        reach = (1 + max(self.c, 0.0)) * tau + NEGLIGIBLE / (q + 1)
        edges = last - PANEL * np.arange(2 + int(reach / PANEL))[::-1]
        if self.b < 1 and self.c < 0:  # at late times, modes on either side of x* separate sharply
            near = math.log(self.fixed_point) + np.concatenate([-CLOSE, [0.0], CLOSE])
            edges = np.unique(np.append(edges, near[near < last]))
        half = np.diff(edges)[:, None] / 2
        log_x = (edges[:-1, None] + half * (1 + NODES)).ravel()
        weights = (half * WEIGHTS).ravel()
        return float(weights @ np.exp((q + 1) * (log_x - math.log(start)) - self.losses(log_x, tau)))

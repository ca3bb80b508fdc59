r"""Planted shells: an ensemble with prescribed shell velocities and couplings.

Eigenvalues drift, lambda_u' = v(lambda_u) with v = c lambda^b, and eigenvectors rotate, phi_v' = -sum_u Omega_uv phi_u,
so M'_uu = v(lambda_u) and M'_uv = Omega_uv (lambda_u - lambda_v). For disjoint windows T_ab is the sum of
Omega_uv g_u g_v over u in a, v in b; for smooth ones it is sum_uv w_a(u) w_b(v) Omega_uv g_u g_v. Two rotations exist:

* a kernel in continuous s, with mean energy density eps(s) = e^{gamma s},
  Omega_uv = k(s_u - s_v) e^{(b-1)(s_u+s_v)/2} g_u g_v / (4 sqrt(eps_u eps_v)), k(x) = k_0 (x/l) e^{(1 - x^2/l^2)/2}.
  It prefers no width: the law holds at every width, offset and smoothing at once;
* shells: Omega_uv = g_u g_v sum_ab w_a(u) Z_ab w_b(v), Z = G^-1 T G^-1, G_ab = sum_u w_a w_b g_u^2 and
  T_ab = kappa(a-b) e^{(b-1)(s_a+s_b)/2} sqrt(E_a E_b). For sharp windows G = 2 diag(E) and this is
  kappa(a-b) e^{(b-1)(s_a+s_b)/2} g_u g_v / (4 sqrt(E_a E_b)). It prefers one width: measured at another width it is a
  log-periodic law, which the test of two widths must refuse.

The construction is this project's; it tests the estimators and does not imitate a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.integrate import solve_ivp

from grsd.decomposition import Spectrum
from grsd.shells import LogShells, energy_budget, energy_budgets
from grsd.support.arguments import listed, span_of, vector
from grsd.support.values import choice, flag, instance, number, positive, said, seed_of, whole_number

SPECTRA = ("even", "random", "power")
MOST_MODES = 200
FARTHEST, LATEST = 100, 1e4


@dataclass(frozen=True)
class PlantedShells:
    r"""An ensemble of planted runs, one per seed.

    Args:
        exponent: b of the drift and of the couplings.
        drift: c, v = c lambda^b; units such that u = c e^{(b-1)s} is 1 / time.
        rotation, reach: k_0 (1 / time, the largest value of k) and l (in s) of the kernel.
        kappa, shells: kappa(1), kappa(2), ... (1 / time) of the planted shells, and these shells.
        growth: gamma of the mean energy density e^{gamma s}; g_u are independent Gaussians.
        modes: D, at most 200.
        span: (low, high) of s. ``spectrum``: "even" (midpoints of D equal cells), "random" (independent uniform draws)
            or "power" (lambda_k a power of k from the top of the span to its bottom).
        rotated: random orthogonal eigenvectors instead of the identity.
        noise, noise_reach: drift and couplings are multiplied by exp(noise f(s) - mean), where f is a Gaussian field of
            variance one and about this correlation length, drawn for each run; over runs the factor has mean exactly 1.
        scale: r; r M is added to M'.
        wiggle, period, phase: drift and couplings are multiplied by 1 + A cos(2 pi s / p + phase), s the middle of a
            pair.
        bend: (s_1, b_1): the exponent is b_1 instead of b above s_1; the law is continuous there.

    Accuracy of the kernel ("even" or "power" spectrum): the mean over runs of E, eps, F and T is the budget of
    ``population()``, to rounding. In the interior of an "even" spectrum this is the law to 1e-9 if the smoothing is at
    least 1.5 spacings; F lacks the contribution from beyond the ends, which is less than 1e-4 of it at 4 reaches from
    them. Accuracy of shells: without drift, K_ab of every run at these shells is kappa(a-b) e^{(b-1)(s_a+s_b)/2} times
    the run's noise, to rounding, for any smoothing. If shells are planted sharp and measured with smoothing delta, they
    share modes and lose coupling: for kappa = (1, .4), kappa(1) is measured 7, 13, 25 % too low and kappa(2) 1, 2, 3 %
    too high at delta / h = .05, .1, .2 (for kappa(1) alone, 8, 16, 30 % too low).

    Errors: ``ValueError`` for a value out of range, and for kappa without shells.
    """

    exponent: float = 1.0
    drift: float = 0.0
    rotation: float = 0.0
    reach: float = 0.7
    kappa: tuple[float, ...] = ()
    shells: LogShells | None = None
    growth: float = 0.3
    modes: int = MOST_MODES
    span: tuple[float, float] = (-12.0, 0.0)
    spectrum: str = "even"
    rotated: bool = False
    noise: float = 0.0
    noise_reach: float = 1.0
    scale: float = 0.0
    wiggle: float = 0.0
    period: float = 1.5
    phase: float = 0.0
    bend: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        call = "PlantedShells"
        for name in ("reach", "noise_reach", "period"):
            positive(call, name, getattr(self, name), 1e-3, 1e3)
        if whole_number(call, "modes", self.modes, 2) > MOST_MODES:
            raise ValueError(f"{call}(modes=...): expected at most {MOST_MODES}, got {said(self.modes)}")
        low, high = span_of(call, "span", self.span, "s")
        if max(abs(low), abs(high)) > FARTHEST or high - low > 30:
            raise ValueError(f"{call}(span=...): expected (low, high) in s, at most 30 apart, got {said(self.span)}")
        choice(call, "spectrum", self.spectrum, SPECTRA)
        if isinstance(self.noise, bool) or not isinstance(self.noise, Real) or not 0 <= self.noise < 2:
            raise ValueError(f"{call}(noise=...): expected a number from 0 to 2, got {said(self.noise)}")
        for name in ("exponent", "growth"):
            number(call, name, getattr(self, name), -10.0, 10.0)
        for name in ("drift", "rotation", "scale", "wiggle", "phase"):
            number(call, name, getattr(self, name), -1e6, 1e6)
        flag(call, "rotated", self.rotated)
        if self.shells is not None:
            instance(call, "shells", self.shells, LogShells, "LogShells")
        if not isinstance(self.kappa, tuple) or len(self.kappa) > FARTHEST:
            raise TypeError(f"{call}(kappa=...): expected a tuple of numbers, got {said(self.kappa)}")
        for value in self.kappa:
            number(call, "kappa", value, -1e6, 1e6)
        if self.bend is not None:
            if not isinstance(self.bend, tuple) or len(self.bend) != 2:
                raise TypeError(f"{call}(bend=...): expected (s_1, b_1), got {said(self.bend)}")
            for value in self.bend:
                number(call, "bend", value, -FARTHEST, FARTHEST)
        if bool(self.kappa) != (self.shells is not None):
            raise ValueError(f"{call}(kappa=..., shells=...): expected both or neither")

    def run(self, seed: int) -> tuple[Spectrum, Float[torch.Tensor, " D"]]:
        """Return the spectrum, with M' in the eigenbasis, and the error e of one run."""
        rng = np.random.default_rng(seed_of("PlantedShells.run", "seed", seed))
        s, density = self._eigenvalues(rng)
        g = self._amplitudes(s, density) * rng.standard_normal(self.modes)
        field = self._field(rng)
        vectors = np.linalg.qr(rng.standard_normal((self.modes, self.modes)))[0] if self.rotated else np.eye(self.modes)
        velocity, omega = self._rates(s, g, density, field)
        return self._member(s, g, vectors, velocity, omega)

    def population(self) -> tuple[Spectrum, Float[torch.Tensor, " D"]]:
        """Return the run with each g_u at its root mean square and no noise; its budget is the mean one (kernel)."""
        if self.spectrum == "random" or self.kappa:
            raise ValueError('PlantedShells.population(): expected spectrum="even" or "power", and no planted kappa')
        s, density = self._eigenvalues(None)
        g = self._amplitudes(s, density)
        velocity, omega = self._rates(s, g, density, None)
        return self._member(s, g, np.eye(self.modes), velocity, omega)

    def budgets(self, seeds: Sequence[int], shells: LogShells) -> list[xr.Dataset]:
        """Return the energy budgets of these runs."""
        seeds = listed("PlantedShells.budgets", "seeds", seeds, "seeds")
        return [energy_budget(*self.run(seed), shells, parameters={"seed": seed}) for seed in seeds]

    def budgets_at_widths(self, seeds: Sequence[int], shells: Sequence[LogShells]) -> list[list[xr.Dataset]]:
        """Return the energy budgets of these runs for several shells: one list of runs for each of them."""
        seeds = listed("PlantedShells.budgets_at_widths", "seeds", seeds, "seeds")
        members = [energy_budgets(*self.run(seed), shells, parameters={"seed": seed}) for seed in seeds]
        return [list(item) for item in zip(*members, strict=True)]

    def trajectory(
        self, seed: int, times: Sequence[float], *, tolerance: float = 1e-10
    ) -> list[tuple[float, Spectrum, Float[torch.Tensor, " D"]]]:
        """Return (time, spectrum, error) of one run under e' = -M e, lambda' = v and the planted rotation, from time 0.

        In the moving eigenbasis g' = -lambda g + Omega g and Phi' = -Phi Omega. Both are integrated to the relative
        ``tolerance``, so snapshots agree with their own M' to that order. Energies decay, but the normalization stays
        that of time 0: with a kernel, K decays as the energy does; with shells, the law holds at every time. The noise
        factor stays with its mode. Cost: D^2 + 2 D equations; keep D below about 50.
        """
        call = "PlantedShells.trajectory"
        times = vector(call, "times", times, low=0.0, wanted="increasing times from 0 on").tolist()
        if sorted(set(times)) != times or times[-1] > LATEST:
            raise ValueError(f"{call}(times=...): expected increasing times from 0 to {LATEST:g}, got {said(times)}")
        tolerance = positive(call, "tolerance", tolerance, 1e-13, 0.1)
        rng = np.random.default_rng(seed_of(call, "seed", seed))
        s, density = self._eigenvalues(rng)
        g = self._amplitudes(s, density) * rng.standard_normal(self.modes)
        field = self._field(rng)
        d = self.modes
        vectors = np.linalg.qr(rng.standard_normal((d, d)))[0] if self.rotated else np.eye(d)
        level = self._amplitudes(s, density) ** 2 / 2 * density

        def slope(_: float, state: np.ndarray) -> np.ndarray:
            s, g, vectors = state[:d], state[d : 2 * d], state[2 * d :].reshape(d, d)
            velocity, omega = self._rates(s, g, density, field, level)
            return np.concatenate([velocity, omega @ g - np.exp(s) * g, -(vectors @ omega).ravel()])

        start = np.concatenate([s, g, vectors.ravel()])
        found = [start]
        if times[-1] > 0:
            scale = np.concatenate([np.ones(d), np.abs(g), np.ones(d * d)])
            solved = solve_ivp(
                slope, (0.0, times[-1]), start, "DOP853", times, rtol=tolerance, atol=tolerance * 1e-2 * scale
            )
            if not solved.success:
                raise ValueError(f"PlantedShells.trajectory(...): the integration failed: {solved.message}")
            found = list(solved.y.T)
        snapshots = []
        for time, state in zip(times, found, strict=True):
            s, g, vectors = state[:d], state[d : 2 * d], state[2 * d :].reshape(d, d)
            snapshots.append((time, *self._member(s, g, vectors, *self._rates(s, g, density, field, level))))
        return snapshots

    def law(self, s: np.ndarray) -> np.ndarray:
        """Return e^{(b-1)s} with its bend and its wiggle."""
        law = np.exp((self.exponent - 1) * s)
        if self.bend is not None:
            at, above = self.bend
            law = law * np.exp((above - self.exponent) * np.maximum(s - at, 0.0))
        return law * (1 + self.wiggle * np.cos(2 * math.pi * s / self.period + self.phase))

    def _eigenvalues(self, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        """Return s (D,), ascending, and the mean number of modes per unit of s at each."""
        low, high = self.span
        rank = np.arange(self.modes)
        if self.spectrum == "power":
            place = self.modes - rank
            steepness = (high - low) / math.log(self.modes)
            return high - steepness * np.log(place), place / steepness
        cells = np.sort(rng.random(self.modes)) if self.spectrum == "random" else (rank + 0.5) / self.modes
        return low + (high - low) * cells, np.full(self.modes, self.modes / (high - low))

    def _amplitudes(self, s: np.ndarray, density: np.ndarray) -> np.ndarray:
        return np.sqrt(2 * np.exp(self.growth * s) / density)

    def _field(self, rng: np.random.Generator) -> np.ndarray | None:
        """Draw the coefficients of the run's noise on the bumps of ``_bumps``."""
        return rng.standard_normal(self._knots().size) if self.noise else None

    def _knots(self) -> np.ndarray:
        low, high = self.span
        return np.arange(low - 2 * self.noise_reach, high + 3 * self.noise_reach, self.noise_reach / 2)

    def _factor(self, s: np.ndarray, field: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the noise factor at each s (m,) and at each pair (m, m); both have mean one."""
        if field is None:
            return np.ones(len(s)), np.ones((len(s), len(s)))
        bumps = np.exp(-np.square((s[:, None] - self._knots()) / self.noise_reach))
        bumps /= np.linalg.norm(bumps, axis=1, keepdims=True)
        log = self.noise * (bumps @ field)
        correlation = self.noise**2 * (bumps @ bumps.T)
        pair = np.exp((log[:, None] + log[None, :]) / 2 - (self.noise**2 + correlation) / 4)
        return np.exp(log - self.noise**2 / 2), pair

    def _rates(
        self,
        s: np.ndarray,
        g: np.ndarray,
        density: np.ndarray,
        field: np.ndarray | None,
        level: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return d log lambda / dt (D,) and antisymmetric Omega (D, D); ``level``: mean energy density at each mode."""
        alone, pair = self._factor(s, field)
        velocity = self.scale + self.drift * self.law(s) * alone
        omega = np.zeros((len(s), len(s)))
        if self.rotation:
            level = self._amplitudes(s, density) ** 2 / 2 * density if level is None else level
            x = (s[:, None] - s[None, :]) / self.reach
            shape = g / (2 * np.sqrt(level))
            law = self.law((s[:, None] + s[None, :]) / 2)
            omega += self.rotation * x * np.exp((1 - x**2) / 2) * law * pair * shape[:, None] * shape[None, :]
        if self.kappa:
            omega += self._shell_rotation(s, g, field)
        return velocity, omega

    def _shell_rotation(self, s: np.ndarray, g: np.ndarray, field: np.ndarray | None) -> np.ndarray:
        index = np.array(self.shells.indices(s.min(), s.max()))
        edges = torch.from_numpy(index[1:] * self.shells.width)
        below = self.shells.cumulative(torch.from_numpy(np.exp(s)), edges, 0.0)[0].numpy()
        w = np.diff(np.concatenate([np.zeros((1, len(s))), below, np.ones((1, len(s)))]), axis=0)
        energy = w @ np.square(g) / 2
        centre = (index + 0.5) * self.shells.width
        distance = index[:, None] - index[None, :]
        kappa = np.concatenate([[0.0], self.kappa, np.zeros(len(index))])[np.abs(distance)] * np.sign(distance)
        law = self.law((centre[:, None] + centre[None, :]) / 2) * self._factor(centre, field)[1]
        coupling = kappa * law * np.sqrt(energy[:, None] * energy[None, :])
        inverse = np.linalg.pinv((w * np.square(g)) @ w.T, rcond=1e-13, hermitian=True)
        planted = w.T @ (inverse @ coupling @ inverse) @ w
        return g[:, None] * g[None, :] * (planted - planted.T) / 2

    def _member(
        self, s: np.ndarray, g: np.ndarray, vectors: np.ndarray, velocity: np.ndarray, omega: np.ndarray
    ) -> tuple[Spectrum, torch.Tensor]:
        order = np.argsort(s)
        values = np.exp(s)
        rate = omega * (values[:, None] - values[None, :])
        rate[np.diag_indices(len(s))] = values * velocity
        rate, values = rate[np.ix_(order, order)], values[order]
        floor = len(s) * np.finfo(float).eps * values[-1]
        arrays = [torch.from_numpy(np.ascontiguousarray(item)) for item in (values, vectors[:, order], rate)]
        return Spectrum(*arrays, float(floor)), torch.from_numpy(vectors @ g)

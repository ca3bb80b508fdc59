r"""Diagonal two-layer nets whose modes learn on clocks of their own, with start and target powers of the eigenvalue.

A net that starts at time 0 moves its kernel first by its lowest derivative that does not vanish, u ~ t^(n-1), while
covariance asks for u ~ t^(b-2): so b = n + 1 below the frontier. Layers that start equal (n = 1) give b = 2, layers of
which one starts at zero (n = 2) give b = 3, both if the start is proportional to the target (mu = delta); any other
start gives log-shift invariance without covariance. A gain that all modes share and that grows as t^nu, because ever
more of the target is learned, moves the exponent away from whole numbers. All of this is this project's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from grsd.decomposition import spectrum
from grsd.shells import LogShells, energy_budgets
from grsd.solvable.diagonal import DiagonalModule
from grsd.solvable.modes import rotation
from grsd.support.arguments import span_of, vector
from grsd.support.values import choice, fits_memory, number, positive, said, seed_of, whole_number

STARTS = ("equal", "crossed")
TOLERANCE = 1e-10
LATEST = 1e6


class GainedModule(DiagonalModule):
    """f(x) = gain sum_k a_k w_k x_k; input (N, K), output (N,)."""

    def __init__(self, weights: Float[Tensor, "2 K"], gain: float) -> None:
        super().__init__(weights)
        self.gain = nn.Linear(1, 1, bias=False, dtype=weights.dtype, device=weights.device)
        with torch.no_grad():
            self.gain.weight.fill_(gain)

    def forward(self, x: Float[Tensor, "N K"]) -> Float[Tensor, " N"]:
        return self.gain(super().forward(x).unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class ModeClocks:
    r"""f(x) = g sum_k a_k w_k x_k, inputs of variances lambda_k, targets beta*_k = lambda_k^delta times noise.

    .. math:: a' = g \lambda w (\beta^* - g a w), \quad w' = g \lambda a (\beta^* - g a w), \quad
              [g' = \sum_k \lambda_k a_k w_k (\beta^*_k - g a_k w_k)]

    Args:
        target: delta.
        start: mu. The kernel's first eigenvalues are about g^2 share lambda^(1 + mu), times 2 for equal layers.
        share: scale of the start.
        layers: "equal", a = w = sqrt(share lambda^mu), or "crossed", where w starts at zero.
        gain: first value of a trained g; ``None``: g is 1 and no parameter.
        noise: standard deviation of log beta*, independent for each mode.
        modes: K. ``span``: (low, high) of log lambda; one eigenvalue is drawn evenly from each of K equal cells.

    Errors: ``ValueError`` for parameters out of range.
    """

    target: float = 0.0
    start: float = 0.0
    share: float = 1.0
    layers: str = "crossed"
    gain: float | None = None
    noise: float = 0.3
    modes: int = 300
    span: tuple[float, float] = (-12.0, 0.0)

    def __post_init__(self) -> None:
        call = "ModeClocks"
        for name in ("target", "start"):
            number(call, name, getattr(self, name), -5.0, 5.0)
        positive(call, "share", self.share, 1e-12, 1e6)
        choice(call, "layers", self.layers, STARTS)
        if self.gain is not None:
            positive(call, "gain", self.gain, 1e-6, 1e6)
        number(call, "noise", self.noise, 0.0, 2.0)
        fits_memory(call, "modes", whole_number(call, "modes", self.modes, 2) ** 2)
        low, high = span_of(call, "span", self.span, "log lambda")
        if max(abs(low), abs(high)) > 30:
            raise ValueError(f"{call}(span=...): expected (low, high) within 30 of 0, got {said(self.span)}")

    @property
    def exponent(self) -> float:
        """b = 1 + n (1 + delta) / (1 + mu) of modes that have hardly moved, n = 1 for equal, 2 for crossed layers."""
        return 1 + (1 + STARTS.index(self.layers)) * (1 + self.target) / (1 + self.start)

    def trajectory(self, seed: int, times: Sequence[float] | np.ndarray) -> list[State]:
        """Return the net of one seed at increasing times from 0 on, integrated to a relative 1e-10."""
        call = "ModeClocks.trajectory"
        times = vector(call, "times", times, low=0.0, wanted="increasing times from 0 on")
        if (np.diff(times) <= 0).any() or times[-1] > LATEST:
            raise ValueError(f"{call}(times=...): expected increasing times up to {LATEST:g}, got {said(times)}")
        rng = np.random.default_rng(seed_of(call, "seed", seed))
        low, high = self.span
        eigenvalues = np.exp(low + (high - low) * (np.arange(self.modes) + rng.random(self.modes)) / self.modes)
        targets = eigenvalues**self.target * np.exp(self.noise * rng.standard_normal(self.modes))
        root = np.sqrt(self.share * eigenvalues**self.start)
        begun = State(eigenvalues, targets, root, root * (self.layers == "equal"), self.gain or 1.0, bool(self.gain))

        def slope(_: float, values: np.ndarray) -> np.ndarray:
            return begun.at(values).slope()

        first = begun.values()
        scale = np.concatenate([root, root, [begun.gain]])
        options = {"method": "DOP853", "rtol": TOLERANCE, "atol": 1e-3 * TOLERANCE * scale}
        solved = solve_ivp(slope, (0.0, times[-1] or 1.0), first, t_eval=times, **options)
        if not solved.success:
            raise ValueError(f"{call}(times=...): the integration failed: {solved.message}")
        return [begun.at(values) for values in solved.y.T]

    def budgets(
        self, seed: int, times: Sequence[float] | np.ndarray, shells: Sequence[LogShells]
    ) -> list[list[xr.Dataset]]:
        """Return the energy budgets of one seed, for each of ``shells`` a list over times."""
        times = vector("ModeClocks.budgets", "times", times, low=0.0, wanted="increasing times from 0 on")
        found = []
        for time, state in zip(times, self.trajectory(seed, times), strict=True):
            kernel, rate, error = state.matrices()
            parts = energy_budgets(spectrum(kernel, rate), error, shells, parameters={"seed": seed})
            found.append([part.assign_coords(time=float(time)) for part in parts])
        return [list(item) for item in zip(*found, strict=True)]


@dataclass(frozen=True)
class State:
    """Eigenvalues and targets of the task (K,), and the net at one time: layers a and w (K,), the gain g."""

    eigenvalues: np.ndarray
    targets: np.ndarray
    a: np.ndarray
    w: np.ndarray
    gain: float
    trained: bool

    @cached_property
    def missing(self) -> np.ndarray:
        """lambda (beta* - g a w), (K,)."""
        return self.eigenvalues * (self.targets - self.gain * self.a * self.w)

    def values(self) -> np.ndarray:
        return np.concatenate([self.a, self.w, [self.gain]])

    def at(self, values: np.ndarray) -> State:
        count = len(self.a)
        parts = values[:count], values[count : 2 * count], float(values[-1])
        return State(self.eigenvalues, self.targets, *parts, self.trained)

    def slope(self) -> np.ndarray:
        """d(a, w, g)/dt."""
        pull = self.gain * self.missing
        gain = float(self.missing @ (self.a * self.w)) if self.trained else 0.0
        return np.concatenate([pull * self.w, pull * self.a, [gain]])

    def matrices(self) -> tuple[Float[Tensor, "K K"], Float[Tensor, "K K"], Float[Tensor, " K"]]:
        """Return (M, M', e) in the inputs' eigenbasis, N = K."""
        moving = self.at(self.slope())
        size, root = self.a**2 + self.w**2, np.sqrt(self.eigenvalues)
        growing = 2 * (self.a * moving.a + self.w * moving.w)
        kernel = np.diag(self.eigenvalues * self.gain**2 * size)
        rate = np.diag(self.eigenvalues * self.gain * (self.gain * growing + 2 * moving.gain * size))
        if self.trained:
            learned, learning = root * self.a * self.w, root * (moving.a * self.w + self.a * moving.w)
            kernel = kernel + np.outer(learned, learned)
            rate = rate + np.outer(learned, learning) + np.outer(learning, learned)
        error = math.sqrt(len(root)) * root * (self.gain * self.a * self.w - self.targets)
        return tuple(torch.from_numpy(array) for array in (kernel, rate, error))

    def problem(self, seed: int = 0) -> tuple[nn.Module, Float[Tensor, "K K"], Float[Tensor, " K"]]:
        """Return (module, inputs, targets) with N = K samples, mixed by a rotation drawn by ``seed``."""
        weights = torch.from_numpy(np.stack([self.a, self.w]))
        module = GainedModule(weights, self.gain) if self.trained else DiagonalModule(weights)
        count = len(self.a)
        inputs = rotation(count, seed) * torch.from_numpy(np.sqrt(count * self.eigenvalues))
        return module, inputs, inputs @ torch.from_numpy(self.targets)

"""Block spin: join shells into blocks of m neighbours around any boundary.

Energies and couplings of a block are exact sums over its shells. ``grsd.shells.merge_shells`` puts block edges at
multiples of m; here blocks lie on either side of every boundary, so that all widths are compared at the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from grsd.shells.common import CommonShells, common_shells
from grsd.shells.windows import MOST_SHELLS
from grsd.support.arguments import integers
from grsd.support.values import said


@dataclass(frozen=True)
class Blocks:
    """The common shells of R runs as arrays.

    Attributes:
        index: (n,) indices of the shells; shell a covers [a, a + 1) widths. width: h.
        energy: (R, n). coupling: (R, n, n). flux: (R, n - 1), through the boundaries ``index[1:] * width``.
        usable: (n - 1,) True for boundaries inside the window that no run masks.
        whole: (n,) True for finite shells inside the window that no run masks.
    """

    index: Int[np.ndarray, " n"]
    width: float
    energy: Float[np.ndarray, "R n"]
    coupling: Float[np.ndarray, "R n n"]
    flux: Float[np.ndarray, "R b"]
    usable: np.ndarray
    whole: np.ndarray

    def states(self, factor: int, at: Int[np.ndarray, " B"]) -> Float[np.ndarray, "R B"]:
        """Return phi = sqrt(E_below E_above) of the blocks of ``factor`` shells on either side of boundaries ``at``."""
        below = np.concatenate([np.zeros((len(self.energy), 1)), self.energy.cumsum(1)], axis=1)
        return np.sqrt((below[:, at] - below[:, at - factor]) * (below[:, at + factor] - below[:, at]))

    def reached(self, reach: int, at: Int[np.ndarray, " B"]) -> Float[np.ndarray, "R B"]:
        """Return the part of the flux through ``at`` that flows between shells at most ``reach`` apart."""
        distance = np.abs(self.index[:, None] - self.index[None, :])
        near = self.coupling * (distance <= reach)
        return np.stack([near[:, c:, :c].sum((1, 2)) for c in at], axis=1)

    def neighbours(self, factor: int, at: Int[np.ndarray, " B"]) -> Float[np.ndarray, "R B"]:
        """Return the part of the flux through ``at`` between the blocks of ``factor`` shells just below and above."""
        return np.stack([self.coupling[:, c : c + factor, c - factor : c].sum((1, 2)) for c in at], axis=1)

    def boundaries(self, factor: int) -> Int[np.ndarray, " B"]:
        """Return the positions of the usable boundaries that have ``factor`` shells on either side."""
        n = len(self.index)
        at = np.arange(1, n)
        return at[self.usable & (at >= factor) & (at <= n - factor)]

    def pairs(self, factor: int, distance: int) -> tuple[Float[np.ndarray, "R P"], Float[np.ndarray, " P"]]:
        """Return (K, middle) of all pairs of blocks of ``factor`` whole shells, ``distance`` blocks apart.

        K = T / sqrt(E E) of the two blocks.
        """
        lower = np.arange(len(self.index) - factor * (distance + 1) + 1)
        fits = [self.whole[i : i + factor].all() and self.whole[i + factor * distance :][:factor].all() for i in lower]
        lower = lower[np.array(fits, dtype=bool)]
        upper = lower + factor * distance
        below = np.concatenate([np.zeros((len(self.energy), 1)), self.energy.cumsum(1)], axis=1)
        energy = below[:, lower + factor] - below[:, lower], below[:, upper + factor] - below[:, upper]
        exchanged = np.zeros((len(self.energy), len(lower)))
        for column, (u, i) in enumerate(zip(upper, lower, strict=True)):
            exchanged[:, column] = self.coupling[:, u : u + factor, i : i + factor].sum((1, 2))
        middle = (self.index[lower] + self.index[upper] + factor) * self.width / 2
        return exchanged / np.sqrt(energy[0] * energy[1]), middle

    def only(self, runs: np.ndarray) -> Blocks:
        """Return the same arrays for these runs only."""
        parts = self.energy[runs], self.coupling[runs], self.flux[runs]
        return Blocks(self.index, self.width, *parts, self.usable, self.whole)


def blocks(
    call: str, budgets: Sequence[xr.Dataset], window: tuple[float, float] | None, name: str = "budgets"
) -> Blocks:
    """Return the shells that all runs have in common as ``Blocks``. Errors: as ``common_shells``."""
    common: CommonShells = common_shells(call, budgets, window, name)
    index, width, places = common.index, common.width, common.places()
    budgets = common.budgets
    coupling = np.stack([b.coupling.values[np.ix_(at, at)] for b, at in zip(budgets, places, strict=True)])
    boundary = index[1:] * width
    usable = (common.boundaries("boundary_mask") == 0).all(0)
    usable &= (boundary >= common.low - 1e-9) & (boundary <= common.high + 1e-9)
    inside = (common.shells("mask") == 0).all(0)
    inside &= (index * width >= common.low - 1e-9) & ((index + 1) * width <= common.high + 1e-9)
    energy, flux = common.shells("energy"), common.boundaries("flux")
    return Blocks(index, width, energy, coupling, flux, usable, inside)


def check_factors(call: str, factors: tuple[int, ...]) -> tuple[int, ...]:
    """Return block sizes if they are whole, increasing and start at 1; raise ``ValueError`` otherwise."""
    found = integers(call, "factors", factors, low=1)
    if len(found) < 2 or found[0] != 1 or found != sorted(set(found)) or found[-1] > MOST_SHELLS:
        raise ValueError(f"{call}(factors=...): expected 1 and larger whole numbers, increasing, got {said(factors)}")
    return tuple(found)

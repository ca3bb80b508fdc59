r"""A lattice of shells without modes, with prescribed energies and couplings: every sum over shells is known.

.. math:: K_{ab} = \frac{T_{ab}}{\sqrt{E_a E_b}}
          = \mathrm{sgn}(a-b)\,\kappa(|a-b| h)\; u\Big(\frac{s_a+s_b}{2}\Big), \qquad
          E_a = e^{\gamma s_a + \sigma f(s_a)} ,

where f is a smooth Gaussian field drawn for each run. If the reach of kappa is shorter than the correlation length of
f, the flux through a boundary is a function of the two shells beside it: the description closes for every shape of u.
The model is this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import xarray as xr

from grsd.shells.windows import MOST_SHELLS, shell_coords
from grsd.support.arguments import listed
from grsd.support.provenance import provenance
from grsd.support.values import choice, number, positive, said, seed_of, whole_number
from grsd.theory import power_law
from grsd.theory.counterexamples import Velocity

PROFILES = ("exponential", "power", "flat")
LENGTHS, LARGEST_NOISE = (1e-3, 100.0), 10.0


LAW = power_law(1.3, 1.0)


@dataclass(frozen=True)
class ShellLattice:
    """An ensemble of shell lattices, one run per seed.

    Args:
        velocity: v(lambda, t), taken at t = 1; couplings follow u = v / lambda at the middle of a pair.
        profile: kappa over the distance x: "exponential" e^{-x / reach}, "power" (1 + x / reach)^-1.3, "flat" 1.
        reach: in s. ``widening``: the reach grows as e^{widening (s + extent / 2)}; zero keeps shift invariance.
        growth, swell, smooth: gamma, sigma and the correlation length (in s) of the energies.
        hidden: sd of the log of a random factor on the couplings that is independent of the energies and has the same
            correlation length.
        noise: relative sd of each coupling of each run.
        width, extent: h and the length of the lattice, which ends at s = 0; their ratio is the number of shells.

    Errors: ``ValueError`` for a value out of range.
    """

    velocity: Velocity = LAW
    profile: str = "exponential"
    reach: float = 0.5
    widening: float = 0.0
    growth: float = 0.3
    swell: float = 0.5
    smooth: float = 2.0
    hidden: float = 0.0
    noise: float = 0.0
    width: float = 0.25
    extent: float = 10.0

    def __post_init__(self) -> None:
        call = "ShellLattice"
        for name in ("reach", "smooth", "width", "extent"):
            positive(call, name, getattr(self, name), *LENGTHS)
        choice(call, "profile", self.profile, PROFILES)
        for name in ("swell", "hidden", "noise"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= LARGEST_NOISE:
                raise ValueError(f"{call}({name}=...): expected a number of at least 0, at most 10, got {said(value)}")
        for name in ("growth", "widening"):
            number(call, name, getattr(self, name), -LARGEST_NOISE, LARGEST_NOISE)
        if whole_number(call, "extent / width", round(self.extent / self.width), 4) > MOST_SHELLS:
            raise ValueError(
                f"{call}(extent, width): expected at most {MOST_SHELLS} shells, got {self.extent / self.width:g}"
            )
        if not callable(self.velocity):
            raise TypeError(f"{call}(velocity=...): expected a function v(lambda, t), got {said(self.velocity)}")

    def budget(self, seed: int) -> xr.Dataset:
        """Return one run, with the variables of ``energy_budget`` that are defined without modes; float64."""
        rng = np.random.default_rng(seed_of("ShellLattice.budget", "seed", seed))
        index = np.arange(-round(self.extent / self.width), 0)
        s = (index + 0.5) * self.width
        energy = np.exp(self.growth * s + self.swell * self._field(s, rng))
        distance = index[:, None] - index[None, :]
        middle = (s[:, None] + s[None, :]) / 2
        reach = self.reach * np.exp(self.widening * (middle + self.extent / 2))
        x = np.abs(distance) * self.width / reach
        kappa = np.sign(distance) * {"exponential": np.exp(-x), "power": (1 + x) ** -1.3, "flat": 1.0}[self.profile]
        factor = np.exp(self.hidden * self._field(s, rng) / 2)
        scatter = np.triu(1 + self.noise * rng.standard_normal(distance.shape), 1)
        law = self.velocity(np.exp(middle), 1.0) / np.exp(middle)
        root = np.sqrt(energy) * factor
        coupling = kappa * law * (scatter + scatter.T) * root[:, None] * root[None, :]
        flux = np.array([coupling[c:, :c].sum() for c in range(1, len(s))])
        density = np.sqrt(energy[1:] * energy[:-1]) / self.width
        data = {
            "energy": ("shell", energy, {"units": "energy"}),
            "dissipation": ("shell", 2 * np.exp(s) * energy, {"units": "energy/time"}),
            "modes": ("shell", np.ones_like(s), {"units": "1"}),
            "mask": ("shell", np.zeros(len(s), dtype=np.int8)),
            "coupling": (("shell", "shell_from"), coupling, {"units": "energy/time"}),
            "flux": ("boundary", flux, {"units": "energy/time"}),
            "density": ("boundary", density, {"units": "energy"}),
            "velocity": ("boundary", flux / density, {"units": "1/time"}),
            "boundary_mask": ("boundary", np.zeros(len(s) - 1, dtype=np.int8)),
        }
        coords = shell_coords(index, self.width) | {"boundary": index[1:] * self.width}
        settings = {"shell_width": self.width, "smoothing": 0.0}
        return xr.Dataset(data, coords, provenance({"seed": seed}) | settings)

    def budgets(self, seeds: Sequence[int]) -> list[xr.Dataset]:
        """Return one budget per seed."""
        return [self.budget(seed) for seed in listed("ShellLattice.budgets", "seeds", seeds, "seeds")]

    def _field(self, s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a Gaussian field of variance one at each s."""
        knots = np.arange(s[0] - 2 * self.smooth, s[-1] + 2 * self.smooth, self.smooth / 2)
        bumps = np.exp(-np.square((s[:, None] - knots) / self.smooth))
        return bumps @ rng.standard_normal(len(knots)) / np.linalg.norm(bumps, axis=1)

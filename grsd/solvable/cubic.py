r"""A lattice of shells whose flux is a given cubic of the shells' amplitudes: what closes under interventions is known.

With amplitudes x_a k_a of the error on shell a and energies E_a = (x_a k_a)^2 / 2, the flux is the cubic

.. math:: F_c(x) = \sum_{abd} C_{c,abd}\, x_a x_b x_d = G_c(x) + R_c(x) ,

a law G of one term and a random cubic R. The model is this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from grsd.shells.windows import shell_coords
from grsd.support.arguments import listed
from grsd.support.provenance import provenance
from grsd.support.values import choice, number, positive, seed_of, whole_number

LAWS = ("clock", "clocks", "local")
MOST_SHELLS = 40
SAMPLE = 400


@dataclass(frozen=True)
class CubicLattice:
    """An ensemble of lattices, one network per seed.

    Args:
        law: "clock": eps_c sum_d alpha_d k_d, alpha the same at all boundaries; "clocks": alpha of each boundary its
            own; "local": U_c k_below k_above k_top, which is U_c phi_c |e| as far as the highest shell has most energy.
        rest: standard deviation of the random cubic over that of the law, over amplitudes e^{xi / 2}.
        growth: E_a = e^{growth s_a}.
        width, shells: h and the number of shells; the lattice ends at s = 0.

    Errors: ``ValueError`` for a value out of range.
    """

    law: str = "clock"
    rest: float = 0.3
    growth: float = 0.5
    width: float = 0.7
    shells: int = 12

    def __post_init__(self) -> None:
        call = "CubicLattice"
        choice(call, "law", self.law, LAWS)
        number(call, "rest", self.rest, 0.0, 1e6)
        number(call, "growth", self.growth, -10.0, 10.0)
        positive(call, "width", self.width, 1e-3, 100.0)
        if not 3 <= whole_number(call, "shells", self.shells, 3) <= MOST_SHELLS:
            raise ValueError(f"{call}(shells=...): expected at most {MOST_SHELLS}, got {self.shells}")

    def responses(self, seed: int) -> xr.Dataset:
        """Return one network, with the variables of ``grsd.conditions.interventions.responses``; float64."""
        rng = np.random.default_rng(seed_of("CubicLattice.responses", "seed", seed))
        n = self.shells
        index = np.arange(-n, 0)
        energy = np.exp(self.growth * (index + 0.5) * self.width)
        amplitude = np.sqrt(2 * energy)
        density = np.zeros((n - 1, n))
        for c in range(n - 1):
            density[c, [c, c + 1]] = energy[[c, c + 1]] / (2 * self.width)
        tensor = self._law(density, amplitude, rng)
        if self.rest:
            other = rng.standard_normal(tensor.shape)
            factors = np.exp(0.5 * rng.standard_normal((SAMPLE, n)))
            spread = [_cubic(one, factors).std(0) for one in (tensor, other)]
            tensor = tensor + other * (self.rest * spread[0] / spread[1])[:, None, None, None]
        flux = tensor.sum((1, 2, 3))
        data = {
            "response": (("boundary", "part", "part_with", "part_moving"), tensor, {"units": "energy/time"}),
            "energy_of": (("shell", "part"), np.diag(energy), {"units": "energy"}),
            "density_of": (("boundary", "part"), density, {"units": "energy"}),
            "amplitude": ("part", amplitude, {"units": "1"}),
            "energy": ("shell", energy, {"units": "energy"}),
            "flux": ("boundary", flux, {"units": "energy/time"}),
            "density": ("boundary", density.sum(1), {"units": "energy"}),
            "mask": ("shell", np.zeros(n, dtype=np.int8)),
            "boundary_mask": ("boundary", np.zeros(n - 1, dtype=np.int8)),
        }
        coords = {name: part for name, part in shell_coords(index, self.width).items() if name != "shell_from"}
        settings = {"shell_width": self.width, "smoothing": 0.0}
        return xr.Dataset(data, coords | {"boundary": index[1:] * self.width}, provenance({"seed": seed}) | settings)

    def ensemble(self, seeds: Sequence[int]) -> list[xr.Dataset]:
        """Return ``responses`` of each seed."""
        return [self.responses(seed) for seed in listed("CubicLattice.ensemble", "seeds", seeds, "seeds")]

    def _law(self, density: np.ndarray, amplitude: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        boundaries, n = density.shape
        tensor, places = np.zeros((boundaries, n, n, n)), np.arange(n)
        if self.law == "local":
            for c in range(boundaries):
                tensor[c, c, c + 1, n - 1] = rng.uniform(0.5, 1.5) * amplitude[c] * amplitude[c + 1]
            return tensor
        alpha = rng.standard_normal((1 if self.law == "clock" else boundaries, n)) * np.ones((boundaries, 1))
        tensor[:, places, places, :] = density[:, :, None] * alpha[:, None, :]
        return tensor


def _cubic(tensor: np.ndarray, factors: np.ndarray) -> np.ndarray:
    return np.einsum("cabn,na,nb->nc", tensor @ factors.T, factors, factors, optimize=True)

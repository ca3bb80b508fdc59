"""The budget between two states from their whole decomposed kernels, with the legs of the transport."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from grsd.decomposition import Spectrum
from grsd.shells.budget import log_range
from grsd.shells.windows import LEAST_MODES, LogShells, mask_flags
from grsd.support.host import arrays

LEGS = {
    "growth": "a growth of the whole kernel",
    "crossing": "eigenvalues that move relative to each other",
    "rotation": "eigenvectors that rotate",
}


@dataclass(frozen=True)
class DenseState:
    """The loss, the force e (D,) and the decomposed kernel of one state."""

    loss: float
    force: Tensor
    spectrum: Spectrum

    def range(self) -> tuple[float, float]:
        """Return the logs of the smallest eigenvalue above the floor and of the largest."""
        return log_range(self.spectrum)


def log_eigenvalues(found: Spectrum) -> Tensor:
    """Return log eigenvalues, -inf at and below the precision floor."""
    above = found.eigenvalues > found.floor
    return torch.where(above, found.eigenvalues, torch.zeros_like(found.eigenvalues)).log()


def exchange(after: Tensor, weight: Tensor, before: Tensor) -> Tensor:
    """Return the transport between two kernels with windows ``after`` and ``before`` (shells, modes).

    ``weight``: the overlaps of their eigenvectors times the amplitudes of e, (modes, modes); (modes,) if the
    eigenvectors are the same.
    """
    found = (after * weight) @ before.T if weight.ndim == 1 else after @ (weight @ before.T)
    return (found - found.T) / 2


def shares(parts: Sequence[Tensor], rounding: Tensor) -> Tensor:
    """Return the signed share of each part (shells,) in their sum, <part, sum> / |sum|^2; NaN within ``rounding``."""
    rows = torch.stack([*parts])
    change = rows.sum(0)
    unit = change.abs().max()
    unit = torch.where(unit > rounding, unit, torch.full_like(unit, torch.nan))
    scaled = change / unit
    return (rows / unit) @ scaled / scaled.square().sum()


def upward(transport: Tensor) -> Tensor:
    """Return the flux through each boundary c, the sum of T_ab over a >= c > b."""
    edges = range(1, len(transport))
    return torch.stack([transport[c:, :c].sum() for c in edges]) if edges else transport.new_zeros(0)


def dense_step(
    before: DenseState, after: DenseState, shells: LogShells, indices: np.ndarray, samples: int
) -> dict[str, np.ndarray | xr.DataArray]:
    """Return the variables of the budget between two states, by name."""
    modes0, modes1 = before.spectrum, after.spectrum
    both = torch.stack([before.force, after.force], 1).to(modes0.eigenvalues)
    g0, g1 = modes0.eigenvectors.T @ both, modes1.eigenvectors.T @ both
    s0, s1 = log_eigenvalues(modes0), log_eigenvalues(modes1)
    own0, own1 = g0.square().mean(1), g1.square().mean(1)
    grown = (s0 > -torch.inf) & (s1 > -torch.inf)
    rho = (s1 - s0)[grown].mean()
    rayleigh = ((own1 @ modes1.eigenvalues) / (own0 @ modes0.eigenvalues)).log()
    at = torch.as_tensor(indices[1:] * shells.width, dtype=s0.dtype, device=s0.device)

    def windows(s: Tensor) -> Tensor:
        return shells.derivatives(s, at, 0)[0]

    w0, w1 = windows(s0), windows(s1)
    w0_grown, w1_shrunk = windows(s0 + rho), windows(s1 - rho)
    weight = (modes1.eigenvectors.T @ modes0.eigenvectors).mul_(g1 @ g0.T / 2)
    first = {
        "growth": exchange(w0_grown, own0, w0),
        "crossing": exchange(w1, own0, w0_grown),
        "rotation": exchange(w1, weight, w1),
    }
    last = {
        "rotation": exchange(w0, weight, w0),
        "crossing": exchange(w1_shrunk, own1, w0),
        "growth": exchange(w1, own1, w1_shrunk),
    }
    if bool(torch.isfinite(rayleigh)):
        first["growth_rayleigh"] = exchange(windows(s0 + rayleigh), own0, w0)
        last["growth_rayleigh"] = exchange(w1, own1, windows(s1 - rayleigh))
    else:  # e = 0, so that nothing is transported
        first["growth_rayleigh"] = last["growth_rayleigh"] = torch.zeros_like(first["growth"])
    transport = exchange(w1, weight, w0)
    legs = {leg: (first[leg] + last[leg]) / 2 for leg in first}
    relaxation = sum(w @ ((g[:, 1] - g[:, 0]) * g.mean(1)) for w, g in ((w0, g0), (w1, g1))) / 2
    rounding = len(g0) * torch.finfo(g0.dtype).eps * (own0.sum() + own1.sum())
    grew, rest = legs["growth"].sum(1), (legs["crossing"] + legs["rotation"]).sum(1)
    seen = legs["growth_rayleigh"].sum(1)
    found = {
        "relaxation": relaxation,
        "transport": transport,
        "flux": upward(transport),
        **legs,
        **{f"{leg}_order": first[leg] - last[leg] for leg in legs},
        "log_growth": rho,
        "log_growth_rayleigh": rayleigh,
        "grown_modes": grown.sum(),
        "laziness": shares([relaxation, grew, rest], rounding),
        "laziness_rayleigh": shares([relaxation, seen, transport.sum(1) - seen], rounding),
    }
    sides = (("before", before, modes0, g0[:, 0], w0), ("after", after, modes1, g1[:, 1], w1))
    for side, state, modes, g, w in sides:
        squares = g.square()
        pumped = modes.eigenvalues * squares
        found |= {
            f"energy_{side}": w @ squares / 2,
            f"modes_{side}": w.sum(1),
            f"loss_{side}": torch.as_tensor(state.loss, dtype=g.dtype, device=g.device),
            f"loss_dissipation_{side}": w @ pumped / samples,
            f"spectral_position_{side}": pumped.sum() / squares.sum() / modes.eigenvalues.sum(),
        }
    step = arrays(found)
    return step | {"mask": _mask(step, max(modes0.floor, modes1.floor), indices * shells.width)}


def _mask(step: Mapping[str, np.ndarray], floor: float, lowest: np.ndarray) -> xr.DataArray:
    most = {
        name: xr.DataArray(np.maximum(step[f"{name}_before"], step[f"{name}_after"]), dims="shell")
        for name in ("modes", "energy")
    }
    total = max(float(step["energy_before"].sum()), float(step["energy_after"].sum()))
    below = xr.DataArray(lowest < math.log(floor), dims="shell")
    return mask_flags(below, most["modes"], LEAST_MODES, most["energy"], total)

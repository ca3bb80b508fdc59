r"""The exact energy budget of gradient flow over smooth log shells.

With e' = -M e, M phi_u = lambda_u phi_u, g_u = <e, phi_u> and s = log lambda, shells are cut at multiples of a width h
by smooth cumulative windows W_s(lambda) = Phi((s - log lambda) / delta). Then, exactly (Daleckii and Krein),

.. math:: \frac{d}{dt} \tfrac12 \langle e, w(M) e\rangle = -\langle e, M w(M) e\rangle
          + \tfrac12 \sum_{uv} w^{[1]}(\lambda_u, \lambda_v)\, M'_{uv}\, g_u g_v ,

where w^{[1]} are the divided differences of the window. Shells and their exchange are the paper's (arXiv 2512.18209,
after 2512.10427); the smooth windows, the coupling matrix and this identity are this project's operational form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from grsd.decomposition import Spectrum
from grsd.shells.windows import (
    LEAST_LOCAL_MODES,
    LEAST_MODES,
    LEAST_SHARE,
    MASK_FLAGS,
    LogShells,
    mask_flags,
    shell_coords,
)
from grsd.support.arguments import described, tensor
from grsd.support.host import arrays
from grsd.support.labelled import Parts
from grsd.support.provenance import provenance
from grsd.support.values import instance, said

NEAR = 1e-4
CHUNK = 2**21
LEAST_PAIRS = 1.0
SHELL, PAIR, BOUNDARY = ("shell",), ("shell", "shell_from"), ("boundary",)
VARIABLES = {
    "energy": (SHELL, "error energy E_a", "energy"),
    "dissipation": (SHELL, "dissipation D_a", "energy/time"),
    "relaxation": (SHELL, "change of energy by the change of e, <e, w_a e'>", "energy/time"),
    "modes": (SHELL, "effective number of modes", "1"),
    "density": (BOUNDARY, "energy per unit of log eigenvalue", "energy"),
    "local_modes": (BOUNDARY, "modes within about one smoothing of the boundary", "1"),
    "effective_modes": (BOUNDARY, "effective number of modes that carry the density, (sum x)^2 / sum x^2", "1"),
    "coupling": (PAIR, "energy gained from shell_from, T_ab", "energy/time"),
    "scale_coupling": (PAIR, "the coupling that M' = M would give", "energy"),
    "drift": (SHELL, "mean of M'_uu / lambda_u over the shell's modes", "1/time"),
    "operator": (PAIR, "mean of M'_uv^2 / (lambda_u lambda_v) over pairs of modes u != v, R_ab", "1/time^2"),
    "operator_normalized": (PAIR, "R_ab / sqrt(R_aa R_bb)", "1"),
    "flux": (BOUNDARY, "energy flux upward through the boundary, F", "energy/time"),
    "flux_crossing": (BOUNDARY, "part of the flux carried by eigenvalues that cross", "energy/time"),
    "flux_rotation": (BOUNDARY, "part of the flux carried by eigenvectors that rotate", "energy/time"),
    "velocity": (BOUNDARY, "velocity u = F / density", "1/time"),
}
MAY_LACK = {"operator", "operator_normalized"}  # NaN where two shells have no pair of modes


@runtime_checkable
class Approximate(Protocol):
    """An object that ``energy_budget`` accepts as a spectrum; it computes its budgets and their errors itself."""

    dimension: int
    eigenvalues: Tensor

    def budget(self, error: Tensor, shells: LogShells, parameters: Mapping[str, object] | None) -> xr.Dataset: ...


def energy_budget(
    spectrum: Spectrum | Approximate,
    error: Tensor,
    shells: LogShells,
    *,
    error_rate: Tensor | None = None,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    r"""Compute the exact energy budget of the error over shells: dE_a/dt = sum_b T_ab - D_a.

    Args:
        spectrum: from ``grsd.spectrum(kernel, rate)``; without a rate the budget has only energies, dissipation and
            counts. One from ``grsd.krylov_spectrum`` gives energies, dissipation and fluxes, each with its error.
        error: e = f(X) - Y, shape (N, C), (N,) or (D,), dtype and device of the spectrum; or the force dl/df.
        error_rate: e', of the same form, if it is another than -M e: along any direction and for any loss, with the
            spectrum's rate along the same direction (``grsd.force_and_rate``). The budget then has ``relaxation``. A
            spectrum from ``grsd.krylov_spectrum(..., loss=...)`` has its own e'.
        shells: their width and smoothing; ``energy_budgets`` takes several.
        parameters: values to write into the attributes besides versions and settings (seed, depth, time, ...).

    Returns: a dataset with

        * ``energy(shell)`` E_a = 1/2 sum_u w_a g_u^2 and ``dissipation(shell)`` D_a = <e, M w_a e>;
        * with ``error_rate``, ``relaxation(shell)`` <e, w_a e'>: then dE_a/dt = relaxation_a + sum_b T_ab, of which
          -D_a is the case e' = -M e;
        * ``coupling(shell, shell_from)`` T_ab: energy that ``shell`` gains from ``shell_from`` per time, antisymmetric;
          ``scale_coupling``: the same for M' = M, which ``remove_scale`` uses;
        * ``flux(boundary)`` F: energy that crosses s upward per time, the sum of T_ab over a >= c > b, and its parts
          ``flux_crossing`` (pairs u = v) and ``flux_rotation``; near avoided crossings only their sum is meaningful;
        * ``density(boundary)`` eps: energy per unit of s, and ``velocity(boundary)`` u = F / eps, in 1 / time;
        * ``operator(shell, shell_from)`` R_ab and ``operator_normalized``, NaN if two shells have no pair of modes or
          nothing moves; ``drift(shell)``, the mean of M'_uu/lambda_u;
        * ``modes(shell)``, the window's sum over modes; ``local_modes(boundary)``, the number of modes within about one
          smoothing; ``effective_modes(boundary)``, the effective number of modes that carry the density;
        * ``mask``, ``boundary_mask``: zero where the numbers are meaningful, else the sum of the flags of the reasons.

    Pairs of modes closer than 1e-4 smoothings in log lambda use a midpoint expansion of the divided difference, which
    is exact to rounding even for degenerate pairs. Everything is computed on the spectrum's device; only shell-sized
    results are copied from it.

    Cost: four products of (shells, D) with (D, D) per width, and a dozen elementwise passes over D x D for all widths.
    Source: notebook 01; Daleckii and Krein 1965 for the derivative of a function of a matrix.
    Errors: ``ValueError`` for an error of another size, NaN, dtype or device mismatch, or energies that leave the range
    of the dtype.
    """
    instance("energy_budget", "shells", shells, LogShells, "LogShells")
    (budget,) = energy_budgets(spectrum, error, [shells], error_rate=error_rate, parameters=parameters)
    return budget


def energy_budgets(
    spectrum: Spectrum | Approximate,
    error: Tensor,
    shells: Sequence[LogShells],
    *,
    error_rate: Tensor | None = None,
    parameters: Mapping[str, object] | None = None,
) -> tuple[xr.Dataset, ...]:
    """``energy_budget`` for each of several ``LogShells``, which share the decomposition and all D x D work."""
    parts = budget_parts(spectrum, error, shells, error_rate=error_rate, parameters=parameters)
    return tuple(found.dataset() for found in parts)


def budget_parts(
    spectrum: Spectrum | Approximate,
    error: Tensor,
    shells: Sequence[LogShells],
    *,
    error_rate: Tensor | None = None,
    parameters: Mapping[str, object] | None = None,
) -> tuple[Parts, ...]:
    """Return ``energy_budgets`` before they are datasets."""
    if not isinstance(shells, Sequence) or not shells or not all(isinstance(item, LogShells) for item in shells):
        raise TypeError(f"energy_budgets(shells=...): expected a sequence of LogShells, got {said(shells)}")
    described("energy_budget", parameters)
    error = _check_error(spectrum, error)
    if error_rate is not None:
        error_rate = _check_error(spectrum, error_rate, "error_rate")
    if not isinstance(spectrum, Spectrum):
        if error_rate is not None:
            raise ValueError(
                "energy_budget(error_rate=...): expected a spectrum from grsd.spectrum; one from grsd.krylov_spectrum "
                "has an e' of its own, along gradient flow of its loss; leave error_rate out"
            )
        return tuple(Parts.of(spectrum.budget(error, item, parameters)) for item in shells)
    unit = _unit(error)
    modes = _modes(spectrum, error / unit, NEAR * min(item.smoothing for item in shells))
    if error_rate is not None:
        modes = replace(modes, g_rate=spectrum.eigenvectors.T @ (error_rate / unit))
    return tuple(_budget(spectrum, modes, unit, item, parameters) for item in shells)


def log_range(spectrum: Spectrum) -> tuple[float, float]:
    """Return (low, high): the logs of the smallest eigenvalue (at least the precision floor) and of the largest."""
    instance("log_range", "spectrum", spectrum, Spectrum, "what grsd.spectrum gave")
    values = spectrum.eigenvalues
    return math.log(max(float(values[0]), spectrum.floor)), math.log(float(values[-1]))


@dataclass(frozen=True)
class _Modes:
    """The arrays that all widths share. ``s`` is log lambda, -inf at and below the floor; the rest is None without M'.

    ``far_pairs``: M'_uv g_u g_v / (lambda_u - lambda_v), zero for near pairs. For near pairs u <= v: ``middle`` and
    ``half``, the mean and half the difference of their log eigenvalues, and ``weight``, the sum of 1/2 M'_uv g_u g_v
    over both orders. ``strength``: M'_uv^2 / (lambda_u lambda_v). ``drift``: M'_uu / lambda_u. ``g_rate``: e' in the
    eigenbasis, if it was given.
    """

    g: Tensor
    s: Tensor
    far_pairs: Tensor | None = None
    middle: Tensor | None = None
    half: Tensor | None = None
    weight: Tensor | None = None
    strength: Tensor | None = None
    drift: Tensor | None = None
    g_rate: Tensor | None = None


def _check_error(spectrum: Spectrum | Approximate, error: Tensor, name: str = "error") -> Tensor:
    if not isinstance(spectrum, (Spectrum, Approximate)):
        raise TypeError(
            "energy_budget(spectrum=...): expected what grsd.spectrum or grsd.krylov_spectrum gave, got "
            f"{type(spectrum).__name__}"
        )
    tensor("energy_budget", name, error)
    if error.ndim not in {1, 2} or error.numel() != spectrum.dimension:
        raise ValueError(
            f"energy_budget({name}=...): expected shape (N, C) or (D,) with D = {spectrum.dimension}, as the spectrum, "
            f"got {tuple(error.shape)}"
        )
    same = spectrum.eigenvalues
    if error.dtype != same.dtype or error.device != same.device:
        raise ValueError(
            f"energy_budget({name}=...): expected {same.dtype} on {same.device}, as the spectrum, got {error.dtype} on "
            f"{error.device}; use {name}.to(spectrum.eigenvalues)"
        )
    return error.detach().reshape(-1)


def _unit(error: Tensor) -> float:
    """Return a power of two by which to divide an error whose squares might leave the dtype's range; 1 otherwise."""
    largest, safe = float(error.abs().max()), torch.finfo(error.dtype).max ** 0.2
    return 1.0 if largest == 0 or 1 / safe <= largest <= safe else 2.0 ** math.frexp(largest)[1]


def _modes(spectrum: Spectrum, error: Tensor, reach: float) -> _Modes:
    values, rate = spectrum.eigenvalues, spectrum.rate
    g = spectrum.eigenvectors.T @ error
    above = values > spectrum.floor
    s = torch.where(above, values, torch.zeros_like(values)).log()
    if rate is None:
        return _Modes(g, s)
    under = int((~above).sum())
    index = torch.arange(values.shape[0], device=values.device)
    count = torch.searchsorted(s, s + reach, right=True) - index
    count[:under] = 0
    u = index.repeat_interleave(count)
    v = torch.arange(u.shape[0], device=values.device) - (count.cumsum(0) - count)[u] + u

    gap = values[:, None] - values[None, :]
    gap[u, v] = torch.inf
    gap[v, u] = torch.inf
    gap[:under, :under] = torch.inf
    far_pairs = (rate * g[:, None]).mul_(g).div_(gap)
    inverse_root = torch.where(above, values, torch.full_like(values, torch.inf)).rsqrt()
    strength = torch.mul(rate, inverse_root[:, None], out=gap).mul_(inverse_root).square_()
    exchanged = rate[u, v] * g[u] * g[v]
    return _Modes(
        g,
        s,
        far_pairs,
        middle=(s[u] + s[v]) / 2,
        half=(s[u] - s[v]) / 2,
        weight=torch.where(u == v, exchanged / 2, exchanged),
        strength=strength,
        drift=rate.diagonal() * inverse_root.square(),
    )


def _near_coupling(modes: _Modes, shells: LogShells, boundaries: Tensor) -> Tensor:
    """Return T of the near pairs: [w_a(u) w_b(v) - w_a(v) w_b(u)] / (lambda_u - lambda_v) expanded at their middle."""
    size = boundaries.shape[0] + 1
    total = boundaries.new_zeros(size, size)
    for start in range(0, modes.middle.shape[0], max(1, CHUNK // size)):
        part = slice(start, start + max(1, CHUNK // size))
        middle, square = modes.middle[part], modes.half[part].square()
        q = modes.weight[part] * torch.exp(-middle) * (1 - square / 6)
        w, w1, w2, w3 = shells.derivatives(middle, boundaries, 3)
        total += (q * (w1 + square / 6 * w3)) @ w.T + (q * square / 2 * w1) @ w2.T
    return total - total.T


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    return top / torch.where(bottom > 0, bottom, torch.full_like(bottom, torch.nan))


def _exchange(spectrum: Spectrum, modes: _Modes, shells: LogShells, at: Tensor, w: Tensor, bell: Tensor) -> dict:
    """Return all parts of the budget that need M'. ``bell``: dW/ds at the boundaries, (boundaries, D)."""
    energies = modes.g.square() / 2
    above = modes.s > -torch.inf
    coupling = w @ modes.far_pairs @ w.T + _near_coupling(modes, shells, at)
    slope = shells.derivatives(modes.s, at, 1)[1]
    scale = (slope * energies) @ w.T
    live = w * above
    count = live.sum(1)
    pairs = count[:, None] * count[None, :] - live @ live.T
    strength = live @ modes.strength @ live.T - (live * modes.strength.diagonal()) @ live.T
    operator = _ratio(strength, torch.where(pairs > LEAST_PAIRS, pairs, torch.zeros_like(pairs)))
    self_strength = operator.diagonal().sqrt()
    crossing = bell @ (modes.drift * energies)
    size = w.shape[0]
    flux = torch.stack([coupling[c:, :c].sum() for c in range(1, size)]) if size > 1 else at
    return {
        "coupling": coupling,
        "scale_coupling": scale - scale.T,
        "drift": _ratio(live @ modes.drift, count),
        "operator": operator,
        "operator_normalized": operator / self_strength[:, None] / self_strength[None, :],
        "flux": flux,
        "flux_crossing": crossing,
        "flux_rotation": flux - crossing,
        "velocity": flux / (bell @ energies),
    }


def _in_units(
    found: dict[str, np.ndarray], masks: Mapping[str, np.ndarray], total: float, unit: float, largest: float
) -> None:
    """Scale the energies of e / ``unit`` to those of e, in place; refuse them if they leave the range of their dtype.

    ``masks``: by the dimension of a shell and of a boundary. ``largest``: of e, to be named.
    """
    dtype = found["energy"].dtype
    lost = ["energy"] if 0 < total * unit * unit < np.finfo(dtype).tiny or (total and not unit * unit) else []
    for name, values in found.items():
        dims, _, units = VARIABLES[name]
        if units.startswith("energy") and unit != 1:
            with np.errstate(over="ignore", under="ignore"):
                values *= unit
                values *= unit
        kept = {SHELL: masks["shell"], PAIR: masks["shell"], BOUNDARY: masks["boundary"]}[dims] == 0
        kept = kept[:, None] & kept if dims == PAIR else kept
        if name not in MAY_LACK and not np.isfinite(values[kept]).all():
            lost.append(name)
    if lost:
        raise ValueError(
            f"energy_budget(error=...): the {VARIABLES[lost[0]][1]} leaves the range of {dtype} for an error up to "
            f"{largest:.3g}; choose other units of error or of time"
        )


def _budget(
    spectrum: Spectrum, modes: _Modes, unit: float, shells: LogShells, parameters: Mapping[str, object] | None
) -> Parts:
    values = spectrum.eigenvalues
    indices = np.array(shells.indices(*log_range(spectrum)))
    boundaries = indices[1:] * shells.width
    at = torch.as_tensor(boundaries, dtype=values.dtype, device=values.device)
    (w,) = shells.derivatives(modes.s, at, 0)
    _, bell = shells.cumulative(values, at, spectrum.floor)
    above = modes.s > -torch.inf
    energies = modes.g.square() / 2
    carried = bell * energies
    there = {
        "energy": w @ energies,
        "dissipation": 2 * (w @ (values * energies)),
        "modes": w.sum(1),
        "density": carried.sum(1),
        "local_modes": bell.sum(1) * (shells.smoothing * math.sqrt(2 * math.pi)),
        "effective_modes": _ratio(carried.sum(1).square(), carried.square().sum(1)),
    }
    if modes.g_rate is not None:
        there["relaxation"] = w @ (modes.g * modes.g_rate)
    if spectrum.rate is not None:
        there |= _exchange(spectrum, modes, shells, at, w, bell)
    sizes = {"total": energies.sum(), "largest": modes.g.abs().max(), "resolved": (w * above).sum(1)}
    found = arrays(there | sizes)
    total, largest, resolved = (found.pop(name) for name in sizes)

    floor = math.log(spectrum.floor)
    empty = (found["modes"] >= LEAST_MODES) & (resolved == 0)
    cases = {
        "mask": ("shell", (indices * shells.width < floor) | empty, "modes", LEAST_MODES, "energy"),
        "boundary_mask": (
            "boundary", boundaries - shells.smoothing < floor, "local_modes", LEAST_LOCAL_MODES, "density"
        ),
    }  # fmt: skip
    flags, described_flags = {}, {}
    for name, (dim, below, count, least, energy) in cases.items():
        flags[dim] = mask_flags(below, found[count], least, found[energy], float(total))
        text = f"0: kept; below_floor: reaches under the precision floor; few_modes: {count} < {least:g}; "
        described_flags[name] = (dim, flags[dim], {
            "long_name": text + f"no_energy: {energy} at most {LEAST_SHARE:g} of all",
            "flag_masks": np.array(list(MASK_FLAGS.values()), dtype=np.int8),
            "flag_meanings": " ".join(MASK_FLAGS),
        })  # fmt: skip
    _in_units(found, flags, float(total), unit, unit * float(largest))
    variables = {}
    for name, values_of in found.items():
        dims, text, units = VARIABLES[name]
        variables[name] = (dims, values_of, {"long_name": text, "units": units})
    boundary = {"long_name": "log eigenvalue at the boundary", "units": "log(1/time)"}
    coords = shell_coords(indices, shells.width) | {"boundary": ("boundary", boundaries, boundary)}
    settings = {"shell_width": shells.width, "smoothing": shells.smoothing, "log_floor": floor}
    attributes = provenance(parameters) | settings | {"dimension": spectrum.dimension}
    return Parts(variables | described_flags, coords, attributes)

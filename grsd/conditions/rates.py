r"""Rates of the Jacobian on the shells: how fast a shell's kernel, its projector and its rows of J change.

For shell a with window w_a, in the eigenbasis of M = J J^T / N,

.. math:: \rho_a = \left\| \left[ \sqrt{w_a(\lambda_u) w_a(\lambda_v)}\,
          M'_{uv}/\sqrt{\lambda_u \lambda_v} \right]_{uv} \right\| , \qquad
          \omega_a = \delta \sqrt{2\pi}\, \| w_a^{[1]} \circ M' \| , \qquad
          \tau_a = \frac{2}{\sqrt N} \big\| \sqrt{w_a(M)}\, M^{-1/2} J' \big\| ,

with operator norms. rho is the relative rate of change of a shell's kernel; omega is the rate of change of the shell's
projector w_a(M), scaled so that M' = r M gives at most r for both. M' = (J' J^T + J J'^T) / N contains only what of J'
changes inner products of the rows of J: tau is twice the largest |J'^T phi| / |J^T phi| on the shell, never below rho,
and also sees rows that turn in parameter space while M stands still.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Integral

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from grsd.decomposition import Spectrum
from grsd.shells import LogShells, log_range
from grsd.shells.windows import shell_coords
from grsd.support.arguments import dataset, finite, listed
from grsd.support.host import chosen, copied, read
from grsd.support.provenance import provenance
from grsd.support.values import instance, number, positive, said

NEAR = 1e-4
LEAST_WEIGHT = 1e-14
LEAST_MODES = 2.0
FIRST_TIME = 1.0
RELATIVE_RATES = ("rho", "omega")  # of M'
JACOBIAN_RATES = ("jacobian", "jacobian_typical")  # of J'


def shell_rates(
    decomposed: Spectrum, shells: LogShells, jacobian_rate: Float[Tensor, "D D"] | None = None
) -> xr.Dataset:
    """Compute rho and omega of every shell at one time, and tau if ``jacobian_rate`` is given.

    Args:
        decomposed: a spectrum with its rate.
        shells: their smoothing sets the scale of omega.
        jacobian_rate: J' J'^T / N in the basis of the outputs, from ``grsd.kernel.jacobian_rate_kernel``.

    Returns: ``rho(shell)``, ``omega(shell)`` in 1/time, ``modes(shell)``; with ``jacobian_rate`` also ``jacobian``,
    which is tau, and ``jacobian_typical``, 2 |Pi_a J' psi| / |Pi_a J psi| as the ratio of root mean squares over random
    psi. Rates are NaN in the end shells, which reach to infinity, in shells that reach below the precision floor, and
    in shells with fewer than two modes. Cost: per shell two norms of D x D symmetric matrices, or three.
    Errors: ``ValueError`` without a rate, or for a ``jacobian_rate`` of another size.
    """
    instance("shell_rates", "decomposed", decomposed, Spectrum, "what grsd.spectrum(kernel, rate) gave")
    instance("shell_rates", "shells", shells, LogShells, "LogShells")
    if decomposed.rate is None:
        raise ValueError("shell_rates(decomposed): expected a spectrum with its rate, made by spectrum(kernel, rate)")
    if jacobian_rate is not None and tuple(jacobian_rate.shape) != tuple(decomposed.rate.shape):
        raise ValueError(
            f"shell_rates(jacobian_rate=...): expected J' J'^T / N of shape {tuple(decomposed.rate.shape)}, got "
            f"{tuple(jacobian_rate.shape)}"
        )
    index = np.array(shells.indices(*log_range(decomposed)))
    values, rate = decomposed.eigenvalues, decomposed.rate
    above = values > decomposed.floor
    s = torch.where(above, values, torch.ones_like(values)).log()
    s = torch.where(above, s, torch.full_like(s, -torch.inf))
    edges = torch.as_tensor(index[1:] * shells.width, dtype=values.dtype, device=values.device)
    (windows,) = shells.derivatives(s, edges, 0)
    modes = copied((windows * above).sum(1)).numpy()
    inverse_root = torch.where(above, values, torch.full_like(values, torch.inf)).rsqrt()
    relative = rate * inverse_root[:, None] * inverse_root
    near = (s[:, None] - s[None, :]).abs() <= NEAR * shells.smoothing
    near |= ~above[:, None] & ~above[None, :]
    gap = torch.where(near, torch.ones_like(rate), values[:, None] - values[None, :])
    middle = torch.where(above, s, torch.zeros_like(s))
    slope = shells.derivatives(middle, edges, 1)[1] * above / torch.where(above, values, torch.ones_like(values))
    kept = (modes >= LEAST_MODES) & (index * shells.width >= math.log(decomposed.floor))
    kept[[0, -1]] = False
    names = RELATIVE_RATES if jacobian_rate is None else RELATIVE_RATES + JACOBIAN_RATES
    there: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    if jacobian_rate is not None:
        vectors = decomposed.eigenvectors
        turning = vectors.T @ jacobian_rate.to(vectors) @ vectors
        turning_relative = turning * inverse_root[:, None] * inverse_root
    for a in np.flatnonzero(kept):
        inside = chosen(windows[a] > LEAST_WEIGHT)
        root = windows[a][inside].sqrt()
        there["rho"].append(_norm(root[:, None] * relative[inside][:, inside] * root[None, :]))
        if jacobian_rate is not None:
            block = turning_relative[inside][:, inside]
            there["jacobian"].append(_norm(root[:, None] * block * root[None, :]))
            share = (windows[a] * turning.diagonal()).sum() / (windows[a] * above * values).sum()
            there["jacobian_typical"].append(share.clamp_min(0.0))
        divided = torch.where(
            near, (slope[a][:, None] + slope[a][None, :]) / 2, (windows[a][:, None] - windows[a]) / gap
        )
        there["omega"].append(_norm(divided * rate))
    found = {name: np.full(len(index), np.nan) for name in names}
    for name, rates in there.items():
        found[name][kept] = read(rates)
    for name in names:
        if name in JACOBIAN_RATES:
            found[name] = 2 * np.sqrt(found[name])
    found["omega"] *= shells.smoothing * math.sqrt(2 * math.pi)
    data = {name: ("shell", array, {"units": "1/time"}) for name, array in found.items()}
    data["modes"] = ("shell", modes, {"long_name": "effective number of modes", "units": "1"})
    result = xr.Dataset(data, shell_coords(index, shells.width)).drop_vars(["shell_from", "shell_lower", "shell_upper"])
    result["rho"].attrs["long_name"] = "operator norm of M' on the shell, relative to M"
    result["omega"].attrs["long_name"] = "operator norm of the rate of w_a(M), times smoothing sqrt(2 pi)"
    if jacobian_rate is not None:
        result["jacobian"].attrs["long_name"] = "twice the largest |J'^T phi| / |J^T phi| on the shell"
        result["jacobian_typical"].attrs["long_name"] = "2 |Pi_a J' psi| / |Pi_a J psi| for random psi"
    return result.assign_attrs(shell_width=shells.width, smoothing=shells.smoothing)


def along(
    states: Iterable[tuple[float, Spectrum] | tuple[float, Spectrum, Tensor]],
    shells: LogShells,
    *,
    top: float,
    **parameters: object,
) -> xr.Dataset:
    """Compute ``shell_rates`` at several (time, spectrum) of one run; ``top`` is lambda_max(0).

    A state may have J' J'^T / N as its third part; all have it or none.

    Returns: ``t_rho(time, shell)``, ``t_omega(time, shell)``, dimensionless, and with J' ``t_jacobian`` and
    ``t_jacobian_typical``; ``time`` in units of 1 / lambda_max(0), from 1 on, and ``shell`` relative to
    log lambda_max(0), so that runs can be compared.
    """
    call = "evolution.along"
    positive(call, "top", top)
    rows, times = [], []
    if not isinstance(states, Iterable) or getattr(states, "ndim", 1) == 0:
        raise TypeError(f"{call}(states): expected pairs of a time and a spectrum, got {said(states)}")
    for state in states:
        if not isinstance(state, Sequence) or len(state) not in (2, 3):
            raise TypeError(f"{call}(states): expected pairs of a time and a spectrum, got {said(state)}")
        time, decomposed = number(call, "states", state[0], 0.0), state[1]
        if time * top < FIRST_TIME * (1 - 1e-9):
            continue
        row = shell_rates(decomposed, shells, *state[2:]).drop_vars(["shell_index", "modes"])
        rows.append((time * row).rename({name: f"t_{name}" for name in row.data_vars}))
        times.append(time * top)
    if not rows:
        raise ValueError("evolution.along(states): expected at least one state at t >= 1 / lambda_max(0), got none")
    if len({tuple(row.data_vars) for row in rows}) > 1:
        raise ValueError(f"{call}(states): expected J' J'^T / N in all states or in none")
    axis = xr.DataArray(times, dims="time", name="time", attrs={"long_name": "time", "units": "1/lambda_max(0)"})
    joined = xr.concat(rows, dim=axis, join="outer", combine_attrs="drop")
    for name in joined.data_vars:
        joined[name].attrs = {"long_name": str(name).replace("_", " "), "units": "1"}
    joined["shell"] = joined.shell - math.log(top)
    joined.shell.attrs = {"long_name": "shell's centre, log of lambda / lambda_max(0)", "units": "1"}
    settings = {"shell_width": shells.width, "smoothing": shells.smoothing, "largest_eigenvalue_0": top}
    return joined.assign_attrs(provenance(parameters) | settings)


def gather(ensemble: Sequence[xr.Dataset]) -> xr.Dataset:
    """Gather the points of several runs from ``measure`` or ``along``.

    Returns: ``t_rho`` and ``t_omega`` over (point), and ``t_jacobian`` and ``t_jacobian_typical`` if all runs have
    them. A point is one shell of one run at one time, with the coordinates ``time`` and ``shell``, and ``depth`` and
    ``seed`` from the run's attributes; masked shells are left out.
    """
    return points("evolution.gather", ensemble)


def points(call: str, ensemble: Sequence[xr.Dataset]) -> xr.Dataset:
    """``gather``, refusing in the name of ``call``."""
    runs = listed(call, "ensemble", ensemble, "datasets from evolution.measure")
    needed = {"t_rho": ("time", "shell"), "t_omega": ("time", "shell"), "time": ("time",), "shell": ("shell",)}
    depths, seeds = [], []
    for position, run in enumerate(runs):
        dataset(call, "ensemble", run, needed, "it with evolution.measure")
        depths.append(_label(call, run, "depth", 1, 1))
        seeds.append(_label(call, run, "seed", position, 0))
    kept = [f"t_{name}" for name in RELATIVE_RATES + JACOBIAN_RATES if all(f"t_{name}" in run for run in runs)]
    parts = []
    for run, depth, seed in zip(runs, depths, seeds, strict=True):
        flat = run[kept].stack(point=("time", "shell")).reset_index("point").dropna("point")
        size = flat.sizes["point"]
        parts.append(flat.assign_coords(depth=("point", [depth] * size), seed=("point", [seed] * size)))
    joined = xr.concat(parts, dim="point", combine_attrs="drop")
    return joined.assign_attrs({**runs[0].attrs, "depth": str(sorted(set(depths))), "seed": str(sorted(set(seeds)))})


def _label(call: str, run: xr.Dataset, which: str, default: int, least: int) -> int:
    found = run.attrs.get(which, default)
    if isinstance(found, bool) or not isinstance(found, Integral) or found < least:
        raise ValueError(
            f"{call}(ensemble): expected a whole number of at least {least} in the attribute {which!r}, "
            f"got {said(found)}"
        )
    return int(found)


def check_points(
    call: str, measured: xr.Dataset, argument: str = "measured", rates: Sequence[str] = RELATIVE_RATES
) -> None:
    """Refuse a dataset that does not come from ``gather``, or that lacks one of ``rates`` or has one below 0."""
    needed = (*(f"t_{rate}" for rate in rates), "time", "shell", "depth", "seed")
    dataset(call, argument, measured, dict.fromkeys(needed, ("point",)), "it with evolution.gather(ensemble)")
    if not measured.sizes["point"]:
        raise ValueError(f"{call}({argument}): expected at least one point, got none")
    for variable in needed:
        finite(call, argument, measured, variable)
    least = [measured[f"t_{rate}"].values.min() >= 0 for rate in rates]
    if not all(least) or not all((measured[variable].values > 0).all() for variable in ("time", "depth")):
        raise ValueError(f"{call}({argument}): expected rates of at least 0, and times and depths above 0")


def refuse_zeros(call: str, measured: xr.Dataset, rates: Sequence[str]) -> None:
    """Refuse rates of 0, which have no logarithm: a kernel that stands still has no slopes."""
    if not all((measured[f"t_{rate}"].values > 0).all() for rate in rates):
        raise ValueError(f"{call}: expected rates above 0, got some of 0; a kernel that stands still has no slopes")


def _norm(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2).abs().max()

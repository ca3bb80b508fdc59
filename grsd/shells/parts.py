r"""What the transport is made of: growth of the whole kernel, eigenvalues that cross beyond it, and rotation.

A kernel that only grows, M' = r M, moves energy through every boundary at the velocity r and couples neighbours alone.
So M' is written as r M plus the rest, and every flux, velocity and coupling of an energy budget is the sum of

* growth: r eps, r and r S, where S is the coupling that M' = M would give (``scale_coupling``);
* crossing: what eigenvalues that cross carry beyond growth;
* rotation: what eigenvectors that rotate carry.

The split is exact for any r. It is this project's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from grsd.decomposition import Spectrum
from grsd.shells.budget import log_range
from grsd.shells.common import common_shells
from grsd.shells.windows import LogShells, shell_coords
from grsd.support.arguments import dataset, finite, listed, optional_window, tensor, whole_budget
from grsd.support.values import instance, number

PARTS = ("growth", "crossing", "rotation")
NEEDED = ("flux", "flux_crossing", "density", "boundary_mask", "coupling", "scale_coupling")
LARGEST_RATE = 1e50
PAIR = ("shell", "shell_from")
TEXTS = {
    "flux": ("parts of the energy flux, their sum is the flux", "energy/time"),
    "velocity": ("parts of the velocity, their sum is the velocity", "1/time"),
    "share": ("share of the squared flux, sum of F times the part over sum of F^2", "1"),
    "rate": ("rate r of the growth of the whole kernel", "1/time"),
    "clock": ("t r, the power of time with which the whole kernel grows", "1"),
    "coupling_growth": ("coupling that growth gives, r times scale_coupling", "energy/time"),
    "coupling_beyond": ("coupling beyond growth", "energy/time"),
    "coupling_crossing": ("coupling of eigenvalues that cross beyond growth", "energy/time"),
    "coupling_rotation": ("coupling of eigenvectors that rotate", "energy/time"),
}


def transport_parts(
    budget: xr.Dataset,
    *,
    window: tuple[float, float] | None = None,
    rate: float | None = None,
    crossing: xr.DataArray | None = None,
) -> xr.Dataset:
    r"""Split every flux, velocity and coupling of an energy budget into growth, crossing beyond growth and rotation.

    Args:
        budget: from ``energy_budget``, or a history with a time dimension, from ``shell_history`` or ``grsd.run``.
        window: (low, high) in log eigenvalue of the boundaries that decide r and the shares; ``None``: all. Of these,
            only unmasked ones count.
        rate: r, 1 / time. ``None``: the r that minimizes sum_c (F_c - r eps_c)^2 over these boundaries, separately at
            each time: the mean of the velocities F / eps, weighted by eps^2.
        crossing: ``coupling_crossing`` of the same snapshot, to split the couplings beyond growth too.

    Returns: a dataset with ``rate`` r and, if the budget has a ``time``, ``clock`` t r; over ``part`` ("growth",
    "crossing", "rotation"): ``flux(part, boundary)``, ``velocity(part, boundary)`` and ``share(part)``, the sum of F
    times the part over the sum of F^2, in the window; shares add up to 1, and with the default r the share of growth is
    1 - sum (F - r eps)^2 / sum F^2. Also ``coupling_growth`` and ``coupling_beyond``, which add up to the coupling, and
    with ``crossing`` the parts ``coupling_crossing`` and ``coupling_rotation`` of the latter.
    What the window decides is NaN at times at which all its boundaries are masked.
    Errors: ``ValueError`` for a budget without fluxes, or without any unmasked boundary in the window.
    """
    call = "transport_parts"
    low, high = optional_window(call, window)
    if rate is not None:
        rate = number(call, "rate", rate, -LARGEST_RATE, LARGEST_RATE)
    instance(call, "budget", budget, xr.Dataset, "a dataset from energy_budget")
    whole_budget(call, "budget", budget, NEEDED)
    if timed := "time" in budget.variables:
        dataset(call, "budget", budget, {"time": None}, "the budget from grsd.energy_budget")
        finite(call, "budget", budget, "time")
    kept = _kept(call, "budget", budget, low, high)
    own = {name: budget[name] for name in NEEDED}
    found = _split(own, kept, rate)
    r = found["rate"]
    found["coupling_growth"] = r * own["scale_coupling"]
    found["coupling_beyond"] = own["coupling"] - found["coupling_growth"]
    if crossing is not None:
        carried = _crossing_of(call, crossing, budget)
        found["coupling_crossing"] = carried - found["coupling_growth"]
        found["coupling_rotation"] = own["coupling"] - carried
    for name in [name for name in found if name.startswith("coupling")]:
        found[name] = found[name].transpose(*own["coupling"].dims)
    if timed:
        found["clock"] = budget.time * r
    kept_attributes = {name: budget.attrs[name] for name in ("shell_width", "smoothing")}
    return _labelled(found, kept_attributes)


def parts_over_runs(
    budgets: Sequence[xr.Dataset], *, window: tuple[float, float] | None = None, rate: float | None = None
) -> xr.Dataset:
    """Split the transport of R >= 4 runs, each with its own r, and sum the parts over runs.

    Args: as for ``transport_parts``; one snapshot per run, on common shells. Only boundaries and finite shells that no
    run masks are used.

    Returns: ``flux(part, boundary)`` and the two couplings, means over runs; ``velocity(part, boundary)``, sums of
    fluxes over sums of densities, and ``share(part)``, both sums over runs, each with its jackknife standard error
    (``velocity_error``, ``share_error``); ``rate(run)`` and, if the budgets have a ``time``, ``clock(run)``.
    Errors: as ``transport_parts``; ``ValueError`` for runs whose shells differ.
    """
    call = "parts_over_runs"
    low, high = optional_window(call, window)
    if rate is not None:
        rate = number(call, "rate", rate, -LARGEST_RATE, LARGEST_RATE)
    common = common_shells(call, budgets, None)
    runs = listed(call, "budgets", budgets, "runs")
    timed = all("time" in budget.variables for budget in runs)
    for budget in runs:
        whole_budget(call, "budgets", budget, NEEDED)
        if timed:
            dataset(call, "budgets", budget, {"time": ()}, "the budget from grsd.energy_budget")
            finite(call, "budgets", budget, "time")
    edges = common.index[1:] * common.width
    whole = (common.boundaries("boundary_mask") == 0).all(0)
    shells = (common.shells("mask") == 0).all(0)
    for at, budget in zip(common.places(), runs, strict=True):
        shells &= (at > 0) & (at < budget.sizes["shell"] - 1)
    rows = ("run", "boundary")
    own = {name: xr.DataArray(common.boundaries(name)[:, whole], dims=rows) for name in NEEDED[:3]}
    coords = {"boundary": edges[whole], "part": list(PARTS)}
    inside = (edges[whole] >= low) & (edges[whole] <= high)
    if not inside.any():
        raise ValueError(f"{call}(budgets): the runs have no unmasked boundary of the window in common")
    judged = xr.DataArray(inside, dims="boundary")
    _positive(call, "budgets", own["density"])
    found = _split(own, judged, rate)
    r, flux, total = found["rate"], found["flux"], own["flux"].where(judged)
    shares = _left_out((flux * total).sum("boundary")) / _left_out((total**2).sum("boundary"))
    velocities = _left_out(flux) / _left_out(own["density"])
    result = {
        "rate": r,
        "flux": flux.mean("run"),
        "velocity": velocities[0],
        "share": shares[0],
        "velocity_error": _error(velocities),
        "share_error": _error(shares),
    }
    centre = (common.index[shells] + 0.5) * common.width
    pairs = {name: _pairs(common.budgets, common.places(), shells, name) for name in NEEDED[4:]}
    grown = r * xr.DataArray(pairs["scale_coupling"], dims=("run", *PAIR))
    result["coupling_growth"] = grown.mean("run")
    result["coupling_beyond"] = (xr.DataArray(pairs["coupling"], dims=("run", *PAIR)) - grown).mean("run")
    if timed:
        result["clock"] = r * xr.DataArray([float(budget.time) for budget in runs], dims="run")
    attributes = {"shell_width": common.width, "smoothing": runs[0].attrs["smoothing"], "runs": len(runs)}
    return _labelled(result, attributes).assign_coords(coords | {"shell": centre, "shell_from": centre})


def coupling_crossing(spectrum: Spectrum, error: torch.Tensor, shells: LogShells) -> xr.DataArray:
    """Return the part of the couplings that eigenvalues carry as they move, (shell, shell_from), energy / time.

    Arguments as for ``energy_budget``, whose ``coupling`` it splits: the rest is carried by rotation. The sum over
    a >= c > b is ``flux_crossing``. Near avoided crossings only the sum of both is meaningful.
    """
    call = "coupling_crossing"
    instance(call, "spectrum", spectrum, Spectrum, "what grsd.spectrum(kernel, rate) gave")
    instance(call, "shells", shells, LogShells, "LogShells")
    if spectrum.rate is None:
        raise ValueError(f"{call}(spectrum=...): expected a spectrum with its rate, made by spectrum(kernel, rate)")
    tensor(call, "error", error)
    values = spectrum.eigenvalues
    if error.numel() != spectrum.dimension or error.dtype != values.dtype or error.device != values.device:
        raise ValueError(
            f"{call}(error=...): expected {spectrum.dimension} numbers of {values.dtype} on {values.device}, as the "
            f"spectrum, got {tuple(error.shape)} of {error.dtype} on {error.device}"
        )
    above = values > spectrum.floor
    s = torch.where(above, values, torch.zeros_like(values)).log()
    index = np.array(shells.indices(*log_range(spectrum)))
    at = torch.as_tensor(index[1:] * shells.width, dtype=values.dtype, device=values.device)
    w, slope = shells.derivatives(s, at, 1)
    energies = (spectrum.eigenvectors.T @ error.detach().reshape(-1)).square() / 2
    drift = spectrum.rate.diagonal() / torch.where(above, values, torch.full_like(values, torch.inf))
    half = (slope * (energies * drift)) @ w.T
    array = (half - half.T).cpu().numpy()
    if not np.isfinite(array).all():
        raise ValueError(f"{call}(error=...): the couplings leave the range of {values.dtype}; choose other units")
    coords = shell_coords(index, shells.width)
    attrs = {"long_name": "part of the coupling carried by eigenvalues that move", "units": "energy/time"}
    return xr.DataArray(array, {name: coords[name] for name in PAIR}, PAIR, "coupling_crossing", attrs)


def _kept(call: str, name: str, budget: xr.Dataset, low: float, high: float) -> xr.DataArray:
    """Return which boundaries are unmasked and in the window; refuse a budget that has none."""
    unmasked = budget.boundary_mask == 0
    kept = unmasked & (budget.boundary >= low) & (budget.boundary <= high)
    if not bool(kept.any()):
        raise ValueError(f"{call}({name}): expected an unmasked boundary in the window, got none")
    _positive(call, name, budget.density.where(unmasked, 1.0))
    return kept


def _positive(call: str, name: str, density: xr.DataArray) -> None:
    if not bool((density > 0).all()):
        raise ValueError(f"{call}({name}): expected 'density' above 0 where nothing is masked")


def _split(own: dict[str, xr.DataArray], kept: xr.DataArray, rate: float | None) -> dict[str, xr.DataArray]:
    """Return the rate and the parts of fluxes and velocities, and their shares in ``kept``, along "boundary"."""
    flux, density = own["flux"], own["density"]
    inside, carrying = flux.where(kept), density.where(kept)
    square = (carrying**2).sum("boundary")
    fitted = (inside * carrying).sum("boundary") / square.where(square > 0)
    r = fitted if rate is None else xr.full_like(square, rate)
    grown = r * density
    parts = [grown, own["flux_crossing"] - grown, flux - own["flux_crossing"]]
    parts = xr.concat(parts, dim=xr.DataArray(list(PARTS), dims="part", name="part")).transpose("part", *flux.dims)
    total = (inside**2).sum("boundary")
    share = (inside * parts).sum("boundary") / total.where(total > 0)
    return {"rate": r, "flux": parts, "velocity": parts / density.where(density > 0), "share": share}


def _crossing_of(call: str, crossing: object, budget: xr.Dataset) -> xr.DataArray:
    """Return couplings of crossing on the budget's shells; refuse those of other shells or of several snapshots."""
    if not isinstance(crossing, xr.DataArray) or crossing.dims != PAIR or budget.coupling.dims != PAIR:
        raise TypeError(f"{call}(crossing=...): expected coupling_crossing(...) of the budget's one snapshot")
    same = all(np.array_equal(crossing[name].values, budget[name].values) for name in PAIR if name in crossing.coords)
    if not same or crossing.shape != budget.coupling.shape or not np.isfinite(crossing.values).all():
        raise ValueError(f"{call}(crossing=...): expected finite numbers on the budget's own shells")
    return crossing


def _pairs(budgets: Sequence[xr.Dataset], places: list[np.ndarray], shells: np.ndarray, name: str) -> np.ndarray:
    at = [place[shells] for place in places]
    return np.stack([budget[name].values[np.ix_(own, own)] for budget, own in zip(budgets, at, strict=True)])


def _left_out(values: xr.DataArray) -> xr.DataArray:
    """Return the sum over runs, then the sums without each run, along "run"."""
    total = values.sum("run")
    return xr.concat([total, *(total - values.isel(run=i) for i in range(values.sizes["run"]))], dim="run")


def _error(estimates: xr.DataArray) -> xr.DataArray:
    """Return the jackknife standard error of estimates with each run left out; the first is of all runs."""
    without = estimates.isel(run=slice(1, None))
    count = without.sizes["run"]
    return np.sqrt((count - 1) / count * ((without - without.mean("run")) ** 2).sum("run"))


def _labelled(found: dict[str, xr.DataArray], attributes: dict[str, object]) -> xr.Dataset:
    result = xr.Dataset(found)
    for name in result.data_vars:
        text, units = TEXTS[str(name).removesuffix("_error")]
        error = str(name).endswith("_error")
        result[name].attrs = {"long_name": f"standard error of the {text}" if error else text, "units": units}
    return result.assign_attrs(attributes)

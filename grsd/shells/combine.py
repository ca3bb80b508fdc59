"""Operations on budgets: merge shells, pool runs, remove the overall scale, measure how far couplings reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from grsd.shells.windows import LEAST_MODES, MASK_FLAGS, MOST_SHELLS, mask_flags, shell_coords
from grsd.support.arguments import attribute, between, budgets_of, dataset, finite, whole_budget
from grsd.support.values import instance, number, said, whole_number

MADE = "the budget from grsd.spectrum(kernel, rate)"


def merge_shells(budget: xr.Dataset, factor: int) -> xr.Dataset:
    """Merge shells into shells of ``factor`` times the width (block spin): sum energies, couplings, modes and others.

    ``budget`` comes from ``energy_budget`` or ``shell_history``. Fluxes, densities and velocities do not depend on the
    width and are kept at the remaining boundaries. Masks are decided again on the merged shells; the operator coupling,
    a mean over pairs of modes, is left out. The result equals exactly the budget at the coarser width with the same
    smoothing.
    """
    if whole_number("merge_shells", "factor", factor, 1) > MOST_SHELLS:
        raise ValueError(f"merge_shells(factor=...): expected at most {MOST_SHELLS}, got {said(factor)}")
    instance("merge_shells", "budget", budget, xr.Dataset, "a dataset from energy_budget")
    names = ["energy", "dissipation", "modes", "mask"] + (["coupling"] if "flux" in budget else [])
    whole_budget("merge_shells", "budget", budget, names)
    index = budget.shell_index.values
    coarse = np.floor_divide(index, factor)
    labels = np.unique(coarse)
    width = budget.attrs["shell_width"] * factor
    plain = budget.drop_vars(["shell_index", "shell_lower", "shell_upper"])

    def summed(part: xr.DataArray) -> xr.DataArray:
        for dim in [dim for dim in ("shell", "shell_from") if dim in part.dims]:
            part = part.assign_coords({dim: coarse}).groupby(dim).sum().drop_vars(dim)
        return part

    variables = {
        name: summed(plain[name]).transpose(*plain[name].dims).assign_attrs(plain[name].attrs)
        for name in ("energy", "dissipation", "relaxation", "coupling", "scale_coupling", "modes")
        if name in plain
    }
    if "drift" in plain:
        live = plain.modes.where(plain.drift.notnull(), 0)
        mean = summed(plain.drift.fillna(0) * live) / summed(live)
        variables["drift"] = mean.transpose(*plain.drift.dims).assign_attrs(plain.drift.attrs)
    below = summed((plain.mask & MASK_FLAGS["below_floor"]) > 0) > 0
    mask = mask_flags(below, variables["modes"], LEAST_MODES, variables["energy"], variables["energy"].sum("shell"))
    variables["mask"] = mask.transpose(*plain.mask.dims).assign_attrs(plain.mask.attrs)
    kept = np.isin(index[1:], labels[1:] * factor)
    rest = plain[[name for name in plain.data_vars if name not in variables]].isel(boundary=kept)
    rest = rest.drop_dims(["shell", "shell_from"], errors="ignore")
    return rest.assign(variables).assign_coords(shell_coords(labels, width)).assign_attrs(shell_width=width)


def velocity_over_runs(budgets: Sequence[xr.Dataset]) -> xr.Dataset:
    r"""Return u = sum_r F_r / sum_r eps_r over R runs, with its standard error.

    u is the ratio of sums, not the mean of ratios; sd = sqrt(sum_r (F_r - u eps_r)^2 / (R (R - 1))) / mean(eps). Only
    boundaries that no run masks are used. Returns ``velocity``, ``standard_error`` and the effective sample size
    ``effective_runs`` over ``boundary``.
    """
    variables = ["flux", "density", "boundary_mask"]
    budgets = budgets_of("velocity_over_runs", "budgets", budgets, variables, least=2)
    runs = xr.concat([budget[variables] for budget in budgets], dim="run", join="inner", combine_attrs="drop")
    runs = runs.isel(boundary=np.flatnonzero((runs.boundary_mask == 0).all("run")))
    if runs.sizes["boundary"] == 0:
        raise ValueError(
            "velocity_over_runs(budgets): the runs have no unmasked boundary in common; give them one span"
        )
    count = runs.sizes["run"]
    velocity = runs.flux.sum("run") / runs.density.sum("run")
    spread = np.sqrt(((runs.flux - velocity * runs.density) ** 2).sum("run") / (count * (count - 1)))
    result = xr.Dataset(
        {
            "velocity": velocity,
            "standard_error": spread / runs.density.mean("run"),
            "effective_runs": runs.density.sum("run") ** 2 / (runs.density**2).sum("run"),
        }
    )
    texts = {"velocity": "velocity u over runs", "standard_error": "standard error of u"}
    for name, text in texts.items():
        result[name].attrs = {"long_name": text, "units": "1/time"}
    result["effective_runs"].attrs = {"long_name": "effective sample size, (sum eps)^2 / sum eps^2", "units": "1"}
    return result.assign_attrs(runs=count)


def remove_scale(budget: xr.Dataset, low: float, high: float) -> xr.Dataset:
    """Remove the overall scale rate from couplings, fluxes and velocities.

    M' = r M gives F = r eps exactly: a network whose kernel only grows moves energy through every boundary at the
    velocity r. Here r is the mean of M'_uu / lambda_u over the modes of the shells whose centres lie in [low, high]
    (log eigenvalue); the result is the budget of M' - r M and has the attribute ``scale_rate`` r.
    """
    if not number("remove_scale", "low", low) < number("remove_scale", "high", high):
        raise ValueError(f"remove_scale(low, high): expected low < high in log eigenvalue, got {low!r} and {high!r}")
    needed = ("drift", "scale_coupling", "coupling", "modes", "flux", "flux_crossing", "density", "velocity")
    whole_budget("remove_scale", "budget", budget, needed)
    judged = budget.sel(shell=slice(low, high))
    weight = judged.modes.where(judged.drift.notnull(), 0)
    if judged.sizes["shell"] == 0 or float(weight.sum()) == 0:
        raise ValueError(f"remove_scale(low, high): no modes with a rate between {low!r} and {high!r}")
    r = (judged.drift.fillna(0) * weight).sum("shell") / weight.sum("shell")
    r.attrs = {"long_name": "overall scale rate of the kernel, removed", "units": "1/time"}
    changed = {
        "coupling": budget.coupling - r * budget.scale_coupling,
        "drift": budget.drift - r,
        "flux": budget.flux - r * budget.density,
        "flux_crossing": budget.flux_crossing - r * budget.density,
        "velocity": budget.velocity - r,
    }
    changed = {
        name: part.transpose(*budget[name].dims).assign_attrs(budget[name].attrs) for name, part in changed.items()
    }
    return budget.assign(changed | {"scale_rate": r})


def locality(budget: xr.Dataset) -> xr.Dataset:
    """Measure how far the exchange through a boundary reaches, by signed shares of the flux.

    ``share(boundary, reach)``: the sum of T_ab over a >= c > b with centres at most ``reach`` apart, divided by F(s_c);
    it tends to one and may overshoot. ``reach_90(boundary)``: the smallest reach beyond which the share stays within .1
    of one, in units of log eigenvalue. Both are NaN if the flux is zero. Sums of |T_ab| would count noise, so they are
    not used.
    """
    dataset("locality", "budget", budget, dict.fromkeys(("coupling", "flux")), MADE)
    width = attribute("locality", "budget", budget, "shell_width")
    if {*budget.coupling.dims} - {"shell", "shell_from"} != {*budget.flux.dims} - {"boundary"}:
        raise ValueError(f"locality(budget): expected couplings and fluxes of the same runs, got {dict(budget.sizes)}")
    between("locality", "budget", budget, ("shell_from",))
    if budget.sizes["shell"] < 2:
        raise ValueError("locality(budget): expected at least 2 shells, got 1; take a smaller shell width")
    steps = np.arange(1, budget.sizes["shell"])
    upper = np.arange(budget.sizes["shell"])
    distance = upper[:, None] - upper[None, :]
    coupling = budget.coupling.transpose(..., "shell", "shell_from").values
    flux = budget.flux.transpose(..., "boundary").values
    shares = np.stack(
        [np.cumsum([(coupling * (distance == k))[..., c:, :c].sum((-2, -1)) for k in steps], axis=0) for c in steps],
        axis=-1,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.moveaxis(np.where(flux == 0, np.nan, shares / flux), 0, -1)
    settled = np.abs(shares - 1) <= 0.1
    stays = np.flip(np.logical_and.accumulate(np.flip(settled, -1), -1), -1)
    reach = steps * width
    first = np.where(stays.any(-1), reach[np.argmax(stays, -1)], np.nan)
    dims = [dim for dim in budget.flux.dims if dim != "boundary"] + ["boundary"]
    coords = {dim: budget[dim] for dim in dims if dim in budget.coords}
    units = {"units": "log(1/time)"}
    return xr.Dataset(
        {
            "share": (
                [*dims, "reach"],
                shares,
                {"long_name": "signed share of the flux up to this reach", "units": "1"},
            ),
            "reach_90": (dims, first, {"long_name": "reach from which on the share is within .1 of one", **units}),
        },
        coords | {"reach": ("reach", reach, {"long_name": "distance between shells", **units})},
    )


def flux_from_differences(history: xr.Dataset) -> xr.DataArray:
    """Compute the flux without M': F = -dE_</dt - D_<, with E_< and D_< summed over all shells below a boundary.

    ``history`` comes from ``shell_history``; for another loss than squared error its ``relaxation`` takes the place of
    -D. The derivative is the second-order difference of unequally spaced
    snapshots, so the first and the last are left out and the error falls with the square of their spacing.
    """
    own = "relaxation" if isinstance(history, xr.Dataset) and "relaxation" in history else "dissipation"
    call, needed = "flux_from_differences", ("energy", own, "boundary", "time")
    dataset(call, "history", history, dict.fromkeys(needed), "the history with grsd.shell_history")
    if history.sizes.get("time", 0) < 3:
        raise ValueError(f"{call}(history): expected at least 3 snapshots, got {history.sizes.get('time', 0)}")
    between(call, "history", history)
    if any({*history[name].dims} != {"time", "shell"} for name in needed[:2]):
        raise ValueError(f"{call}(history): expected 'energy' and {own!r} over ('time', 'shell')")
    for name in needed[:2]:
        finite(call, "history", history, name)
    if not (np.diff(history.time.values) > 0).all():
        raise ValueError(f"{call}(history): expected increasing times, got {said(history.time.values.tolist())}")
    energy, change_by_e = (history[name].transpose("time", "shell").values for name in ("energy", own))
    change_by_e = change_by_e if own == "relaxation" else -change_by_e
    below = np.cumsum(energy, 1)[:, :-1]
    change = np.gradient(below, history.time.values, axis=0)
    flux = (-change + np.cumsum(change_by_e, 1)[:, :-1])[1:-1]
    coords = {"time": history.time[1:-1], "boundary": history.boundary}
    attrs = {"long_name": "flux from differences of snapshots", "units": "energy/time"}
    return xr.DataArray(flux, coords, ("time", "boundary"), "flux_from_differences", attrs)

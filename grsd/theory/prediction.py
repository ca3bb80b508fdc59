r"""Predict a loss curve from early velocities: transport the measured energy by the measured velocity.

The paper's rescaling covariance (arXiv 2512.18209) predicts u(s, t) = Phi(s + log t) / t at later times, where Phi is
measured up to t1; the procedure and its baselines are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.interpolate import PchipInterpolator

from grsd.support.arguments import attribute, dataset, finite, vector
from grsd.support.values import instance, number, positive, said
from grsd.theory.characteristics import PowerLawVelocity
from grsd.theory.finite_volume import Velocity, transport

NEEDED = ("energy", "density", "flux", "boundary_mask", "loss")
CELL = 0.05
MARGIN = 2.0
KINDS = ("covariant", "power law", "growth", "lazy")


@dataclass(frozen=True)
class Early:
    """The part of a history that a prediction may use: a copy, made by ``early``, without any later snapshot."""

    history: xr.Dataset

    @property
    def until(self) -> float:
        """t1, the time of the last snapshot in this part."""
        return float(self.history.time[-1])


@dataclass(frozen=True)
class Profile:
    """Phi(log x) = t u over log x = s + log t, shape (n,), constant beyond its ends. A call with (s, t) returns u.

    ``weight``: the energy density behind each point.
    """

    log_x: np.ndarray
    phi: np.ndarray
    weight: np.ndarray

    def __call__(self, s: np.ndarray, time: float) -> np.ndarray:
        return np.interp(np.asarray(s) + math.log(time), self.log_x, self.phi) / time


def early(history: xr.Dataset, until: float) -> Early:
    """Copy the snapshots of ``history`` with 0 < time <= ``until``, with the variables that predictions need.

    Errors: ``ValueError`` for a missing variable or fewer than 2 such snapshots.
    """
    until = positive("early", "until", until)
    instance("early", "history", history, xr.Dataset, "a dataset from grsd.shell_history")
    missing = [name for name in NEEDED if name not in history]
    if missing:
        raise ValueError(f"early(history): expected the variables of shell_history, {', '.join(missing)} missing")
    dims = {"energy": ("time", "shell"), "density": ("time", "boundary"), "boundary_mask": ("time", "boundary")}
    dims |= {"flux": ("time", "boundary"), "loss": ("time",), "time": ("time",)}
    dataset("early", "history", history, dims | dict.fromkeys(("shell", "boundary")), "it with grsd.shell_history")
    attribute("early", "history", history, "shell_width")
    for name in ("energy", "loss"):
        finite("early", "history", history, name)
    for name in ("flux", "density"):
        finite("early", "history", history, name, history.boundary_mask.values == 0)
    if not (history.loss.values > 0).all():
        raise ValueError("early(history): expected losses above 0")
    time = history.time.values
    kept = history[list(NEEDED)].isel(time=(time > 0) & (time <= until * (1 + 1e-9))).copy(deep=True)
    if kept.sizes["time"] < 2:
        raise ValueError(f"early(until={until:g}): expected at least 2 snapshots up to then, got {kept.sizes['time']}")
    return Early(kept.assign_attrs(shell_width=history.attrs["shell_width"]))


def velocity_profile(seen: Early, efolds: float = 1.0) -> Profile:
    """Estimate Phi = sum t F / sum eps at equal x, from the last ``efolds`` of log time (at least the last snapshot).

    Masked boundaries are left out. Errors: ``ValueError`` if none is left.
    """
    instance("velocity_profile", "seen", seen, Early, "what early(history, until) gives")
    history = seen.history
    times = history.time.values
    kept = times >= seen.until * math.exp(-positive("velocity_profile", "efolds", efolds))
    log_x = history.boundary.values + math.log(seen.until)
    flux, density = np.zeros_like(log_x), np.zeros_like(log_x)
    for i in np.flatnonzero(kept):
        shot = history.isel(time=i)
        good = shot.boundary_mask.values == 0
        if good.any():
            at = shot.boundary.values[good] + math.log(times[i])
            flux += np.interp(log_x, at, times[i] * shot.flux.values[good], left=0.0, right=0.0)
            density += np.interp(log_x, at, shot.density.values[good], left=0.0, right=0.0)
    good = density > 0
    if not good.any():
        raise ValueError("velocity_profile(seen): every boundary is masked; nothing to measure a velocity on")
    return Profile(log_x[good], flux[good] / density[good], density[good])


def fitted_power_law(profile: Profile, highest: float = 0.0) -> PowerLawVelocity:
    """Fit Phi = c x^(b-1) at log x <= ``highest`` (the frontier), by log-linear least squares weighted by density.

    Errors: ``ValueError`` for fewer than 3 points, or a Phi that changes sign, since no power law does.
    """
    instance("fitted_power_law", "profile", profile, Profile, "what velocity_profile(seen) gives")
    used = profile.log_x <= number("fitted_power_law", "highest", highest)
    phi = profile.phi[used]
    if used.sum() < 3 or not (abs(np.sign(phi).sum()) == phi.size):
        raise ValueError(
            f"fitted_power_law(profile): expected at least 3 points of one sign at log x <= {highest:g}, got "
            f"{phi.size} from {phi.min(initial=math.inf):.3g} to {phi.max(initial=-math.inf):.3g}"
        )
    slope, level = np.polyfit(profile.log_x[used], np.log(np.abs(phi)), 1, w=np.sqrt(profile.weight[used]))
    return PowerLawVelocity(1 + float(slope), float(np.sign(phi[0]) * np.exp(level)))


def running_clock(profile: Profile) -> PowerLawVelocity:
    """Return u = c / t with c = sum t F / sum eps: a kernel that only grows, M ~ t^c, with the c of the profile."""
    instance("running_clock", "profile", profile, Profile, "what velocity_profile(seen) gives")
    return PowerLawVelocity(1.0, float((profile.phi * profile.weight).sum() / profile.weight.sum()))


def predict_loss(
    seen: Early, times: Sequence[float] | np.ndarray, velocity: str | Velocity = "covariant"
) -> xr.DataArray:
    """Predict the loss at ``times`` >= t1: transport the shell energies at t1 by a velocity measured up to t1.

    Args:
        seen: from ``early``; no other data are read.
        times: increasing.
        velocity: "covariant" (``velocity_profile``), "power law" (``fitted_power_law`` of that profile; constant above
            the largest measured x, where no energy is left), "growth" (``running_clock`` of that profile), "lazy"
            (u = 0: the kernel is constant), or any u(s, t) in 1 / time.

    Returns: ``loss(time)``. A monotone cubic through the cumulative energy at the edges spreads the energy of each
    shell; that of the end shells stays within one shell width. Cost: one ``transport`` on cells of .05.
    Errors: as ``transport``; ``ValueError`` for times before t1 or another velocity.
    """
    instance("predict_loss", "seen", seen, Early, "what early(history, until) gives")
    times = vector("predict_loss", "times", times)
    if not (times >= seen.until).all():
        raise ValueError(f"predict_loss(times): expected times from t1 = {seen.until:g} on, got {times.min():g}")
    now, width = seen.history.isel(time=-1), seen.history.attrs["shell_width"]
    places = np.append(now.shell.values - width / 2, now.shell.values[-1] + width / 2)
    edges = np.arange(places[0] - MARGIN, places[-1] + MARGIN + CELL, CELL)
    held = PchipInterpolator(places, np.append(0.0, np.cumsum(now.energy.values)))
    cells = np.maximum(np.diff(held(np.clip(edges, places[0], places[-1]))), 0.0)
    carried = transport(edges, cells, _velocity(seen, velocity), times, start=seen.until)
    loss = carried.energy * (float(now.loss) / float(now.energy.sum()))
    return loss.rename("loss").assign_attrs(long_name="predicted loss", units="loss")


def extended_fit(seen: Early, times: Sequence[float] | np.ndarray, efolds: float = 1.0) -> xr.DataArray:
    """Extrapolate a power law fitted to the losses of the last ``efolds``: the baseline without shells."""
    instance("extended_fit", "seen", seen, Early, "what early(history, until) gives")
    history = seen.history.loss
    late = history.time.values >= seen.until * math.exp(-positive("extended_fit", "efolds", efolds))
    late[-2:] = True
    line = np.polynomial.Polynomial.fit(np.log(history.time.values[late]), np.log(history.values[late]), 1)
    times = vector("extended_fit", "times", times, low=1e-100)
    return xr.DataArray(np.exp(line(np.log(times))), {"time": times}, ["time"], "loss", {"units": "loss"})


def _velocity(seen: Early, velocity: str | Velocity) -> Velocity:
    if callable(velocity):
        return velocity
    if not isinstance(velocity, str) or velocity not in KINDS:
        raise ValueError(
            f"predict_loss(velocity=...): expected one of {KINDS} or a function u(s, t), got {said(velocity)}"
        )
    if velocity == "lazy":
        return PowerLawVelocity(1.0, 0.0)
    profile = velocity_profile(seen)
    if velocity == "covariant":
        return profile
    if velocity == "growth":
        return running_clock(profile)
    law, last = fitted_power_law(profile), profile.log_x[-1]
    return lambda s, time: law(np.minimum(s, last - math.log(time)), time)

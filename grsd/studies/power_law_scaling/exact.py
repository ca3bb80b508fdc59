"""Exact models as shell histories, and the cases on which transport and exponents are judged. Source: ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import xarray as xr

from grsd.decomposition import spectrum
from grsd.evidence import Measurement
from grsd.runs.history import join_budgets
from grsd.shells import LogShells, energy_budget
from grsd.solvable import DiagonalNet, LazyPowerLaw, ProjectedTwoLayer
from grsd.theory.characteristics import PowerLawVelocity
from grsd.theory.exponents import extrapolated_exponent, loss_exponent
from grsd.theory.finite_volume import transport
from grsd.theory.prediction import early, extended_fit, predict_loss, velocity_profile

SHELLS = LogShells(0.5, 0.1)
LATE = math.exp(40)
LOG_TIMES = (20.0, 60.0, 21)
METHODS = {
    "covariant": "covariant",
    "power law": "power_law",
    "growth": "growth",
    "lazy": "lazy",
    "straight line": "extended_fit",
}


def exact_history(
    model: LazyPowerLaw | DiagonalNet | ProjectedTwoLayer,
    times: Sequence[float] | np.ndarray,
    shells: LogShells = SHELLS,
) -> xr.Dataset:
    """``shell_history`` of an exact model: its closed forms at ``times`` > 0, read by ``energy_budget``.

    ``loss`` is the closed one: of the K modes, except for the projected network, whose energy under its lowest node
    (which hardly decays) is added to the lowest shell.
    """
    times = np.atleast_1d(np.asarray(times, dtype=float))
    whole = isinstance(model, ProjectedTwoLayer)
    loss = model.loss(times) if whole else model.loss(times, tail=False)
    states = [_state(model, float(time)) for time in times]
    tops = [math.log(float(kernel.diagonal().max())) for kernel, _, _ in states]
    lows = [math.log(float(kernel.diagonal().min())) for kernel, _, _ in states]
    reach = 8 * shells.smoothing
    shells = LogShells(shells.width, shells.smoothing, (min(lows) - reach, max(tops) + reach))
    budgets = []
    for (kernel, rate, error), total in zip(states, loss, strict=True):
        budget = energy_budget(spectrum(kernel, rate), error, shells).assign(largest_eigenvalue=float(kernel.max()))
        if whole:
            lowest = int(np.flatnonzero(budget.energy.values > 0)[0])
            budget["energy"][lowest] += max(float(total) - float(budget.energy.sum()), 0.0)
        budgets.append(budget)
    flow = xr.Dataset({"loss": ("time", loss)}, {"time": ("time", times, {"units": "time"})})
    return join_budgets(budgets, flow, shells)


def _state(model: LazyPowerLaw | DiagonalNet | ProjectedTwoLayer, time: float) -> tuple[torch.Tensor, ...]:
    if isinstance(model, LazyPowerLaw):
        kernel = torch.diag(torch.from_numpy(model.eigenvalues))
        return kernel, torch.zeros_like(kernel), torch.from_numpy(model.error(time))
    return model.matrices(time)


@dataclass(frozen=True)
class Case:
    """A velocity law with the energy lambda^q it carries from t = 1, and where to follow it on a grid.

    ``tau``: log of the last time; ``cell``: ds.
    """

    b: float
    c: float
    q: float
    tau: float = 5.0
    cell: float = 0.02

    @property
    def velocity(self) -> PowerLawVelocity:
        return PowerLawVelocity(self.b, self.c)


ROWS = (
    "b = 1",
    "b > 1, c < 0: unreached",
    "b > 1, c < 0: pile",
    "b > 1, c < 0: equal",
    "1 < b <= 2, c > 0",
    "b < 1, c > 0",
    "b < 1, c < 0",
)


def draw(row: str, seed: int) -> Case:
    """A case of a row of the table of exponents, parameters drawn by ``seed``."""
    rng = np.random.default_rng([seed, ROWS.index(row)])
    q = rng.uniform(-0.3, 0.5)
    if row == "b = 1":
        return Case(1.0, rng.uniform(-0.5, 0.8), q)
    if row.startswith("b > 1"):
        b = rng.uniform(1.4, 2.5)
        relative = {"unreached": rng.uniform(1.4, 2.0), "pile": rng.uniform(0.4, 0.7), "equal": 1.0}[row.split(": ")[1]]
        return Case(b, -((relative * (q + 1) / 2) ** (1 - b)), q, tau=4.0, cell=0.004)
    if row.startswith("1 < b"):
        return Case(rng.uniform(1.4, 2.0), rng.uniform(0.2, 0.5), q)
    c = rng.uniform(0.2, 0.5)
    return (
        Case(rng.uniform(0.5, 0.8), c, q, tau=1.2)
        if row == "b < 1, c > 0"
        else Case(rng.uniform(0.5, 0.8), -c, q, tau=2.0)
    )


def compared(case: Case, times: int = 4) -> xr.Dataset:
    """E(t) of a case twice: ``characteristics(time)`` and ``finite_volume(time)``, their relative ``difference``."""
    when = np.exp(np.linspace(case.tau / times, case.tau, times))
    low = -(1 + max(case.c, 0.0)) * case.tau - 9 / (case.q + 1) if case.b >= 1 else -9.0
    high = 4.0 if case.c > 0 else 0.5
    edges = low + case.cell * np.arange(math.ceil((high - low) / case.cell) + 1)
    edges -= edges[np.abs(edges).argmin()]
    under = np.exp((case.q + 1) * np.minimum(edges, 0.0)) / (case.q + 1)
    grid = transport(edges, np.diff(under), case.velocity, when, start=1.0, below=under[0], negligible=1e-7)
    exact = case.velocity.energy(when, case.q)
    found = {
        "characteristics": exact,
        "finite_volume": grid.energy.values,
        "difference": grid.energy.values / exact - 1,
    }
    return xr.Dataset({name: ("time", values) for name, values in found.items()}, {"time": when})


@dataclass(frozen=True)
class Rows:
    """One law drawn for each row of the table of exponents; ``log_times``: (first, last, count) of its energies."""

    rows: tuple[str, ...] = ROWS
    log_times: tuple[float, float, int] = LOG_TIMES


@dataclass(frozen=True)
class Late:
    """When the law of a drawn projected network is measured."""

    time: float = LATE


@dataclass(frozen=True)
class Ahead:
    """By which factor in time drawn models are forecast."""

    ahead: float = 10.0


def disagreement(protocol: Rows, seed: int) -> float:
    """Largest relative difference of the two energies over the rows of the table and their times."""
    return max(float(np.abs(compared(draw(row, seed)).difference).max()) for row in protocol.rows)


def exponent_table(rows: Sequence[str], seeds: Sequence[int], times: np.ndarray) -> pd.DataFrame:
    """Laws drawn by row of the table of exponents that has one: ``predicted``, and ``integrated`` at ``times``."""
    table = []
    for row in rows:
        for seed in seeds:
            case = draw(row, seed)
            predicted = loss_exponent(case.b, case.c, case.q).value
            if math.isfinite(predicted):
                found = extrapolated_exponent(times, case.velocity.energy(times, case.q))
                law = {"row": row, "b": case.b, "c": case.c, "q": case.q}
                table.append(law | {"predicted": predicted, "integrated": found})
    return pd.DataFrame(table)


def exponent_error(protocol: Rows, seed: int) -> float:
    """Largest |integrated - predicted| exponent over the rows that have one."""
    table = exponent_table(protocol.rows, [seed], np.exp(np.linspace(*protocol.log_times)))
    return float((table.integrated - table.predicted).abs().max())


def published_table(betas: Sequence[float]) -> pd.DataFrame:
    """By source exponent beta of the projected network: c and q, measured, their p, and the published exponent."""
    rows = []
    for beta in betas:
        model = ProjectedTwoLayer(beta=float(beta))
        c, q = measured_law(model)
        p = loss_exponent(1.0, c, q).value
        rows.append({"beta": beta, "c": c, "q": q, "p": p, "published": model.loss_exponent})
    return pd.DataFrame(rows)


def measured_law(model: ProjectedTwoLayer, time: float = LATE) -> tuple[float, float]:
    """(c, q) read from budgets: c = t u below the frontier at ``time``, q + 1 the slope of log density at t = 0."""
    shells = LogShells(0.7, 0.2)
    start = energy_budget(spectrum(*model.matrices(0.0)[:2]), model.matrices(0.0)[2], shells)
    bulk = start.isel(boundary=(start.boundary_mask.values == 0) & (np.abs(start.boundary.values + 4.5) < 3))
    slope = np.polyfit(bulk.boundary.values, np.log(bulk.density.values), 1)[0]
    kernel, rate, error = model.matrices(time)
    late = energy_budget(spectrum(kernel, rate), error, shells)
    log_x = late.boundary.values + math.log(time)
    bulk = late.isel(boundary=(late.boundary_mask.values == 0) & (log_x > -6) & (log_x < -1))
    return time * float(bulk.flux.sum() / bulk.density.sum()), float(slope) - 1


def bordelon_error(protocol: Late, seed: int) -> float:
    """|p - chi| of a projected network drawn by ``seed``: p from the measured c and q, chi as published.

    alpha is 1 to 3, beta .2 to .8 or 1.25 to 1.6 (near 1 everything converges like a power of log t).
    """
    rng = np.random.default_rng(seed)
    beta = rng.uniform(0.2, 0.8) if rng.random() < 0.6 else rng.uniform(1.25, 1.6)
    model = ProjectedTwoLayer(alpha=rng.uniform(1, 3), beta=beta)
    c, q = measured_law(model, protocol.time)
    return abs(loss_exponent(1.0, c, q).value - model.loss_exponent)


def forecasts(
    model: LazyPowerLaw | DiagonalNet | ProjectedTwoLayer, until: float, *, first: float = 1 / 20, ahead: float = 10.0
) -> xr.Dataset:
    """An exact model seen up to ``until`` and forecast to ``ahead`` times that, at 9 times a factor of ``ahead``.

    Returns ``loss(time)`` after ``until`` and forecasts ``covariant``, ``power_law`` (NaN where Phi changes sign),
    ``growth``, ``lazy`` and ``extended_fit``; shells of width .6, smoothing .2. ``first``: of the snapshots, over
    ``until``.
    """
    count = 1 + round(9 * math.log(ahead / first) / math.log(ahead))
    history = exact_history(model, until * np.geomspace(first, ahead, count), LogShells(0.6, 0.2))
    later = history.loss.isel(time=history.time.values > until * 1.001)
    seen, when = early(history, until), later.time.values
    found = {"loss": later} | {kind: predict_loss(seen, when, kind) for kind in ("covariant", "growth", "lazy")}
    phi = velocity_profile(seen).phi
    power = predict_loss(seen, when, "power law") if (phi > 0).all() or (phi < 0).all() else later * np.nan
    return xr.Dataset(found | {"power_law": power, "extended_fit": extended_fit(seen, when)})


def drawn_models(seed: int) -> dict[str, tuple[DiagonalNet | ProjectedTwoLayer, float]]:
    """Two models whose spectra move, and the time up to which each is seen; parameters drawn by ``seed``."""
    rng = np.random.default_rng(seed)
    depth, a, d, start = int(rng.integers(2, 4)), rng.uniform(1.05, 1.2), rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.2)
    diagonal = DiagonalNet(depth, a=a, d=d, start=start, modes=500)
    projected = ProjectedTwoLayer(alpha=rng.uniform(1, 3), beta=rng.uniform(0.3, 0.7))
    return {"diagonal": (diagonal, 60.0), "projected": (projected, 1e3)}


def forecast_ratio(protocol: Ahead, seed: int) -> float:
    """|log(forecast / loss)| a decade ahead: covariant over lazy, the larger of the two models of ``drawn_models``."""
    ratios = []
    for model, until in drawn_models(seed).values():
        end = forecasts(model, until, ahead=protocol.ahead).isel(time=-1)
        ratios.append(abs(float(np.log(end.covariant / end.loss))) / abs(float(np.log(end.lazy / end.loss))))
    return max(ratios)


MEASUREMENTS = {
    "transport-agrees": Measurement(Rows(), disagreement),
    "loss-exponents": Measurement(Rows(), exponent_error),
    "bordelon-recovered": Measurement(Late(), bordelon_error),
    "forecast-exact-models": Measurement(Ahead(), forecast_ratio),
}

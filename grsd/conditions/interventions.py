r"""Closure under interventions: does a law of one term predict the flux when the shells' amplitudes are changed?

Let e = sum_a e_a, where e_a are the modes of e whose eigenvalue lies in shell a. The weights and the directions of all
e_a are held, amplitudes become x_a e_a, and M' is that of the changed error. M' is linear in e, so that energies are
exact sums of x_a^2 and the flux is an exact cubic,

.. math:: F_c(x) = \sum_{abd} C_{c,abd}\, x_a x_b x_d .

A general cubic therefore always fits. What is judged are laws of one term for F_c, with phi_c = sqrt(E_below E_above)
of the shells beside the boundary, eps_c the energy density there, k_d = x_d |e_d| the amplitudes:

* "state": U_c phi_c; "local": U_c phi_c |e|;
* "clock": eps_c sum_d alpha_d k_d, one clock for all boundaries; "clocks": with alpha_d of each boundary its own.

Energies do not know the sign of e and the flux is odd in e, F(-e) = -F(e): no function of energies predicts the flux
for errors of any direction. Interventions keep the directions that training made. Interventions and rule are this
project's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from scipy.stats import norm
from torch import Tensor, nn

from grsd.conditions.contract import Verdict, of_squared_error
from grsd.conditions.matched import SHELLS
from grsd.decomposition import Spectrum, spectrum
from grsd.evidence import DecisionRule
from grsd.flow import Flow, Snapshot
from grsd.jacobian import private_copy
from grsd.kernel import tangent_kernel_and_rate
from grsd.shells import LogShells, energy_budget
from grsd.support.arguments import dataset, described, listed, required_window
from grsd.support.values import choice, fits_memory, instance, positive, said, seed_of, whole_number

name = "interventions"
paper = "a renormalizable coarse-grained description"
reads = "flow"

DRAWS, SPREAD = 400, 0.5
LAWS = ("state", "local", "clock", "clocks")
JUDGED = ("local", "clock")
NEAR = 1e-4  # of a smoothing: closer eigenvalues take the derivative of the window instead of its difference
TRUTHS = 0.1
RULE = DecisionRule(
    statistic="R^2 of a law of one term over interventions that it was not fitted to, median over boundaries",
    direction="at least",
    threshold=0.8,
    reason="a law that explains four fifths of what interventions change predicts the flux within half its spread",
    fails_beyond=0.5,
    fails_reason="a law that leaves half of the variance does not tell the flux of one state from that of another",
    summary="median",
)
TEXTS = {
    "amplitudes": ("draw", "shell", "norm of the error on each shell after the intervention, k_d", "1"),
    "energies": ("draw", "shell", "error energy E_a after the intervention", "energy"),
    "densities": ("draw", "boundary", "energy per unit of log eigenvalue after the intervention", "energy"),
    "fluxes": ("draw", "boundary", "energy flux upward after the intervention, F", "energy/time"),
}
PARTS = ("part", "part_with", "part_moving")


@dataclass(frozen=True)
class Interventions:
    """What each law explains in R runs.

    Attributes:
        explained: by law, (R,) R^2 of each run, median over its boundaries. ``permuted``: with the states of other
            draws; about zero or below.
        intervals: by law, (low, high), 95 % over runs. ``verdicts``: by law, what the rule says of it.
        boundaries: number of boundaries of each run.
    """

    explained: dict[str, np.ndarray]
    permuted: dict[str, np.ndarray]
    intervals: dict[str, tuple[float, float]]
    verdicts: dict[str, str]
    boundaries: tuple[int, ...]


def measure(
    history: Flow | Snapshot | nn.Module,
    inputs: Tensor | None = None,
    targets: Tensor | None = None,
    *,
    shells: LogShells = SHELLS,
    draws: int = DRAWS,
    spread: float = SPREAD,
    seed: int = 0,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Measure the flux under ``draws`` random interventions on the shells' amplitudes of one network.

    Args:
        history: a ``grsd.gradient_flow`` (its last snapshot is read), or a snapshot or a module with its batch.
        inputs, targets: the batch (N, ...) and (N, C); only without a flow.
        shells: of one width.
        draws, spread, seed: amplitudes are multiplied by e^{spread xi}, xi standard normal, from this seed.
        parameters: values to write into the attributes (seed, depth, ...).

    Returns: the energy budget as it is, and over ``draw``: ``amplitudes(draw, shell)``, ``energies(draw, shell)``,
    ``densities(draw, boundary)``, ``fluxes(draw, boundary)``; ``time`` if it is known.
    Cost: one kernel with its rate per shell; a draw costs next to nothing. Source: this project's.
    Errors: as ``grsd.tangent_kernel_and_rate``.
    """
    call = "interventions.measure"
    draws, spread, seed = _drawn(call, draws, spread, seed)
    return intervened(responses(history, inputs, targets, shells=shells, parameters=parameters), draws, spread, seed)


def responses(
    history: Flow | Snapshot | nn.Module,
    inputs: Tensor | None = None,
    targets: Tensor | None = None,
    *,
    shells: LogShells = SHELLS,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Return the energy budget of one network and what it becomes when amplitudes change.

    Args and errors: as ``measure``. Returns: besides the budget, ``response(boundary, part, part_with, part_moving)``,
    C_{c,abd}, where d is the part of e that moves the kernel; ``energy_of(shell, part)`` and ``density_of(boundary,
    part)``, the energy that each part brings at amplitude 1; ``amplitude(part)``, |e_a|.
    """
    call = "interventions.measure"
    instance(call, "shells", shells, LogShells, "LogShells, of one width")
    described(call, parameters)
    model, inputs, targets, time = _last(call, history, inputs, targets)
    kernel, rate = tangent_kernel_and_rate(model, inputs, targets)
    modes = spectrum(kernel, rate)
    outputs = _outputs(model, inputs, kernel)
    error = outputs - targets.to(outputs)
    data = energy_budget(modes, error, shells, parameters=parameters)
    index = data.shell_index.values
    g = modes.eigenvectors.T @ error.reshape(-1)
    member = _members(modes, index, shells)
    at = torch.tensor(data.boundary.values.tolist(), dtype=g.dtype, device=g.device)
    response = np.zeros((len(at), *[len(index)] * 3))
    amplitude = (member * g.square()).sum(1).sqrt()
    for place in (amplitude > 0).nonzero().ravel().tolist():
        moving = (modes.eigenvectors @ (member[place] * g) / amplitude[place]).reshape(outputs.shape)
        _, rate = tangent_kernel_and_rate(model, inputs, outputs - moving)
        turned = (modes.eigenvectors.T @ rate @ modes.eigenvectors) * (amplitude[place] * g[:, None] * g)
        for boundary, difference in enumerate(shells.divided_differences(modes.eigenvalues, at, modes.floor, NEAR)):
            response[boundary, :, :, place] = (member @ (-difference / 2 * turned) @ member.T).cpu().numpy()
    window, bell = shells.cumulative(modes.eigenvalues, at, modes.floor)
    ends = torch.ones_like(g)[None]
    shares = torch.cat([0 * ends, window, ends]).diff(dim=0)
    brought = member * g.square() / 2
    dims = ("boundary", *PARTS)
    data["response"] = dims, response, {"long_name": "flux is the sum of C x_a x_b x_d", "units": "energy/time"}
    data["energy_of"] = ("shell", "part"), (shares @ brought.T).cpu().numpy(), {"units": "energy"}
    data["density_of"] = ("boundary", "part"), (bell @ brought.T).cpu().numpy(), {"units": "energy"}
    data["amplitude"] = "part", amplitude.cpu().numpy(), {"long_name": "norm of the error's part, |e_a|", "units": "1"}
    if time is not None:
        data["time"] = (), time, {"long_name": "time of gradient flow", "units": "time"}
    return data


def intervened(found: xr.Dataset, draws: int = DRAWS, spread: float = SPREAD, seed: int = 0) -> xr.Dataset:
    """Return ``measure`` of the ``responses`` ``found``; a draw costs next to nothing."""
    call = "interventions.intervened"
    needed = {"response": ("boundary", *PARTS), "amplitude": ("part",), "energy_of": None, "density_of": None}
    dataset(call, "found", found, needed, "it with interventions.responses")
    draws, spread, seed = _drawn(call, draws, spread, seed)
    factors = np.exp(spread * np.random.default_rng(seed).standard_normal((draws, found.sizes["part"])))
    data = found.drop_vars(["response", "energy_of", "density_of", "amplitude"])
    arrays = {
        "amplitudes": factors * found.amplitude.values,
        "energies": np.square(factors) @ found.energy_of.values.T,
        "densities": np.square(factors) @ found.density_of.values.T,
        "fluxes": flux_at(found, factors),
    }
    for key, array in arrays.items():
        *dims, text, units = TEXTS[key]
        data[key] = tuple(dims), array, {"long_name": text, "units": units}
    return data.assign_attrs(intervention_spread=spread, intervention_seed=seed)


def flux_at(found: xr.Dataset, factors: np.ndarray) -> np.ndarray:
    """Return the fluxes (draws, boundaries) of ``responses`` with amplitudes multiplied by ``factors`` (draws, n)."""
    moved = found.response.transpose("boundary", *PARTS).values @ factors.T
    return np.einsum("cabn,na,nb->nc", moved, factors, factors, optimize=True)


def judge(ensemble: Sequence[xr.Dataset], *, window: tuple[float, float] | None = None, law: str = "clock") -> Verdict:
    """Judge whether a law of one term predicts the flux under interventions: the median R^2 of networks.

    Args:
        ensemble: results of ``measure``, one per network.
        window: (low, high) in s of the boundaries, required because the verdict depends on it; infinite ends take all.
            Of these, only boundaries that the run does not mask count.
        law: "clock", eps_c times one clock, or "local", U_c phi_c |e|.

    Each law is fitted to the first half of a run's draws. On the other half its R^2 at a boundary is 1 minus the mean
    square error over that of the constant which fits the first half best; the run's number is the median over
    boundaries. By our ``RULE`` it holds (closed) if the lower 95 % limit of the median over runs is at least .8, fails
    (not closed) if the upper limit is below .5, and is inconclusive otherwise, or with fewer than 8 runs.

    Returns: a verdict whose ``details`` are ``Interventions``, with all four laws. ``power``: the probability that a
    network ensemble of this size and spread decides, if R^2 lies .1 beyond a threshold.
    Errors: ``ValueError`` for no runs, no boundary in the window, or fewer draws than four per shell.
    """
    call = "interventions.judge"
    choice(call, "law", law, JUDGED)
    window = required_window(call, window)
    runs = listed(call, "ensemble", ensemble, "datasets from interventions.measure")
    for run in runs:
        needed = {key: text[:2] for key, text in TEXTS.items()} | {"boundary_mask": ("boundary",)}
        dataset(call, "ensemble", run, needed, "it with interventions.measure")
    scores = [explained(run, window, call) for run in runs]
    found = {one: np.array([float(np.median(score[one])) for score in scores]) for one in LAWS}
    mixed = {one: np.array([float(np.median(score[one])) for score in (permuted(run, window) for run in runs)])
             for one in LAWS}  # fmt: skip
    around = {one: RULE.interval(values) for one, values in found.items()}
    enough = len(runs) >= RULE.seeds
    verdicts = {one: RULE.verdict(*span[1:]) if enough else "inconclusive" for one, span in around.items()}
    details = Interventions(
        found, mixed, {one: span[1:] for one, span in around.items()}, verdicts, tuple(len(s["state"]) for s in scores)
    )
    estimate, low, high = around[law]
    places = {"holds": "all of it at least .8", "fails": "all of it below .5", "inconclusive": "decides neither"}
    reason = f"the median R^2 of the law {law} is {estimate:.3g}, its interval [{low:.3g}, {high:.3g}]"
    few = f"{len(runs)} networks are fewer than the {RULE.seeds} that a verdict needs"
    reason += f" {places[verdicts[law]]}" if enough else f"; {few}"
    needed = RULE.needs(estimate, low, high, len(runs), of="networks")
    reason += f"; {needed}" if needed else ""
    power, against = _power(max(high - estimate, estimate - low), enough)
    return Verdict(name, verdicts[law], estimate, (low, high), power, against, reason, len(runs), details)


def explained(run: xr.Dataset, window: tuple[float, float], call: str = "interventions.explained") -> dict:
    """Return R^2 by law, (boundaries,) each, of the draws of one ``measure`` that no law was fitted to."""
    return _explained(call, run, window, None)


def permuted(run: xr.Dataset, window: tuple[float, float], seed: int = 0) -> dict:
    """Return ``explained`` with states and fluxes of different draws: what a law reads if there is no relation."""
    return _explained("interventions.permuted", run, window, np.random.default_rng(seed))


def _explained(call: str, run: xr.Dataset, window: tuple[float, float], rng: np.random.Generator | None) -> dict:
    low, high = window
    place = run.boundary.values
    kept = np.flatnonzero((run.boundary_mask.values == 0) & (place >= low - 1e-9) & (place <= high + 1e-9))
    amplitudes, energies, densities, flux = (run[key].transpose(*text[:2]).values for key, text in TEXTS.items())
    half = len(flux) // 2
    shells = amplitudes.shape[1]
    if half < 2 * shells:
        raise ValueError(f"{call}: expected at least {4 * shells} draws for {shells} shells, got {len(flux)}")
    moves = np.ptp(flux, axis=0) > 0
    kept = kept[moves[kept]]
    if not kept.size:
        raise ValueError(f"{call}: no unmasked boundary of the window has a flux that moves; widen the window")
    if rng is not None:
        order = rng.permutation(len(flux))
        amplitudes, energies, densities = amplitudes[order], energies[order], densities[order]
    flux = flux[:, kept] / flux[:half, kept].std(0)
    density = densities[:, kept] / densities[:half, kept].std(0)
    scale = (run.fluxes.values[:half, kept].std(0) / densities[:half, kept].std(0))[None]
    phi = np.sqrt(energies[:, kept] * energies[:, kept + 1])
    size = np.sqrt(2 * energies.sum(1, keepdims=True))
    clock = amplitudes / np.maximum(amplitudes.std(0), np.finfo(float).tiny)
    one = (density / scale)[:, :, None] * clock[:, None, :]
    alpha = np.linalg.lstsq(one[:half].reshape(-1, clock.shape[1]), flux[:half].ravel(), rcond=None)[0]
    own = density[:, :, None] * clock[:, None, :]
    each = [np.linalg.lstsq(own[:half, c], flux[:half, c], rcond=None)[0] for c in range(len(kept))]
    predicted = {
        "state": _scaled(phi, flux, half),
        "local": _scaled(phi * size, flux, half),
        "clock": one @ alpha,
        "clocks": np.einsum("ncd,cd->nc", own, np.array(each)),
    }
    constant = np.square(flux[half:] - flux[:half].mean(0)).sum(0)
    return {law: 1 - np.square(flux[half:] - value[half:]).sum(0) / constant for law, value in predicted.items()}


def _scaled(state: np.ndarray, flux: np.ndarray, half: int) -> np.ndarray:
    """Return U_c times the state, U_c fitted to the first half of the draws."""
    return state * ((state * flux)[:half].sum(0) / np.square(state[:half]).sum(0))


def _power(half: float, enough: bool) -> tuple[float | None, str]:
    if not enough:
        return 0.0, f"any truth: fewer than {RULE.seeds} networks decide nothing"
    if not (math.isfinite(half) and half > 0):
        return None, "nothing: the runs do not differ, or the interval is not finite"
    quantile = float(norm.ppf((1 + RULE.confidence) / 2))
    truths = f"a truth of {RULE.threshold + TRUTHS:g} for closed, of {RULE.fails_beyond - TRUTHS:g} for not closed"
    return float(norm.cdf(quantile * (TRUTHS - half) / half)), truths


def _drawn(call: str, draws: int, spread: float, seed: int) -> tuple[int, float, int]:
    fits_memory(call, "draws", whole_number(call, "draws", draws, 8))
    return draws, positive(call, "spread", spread, 1e-6, 10.0), seed_of(call, "seed", seed)


def _last(
    call: str, history: object, inputs: object, targets: object
) -> tuple[nn.Module, Tensor, Tensor, float | None]:
    of_squared_error(call, history)
    if isinstance(history, Flow):
        if inputs is not None or targets is not None:
            raise TypeError(f"{call}(history, inputs, targets): a Flow has its own batch; leave inputs and targets out")
        if not history.snapshots:
            raise ValueError(f"{call}(history): expected a flow with a snapshot, got none")
        last = history.snapshots[-1]
        return last.model, history.inputs, history.targets, last.time
    time = history.time if isinstance(history, Snapshot) else None
    model = history.model if isinstance(history, Snapshot) else history
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{call}(history): expected a grsd.Flow, or a grsd.Snapshot or a torch module with its batch, got "
            f"{said(history)}"
        )
    return model, inputs, targets, time


def _outputs(model: nn.Module, inputs: Tensor, like: Tensor) -> Tensor:
    """Return f(X) in the dtype and on the device of ``like``, without changing the module."""
    private = private_copy(model, like.dtype, like.device)
    batch = inputs.to(device=like.device, dtype=like.dtype if inputs.is_floating_point() else inputs.dtype)
    with torch.no_grad():
        return private(batch)


def _members(modes: Spectrum, index: np.ndarray, shells: LogShells) -> Tensor:
    """Return (shells, D) ones where a mode lies in a shell; modes at and below the floor lie in the lowest."""
    values = modes.eigenvalues
    s = values.clamp(min=modes.floor).log() / shells.width
    place = (s.floor().long() - int(index[0])).clamp(0, len(index) - 1)
    place[values <= modes.floor] = 0
    return torch.nn.functional.one_hot(place, len(index)).T.to(values)

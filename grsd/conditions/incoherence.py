r"""Condition 2: weak functional incoherence at initialization.

At a boundary s_c of the log spectrum the off-diagonal flux is a sum over pairs of modes,

.. math:: F_{off} = -\sum_{u<v} x_{uv}, \qquad
          x_{uv} = \frac{W_c(\lambda_u) - W_c(\lambda_v)}{\lambda_u - \lambda_v}\, M'_{uv}\, g_u g_v .

If the signs of the g_u were independent of everything else, at fixed M', this flux would have mean zero and variance
V_c = sum of x^2, like a random walk. The coherence measures how far z_c = F_off / sqrt(V_c) exceeds this, on a scale
on which 1 means that all pairs have the same sign. The condition is the paper's (arXiv 2512.18209); this form of it,
and the rule, are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from grsd.conditions.contract import Estimate, Verdict, conclude, first_snapshot, of_squared_error
from grsd.decomposition import Spectrum, spectrum
from grsd.evidence import DecisionRule
from grsd.flow import Flow, Snapshot
from grsd.jacobian import private_copy
from grsd.kernel import tangent_kernel_and_rate
from grsd.shells import LogShells, energy_budget
from grsd.support.arguments import attribute, dataset, described, listed
from grsd.support.host import arrays, read
from grsd.support.values import SEEDS, instance, said, seed_of, whole_number

name = "incoherence"
paper = "weak functional incoherence at initialization"
reads = "start"

NEAR = 1e-6
LEAST_PAIRS = 10
FLIPS = 999
MOST_FLIPS = 1_000_000
UNITS = {"long_name": "log eigenvalue at the boundary", "units": "log(1/time)"}

RULE = DecisionRule(
    statistic="excess coherence: largest log+(z^2 / typical) / log n_pair over boundaries with at least 10 effective "
    "pairs, typical the median over sign flips of the largest z^2",
    direction="at most",
    threshold=0.25,
    reason="independent signs give .05 to .1 in the mean, all pairs of equal size pulling one way about 1; at .25 and "
    "100 pairs the flux is 1.8 times what independent signs typically give, and no law should rest on it",
    seeds=4,
)


@dataclass(frozen=True)
class Incoherence:
    """Condition 2 over seeds; the verdict's estimate is the excess coherence, mean over seeds.

    Attributes:
        by_boundary: a stricter verdict: "holds" if the coherence is at most the threshold at every boundary, "fails" if
            it is above at one; "inconclusive" also if the median over seeds of a boundary's effective pairs is below
            ten. With many boundaries and few seeds it is often inconclusive even for independent signs.
        boundaries: log eigenvalue of each judged boundary; no seed masks it.
        coherence, low, high: mean over seeds at each boundary, and its 95 % interval.
        pairs: effective number of pairs, median over seeds.
        rejected: share of seeds in which the sign flips reject max |z| at 5 %.
        decay, decay_interval: slope of log R^_ab on |s_a - s_b|, mean over seeds and its 95 % interval.
    """

    by_boundary: str
    boundaries: np.ndarray
    coherence: np.ndarray
    low: np.ndarray
    high: np.ndarray
    pairs: np.ndarray
    rejected: float
    decay: float
    decay_interval: tuple[float, float]


def measure(
    history: Flow | Snapshot | nn.Module,
    inputs: Tensor | None = None,
    targets: Tensor | None = None,
    *,
    shells: LogShells | None = None,
    flips: int = FLIPS,
    recomputed: int = 0,
    seed: int = 0,
    device: str | torch.device | None = None,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Measure the coherence of one network's flux at every boundary, by flipping signs of the error's components.

    Args:
        history: a flow, of which the first snapshot is read; or, with its batch, a snapshot or any module.
        inputs, targets, device: as in ``grsd.tangent_kernel_and_rate``.
        shells: default width log 2.
        flips: number of sign flips at fixed M'. ``seed``: of the flips.
        recomputed: number of flips for which M' is computed again from the flipped error, one kernel rate each. M' is
            linear in the error; recomputed flips keep this relation, flips at fixed M' do not. So a large ``z`` with a
            small ``z_recomputed`` means that the coherence arises because M' follows the error.
        parameters: values to write into the attributes.

    Returns: as ``measure_modes``; with ``recomputed`` also ``z_recomputed(boundary)``, F_off divided by the root mean
    square of its recomputed flips (their mean is zero by parity), and ``flux_recomputed(flip, boundary)``.
    Errors: as ``tangent_kernel_and_rate``; ``ValueError`` for a negative number of flips.
    """
    call = "incoherence.measure"
    check_flips(call, "recomputed", recomputed, 0)
    check_flips(call, "flips", flips, 19)
    seed = seed_of(call, "seed", seed)
    described(call, parameters)
    shells = LogShells() if shells is None else shells
    instance(call, "shells", shells, LogShells, "LogShells")
    of_squared_error(call, history)
    model, inputs, targets = first_snapshot(call, history, inputs, targets)
    kernel, rate = tangent_kernel_and_rate(model, inputs, targets, device=device)
    modes = spectrum(kernel, rate)
    private = private_copy(model, kernel.dtype, kernel.device)
    batch = inputs.to(device=kernel.device, dtype=kernel.dtype if inputs.is_floating_point() else inputs.dtype)
    with torch.no_grad():
        outputs = private(batch)
    error = outputs - targets.to(outputs)
    data = measure_modes(modes, error, shells, flips=flips, seed=seed, parameters=parameters)
    if not recomputed:
        return data
    g = modes.eigenvectors.T @ error.reshape(-1)
    fluxes = []
    for signs in _signs(recomputed, len(g), seed + 1).to(g):
        flipped = (modes.eigenvectors @ (signs * g)).reshape(outputs.shape)
        _, rate = tangent_kernel_and_rate(private.requires_grad_(True), batch, outputs - flipped)
        turned = modes.eigenvectors.T @ rate @ modes.eigenvectors
        summands = _summands(modes, turned, signs * g, shells, data.boundary.values)
        fluxes.append([-total / 2 for total in read(x.sum() for x in summands)])
    flux = np.array(fluxes)
    text = {"long_name": "F_off / root mean square over flips with M' recomputed", "units": "1"}
    data["z_recomputed"] = "boundary", data.flux_off.values / np.sqrt(np.square(flux).mean(0)), text
    data["flux_recomputed"] = ("flip", "boundary"), flux, {"long_name": "F_off, M' recomputed", "units": "energy/time"}
    return data


def measure_modes(
    modes: Spectrum,
    error: Float[Tensor, ...],
    shells: LogShells,
    *,
    flips: int = FLIPS,
    seed: int = 0,
    parameters: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Measure the coherence from a spectrum with its rate, and the error (N, C) or (D,).

    Returns, over ``boundary``: ``flux_off`` and ``null_sd`` = sqrt(V_c) (energy/time); ``z``; ``pairs`` = (sum x^2)^2 /
    sum x^4; ``coherence`` = log+ z^2 / log n_pair (NaN for fewer than two pairs, above one if summands differ very much
    in size); ``p``, the share of flips, including the identity, with |z| at least as large; ``boundary_mask`` as in
    ``energy_budget``. Also ``operator_normalized(shell, shell_from)`` R^_ab. Scalars, over unmasked boundaries with at
    least ten effective pairs: ``p_max`` of max |z|; ``excess``, the largest log+(z^2 / typical) / log n_pair, where
    ``typical`` is the median over flips of the largest z^2; ``decay``, the slope of log R^_ab on |s_a - s_b|;
    ``decay_sum`` = sum_k (1 + k) max_a R^_{a,a+k}.

    Cost: (1 + flips / 50) D x D passes per boundary. Source: this project's form of the paper's condition.
    Errors: ``ValueError`` for a spectrum without rate, or fewer than 19 flips.
    """
    call = "incoherence.measure_modes"
    instance(call, "modes", modes, Spectrum, "what grsd.spectrum(kernel, rate) gave")
    instance(call, "shells", shells, LogShells, "LogShells")
    seed = seed_of(call, "seed", seed)
    if modes.rate is None:
        raise ValueError(f"{call}(modes): expected a spectrum with its rate; use grsd.spectrum(kernel, rate)")
    check_flips(call, "flips", flips, 19)
    data = energy_budget(modes, error, shells, parameters=parameters)
    data = data[["boundary_mask", "operator_normalized", "mask"]]
    g = modes.eigenvectors.T @ error.detach().reshape(-1)
    signs = _signs(flips, len(g), seed).to(g)
    moments, turned = [g.new_zeros(0)], [g.new_zeros(0)]
    for x in _summands(modes, modes.rate, g, shells, data.boundary.values):
        square = x.square()
        moments.append(torch.stack([-x.sum(), square.sum(), square.square().sum()]) / 2)
        turned.append(-(signs * (signs @ x)).sum(1) / 2)
    host = arrays({"moments": torch.cat(moments), "turned": torch.cat(turned)})
    flux, variance, fourth = host["moments"].astype(float).reshape(-1, 3).T
    pairs = np.divide(variance**2, fourth, out=np.zeros_like(fourth), where=fourth > 0)
    found, sd = {"flux_off": flux, "pairs": pairs}, np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        z, null = found["flux_off"] / sd, host["turned"].reshape(len(sd), flips) / sd[:, None]
        found |= {"null_sd": sd, "z": z, "coherence": _coherence(np.square(z), found["pairs"])}
    found["p"] = (1 + (np.abs(null) >= np.abs(z)[:, None]).sum(1)) / (1 + flips)
    for name, values in found.items():
        unit = "energy/time" if name in {"flux_off", "null_sd"} else "1"
        data[name] = "boundary", values, {"long_name": TEXTS[name], "units": unit}
    kept = (data.boundary_mask.values == 0) & (found["pairs"] >= LEAST_PAIRS)
    p, excess = math.nan, math.nan
    if kept.any():
        top = np.square(null[kept]).max(0)
        p = (1 + (top >= np.square(z[kept]).max()).sum()) / (1 + flips)
        excess = float(_coherence(np.square(z[kept]) / np.median(top), found["pairs"][kept]).max())
    data["p_max"] = (), p, {"long_name": "p of the largest |z| over kept boundaries", "units": "1"}
    data["excess"] = (), excess, {"long_name": "coherence beyond the typical largest z^2 of the flips", "units": "1"}
    data["decay"], data["decay_sum"] = _decay(data)
    return data.assign_attrs(flips=flips, flip_seed=seed)


TEXTS = {
    "flux_off": "off-diagonal flux F_off, up",
    "null_sd": "standard deviation of the flux over sign flips",
    "z": "F_off / null_sd",
    "pairs": "effective number of pairs (sum x^2)^2 / sum x^4",
    "coherence": "log+ z^2 / log n_pair",
    "p": "share of sign flips with at least this |z|",
}


def judge(ensemble: Sequence[xr.Dataset], *, rule: DecisionRule = RULE) -> Verdict:
    """Judge condition 2 over seeds: it holds if the upper 95 % limit of the mean excess coherence is at most .25.

    The excess is that of the worst boundary, compared with the worst boundary for independent signs. ``by_boundary``
    judges each boundary that no seed masks. The verdict is also inconclusive if a seed has no boundary with ten
    effective pairs. Returns: a verdict whose ``details`` are an ``Incoherence``.

    Errors: ``ValueError`` for fewer datasets than the rule needs, different shells, or no boundary that all seeds keep.
    """
    call = "incoherence.judge"
    instance(call, "rule", rule, DecisionRule, "a DecisionRule")
    needed = dict.fromkeys(("boundary_mask", "coherence", "pairs"), ("boundary",)) | {"excess": (), "decay": ()}
    ensemble = listed(call, "ensemble", ensemble, "datasets from incoherence.measure", 0)
    for item in ensemble:
        dataset(call, "ensemble", item, needed | {"p_max": ()}, "it with incoherence.measure")
        attribute(call, "ensemble", item, "shell_width")
        if "boundary" not in item.indexes or not item.indexes["boundary"].is_unique:
            raise ValueError(f"{call}(ensemble): expected different log eigenvalues in the coordinate 'boundary'")
    if len(ensemble) < rule.seeds or len({item.attrs["shell_width"] for item in ensemble}) != 1:
        raise ValueError(
            f"incoherence.judge(ensemble): expected at least {rule.seeds} networks on the same shells, got "
            f"{len(ensemble)}"
        )
    kept = [item.isel(boundary=item.boundary_mask.values == 0) for item in ensemble]
    common = xr.concat([item[["coherence", "pairs"]] for item in kept], "seed", join="inner")
    if not common.sizes["boundary"]:
        raise ValueError("incoherence.judge(ensemble): no boundary is kept by every seed; use wider shells or a span")
    pairs = common.pairs.median("seed").values
    intervals = [rule.interval(column) for column in common.coherence.values.T]
    verdicts = [
        rule.verdict(low, high) if enough >= LEAST_PAIRS else "inconclusive"
        for (_, low, high), enough in zip(intervals, pairs, strict=True)
    ]
    by_boundary = next(word for word in ("fails", "inconclusive", "holds") if word in verdicts)
    excess, *around = rule.interval([float(item.excess) for item in ensemble])
    decay, *interval = rule.interval([float(item.decay) for item in ensemble])
    rejected = float(np.mean([float(item.p_max) <= 0.05 for item in ensemble]))
    mean, low, high = np.array(intervals).T
    details = Incoherence(
        by_boundary,
        common.boundary.values,
        mean,
        low,
        high,
        pairs,
        rejected,
        decay,
        tuple(interval),
    )
    decided = Estimate("the excess coherence", excess, tuple(around), rule.threshold)
    verdict, also = rule.verdict(*around), f"boundary by boundary: {by_boundary}"
    return conclude(
        name, verdict, decided, len(ensemble), details, least=rule.seeds, confidence=rule.confidence, also=also
    )


def _coherence(square: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(pairs > 2, np.log(np.maximum(square, 1)) / np.log(pairs), np.nan)


def check_flips(call: str, name: str, flips: int, least: int) -> None:
    """Refuse fewer sign flips than ``least``, or more than ``MOST_FLIPS``."""
    if whole_number(call, name, flips, least) > MOST_FLIPS:
        raise ValueError(f"{call}({name}=...): expected at most {MOST_FLIPS}, got {said(flips)}")


def _signs(flips: int, modes: int, seed: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed % SEEDS)
    drawn = torch.randint(0, 2, (flips, modes), generator=generator, dtype=torch.float64, device="cpu")
    return 2.0 * drawn - 1


def _summands(modes: Spectrum, rate: Tensor, g: Tensor, shells: LogShells, boundaries: np.ndarray):
    """Yield x_uv (D, D), symmetric with a zero diagonal, for each boundary."""
    values = modes.eigenvalues
    at = torch.tensor(boundaries.tolist(), dtype=values.dtype, device=values.device)
    moved = rate * g[:, None] * g
    for difference in shells.divided_differences(values, at, modes.floor, NEAR):
        x = difference * moved
        yield x.fill_diagonal_(0.0)


def _decay(data: xr.Dataset) -> tuple[float, float]:
    kept = np.flatnonzero(data.mask.values == 0)
    strength = data.operator_normalized.values[np.ix_(kept, kept)]
    s, index = data.shell.values[kept], data.shell_index.values[kept]
    a, b = np.nonzero((index[:, None] > index) & np.isfinite(strength) & (strength > 0))
    if len(a) < 2 or len(set(index[a] - index[b])) < 2:
        return math.nan, math.nan
    slope = float(np.polyfit(s[a] - s[b], np.log(strength[a, b]), 1)[0])
    steps = index[a] - index[b]
    return slope, float(sum((1 + k) * strength[a, b][steps == k].max() for k in set(steps)))

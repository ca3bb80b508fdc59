"""Notebook 04: condition 2, weak functional incoherence at the start, with planted signs and in perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from grsd.conditions import incoherence
from grsd.decomposition import Spectrum
from grsd.evidence import Measurement
from grsd.runs import Spec
from grsd.shells import LogShells
from grsd.studies import one_network
from grsd.studies.gradient_propagation import DEPTHS, compared, drawn, labelled
from grsd.support.values import fits_memory, real, said, seed_of, whole_number

SHELLS = LogShells(1.0, 0.2)
SAMPLES = {"one-hot": 30, "parity": 200}


@dataclass(frozen=True)
class Protocol:
    """Perceptrons of one kind on one task at all ``depths``; ``recomputed``: flips for which the rate is made anew."""

    kind: str = "residual"
    task: str = "one-hot"
    samples: int = 30
    depths: tuple[int, ...] = DEPTHS
    width: int = 64
    shells: LogShells = SHELLS
    flips: int = incoherence.FLIPS
    recomputed: int = 0


@dataclass(frozen=True)
class Planted:
    """A spectrum whose signs are drawn: a share ``aligned`` of the pairs agrees."""

    modes: int = 400
    aligned: float = 0.0
    shells: LogShells = SHELLS
    flips: int = incoherence.FLIPS


def at_depth(protocol: Protocol, depth: int, seed: int, *, device: str | None = None) -> xr.Dataset:
    """``incoherence.measure`` of one perceptron; the same seed draws weights, samples and flips."""
    spec = Spec(width=protocol.width, depth=depth, task=protocol.task, samples=protocol.samples)
    network, data = drawn(spec, protocol.kind, seed)
    settings = {"kind": protocol.kind, "depth": depth, "width": protocol.width, "seed": seed}
    return incoherence.measure(
        network,
        data.inputs,
        data.targets,
        shells=protocol.shells,
        flips=protocol.flips,
        recomputed=protocol.recomputed,
        seed=seed,
        device=device,
        parameters=settings | {"task": protocol.task, "data": data.name},
    )


def mean_excess(protocol: Protocol, seed: int) -> float:
    """The excess coherence, mean over depths."""
    return float(np.mean([at_depth(protocol, depth, seed).excess for depth in protocol.depths]))


def of_planted(protocol: Planted, seed: int) -> xr.Dataset:
    """``incoherence.measure_modes`` of ``planted_signs``."""
    modes = planted_signs(protocol.modes, aligned=protocol.aligned, seed=seed)
    return incoherence.measure_modes(*modes, protocol.shells, flips=protocol.flips, seed=seed)


def planted_excess(protocol: Planted, seed: int) -> float:
    """The excess coherence of one planted spectrum."""
    return float(of_planted(protocol, seed).excess)


def table(runs: Sequence[xr.Dataset]) -> xr.Dataset:
    """``excess``, ``p_max`` and ``decay`` over (kind, task, depth, seed)."""
    rows = [labelled(run, ("excess", "p_max", "decay"), ("kind", "task", "depth", "seed")) for run in runs]
    return xr.combine_by_coords(rows, combine_attrs="drop_conflicts")


def judged_boundaries(found: xr.Dataset) -> xr.Dataset:
    """One measurement at the boundaries where something can be said: unmasked, with enough effective pairs."""
    return found.isel(boundary=(found.boundary_mask.values == 0) & (found.pairs.values >= incoherence.LEAST_PAIRS))


def by_distance(group: Sequence[xr.Dataset]) -> xr.Dataset:
    """log10 R^_ab over ``distance`` |s_a - s_b|, where every seed has it: ``mean`` and its ``standard_error``."""
    found: dict[int, list[float]] = {}
    for one in group:
        kept = np.flatnonzero(one.mask.values == 0)
        strength, index = one.operator_normalized.values[np.ix_(kept, kept)], one.shell_index.values[kept]
        for step in range(1, len(kept)):
            values = strength[(index[:, None] - index) == step]
            if np.isfinite(values).any():
                found.setdefault(step, []).append(float(np.nanmean(np.log10(values))))
    found = {step: values for step, values in found.items() if len(values) == len(group)}
    error = [np.std(values, ddof=1) / len(values) ** 0.5 for values in found.values()]
    width = group[0].attrs["shell_width"]
    data = {"mean": ("distance", [np.mean(values) for values in found.values()]), "standard_error": ("distance", error)}
    return xr.Dataset(data, {"distance": [step * width for step in found]})


def depth_table(seeds: Sequence[int] = range(16)) -> xr.Dataset:
    """``table`` of every architecture that is compared, on both tasks."""
    cells = [Protocol(kind, task, samples) for task, samples in SAMPLES.items() for kind in compared().values()]
    return table([at_depth(cell, depth, seed) for cell in cells for depth in cell.depths for seed in seeds])


def planted_signs(modes: int = 200, *, aligned: float = 0.0, seed: int = 0) -> tuple[Spectrum, torch.Tensor]:
    """A spectrum with its rate, and the error: M' of independent signs, or with a share of pairs made to agree.

    Eigenvalues are log-uniform on [1e-4, 1], g_u is normal and M'_uv = sqrt(lambda_u lambda_v) times a symmetric
    matrix of normal numbers, of which a share ``aligned`` (0 to 1) takes the sign of g_u g_v: all those pairs send
    energy up. Then z_c is N(0, 1) for 0, and the largest that it can be, sum |x| / sqrt(sum x^2), for 1.
    """
    fits_memory("planted_signs", "modes", 4 * whole_number("planted_signs", "modes", modes, 1) ** 2)
    seed = seed_of("planted_signs", "seed", seed)
    share = real(aligned)
    if not 0 <= share <= 1:
        raise ValueError(f"planted_signs(aligned=...): expected a share between 0 and 1, got {said(aligned)}")
    generator = torch.Generator("cpu").manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    values = torch.exp(-torch.rand(modes, **draw).sort(descending=True).values * 9.2)
    g = torch.randn(modes, **draw)
    free = torch.randn(modes, modes, **draw).triu()
    chosen = torch.rand(modes, modes, **draw) < share
    free = torch.where(chosen, free.abs() * torch.sign(g[:, None] * g), free).triu(1)
    rate = (free + free.T) * (values[:, None] * values).sqrt()
    floor = modes * torch.finfo(torch.float64).eps * float(values[-1])
    return Spectrum(values, torch.eye(modes, dtype=values.dtype, device=values.device), rate, floor), g


@dataclass(frozen=True)
class OneNetwork:
    """A network of ``studies.one_network`` on one task, at its start."""

    network: Spec


def excess_of_one_network(protocol: OneNetwork, seed: int) -> float:
    """The excess coherence of one seed."""
    return float(one_network.signs(protocol.network, [seed])[0].excess)


TABLES = {"04_initial_incoherence-depth": depth_table}

# By (task, architecture): the networks of ``one_network``, with one output and, on fewer of the same digits, with ten.
SAME = {"parity": {}, "one-hot": {"task": "one-hot", "samples": 100}}
SAME_CLAIMS = {
    (task, name): f"initial-incoherence-same-{'one' if task == 'parity' else 'ten'}-{name}"
    for task in SAME
    for name in one_network.ARCHITECTURES
}
ONE_OUTPUT = {"task": "parity", "samples": SAMPLES["parity"]}
MEASUREMENTS = {
    claim: Measurement(OneNetwork(one_network.network(name, **SAME[task])), excess_of_one_network)
    for (task, name), claim in SAME_CLAIMS.items()
} | {
    "initial-incoherence": Measurement(Protocol(), mean_excess),
    "initial-incoherence-plain": Measurement(Protocol("critical"), mean_excess),
    "initial-incoherence-one-output": Measurement(Protocol("residual", **ONE_OUTPUT), mean_excess),
    "initial-incoherence-one-output-plain": Measurement(Protocol("critical", **ONE_OUTPUT), mean_excess),
    "initial-incoherence-planted": Measurement(Planted(), planted_excess),
    "initial-incoherence-aligned": Measurement(Protocol("aligned linear", depths=(8,)), mean_excess),
}

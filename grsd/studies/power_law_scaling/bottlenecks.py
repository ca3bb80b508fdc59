"""A bottleneck of samples or of width: what a network's kernel at its start says beforehand, and what training does.

Residual perceptrons learn ``power_law`` data. Theory, from inputs, targets and weights at the start alone: the
equations of ``regression`` with the eigenvalues and the power found on a pool of samples that are never learnt, of
the network's tangent kernel (samples) or of the hidden units of a wide network (width). Ours; for its source see there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from grsd.datasets import Data, power_law
from grsd.evidence import Measurement
from grsd.evidence.tables import read_table, refuse_to_replace, save_table
from grsd.flow import Descent
from grsd.kernel import tangent_kernel
from grsd.networks import Perceptron
from grsd.runs import ensemble, run
from grsd.solvable.regression import after_features, after_samples
from grsd.studies.power_law_scaling.axes import slope
from grsd.support.provenance import provenance

SIZES = (8, 16, 32, 64, 128, 256)
WIDTHS = (4, 8, 16, 32, 64, 128)
WIDE = 2048
FILE, FOLDER = "09_power_law_scaling-bottlenecks", "predictions"


@dataclass(frozen=True)
class Bottleneck:
    """One seed, of weights and samples, of residual perceptrons on power-law data.

    ``samples`` are learnt at most and ``pool`` never; ``columns``: units in all behind a readout; training ends at
    ``end`` / lambda_max(0).
    """

    sizes: tuple[int, ...] = SIZES
    widths: tuple[int, ...] = WIDTHS
    width: int = 64
    depth: int = 4
    features: int = 512
    a: float = 1.5
    r: float = 0.5
    pool: int = 2500
    samples: int = 512
    columns: int = 256
    end: float = 3000.0
    tolerance: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """Losses ``name`` of trained or lazy networks beside ``other``: a written theory, or another measured loss."""

    name: str
    other: str
    networks: Bottleneck = Bottleneck()
    predictions: str = FILE


def theory(spec: Bottleneck) -> xr.Dataset:
    """``by_samples(size)`` and ``by_width(width)``: the loss after all time, before anything is trained.

    By samples: lazy learning of what the network at its start lacks on the pool. The pool stands for the population;
    its N learnt samples would count as known, so the loss is over 1 - N / pool. By width: only the readout learns.
    """
    data, pool = _drawn(spec), slice(spec.samples, None)
    network, target = _network(spec, spec.width), data.targets[pool, 0].numpy()
    kernel = tangent_kernel(network, data.inputs[pool]).numpy()
    values, power = _modes(kernel, _lacking(network, data)[pool])
    by_samples = [after_samples(values, 1.0, power, size) / (1 - size / target.size) for size in spec.sizes]
    units = _hidden(_network(spec, WIDE), data.inputs[pool])
    units = units - units.mean(0)
    values, power = _modes(units @ units.T / (WIDE * target.size), target - target.mean())
    by_width = [after_features(values, 1.0, power, width) for width in spec.widths]
    return _labelled(spec, by_samples=by_samples, by_width=by_width)


def measured(spec: Bottleneck) -> xr.Dataset:
    """Losses on the pool: of trained networks at ``end`` / lambda_max(0), and of what the theory is about.

    ``by_samples(size)`` trained on that many samples, ``lazy(size)`` the same with the kernel of the start, and
    ``by_width(width)`` trained on ``samples`` samples, ``readout(width)`` least squares on the hidden units of the
    start over the whole pool, a mean over ``columns`` // width networks. ``samples_left``, ``width_left``: the loss on
    the samples learnt.
    """
    data, pool = _drawn(spec), slice(spec.samples, None)
    network, target = _network(spec, spec.width), data.targets[pool].numpy()
    lacking = _lacking(network, data)
    shown = torch.cat([data.inputs[: max(spec.sizes)], data.inputs[pool]])
    kernel = tangent_kernel(network, shown).numpy() * len(shown)
    lazy = [_lazy(kernel, lacking[:size], lacking[pool], spec.end) for size in spec.sizes]
    by_samples = [_trained(network, data, size, spec) for size in spec.sizes]
    by_width = [_trained(_network(spec, width), data, spec.samples, spec) for width in spec.widths]
    readout = []
    for width in spec.widths:
        draws = range(spec.seed * spec.columns, spec.seed * spec.columns + spec.columns // width)
        networks = (_network(replace(spec, seed=draw), width) for draw in draws)
        readout.append(np.mean([_least_squares(_hidden(one, data.inputs[pool]), target) for one in networks]))
    found = {
        name: [losses[place] for losses in trained]
        for trained, names in (
            (by_samples, ("by_samples", "samples_left")),
            (by_width, ("by_width", "width_left")),
        )
        for place, name in enumerate(names)
    }
    return _labelled(spec, **found, lazy=lazy, readout=readout)


def _labelled(spec: Bottleneck, **losses: list[float]) -> xr.Dataset:
    found = {name: (_axis(name), values, {"units": "loss"}) for name, values in losses.items()}
    described = {name: str(list(v)) if isinstance(v, tuple) else v for name, v in asdict(spec).items()}
    return xr.Dataset(found, {"size": list(spec.sizes), "width": list(spec.widths)}, provenance(described))


def _axis(name: str) -> str:
    return "size" if name in {"by_samples", "samples_left", "lazy"} else "width"


def _drawn(spec: Bottleneck) -> Data:
    return power_law(spec.samples + spec.pool, features=spec.features, a=spec.a, r=spec.r, seed=spec.seed)


def _network(spec: Bottleneck, width: int) -> Perceptron:
    return Perceptron(spec.features, 1, width=width, depth=spec.depth, residual=True, seed=spec.seed).double()


def _lacking(network: Perceptron, data: Data) -> np.ndarray:
    with torch.no_grad():
        return (network(data.inputs) - data.targets)[:, 0].numpy()


def _modes(kernel: np.ndarray, function: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues above rounding, and the power of ``function`` in each; what lies in the rest goes to the smallest."""
    values, vectors = np.linalg.eigh(kernel)
    power = (vectors.T @ function) ** 2 / function.size
    kept = values > values[-1] * 1e-12
    power[kept.argmax()] += power[~kept].sum()
    return values[kept], power[kept]


def _hidden(network: Perceptron, inputs: Tensor) -> np.ndarray:
    """The last hidden layer, shape (N, width)."""
    kept: list[Tensor] = []
    handle = network.readout.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.no_grad():
        network(inputs)
    handle.remove()
    return kept[0].numpy()


def _least_squares(units: np.ndarray, target: np.ndarray) -> float:
    features = np.column_stack([units, np.ones(len(units))])
    left = target - features @ np.linalg.lstsq(features, target, rcond=None)[0]
    return float(np.square(left).mean() / 2)


def _lazy(kernel: np.ndarray, error: np.ndarray, elsewhere: np.ndarray, end: float) -> float:
    """Kernel gradient flow on the first samples of ``kernel`` up to ``end``; the loss on the last ones."""
    size, rest = error.size, elsewhere.size
    values, vectors = np.linalg.eigh(kernel[:size, :size] / size)
    moved = vectors @ (-np.expm1(-values * end / values[-1]) / values * (vectors.T @ error)) / size
    return float(np.square(elsewhere - kernel[-rest:, :size] @ moved).mean() / 2)


def _trained(network: Perceptron, data: Data, size: int, spec: Bottleneck) -> tuple[float, float]:
    """(loss on the pool, loss on what is learnt) of ``network`` trained on the first ``size`` samples."""
    inputs, targets = data.inputs[:size], data.targets[:size]
    top = float(torch.linalg.eigvalsh(tangent_kernel(network, inputs))[-1])
    descent = Descent(network, inputs, targets, tolerance=spec.tolerance)
    left = _lacking(descent.snapshot(spec.end / top).model, data)[spec.samples :]
    return float(np.square(left).mean() / 2), descent.row()["loss"]


def write_theories(seeds: Sequence[int]) -> None:
    """Write ``theory`` of all ``seeds`` to data/predictions, once; nothing is trained. Errors: ``FileExistsError``."""
    refuse_to_replace(FILE, FOLDER)
    save_table(_joined(ensemble([Bottleneck(seed=seed) for seed in seeds], theory), seeds), FILE, FOLDER)


def measured_table(seeds: Sequence[int]) -> xr.Dataset:
    """``measured`` over seeds."""
    return _joined([_of_seed(seed) for seed in seeds], seeds)


def _joined(runs: Sequence[xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    settings = {name: value for name, value in runs[0].attrs.items() if name != "seed"}
    return (
        xr.concat([part.drop_attrs() for part in runs], "seed").assign_coords(seed=list(seeds)).assign_attrs(settings)
    )


def read_losses(folder: str = "tables", file: str = FILE) -> xr.Dataset:
    """``measured_table`` as it was stored, or with "predictions" the theories: each loss over (seed, its own axis)."""
    stored = read_table(file, folder)  # a table has every variable at every combination of the coordinates
    for name, values in stored.items():
        other = {"size": "width", "width": "size"}[_axis(name)]
        stored[name] = values.isel({other: 0}, drop=True).transpose("seed", _axis(name))
    return stored


@cache
def _written(file: str = FILE) -> xr.Dataset:
    return read_losses(FOLDER, file)


def _of_seed(seed: int, networks: Bottleneck = Bottleneck()) -> xr.Dataset:
    return run(replace(networks, seed=seed), measured, progress=False)


def slope_gap(protocol: Comparison, seed: int) -> float:
    """|slope of the measured losses - slope of the written theory|."""
    found = slope(_of_seed(seed, protocol.networks)[protocol.name])
    return abs(found - slope(_written(protocol.predictions)[protocol.other].sel(seed=seed, drop=True)))


def distance(protocol: Comparison, seed: int) -> float:
    """Mean |log(measured / written theory)|."""
    found, theory = (
        _of_seed(seed, protocol.networks)[protocol.name],
        _written(protocol.predictions)[protocol.other].sel(seed=seed),
    )
    return float(np.abs(np.log(found.values / theory.values)).mean())


def excess(protocol: Comparison, seed: int) -> float:
    """Mean log ratio of two measured losses: below zero the first is lower."""
    found = _of_seed(seed, protocol.networks)
    return float(np.log(found[protocol.name] / found[protocol.other]).mean())


def beside(expected: xr.Dataset, found: xr.Dataset) -> pd.DataFrame:
    """``theory`` of one seed beside what was ``measured``, at its sizes and widths."""
    columns = "theory", "initial kernel or readout", "trained"
    by_samples = zip(columns, (expected.by_samples, found.lazy, found.by_samples), strict=True)
    by_width = zip(columns, (expected.by_width, found.readout, found.by_width), strict=True)
    return pd.concat(
        {
            "samples": pd.DataFrame({name: losses.values for name, losses in by_samples}, found["size"].values),
            "width": pd.DataFrame({name: losses.values for name, losses in by_width}, found.width.values),
        }
    )


def excess_table(networks: xr.Dataset) -> pd.DataFrame:
    """Log of the trained loss over the initial kernel's on the same samples: mean and standard error over seeds."""
    excess = np.log(networks.by_samples / networks.lazy)
    error = excess.std("seed", ddof=1) / math.sqrt(excess.sizes["seed"])
    sizes = pd.Index(networks["size"].values, name="log(trained / initial kernel), N =")
    return pd.DataFrame({"mean": excess.mean("seed"), "standard error": error}, sizes).T


def networks_table() -> xr.Dataset:
    """``measured_table`` of the seeds whose theories are written."""
    return measured_table(_written().seed.values.tolist())


TABLES = {FILE: networks_table}

MEASUREMENTS = {
    "network-samples-lazy": Measurement(Comparison("lazy", "by_samples"), distance),
    "network-samples-slope": Measurement(Comparison("by_samples", "by_samples"), slope_gap),
    "network-samples-gain": Measurement(Comparison("by_samples", "lazy"), excess),
    "network-width-readout": Measurement(Comparison("readout", "by_width"), distance),
    "network-width-readout-slope": Measurement(Comparison("readout", "by_width"), slope_gap),
    "network-width-slope": Measurement(Comparison("by_width", "by_width"), slope_gap),
}

"""A bottleneck of samples or of width: what a network's kernel at its start says beforehand, and what training does.

Residual perceptrons learn ``power_law`` data. Theory, from inputs, targets and weights at the start alone: the
equations of ``regression`` with the eigenvalues and the power found on a pool of samples that are never learnt, of
the network's tangent kernel (samples) or of the hidden units of a wide network (width). Ours; for its source see there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from grsd.datasets import Data, power_law
from grsd.evidence.tables import read_table, refuse_to_replace, save_table
from grsd.flow import Descent
from grsd.kernel import tangent_kernel
from grsd.networks import Perceptron
from grsd.provenance import provenance
from grsd.runs import ensemble, run
from grsd.scaling.axes import slope
from grsd.scaling.regression import after_features, after_samples

SIZES = (8, 16, 32, 64, 128, 256)
WIDTHS = (4, 8, 16, 32, 64, 128)
WIDE = 2048
FILE, FOLDER = "09_power_law_scaling-bottlenecks", "predictions"
NETWORK = {"width": 64, "depth": 4, "features": 512, "a": 1.5, "r": 0.5}
RUN = {"pool": 2500, "samples": 512, "columns": 256, "end": 3000.0, "tolerance": 1e-3}


def case(seed: int, sizes: Sequence[int] = SIZES, widths: Sequence[int] = WIDTHS, **changed: object) -> dict:
    """One seed, of weights and samples, as plain values: what ``theory`` and ``measured`` take."""
    return NETWORK | RUN | {"sizes": list(sizes), "widths": list(widths), "seed": seed} | changed


def theory(spec: Mapping[str, object]) -> xr.Dataset:
    """``by_samples(size)`` and ``by_width(width)``: the loss after all time, before anything is trained.

    By samples: lazy learning of what the network at its start lacks on the pool. The pool stands for the population;
    its N learnt samples would count as known, so the loss is over 1 - N / pool. By width: only the readout learns.
    """
    data, pool = _drawn(spec), slice(spec["samples"], None)
    network, target = _network(spec, spec["width"]), data.targets[pool, 0].numpy()
    kernel = tangent_kernel(network, data.inputs[pool]).numpy()
    values, power = _modes(kernel, _lacking(network, data)[pool])
    by_samples = [after_samples(values, 1.0, power, size) / (1 - size / target.size) for size in spec["sizes"]]
    units = _hidden(_network(spec, WIDE), data.inputs[pool])
    units = units - units.mean(0)
    values, power = _modes(units @ units.T / (WIDE * target.size), target - target.mean())
    by_width = [after_features(values, 1.0, power, width) for width in spec["widths"]]
    return _labelled(spec, by_samples=by_samples, by_width=by_width)


def measured(spec: Mapping[str, object]) -> xr.Dataset:
    """Losses on the pool: of trained networks at ``end`` / lambda_max(0), and of what the theory is about.

    ``by_samples(size)`` trained on that many samples, ``lazy(size)`` the same with the kernel of the start, and
    ``by_width(width)`` trained on ``samples`` samples, ``readout(width)`` least squares on the hidden units of the
    start over the whole pool, a mean over ``columns`` // width networks. ``samples_left``, ``width_left``: the loss on
    the samples learnt.
    """
    data, pool = _drawn(spec), slice(spec["samples"], None)
    network, target = _network(spec, spec["width"]), data.targets[pool].numpy()
    lacking = _lacking(network, data)
    shown = torch.cat([data.inputs[: max(spec["sizes"])], data.inputs[pool]])
    kernel = tangent_kernel(network, shown).numpy() * len(shown)
    lazy = [_lazy(kernel, lacking[:size], lacking[pool], spec["end"]) for size in spec["sizes"]]
    by_samples = [_trained(network, data, size, spec) for size in spec["sizes"]]
    by_width = [_trained(_network(spec, width), data, spec["samples"], spec) for width in spec["widths"]]
    readout = []
    for width in spec["widths"]:
        draws = range(spec["seed"] * spec["columns"], spec["seed"] * spec["columns"] + spec["columns"] // width)
        networks = (_network(spec | {"seed": draw}, width) for draw in draws)
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


def _labelled(spec: Mapping[str, object], **losses: list[float]) -> xr.Dataset:
    found = {name: (_axis(name), values, {"units": "loss"}) for name, values in losses.items()}
    described = {name: str(value) if isinstance(value, list) else value for name, value in spec.items()}
    return xr.Dataset(found, {"size": spec["sizes"], "width": spec["widths"]}, provenance(described))


def _axis(name: str) -> str:
    return "size" if name in {"by_samples", "samples_left", "lazy"} else "width"


def _drawn(spec: Mapping[str, object]) -> Data:
    of = {name: spec[name] for name in ("features", "a", "r", "seed")}
    return power_law(spec["samples"] + spec["pool"], **of)


def _network(spec: Mapping[str, object], width: int) -> Perceptron:
    return Perceptron(spec["features"], 1, width=width, depth=spec["depth"], residual=True, seed=spec["seed"]).double()


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


def _trained(network: Perceptron, data: Data, size: int, spec: Mapping[str, object]) -> tuple[float, float]:
    """(loss on the pool, loss on what is learnt) of ``network`` trained on the first ``size`` samples."""
    inputs, targets = data.inputs[:size], data.targets[:size]
    top = float(torch.linalg.eigvalsh(tangent_kernel(network, inputs))[-1])
    descent = Descent(network, inputs, targets, tolerance=spec["tolerance"])
    left = _lacking(descent.snapshot(spec["end"] / top).model, data)[spec["samples"] :]
    return float(np.square(left).mean() / 2), descent.row()["loss"]


def write_theories(seeds: Sequence[int]) -> None:
    """Write ``theory`` of all ``seeds`` to data/predictions, once; nothing is trained. Errors: ``FileExistsError``."""
    refuse_to_replace(FILE, FOLDER)
    save_table(_joined(ensemble([case(seed) for seed in seeds], theory), seeds), FILE, FOLDER)


def measured_table(seeds: Sequence[int]) -> xr.Dataset:
    """``measured`` over seeds."""
    return _joined([_of_seed(seed) for seed in seeds], seeds)


def _joined(runs: Sequence[xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    settings = {name: value for name, value in runs[0].attrs.items() if name != "seed"}
    return (
        xr.concat([part.drop_attrs() for part in runs], "seed").assign_coords(seed=list(seeds)).assign_attrs(settings)
    )


def read_losses(folder: str = "tables") -> xr.Dataset:
    """``measured_table`` as it was stored, or with "predictions" the theories: each loss over (seed, its own axis)."""
    stored = read_table(FILE, folder)  # a table has every variable at every combination of the coordinates
    for name, values in stored.items():
        other = {"size": "width", "width": "size"}[_axis(name)]
        stored[name] = values.isel({other: 0}, drop=True).transpose("seed", _axis(name))
    return stored


@cache
def _written() -> xr.Dataset:
    return read_losses(FOLDER)


def _of_seed(seed: int) -> xr.Dataset:
    return run(case(seed), measured, progress=False)


def slope_gap(name: str, axis: str, *, seed: int) -> float:
    """|slope of ``name`` in ``measured`` - slope of the written theory| along "by_samples" or "by_width"."""
    return abs(slope(_of_seed(seed)[name]) - slope(_written()[axis].sel(seed=seed, drop=True)))


def distance(name: str, axis: str, *, seed: int) -> float:
    """Mean |log(measured / written theory)| along an axis."""
    return float(np.abs(np.log(_of_seed(seed)[name].values / _written()[axis].sel(seed=seed).values)).mean())


def excess(name: str, rival: str, *, seed: int) -> float:
    """Mean log(``name`` / ``rival``) of two losses measured along one axis: below zero where the first is lower."""
    found = _of_seed(seed)
    return float(np.log(found[name] / found[rival]).mean())

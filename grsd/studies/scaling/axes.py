"""The three axes of scaling, on drawn regressions and on one real network: what is run, and the slopes read from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from grsd.datasets import digits
from grsd.flow import Descent
from grsd.kernel import tangent_kernel
from grsd.networks import Perceptron
from grsd.runs import ensemble
from grsd.solvable.regression import PowerLawRegression
from grsd.support.provenance import provenance

AXES = ("model", "data", "time", "compute")
SIZES = (16, 32, 64, 128, 256, 512)
TIMES = (1.0, 1e7, 71)
FITTED = {"time": (10.0, 1e3), "compute": (1e4, 3e6)}
POINTS = 9
WIDTHS = (4, 8, 16, 32, 64, 128)
WIDTH_TASK = {"task": "one-hot", "samples": 150, "held_out": 500, "depth": 4, "end": 60.0}


def case(seed: int, sizes: Sequence[int] = SIZES, *, modes: int = 10_000, columns: int = 2048) -> dict[str, object]:
    """One seed of the regression, as plain values: what ``losses`` takes.

    ``columns``: features or samples in all at each size, so that a small size is drawn more often than a large one.
    """
    return {"a": 2.0, "r": 1.0, "modes": modes, "sizes": list(sizes), "columns": columns, "seed": seed}


def losses(spec: Mapping[str, object]) -> xr.Dataset:
    """The regression of ``case``, drawn: ``features(size, time)`` and ``samples(size)``, and their theories.

    Each is a mean over columns // size draws; ``time`` ends with infinity; ``features_theory``, ``samples_theory``.
    """
    model = PowerLawRegression(spec["a"], spec["r"], spec["modes"])
    sizes, times = list(spec["sizes"]), np.append(np.geomspace(*TIMES), math.inf)
    draws = {
        size: range(spec["seed"] * spec["columns"], spec["seed"] * spec["columns"] + spec["columns"] // size)
        for size in sizes
    }
    found = {
        "features": [np.mean([model.features(size, times, seed) for seed in draws[size]], axis=0) for size in sizes],
        "features_theory": [model.features_theory(size, times) for size in sizes],
        "samples": [np.mean([model.samples(size, seed) for seed in draws[size]]) for size in sizes],
        "samples_theory": [model.samples_theory(size) for size in sizes],
    }
    of = {name: ("size", "time") if name.startswith("features") else "size" for name in found}
    described = {name: str(value) if isinstance(value, list) else value for name, value in spec.items()}
    return xr.Dataset(
        {name: (of[name], np.array(values), {"units": "loss"}) for name, values in found.items()},
        {"size": sizes, "time": ("time", times, {"units": "time"})},
        provenance(described),
    )


def along(run: xr.Dataset, axis: str, kind: str = "") -> xr.DataArray:
    """The loss along "model", "data", "time" or "compute" where its slope is fitted; ``kind`` "_theory" for the theory.

    Model: P random features after infinite time. Data: N samples likewise. Time: the most features. Compute: the
    least loss over P at C = P t, log-linear between times.
    """
    features = run[f"features{kind}"]
    if axis == "model":
        return features.isel(time=-1, drop=True)
    if axis == "data":
        return run[f"samples{kind}"]
    if axis not in FITTED:
        raise ValueError(f"along(axis=...): expected one of {', '.join(AXES)}, got {axis!r}")
    log_t, log_loss = np.log(features.time.values[:-1]), np.log(features.values[:, :-1])
    grid = np.geomspace(*FITTED[axis], POINTS)
    if axis == "time":
        found = np.interp(np.log(grid), log_t, log_loss[-1])
    else:
        rows = zip(features["size"].values, log_loss, strict=True)
        found = np.min([np.interp(np.log(grid / size), log_t, row) for size, row in rows], axis=0)
    return xr.DataArray(np.exp(found), {axis: grid}, [axis], attrs={"units": "loss"})


def slope(curve: xr.DataArray) -> float:
    """The least-squares slope of log loss on log of the curve's only coordinate."""
    return float(np.polyfit(np.log(curve[curve.dims[0]].values), np.log(curve.values), 1)[0])


def slope_error(run: xr.Dataset, axis: str) -> float:
    """|slope - predicted|, predicted the exponent that the theory forces in the limit."""
    predicted = PowerLawRegression(run.attrs["a"], run.attrs["r"], run.attrs["modes"]).exponents[axis]
    return abs(slope(along(run, axis)) - predicted)


def theory_gap(run: xr.Dataset) -> float:
    """Mean over the four axes of the mean |log(drawn / theory)| along them."""
    gaps = [np.abs(np.log(along(run, axis).values / along(run, axis, "_theory").values)).mean() for axis in AXES]
    return float(np.mean(gaps))


def width_case(width: int, seed: int, **changed: object) -> dict[str, object]:
    """One residual perceptron on digits, as plain values: what ``width_losses`` takes."""
    return WIDTH_TASK | {"width": width, "seed": seed} | changed


def width_losses(spec: Mapping[str, object]) -> xr.Dataset:
    """``training`` and ``held_out`` loss of the perceptron of ``width_case`` at ``end`` / lambda_max(0).

    The digits held out are drawn with those learnt, by the same seed.
    """
    data = digits(spec["samples"] + spec["held_out"], task=spec["task"], seed=spec["seed"])
    learnt = slice(spec["samples"])
    network = Perceptron(
        64, data.targets.shape[1], width=spec["width"], depth=spec["depth"], residual=True, seed=spec["seed"]
    )
    top = float(torch.linalg.eigvalsh(tangent_kernel(network, data.inputs[learnt]))[-1])
    descent = Descent(network, data.inputs[learnt], data.targets[learnt])
    end = descent.snapshot(spec["end"] / top)
    with torch.no_grad():
        error = end.model(data.inputs[spec["samples"] :]) - data.targets[spec["samples"] :]
    found = {"training": descent.row()["loss"], "held_out": float(error.square().sum() / (2 * spec["held_out"]))}
    return xr.Dataset({name: ((), value, {"units": "loss"}) for name, value in found.items()}, attrs=dict(spec))


def slope_table(runs: Sequence[xr.Dataset]) -> xr.Dataset:
    """``slope(axis, seed)`` of drawn regressions, ``predicted(axis)``, and ``theory(axis)`` over the same window."""
    first = runs[0].attrs
    exponents = PowerLawRegression(first["a"], first["r"], first["modes"]).exponents
    found = {
        "slope": (("axis", "seed"), [[slope(along(run, axis)) for run in runs] for axis in AXES]),
        "theory": ("axis", [slope(along(runs[0], axis, "_theory")) for axis in AXES]),
        "predicted": ("axis", [exponents[axis] for axis in AXES]),
    }
    attributes = {name: value for name, value in first.items() if name != "seed"}
    return xr.Dataset(found, {"axis": list(AXES), "seed": [run.attrs["seed"] for run in runs]}, attributes)


def width_table(widths: Sequence[int], seeds: Sequence[int]) -> xr.Dataset:
    """``training`` and ``held_out`` loss over (width, seed)."""
    runs = ensemble([width_case(width, seed) for width in widths for seed in seeds], width_losses, progress=False)
    shape = len(widths), len(seeds)
    found = {
        name: (("width", "seed"), np.reshape([float(run[name]) for run in runs], shape), {"units": "loss"})
        for name in ("training", "held_out")
    }
    return xr.Dataset(found, {"width": list(widths), "seed": list(seeds)}, provenance(WIDTH_TASK))

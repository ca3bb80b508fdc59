"""The three axes of scaling, on drawn regressions and on one real network: what is run, and the slopes read from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import torch
import xarray as xr

from grsd.evidence import Measurement
from grsd.flow import Descent
from grsd.kernel import tangent_kernel
from grsd.runs import Spec, ensemble, run
from grsd.solvable.regression import PowerLawRegression
from grsd.support.provenance import provenance

AXES = ("model", "data", "time", "compute")
SIZES = (16, 32, 64, 128, 256, 512)
TIMES = (1.0, 1e7, 71)
FITTED = {"time": (10.0, 1e3), "compute": (1e4, 3e6)}
POINTS = 9
WIDTHS = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Regression:
    """One seed of the regression; ``columns``: features or samples in all at each size, so that a small size is drawn
    more often than a large one."""

    sizes: tuple[int, ...] = SIZES
    modes: int = 10_000
    columns: int = 2048
    a: float = 2.0
    r: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Axis:
    """What is read of a regression: the slopes along ``axes``, fitted over ``fitted`` where the axis is continuous."""

    axes: tuple[str, ...]
    regression: Regression = Regression()
    fitted: tuple[tuple[str, tuple[float, float]], ...] = tuple(FITTED.items())


def losses(spec: Regression) -> xr.Dataset:
    """The regression, drawn: ``features(size, time)`` and ``samples(size)``, and their theories.

    Each is a mean over columns // size draws; ``time`` ends with infinity; ``features_theory``, ``samples_theory``.
    """
    model = PowerLawRegression(spec.a, spec.r, spec.modes)
    sizes, times = list(spec.sizes), np.append(np.geomspace(*TIMES), math.inf)
    draws = {size: range(spec.seed * spec.columns, spec.seed * spec.columns + spec.columns // size) for size in sizes}
    found = {
        "features": [np.mean([model.features(size, times, seed) for seed in draws[size]], axis=0) for size in sizes],
        "features_theory": [model.features_theory(size, times) for size in sizes],
        "samples": [np.mean([model.samples(size, seed) for seed in draws[size]]) for size in sizes],
        "samples_theory": [model.samples_theory(size) for size in sizes],
    }
    of = {name: ("size", "time") if name.startswith("features") else "size" for name in found}
    described = {name: str(list(v)) if isinstance(v, tuple) else v for name, v in asdict(spec).items()}
    return xr.Dataset(
        {name: (of[name], np.array(values), {"units": "loss"}) for name, values in found.items()},
        {"size": sizes, "time": ("time", times, {"units": "time"})},
        provenance(described),
    )


def along(
    run: xr.Dataset, axis: str, kind: str = "", fitted: Mapping[str, tuple[float, float]] = FITTED
) -> xr.DataArray:
    """The loss along "model", "data", "time" or "compute" where its slope is fitted; ``kind`` "_theory" for the theory.

    Model: P random features after infinite time. Data: N samples likewise. Time: the most features. Compute: the
    least loss over P at C = P t, log-linear between times.
    """
    features = run[f"features{kind}"]
    if axis == "model":
        return features.isel(time=-1, drop=True)
    if axis == "data":
        return run[f"samples{kind}"]
    if axis not in fitted:
        raise ValueError(f"along(axis=...): expected one of {', '.join(AXES)}, got {axis!r}")
    log_t, log_loss = np.log(features.time.values[:-1]), np.log(features.values[:, :-1])
    grid = np.geomspace(*fitted[axis], POINTS)
    if axis == "time":
        found = np.interp(np.log(grid), log_t, log_loss[-1])
    else:
        rows = zip(features["size"].values, log_loss, strict=True)
        found = np.min([np.interp(np.log(grid / size), log_t, row) for size, row in rows], axis=0)
    return xr.DataArray(np.exp(found), {axis: grid}, [axis], attrs={"units": "loss"})


def slope(curve: xr.DataArray) -> float:
    """The least-squares slope of log loss on log of the curve's only coordinate."""
    return float(np.polyfit(np.log(curve[curve.dims[0]].values), np.log(curve.values), 1)[0])


def slopes_of(curves: xr.DataArray) -> np.ndarray:
    """The ``slope`` of each seed of ``curves``, over seed and one other coordinate; shape (seeds,)."""
    return np.array([slope(curves.sel(seed=seed, drop=True)) for seed in curves.seed])


def slope_error(run: xr.Dataset, axis: str, fitted: Mapping[str, tuple[float, float]] = FITTED) -> float:
    """|slope - predicted|, predicted the exponent that the theory forces in the limit."""
    predicted = PowerLawRegression(run.attrs["a"], run.attrs["r"], run.attrs["modes"]).exponents[axis]
    return abs(slope(along(run, axis, fitted=fitted)) - predicted)


def theory_gap(
    run: xr.Dataset, axes: Sequence[str] = AXES, fitted: Mapping[str, tuple[float, float]] = FITTED
) -> float:
    """Mean over the axes of the mean |log(drawn / theory)| along them."""
    pairs = [[along(run, axis, kind, fitted).values for kind in ("", "_theory")] for axis in axes]
    return float(np.mean([np.abs(np.log(drawn / theory)).mean() for drawn, theory in pairs]))


def of_seed(protocol: Axis, seed: int) -> xr.Dataset:
    """The drawn regression of one seed, computed once for all axes."""
    return run(replace(protocol.regression, seed=seed), losses, progress=False)


def slope_off(protocol: Axis, seed: int) -> float:
    """``slope_error`` along the only axis."""
    (axis,) = protocol.axes
    return slope_error(of_seed(protocol, seed), axis, dict(protocol.fitted))


def theory_off(protocol: Axis, seed: int) -> float:
    """``theory_gap`` over the axes."""
    return theory_gap(of_seed(protocol, seed), protocol.axes, dict(protocol.fitted))


@dataclass(frozen=True)
class Width:
    """A residual perceptron on digits at ``end`` / lambda_max(0); those held out are drawn with those learnt."""

    width: int
    seed: int
    task: str = "one-hot"
    samples: int = 150
    held_out: int = 500
    depth: int = 4
    end: float = 60.0


def width_losses(spec: Width) -> xr.Dataset:
    """``training`` and ``held_out`` loss."""
    of = Spec(
        width=spec.width,
        depth=spec.depth,
        task=spec.task,
        samples=spec.samples + spec.held_out,
        seed=spec.seed,
        data_seed=spec.seed,
    )
    data, learnt, rest = of.batch(), slice(spec.samples), slice(spec.samples, None)
    network = of.network(data)
    top = float(torch.linalg.eigvalsh(tangent_kernel(network, data.inputs[learnt]))[-1])
    descent = Descent(network, data.inputs[learnt], data.targets[learnt])
    end = descent.snapshot(spec.end / top)
    with torch.no_grad():
        error = end.model(data.inputs[rest]) - data.targets[rest]
    found = {"training": descent.row()["loss"], "held_out": float(error.square().sum() / (2 * spec.held_out))}
    return xr.Dataset({name: ((), value, {"units": "loss"}) for name, value in found.items()}, attrs=asdict(spec))


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
    runs = ensemble([Width(width, seed) for width in widths for seed in seeds], width_losses, progress=False)
    shape = len(widths), len(seeds)
    settings = {name: value for name, value in asdict(Width(0, 0)).items() if name not in {"width", "seed"}}
    found = {
        name: (("width", "seed"), np.reshape([float(run[name]) for run in runs], shape), {"units": "loss"})
        for name in ("training", "held_out")
    }
    return xr.Dataset(
        found,
        {"width": list(widths), "seed": list(seeds)},
        provenance(settings),
    )


def slope_summary(slopes: xr.Dataset) -> pd.DataFrame:
    """By axis of a ``slope_table``: mean, least and largest slope, the theory over the same window, and its limit."""
    over = slopes.slope
    found = {"mean": over.mean("seed"), "least": over.min("seed"), "largest": over.max("seed")}
    return pd.DataFrame(found | {"theory": slopes.theory, "limit": slopes.predicted}, index=list(AXES))


def width_summary(widths: xr.Dataset) -> pd.DataFrame:
    """Mean and standard error over the seeds of a ``width_table``, by width."""
    found = {}
    for name in ("training", "held_out"):
        error = widths[name].std("seed", ddof=1) / math.sqrt(widths.sizes["seed"])
        found |= {(name, "mean"): widths[name].mean("seed"), (name, "standard error"): error}
    return pd.DataFrame(found, index=pd.Index(widths.width.values, name="width"))


def drawn_slopes() -> xr.Dataset:
    """``slope_table`` of 8 pilot seeds."""
    return slope_table(ensemble([Regression(seed=seed) for seed in range(8)], losses, workers=1))


def widths() -> xr.Dataset:
    """``width_table`` of 5 pilot seeds."""
    return width_table(WIDTHS, range(5))


TABLES = {"09_power_law_scaling-slopes": drawn_slopes, "09_power_law_scaling-width": widths}

MEASUREMENTS = {
    **{f"slope-{axis}": Measurement(Axis((axis,)), slope_off) for axis in AXES},
    "scaling-theory": Measurement(Axis(AXES), theory_off),
}

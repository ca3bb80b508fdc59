"""Notebook 09: from velocity to loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from grsd.confirm.measurement import Measurement, described
from grsd.runs import run
from grsd.studies.scaling import axes, bottlenecks, exact, networks


def _forecast(read: Callable[..., float], architecture: str, *compared: str, data: str = "digits") -> Measurement:
    """``read`` for a rival and one task, or for all tasks of the data set."""
    known = networks.DATA[data]
    rivals, tasks = [name for name in compared if name not in known.tasks], set(compared) & set(known.tasks)
    settings = {"architecture": architecture, "compared": ", ".join(compared), "tasks": str(known.tasks)}
    return Measurement(
        lambda seed: read(architecture, *rivals, *(tasks or known.tasks), seed=seed),
        settings | {"width": 48, "depth": 8, "predictions": known.file},
    )


_patches = partial(_forecast, data="patches")


def _axis(read: Callable[..., float], *axis: str) -> Measurement:
    """Of one seed of the regression, computed once for all axes."""
    return Measurement(
        lambda seed: read(run(axes.case(seed), axes.losses, progress=False), *axis),
        described(axes.case(0), axis=", ".join(axis or axes.AXES), fitted=str(axes.FITTED)),
    )


def _bottleneck(read: Callable[..., float], *compared: str) -> Measurement:
    """Of one seed of networks, trained once for all claims."""
    return Measurement(
        lambda seed: read(*compared, seed=seed),
        described(bottlenecks.case(0), compared=", ".join(compared), predictions=bottlenecks.FILE),
    )


MEASUREMENTS = {
    "transport-agrees": Measurement(exact.disagreement, {"rows": ", ".join(exact.ROWS)}),
    "loss-exponents": Measurement(exact.exponent_error, {"log_times": str(exact.LOG_TIMES)}),
    "bordelon-recovered": Measurement(exact.bordelon_error, {"time": exact.LATE}),
    "forecast-exact-models": Measurement(exact.forecast_ratio, {"ahead": 10.0}),
    "forecast-residual-parity": _forecast(networks.gain, "residual", "lazy", "parity"),
    "forecast-residual-one-hot": _forecast(networks.gain, "residual", "lazy", "one-hot"),
    "forecast-residual-line": _forecast(networks.gain, "residual", "straight line"),
    "forecast-residual-accurate": _forecast(networks.accuracy, "residual"),
    "forecast-plain-parity": _forecast(networks.gain, "plain", "lazy", "parity"),
    "forecast-plain-one-hot": _forecast(networks.gain, "plain", "lazy", "one-hot"),
    "forecast-plain-line": _forecast(networks.gain, "plain", "straight line"),
    "forecast-plain-accurate": _forecast(networks.accuracy, "plain"),
    "forecast-patches-residual-photograph": _patches(networks.gain, "residual", "lazy", "photograph"),
    "forecast-patches-residual-pixel": _patches(networks.gain, "residual", "lazy", "pixel"),
    "forecast-patches-residual-line": _patches(networks.gain, "residual", "straight line"),
    "forecast-patches-residual-profile": _patches(networks.gain, "residual", "power law", "photograph"),
    "forecast-patches-residual-accurate": _patches(networks.accuracy, "residual"),
    "forecast-patches-plain-photograph": _patches(networks.gain, "plain", "lazy", "photograph"),
    "forecast-patches-plain-pixel": _patches(networks.gain, "plain", "lazy", "pixel"),
    "forecast-patches-plain-line": _patches(networks.gain, "plain", "straight line"),
    "forecast-patches-plain-profile": _patches(networks.gain, "plain", "power law", "photograph"),
    "forecast-patches-plain-accurate": _patches(networks.accuracy, "plain"),
    "slope-model": _axis(axes.slope_error, "model"),
    "slope-data": _axis(axes.slope_error, "data"),
    "slope-time": _axis(axes.slope_error, "time"),
    "slope-compute": _axis(axes.slope_error, "compute"),
    "scaling-theory": _axis(axes.theory_gap),
    "network-samples-lazy": _bottleneck(bottlenecks.distance, "lazy", "by_samples"),
    "network-samples-slope": _bottleneck(bottlenecks.slope_gap, "by_samples", "by_samples"),
    "network-samples-gain": _bottleneck(bottlenecks.excess, "by_samples", "lazy"),
    "network-width-readout": _bottleneck(bottlenecks.distance, "readout", "by_width"),
    "network-width-readout-slope": _bottleneck(bottlenecks.slope_gap, "readout", "by_width"),
    "network-width-slope": _bottleneck(bottlenecks.slope_gap, "by_width", "by_width"),
}

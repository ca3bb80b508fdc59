"""Conditions 1 to 3 of one network: each call measures the same ``grsd.Spec``, one network per seed.

Condition 1 is about growing depth: it varies the depth of the spec. Condition 2 reads the start. Condition 3 follows
training from t = 1 / lambda_max(0) to the spec's last time. All measurements are stored, as ``grsd.ensemble`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import xarray as xr

from grsd.conditions import evolution, incoherence, of_specs, propagation
from grsd.runs import Spec
from grsd.studies.stages import LATE

ARCHITECTURES = ("residual", "plain")
DEPTH = 16
SEEDS = range(4000, 4024)  # confirmatory
DEPTHS = (4, 8, 16, 32, 64)
GAIN_SAMPLES = 2  # gains hardly differ between samples
FLIPS = 199  # their median sets the scale: more of them change the excess by a hundredth
SIGN_SHELLS = {"shell_widths": (1.0,), "smoothing": 0.2}
RATE_SHELLS = {"shell_widths": (0.7,), "smoothing": 0.1}
SNAPSHOTS = 10


def network(architecture: str, **changes: object) -> Spec:
    """The network of depth 16 that is read late in notebooks 06 to 08: width 48, the parity of 240 digits."""
    return replace(LATE.block(architecture, DEPTH, SEEDS[0]).network, **changes)


def gains(
    spec: Spec, seeds: Sequence[int], *, depths: Sequence[int] = DEPTHS, workers: int | None = 1
) -> list[xr.Dataset]:
    """``propagation.measure`` of the spec at each of ``depths``, on two samples, one network per seed and depth."""
    deep = [replace(spec, depth=depth, samples=GAIN_SAMPLES, seed=seed) for seed in seeds for depth in depths]
    return of_specs(propagation, deep, workers=workers)


def signs(spec: Spec, seeds: Sequence[int], *, workers: int | None = 1) -> list[xr.Dataset]:
    """``incoherence.measure`` of the spec at its start, with 199 sign flips, one network per seed."""
    return of_specs(incoherence, replace(spec, **SIGN_SHELLS).with_seeds(seeds), workers=workers, flips=FLIPS)


def rates(spec: Spec, seeds: Sequence[int], *, workers: int | None = 1) -> list[xr.Dataset]:
    """``evolution.measure`` of the spec, with J', at ten times from 1 / lambda_max(0) to its last, one per seed."""
    followed = replace(spec, times=(1.0, spec.times[1], SNAPSHOTS), **RATE_SHELLS)
    return of_specs(evolution, followed.with_seeds(seeds), workers=workers, jacobian=True)

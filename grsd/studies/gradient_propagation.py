"""Notebook 03: condition 1, gradients propagate boundedly through the graph of perceptrons of growing depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from torch import nn

from grsd.conditions import propagation
from grsd.datasets import Data
from grsd.evidence import Measurement
from grsd.networks import architecture
from grsd.runs import Spec
from grsd.studies import one_network
from grsd.support.provenance import provenance

LINEAR = {"activation": "identity"}
KINDS = {
    "residual": {},
    "residual, whole branches": {"branch_scale": 1.0},
    "critical": {"architecture": "plain"},
    "super-critical": {"architecture": "plain", "weight_scale": 1.5},
    "sub-critical": {"architecture": "plain", "weight_scale": 0.7},
    "Gaussian linear": {"architecture": "plain", **LINEAR},
    "orthogonal linear": {"architecture": "orthogonal", **LINEAR},
    "aligned linear": {"architecture": "aligned", **LINEAR},
}  # what differs from a residual tanh perceptron with branches of 1 / sqrt(depth)
DEPTHS = (4, 8, 16, 32)


def compared() -> dict[str, str]:
    """The kind of each architecture that the studies compare: "critical" for the plain one, else its own name."""
    return {name: {"plain": "critical"}.get(name, name) for name in architecture.names(compared=True)}


@dataclass(frozen=True)
class Protocol:
    """Networks of ``kinds`` (``KINDS`` or architectures) at all ``depths``; one seed draws weights and digits."""

    kinds: tuple[str, ...] = ("residual",)
    depths: tuple[int, ...] = DEPTHS
    width: int = 64
    samples: int = 8


def drawn(spec: Spec, kind: str, seed: int) -> tuple[nn.Module, Data]:
    """The network of a kind and its batch, in float64; the same seed draws weights and samples."""
    spec = replace(spec, **KINDS.get(kind, {"architecture": kind}), seed=seed, data_seed=seed)
    data = spec.batch()
    return spec.network(data).double(), data


def over_depth(kind: str, seed: int, protocol: Protocol, *, device: str | None = None) -> list[xr.Dataset]:
    """``propagation.measure`` of one perceptron per depth, without norms."""
    found = []
    for depth in protocol.depths:
        spec = Spec(width=protocol.width, depth=depth, samples=protocol.samples)
        network, data = drawn(spec, kind, seed)
        settings = {"kind": kind, "seed": seed, "depth": depth, "width": protocol.width}
        found.append(propagation.measure(network, data.inputs, norms=False, device=device, parameters=settings))
    return found


def larger_slope(protocol: Protocol, seed: int) -> float:
    """The larger of the two slopes on log depth; the smallest over ``kinds``."""
    found = [propagation.slopes(over_depth(kind, seed, protocol)) for kind in protocol.kinds]
    return min(max(one["worst"], one["rate"]) for one in found)


@dataclass(frozen=True)
class OneNetwork:
    """A network of ``studies.one_network`` at all ``depths``; ``of``: in ``propagation.WORDS``, or "far".

    "far" is the mean of 1/2 log G half the largest depth apart, in nats: how much of a gradient arrives there.
    """

    network: Spec
    of: str
    depths: tuple[int, ...] = one_network.DEPTHS


def of_one_network(protocol: OneNetwork, seed: int) -> float:
    """The slope on log depth of one measure of gains, or their size far apart at the largest depth."""
    found = one_network.gains(protocol.network, [seed], depths=protocol.depths)
    if protocol.of == "far":
        deepest = max(protocol.depths)
        return float(found[protocol.depths.index(deepest)].amplitude.sel(distance=deepest // 2))
    return propagation.slopes(found)[protocol.of]


def growth_table(
    seeds: Sequence[int] = one_network.SEEDS[:8], depths: Sequence[int] = one_network.DEPTHS
) -> xr.Dataset:
    """Growth, decay and norm growth over (architecture, depth, seed) of ``one_network``; nats."""
    found = [
        one
        for name in one_network.ARCHITECTURES
        for one in one_network.gains(one_network.network(name), seeds, depths=depths)
    ]
    rows = [labelled(one, ("growth", "norm_growth", "decay"), ("architecture", "depth", "seed")) for one in found]
    return _described(xr.combine_by_coords(rows, combine_attrs="drop"), seeds)


def distance_table(
    seeds: Sequence[int] = one_network.SEEDS[:8], depths: Sequence[int] = one_network.DEPTHS
) -> xr.Dataset:
    """Amplitudes over (architecture, distance) of ``one_network`` at the largest depth, means over seeds; nats."""
    names, profiles = ["amplitude", "norm_amplitude"], []
    for architecture_name in one_network.ARCHITECTURES:
        found = one_network.gains(one_network.network(architecture_name), seeds, depths=depths[-1:])
        mean = xr.concat([one[names] for one in found], "seed", combine_attrs="drop").mean("seed")
        profiles.append(mean.expand_dims(architecture=[architecture_name]))
    return _described(xr.concat(profiles, "architecture").assign_attrs(depth=depths[-1]), seeds)


def _described(found: xr.Dataset, seeds: Sequence[int]) -> xr.Dataset:
    width = one_network.network("plain").width
    return found.assign_attrs(provenance({"seeds": str(list(seeds)), "width": width}))


def table(runs: Iterable[Sequence[xr.Dataset]]) -> xr.Dataset:
    """``worst`` and ``lyapunov_depth`` = |Lyapunov rate x depth| over (kind, depth, seed), nats."""
    rows = []
    for found in (item for run in runs for item in run):
        along = abs(found.lyapunov) * found.attrs["depth"]
        along = along.assign_attrs(long_name="|Lyapunov rate x depth|", units="nats")
        names, by = ("worst", "lyapunov_depth"), ("kind", "depth", "seed")
        rows.append(labelled(found.assign(lyapunov_depth=along), names, by))
    return xr.combine_by_coords(rows, combine_attrs="drop_conflicts")


def labelled(found: xr.Dataset, names: Sequence[str], by: Sequence[str]) -> xr.Dataset:
    """Single numbers of one measurement, along new dimensions whose labels are its attributes ``by``."""
    row = found[list(names)].drop_vars(list(found[list(names)].coords))
    return row.expand_dims({name: [found.attrs[name]] for name in by})


def slopes(found: xr.Dataset) -> xr.Dataset:
    """The slopes on log depth of what ``table`` gives, over (kind, seed); nats per e-fold."""
    centred = np.log(found.depth) - float(np.log(found.depth).mean())
    return (found * centred).sum("depth", skipna=False) / float((centred**2).sum())


def shown_kinds() -> tuple[str, ...]:
    """Every architecture that is compared, and all kinds but the aligned one."""
    return tuple(kind for kind in dict.fromkeys([*KINDS, *compared().values()]) if kind != "aligned linear")


def depth_table(seeds: Sequence[int] = range(16)) -> xr.Dataset:
    """``table`` of ``shown_kinds``."""
    protocol = Protocol(shown_kinds())
    return table(over_depth(kind, seed, protocol) for kind in protocol.kinds for seed in seeds)


TABLES = {
    "03_gradient_propagation-depth": depth_table,
    "03_gradient_propagation-distance": distance_table,
    "03_gradient_propagation-growth": growth_table,
}

# Claims on the networks of ``one_network``, by what they judge and the architecture.
GROWTH_CLAIMS = {
    (of, name): f"gradient-{of.replace('_', '-')}-{name}"
    for of in ("growth", "norm_growth", "decay", "far")
    for name in one_network.ARCHITECTURES
}
MEASUREMENTS = {
    claim: Measurement(OneNetwork(one_network.network(name), of), of_one_network)
    for (of, name), claim in GROWTH_CLAIMS.items()
} | {
    "gradient-propagation": Measurement(Protocol(), larger_slope),
    "gradient-propagation-isometry": Measurement(Protocol(("orthogonal linear",)), larger_slope),
    "gradient-propagation-off-critical": Measurement(Protocol(("sub-critical", "super-critical")), larger_slope),
    "gradient-propagation-plain": Measurement(Protocol(("critical",)), larger_slope),
}

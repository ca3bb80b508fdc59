"""Notebook 05: condition 3, controlled evolution of the Jacobian, in exact models and in trained perceptrons.

``OneNetwork`` is judged by eta on the networks of the other conditions. ``Protocol``, ``slope_table`` and their claims
belong to the older rule, by slopes, which refuses every covariant power law with b other than 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import xarray as xr

from grsd.conditions import evolution, of_specs
from grsd.decomposition import Spectrum, spectrum
from grsd.evidence import Measurement
from grsd.networks import architecture
from grsd.runs import Spec
from grsd.shells import LogShells
from grsd.solvable import DiagonalNet, ProjectedTwoLayer
from grsd.studies import one_network
from grsd.support.provenance import provenance

DEPTHS = (4, 16, 32)
EXACT_SHELLS = LogShells(0.7, 0.1)
RATES = evolution.RELATIVE_RATES + evolution.JACOBIAN_RATES
NETWORK = Spec(width=48, task="parity", samples=100, times=(1.0, 30.0, 6), shell_widths=(0.7,), smoothing=0.1)


@dataclass(frozen=True)
class Protocol:
    """A network at all ``depths``, one of each per seed; ``of``: the regressor, or "supremum"."""

    network: Spec = NETWORK
    of: str = "time"
    depths: tuple[int, ...] = DEPTHS


@dataclass(frozen=True)
class Exact:
    """An exact model, "controlled" or "sudden", its parameters drawn by the seed."""

    case: str


def controlled(seed: int, modes: int = 120) -> xr.Dataset:
    """Condition 3 by construction: the projected two-layer network, whose u is flat and t u tends to a constant.

    The decay of the spectrum (1 to 3) and the source exponent (.2 to .8) are drawn by ``seed``; t from 1e2 to 1e6.
    """
    rng = np.random.default_rng(seed)
    net = ProjectedTwoLayer(alpha=rng.uniform(1, 3), beta=rng.uniform(0.2, 0.8), modes=modes)
    states = ((time, spectrum(*net.matrices(time)[:2])) for time in np.geomspace(1e2, 1e6, 8))
    return evolution.along(states, EXACT_SHELLS, top=1.0, case="projected two-layer network", seed=seed)


def sudden(seed: int, modes: int = 120) -> xr.Dataset:
    """Condition 3 broken: a diagonal network of depth 4 that starts small, then aligns suddenly, mode after mode.

    The scale of the start (.05 to .1) is drawn by ``seed``; t from 1 to 30.
    """
    net = DiagonalNet(4, a=1.05, start=float(np.random.default_rng(seed).uniform(0.05, 0.1)), modes=modes)
    top = float(net.eigenvalues(0.0).max())
    states = ((time, spectrum(*net.matrices(time)[:2])) for time in np.geomspace(1, 30, 8) / top)
    return evolution.along(states, EXACT_SHELLS, top=top, case="diagonal network, small start", seed=seed)


def drifting(seed: int, modes: int = 120) -> xr.Dataset:
    """Condition 3 broken by a clock of its own: M' = r M with r constant, so that t rho = r t and eta = 1.

    The rate r (.01 to .03) and the eigenvalues are drawn by ``seed``; t from 1 to 100.
    """
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.01, 0.03)
    start = torch.as_tensor(np.exp(np.sort(rng.uniform(-9, 0, modes))), dtype=torch.float64, device="cpu")
    kernels = ((time, torch.diag(start * np.exp(rate * time))) for time in np.geomspace(1, 100, 8))
    states = ((time, spectrum(kernel, rate * kernel)) for time, kernel in kernels)
    return evolution.along(states, EXACT_SHELLS, top=1.0, case="a clock of its own, M' = r M", seed=seed)


def turning(seed: int, modes: int = 120) -> xr.Dataset:
    """M stands still while J turns: outputs x_k angle(p_k) of points p_k in the plane, which run on circles.

    Each gradient keeps its length 1 / |p_k| and turns with its point, phi_k' = lambda_k exp(-lambda_k t) / 2, so that
    t rho = 0 and t tau = x exp(-x), x = lambda t. The eigenvalues are drawn by ``seed``; t from 1 to 100.
    """
    values = torch.as_tensor(
        np.exp(np.sort(np.random.default_rng(seed).uniform(-9, 0, modes))), dtype=torch.float64, device="cpu"
    )
    basis = torch.eye(modes, dtype=values.dtype, device=values.device)
    modes_at_rest = Spectrum(values, basis, torch.zeros_like(basis), modes * torch.finfo(values.dtype).eps)
    states = (
        (time, modes_at_rest, torch.diag(values * (values * torch.exp(-values * time) / 2) ** 2))
        for time in np.geomspace(1, 100, 8)
    )
    return evolution.along(states, EXACT_SHELLS, top=1.0, case="a rotation of parameter space, M' = 0", seed=seed)


def exact_control(protocol: Exact, seed: int) -> float:
    """``evolution.control_ratio`` of one draw."""
    run = {"controlled": controlled, "sudden": sudden}[protocol.case](seed)
    return evolution.control_ratio(evolution.gather([run]))


@cache
def over_depth(network: Spec, depths: tuple[int, ...], seed: int) -> xr.Dataset:
    """The rates of one seed of a network at all depths, as ``evolution.gather`` gives them."""
    specs = [replace(network, depth=depth, seed=seed) for depth in depths]
    return evolution.gather(of_specs(evolution, specs, workers=1, progress=False))


def of_network(protocol: Protocol, seed: int) -> float:
    """The larger slope of log(t rho) and log(t omega) on a regressor, or the largest t rho or t omega of all."""
    found = over_depth(protocol.network, protocol.depths, seed)
    if protocol.of == "supremum":
        return max(float(found[f"t_{rate}"].max()) for rate in evolution.RELATIVE_RATES)
    return max(evolution.slopes(found, rate)[protocol.of] for rate in evolution.RELATIVE_RATES)


@dataclass(frozen=True)
class OneNetwork:
    """A network of ``studies.one_network`` along training, from ``first`` on, in units of 1 / lambda_max(0).

    ``of``: "eta" or "supremum" below the frontier; ``rate``: as in ``evolution.eta``.
    """

    network: Spec
    of: str = "eta"
    rate: str = "rho"
    first: float = 1.0


def of_one_network(protocol: OneNetwork, seed: int) -> float:
    """Eta of one seed's run, or its largest t rate below the frontier."""
    run = since(one_network.rates(protocol.network, [seed])[0], protocol.first)
    read = {"eta": evolution.eta_of, "supremum": evolution.largest_of}[protocol.of]
    return read(run, rate=protocol.rate)


def since(run: xr.Dataset, first: float) -> xr.Dataset:
    """A run's times from ``first`` on."""
    return run.isel(time=run.time.values >= first * (1 - 1e-9))


def eta_table(seeds: Sequence[int] = one_network.SEEDS) -> xr.Dataset:
    """The networks of ``one_network`` over (architecture, rate, of, seed): ``value``, NaN where nothing is measured.

    ``of`` is "eta", "late" (eta from the time on at which notebooks 06 to 08 read late) or "supremum". Attributes hold
    the verdict of ``evolution.judge`` by architecture and rate.
    """
    axes = {"architecture": list(one_network.ARCHITECTURES), "rate": list(RATES), "of": ["eta", "late", "supremum"]}
    values = np.full([*(len(axis) for axis in axes.values()), len(seeds)], np.nan)
    verdicts = {}
    for i, name in enumerate(one_network.ARCHITECTURES):
        network = one_network.network(name)
        runs = one_network.rates(network, seeds)
        for j, rate in enumerate(RATES):
            verdicts[f"verdict_{name}_{rate}"] = str(evolution.judge(runs, rate=rate))
            values[i, j, 0] = [evolution.eta_of(run, rate=rate) for run in runs]
            values[i, j, 1] = [evolution.eta_of(since(run, network.times[0]), rate=rate) for run in runs]
            values[i, j, 2] = [evolution.largest_of(run, rate=rate) for run in runs]
    coords = axes | {"seed": list(seeds)}
    return xr.Dataset({"value": (list(coords), values)}, coords, provenance({"seeds": str(list(seeds))}) | verdicts)


def slope_table(spec: Spec, depths: Sequence[int], seeds: Sequence[int]) -> xr.Dataset:
    """The slopes of condition 3 over (architecture, rate, of): ``slope``, ``low``, ``high``; verdicts as attributes.

    ``of`` is "time", "shell" or "depth". ``supremum(architecture, rate)``: mean over seeds of the largest t rate.
    """
    names = list(architecture.names(compared=True))
    axes = {"architecture": names, "rate": list(evolution.RELATIVE_RATES), "of": list(evolution.SLOPES)}
    numbers = {name: np.full([len(axis) for axis in axes.values()], np.nan) for name in ("slope", "low", "high")}
    supremum, verdicts = np.full((len(names), 2), np.nan), {}
    for i, name in enumerate(names):
        specs = [s for d in depths for s in replace(spec, architecture=name, depth=d).with_seeds(seeds)]
        runs = of_specs(evolution, specs, jacobian=True)  # the same runs as those that are read for J'
        judged = evolution.judge_slopes(runs)
        verdicts[f"verdict_{name}"], found = judged.verdict, judged.details
        for (rate, of), value in found.slopes.items():
            place = i, axes["rate"].index(rate), axes["of"].index(of)
            for array, number in zip(numbers.values(), (value, *found.slope_intervals[rate, of]), strict=True):
                array[place] = number
        supremum[i] = [found.suprema[rate] for rate in axes["rate"]]
    data = {name: (list(axes), array) for name, array in numbers.items()}
    data["supremum"] = (["architecture", "rate"], supremum)
    described = {name: value for name, value in spec.to_dict().items() if name not in {"architecture", "depth", "seed"}}
    settings = {"seeds": str(list(seeds)), "depths": str(list(depths))} | verdicts
    return xr.Dataset(data, axes, attrs=provenance({name: str(v) for name, v in described.items()} | settings))


def depth_slopes() -> xr.Dataset:
    """``slope_table`` of 8 pilot seeds."""
    return slope_table(NETWORK, DEPTHS, range(8))


TABLES = {"05_jacobian_evolution-slopes": depth_slopes, "05_jacobian_evolution-eta": eta_table}

PLAIN = replace(NETWORK, architecture="plain")
# Claims on the networks of ``one_network`` by (of, rate, architecture); "late": from the times of late reading on.
ETA_CLAIMS = {
    (of, rate, name): f"evolution-{of}-{name}" if rate == "rho" else f"evolution-{of}-jacobian-{name}"
    for of, rate in (("eta", "rho"), ("late", "rho"), ("top", "rho"), ("eta", "jacobian"), ("top", "jacobian"))
    for name in one_network.ARCHITECTURES
}


def _judged(of: str, rate: str, name: str) -> OneNetwork:
    network = one_network.network(name)
    if of == "late":
        return OneNetwork(network, rate=rate, first=network.times[0])
    return OneNetwork(network, {"eta": "eta", "top": "supremum"}[of], rate)


MEASUREMENTS = {claim: Measurement(_judged(*key), of_one_network) for key, claim in ETA_CLAIMS.items()} | {
    "jacobian-evolution": Measurement(Protocol(), of_network),
    "evolution-time-plain": Measurement(Protocol(PLAIN), of_network),
    "evolution-depth-residual": Measurement(Protocol(of="depth"), of_network),
    "evolution-depth-plain": Measurement(Protocol(PLAIN, "depth"), of_network),
    "evolution-bound-residual": Measurement(Protocol(of="supremum"), of_network),
    "evolution-bound-plain": Measurement(Protocol(PLAIN, "supremum"), of_network),
    "evolution-constructed": Measurement(Exact("controlled"), exact_control),
    "evolution-broken": Measurement(Exact("sudden"), exact_control),
}
# The claims on slopes by (architecture, regressor), and on the bound by architecture.
SLOPE_CLAIMS = {
    ("residual", "time"): "jacobian-evolution",
    ("plain", "time"): "evolution-time-plain",
    ("residual", "depth"): "evolution-depth-residual",
    ("plain", "depth"): "evolution-depth-plain",
}
BOUND_CLAIMS = {"residual": "evolution-bound-residual", "plain": "evolution-bound-plain"}

"""A search for transport beyond growth that follows a law, and for exponents other than one.

Diagonal nets whose exponents are derived beforehand (``grsd.solvable.clocks``), and residual perceptrons on power-law
data in the feature-learning scale: a standard network of n units whose targets are multiplied by sqrt(n) moves its
kernel as one whose output is divided by sqrt(n), in a time of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

import numpy as np
import torch
import xarray as xr

from grsd.conditions import covariance
from grsd.conditions.matched import budget_at_loss, frontier_window, history_of
from grsd.datasets import power_law
from grsd.evidence import Measurement
from grsd.flow import gradient_flow
from grsd.kernel import tangent_kernel
from grsd.laws import BeyondGrowth, LawFit, beyond_growth, growth_surrogate, velocity_law
from grsd.networks import Perceptron
from grsd.runs import ensemble
from grsd.shells import LogShells
from grsd.solvable.clocks import ModeClocks
from grsd.studies.stages import pseudo_value
from grsd.support.provenance import provenance

RUNS = 24
NARROW, BROAD = LogShells(0.5, 0.1), LogShells(1.0, 0.2)
PLANTED = (0.02, 0.05, 0.1, 0.2)
PLANTS = 8
DOUBLINGS = 20


@dataclass(frozen=True)
class Clocks:
    """Ensembles of exact nets, and what was derived for them.

    They are judged at the last of ``times``, in ``window`` of log(eigenvalue x time). Derived: ``exponent``, b of what
    is beyond growth (None: no single power); the ``verdict`` of ``beyond_growth``; whether ``covariance`` "holds" or
    "fails" along the run; ``clock``: t u at the window's lowest boundary (None: not derived).
    """

    net: ModeClocks
    times: tuple[float, ...]
    window: tuple[float, float]
    exponent: float | None
    covariance: str = "holds"
    verdict: str = "non-trivial invariance"
    clock: float | None = None
    shells: LogShells = NARROW
    runs: int = RUNS
    within: float = 0.1
    clock_within: float = 0.03


@dataclass(frozen=True)
class Learner:
    """One seed, of weights and of samples, of a residual perceptron on power-law data.

    ``factor``: of the targets; ``times``: first, last and number, in units of 1 / lambda_max(0).
    """

    activation: str = "tanh"
    factor: float = 8.0
    width: int = 64
    depth: int = 4
    samples: int = 300
    features: int = 128
    a: float = 1.5
    r: float = 0.5
    times: tuple[float, float, int] = (1.0, 30.0, 5)
    shell: float = 0.5
    smoothing: float = 0.1
    tolerance: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Block:
    """The ``runs`` seeds of networks from ``first`` on.

    They are read at one log of loss / loss at 0, from the frontier ``reach`` e-folds down.
    """

    network: Learner
    log_loss: float = -1.6
    reach: float = 5.0
    runs: int = RUNS
    first: int = 4000


@dataclass(frozen=True)
class Found:
    """The readings of one ensemble; ``clock``: t u at the lowest boundary of the window; ``time``: of the reading."""

    beyond: BeyondGrowth
    velocity: LawFit
    covariance: covariance.Verdict
    clock: float
    time: float


def read_clocks(protocol: Clocks, number: int) -> Found:
    """The readings of the ensemble of that number: seeds runs x number, runs x number + 1, and so on."""
    seeds = range(protocol.runs * number, protocol.runs * (number + 1))
    found = [protocol.net.budgets(seed, protocol.times, [protocol.shells])[0] for seed in seeds]
    low, high = protocol.window
    joined = [xr.concat(run, "time", join="inner", coords="different", compat="equals") for run in found]
    return _read([run[-1] for run in found], protocol.window, protocol.times[-1], joined, -low, high)


def _read(
    budgets: Sequence[xr.Dataset],
    window: tuple[float, float],
    time: float,
    joined: Sequence[xr.Dataset],
    reach: float,
    above: float,
) -> Found:
    """Judge budgets at one ``time`` in ``window`` of log(eigenvalue x time), and the covariance of the histories."""
    window = tuple(end - math.log(time) for end in window)
    velocity = velocity_law(budgets, window=window)
    judged = beyond_growth(budgets, window=window), velocity, covariance.judge(joined, reach=reach, above=above)
    return Found(*judged, float(velocity.values[0]) * time, time)


def as_derived(protocol: Clocks, number: int) -> float:
    """One or zero: whether an ensemble reads as was derived, in verdict, exponent, covariance and clock."""
    found = read_clocks(protocol, number)
    right = found.beyond.verdict == protocol.verdict and found.covariance.verdict == protocol.covariance
    if protocol.exponent is not None:
        right &= abs(found.beyond.free.exponent - protocol.exponent) <= protocol.within
    if protocol.clock is not None:
        right &= abs(found.clock - protocol.clock) <= protocol.clock_within
    return float(right)


def trained(spec: Learner) -> xr.Dataset:
    """The shell history of one network."""
    data = power_law(spec.samples, features=spec.features, a=spec.a, r=spec.r, seed=spec.seed)
    shape = {"width": spec.width, "depth": spec.depth, "activation": spec.activation, "seed": spec.seed}
    network = Perceptron(spec.features, 1, residual=True, **shape).double()
    first, last, count = spec.times
    largest = float(torch.linalg.eigvalsh(tangent_kernel(network, data.inputs))[-1])
    times = np.append(0.0, np.geomspace(first, last, count) / largest)
    goal = spec.factor * data.targets
    flow = gradient_flow(network, data.inputs, goal, times, tolerance=spec.tolerance, progress=False)
    described = {name: str(list(v)) if isinstance(v, tuple) else v for name, v in asdict(spec).items()}
    return history_of("trained", flow, LogShells(spec.shell, spec.smoothing), described)


def at_loss(block: Block, **options: object) -> tuple[list[xr.Dataset], list[xr.Dataset]]:
    """The histories of a block's networks, and their budgets at its loss; ``options`` of ``ensemble``."""
    specs = [replace(block.network, seed=seed) for seed in range(block.first, block.first + block.runs)]
    runs = ensemble(specs, trained, threads=1, **options)
    shells = LogShells(block.network.shell, block.network.smoothing)
    return runs, [budget_at_loss("at_loss", run, shells, block.log_loss) for run in runs]


def read_block(block: Block) -> Found:
    """The readings of a block."""
    runs, budgets = at_loss(block, progress=False)
    frontier = frontier_window(budgets)[1]
    plain = [budget.drop_vars("time") for budget in budgets]
    return _read(plain, (-block.reach, 0.0), math.exp(-frontier), runs, block.reach, 0.0)


@cache
def without_each(block: Block) -> dict[str, np.ndarray]:
    """D_0^2 and b of the velocities, of all runs of a block, then with each left out, in one fixed window."""
    budgets = at_loss(block, progress=False)[1]
    window = frontier_window(budgets, block.reach)
    plain = [budget.drop_vars("time") for budget in budgets]
    parts = [plain, *(plain[:run] + plain[run + 1 :] for run in range(block.runs))]
    shares = [beyond_growth(part, window=window).share for part in parts]
    exponents = [velocity_law(part, window=window).exponent for part in parts]
    return {"share": np.array(shares), "exponent": np.array(exponents)}


def share_beyond(protocol: Block, seed: int) -> float:
    """The jackknife pseudo-value of D_0^2."""
    return _pseudo(protocol, seed, "share")


def velocity_exponent(protocol: Block, seed: int) -> float:
    """The jackknife pseudo-value of b of the velocities."""
    return _pseudo(protocol, seed, "exponent")


def _pseudo(protocol: Block, seed: int, which: str) -> float:
    place = (seed - protocol.first) % protocol.runs
    every = without_each(replace(protocol, first=seed - place))[which]
    return pseudo_value(float(every[0]), every[1:], place)


def amplitude(budgets: Sequence[xr.Dataset], window: tuple[float, float], share: float, exponent: float = 2.0) -> float:
    """The kappa, 1 / time, at which ``with_law`` gives runs without a remainder in common D_0^2 = ``share``."""
    begun = growth_surrogate(budgets, 0, window=window)
    low, high = 0.0, float(np.abs(beyond_growth(begun, window=window).rates).mean())
    for _ in range(DOUBLINGS):
        if _share(begun, window, high, exponent) >= share:
            break
        high *= 2
    else:
        raise ValueError(f"amplitude(share=...): no amplitude of this law carries {share:g} of the squared couplings")
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if _share(begun, window, middle, exponent) < share else (low, middle)
    return high


def _share(budgets: Sequence[xr.Dataset], window: tuple[float, float], kappa: float, exponent: float) -> float:
    return beyond_growth(with_law(budgets, window, kappa, exponent), window=window).share


def with_law(
    budgets: Sequence[xr.Dataset], window: tuple[float, float], kappa: float, exponent: float = 2.0
) -> list[xr.Dataset]:
    """Add kappa e^{(b-1)(s - s_high)} sqrt(E_a E_b) to the couplings of neighbours, s_high the window's upper end."""
    found = []
    for budget in budgets:
        index, energy = budget.shell_index.values, np.maximum(budget.energy.values, 0.0)
        distance = index[:, None] - index[None, :]
        s = (index[:, None] + index[None, :] + 1) * budget.attrs["shell_width"] / 2
        law = kappa * np.exp((exponent - 1) * (np.minimum(s, window[1]) - window[1]))
        added = np.where(np.abs(distance) == 1, np.sign(distance), 0) * law * np.sqrt(np.outer(energy, energy))
        found.append(budget.assign(coupling=budget.coupling + added))
    return found


def power(block: Block) -> dict[float, str]:
    """How often each verdict results where a law with b = 2 is planted in a block's runs, by its share.

    The runs are those of ``growth_surrogate``: what each has beyond growth keeps its size and takes a random sign.
    """
    budgets = at_loss(block, progress=False)[1]
    window = frontier_window(budgets, block.reach)
    plain = [budget.drop_vars("time") for budget in budgets]
    found = {}
    for share in PLANTED:
        kappa = amplitude(plain, window, share)
        drawn = (growth_surrogate(plain, draw, window=window) for draw in range(PLANTS))
        counts = Counter(beyond_growth(with_law(runs, window, kappa), window=window).verdict for runs in drawn)
        found[share] = ", ".join(f"{verdict}: {count}" for verdict, count in counts.most_common())
    return found


EARLY = tuple(float(t) for t in np.exp([2.0, 3.0]))
DENSE = {"noise": 0.1, "modes": 400}
GAIN_POWER = 2 / 7  # nu of g ~ t^nu for delta = -.4: 3 nu / (1 + nu) = -delta / (1 + delta)
EQUAL = Clocks(ModeClocks(layers="equal", share=0.5, **DENSE), EARLY, (-8.0, -3.0), 2.0)
CROSSED = Clocks(ModeClocks(layers="crossed", **DENSE), EARLY, (-8.0, -3.0), 3.0)
ABOVE = Clocks(
    ModeClocks(layers="equal", share=0.5, start=1.0, span=(-10.0, 0.0), **DENSE),
    EARLY,
    (-18.0, -10.0),
    1.5,
    "fails",
    shells=BROAD,
)
BELOW = Clocks(
    ModeClocks(layers="equal", share=math.exp(-20), start=-3.0, span=(-6.0, 0.0), **DENSE),
    tuple(float(t) for t in np.exp([-3.0, -2.0])),
    (-18.0, -12.0),
    0.5,
    "fails",
)
GAIN = Clocks(
    ModeClocks(target=-0.4, start=-0.267, share=0.02, gain=3.0, span=(-18.0, 0.0), **DENSE),
    EARLY,
    (-8.0, -2.0),
    None,
    verdict="beyond growth",
    clock=2 * GAIN_POWER,
)
CLOCKS = {
    "layers equal, start as target": EQUAL,
    "layers crossed, start as target": CROSSED,
    "start steeper than target": ABOVE,
    "start falling with eigenvalue": BELOW,
    "gain shared by all modes": GAIN,
}
CLOCK_CLAIMS = {
    "search-equal": EQUAL,
    "search-crossed": CROSSED,
    "search-above-one": ABOVE,
    "search-below-one": BELOW,
    "search-gain": GAIN,
}
BLOCKS = {"residual, tanh": Block(Learner()), "residual, linear": Block(Learner(activation="identity"))}
BLOCK_CLAIMS = {
    "search-features-tanh": BLOCKS["residual, tanh"],
    "search-features-linear": BLOCKS["residual, linear"],
}


def searched() -> xr.Dataset:
    """Every candidate of the search, one row each, on its confirmatory seeds: what was derived, and what is read.

    Over ``candidate``: ``derived``; ``verdict``, ``share`` (D_0^2), ``left`` (D_rest^2), ``exponent`` (b beyond growth)
    and ``velocity_exponent``, each with ``_low`` and ``_high``; ``covariance`` and its ``covariance_defect``; ``clock``
    (t u at the lowest boundary); ``power``: verdicts where a law with b = 2 is planted.
    """
    rows = {}
    for name, clocks in CLOCKS.items():
        derived = "no single power" if clocks.exponent is None else f"b = {clocks.exponent:g}"
        row = _row(read_clocks(clocks, 4000))
        rows[name] = row | {"derived": f"{derived}; covariance {clocks.covariance}", "power": "found, not needed"}
    for name, block in BLOCKS.items():
        said = "; ".join(f"{share:g} of the couplings: {counts}" for share, counts in power(block).items())
        rows[name] = _row(read_block(block)) | {"derived": "nothing", "power": said}
    names = list(next(iter(rows.values())))
    data = {name: ("candidate", np.array([row[name] for row in rows.values()])) for name in names}
    settings = {"runs": RUNS, "first_seed": 4000, "plants": PLANTS}
    return xr.Dataset(data, {"candidate": list(rows)}, provenance(settings))


def _row(found: Found) -> dict[str, float | str]:
    law = found.beyond.free
    numbers = {
        "share": (found.beyond.share, found.beyond.share_interval),
        "left": (law.share, law.share_interval),
        "exponent": (law.exponent, law.exponent_interval),
        "velocity_exponent": (found.velocity.exponent, found.velocity.exponent_interval),
        "covariance_defect": (found.covariance.estimate, found.covariance.interval),
    }
    row: dict[str, float | str] = {"verdict": found.beyond.verdict, "covariance": found.covariance.verdict}
    for name, (value, (low, high)) in numbers.items():
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row | {"clock": found.clock, "rate": float(found.beyond.rates.mean()) * found.time}


TABLES = {"10_the_whole_chain-search": searched}

MEASUREMENTS = {
    **{name: Measurement(clocks, as_derived) for name, clocks in CLOCK_CLAIMS.items()},
    **{name: Measurement(block, share_beyond) for name, block in BLOCK_CLAIMS.items()},
    **{f"{name}-exponent": Measurement(block, velocity_exponent) for name, block in BLOCK_CLAIMS.items()},
}

"""Loss exponents of the linear networks: predicted from their first time, written down, and then measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import xarray as xr

from grsd.evidence import DecisionRule
from grsd.evidence.tables import read_table, refuse_to_replace, save_table
from grsd.laws import beyond_growth
from grsd.laws.ensemble import jackknife_interval
from grsd.studies.stages import pseudo_value
from grsd.studies.the_whole_chain.links import SEEDS, Link, budgets
from grsd.studies.the_whole_chain.networks import NETWORKS, Chain, early, followed
from grsd.support.provenance import provenance

FILE, FOLDER = "10_the_whole_chain-exponents", "predictions"
AGREEMENT = DecisionRule(
    statistic="|loss exponent predicted - measured|, of means over seeds",
    direction="at most",
    threshold=0.02,
    reason="an eighth of what the clock adds to the lazy exponent of the slowest of these networks, .17",
)


def clock_exponents(chain: Chain, runs: Sequence[xr.Dataset]) -> np.ndarray:
    """c = t r of each run at its first time, r the growth of the whole kernel in the window there, from M'."""
    return chain.moments[0] * beyond_growth(budgets(chain, runs, 0)[0], window=chain.window(0)).rates


def predicted(chain: Chain, seeds: Sequence[int]) -> xr.Dataset:
    """``clock(seed)`` = c and ``exponent(seed)`` = (q + 1)(1 + c), q + 1 = beta, from the first time alone."""
    clock = clock_exponents(chain, chain.measured(seeds, early))
    values = {"clock": ("seed", clock), "exponent": ("seed", chain.model.beta * (1 + clock))}
    return xr.Dataset(values, {"seed": list(seeds)})


def write_predictions() -> None:
    """Write ``predicted`` of all networks for the confirmatory seeds, once; no later loss is computed.

    ``lazy(network)``: beta; ``closed_form(network)``: (q + 1)(1 + c) with the c of a small balanced start, NaN where
    there is none. Errors: ``FileExistsError``.
    """
    refuse_to_replace(FILE, FOLDER)
    parts = [predicted(chain, SEEDS).expand_dims(network=[name]) for name, chain in NETWORKS.items()]
    found = xr.concat(parts, "network")
    limits = [chain.model.clock_exponent for chain in NETWORKS.values()]
    beta = np.array([chain.model.beta for chain in NETWORKS.values()])
    found["lazy"] = "network", beta
    found["closed_form"] = "network", beta * (1 + np.array([np.nan if c is None else c for c in limits]))
    first = {f"first time, {name}": chain.times[0] for name, chain in NETWORKS.items()}
    save_table(found.assign_attrs(provenance(first)), FILE, FOLDER)


@cache
def written() -> xr.Dataset:
    """The stored predictions."""
    return read_table(FILE, FOLDER)


def measured_exponent(run: xr.Dataset) -> float:
    """Minus the slope of log loss on log t over the chain's times."""
    return -float(np.polyfit(np.log(run.time.values), np.log(run.loss.values), 1)[0])


def bend(run: xr.Dataset) -> float:
    """The largest distance of log loss from that line."""
    log_t, log_loss = np.log(run.time.values), np.log(run.loss.values)
    return float(np.abs(log_loss - np.polyval(np.polyfit(log_t, log_loss, 1), log_t)).max())


def compare(expected: np.ndarray, measured: np.ndarray) -> Link:
    """The means over seeds of two exponents against ``AGREEMENT``; ``values``: jackknife pseudo-values."""
    apart = expected - measured
    means = np.append(apart.mean(), (apart.sum() - apart) / (len(apart) - 1))
    low, high = jackknife_interval(means, AGREEMENT.confidence)
    size = max(low, -high, 0.0), max(abs(low), abs(high))
    says = f"|predicted - measured|, at most .02: predicted {expected.mean():.3f}, measured {measured.mean():.3f}"
    estimate, *without = np.abs(means)
    values = tuple(pseudo_value(estimate, without, place) for place in range(len(without)))
    return Link(AGREEMENT.verdict(*size), float(estimate), *size, says, values)


def exponent(name: str, seeds: Sequence[int] = SEEDS) -> Link:
    """The written prediction of a network against its measured loss exponent."""
    found = written().exponent.sel(network=name, seed=list(seeds)).values
    measured = np.array([measured_exponent(run) for run in NETWORKS[name].measured(seeds, followed)])
    return compare(found, measured)


@dataclass(frozen=True)
class Predicted:
    """The prediction of one network, over ``runs`` seeds from ``first`` on."""

    network: str
    first: int = SEEDS.start
    runs: int = len(SEEDS)


@cache
def _values(protocol: Predicted) -> tuple[float, ...]:
    return exponent(protocol.network, range(protocol.first, protocol.first + protocol.runs)).values


def disagreement(protocol: Predicted, seed: int) -> float:
    """The jackknife pseudo-value of a seed of |predicted - measured|."""
    return float(_values(protocol)[seed - protocol.first])

"""The links of the chain, each judged on an ensemble: four conditions, closure, covariance, power law, exponent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import xarray as xr

from grsd.conditions import Verdict, covariance, evolution, incoherence, interventions, propagation
from grsd.evidence import DecisionRule
from grsd.laws import BeyondGrowth, LawTest, beyond_growth, law_test
from grsd.runs import at_width
from grsd.studies.stages import pseudo_value
from grsd.studies.the_whole_chain.networks import (
    RESIDUAL,
    WIDTHS,
    WINDOW,
    Chain,
    beginning,
    changing,
    followed,
    intervened,
    propagating,
)

SEEDS = range(4000, 4024)
FEW_SEEDS = 8  # where a seed takes a kernel rate for each shell, or an operator norm; enough for a verdict
DEFECT = DecisionRule(
    statistic="D^2, the share of the squared velocities that a power law leaves",
    direction="at most",
    threshold=0.04,
    reason="as for condition 4: what leaves 4 % of the square is followed within 20 %",
)


@dataclass(frozen=True)
class Link:
    """A link of one network: its ``verdict`` ("holds", "fails", "inconclusive" or "undefined"), its number, and why.

    ``values``: per seed, or jackknife pseudo-values, whose mean is the estimate up to the jackknife's correction.
    """

    verdict: str
    value: float
    low: float
    high: float
    says: str
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        if self.verdict == "undefined":
            return f"undefined: {self.says}"
        return f"{self.verdict}: {self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def undefined(why: str) -> Link:
    """A link that is not defined for a network, and the reason."""
    return Link("undefined", math.nan, math.nan, math.nan, why)


def of_verdict(found: Verdict, says: str, values: Sequence[float] = ()) -> Link:
    """The link that a condition's ``judge`` decided."""
    return Link(found.verdict, found.estimate, *found.interval, says, tuple(float(value) for value in values))


def _pseudo(estimate: float, without: Sequence[float]) -> tuple[float, ...]:
    return tuple(pseudo_value(estimate, without, place) for place in range(len(without)))


def budgets(chain: Chain, runs: Sequence[xr.Dataset], at: int) -> list[list[xr.Dataset]]:
    """The energy budgets at time number ``at``, one ensemble for each of ``WIDTHS``."""
    return [[at_width(run, width).isel(time=at, drop=True) for run in runs] for width in WIDTHS]


def gradients(chain: Chain, seeds: Sequence[int]) -> Link:
    """Condition 1, over the depths 4, 8, 16 of the network with everything else held."""
    if not chain.model.layers:
        return undefined("no depth to vary: condition 1 bounds gradients as the depth grows")
    if not chain.model.skips:
        return undefined("followed at one depth only, while condition 1 bounds gradients as the depth grows")
    runs = [run for deep in RESIDUAL.values() for run in deep.measured(seeds, propagating)]
    found = propagation.judge(runs)
    per_seed = found.details.per_seed
    worst = np.max([per_seed[name] for name in ("growth", "norm_growth")], axis=0)
    return of_verdict(found, "slope of the largest log gain on log depth, at most .1", worst)


def start(chain: Chain, seeds: Sequence[int]) -> Link:
    """Condition 2."""
    runs = chain.measured(seeds, beginning)
    says = "excess coherence at the start, at most .25"
    return of_verdict(incoherence.judge(runs), says, [float(run.excess) for run in runs])


def rates_of_change(chain: Chain, seeds: Sequence[int]) -> Link:
    """Condition 3, on the first eight seeds."""
    found = evolution.judge(chain.measured(seeds[:FEW_SEEDS], changing))
    eta = found.details
    says = f"eta, at most .1; t rho at most {eta.largest:.2g}"
    return Link(eta.verdict, eta.value, *eta.interval, says, _pseudo(eta.value, eta.without))


def growth(chain: Chain, seeds: Sequence[int]) -> dict[str, Link]:
    """Condition 4 at the judged time, as ``growth_links``."""
    runs = budgets(chain, chain.measured(seeds, followed), chain.judged)[0]
    return growth_links(beyond_growth(runs, window=chain.window(chain.judged)))


def growth_links(found: BeyondGrowth) -> dict[str, Link]:
    """Condition 4: "growth only", the law with b = 1, and "non-trivial", a law of the couplings beyond growth."""
    holds = {"growth only": "holds", "inconclusive": "inconclusive"}
    says = "D_0^2, the share of the squared couplings beyond growth, at most .04"
    only = Link(holds.get(found.verdict, "fails"), found.share, *found.share_interval, says)
    if found.verdict == "growth only":
        return {
            "C4, growth only": only,
            "C4, non-trivial": undefined("nothing beyond growth whose law could be judged"),
        }
    words = {"non-trivial invariance": "holds", "beyond growth": "fails"}
    free = found.free
    says = f"D_rest^2 of the law beyond growth; {found.reason}"
    other = Link(words.get(found.verdict, "inconclusive"), free.share, *free.share_interval, says)
    return {"C4, growth only": only, "C4, non-trivial": other}


def growth_values(chain: Chain, seeds: Sequence[int]) -> tuple[float, ...]:
    """The jackknife pseudo-values of D_0^2."""
    runs, window = budgets(chain, chain.measured(seeds, followed), chain.judged)[0], chain.window(chain.judged)
    without = [beyond_growth([*runs[:one], *runs[one + 1 :]], window=window).share for one in range(len(runs))]
    return _pseudo(beyond_growth(runs, window=window).share, without)


def closure(chain: Chain, seeds: Sequence[int]) -> Link:
    """Closure under interventions with one clock, on the first eight seeds."""
    runs = chain.measured(seeds[:FEW_SEEDS], intervened)
    found = interventions.judge(runs, window=chain.window(chain.judged), law="clock")
    says = "R^2 of the law with one clock under interventions, at least .8"
    return of_verdict(found, says, found.details.explained["clock"])


def covariant(chain: Chain, seeds: Sequence[int]) -> Link:
    """Covariance along the run, over all times of the chain."""
    runs = chain.measured(seeds, followed)
    return of_verdict(covariance.judge(runs, reach=-WINDOW[0], above=WINDOW[1]), "D^2 along the run, at most .01")


def covariance_values(chain: Chain, seeds: Sequence[int]) -> tuple[float, ...]:
    """The jackknife pseudo-values of D^2 along the run."""
    runs, options = chain.measured(seeds, followed), {"reach": -WINDOW[0], "above": WINDOW[1]}
    without = [covariance.along_runs([*runs[:one], *runs[one + 1 :]], **options).defect for one in range(len(runs))]
    return _pseudo(covariance.along_runs(runs, **options).defect, without)


def power_law(chain: Chain, seeds: Sequence[int]) -> Link:
    """The power law of the velocities at the judged time, on both widths."""
    both = budgets(chain, chain.measured(seeds, followed), chain.judged)
    return power_link(law_test(both, observable="velocity", window=chain.window(chain.judged)))


def power_link(found: LawTest) -> Link:
    """The power law of velocities, by ``DEFECT``."""
    fit = found.fits[0]
    low, high = fit.exponent_interval
    says = f"D^2 of the velocities, at most .04; b = {fit.exponent:.3f} [{low:.3f}, {high:.3f}]"
    return Link(DEFECT.verdict(*found.defect_interval), found.defect, *found.defect_interval, says)


def power_law_values(chain: Chain, seeds: Sequence[int]) -> tuple[float, ...]:
    """The jackknife pseudo-values of D^2 of the velocities."""
    both, options = budgets(chain, chain.measured(seeds, followed), chain.judged), {"observable": "velocity"}
    options["window"] = chain.window(chain.judged)
    without = [law_test([[*w[:one], *w[one + 1 :]] for w in both], **options).defect for one in range(len(seeds))]
    return _pseudo(law_test(both, **options).defect, without)


LINKS: dict[str, Callable[[Chain, Sequence[int]], Link]] = {
    "C1": gradients,
    "C2": start,
    "C3": rates_of_change,
    "closure": closure,
    "covariance": covariant,
    "power law": power_law,
}
VALUES: dict[str, Callable[[Chain, Sequence[int]], tuple[float, ...]]] = {
    "C1": lambda chain, seeds: gradients(chain, seeds).values,
    "C2": lambda chain, seeds: start(chain, seeds).values,
    "C3": lambda chain, seeds: rates_of_change(chain, seeds).values,
    "C4": growth_values,
    "closure": lambda chain, seeds: closure(chain, seeds).values,
    "covariance": covariance_values,
    "power law": power_law_values,
}


@dataclass(frozen=True)
class OfChain:
    """One link of one network on ``runs`` seeds from ``first`` on."""

    chain: Chain
    link: str
    first: int = SEEDS.start
    runs: int = len(SEEDS)


@cache
def _values(protocol: OfChain) -> tuple[float, ...]:
    return VALUES[protocol.link](protocol.chain, range(protocol.first, protocol.first + protocol.runs))


def value_of_seed(protocol: OfChain, seed: int) -> float:
    """The number of one seed, or its jackknife pseudo-value among the seeds of the protocol."""
    return float(_values(protocol)[seed - protocol.first])

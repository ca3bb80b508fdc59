"""The links of late perceptrons: depth 16, width 48, parity of digits, at e^-2.5 of their first loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grsd.conditions import covariance, interventions
from grsd.conditions.matched import frontier_window, widths_of
from grsd.laws import beyond_growth, law_test
from grsd.runs import ensemble
from grsd.studies import one_network
from grsd.studies.interventions import Intervened, reading
from grsd.studies.stages import LATE, REACH
from grsd.studies.the_whole_chain.links import FEW_SEEDS, SEEDS, Link, growth_links, of_verdict, power_link, undefined

PERCEPTRONS = {"residual perceptron": "residual", "plain perceptron": "plain"}
DEPTH = 16


def links_of_perceptron(name: str) -> dict[str, Link]:
    """Every link of one of ``PERCEPTRONS`` on the confirmatory seeds."""
    block = LATE.block(PERCEPTRONS[name], DEPTH, SEEDS.start)
    few = SEEDS[:FEW_SEEDS]
    runs = block.measure(workers=1, progress=False)
    window = frontier_window(runs, REACH)
    followed = ensemble(block.specs, workers=1, threads=1, progress=False)
    readings = [reading(Intervened(block.network, block.log_loss), seed) for seed in few]
    around = -float(np.mean([np.log(float(run.time)) for run in readings]))
    closed = interventions.judge(readings, window=(around - REACH, around), law="clock")
    spec = replace(block.network, seed=SEEDS.start)
    found = {
        "C1": of_verdict(one_network.judge_propagation(spec, few), "slope of the largest log gain on log depth"),
        "C2": of_verdict(one_network.judge_incoherence(spec, SEEDS), "excess coherence at the start, at most .25"),
        "C3": of_verdict(one_network.judge_evolution(spec, few), "eta at most .1, t rho at most 3"),
        "closure": of_verdict(closed, "R^2 of the law with one clock under interventions, at least .8"),
        "covariance": of_verdict(covariance.judge(followed, reach=REACH), "D^2 along the run, at most .01"),
        "power law": power_link(law_test(widths_of("links", runs), observable="velocity", window=window)),
        "exponent": undefined("the error of digits has no power law in the eigenvalue from which q could be read"),
    }
    return found | growth_links(beyond_growth(widths_of("links", runs)[0], window=window))

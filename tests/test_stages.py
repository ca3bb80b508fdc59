"""The networks of notebooks 06 to 08, and the claims that figures ask the studies for."""

import math

import pytest

from grsd.conditions import evolution, invariance, locality
from grsd.evidence import claims
from grsd.laws.beyond import NEGLIGIBLE
from grsd.networks import architecture
from grsd.runs import ensemble
from grsd.studies import beyond_growth, jacobian_evolution, log_shift_invariance, renormalization
from grsd.studies.stages import INVARIANCE, quick

SMALL = {"samples": 30, "width": 8, "seeds": 3, "times": (0.5, 4.0, 3), "tolerance": 1e-2, "device": "cpu"}


@pytest.fixture(scope="module")
def known():
    return claims()


def test_a_quick_stage_has_every_compared_architecture():
    cells = quick(**SMALL, log_loss=-0.5).cells([2, 5], 0)
    assert set(cells) == {(name, depth) for name in architecture.names(compared=True) for depth in (2, 5)}
    for (name, depth), block in cells.items():
        assert [(spec.architecture, spec.depth, spec.seed) for spec in block.specs] == [
            (name, depth, seed) for seed in range(3)
        ]
        assert block.log_loss == -0.5
        assert {key: getattr(block.network, key) for key in SMALL if key != "seeds"} == {
            key: value for key, value in SMALL.items() if key != "seeds"
        }
        assert block.network.shell_widths == INVARIANCE.shell_widths


def test_a_run_that_did_not_get_there_goes_on_with_the_same_spacing():
    """Learning to e^-3 takes longer than four units of time here: the snapshots at .5, 1, 2, 4 go on to 16."""
    stage = quick(**SMALL | {"times": (0.5, 4.0, 4), "seeds": 1}, log_loss=-3.0)
    block = stage.block("residual", 2, 0)
    (before,) = ensemble(block.specs, threads=1)
    assert before.loss[-1] > math.exp(-3.0) * before.start_loss
    (found,) = block.measure(progress=False)
    assert found.time * before.start_largest_eigenvalue > 4.0
    (spec,) = block.specs
    assert block._reaching(spec, before).times == (0.5, 16.0, 6)
    below = before.assign(loss=before.loss * 1e-3)
    assert block._reaching(spec, below).times == (0.125, 4.0, 4)


DRAWN = [
    (log_shift_invariance, log_shift_invariance.EARLY_CLAIMS, invariance.RULE.threshold),
    (log_shift_invariance, log_shift_invariance.LATE_CLAIMS, invariance.RULE.threshold),
    (log_shift_invariance, log_shift_invariance.LARGE_CLAIMS, invariance.RULE.threshold),
    (renormalization, renormalization.LOCALITY_CLAIMS, locality.RULE.threshold),
]


@pytest.mark.parametrize(("study", "claimed", "threshold"), DRAWN)
def test_claims_of_cells_are_measured_there_and_judged_at_the_threshold_that_is_drawn(known, study, claimed, threshold):
    for cell, claim in claimed.items():
        protocol = study.MEASUREMENTS[claim].protocol
        network = protocol.blocks[0].network if hasattr(protocol, "blocks") else protocol.network
        assert (network.architecture, network.depth) == cell
        assert known[claim].judged.threshold == threshold
        assert known[claim].judged.direction == "at most"


def test_claims_of_slopes_and_bounds(known):
    study = jacobian_evolution
    for (name, of), claim in study.SLOPE_CLAIMS.items():
        protocol = study.MEASUREMENTS[claim].protocol
        assert (protocol.network.architecture, protocol.of) == (name, of)
        assert known[claim].judged.threshold == evolution.SLOPE
    for name, claim in study.BOUND_CLAIMS.items():
        assert study.MEASUREMENTS[claim].protocol.network.architecture == name
        assert known[claim].judged.threshold == evolution.BOUND


def test_claims_beyond_growth_are_measured_in_their_cells_on_fresh_seeds(known):
    study = beyond_growth
    for cell in study.CELLS:
        claim = study.claim_of(*cell)
        protocol, rule = study.MEASUREMENTS[claim].protocol, known[claim].judged
        network = protocol.network
        assert (network.architecture, network.depth, network.width) == cell[1:]
        assert protocol.log_loss == study.STAGES[cell[0]].log_loss
        assert (rule.threshold, rule.direction) == (NEGLIGIBLE, "at most")
    for claim, measurement in study.MEASUREMENTS.items():
        rule = known[claim].judged
        assert (rule.seeds, rule.first_seed) == (study.RUNS, study.FIRST)
        protocol = measurement.protocol
        blocks = getattr(protocol, "blocks", None) or [getattr(protocol, name, protocol) for name in ("one", "other")]
        assert {(block.runs, block.first) for block in blocks} == {(study.RUNS, study.FIRST)}

"""Linear networks whose kernel grows as one clock, and the links of the chain judged on them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import grsd
from grsd.solvable.chain import ChainState, LinearChain
from grsd.studies.the_whole_chain import broken, exponents, links, networks

SMALL = LinearChain(modes=8, outputs=2, width=3, lowest=-5.0, seed=1)
TIMES = [0.3, 1.0]


@pytest.mark.parametrize(
    "changed",
    [
        {"layers": 2},
        pytest.param({}, marks=pytest.mark.long),
        pytest.param({"layers": 2, "skips": False, "start": 1.0}, marks=pytest.mark.long),
        pytest.param({"outputs": 1, "wiggle": (0.5, 2.0)}, marks=pytest.mark.long),
    ],
    ids=["residual", "two layers", "no skips", "one output"],
)
def test_exact_flow_kernel_and_rate_are_those_of_the_module(changed):
    model = replace(SMALL, **changed)
    module, inputs, targets = model.problem()
    flow = grsd.gradient_flow(module, inputs, targets, TIMES, tolerance=1e-9, progress=False)
    frame = (inputs / inputs.square().sum(0).sqrt()).contiguous()
    turn = torch.kron(frame, torch.eye(model.outputs, dtype=torch.float64))
    for state, snapshot in zip(model.states(TIMES), flow.snapshots, strict=True):
        assert model.loss(state) == pytest.approx(float(snapshot.error.square().sum()) / (2 * model.modes), rel=1e-6)
        apart = turn.T @ snapshot.error.reshape(-1) - model.matrices(state)[2]
        assert float(apart.abs().max() / snapshot.error.abs().max()) < 1e-6
        kernel, rate = grsd.tangent_kernel_and_rate(snapshot.model, inputs, targets)
        found = model.matrices(weights(snapshot.model, snapshot.time))
        for own, true in zip(found, (turn.T @ kernel @ turn, turn.T @ rate @ turn), strict=False):
            assert float((own - true).abs().max() / true.abs().max()) < 1e-10


def weights(module, time):
    first, readout = (getattr(module, name).weight.detach().double().numpy() for name in ("first", "readout"))
    inner = [layer.weight.detach().double().numpy() for layer in module.inner]
    return ChainState(time, first, np.array(inner).reshape(-1, len(first), len(first)), readout)


def test_module_at_a_state_has_its_error():
    state = SMALL.states([1.0])[0]
    module, inputs, targets = SMALL.problem(state)
    error = (module(inputs) - targets).detach()
    assert float(error.square().sum()) == pytest.approx(float(np.square(SMALL.error(state)).sum()), rel=1e-12)


def test_clock_of_two_layers_and_its_limit():
    model = LinearChain()
    assert model.clock_exponent == pytest.approx(0.6 / 1.4)
    assert replace(model, layers=1, skips=False).clock_exponent == pytest.approx(3 / 1.8 - 1)
    assert replace(model, beta=1.5).clock_exponent == 0
    assert replace(model, layers=4).clock_exponent is None
    times = np.geomspace(60, 600, 5)
    grown = np.log([model.clock(state) for state in model.states(times)])
    assert np.polyfit(np.log(times), grown, 1)[0] == pytest.approx(model.clock_exponent, abs=0.02)


def test_a_lopsided_start_keeps_the_outputs():
    model = replace(SMALL, lopsided=20.0)
    assert model.error(model.initial()) == pytest.approx(SMALL.error(SMALL.initial()))
    assert model.clock(model.initial()) == pytest.approx(400 * SMALL.clock(SMALL.initial()))


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("outputs", 17, r"LinearChain\(outputs=...\): expected at most width = 16, got 17"),
        ("beta", -1.0, "LinearChain.*beta"),
        ("wiggle", (1.5, 1.0), "LinearChain.*wiggle"),
        ("bend", (3.0, 1.0), "LinearChain.*bend"),
    ],
)
def test_refusals(field, value, line):
    with pytest.raises(ValueError, match=line):
        LinearChain(**{field: value})
    with pytest.raises(ValueError, match="increasing"):
        SMALL.states([2.0, 1.0])


def test_agreement_of_exponents_is_judged_by_their_means():
    measured = 0.57 + 0.03 * np.tile([-1.0, 1.0], 12)
    assert links_of(measured, 0.0) == "holds"
    assert links_of(measured, 0.1) == "fails"
    assert links_of(measured, 0.02) == "inconclusive"
    found = exponents.compare(np.full(24, 0.6), np.full(24, 0.57))
    assert found.values == pytest.approx([0.03] * 24)


def links_of(measured, shift):
    return exponents.compare(np.full(24, 0.57 + shift), measured).verdict


@pytest.mark.long
def test_a_prediction_sees_the_first_time_alone(monkeypatch, tmp_path):
    """Another last time, hence other later losses, gives the same prediction; nothing later is in what it reads."""
    monkeypatch.setenv("GRSD_RUNS", str(tmp_path))
    chain = networks.Chain(replace(networks.TWO.model, modes=80, outputs=1), (20.0, 200.0, 3), judged=1)
    first = exponents.predicted(chain, range(4))
    other = exponents.predicted(replace(chain, times=(20.0, 50.0, 7)), range(4))
    assert first.exponent.values == pytest.approx(other.exponent.values, rel=1e-12)
    assert chain.measured([0], networks.early)[0].sizes["time"] == 1


def test_undefined_links_have_their_reason():
    found = links.gradients(networks.TWO, range(8))
    assert found.verdict == "undefined"
    assert "depth" in str(found)


@pytest.mark.long
def test_whole_chain_on_two_layers_and_random_directions(monkeypatch, tmp_path):
    monkeypatch.setenv("GRSD_RUNS", str(tmp_path))
    chain, seeds = networks.TWO, range(8)
    found = links.growth(chain, seeds) | {"law": links.power_law(chain, seeds), "cov": links.covariant(chain, seeds)}
    assert [found[name].verdict for name in ("C4, growth only", "law", "cov")] == ["holds"] * 3
    assert broken.explained(chain, [0])[0] < 0.3
    still = broken.readings(broken.BROKEN["start, large"], range(4))
    assert still.measured.mean() == pytest.approx(0.4, abs=0.03)
    assert abs(still.clock.mean()) < 0.05

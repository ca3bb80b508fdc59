"""What a stranger's network is measured by: nodes, verdicts, slopes, states of a training."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import grsd
from grsd.conditions import judge_models, propagation
from grsd.conditions.contract import Estimate, conclude
from grsd.laws import loss_slope

GENERATOR = torch.Generator().manual_seed(0)
X, Y = (torch.randn(shape, dtype=torch.float64, generator=GENERATOR) for shape in ((6, 5), (6, 2)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.outside = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.outside(torch.tanh(self.inside(x)))


class Stranger(nn.Module):
    def __init__(self, depth=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.enter, self.leave = nn.Linear(5, 4), nn.Linear(4, 2)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))

    def forward(self, x):
        h = self.enter(x)
        for block in self.blocks:
            h = block(h)
        return self.leave(h)


class Language(nn.Module):
    """Tokens, positions, a tied readout and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(7, 4), nn.Embedding(9, 4)
        self.first, self.twice, self.last = Block(), nn.Linear(4, 4), Block()
        self.read = nn.Linear(4, 7, bias=False)
        self.read.weight = self.tokens.weight

    def forward(self, tokens):
        h = self.first(self.tokens(tokens) + self.places(torch.arange(tokens.shape[1])))
        return self.read(self.last(self.twice(self.twice(h))))


def test_nodes_are_what_everything_passes_through():
    assert propagation.nodes(Stranger(), X) == ["blocks.0", "blocks.1", "blocks.2", "leave"]
    assert propagation.nodes(Stranger(), X, side="output") == ["enter", "blocks.0", "blocks.1", "blocks.2", "leave"]
    plain = nn.Sequential(nn.Linear(5, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2))
    assert propagation.nodes(plain, X) == ["1", "1.1", "2"]
    model, tokens = Language(), torch.randint(0, 7, (3, 4), generator=GENERATOR)
    assert propagation.nodes(model, tokens) == ["first", "last", "read"]
    found = propagation.measure(nn.Sequential(model, nn.Flatten()), tokens, node=["0.first", "0.last"])
    assert found.l_name.values.tolist() == ["0.first", "0.last"]
    with pytest.raises(ValueError, match=r"^propagation.nodes\(model, ...\): expected at least 2 submodules that"):
        propagation.nodes(nn.Linear(5, 2), X)


def test_layers_called_more_than_once_are_no_nodes_of_their_own():
    """Nor are those of whole numbers, such as an embedding of places."""
    model, tokens = Language(), torch.randint(0, 7, (3, 4), generator=GENERATOR)
    found = propagation.measure(nn.Sequential(model, nn.Flatten()), tokens, norms=False)
    layers = ["first.inside", "first.outside", "last.inside", "last.outside", "read"]
    assert found.l_name.values.tolist() == [f"0.{name}" for name in layers]
    twice = nn.Linear(5, 5)
    with pytest.raises(ValueError, match=r"calls \['2'\] and 0 more than once; name .*node=propagation.nodes\(model, "):
        propagation.measure(nn.Sequential(twice, twice, nn.Linear(5, 3), nn.Tanh()), X)


def test_a_condition_judged_on_a_strangers_module():
    found = judge_models("propagation", Stranger, X, Y, seeds=range(4), depths=(1, 2, 4), node=r"blocks\.\d+|leave")
    assert found.condition == "propagation"
    assert found.runs == 12
    short = {"seeds": range(2), "log_loss": -1.0, "tolerance": 1e-3}
    found = judge_models("evolution", lambda seed: Stranger(1, seed), X, Y, shells=grsd.LogShells(1.0, 0.3), **short)
    assert (found.condition, found.verdict, found.runs) == ("evolution", "inconclusive", 2)
    assert "2 seeds are fewer than the 8 that a verdict needs; needs about " in found.reason


@pytest.mark.long
def test_conditions_3_and_4_judged_on_a_strangers_module():
    shells = grsd.LogShells(0.7, 0.3)
    for name in ("evolution",):
        found = judge_models(
            name, lambda seed: Stranger(2, seed), X, Y, log_loss=-0.5, shells=shells, tolerance=1e-3, progress=False
        )
        assert (found.condition, found.runs) == (name, 8)
        assert found.verdict in {"holds", "fails", "inconclusive"}
        assert math.isfinite(found.estimate)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"condition": "transport"}, r"condition=...\): expected one of \('propagation',"),
        ({"make": 3}, r"make=...\): expected a function of the seed, got 3"),
        ({"condition": "propagation"}, r"'propagation', ..., depths=...\): expected depths, at least three, got None"),
        ({"log_loss": 0.5}, r"log_loss=...\): expected a finite number"),
        ({"seeds": [0.5]}, r"seeds=...\): expected whole numbers"),
        ({"windows": 3}, r"windows=...\): evolution takes jacobian, rate, shells"),
    ],
)  # fmt: skip
def test_refusals_before_anything_runs(given, message, monkeypatch):
    monkeypatch.setattr("grsd.conditions.strangers.flow_to_loss", lambda *args, **options: pytest.fail("trained"))
    arguments = {"condition": "evolution", "make": lambda seed: Stranger(1, seed), "inputs": X, "targets": Y} | given
    with pytest.raises((TypeError, ValueError), match=rf"^judge_models\({message}"):
        judge_models(**arguments)


def test_a_network_that_does_not_get_so_far_is_said():
    with pytest.raises(ValueError, match=r"^flow_to_loss\(log_loss=-40\): after 10 / lambda_max the log of the loss"):
        judge_models("evolution", lambda seed: Stranger(1, seed), X, Y, log_loss=-40.0, latest=10.0)


def test_states_of_a_training_as_a_flow():
    """Of a gradient flow: every function of a state is the same, bit by bit; of Adam: kernels of its own states."""
    model = Stranger(1).double()
    flow = grsd.gradient_flow(model, X, Y, [0.0, 0.5, 1.0, 2.0], tolerance=1e-3)
    states = [snapshot.model.state_dict() for snapshot in flow.snapshots]
    same = grsd.Flow.from_checkpoints(model, states, flow.times, X, Y)
    assert np.array_equal(same.history.loss, flow.history.loss)
    assert np.isnan(same.history.error_estimate).all()
    shells = grsd.LogShells(1.0, 0.3)
    one, other = (grsd.shell_history(item, shells, progress=False) for item in (flow, same))
    for name in ("energy", "flux", "coupling", "velocity"):
        assert np.array_equal(one[name], other[name], equal_nan=True)
    assert grsd.conditions.CONDITIONS["evolution"].measure(same, shells=shells).sizes["shell"] > 0
    trained, kept = Stranger(1, seed=1), []
    optimizer = torch.optim.Adam(trained.parameters(), 0.01)
    for _ in range(3):
        kept.append({name: value.clone() for name, value in trained.state_dict().items()})
        optimizer.zero_grad()
        (trained(X.float()) - Y.float()).square().mean().backward()
        optimizer.step()
    found = grsd.Flow.from_checkpoints(trained, kept, [0.0, 0.01, 0.02], X, Y)
    assert (np.diff(found.history.loss) < 0).all()
    assert found.history.attrs["integrator"] == "none: states of a training"


@pytest.mark.usefixtures("as_users_run_it")
def test_refusals_of_states():
    model = Stranger(1).double()
    states = [model.state_dict()] * 2
    for given, message in (
        ((states, [0.0]), r"times\): expected increasing times from 0, one for each state"),
        ((states, [1.0, 2.0]), r"times\): expected increasing times from 0, one for each of 2 states"),
        ((states[:1], [0.0]), r"states\): expected at least 2 state dicts or modules, got 1"),
        (([states[0], {}], [0.0, 1.0]), r"states\[1\]=...\): the state does not fit its module"),
    ):
        with pytest.raises(ValueError, match=rf"^Flow.from_checkpoints\({message}"):
            grsd.Flow.from_checkpoints(model, *given, X, Y)


def history(slope, seed, times):
    drawn = np.random.default_rng(seed).standard_normal(2)
    loss = (1 + 0.05 * drawn[0]) * times ** -(slope + 0.01 * drawn[1])
    return xr.Dataset({"loss": ("time", loss)}, {"time": times})


def test_the_slope_of_the_loss_and_its_test():
    times = np.geomspace(1, 1e3, 30)
    lawful = loss_slope([history(0.7, seed, times) for seed in range(8)], 2.0, 900.0)
    low, high = lawful.exponent_interval
    assert low <= 0.7 <= high
    assert high - low < 0.06
    assert lawful.verdict == "power law"
    bent = [history(0.7, seed, times) * np.exp(-times / 300) for seed in range(8)]
    found = loss_slope([run.assign_coords(time=times) for run in bent], 2.0, 900.0)
    assert found.verdict == "another law"
    with pytest.raises(ValueError, match=r"^loss_slope\(first, last\): expected at least 3 times of every run"):
        loss_slope([history(0.7, seed, times) for seed in range(8)], 0.1, 900.0)
    with pytest.raises(ValueError, match=r"^loss_slope\(histories\): expected at least 4 flows or histories, got 1"):
        loss_slope([history(0.7, 0, times)], 2.0, 900.0)


def test_inconclusive_verdicts_say_how_many_more_seeds():
    decided = Estimate("the number", 0.08, (0.02, 0.14), 0.1)
    found = conclude("propagation", "inconclusive", decided, 8, None, least=4)
    assert found.reason.endswith("not decided beside 0.1; needs about 65 more seeds, if the estimate stays")
    held = conclude("propagation", "holds", decided._replace(interval=(0.07, 0.09)), 8, None, least=4)
    assert "more seeds" not in held.reason

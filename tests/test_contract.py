"""One contract: every condition measures and judges a module of a stranger as it does a perceptron of the library."""

import inspect
import math
import re

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import grsd
from grsd.conditions import CONDITIONS, Verdict, evolution, incoherence, invariance, of_specs, propagation
from grsd.conditions.contract import Estimate, conclude
from grsd.conditions.matched import frontier_window, history_of

DEPTHS, SEEDS = (2, 3, 4), (0, 1, 2, 3)
SHELLS = grsd.LogShells(0.7, 0.3)
LOG_LOSS = -0.5
SMALL = {"shells": SHELLS, "flips": 49, "draws": 80, "log_loss": LOG_LOSS}


def taken(function, options):
    """Those of ``options`` that a function of a condition takes, so that a new condition needs no line here."""
    return {name: value for name, value in options.items() if name in inspect.signature(function).parameters}


MEASURED = {name: taken(condition.measure, SMALL) for name, condition in CONDITIONS.items()}
DIMENSIONS = {"propagation": {"l", "m"}, "evolution": {"time", "shell"}}
DIMENSIONS |= {name: {"shell", "boundary"} for name in CONDITIONS if MEASURED[name] and name not in DIMENSIONS}
LABELS = {"depth", "seed", "versions"}


class Gated(nn.Module):
    """A stranger's network: each block lets through what its own gate says, beside a skip."""

    def __init__(self, depth, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.enter = nn.Linear(64, 10)
        self.values = nn.ModuleList(nn.Linear(10, 10) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(10, 10) for _ in range(depth))
        self.leave = nn.Linear(10, 1)

    def forward(self, x):
        h = self.enter(x)
        for value, gate in zip(self.values, self.gates, strict=True):
            h = h + torch.tanh(value(h)) * torch.sigmoid(gate(h)) / len(self.values) ** 0.5
        return self.leave(h)


def perceptron(depth, seed):
    return grsd.Perceptron(64, 1, width=10, depth=depth + 1, residual=True, seed=seed)


@pytest.fixture(
    scope="module",
    params=[Gated, pytest.param(perceptron, marks=pytest.mark.long)],
    ids=["a stranger's module", "a perceptron"],
)
def flows(request):
    """Short flows by (depth, seed), from the start on."""
    data = grsd.digits(30, task="parity")
    found = {}
    for depth in DEPTHS:
        for seed in SEEDS:
            model = request.param(depth, seed).double()
            top = float(torch.linalg.eigvalsh(grsd.tangent_kernel(model, data.inputs))[-1])
            times = [0.0, *(np.array([0.3, 2.0, 3.0, 8.0]) / top)]
            found[depth, seed] = grsd.gradient_flow(model, data.inputs, data.targets, times, tolerance=1e-3)
    return found


def ensemble_of(condition, flows, **options):
    return [
        condition.measure(flow, parameters={"depth": depth, "seed": seed}, **options)
        for (depth, seed), flow in flows.items()
    ]


def test_every_condition_measures_and_judges_any_module(flows):
    histories = {place: history_of("test", flow, SHELLS) for place, flow in flows.items()}  # once for five conditions
    window = frontier_window(ensemble_of(invariance, histories, log_loss=LOG_LOSS), 9.0)
    asked = {"window": window, "factors": (1, 2)}
    other = {"interventions": {"window": (-math.inf, math.inf)}}
    for name, condition in CONDITIONS.items():
        ensemble = ensemble_of(condition, histories if condition.reads == "history" else flows, **MEASURED[name])
        for dataset, (depth, seed) in zip(ensemble, flows, strict=True):
            assert isinstance(dataset, xr.Dataset)
            assert set(dataset.attrs) >= LABELS, f"{name}: grsd.support.provenance.provenance(parameters) gives them"
            assert (dataset.attrs["depth"], dataset.attrs["seed"]) == (depth, seed)
            needed = DIMENSIONS.get(name, set(dataset.dims))
            assert set(dataset.dims) >= needed
            assert needed <= set(dataset.coords), f"{name}: a dimension without its labels"
        found = condition.judge(ensemble, **other.get(name, taken(condition.judge, asked)))
        assert isinstance(found, Verdict)
        assert found.condition == name
        assert found.verdict in {"holds", "fails", "inconclusive"}
        assert found.runs == len(ensemble) == 12
        assert str(found).startswith(f"{found.verdict}: ")
        assert len(found.reason.splitlines()) == 1
        if math.isfinite(found.estimate):
            low, high = found.interval
            assert low <= found.estimate <= high
            assert f"{found.estimate:.3g}" in found.reason
        else:
            assert (name, found.verdict) == ("incoherence", "inconclusive")
            assert "could not be estimated" in found.reason
        assert found.power is None or 0 <= found.power <= 1
        assert found.power_against
        assert found.details is not None


def test_a_snapshot_and_a_module_read_as_the_flow_that_begins_with_them(flows):
    flow = flows[3, 1]
    start, batch = flow.snapshots[0], (flow.inputs, flow.targets)
    for condition in (propagation, incoherence):
        options = MEASURED[condition.name]
        found = condition.measure(flow, **options)
        assert condition.measure(start, *batch, **options).identical(found)
        assert condition.measure(start.model, *batch, **options).identical(found)
        later = condition.measure(flow.snapshots[-1], *batch, **options)
        assert not later.equals(found)
        with pytest.raises(
            TypeError, match=rf"^{condition.name}\.measure\(history, .*\): a Flow has its own batch; .*$"
        ):
            condition.measure(flow, *batch, **options)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("name", ["evolution", "invariance", "closure", "locality", "covariance", "profile_flow"])
def test_a_flow_without_its_start_is_refused(flows, name):
    flow = flows[2, 0]
    late = grsd.Flow(flow.snapshots[1:], flow.inputs, flow.targets, flow.history.isel(time=slice(1, None)))
    with pytest.raises(ValueError, match=rf"^{name}\.measure\(history\): expected the start among the snapshots, .*$"):
        CONDITIONS[name].measure(late)
    with pytest.raises(
        TypeError, match=rf"^{name}\.measure\(history\): expected a grsd.Flow, made by .* got Snapshot$"
    ):
        CONDITIONS[name].measure(flow.snapshots[0])


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("name", [*CONDITIONS])
def test_conditions_are_about_the_squared_error(name):
    """They refuse another by ``contract.of_squared_error``; gradient propagation alone depends on no loss."""
    data = grsd.digits(4)
    model = grsd.Perceptron(64, 10, width=4, depth=3)
    flow = grsd.gradient_flow(model, data.inputs, data.targets.argmax(1), [0.0, 0.01], loss="cross-entropy")
    if name == "propagation":
        assert isinstance(CONDITIONS[name].measure(flow), xr.Dataset)
        return
    line = (
        rf"^{name}\.measure\(history\): expected a flow of the squared error, .* got one of loss='cross-entropy'; .*$"
    )
    with pytest.raises(ValueError, match=line):
        CONDITIONS[name].measure(flow)


SPEC = grsd.Spec(
    width=8,
    depth=2,
    task="parity",
    samples=20,
    times=(1.0, 8.0, 3),
    shell_widths=(math.log(2), 1.0),
    smoothing=0.3,
    tolerance=1e-3,
)


ALIKE = ("incoherence", "covariance", "interventions", "closure", "locality", "profile_flow")  # as one of the others


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if n in ALIKE else ()) for n in CONDITIONS])
def test_specs_give_what_their_flows_give(name, tmp_path, monkeypatch):
    """By one helper, kept in files, with the numbers of the condition measured on the network itself."""
    monkeypatch.setenv("GRSD_RUNS", str(tmp_path))
    condition, data = CONDITIONS[name], SPEC.batch()
    options = {"flips": 19} if name == "incoherence" else {"log_loss": -2.0} if "log_loss" in MEASURED[name] else {}
    specs = SPEC.with_seeds([0, 1])
    found = of_specs(condition, specs, workers=1, progress=False, **options)
    assert [(item.attrs["seed"], item.attrs["depth"]) for item in found] == [(0, 2), (1, 2)]
    kept = {path.name for path in tmp_path.glob("*.nc")}
    assert len(kept) == 2
    again = of_specs(condition, specs, workers=1, progress=False, **options)
    assert {path.name for path in tmp_path.glob("*.nc")} == kept
    network = SPEC.network(data)
    top = float(torch.linalg.eigvalsh(grsd.tangent_kernel(network, data.inputs))[-1])
    times = [0.0, *grsd.log_times(1.0 / top, 8.0 / top, 3)]
    flow = grsd.gradient_flow(network, data.inputs, data.targets, times, tolerance=1e-3)
    shells = taken(condition.measure, {"shells": SPEC.shells[0]})
    if condition.reads == "history":
        shells = {"shells": SPEC.shells}
    own = condition.measure(flow, **shells, **options)
    for variable in own.data_vars:
        if own[variable].dtype.kind == "f":
            largest = float(np.nanmax(np.abs(own[variable]))) if own[variable].size else 0.0
            near = {"rtol": 1e-7, "atol": 1e-12 * largest, "equal_nan": True}
            assert np.allclose(own[variable], found[0][variable], **near), variable
            assert np.array_equal(again[0][variable], found[0][variable], equal_nan=True)


@pytest.mark.usefixtures("as_users_run_it")
def test_specs_refuse_in_one_line():
    with pytest.raises(
        TypeError, match=r"^of_specs\(condition=\.\.\.\): expected a condition of grsd\.conditions\.CON.*$"
    ):
        of_specs("evolution", [SPEC])
    with pytest.raises(TypeError, match=r"^of_specs\(specs=\.\.\.\): expected a grsd\.Spec, got .*$"):
        of_specs(evolution, [{"seed": 0}])


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("name", "option", "line"),
    [
        ("closure", "log_los", "of_specs(log_los=...): closure.measure takes log_loss"),
        ("propagation", "parameters", "of_specs(parameters=...): propagation.measure takes node, side, norms, dtype,"),
        ("evolution", "flips", "of_specs(flips=...): evolution.measure takes jacobian"),
    ],
)
def test_an_unknown_option_is_refused_before_a_network_is_trained(name, option, line, monkeypatch):
    monkeypatch.setattr("grsd.conditions.specs.ensemble", None)
    with pytest.raises(TypeError, match=f"^{re.escape(line)}"):
        of_specs(CONDITIONS[name], SPEC, **{option: -1.0})


def test_power_is_the_share_of_ensembles_that_decide():
    """Against a simulation: normal estimates one threshold from the threshold, with this half width."""
    spread, threshold = 0.3, 1.0
    half = 1.959963984540054 * spread
    said = conclude("a", "holds", Estimate("x", 0.0, (-half, half), threshold), 9, None, least=8)
    drawn = np.random.default_rng(0).normal(0.0, spread, 200_000)
    assert said.power == pytest.approx(np.mean(drawn + half <= threshold), abs=0.005)
    drawn = np.random.default_rng(1).normal(2 * threshold, spread, 200_000)
    assert said.power == pytest.approx(np.mean(drawn - half > threshold), abs=0.005)
    few = conclude("a", "inconclusive", Estimate("x", 0.0, (-half, half), threshold), 7, None, least=8)
    assert (few.power, few.power_against) == (0.0, "any truth: fewer than 8 seeds decide nothing")
    same = conclude("a", "holds", Estimate("x", 0.0, (0.0, 0.0), threshold), 9, None, least=8)
    assert same.power is None
    assert same.reason == "x is 0, its interval [0, 0] all of it at most 1"

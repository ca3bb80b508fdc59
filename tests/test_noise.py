"""One step of training by shell: its parts against plain formulas, their orders in the step, the mean heating."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grsd.shells import LogShells
from grsd.training import checkpoint_budget
from grsd.training.heating import expected_heating
from grsd.training.noise import FIRST_ORDER, REST, next_state, step_budget, step_budgets

SHELLS = LogShells(1.0, 0.2)
SPAN = LogShells(1.0, 0.2, (-6.0, 2.0))
SAMPLES = 6
STEPS = {
    "sgd": lambda p, rate: torch.optim.SGD(p, rate),
    "momentum": lambda p, rate: torch.optim.SGD(p, rate, momentum=0.9),
    "nesterov": lambda p, rate: torch.optim.SGD(p, rate, momentum=0.5, nesterov=True, weight_decay=0.1),
    "dampened": lambda p, rate: torch.optim.SGD(p, rate, momentum=0.8, dampening=0.3),
    "adam": lambda p, rate: torch.optim.Adam(p, rate),
}
FACTORS = {"sgd": 1.0, "momentum": 1.0, "nesterov": 1.5, "dampened": 0.7}


def squared_log_cosh(outputs, targets):
    return torch.log(torch.cosh(outputs - targets)).sum(1)


def said(value):
    """The name of a function, the same in every process, and any other value as text."""
    return getattr(value, "__name__", str(value))


LOSSES = ("mse", "cross-entropy", squared_log_cosh)


class Case:
    """A small network, its data and its optimizer after two steps of its own."""

    def __init__(self, loss="mse", optimizer="sgd", rate=0.05, linear=False, seed=0):
        torch.manual_seed(seed)
        self.loss, self.inputs = loss, torch.randn(SAMPLES, 4).double()
        labels = torch.arange(SAMPLES) % 3
        self.targets = labels if loss == "cross-entropy" else nn.functional.one_hot(labels, 3).double()
        layers = [nn.Linear(4, 3)] if linear else [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)]
        self.model = nn.Sequential(*layers).double()
        self.optimizer = STEPS[optimizer](self.model.parameters(), rate)
        for chosen in ([0, 1], [2, 3]):
            self.optimizer.zero_grad()
            self.objective(self.model, chosen).backward()
            self.optimizer.step()

    def objective(self, model, chosen=slice(None)):
        outputs, targets = model(self.inputs[chosen]), self.targets[chosen]
        if self.loss == "mse":
            return (outputs - targets).square().sum() / 2 / len(outputs)
        if self.loss == "cross-entropy":
            return nn.functional.cross_entropy(outputs, targets)
        return self.loss(outputs, targets).mean()

    def state(self, chosen=slice(None)):
        return self.model, next_state(self.model, self.optimizer, lambda model: self.objective(model, chosen))

    def budgets(self, batches, shells=SHELLS):
        after = [self.state(list(chosen)) for chosen in batches]
        return step_budgets(self.model, self.state(), after, self.inputs, self.targets, shells, loss=self.loss)


def batches(size):
    return list(itertools.combinations(range(SAMPLES), size))


def whole(budget):
    return sum(budget[name] for name in (*FIRST_ORDER, "rest"))


PAIRS = [("mse", "momentum"), ("cross-entropy", "adam"), (squared_log_cosh, "nesterov"), ("cross-entropy", "sgd")]


@pytest.mark.parametrize(("loss", "optimizer"), PAIRS, ids=said)
def test_parts_add_up_and_agree_with_plain_formulas(loss, optimizer):
    case = Case(loss, optimizer)
    found = case.budgets([[0, 4]]).isel(draw=0)
    budget = checkpoint_budget(case.model, case.state([0, 4]), case.inputs, case.targets, SHELLS, loss=loss)
    assert np.allclose(found.relaxation, budget.relaxation.sel(shell=found.shell), rtol=0, atol=1e-14)
    assert np.allclose(found.transport, budget.transport.sum("shell_from").sel(shell=found.shell), rtol=0, atol=1e-14)
    assert np.allclose(whole(found), found.relaxation, rtol=0, atol=1e-14)
    assert np.allclose(sum(found[name] for name in REST), found.rest, rtol=0, atol=1e-15)
    assert np.allclose(found.transport_drift + found.transport_noise, found.transport, rtol=0, atol=1e-15)

    flat, shape = [], {}
    for state in (case.model.state_dict(), case.state()[1], case.state([0, 4])[1]):
        flat.append(torch.cat([value.reshape(-1) for value in state.values()]))
        shape = {name: value.shape for name, value in state.items()}

    def force(theta):
        parts = theta.split([math.prod(size) for size in shape.values()])
        own = {name: part.reshape(size) for (name, size), part in zip(shape.items(), parts, strict=True)}
        outputs = torch.func.functional_call(case.model, own, (case.inputs,))
        each = torch.func.grad(lambda f: SAMPLES * case.objective(lambda _: f))
        return each(outputs).reshape(-1), outputs.reshape(-1)

    rows = torch.func.jacrev(lambda theta: force(theta)[1])(flat[0])
    slope = torch.func.jacrev(lambda theta: force(theta)[0])(flat[0])
    drift, noise = slope @ (flat[1] - flat[0]), slope @ (flat[2] - flat[1])
    values, vectors = torch.linalg.eigh(rows @ rows.T / SAMPLES)
    floor = len(values) * 2.220446049250313e-16 * float(values[-1])
    edges = torch.as_tensor(found.shell_upper.values[:-1].copy())
    below = torch.special.ndtr((edges[:, None] - values.clamp(min=floor).log()) / 0.2)
    below[:, values <= floor] = 1
    ends = torch.zeros(1, len(values), dtype=below.dtype)
    w = torch.cat([ends, below, ends + 1]).diff(dim=0)
    e = force(flat[0])[0]

    def form(x, y):
        return w @ ((vectors.T @ x) * (vectors.T @ y))

    for name, plain in {
        "descent": form(drift, e),
        "overshoot": form(drift, drift) / 2,
        "fluctuation": form(noise, e + drift),
        "heating": form(noise, noise) / 2,
        "curvature_drift": form(force(flat[1])[0] - e - drift, e),
        "curvature_noise": form(force(flat[2])[0] - force(flat[1])[0] - noise, e),
    }.items():
        assert np.allclose(found[name], plain.detach(), rtol=1e-9, atol=1e-13), name


@pytest.mark.parametrize(("loss", "optimizer"), PAIRS, ids=said)
def test_the_rest_falls_fourfold_when_the_rate_is_halved(loss, optimizer):
    """And what is left of it without curvature and windows eightfold; heating and overshoot are of its order."""
    large, small = (case_at(loss, optimizer, rate) for rate in (4e-4, 2e-4))
    for name, order in {"rest": 2, "higher": 3}.items():
        ratio = float(np.abs(large[name]).sum() / np.abs(small[name]).sum())
        assert ratio == pytest.approx(2**order, rel=0.03), name


def case_at(loss, optimizer, rate):
    """A step of SGD's family has this rate; where momentum is at work, its earlier steps are the same at every rate."""
    case = Case(loss, optimizer, 0.05)
    for group in case.optimizer.param_groups:
        group["lr"] = rate
    return case.budgets([[0, 4]], SPAN)


@pytest.mark.parametrize(
    ("loss", "size", "optimizer"),
    [("mse", 1, "sgd"), ("cross-entropy", 2, "momentum"), (squared_log_cosh, 5, "nesterov"), ("mse", 5, "dampened")],
    ids=said,
)
def test_the_mean_over_all_minibatches_is_the_expectation(loss, size, optimizer):
    """In every shell, those with little energy included; the fluctuation vanishes."""
    case = Case(loss, optimizer)
    found = case.budgets(batches(size), SPAN)
    heating = case_mean(case, size, FACTORS[optimizer]).heating
    assert 0 < float(heating.min()) < 0.01 * float(heating.max())
    assert np.allclose(found.heating.mean("draw"), heating, rtol=1e-10, atol=1e-16 * float(heating.max()))
    assert np.abs(found.fluctuation.mean("draw")).max() < 1e-12 * np.abs(found.fluctuation).max()


def case_mean(case, size, factor, **options):
    rate = factor * case.optimizer.param_groups[0]["lr"]
    data = case.inputs, case.targets, SPAN
    return expected_heating(case.model, *data, batch=size, learning_rate=rate, loss=case.loss, **options)


def test_with_replacement_every_draw_counts():
    case = Case("cross-entropy")
    drawn = [[i, j] for i, j in itertools.product(range(SAMPLES), repeat=2) if i <= j]
    weights = xr.DataArray([1.0 if i == j else 2.0 for i, j in drawn], dims="draw")
    found = case.budgets(drawn, SPAN)
    mean = case_mean(case, 2, 1.0, replacement=True).heating
    assert np.allclose(found.heating.weighted(weights).mean("draw"), mean, rtol=1e-10)


def test_all_samples_make_no_noise():
    case = Case()
    found = step_budget(case.model, case.state(), case.state(), case.inputs, case.targets, SHELLS)
    for name in ("fluctuation", "heating", "curvature_noise", "windows_noise", "transport_noise"):
        assert np.abs(found[name]).max() < 1e-15, name
    assert float(case_mean(case, SAMPLES, 1.0).heating.max()) == 0


def test_a_linear_model_has_no_rest_and_shows_the_edge_of_stability():
    """Where M stays, the parts are exact: overshoot / -descent is eta lambda / 2 in a shell of one mode."""
    case = Case(linear=True)
    rows = torch.cat([case.inputs, torch.ones(SAMPLES, 1).double()], 1)
    values = torch.linalg.svdvals(rows).square() / SAMPLES
    top = float(values[0])
    for group in case.optimizer.param_groups:
        group["lr"] = 2.5 / top
    found = case.budgets([[0, 3], [1, 2]], LogShells(0.05, 1e-4))
    assert float(np.abs(found.rest).max()) < 1e-12 * float(np.abs(found.descent).max())
    assert np.allclose(whole(found), found.energy_after - found.energy_before, rtol=1e-9, atol=1e-14)
    shown = found.isel(draw=0)
    shown = shown.where(shown["mask"] == 0, drop=True)
    ratio = -shown.overshoot / shown.descent
    expected = [2.5 / top * float(values[(values.log() - float(s)).abs().argmin()]) / 2 for s in shown.shell]
    assert np.allclose(ratio, expected, rtol=1e-6)
    assert float(ratio.max()) == pytest.approx(1.25)
    assert float(ratio.min()) < 1


def test_windows_and_curvature_are_no_heating():
    """In some shell the mean relaxation that noise causes is far from the mean heating: both must be told apart."""
    case = Case("cross-entropy", rate=0.5)
    found = case.budgets(batches(2)).mean("draw")
    through = found.heating + found.curvature_noise + found.windows_noise
    assert float((through / found.heating - 1).where(found["mask"] == 0).pipe(np.abs).max()) > 1


STEP = {
    "seed": st.integers(0, 1000),
    "loss": st.sampled_from(LOSSES),
    "size": st.integers(1, SAMPLES - 1),
    "momentum": st.floats(0, 0.99),
    "nesterov": st.booleans(),
}
QUICK = settings(max_examples=6, deadline=None, derandomize=True, database=None)


def momentous(seed, loss, rate, momentum, nesterov):
    """A network on its way with momentum, whose next step has this rate."""
    case = Case(loss, seed=seed)
    case.optimizer = torch.optim.SGD(case.model.parameters(), 0.05, momentum, nesterov=nesterov and momentum > 0)
    for chosen in ([0, 1], [2, 3]):
        case.optimizer.zero_grad()
        case.objective(case.model, chosen).backward()
        case.optimizer.step()
    for group in case.optimizer.param_groups:
        group["lr"] = rate
    return case


def closes(found):
    scale = float(np.abs(found.energy_before).max() + np.abs(found.energy_after).max())
    assert np.allclose(whole(found), found.relaxation, rtol=0, atol=1e-13 * scale)
    change = found.energy_after - found.energy_before
    assert np.allclose(change, found.relaxation + found.transport, rtol=0, atol=1e-13 * scale)


def closes_and_leaves_a_quarter(seed, loss, size, momentum, nesterov, rate):
    """The split closes, and half of the rate leaves a quarter of the rest."""
    chosen = [np.random.default_rng(seed).permutation(SAMPLES)[:size].tolist()]
    rests = []
    for own in (rate, rate / 2):
        found = momentous(seed, loss, own, momentum, nesterov).budgets(chosen, SPAN)
        closes(found)
        rests.append(float(np.abs(found.rest).sum()))
    assert rests[0] / rests[1] == pytest.approx(4, rel=0.03)


@QUICK
@given(**STEP, rate=st.floats(1e-5, 3e-4))
def test_a_step_of_any_rate_batch_and_momentum(**drawn):
    closes_and_leaves_a_quarter(**drawn)


@pytest.mark.long
@settings(QUICK, max_examples=80)
@given(**STEP, rate=st.floats(1e-5, 3e-4))
def test_many_steps_of_any_rate_batch_and_momentum(**drawn):
    closes_and_leaves_a_quarter(**drawn)


@pytest.mark.long
@settings(QUICK, max_examples=24)
@given(power=st.floats(-3, 0), **STEP)
def test_large_steps_close_and_their_mean_heating_is_expected(seed, loss, size, momentum, nesterov, power):
    case = momentous(seed, loss, 10**power, momentum, nesterov)
    found = case.budgets(batches(size), SPAN)
    closes(found)
    heating = case_mean(case, size, 1 + momentum * (nesterov and momentum > 0)).heating
    assert np.allclose(found.heating.mean("draw"), heating, rtol=1e-9, atol=1e-13 * float(heating.max()))


def test_neither_the_model_nor_the_optimizer_changes():
    case = Case(optimizer="adam")
    before = copy.deepcopy((case.model.state_dict(), case.optimizer.state_dict()["state"]))
    there = next_state(case.model, case.optimizer, case.objective)
    for name, value in case.model.state_dict().items():
        assert torch.equal(value, before[0][name])
        assert not torch.equal(value, there[name])
    for one, other in zip(case.optimizer.state_dict()["state"].values(), before[1].values(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    case.optimizer.zero_grad()
    case.objective(case.model).backward()
    case.optimizer.step()
    assert all(torch.equal(value, there[name]) for name, value in case.model.state_dict().items())


REFUSED = {
    "next_state(model=...): expected a torch.nn.modules.module.Module, got 3": lambda c: next_state(3, c.optimizer, 1),
    "next_state(optimizer=...): expected a torch.optim.optimizer.Optimizer, got 'sgd'": lambda c: next_state(
        c.model, "sgd", 1
    ),
    "next_state(model, optimizer): the optimizer holds no parameter of the model": lambda c: next_state(
        copy.deepcopy(c.model), c.optimizer, c.objective
    ),
    "next_state(model, optimizer, objective): the step failed (TypeError: 'int' object is not callable)": lambda c: (
        next_state(c.model, c.optimizer, 1)
    ),
    "step_budget(after=...): expected a torch.nn.Module or (module, state_dict), got None": lambda c: step_budget(
        c.model, c.model, None, c.inputs, c.targets, SHELLS
    ),
    "expected_heating(batch=...): expected at most the 6 samples of the inputs, got 7": lambda c: expected_heating(
        c.model, c.inputs, c.targets, SHELLS, batch=7, learning_rate=0.1
    ),
}


@pytest.mark.parametrize("line", REFUSED)
@pytest.mark.usefixtures("as_users_run_it")
def test_refusals_are_one_line(line):
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        REFUSED[line](Case())
    assert str(caught.value) == line


def test_several_draws_are_single_ones():
    case = Case("cross-entropy")
    several = case.budgets([[0, 1], [2, 5]])
    one = step_budget(
        case.model, case.state(), case.state([2, 5]), case.inputs, case.targets, SHELLS, loss="cross-entropy"
    )
    xr.testing.assert_allclose(several.isel(draw=1, drop=True), one)

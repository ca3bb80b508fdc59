"""Krylov's route between states: against the dense budget, within its stated errors, also where steps are too few."""

import numpy as np
import pytest
import torch
from test_training import batch, closes, net, plain_windows, squared_log_cosh, train

import grsd
from grsd.bench import between
from grsd.krylov import DenseOperator, KernelProducts, lanczos
from grsd.shells import LogShells
from grsd.training import Recorder, checkpoint_budget, checkpoint_history, krylov

SHELLS = LogShells(1.0, 0.5)


@pytest.fixture(scope="module")
def digits():
    data = grsd.digits(16)
    return data.inputs.double(), data.targets.double(), grsd.Perceptron(64, 10, width=12, depth=3, seed=0).double()


def both(before, after, inputs, targets, loss, steps=100, tolerance=0.1):
    found = checkpoint_budget(
        before, after, inputs, targets, SHELLS, loss=loss, method="krylov", steps=steps, tolerance=tolerance
    )
    low, high = (float(found.shell_index[k]) for k in (0, -1))
    same = LogShells(1.0, 0.5, span=(low, high + 1))
    return found, checkpoint_budget(before, after, inputs, targets, same, loss=loss, method="dense")


def worst(found, dense):
    row = between.compare(found, dense)
    return max(value for name, value in row.items() if name.startswith("worst")), row["declared"]


@pytest.mark.long
@pytest.mark.parametrize(("loss", "optimizer", "steps"), [
    ("cross-entropy", "adam", 20), ("mse", "sgd", 1), (squared_log_cosh, "momentum", 60),
])  # fmt: skip
def test_it_agrees_with_the_dense_budget_within_its_errors(digits, loss, optimizer, steps):
    inputs, targets, before = digits
    targets = targets.argmax(1) if loss == "cross-entropy" else targets
    after = train(before, loss, optimizer, steps, inputs, targets)
    found, dense = both(before, after, inputs, targets, loss)
    ratio, declared = worst(found, dense)
    assert ratio <= 1
    assert declared > 0.95
    assert float(found.log_growth_rayleigh) == pytest.approx(float(dense.log_growth_rayleigh), rel=1e-9, abs=1e-12)
    assert (found.loss_before, found.loss_after) == (dense.loss_before, dense.loss_after)
    total = float(found.energy_before.sum() + found.energy_after.sum())
    rest = found.energy_after - found.energy_before - found.relaxation - found.transport.sum("shell_from")
    assert float(np.abs(rest).max()) < 1e-14 * total
    size = float(np.abs(dense.transport).max())
    assert np.abs(found.transport.values + found.transport.values.T).max() < 1e-14 * size
    kept = found["mask"].values == 0
    assert float(found.transport_error.values[np.ix_(kept, kept)].max()) < 0.2 * size
    assert (found.attrs["method"], found.attrs["steps"], found.attrs["tolerance"]) == ("krylov", 100, 0.1)


def test_too_few_steps_are_said_to_be_too_few(digits):
    """Twelve steps for spectra of a hundred modes: little is declared, and what is stated still holds."""
    inputs, targets, before = digits
    after = train(before, "mse", "adam", 30, inputs, targets)
    for steps in (8, 12, 20):
        found, dense = both(before, after, inputs, targets, "mse", steps)
        assert worst(found, dense)[0] <= 1
        assert bool((found["mask"].values & 8).any())
        off = np.abs(found.transport - dense.transport)
        assert float((off > found.transport_error).mean()) <= 0.02


def test_a_kernel_of_few_distinct_eigenvalues_is_exact():
    """The Krylov space ends before the steps do: no error but rounding is stated."""
    inputs, targets = batch("mse")
    before = net("linear")
    after = train(before, "mse", "sgd", 9, inputs, targets)
    found, dense = both(before, after, inputs, targets, "mse")
    assert worst(found, dense)[0] <= 1
    total = float(dense.energy_before.sum())
    kept = found["mask"].values == 0
    assert kept.sum() > 5
    assert float(found.energy_before_error.values[kept].max()) < 1e-10 * total
    assert np.isfinite(found.laziness_rayleigh_error).all()
    np.testing.assert_allclose(found.relaxation, dense.relaxation, rtol=0, atol=1e-12 * total)


def test_growth_alone_is_all_growth():
    """A frozen kernel multiplied by 1.96: growth as the force sees it is the transport, in both routes."""
    inputs, targets = batch("mse")
    before = net("linear")

    class Scaled(torch.nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale, self.inside = scale, before

        def forward(self, x):
            return self.scale * self.inside(x)

    for budget in both(Scaled(1.0), Scaled(1.4), inputs, targets, "mse"):
        assert float(budget.log_growth_rayleigh) == pytest.approx(2 * np.log(1.4), rel=1e-10)
        size = float(np.abs(budget.transport).max())
        assert float(np.abs(budget.growth_rayleigh - budget.transport).max()) < 1e-9 * size
        assert float(budget.laziness_rayleigh.sel(part="rest")) == pytest.approx(0, abs=1e-9)


def test_the_overlaps_are_those_of_plain_windows(digits):
    """w_a(M) e from the basis, against the plain function of the matrix."""
    inputs, targets, model = digits
    found = checkpoint_budget(model, model, inputs, targets, SHELLS, method="krylov", steps=100, tolerance=0.1)
    kernel, products = grsd.tangent_kernel(model, inputs), KernelProducts(model, inputs)
    error = (model(inputs) - targets).detach().reshape(-1)
    taken = lanczos(products, error, 60, rate=False, keep_basis=True)
    assert taken.basis.shape == (61, len(error))
    assert float((taken.basis @ taken.basis.T - torch.eye(61, dtype=torch.float64)).abs().max()) < 1e-12
    half = taken.basis[:60] @ kernel @ taken.basis[:60].T
    assert torch.allclose(half, taken.matrix, rtol=0, atol=1e-12 * float(kernel.norm()))
    assert lanczos(DenseOperator(kernel, kernel), error, 60).basis is None
    windows = plain_windows(kernel, found)
    energy = torch.einsum("u,auv,v->a", error, windows, error) / 2
    assert (np.abs(found.energy_before - energy.numpy()) <= found.energy_before_error).all()


def test_a_force_that_is_zero_in_one_state(digits):
    inputs, targets, before = digits
    after = train(before, "mse", "adam", 30, inputs, targets)
    with torch.no_grad():
        learned = after(inputs)
    found, dense = both(before, after, inputs, learned, "mse")
    assert float(found.energy_after.sum()) == float(found.energy_after_error.sum()) == 0
    assert worst(found, dense)[0] <= 1
    closes(dense)
    with pytest.raises(
        ValueError, match=r"^checkpoint_budget\(\.\.\., targets\): the force is zero in all states; .*$"
    ):
        checkpoint_budget(after, after, inputs, learned, SHELLS, method="krylov")


@pytest.mark.long
def test_along_a_history_a_run_from_the_own_force_is_taken_once(digits, monkeypatch):
    inputs, targets, before = digits
    models = [before]
    for steps in (5, 20):
        models.append(train(models[-1], "mse", "adam", steps, inputs, targets))
    taken = []
    plain = krylov.lanczos
    monkeypatch.setattr(krylov, "lanczos", lambda *args, **more: taken.append(1) or plain(*args, **more))
    shells = LogShells(1.0, 0.5, span=(-6.0, 3.0))
    options = {"method": "krylov", "steps": 20, "batch": 7}
    history = checkpoint_history(models, inputs, targets, shells, **options)
    assert len(taken) == 3 + 2 * 2
    recorder = Recorder(inputs, targets, shells, **options)
    assert recorder.add(models[0]) is None
    for step, model in enumerate(models[1:]):
        again = recorder.add(model)
        for name in again.data_vars:
            np.testing.assert_array_equal(again[name], history[name].isel(step=step), err_msg=name)


def test_the_memory_decides_where_nothing_is_said(digits):
    inputs, targets, model = digits
    after = train(model, "mse", "adam", 5, inputs, targets)
    for limit, route in (("1GiB", "dense"), (4 * len(targets.reshape(-1)) ** 2 * 8, "krylov")):
        found = checkpoint_budget(model, after, inputs, targets, SHELLS, memory_limit=limit, steps=8)
        assert found.attrs["method"] == route


@pytest.mark.long
def test_the_table_of_the_bench(tmp_path, monkeypatch):
    small = between.against_dense([(8, 2, True)], [("cross-entropy", "adam")], (0, 2), samples=12, steps=40)
    (row,) = small.to_dict("records")
    assert max(value for name, value in row.items() if name.startswith("worst")) <= 1
    assert row["declared"] > 0.8
    found = between.cost(30, 40)
    assert (found["dimension"], found["steps"]) == (300, 40)
    assert found["closes"] < 1e-14
    monkeypatch.setattr(between, "against_dense", lambda: small)
    monkeypatch.setattr(between, "cost", lambda: found)
    between.main(tmp_path)
    text = (tmp_path / "krylov-between.csv").read_text()
    assert "# at N C = 300: dimension 300, steps 40, threads" in text
    assert "cross-entropy,adam,0,2," in text


@pytest.mark.long
def test_no_declared_value_errs_beyond_its_stated_error_at_two_thousand():
    table = between.against_dense([(32, 4, False)], [("cross-entropy", "adam")], (0, 4, 64))
    assert (table.declared >= 0.8).all()
    assert (table.filter(like="worst") <= 1).all(axis=None)

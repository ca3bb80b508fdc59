"""The budget between two states of any training: it closes, agrees with plain kernels, tends to the flow's budget."""

import copy
import math
import re
import runpy
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import grsd
from grsd.decomposition import Spectrum
from grsd.flow import nearby
from grsd.kernel.computation import KernelComputation
from grsd.runs.history import snapshot_budgets
from grsd.shells import MASK_FLAGS, LogShells
from grsd.training import Recorder, checkpoint_budget, checkpoint_history

SHELLS = LogShells(1.0, 0.2)
LEGS = ("growth", "crossing", "rotation")


def net(kind, seed=0, outputs=3):
    torch.manual_seed(seed)
    if kind == "convolution":
        layers = [nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 3, 2), nn.GELU(), nn.Flatten(), nn.Linear(9, outputs)]
    elif kind == "normalized":
        layers = [nn.Linear(8, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, outputs)]
    elif kind == "bottleneck":  # 22 parameters for 30 residuals
        layers = [nn.Linear(8, 2, bias=False), nn.Linear(2, outputs, bias=False)]
    elif kind == "linear":  # of rank 24 for 30 residuals, and each eigenvalue three times
        layers = [nn.Linear(8, outputs, bias=False)]
    else:
        layers = [nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, outputs)]
    return nn.Sequential(*layers).double()


def squared_log_cosh(outputs, targets):
    return torch.log(torch.cosh(outputs - targets)).sum(1)


def batch(loss, samples=10):
    inputs = torch.randn(samples, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = (inputs[:, :3] + 0.3 * inputs[:, 3:6]).argmax(1)
    return inputs, labels if loss == "cross-entropy" else nn.functional.one_hot(labels, 3).double()


def plain_loss(loss, outputs, targets):
    if loss == "mse":
        return ((outputs - targets) ** 2).sum() / 2
    if loss == "cross-entropy":
        return nn.functional.cross_entropy(outputs, targets, reduction="sum")
    return loss(outputs, targets).sum()


def train(model, loss, optimizer, steps, inputs, targets):
    """On minibatches of four; returns a trained copy."""
    model = copy.deepcopy(model)
    kinds = {
        "sgd": lambda p: torch.optim.SGD(p, 0.1),
        "momentum": lambda p: torch.optim.SGD(p, 0.03, momentum=0.9, weight_decay=1e-3),
        "adam": lambda p: torch.optim.Adam(p, 0.01),
    }
    own = kinds[optimizer](model.parameters())
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        chosen = torch.randperm(len(inputs), generator=generator)[:4]
        own.zero_grad()
        (plain_loss(loss, model(inputs[chosen]), targets[chosen]) / 4).backward()
        own.step()
    return model


def dense_kernel(model, inputs):
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (inputs,)))(parameters)
    rows = torch.cat([part.reshape(inputs.shape[0] * 3, -1) for part in jacobian.values()], 1)
    return rows @ rows.T / len(inputs)


def plain_windows(kernel, budget):
    """w_a(M) as matrices, (shells, D, D)."""
    values, vectors = torch.linalg.eigh(kernel)
    floor = len(values) * 2.220446049250313e-16 * float(values[-1])
    s = torch.where(values > floor, values, torch.ones_like(values)).log()
    edges = torch.as_tensor(budget.boundary.values.copy())
    below = torch.special.ndtr((edges[:, None] - s) / budget.attrs["smoothing"])
    below = torch.where(values > floor, below, torch.ones_like(below))
    w = torch.cat([torch.zeros(1, len(s)), below, torch.ones(1, len(s))]).diff(dim=0)
    return torch.einsum("ui,ai,vi->auv", vectors, w, vectors)


def closes(budget, accuracy=1e-12):
    """Relative to each shell's own terms; rounding of e in other shells counts by the root of the energies."""
    gained = budget.relaxation + budget.transport.sum("shell_from")
    residue = np.abs(budget.energy_after - budget.energy_before - gained)
    own = budget.energy_before + budget.energy_after + np.abs(budget.relaxation)
    own = own + np.abs(budget.transport).sum("shell_from")
    total = float(budget.energy_before.sum() + budget.energy_after.sum())
    assert float((residue / np.sqrt(own * total + 1e-300)).max()) < 1e-14
    large = own > 1e-4 * total
    assert bool(large.any())
    assert float((residue / own).where(large).max()) < accuracy


def adds(budget):
    """Each leg antisymmetric, in the mean and in the difference of orders; sums over shells add to the transport's."""
    size = max(float(np.abs(budget[leg]).max()) for leg in (*LEGS, "transport"))
    total = float(budget.energy_before.sum() + budget.energy_after.sum())
    for name in ("transport", "growth_rayleigh", *LEGS, *(f"{leg}_order" for leg in LEGS)):
        assert np.abs(budget[name].values + budget[name].values.T).max() <= 1e-14 * size
    rows = sum(budget[leg].sum("shell_from") for leg in LEGS) - budget.transport.sum("shell_from")
    assert np.abs(rows).max() < 1e-14 * total
    orders = sum(budget[f"{leg}_order"].sum("shell_from") for leg in LEGS)
    assert np.abs(orders).max() < 1e-14 * total
    assert float(budget.laziness.sum()) == pytest.approx(1, abs=1e-12)


TRAININGS = [
    ("tanh", "mse", "sgd", 1),
    ("tanh", "cross-entropy", "adam", 15),
    ("convolution", "cross-entropy", "momentum", 200),
    ("normalized", squared_log_cosh, "adam", 60),
    ("bottleneck", "mse", "sgd", 80),
    ("bottleneck", "cross-entropy", "adam", 3),
    ("linear", "mse", "momentum", 30),
    ("linear", "cross-entropy", "sgd", 5),
]


@pytest.mark.parametrize(("kind", "loss", "optimizer", "steps"), TRAININGS)
def test_any_training_closes_and_agrees_with_plain_kernels(kind, loss, optimizer, steps):
    inputs, targets = batch(loss)
    before = net(kind)
    after = train(before, loss, optimizer, steps, inputs, targets)
    budget = checkpoint_budget(before, (before, after.state_dict()), inputs, targets, SHELLS, loss=loss)
    closes(budget)
    adds(budget)
    windows, forces = [], []
    for side, model in {"before": before, "after": after}.items():
        outputs = model(inputs).detach().requires_grad_(True)
        total = plain_loss(loss, outputs, targets)
        (force,) = torch.autograd.grad(total, outputs)
        e, kernel = force.reshape(-1), dense_kernel(model, inputs)
        w = plain_windows(kernel, budget)
        energy = torch.einsum("u,auv,v->a", e, w, e) / 2
        assert np.allclose(budget[f"energy_{side}"], energy, rtol=0, atol=1e-10 * float(energy.sum()))
        pumped = torch.einsum("u,auv,v->a", e, w @ kernel, e) / len(inputs)
        assert np.allclose(budget[f"loss_dissipation_{side}"], pumped, rtol=0, atol=1e-10 * float(pumped.sum()))
        position = e @ kernel @ e / (e @ e * kernel.trace())
        assert float(budget[f"spectral_position_{side}"]) == pytest.approx(float(position), rel=1e-10)
        assert float(budget[f"loss_{side}"]) == pytest.approx(float(total.detach()) / len(inputs), rel=1e-12)
        slope = torch.autograd.grad(plain_loss(loss, model(inputs), targets) / len(inputs), list(model.parameters()))
        falls = sum(float(part.square().sum()) for part in slope)
        assert float(budget[f"loss_dissipation_{side}"].sum()) == pytest.approx(falls, rel=1e-10)
        windows.append(w)
        forces.append(e)
    transport = 0
    for e in forces:
        first, last = (torch.einsum("auv,v->au", w, e) for w in windows)
        transport = transport + (last @ first.T - first @ last.T) / 4
    assert np.allclose(budget.transport, transport, rtol=0, atol=1e-10 * float(budget.energy_before.sum()))
    flux = [float(transport[c:, :c].sum()) for c in range(1, len(transport))]
    assert np.allclose(budget.flux, flux, rtol=0, atol=1e-10 * float(budget.energy_before.sum()))


@pytest.mark.long
def test_thirty_random_trainings_close():
    """Five architectures, three losses, three optimizers, 1 to 1000 steps; also of lower rank or degenerate."""
    drawn = np.random.default_rng(0)
    kinds = ("tanh", "convolution", "normalized", "bottleneck", "linear")
    for number in range(30):
        loss = ("mse", "cross-entropy", squared_log_cosh)[number % 3]
        inputs, targets = batch(loss)
        before = net(kinds[number % 5], seed=number)
        steps = int(np.exp(drawn.uniform(0, np.log(1000))).round())
        after = train(before, loss, str(drawn.choice(["sgd", "momentum", "adam"])), steps, inputs, targets)
        budget = checkpoint_budget(before, after, inputs, targets, SHELLS, loss=loss)
        closes(budget)
        adds(budget)


def test_a_kernel_that_stands_still_is_lazy_and_one_that_only_grows_grows():
    """A linear model keeps its kernel; a frozen feature layer whose scale changes multiplies it."""
    inputs, targets = batch("mse")
    before = net("linear")
    still = checkpoint_budget(before, train(before, "mse", "sgd", 9, inputs, targets), inputs, targets, SHELLS)
    assert float(still.laziness.sel(part="frozen")) == pytest.approx(1, abs=1e-12)
    assert np.abs(still.transport).max() < 1e-12 * float(still.energy_before.sum())
    assert abs(float(still.log_growth)) < 1e-12

    class Scaled(nn.Module):
        def __init__(self, scale, inside):
            super().__init__()
            self.scale, self.inside = scale, inside

        def forward(self, x):
            return self.scale * self.inside(x)

    grown = checkpoint_budget(Scaled(1.0, before), Scaled(1.4, before), inputs, targets, SHELLS)
    closes(grown)
    adds(grown)
    assert float(grown.log_growth) == pytest.approx(2 * math.log(1.4), rel=1e-12)
    assert int(grown.grown_modes) == 24
    size = float(np.abs(grown.growth).max())
    assert np.abs(grown.growth - grown.transport).max() < 1e-12 * size
    assert max(float(np.abs(grown[leg]).max()) for leg in ("crossing", "rotation")) < 1e-12 * size
    assert float(grown.laziness.sel(part="rest")) == pytest.approx(0, abs=1e-12)


def test_legs_lead_along_two_paths_of_kernels():
    """Growth, crossing, rotation, and the opposite order, by the plain formula for each leg."""
    inputs, targets = batch("mse")
    models = [net("normalized"), net("normalized", 4)]
    budget = checkpoint_budget(*models, inputs, targets, SHELLS)
    forces = [(model(inputs) - targets).detach().reshape(-1) for model in models]
    first, last = (dense_kernel(model, inputs) for model in models)
    (values0, vectors0), (values1, vectors1) = (torch.linalg.eigh(kernel) for kernel in (first, last))
    rho = float((values1.log() - values0.log()).mean())
    assert float(budget.log_growth) == pytest.approx(rho, rel=1e-9)
    assert int(budget.grown_modes) == len(values0)
    crossed, uncrossed = vectors0 * values1 @ vectors0.T, vectors1 * values0 @ vectors1.T
    stops = [first, math.exp(rho) * first, crossed, last], [first, uncrossed, math.exp(-rho) * last, last]
    found = []
    for path, names in zip(stops, (LEGS, LEGS[::-1]), strict=True):
        v = [[torch.einsum("auv,v->au", w, e) for e in forces] for w in (plain_windows(k, budget) for k in path)]
        half = [sum(b @ a.T for a, b in zip(*ends, strict=True)) / 4 for ends in pairwise(v)]
        found.append({name: (t - t.T).numpy() for name, t in zip(names, half, strict=True)})
    size = float(np.abs(budget.transport).max())
    for leg in LEGS:
        assert np.allclose(budget[leg], (found[0][leg] + found[1][leg]) / 2, rtol=0, atol=1e-9 * size), leg
        assert np.allclose(budget[f"{leg}_order"], found[0][leg] - found[1][leg], rtol=0, atol=1e-9 * size), leg
        assert float(np.abs(budget[f"{leg}_order"]).max()) > 0.01 * size
    change = budget.energy_after - budget.energy_before
    parts = {"frozen": budget.relaxation, "growth": budget.growth.sum("shell_from")}
    parts["rest"] = change - parts["frozen"] - parts["growth"]
    for name, part in parts.items():
        share = float((part * change).sum() / (change**2).sum())
        assert float(budget.laziness.sel(part=name)) == pytest.approx(share, abs=1e-10)


def test_shells_under_the_floor_without_modes_or_energy_are_masked():
    inputs, targets = batch("mse")
    models = net("bottleneck"), net("bottleneck", 3)
    budget = checkpoint_budget(*models, inputs, targets, SHELLS)
    floor = max(30 * 2.220446049250313e-16 * float(torch.linalg.eigvalsh(dense_kernel(m, inputs))[-1]) for m in models)
    reaches = budget.shell_index.values < math.log(floor)
    assert 0 < reaches.sum() < 5
    assert np.array_equal((budget["mask"].values & MASK_FLAGS["below_floor"]) > 0, reaches)
    few = np.maximum(budget.modes_before, budget.modes_after) < 0.5
    assert np.array_equal((budget["mask"].values & MASK_FLAGS["few_modes"]) > 0, few)
    empty = np.maximum(budget.energy_before, budget.energy_after) < 1e-13
    assert few.any()
    assert empty.any()
    assert ((budget["mask"].values & MASK_FLAGS["no_energy"]) > 0)[empty].all()
    assert (budget["mask"] == 0).any()


def test_unrelated_states_close_too():
    inputs, targets = batch("cross-entropy")
    pair = net("convolution"), net("convolution", seed=5)
    budget = checkpoint_budget(*pair, inputs, targets, SHELLS, loss="cross-entropy")
    closes(budget)
    adds(budget)
    back = checkpoint_budget(*pair[::-1], inputs, targets, SHELLS, loss="cross-entropy")
    for name in ("transport", *LEGS, "relaxation"):
        assert np.allclose(back[name], -budget[name], rtol=0, atol=1e-12), name
    assert np.allclose(back.growth_order, budget.growth_order, rtol=0, atol=1e-12)


def test_merged_shells_are_the_coarser_budget():
    inputs, targets = batch("mse")
    before = net("tanh")
    after = train(before, "mse", "adam", 40, inputs, targets)
    fine, coarse = (
        checkpoint_budget(before, after, inputs, targets, LogShells(width, 0.1, span=(-8.0, 4.0)))
        for width in (0.5, 1.0)
    )
    for name in (name for name in coarse.data_vars if "shell" in coarse[name].dims and name != "mask"):
        merged = fine[name].coarsen(dict.fromkeys(fine[name].dims, 2)).sum().values
        assert np.allclose(merged, coarse[name], rtol=0, atol=1e-13 * (1 + np.abs(merged).max())), name
    shared = fine.flux.sel(boundary=coarse.boundary)
    assert np.allclose(shared, coarse.flux, rtol=0, atol=1e-13)


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_short_steps_of_gradient_flow_give_its_budget_at_the_midpoint(loss):
    """Of second order: halving the step divides the distance by four, for relaxation, transport and each leg."""
    data = grsd.digits(12, task="parity")
    model = grsd.Perceptron(64, 1 if loss == "mse" else 2, width=8, depth=3)
    targets = data.targets if loss == "mse" else (data.targets[:, 0] > 0).long()
    flow = grsd.gradient_flow(model, data.inputs, targets, [0.4], loss=loss)
    middle, shells = flow.snapshots[0], LogShells(1.0, 0.4, span=(-6.0, 4.0))
    kernel, rate = grsd.tangent_kernel_and_rate(middle.model, flow.inputs, flow.targets, loss=loss)
    modes = grsd.spectrum(kernel, rate)
    relative = (modes.rate.diagonal() / modes.eigenvalues).mean()
    growth = torch.diag(relative * modes.eigenvalues)
    rates = {
        "transport": modes.rate,
        "growth": growth,
        "crossing": torch.diag(modes.rate.diagonal()) - growth,
        "rotation": modes.rate - torch.diag(modes.rate.diagonal()),
    }
    exact = {
        name: grsd.energy_budget(
            Spectrum(modes.eigenvalues, modes.eigenvectors, part, modes.floor), middle.error, shells
        ).coupling
        for name, part in rates.items()
    }
    (own,) = snapshot_budgets(middle, flow.inputs, flow.targets, [shells], loss=loss)
    exact["relaxation"] = -own.dissipation if loss == "mse" else own.relaxation
    distance = {name: [] for name in exact}
    for step in (0.02, 0.01, 0.005):
        ends = nearby(middle, flow.inputs, flow.targets, step / 2, [-1, 1], loss=loss)
        budget = checkpoint_budget(ends[0].model, ends[1].model, flow.inputs, flow.targets, shells, loss=loss)
        closes(budget)
        for name, coupling in exact.items():
            far = np.abs(budget[name] / step - coupling).max() / np.abs(coupling).max()
            distance[name].append(float(far))
        assert float(budget.log_growth) / step == pytest.approx(float(relative), rel=0.02)
    for name, found in distance.items():
        assert found[-1] < 0.02, (name, found)
        assert 3.5 < found[0] / found[1] < 4.5, (name, found)
        assert 3.7 < found[1] / found[2] < 4.3, (name, found)


def test_a_history_computes_each_kernel_once(monkeypatch):
    inputs, targets = batch("cross-entropy")
    models = [net("tanh")]
    for steps in (3, 20, 1):
        models.append(train(models[-1], "cross-entropy", "adam", steps, inputs, targets))
    computed = []
    total = KernelComputation.total
    monkeypatch.setattr(KernelComputation, "total", lambda self: computed.append(1) or total(self))
    for span in (None, (-7.0, 3.0)):
        computed.clear()
        shells = LogShells(1.0, 0.2, span)
        states = [models[0], *((models[0], model.state_dict()) for model in models[1:])]
        found = checkpoint_history(states, inputs, targets, shells, loss="cross-entropy", parameters={"seed": 3})
        assert len(computed) == len(models)
        assert found.sizes["step"] == 3
        assert found.attrs["seed"] == 3
        assert found.attrs["loss"] == "cross-entropy"
        assert np.array_equal(found.energy_after[:-1], found.energy_before[1:])
        for step in range(3):
            closes(found.isel(step=step))
    alone = checkpoint_budget(
        models[1], models[2], inputs, targets, shells, loss="cross-entropy", parameters={"seed": 3}
    )
    xr.testing.assert_allclose(found.isel(step=1, drop=True), alone, rtol=1e-11, atol=1e-13)
    assert alone.attrs == found.attrs


def test_states_read_one_after_the_other_give_the_same_budgets(monkeypatch):
    inputs, targets = batch("mse")
    models = [net("tanh", seed) for seed in range(3)]
    computed = []
    total = KernelComputation.total
    monkeypatch.setattr(KernelComputation, "total", lambda self: computed.append(1) or total(self))
    recorder = Recorder(inputs, targets, SHELLS)
    assert recorder.add(models[0]) is None
    with pytest.raises(ValueError, match=r"^Recorder\(step 1=...\): the model's output contains NaN or infinity"):
        recorder.add(nan(models[1]), name="step 1")
    found = [recorder.add(model) for model in models[1:]]
    assert len(computed) == 3
    for pair, budget in zip(pairwise(models), found, strict=True):
        xr.testing.assert_identical(budget, checkpoint_budget(*pair, inputs, targets, SHELLS))


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_one_output_without_a_dimension_under_a_memory_limit(dtype, accuracy):
    inputs, targets = batch("mse")
    models = [nn.Sequential(net("tanh", seed, 1), nn.Flatten(0)) for seed in (0, 1)]
    budget = checkpoint_budget(*models, inputs, targets[:, 0], SHELLS, dtype=dtype, memory_limit="64MiB")
    assert budget.energy_before.dtype == budget.transport.dtype == (np.float32 if accuracy > 1e-5 else np.float64)
    assert budget.attrs["dimension"] == 10
    gained = budget.relaxation + budget.transport.sum("shell_from")
    residue = np.abs(budget.energy_after - budget.energy_before - gained)
    assert float(residue.max()) < accuracy * float(budget.energy_before.sum())


def test_the_lines_of_the_readme_run(tmp_path, capsys):
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    after = readme[readme.index("`grsd.checkpoint_history` takes") :]
    block = "".join(re.findall(r"((?:^    .*\n)+)", after, re.MULTILINE)[:2])
    assert "grsd.force_and_rate(" in block
    start = "import grsd\ndata, network = grsd.digits(8), grsd.Perceptron(64, 10, width=6, depth=2)\n"
    (tmp_path / "lines.py").write_text(start + textwrap.dedent(block))
    runpy.run_path(str(tmp_path / "lines.py"))
    assert "'frozen' 'growth' 'rest'" in capsys.readouterr().out


def test_nothing_changes_and_nothing_is_wrong():
    inputs, targets = batch("mse")
    model = net("tanh")
    same = checkpoint_budget(model, model, inputs, targets, SHELLS)
    assert np.isnan(same.laziness).all()
    assert np.abs(same.transport).max() < 1e-13
    with torch.no_grad():
        solved = checkpoint_budget(model, net("tanh", 1), inputs, model(inputs), SHELLS)
    assert float(solved.loss_before) == 0
    assert np.isnan(solved.spectral_position_before)
    assert np.isfinite(solved.spectral_position_after)
    closes(solved)
    assert not model.training or model[0].weight.grad is None
    one = checkpoint_budget(model, net("tanh", 1), inputs, targets, LogShells(100.0, 1.0, span=(0.0, 100.0)))
    assert one.sizes["boundary"] == 0


INPUTS, TARGETS = batch("mse")
LABELS = batch("cross-entropy")[1]


def coupled(outputs, targets):
    return (outputs - outputs.mean(0) - targets).square().sum(1)


def nan(model):
    model = copy.deepcopy(model)
    model[0].weight.data[0, 0] = torch.nan
    return model


def other_width(model):
    """The same outputs' shape by a first layer of one unit less."""
    model[0] = nn.Linear(model[0].in_features, model[0].out_features - 1).double()
    model[2] = nn.Linear(model[2].in_features - 1, model[2].out_features).double()
    return model


def frozen(model):
    model[0].bias.requires_grad_(False)
    return model


A, B = net("tanh"), net("tanh", 1)
REFUSED = {
    r"\(after=...\): expected outputs of shape \(10, 3\), as those of before, got \(10, 2\); a budget .*": {
        "after": net("tanh", outputs=2)
    },
    r"\(after=...\): the model gives another output each time.*call model.eval\(\) first": {
        "after": nn.Sequential(A, nn.Dropout(0.5))
    },
    r"\(after=...\): expected the parameters of before, .*, got '0.weight' of shape .* instead of .*; a budget .*": {
        "after": other_width(net("tanh"))
    },
    r"\(after=...\): expected the parameters of before, .*, got '0.bias' with requires_grad=False instead .*": {
        "after": frozen(net("tanh", 1))
    },
    r"\(loss=...\): torch's gradient of the loss disagrees with a difference of its values; .*": {
        "loss": lambda f, y: (f.detach() * f).sum(1)
    },
    r"\(before=...\): the model's output contains NaN or infinity": {"before": nan(A)},
    r"\(after=...\): expected a torch.nn.Module or \(module, state_dict\), got 3": {"after": 3},
    r"\(after=...\): the state does not fit its module \(Error.*Unexpected key.*\)": {"after": (A, {"a": TARGETS})},
    r"\(after=...\): the model has no parameter with requires_grad=True.*": {
        "after": net("tanh", 1).requires_grad_(False)
    },
    r"\(.*inputs\): found NaN or infinity.*": {"inputs": INPUTS * math.nan},
    r"\(.*targets\): found NaN or infinity": {"targets": TARGETS * math.nan},
    r"\(.*targets\): expected exactly the output's shape \(10, 3\), got \(10, 2\).*": {"targets": TARGETS[:, :2]},
    r"\(.*targets\): expected floating point of shape \(10, 3\) for loss='mse', .*need loss='cross-entropy'": {
        "targets": LABELS
    },
    r"\(.*targets\): expected class labels, whole numbers of shape \(10,\), .* got torch.float64 of shape \(10, 3\)": {
        "loss": "cross-entropy"
    },
    r"\(.*targets\): expected class labels, .* of shape \(10, 2\); for several labels per sample pass a function .*": {
        "loss": "cross-entropy",
        "targets": torch.stack([LABELS, LABELS], 1),
    },
    r"\(.*targets\): expected class labels from 0 to 2, got labels from 3 to 5": {
        "loss": "cross-entropy",
        "targets": LABELS + 3 - LABELS.min(),
    },
    r"\(loss=...\): expected one of \('mse', 'cross-entropy'\) or a function .* got 'hinge'": {"loss": "hinge"},
    r"\(loss=...\): expected one loss per sample, .* shape \(10,\), .*\(reduction='none'\)": {"loss": nn.MSELoss()},
    r"\(loss=...\): the loss of a sample depends on the outputs of other samples": {"loss": coupled},
    r"\(loss=...\): the function returns other losses each time; it must not be random": {
        "loss": lambda f, y: (f * torch.rand_like(f)).sum(1)
    },
    r"\(loss=...\): the function returned losses without a gradient": {"loss": lambda f, y: (f - y).detach().sum(1)},
    r"\(loss=...\): the loss cannot be evaluated on outputs .* \(RuntimeError: .*\)": {
        "loss": squared_log_cosh,
        "targets": TARGETS[:7],
    },
    r"\(loss=...\): the force dl/df, up to 1e\+200, .* leaves the range of torch.float64; .*": {
        "targets": TARGETS * 1e200
    },
    r"\(method=...\): expected one of \('auto', 'dense', 'krylov'\), got 'exact'": {"method": "exact"},
    r"\(shells=...\): expected LogShells, got 1.0": {"shells": 1.0},
    r"\(parameters=...\): expected a mapping .*": {"parameters": 3},
    r"\(memory_limit=...\): expected bytes or text .*": {"memory_limit": "much"},
}  # fmt: skip


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("text", REFUSED)
def test_refusals_come_in_one_line_before_any_kernel(text, monkeypatch):
    def never(self):
        raise AssertionError("a kernel is computed")

    monkeypatch.setattr(KernelComputation, "total", never)
    given = {"before": A, "after": B, "inputs": INPUTS, "targets": TARGETS, "shells": SHELLS} | REFUSED[text]
    with pytest.raises((TypeError, ValueError, RuntimeError), match=f"^checkpoint_budget{text}$"):
        checkpoint_budget(**given)
    if given["before"] is A and "after" not in REFUSED[text]:
        models = [given.pop("before"), given.pop("after")]
        with pytest.raises((TypeError, ValueError, RuntimeError), match=f"^checkpoint_history{text}$"):
            checkpoint_history(models, **given)


def test_states_under_a_prefix_are_found():
    expected = checkpoint_budget(A, B, INPUTS, TARGETS, SHELLS)
    state = {f"module.{name}": value for name, value in B.state_dict().items()}
    found = checkpoint_budget(A, (A, state), INPUTS, TARGETS, SHELLS)
    assert np.array_equal(found.transport, expected.transport)
    found = checkpoint_budget(nn.DataParallel(A), (nn.DataParallel(A), B.state_dict()), INPUTS, TARGETS, SHELLS)
    assert np.array_equal(found.transport, expected.transport)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_history_names_its_states():
    with pytest.raises(ValueError, match=r"^checkpoint_history\(models\): expected at least 2 states, .*, got 1$"):
        checkpoint_history([A], INPUTS, TARGETS, SHELLS)
    with pytest.raises(ValueError, match=r"^checkpoint_history\(models\[1\]=...\): the model's output contains NaN.*$"):
        checkpoint_history([A, nan(A), A], INPUTS, TARGETS, SHELLS)
    with pytest.raises(TypeError, match=r"^checkpoint_history\(models\[1\]=...\): expected a torch.nn.Module or .*$"):
        checkpoint_history((A, A.state_dict()), INPUTS, TARGETS, SHELLS)

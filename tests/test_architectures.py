"""Modern architectures: removing the skips changes nothing else; kernels, rates and budgets against dense ones."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from models import Case, dense, differences

import grsd
from grsd.bench.families import FAMILIES
from grsd.bench.families.modern import MODERN
from grsd.conditions.matched import budget_at_loss
from grsd.datasets.registry import dataset
from grsd.evidence import claims
from grsd.networks import ResNet, StateSpace, Transformer, architecture
from grsd.networks.stack import Stack, grid_of
from grsd.studies.architectures import cells, depth, flows, scales, tables, trained
from grsd.theory.prediction import early, predict_loss

SKIPPED = [name.removesuffix(cells.WITHOUT) for name in architecture.names() if name.endswith(cells.WITHOUT)]
SIZES = {"width": 6, "depth": 2, "activation": "tanh", "weight_scale": 1.0, "branch_scale": None, "seed": 3}
SHELLS = grsd.LogShells(math.log(2), 0.1)


def build(name, features=64, outputs=2, **changes):
    return architecture[name].load()(features, outputs, **SIZES | changes).double()


@pytest.mark.parametrize("family", SKIPPED)
def test_removing_the_skips_changes_nothing_else(family):
    """Parameters in name, order and value; the data and their order; and the outputs do differ."""
    pair = [build(family), build(family + cells.WITHOUT)]
    for (name, p), (other, q) in zip(*(net.named_parameters() for net in pair), strict=True):
        assert name == other
        assert torch.equal(p, q)
    assert [name for name, _ in pair[0].named_modules()] == [name for name, _ in pair[1].named_modules()]
    assert sum(isinstance(part, Stack) and part.skips for part in pair[0].modules()) == 1
    x = torch.randn(5, 64, dtype=torch.float64)
    assert not torch.allclose(pair[0](x), pair[1](x))
    for part in pair[1].modules():
        if isinstance(part, Stack):
            part.skips = True
    pair[1].load_state_dict(pair[0].state_dict())  # batch norm's statistics are what the layers before it give
    assert torch.equal(pair[0](x), pair[1](x))


@pytest.mark.parametrize(("family", "data"), [("resnet", "patches"), ("vit", "digits")])
def test_both_cells_of_a_seed_have_the_same_data_in_the_same_order(family, data):
    one, other = (cells.cell(family, skips, data).spec(7) for skips in (True, False))
    assert torch.equal(one.batch().inputs, other.batch().inputs)
    assert torch.equal(one.batch().targets, other.batch().targets)
    assert replace(one, architecture=other.architecture) == other
    trainers = [
        trained.begun(trained.experiment(trained.Adam(replace(cells.cell(family, skips, data), samples=20)), 7))
        for skips in (True, False)
    ]
    orders = [trainer.batches() for trainer in trainers]
    assert all(torch.equal(*(next(order) for order in orders)) for _ in range(5))


def test_the_branch_scale_is_one_over_the_root_of_the_branches():
    assert ResNet(64, 1, width=4, depth=4).blocks.scale == 0.5
    assert Transformer(64, 1, width=4, depth=2).blocks.scale == 0.5
    assert ResNet(64, 1, width=4, depth=4, branch_scale=0.2).blocks.scale == 0.2


def test_weights_are_drawn_as_stated():
    net = ResNet(64, 3, width=100, depth=1, weight_scale=1.5, seed=1)
    assert net.blocks.branches[0][2].weight.std().item() == pytest.approx(1.5 / 30, rel=0.02)
    assert net.readout.weight.std().item() == pytest.approx(0.1, rel=0.15)
    torch.manual_seed(5)
    again = ResNet(64, 3, width=100, depth=1, weight_scale=1.5, seed=1)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), again.parameters(), strict=True))
    steps = StateSpace(64, 1, width=50, depth=1, seed=0).blocks.branches[0].log_step.detach().exp()
    assert 0.05 <= float(steps.min()) <= float(steps.max()) <= 0.5
    assert float(Transformer(64, 1, width=64, depth=1).positions.std()) == pytest.approx(0.02, rel=0.1)


def test_fixup_starts_with_blocks_and_outputs_at_zero():
    net = ResNet(64, 2, width=4, depth=3, start="fixup").double()
    x = torch.randn(5, 64, dtype=torch.float64)
    stem = net.stem(x.unflatten(1, net.grid))
    assert torch.equal(net.blocks(stem), stem)
    assert not net(x).any()


def test_batch_norm_stands_still_and_is_normalized_at_the_start():
    net = ResNet(64, 2, width=4, depth=2, norm="batch").double()
    assert not net.training
    x = torch.randn(4000, 64, dtype=torch.float64)
    normed = net.blocks.branches[0][0](net.stem(x.unflatten(1, net.grid)))
    assert float(normed.mean((0, 2, 3)).abs().max()) < 0.1
    assert float(normed.std((0, 2, 3)).sub(1).abs().max()) < 0.1
    assert torch.allclose(net(x[:5]), net(x)[:5])


@pytest.mark.parametrize(
    ("features", "grid"), [(64, (1, 8, 8)), (3072, (3, 32, 32)), (63, (1, 1, 63)), (40, (1, 1, 40)), (3, (3, 1, 1))]
)
def test_features_are_read_as_images_or_sequences(features, grid):
    assert grid_of(features) == grid


def test_a_state_space_is_its_recurrence():
    """y_t = 2 Re sum_n C_n x_n(t), x(t + 1) = exp(dt A) x(t) + u(t + 1), here in complex numbers, step by step."""
    layer = StateSpace(64, 1, width=3, depth=1, seed=2).double().blocks.branches[0]
    u = torch.randn(2, 8, 3, dtype=torch.float64)
    a = torch.complex(-layer.log_decay.exp(), layer.frequency) * layer.log_step.exp()
    c = torch.complex(layer.cosines, layer.sines)
    normed, state, found = layer.norm(u), torch.zeros(2, 3, 4, dtype=torch.complex128), []
    for t in range(8):
        state = state * a.exp() + normed[:, t, :, None]
        found.append(2 * (c * state).sum(-1).real + layer.direct * normed[:, t])
    assert torch.allclose(layer(u), layer.mix(torch.tanh(torch.stack(found, 1))), rtol=1e-12, atol=1e-14)


def test_tokens_are_patches_and_pieces():
    image = torch.arange(64.0)[None]
    tokens = Transformer(64, 1, width=4, depth=1)._tokens(image)
    assert tokens.shape == (1, 16, 4)
    assert tokens[0, 1].tolist() == [2.0, 3.0, 10.0, 11.0]
    padded = Transformer(25, 1, width=4, depth=1)._tokens(torch.ones(1, 25))
    assert padded.shape == (1, 9, 4)
    assert float(padded.sum()) == 25
    pieces = Transformer(512, 32, width=4, depth=1, causal=True)._tokens(torch.arange(512.0)[None])
    assert torch.equal(pieces[0], torch.arange(512.0).view(16, 32))


def test_a_causal_transformer_sees_nothing_later():
    net = Transformer(40, 2, width=4, depth=2, tokens=8, causal=True).double()
    h = torch.randn(1, 8, 4, dtype=torch.float64)
    changed = h.clone()
    changed[:, 5:] += 1
    assert torch.allclose(net.blocks(h)[:, :5], net.blocks(changed)[:, :5])
    assert not torch.allclose(net.blocks(h)[:, 5:], net.blocks(changed)[:, 5:])


@pytest.mark.parametrize("skips", [True, False])
def test_a_causal_transformer_on_prose_closes_its_budget_of_a_few_steps(skips):
    """Next characters by Adam and cross-entropy: the energy's change is relaxation plus transport, in every shell."""
    data = dataset["prose"].load()(6, task="next", seed=0)
    labels = data.targets.argmax(1)
    name = "transformer" if skips else "transformer-no-skips"
    network = build(name, 512, 32)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    kept = [copy.deepcopy(network)]
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(data.inputs), labels).backward()
        optimizer.step()
        kept.append(copy.deepcopy(network))
    found = grsd.training.checkpoint_history(kept, data.inputs, labels, SHELLS, loss="cross-entropy")
    error = torch.stack([network(data.inputs).softmax(1) for network in kept]) - torch.eye(32)[labels]
    expected = error.square().sum((1, 2)).detach().numpy() / 2
    assert found.energy_before.sum("shell").values == pytest.approx(expected[:-1], rel=1e-12)
    gained = found.relaxation + found.transport.sum("shell_from")
    residue = np.abs(found.energy_after - found.energy_before - gained)
    assert float(residue.max()) <= 1e-10 * float(expected.max())
    assert float(found.energy_after.isel(step=-1).sum()) < float(found.energy_before.isel(step=0).sum())
    assert np.isfinite(found.transport.values).all()


def test_sharply_curved_networks_have_their_rate():
    """Sixteen gated layers without skips bend within 1e-6 of their parameters' norm; M' is the difference of M."""
    spec = cells.cell("gated-perceptron", False, depth=16).spec(0)
    data = spec.batch()
    network = spec.network(data).double()
    rate = grsd.tangent_kernel_and_rate(network, data.inputs, data.targets)[1]
    ((network(data.inputs) - data.targets).square().sum() / (2 * len(data.inputs))).backward()
    sizes = [torch.stack([p.norm(), p.grad.norm()]) for p in network.parameters()]
    length, slope = torch.stack(sizes).norm(dim=0)
    h = 1e-9 * float((length / slope).detach())
    kernels = []
    for sign in (1, -1):
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for p, q in zip(moved.parameters(), network.parameters(), strict=True):
                p -= sign * h * q.grad
        kernels.append(grsd.tangent_kernel(moved, data.inputs))
    found = (kernels[0] - kernels[1]) / (2 * h)
    assert float((rate - found).norm()) <= 1e-5 * float(rate.norm())


def test_a_cell_takes_any_registered_data_set_with_two_classes():
    assert cells.cell("resnet", True, "cifar10").spec(0).task == "parity"
    assert cells.cell("transformer", False, "prose").spec(3).task == "consonant"
    with pytest.raises(ValueError, match=r"cell\(data=...\): expected one of .*cifar10.*, got 'power-law'"):
        cells.cell("resnet", True, "power-law")


CASES = [name for name in MODERN if not name.endswith("no skips")]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in CASES[::3] else pytest.mark.long) for name in MODERN]
)
def test_kernel_rate_and_both_budgets_against_dense_ones(name):
    family = FAMILIES[name]
    model, inputs, targets = Case(name, family.build, (6, *family.shape), (6, 2)).make()
    m, _, along = dense(model, inputs, targets)
    kernel, rate = grsd.tangent_kernel_and_rate(model, inputs, targets)
    assert float((kernel - m).norm()) <= 1e-10 * float(m.norm())
    h = 2e-4 * min(1.0, float(m.norm() / rate.norm()))
    assert float((rate - differences(along, h)).norm()) <= 1e-8 * float(rate.norm()) + 1e-14 * float(m.norm()) / h
    error = (model(inputs) - targets).detach()
    budget = grsd.energy_budget(grsd.spectrum(kernel, rate), error, SHELLS)
    change = budget.coupling.sum("shell_from") - budget.dissipation
    e = error.reshape(-1)
    lost = float(e @ m @ e)
    assert float(change.sum()) == pytest.approx(-lost, rel=1e-10)
    after = _stepped(model, inputs, targets)
    between = grsd.checkpoint_budget(model, after, inputs, targets, SHELLS)
    gained = between.relaxation + between.transport.sum("shell_from")
    residue = np.abs(between.energy_after - between.energy_before - gained)
    assert float(residue.max()) <= 1e-10 * float(between.energy_before.sum())
    assert float(between.energy_after.sum()) == pytest.approx(float((after(inputs) - targets).square().sum() / 2))


def _stepped(model, inputs, targets):
    """A copy of the model after one step of gradient descent."""
    after = copy.deepcopy(model)
    optimizer = torch.optim.SGD(after.parameters(), 0.05)
    ((after(inputs) - targets).square().sum() / (2 * len(inputs))).backward()
    optimizer.step()
    return after


TINY = {"width": 12, "depth": 2, "samples": 60}


def tiny(skips, **changes):
    return replace(cells.cell("gated-perceptron", skips), **TINY | changes)


@pytest.fixture(scope="module")
def tiny_run():
    return flows.followed(tiny(True).spec(0).to_dict() | {"until": -1.2})


def test_one_flow_is_read_for_every_condition(tiny_run):
    passed = np.log(tiny_run.loss.values / float(tiny_run.start_loss))
    assert passed[-1] <= -1.2 or float(tiny_run.rate_time[0]) == pytest.approx(1, abs=0.5)
    assert np.diff(passed, prepend=0.0).min() > -0.5  # the loss falls by about .3 from snapshot to snapshot
    assert float(tiny_run.rate_time[-1]) == pytest.approx(float(tiny_run.time[-1] * tiny_run.start_largest_eigenvalue))
    assert tables.rates(tiny_run).t_rho.dims == ("time", "shell")
    errors = flows.forecasts(tiny_run)
    seen = early(tiny_run, float(tiny_run.time[max(1, np.argmax(passed <= -0.5))]))
    later = tiny_run.isel(time=slice(seen.history.sizes["time"], None))
    for method in ("growth", "lazy"):
        expected = np.log(predict_loss(seen, later.time.values, method).values / later.loss.values)
        assert errors[method] == pytest.approx(np.abs(expected).mean())


def test_the_growth_share_of_fluxes_that_are_growth_and_that_are_not(tiny_run, monkeypatch):
    """F = r eps gives one; a flux tilted by the eigenvalue does not, and the control says how far from one."""
    budget = budget_at_loss("a test", tiny_run, flows.SHELLS, -1.0)
    reading, frontier = flows.Reading(tiny(True)), -math.log(float(budget.time))
    inside = (budget.boundary_mask == 0) & (budget.boundary <= frontier) & (budget.boundary >= frontier - 6)
    assert int(inside.sum()) >= 3
    for module in (flows, tables):
        monkeypatch.setattr(module, "history", lambda cell, seed: tiny_run)
        monkeypatch.setattr(module, "budget_at_loss", lambda call, run, shells, log_loss: budget)
    budget["flux"] = 0.7 * budget.density
    assert flows.growth_share(reading, 0) == pytest.approx(1)
    shares = []
    for tilt in (-1, 1):
        budget["flux"] = budget.density * np.exp(tilt * budget.boundary)
        flux, density = (budget[name].where(inside, drop=True).values for name in ("flux", "density"))
        shares.append(flows.growth_share(reading, 0))
        assert shares[-1] == pytest.approx((flux @ density) ** 2 / (flux @ flux) / (density @ density))
        assert shares[-1] < 0.99
    assert tables.tilted_share(reading, 0) == pytest.approx(max(shares))


def test_a_contrast_is_the_difference_of_two_cells(monkeypatch):
    shares = {True: 0.9, False: 0.4}
    monkeypatch.setattr(flows, "growth_share", lambda reading, seed: shares[reading.cell.skips] + seed / 100)
    monkeypatch.setattr(trained, "growth_share", lambda way, seed: shares[way.cell.skips] - seed / 100)
    measured = flows.MEASUREMENTS["skips-growth-share-resnet-digits"]
    assert flows.share_contrast(measured.protocol, 4) == pytest.approx(0.5)
    measured = trained.MEASUREMENTS["skips-growth-share-adam-resnet-digits"]
    assert trained.share_contrast(measured.protocol, 4) == pytest.approx(0.5)


def test_the_trend_with_depth_is_a_slope_in_its_binary_log(monkeypatch):
    share = {True: 0.1, False: -0.05}
    monkeypatch.setattr(
        flows, "growth_share", lambda reading, seed: share[reading.cell.skips] * math.log2(reading.cell.depth) + seed
    )
    monkeypatch.setattr(trained, "growth_share", lambda way, seed: 0.5 * way.cell.skips - way.cell.depth / 10)
    monkeypatch.setattr(
        flows, "beyond", lambda reading, seed: 0.0 if reading.cell.skips else 0.02 * math.log2(reading.cell.depth)
    )
    measured = {
        name: of.measure(of.protocol, 3) for name, of in depth.MEASUREMENTS.items() if name.startswith("skips-depth")
    }
    assert measured == {
        "skips-depth-growth-share-resnet-digits": pytest.approx(0.15),
        "skips-depth-growth-share-adam-resnet-digits": pytest.approx(0),
        "skips-depth-beyond-resnet-digits": pytest.approx(0.02),
    }


def test_outputs_are_scaled_around_their_start():
    """Zero at first, alpha^2 times the kernel, and alpha times every later change."""
    network = tiny(True).spec(0).network(tiny(True).spec(0).batch()).double()
    inputs = torch.randn(5, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = scales.Scaled(network, 3.0)
    assert own(inputs).abs().max() == 0
    torch.testing.assert_close(grsd.tangent_kernel(own, inputs), 9 * grsd.tangent_kernel(network, inputs))
    before = network(inputs).detach()
    with torch.no_grad():
        next(network.parameters()).add_(0.1)
    torch.testing.assert_close(own(inputs), 3 * (network(inputs) - before))


def test_speeds_of_a_flux_that_is_growth_and_one_that_is_not(tiny_run, monkeypatch):
    budget = budget_at_loss("a test", tiny_run, flows.SHELLS, -1.0)
    monkeypatch.setattr(scales, "history", lambda protocol, seed: tiny_run)
    monkeypatch.setattr(scales, "budget_at_loss", lambda call, run, shells, log_loss: budget)
    protocol = scales.Scale(flows.Reading(tiny(True)), 1.0)
    budget["flux"] = -0.7 * budget.density
    found = scales.speeds(protocol, 0)
    assert found["growth"] == pytest.approx(-0.7 * float(budget.time))
    assert found["rest"] == pytest.approx(0, abs=1e-6)
    budget["flux"] = budget.density * np.exp(budget.boundary)
    frontier = -math.log(float(budget.time))
    inside = (budget.boundary_mask == 0) & (budget.boundary <= frontier) & (budget.boundary >= frontier - 6)
    flux, density = (budget[name].where(inside, drop=True).values for name in ("flux", "density"))
    expected = float(budget.time) * np.linalg.norm(flux) / np.linalg.norm(density)
    assert scales.speed(protocol, 0) == pytest.approx(expected)


def test_growth_is_above_its_control_and_what_is_no_growth_is_not(tiny_run, monkeypatch):
    budget = budget_at_loss("a test", tiny_run, flows.SHELLS, -1.0)
    monkeypatch.setattr(scales, "history", lambda protocol, seed: tiny_run)
    monkeypatch.setattr(scales, "budget_at_loss", lambda call, run, shells, log_loss: budget)
    protocol = scales.Scale(flows.Reading(tiny(True)), 1.0)
    budget["flux"] = 0.3 * budget.density
    control = scales.speeds(protocol, 0)["tilted"]
    assert control < 0.99
    assert scales.control_contrast(protocol, 0) == pytest.approx(1 - control)
    differences = []
    for tilt in (-1, 1):
        budget["flux"] = budget.density * np.exp(tilt * budget.boundary)
        assert scales.speeds(protocol, 0)["tilted"] == control
        differences.append(scales.control_contrast(protocol, 0))
    assert max(differences) == pytest.approx(0, abs=1e-12)
    assert min(differences) <= 0


def test_lazy_training_has_slope_minus_one(monkeypatch):
    monkeypatch.setattr(scales, "speed", lambda protocol, seed: (2.0 + seed) / protocol.output_scale)
    slope = scales.MEASUREMENTS["scale-slope-gated-perceptron-digits"]
    assert slope.measure(slope.protocol, 3) == pytest.approx(-1)


def test_exponents_of_the_loss_are_slopes_in_log_time(monkeypatch):
    time = np.array([1.0, 2.0, 5.0])
    losses = {"measured": 3 * time**-0.7, "growth": time**-0.9, "lazy": time**-0.4}
    monkeypatch.setattr(tables, "foretold", lambda run: {"time": time} | losses)
    found = tables.loss_exponents(xr.Dataset())
    assert found == {name: pytest.approx(value) for name, value in (("measured", 0.7), ("growth", 0.9), ("lazy", 0.4))}
    monkeypatch.setattr(tables, "foretold", lambda run: {"time": time[:1], "measured": time[:1]})
    assert math.isnan(tables.loss_exponents(xr.Dataset())["measured"])


def test_every_claim_of_the_notebook_has_its_measurement():
    known = {name for name, claim in claims().items() if claim.notebook == "12_architectures"}
    assert known == {name for study in (flows, trained, depth, scales) for name in study.MEASUREMENTS}

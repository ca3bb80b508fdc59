import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jacrev

from grsd.conditions import propagation
from grsd.networks import Perceptron, architecture
from grsd.studies import gradient_propagation as study

INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h):
        return h + 0.5 * self.outer(torch.relu(self.inner(h)))


class Residual(nn.Module):
    """A user's own network: an embedding, blocks with their skips inside, a readout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.blocks = nn.Linear(6, 4), nn.Sequential(*(Block(4) for _ in range(3)))
        self.readout = nn.Linear(4, 2)

    def forward(self, x):
        return self.readout(self.blocks(self.embed(x)))


def test_orthogonal_layers_have_gain_one():
    found = propagation.measure(
        architecture["orthogonal"].load()(6, 2, width=12, depth=6, activation="identity"), INPUTS
    )
    upper = np.triu_indices(6, 1)
    assert np.allclose(found.gain.values[upper], 1, atol=1e-13)
    assert np.allclose(found.norm.values[upper], 1, atol=1e-13)
    assert float(found.worst) < 1e-13
    assert np.isnan(found.gain.values[np.tril_indices(6)]).all()


def test_gaussian_products_have_mean_gain_one():
    gains = np.array(
        [
            propagation.measure(
                Perceptron(6, 1, width=10, depth=5, activation="identity", seed=seed).double(), INPUTS[:1], norms=False
            ).gain
            for seed in range(80)
        ]
    )
    mean, error = gains.mean(0), gains.std(0) / len(gains) ** 0.5
    upper = np.triu_indices(5, 1)
    assert (np.abs(mean - 1)[upper] < 4 * error[upper]).all()


@pytest.mark.parametrize("residual", [False, True])
def test_against_a_dense_jacobian(residual):
    network = Perceptron(6, 2, width=7, depth=4, residual=residual, seed=1).double()
    found = propagation.measure(network, INPUTS)

    def onward(h):
        for layer in network.hidden[2:]:
            branch = torch.tanh(layer(h))
            h = h + network.branch_scale * branch if residual else branch
        return h

    start = torch.tanh(network.hidden[0](INPUTS))
    branch = torch.tanh(network.hidden[1](start))
    second = start + network.branch_scale * branch if residual else branch
    jacobians = torch.stack([jacrev(onward)(h) for h in second]).detach()
    gains = jacobians.square().sum((1, 2)) / 7
    assert np.isclose(found.gain.sel(l=2, m=4), gains.mean())
    assert np.isclose(found.standard_error.sel(l=2, m=4), gains.std() / 5**0.5)
    assert np.isclose(found.norm.sel(l=2, m=4), torch.linalg.matrix_norm(jacobians, 2).mean())


@pytest.mark.parametrize(
    "node", [r"blocks\.\d", ["blocks.0", "blocks.1", "blocks.2"], lambda _, part: isinstance(part, Block)]
)
def test_a_users_blocks(node):
    network = Residual()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = propagation.measure(network, INPUTS.float(), node=node, side="output", parameters={"seed": 4})
    assert found.l_name.values.tolist() == ["blocks.0", "blocks.1", "blocks.2"]
    assert found.attrs["seed"] == 4
    blocks = network.double().blocks
    starts = blocks[0](network.embed(INPUTS.float().double()))
    jacobians = torch.stack([jacrev(lambda h: blocks[2](blocks[1](h)))(h) for h in starts])
    assert np.isclose(found.gain.sel(l=1, m=3), (jacobians.square().sum((1, 2)) / 4).mean().item())
    assert all(torch.equal(before[name].double(), tensor) for name, tensor in network.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


@pytest.mark.parametrize("residual", [False, True])
def test_nodes_are_the_layers_where_none_are_named(residual):
    """Of a perceptron h_1 to h_L; of any module what enters its layers, but for the first of them."""
    network = Perceptron(6, 2, width=5, depth=4, residual=residual)
    named = propagation.measure(network, INPUTS.float(), node=[*(f"hidden.{i}" for i in (1, 2, 3)), "readout"])
    assert propagation.measure(network, INPUTS.float()).identical(named)
    found = propagation.measure(Residual(), INPUTS.float())
    assert found.l_name.values.tolist() == [f"blocks.{i}.{part}" for i in range(3) for part in ("inner", "outer")] + [
        "readout"
    ]


def test_width_of_the_later_node_counts():
    network = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(3, 8)).double()
    found = propagation.measure(network, INPUTS, node=r"\d", side="output")
    assert np.isclose(found.gain.sel(l=1, m=2), network[1].weight.square().sum().item() / 3)
    assert np.isclose(found.gain.sel(l=2, m=3), network[2].weight.square().sum().item() / 8)


def test_growth_decay_and_norm_are_told_apart():
    """Linear layers c Q: each gain is c^(2 (m - l)), each norm c^(m - l)."""
    for scale in (0.8, 1.3):
        network = architecture["orthogonal"].load()(6, 2, width=8, depth=5, activation="identity").double()
        with torch.no_grad():
            for layer in network.hidden:
                layer.weight *= scale
        found = propagation.measure(network, INPUTS)
        slope = np.log(scale)
        assert np.isclose(found.growth, max(4 * slope, 0))
        assert np.isclose(found.decay, max(-4 * slope, 0))
        assert np.isclose(found.norm_growth, max(4 * slope, 0))
        assert np.isclose(found.worst, 4 * abs(slope))
        assert np.allclose(found.amplitude, slope * found.distance)
        assert np.allclose(found.norm_amplitude, slope * found.distance)


def test_amplitude_is_the_mean_over_pairs_at_a_distance():
    found = propagation.measure(Perceptron(6, 2, width=7, depth=5, seed=1).double(), INPUTS)
    half = np.log(found.gain.values) / 2
    assert np.allclose(found.amplitude, [np.diagonal(half, step).mean() for step in (1, 2, 3, 4)])
    logs = np.log(found.norm.values)
    assert np.allclose(found.norm_amplitude, [np.diagonal(logs, step).mean() for step in (1, 2, 3, 4)])
    assert found.growth == max(np.nanmax(half), 0)
    assert found.decay == -np.nanmin(half)
    assert found.norm_growth == max(np.nanmax(logs), 0)


def test_verdicts_of_the_cases():
    """An upper bound does not refuse decay, the two-sided rule does; a growing norm fails, though gains are one."""
    depths = (4, 8, 16)
    words, two_sided = {}, {}
    for kind in ("residual", "sub-critical", "super-critical", "orthogonal linear"):
        runs = [study.over_depth(kind, seed, study.Protocol(depths=depths, width=24, samples=3)) for seed in range(4)]
        ensemble = [item for run in runs for item in run]
        words[kind] = propagation.judge(ensemble).verdict
        two_sided[kind] = propagation.judge_two_sided(ensemble).verdict
    assert words == {
        "residual": "holds",
        "sub-critical": "holds",
        "super-critical": "fails",
        "orthogonal linear": "holds",
    }
    assert two_sided == words | {"sub-critical": "fails"}
    random = [
        propagation.measure(
            Perceptron(6, 1, width=24, depth=depth, activation="identity", seed=seed).double(),
            INPUTS[:1],
            parameters={"seed": seed, "depth": depth},
        )
        for seed in range(6)
        for depth in depths
    ]
    found = propagation.judge(random)
    assert found.verdict == "fails"
    assert found.estimate == found.details.slopes["norm_growth"] == found.details.per_seed["norm_growth"].mean()
    assert found.reason.startswith("the slope of the largest log operator norm on log depth is ")
    table = study.table(runs)
    assert table.worst.sel(depth=8, seed=2, kind="orthogonal linear") == runs[2][1].worst


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)), {}, "expected at least 2 layers after the first"),
        (Residual(), {"node": "nothing"}, "expected at least 2 submodules"),
        (Residual(), {"node": ["blocks.0", "block.1"]}, "no submodule 'block.1'"),
        (Residual(), {"node": ".*", "side": "both"}, r"side=...\): expected one of"),
        (nn.Sequential(nn.Linear(6, 6), *[nn.ReLU()] * 2), {"node": ["0", "1"]}, "1 is called more than once"),
        (nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), {"node": ["0", "1"]}, "call model.eval"),
        (
            nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 1)),
            {"node": ["0", "2"], "side": "output"},
            "overwritten in place",
        ),
    ],
)
def test_refusals(model, options, said):
    with pytest.raises(ValueError, match=said):
        propagation.measure(model, INPUTS.float(), **options)


def test_judge_and_cases_refuse():
    runs = study.over_depth("residual", 0, study.Protocol(depths=(2, 3), width=8, samples=2))
    with pytest.raises(ValueError, match="expected at least 3 depths"):
        propagation.judge(runs)
    del runs[0].attrs["seed"]
    with pytest.raises(ValueError, match="one has none"):
        propagation.judge(runs)
    with pytest.raises(ValueError, match="networks of different depths"):
        propagation.slopes(runs[:1])


def test_a_kind_is_what_its_name_says():
    spec = study.Spec(width=6, depth=3, samples=4)
    orthogonal, _ = study.drawn(spec, "orthogonal linear", 1)
    weight = orthogonal.hidden[1].weight
    assert torch.allclose(weight @ weight.T, torch.eye(6, dtype=weight.dtype), atol=1e-14)
    aligned, data = study.drawn(spec, "aligned linear", 1)
    assert torch.equal(aligned.hidden[2].weight, torch.eye(6, dtype=torch.float64))
    assert data.inputs.shape == (4, 64)
    assert not study.drawn(spec, "critical", 1)[0].residual

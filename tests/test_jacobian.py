import weakref

import pytest
import torch
from models import ZOO
from torch.func import functional_call, jacrev
from untouched import state

import grsd
from grsd.jacobian import (
    Network,
    Route,
    RowMethod,
    can_vmap_samples,
    exact_derivatives,
    jacobian,
    plan_groups,
    pull,
    pull_and_rate,
    random_like,
    trace_forward,
    trace_with_graph,
)


def network(model):
    return Network(model, torch.float64, torch.device("cpu"))


def groups_of(net, inputs, per_parameter=False):
    graph = trace_with_graph(net, inputs)
    return plan_groups(
        net, graph, pull(net, graph, inputs, random_like(graph.outputs)), graph, per_parameter=per_parameter
    ), graph


@pytest.mark.parametrize("row_method", [RowMethod.PER_SAMPLE, RowMethod.ONE_OUTPUT])
def test_parts_give_the_jacobian(any_case, row_method):
    """sum_t delta a^T, or the rows, against the dense Jacobian of the parameters each group names."""
    model, inputs, _ = any_case
    net = network(model)
    with exact_derivatives():
        groups, trace = groups_of(net, inputs)
        if row_method == RowMethod.PER_SAMPLE and not can_vmap_samples(net, inputs, trace.outputs):
            return
        samples, classes = len(inputs), trace.outputs.numel() // len(inputs)
        dense = jacrev(lambda p: functional_call(model, p, (inputs,)).reshape(samples, classes))(net.parameters)
        try:
            parts, outputs = jacobian(net, inputs, groups, row_method=row_method)
        except RuntimeError:
            assert isinstance(model, torch.nn.Sequential)
            assert any(isinstance(part, torch.nn.PReLU) for part in model)
            assert row_method != RowMethod.ONE_OUTPUT
            return
    assert torch.equal(outputs, trace.outputs) or torch.allclose(outputs, trace.outputs, atol=1e-14)
    for group, (part, _) in zip(groups, parts, strict=True):
        if group.route == Route.ROWS:
            rows = part[0]
        else:
            features, backprops = part
            layout = {Route.GRAM: "gtncq", Route.WEIGHTED: "ngctq", Route.SLICES: "ngcqt"}[group.route]
            rows = torch.einsum(f"{layout},ngtp->ncgqp", backprops, features).flatten(2)
        expected = torch.cat([dense[name].flatten(2) for name in group.names], -1)
        norm = expected.square().sum(-1)
        assert torch.allclose(rows.square().sum(-1), norm, atol=1e-12)
        assert torch.allclose(
            torch.einsum("ncp,mdp->ncmd", rows, rows), torch.einsum("ncp,mdp->ncmd", expected, expected), atol=1e-12
        )


def test_every_used_parameter_is_in_one_unit(any_case):
    model, inputs, _ = any_case
    net = network(model)
    with exact_derivatives():
        for per_parameter in (False, True):
            groups, _ = groups_of(net, inputs, per_parameter)
            names = [name for group in groups for name in group.names]
            assert len(names) == len(set(names))
            assert set(net.parameters) - set(names) <= {"unused"}
            assert not per_parameter or all(len(group.names) == 1 for group in groups)


def test_recognised_layers_need_no_generic_route():
    generic = {}
    for case in ZOO:
        model, inputs, _ = case.make()
        with exact_derivatives():
            groups, _ = groups_of(network(model), inputs)
        generic[case.name] = {group.names[0] for group in groups if not group.uses}
    assert {name for name, groups in generic.items() if groups} == {
        "cross attention, bias rows",
        "weight norm",
        "weight norm by a hook",
        "orthogonal convolution",
        "raw parameters",
        "recurrent cell",
        "looks at values",
        "transformer, tied output",
        "transformer, norms last",
    }
    assert generic["transformer, tied output"] == {"token.weight", "position.weight"}


def test_the_module_is_never_written_to(any_case):
    model, inputs, targets = any_case
    before = state(model, inputs)
    net = network(model)
    with exact_derivatives():
        direction = pull(net, trace_with_graph(net, inputs), inputs, targets)
        pull_and_rate(net, inputs, torch.ones_like(targets), direction, torch.zeros_like(targets))
    for tensor in net.parameters.values():
        tensor.add_(1.0)
    assert state(model, inputs) == before


def test_a_copy_can_be_made_of_a_module_that_caches():
    class Caches(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last = torch.nn.Linear(5, 3), None

        def forward(self, x):
            self.last = self.layer(x)
            return self.last

    model = Caches()
    kept = model(torch.randn(2, 5))
    assert kept.requires_grad
    with exact_derivatives():
        net = network(model)
        x = torch.randn(2, 5, dtype=torch.float64)
        pull(net, trace_with_graph(net, x), x, torch.ones(2, 3, dtype=torch.float64))
    assert model.last is kept


def test_a_trace_without_a_graph_keeps_no_activations():
    seen = []

    class Norms(torch.nn.Module):
        def __init__(self):
            super().__init__()
            norms = torch.nn.LayerNorm(6), torch.nn.RMSNorm(6), torch.nn.GroupNorm(2, 6), torch.nn.BatchNorm1d(6)
            self.norms, self.first = torch.nn.ModuleList(norms), torch.nn.Linear(5, 6)

        def forward(self, x):
            for norm in self.norms:
                x = self.first(x) if norm is self.norms[0] else x
                seen.append(weakref.ref(x))
                x = norm(x)
            return x

    with exact_derivatives():
        trace = trace_forward(network(Norms().eval()), torch.randn(4, 5, dtype=torch.float64))
    assert len(trace.calls) == 5
    assert [activation() for activation in seen] == [None] * 4


class Experts(torch.nn.Module):
    """Every sample through every expert, by one grouped product of matrices, which torch has in float32 alone."""

    def __init__(self, grouped):
        super().__init__()
        torch.manual_seed(0)
        self.grouped, self.first = grouped, torch.nn.Linear(5, 8)
        self.experts, self.readout = torch.nn.Parameter(torch.randn(2, 8, 8) / 3), torch.nn.Linear(8, 3)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        if self.grouped:
            ends = len(x) * torch.arange(1, 3, dtype=torch.int32)
            mixed = torch.nn.functional.grouped_mm(h.repeat(2, 1), self.experts, offs=ends).view(2, len(x), -1)
        else:
            mixed = h @ self.experts
        return self.readout(torch.tanh(mixed).sum(0))


@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="no grouped products in this torch")
def test_grouped_products_have_a_kernel_and_a_rate_in_float64():
    x, y = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    for one, other in zip(
        grsd.tangent_kernel_and_rate(Experts(True), x, y),
        grsd.tangent_kernel_and_rate(Experts(False), x, y),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12 * float(other.abs().max()))


def test_parameters_added_or_multiplied_are_known():
    """Where a raw parameter meets the samples, broadcast over any of their axes; not where there are no samples."""

    class Raw(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last = torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)
            shapes = {"scale": (6,), "column": (3, 1), "gate": (), "shift": (3, 6), "table": (6, 5)}
            for name, shape in shapes.items():
                self.register_parameter(name, torch.nn.Parameter(torch.rand(shape, dtype=torch.float64)))
            self.row = torch.nn.Parameter(torch.rand(5, dtype=torch.float64))

        def forward(self, x):
            h = torch.tanh(self.layer(x)) * self.scale * self.column + self.shift
            return self.last(torch.tanh(self.gate * h).sum(1)) + (torch.tanh(self.table) + self.row).sum()

    model, inputs = Raw().double(), torch.randn(6, 3, 4, dtype=torch.float64)
    with exact_derivatives():
        groups, _ = groups_of(network(model), inputs)
    assert {group.names[0] for group in groups if not group.uses} == {"table", "row"}
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(out, list(model.parameters()), retain_graph=True)])
        for out in model(inputs).flatten()
    ]
    expected = torch.stack(rows) @ torch.stack(rows).T / len(inputs)
    assert torch.allclose(grsd.tangent_kernel(model, inputs), expected, rtol=1e-12, atol=1e-14)

"""Parts of the kernel that are wanted alone, against one dense Jacobian over the table of models."""

import numpy as np
import pytest
import torch
from models import CASES, ZOO
from reference import trainable
from torch import nn

import grsd
from grsd.jacobian import exact_derivatives
from grsd.kernel.computation import KernelComputation
from grsd.kernel.plan import Pass, Plan
from grsd.krylov import CrossProducts, KernelProducts


def rows_of(model, inputs):
    """The Jacobian by one backward pass for each output, (N, outputs, P), and the columns of each parameter by name."""
    parameters = trainable(model)
    with exact_derivatives():
        outputs = model(inputs)
        rows = []
        for value in outputs.reshape(-1):
            found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            pairs = zip(found, parameters, strict=True)
            rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs]))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    columns = torch.arange(len(rows[0])).split([p.numel() for p in parameters])
    return torch.stack(rows).view(len(inputs), -1, len(rows[0])), dict(zip(names, columns, strict=True))


def close(found, expected, scale=None):
    scale = expected.norm() if scale is None else scale
    return found.shape == expected.shape and float((found - expected).norm()) <= 1e-12 * float(scale)


def flat(rows):
    return rows.flatten(0, 1)


@pytest.fixture
def cut(monkeypatch):
    """Small tiles, one sample differentiated at once, slices of few numbers: the routes of a tight limit."""
    monkeypatch.setattr(
        "grsd.kernel.computation.single_pass_plan",
        lambda groups, samples: Plan(tuple(Pass((group,), 2, 1) for group in groups), workspace=7),
    )
    for limit in ("FEW_CALLS", "GRAMS_AT_ONCE", "HELD_ROWS"):
        monkeypatch.setattr(f"grsd.jacobian.size.{limit}", 0)


@pytest.mark.parametrize(
    "row", [*CASES, *(pytest.param(row, marks=[pytest.mark.long] if n % 4 else []) for n, row in enumerate(ZOO))],
    ids=[row.name for row in CASES + ZOO],
)  # fmt: skip
def test_every_part_against_one_dense_jacobian(row):
    model, inputs, _ = row.make()
    rows, columns = rows_of(model, inputs)
    samples, classes = rows.shape[:2]
    whole = torch.einsum("icp,jdp->icjd", rows, rows)
    found = grsd.tangent_kernel(model, inputs, normalized=False)
    assert close(found, whole.reshape(samples * classes, -1))
    assert close(grsd.tangent_kernel(model, inputs, outputs="trace"), whole.diagonal(0, 1, 3).sum(-1) / samples)
    apart = grsd.tangent_kernel(model, inputs, outputs="diagonal")
    assert close(apart, whole.diagonal(0, 1, 3).movedim(-1, 0) / samples)
    if type(model).__name__ != "Branches":  # it takes another branch on few samples
        first = max(1, samples // 3)
        test, train = inputs[:first], inputs[first:] if samples > 1 else inputs
        left, right = rows[:first], rows[first:] if samples > 1 else rows
        scale = flat(left).norm() * flat(right).norm()
        expected = flat(left) @ flat(right).T
        assert close(grsd.tangent_kernel(model, test, others=train), expected / len(train), scale / len(train))
        own = grsd.tangent_kernel(model, test, others=train, outputs="trace", normalized=False)
        assert close(own, torch.einsum("icp,jcp->ij", left, right), scale)
    name = list(columns)[-1]
    few = rows[..., columns[name]]
    asked = [p.requires_grad for p in model.parameters()]
    if float(few.norm()):
        found = grsd.tangent_kernel(model, inputs, parameters=[name])
        assert close(found, flat(few) @ flat(few).T / samples)
    assert asked == [p.requires_grad for p in model.parameters()]


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize(
    "case",
    [pytest.param(row, id=row.name, marks=[pytest.mark.long] if n % 3 else []) for n, row in enumerate(CASES)],
    indirect=True,
)
def test_tiles_and_batches_change_nothing(case):
    model, inputs, _ = case
    rows, _ = rows_of(model, inputs)
    traced = torch.einsum("icp,jcp->ij", rows, rows) / len(inputs)
    assert close(grsd.tangent_kernel(model, inputs, outputs="trace"), traced)
    others = inputs.flip(0)
    found = grsd.tangent_kernel(model, inputs, others=others, outputs="diagonal")
    assert close(found, torch.einsum("icp,jcp->cij", rows, rows.flip(0)) / len(inputs))


@pytest.mark.parametrize("limit", [None, "4GiB"])
def test_products_between_batches(limit):
    model, generator = grsd.Perceptron(5, 3, width=8, depth=2, residual=True), torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64}
    test, train, v, u = (torch.randn(shape, **draw) for shape in ((4, 5), (7, 5), (21,), (12,)))
    kernel = grsd.tangent_kernel(model, test, others=train, memory_limit=limit)
    products = CrossProducts(model, test, train, batch=3)
    assert products.shape == kernel.shape == (12, 21)
    assert close(products.product(v), kernel @ v)
    assert close(products.transposed(u), kernel.T @ u)
    operator = products.as_linear_operator()
    assert np.allclose(operator @ np.eye(21), kernel)
    assert np.allclose(operator.T @ np.eye(12), kernel.T)
    named = {"parameters": ["readout", "hidden.0.*"]}
    kernel = grsd.tangent_kernel(model, test, others=train, memory_limit=limit, **named)
    assert close(CrossProducts(model, test, train, **named).product(v), kernel @ v)
    own = grsd.tangent_kernel(model, train, **named)
    assert close(KernelProducts(model, train, **named).product(v), own @ v)
    assert set(grsd.parameter_kernels(model, train, **named)) == {
        "readout.weight", "readout.bias", "hidden.0.weight", "hidden.0.bias",
    }  # fmt: skip
    assert close(sum(grsd.parameter_kernels(model, train, **named).values()), own)


class Tokens(nn.Module):
    """A small language model: logits of every position, the readout tied to the embedding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(5, 6)
        self.mix = nn.Linear(6, 6)
        self.read = nn.Linear(6, 5, bias=False)
        self.read.weight = self.embed.weight

    def forward(self, tokens):
        h = self.embed(tokens)
        return self.read(torch.tanh(self.mix(h.cumsum(1))))


@pytest.mark.parametrize("limit", [None, "4GiB"])
def test_outputs_by_position(limit):
    model, tokens = Tokens().double(), torch.randint(0, 5, (4, 3), generator=torch.Generator().manual_seed(0))
    rows = rows_of(model, tokens)[0].view(4, 3, 5, -1)
    whole = torch.einsum("itcp,jsdp->itcjsd", rows, rows) / 4
    expected = {
        ("all", "all"): whole.reshape(60, 60),
        ("all", "trace"): torch.einsum("itcjsc->itjs", whole).reshape(12, 12),
        ("all", "diagonal"): torch.einsum("itcjsc->citjs", whole).reshape(5, 12, 12),
        ("trace", "all"): torch.einsum("itcjtd->icjd", whole).reshape(20, 20),
        ("trace", "trace"): torch.einsum("itcjtc->ij", whole),
        ("trace", "diagonal"): torch.einsum("itcjtc->cij", whole),
        ("diagonal", "all"): torch.einsum("itcjtd->ticjd", whole).reshape(3, 20, 20),
        ("diagonal", "trace"): torch.einsum("itcjtc->tij", whole),
        ("diagonal", "diagonal"): torch.einsum("itcjtc->tcij", whole),
    }
    for (positions, outputs), wanted in expected.items():
        asked = {"positions": positions, "outputs": outputs, "memory_limit": limit}
        assert close(grsd.tangent_kernel(model, tokens, **asked), wanted), asked
    between = grsd.tangent_kernel(
        model, tokens[:1], others=tokens[1:], positions="diagonal", outputs="trace", normalized=False
    )
    assert close(between, 4 * torch.einsum("itcjtc->tij", whole)[:, :1, 1:])


def test_a_tied_parameter_answers_to_any_of_its_names_and_frozen_ones_to_none():
    model, tokens = Tokens().double(), torch.arange(4)[:, None]
    assert torch.equal(*(grsd.tangent_kernel(model, tokens, parameters=[name]) for name in ("read", "embed.weight")))
    model.mix.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^tangent_kernel\(parameters=...\): 'mix' matches only parameters that do "
                                         r"not require gradients; expected embed.weight$"):  # fmt: skip
        grsd.tangent_kernel(model, tokens, parameters="mix")
    wrapped = nn.DataParallel(model)
    assert grsd.tangent_kernel(wrapped, tokens, parameters=["module.embed"]).shape == (20, 20)


X = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
REFUSED = [
    ({"others": X[:, :4]}, r"others=...\): expected a batch of shape \(N, 5\), got \(6, 4\)$"),
    ({"others": X[:0]}, r"others=...\): expected a batch of shape \(N, 5\), got \(0, 5\)$"),
    ({"others": X.float()}, r"others=...\): expected torch.float64 on cpu, as inputs are, got torch.float32 on cpu$"),
    ({"others": X / 0}, r"others=...\): found NaN or infinity; remove those samples first$"),
    ({"others": X.numpy()}, r"others=...\): expected a torch.Tensor, a batch like inputs, got ndarray of shape"),
    ({"parameters": ["hoed"]}, r"parameters=...\): 'hoed' matches no parameter; expected hidden.0.weight, hidden.0.bi"),
    ({"parameters": []}, r"parameters=...\): expected names or patterns such as 'head.\*', got \[\]$"),
    ({"parameters": [3]}, r"parameters=...\): expected names or patterns such as 'head.\*', got \[3\]$"),
    ({"outputs": "mean"}, r"outputs=...\): expected one of \('all', 'trace', 'diagonal'\), got 'mean'$"),
    ({"positions": "trace"}, r"positions='trace'\): expected a model with outputs \(N, T, C\), got \(6, 3\)$"),
    ({"normalized": 1}, r"normalized=...\): expected True or False, got 1$"),
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_refusals_of_parts(given, message, monkeypatch):
    monkeypatch.setattr(KernelComputation, "total", lambda self: pytest.fail("computed"))
    with pytest.raises((TypeError, ValueError), match=rf"^tangent_kernel\({message}"):
        grsd.tangent_kernel(grsd.Perceptron(5, 3, width=8, depth=2), X, **given)


class Detached(nn.Module):
    """The output of a sample is its own, its gradient is not."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        y = self.layer(x)
        return y - y.mean(0) + y.mean(0).detach()


@pytest.mark.parametrize("given", [{"outputs": "trace"}, {"others": X[:4]}])
def test_samples_that_see_each_other_are_refused_in_parts_too(given):
    with pytest.raises(ValueError, match="the gradient of a sample's output changes with the other samples"):
        grsd.tangent_kernel(Detached(), X, **given)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("given", [{"outputs": "trace"}, {"others": X[:4]}, {"outputs": "diagonal"}])
def test_the_self_check_sees_a_share_left_out(given, monkeypatch):
    from grsd.kernel.blocks import _Parts

    right, seen = _Parts.add, []
    monkeypatch.setattr(_Parts, "add", lambda self, *tiles: right(self, *tiles) if seen else seen.append(tiles))
    monkeypatch.setattr(KernelComputation, "_strategies", lambda self: [self.strategy])
    with pytest.raises(RuntimeError, match=r"^tangent_kernel\(model, ...\): self-check failed, u\^T M v = "):
        grsd.tangent_kernel(grsd.Perceptron(5, 3, width=8, depth=2), X, **given)


def test_a_part_needs_less_memory_than_the_whole():
    model, x = grsd.Perceptron(5, 10, width=8, depth=2), X.repeat(10, 1)
    whole = grsd.memory_estimate(model, x)
    assert grsd.memory_estimate(model, x, outputs="trace") < whole - 0.9 * 600**2 * 8 + 2**19
    assert grsd.memory_estimate(model, x[:6], others=x[6:], parameters=["readout"]) < whole
    with pytest.raises(ValueError, match=r"^memory_estimate\(rate=True\): others, outputs and positions are those of"):
        grsd.memory_estimate(model, x, rate=True, outputs="trace")

"""What ``tangent_kernel`` refuses, and that the model, the inputs and torch are exactly as they were."""

import threading
from contextlib import nullcontext

import pytest
import torch
from models import SOME_CASES, ZOO
from torch import nn
from untouched import state

import grsd

X, Y = torch.randn(6, 5, dtype=torch.float64), torch.randn(16, 3, dtype=torch.float64)
TOKENS = torch.arange(12).reshape(6, 2)


class Does(nn.Module):
    """A linear layer, then ``function`` of it and the inputs."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function, self.calls = nn.Linear(5, 3), function, []

    def forward(self, x):
        return self.function(self.layer(x), x)


class Raises(nn.Module):
    """Fails at its call number ``at``: somewhere in the middle of the computation."""

    COUNT = 0

    def __init__(self, at):
        super().__init__()
        self.first, self.norm, self.second, self.at = nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), at
        Raises.COUNT = 0

    def forward(self, x):
        Raises.COUNT += 1
        h = self.norm(self.first(x))
        if self.at == Raises.COUNT:
            raise OSError("the disk is full")
        return self.second(h)


def embedding(**options):
    return nn.Sequential(nn.Embedding(12, 2, **options), nn.Flatten(), nn.Linear(4, 3))


def normalized(**options):
    return nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, **options))


def attention_over_the_batch():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.readout = nn.MultiheadAttention(5, 1), nn.Linear(5, 3)

        def forward(self, x):
            return self.readout(self.attention(x, x, x)[0])

    return Attends()


def with_parameter(tensor):
    model = nn.Linear(5, 3)
    model.extra = nn.Parameter(tensor)
    return model


def with_parameter_of(kind):
    model = nn.Linear(5, 3)
    model.extra = kind(torch.rand(2))
    return model


def spread():
    model = nn.Linear(5, 3)
    model.register_buffer("far", torch.zeros(2, device="meta"))
    return model


class Itself(nn.Linear):
    def __deepcopy__(self, memo):
        return self


class Own(nn.Parameter):
    """A parameter with ways of its own."""


def hooked():
    model = nn.Linear(5, 3)
    model.weight.register_hook(lambda gradient: 2 * gradient)
    return model


def locked():
    model = nn.Linear(5, 3)
    model.lock = threading.Lock()
    return model


def neighbours(first, second):
    """Two samples of a batch so close that a graph by distance joins them, and no others."""
    inputs = 9 * torch.randn(16, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inputs[second] = inputs[first] + 0.05
    return inputs


def by_distance():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x):
            near = (torch.cdist(x, x) < 0.5).to(x.dtype)
            return self.last(near @ torch.tanh(self.first(x)) / near.sum(1, keepdim=True))

    return Graph()


def less_the_detached_mean():
    """Each sample alone has the gradient that it has in the batch, and another output."""

    class Less(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 6), nn.Parameter(torch.randn(6, 3))

        def forward(self, x):
            y = torch.einsum("nf,fg->ng", torch.tanh(self.first(x)), self.last)
            return y - y.mean(0).detach()

    return Less()


REFUSED = [
    ("hook on a parameter", hooked, X, r"weight has a hook on its gradient"),
    (
        "parameter of its own kind",
        lambda: with_parameter_of(Own),
        X,
        r"extra is a Own, whose own ways a copy would lose",
    ),
    ("a copy that is none", lambda: nn.Sequential(Itself(5, 3)), X, r"a copy of Itself is the same object"),
    ("what has no copy", locked, X, r"the model cannot be copied \(TypeError: cannot pickle '_thread.lock' object\)"),
    ("an error of its own", lambda: Does(lambda y, x: y * (1 // 0)), X, r"\(ZeroDivisionError: integer division"),
    ("the first sample and its neighbour", by_distance, neighbours(0, 2), r"the output of a sample changes"),
    ("two samples in the middle", by_distance, neighbours(4, 9), r"the output of a sample changes"),
    ("batch norm in training mode", normalized, X, r"the model changes '1.running_mean' when it is called"),
    (
        "batch norm without running statistics",
        lambda: normalized(track_running_stats=False).eval(),
        X,
        r"the output of a sample changes with the other samples of its batch \(batch norm without running statistics",
    ),
    ("attention over the batch", attention_over_the_batch, X, r"the output of a sample changes with the other samples"),
    (
        "less the detached mean, with a parameter of no known layer",
        less_the_detached_mean,
        X,
        r"the output of a sample changes",
    ),
    ("two coupled samples", lambda: Does(lambda y, x: y - y.mean(0)), X[:2], r"the output of a sample changes"),
    ("active dropout", lambda: nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5)), X, r"gives another output each time"),
    ("in place on the inputs", lambda: Does(lambda y, x: y + x.mul_(2).sum()), X, r"the model changes 'inputs'"),
    ("two outputs", lambda: Does(lambda y, x: (y, y)), X, r"must return one tensor, it returned tuple"),
    ("an image", lambda: Does(lambda y, x: y[:, None, None]), X, r"it gave \(6, 1, 1, 3\)"),
    ("other samples", lambda: Does(lambda y, x: y[1:]), X, r"it gave \(5, 3\)"),
    ("nan out", lambda: Does(lambda y, x: y.sqrt()), X, r"the model's output contains NaN or infinity"),
    ("inf in", lambda: nn.Linear(5, 3), X / 0, r"inputs\): found NaN or infinity"),
    ("complex out", lambda: Does(lambda y, x: y + 1j), X, r"must be real floating point, it is torch.complex128"),
    ("complex in", lambda: nn.Linear(5, 3), X + 0j, r"expected a dense real tensor, got torch.complex128"),
    ("sparse in", lambda: nn.Linear(5, 3), X.to_sparse(), r"expected a dense real tensor, got torch.sparse_coo"),
    ("complex parameter", lambda: with_parameter(torch.zeros(2) + 0j), X, r"extra is torch.complex64"),
    ("sparse parameter", lambda: with_parameter(torch.eye(2).to_sparse()), X, r"extra is torch.sparse_coo"),
    ("no values", lambda: nn.Linear(5, 3, device="meta"), X, r"weight is on the meta device and has no values"),
    ("spread", spread, X, r"far is on the meta device"),
    ("lazy", lambda: nn.LazyLinear(3), X, r"weight has no shape yet; call the model once first"),
    ("sparse embedding", lambda: embedding(sparse=True), TOKENS, r"0 has sparse=True, under which"),
    ("scaled embedding", lambda: embedding(scale_grad_by_freq=True), TOKENS, r"0 has scale_grad_by_freq=True"),
    ("renormed embedding", lambda: embedding(max_norm=1.0), TOKENS, r"0 has max_norm=1.0"),
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("rate", [False, True])
@pytest.mark.parametrize(("build", "inputs", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_in_one_line_and_nothing_is_left_behind(build, inputs, message, rate):
    model = build()
    before = state(model, inputs)
    call = "tangent_kernel_and_rate" if rate else "tangent_kernel"
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        getattr(grsd, call)(model, inputs, *([Y[: len(inputs)]] if rate else []))
    assert str(caught.value).startswith(f"{call}(")
    assert "\n" not in str(caught.value)
    assert state(model, inputs) == before


def test_two_devices(monkeypatch):
    """Seen without a second device: the model's tensors say where they are."""
    from grsd.support.checks import check_module

    class Elsewhere(torch.Tensor):
        @property
        def device(self):
            return torch.device("cuda:1")

    model = nn.Linear(5, 3)
    model.register_buffer("far", torch.zeros(2).as_subclass(Elsewhere))
    with pytest.raises(ValueError, match=r"f\(model, ...\): the model is spread over cpu, cuda:1; name one device"):
        check_module("f", model, None)
    check_module("f", model, "cpu")


@pytest.mark.parametrize("at", range(1, 16))
def test_an_exception_anywhere_leaves_nothing_behind(at):
    model = Raises(at).double()
    before = state(model, X)
    whole = Raises(0).double()
    grsd.tangent_kernel_and_rate(whole, X, Y[:6])
    calls, Raises.COUNT = Raises.COUNT, 0
    with pytest.raises(OSError, match="the disk is full") if at <= calls else nullcontext():
        grsd.tangent_kernel_and_rate(model, X, Y[:6])
    assert state(model, X) == before


@SOME_CASES
def test_calls_leave_nothing_behind(any_case):
    model, inputs, targets = any_case
    before = state(model, inputs, targets)
    with torch.no_grad():
        grsd.tangent_kernel_and_rate(model, inputs, targets)
    grsd.parameter_kernels(model, inputs)
    grsd.memory_estimate(model, inputs)
    assert state(model, inputs, targets) == before


def test_under_no_grad_and_inference_mode():
    """Where gradients are switched off the kernel is the same."""
    case = next(case for case in ZOO if case.name == "orthogonal convolution")
    model, x, y = case.make()
    expected = grsd.tangent_kernel_and_rate(model, x, y)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = grsd.tangent_kernel_and_rate(model, x.clone(), y.clone())
        for part, one in zip(found, expected, strict=True):
            assert torch.allclose(part, one, rtol=1e-12)


def test_where_torch_chooses_it_is_followed():
    """Of ties in a bag the first, flat at the ends of clipped activations, and NaN where nothing uses it."""
    bags = nn.Sequential(nn.EmbeddingBag(9, 4, mode="max"), nn.Tanh(), nn.Linear(4, 3)).double()
    nn.init.ones_(bags[0].weight)
    tokens = torch.arange(24).reshape(4, 6) % 9
    clipped = nn.Sequential(nn.Linear(5, 4), nn.ReLU6(), nn.Linear(4, 4), nn.Hardtanh(), nn.Linear(4, 3)).double()
    nn.init.zeros_(clipped[0].weight)
    nn.init.zeros_(clipped[0].bias)
    unused = nn.Linear(5, 3).double()
    unused.register_buffer("nothing", torch.full((2,), torch.nan))
    for model, inputs in ((bags, tokens), (clipped, X), (unused, X)):
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(out, list(model.parameters()), retain_graph=True)])
            for sample in inputs
            for out in model(sample[None])[0]
        ]
        expected = torch.stack(rows) @ torch.stack(rows).T / len(inputs)
        assert torch.allclose(grsd.tangent_kernel(model, inputs), expected, rtol=1e-12, atol=1e-14)
    assert torch.allclose(grsd.tangent_kernel_and_rate(unused, X, Y[:6])[0], expected, rtol=1e-12)


def test_a_cache_out_of_reach_is_refused_again_and_again():
    class Shares(nn.Module):
        cache = {}  # noqa: RUF012

        def __init__(self):
            super().__init__()
            self.matrix, self.readout = nn.Parameter(torch.randn(5, 4)), nn.Linear(4, 3)

        def forward(self, x):
            if "matrix" not in Shares.cache:
                Shares.cache["matrix"] = self.matrix * 2
            return self.readout(torch.tanh(x @ Shares.cache["matrix"]))

    model = Shares().double()
    for call in (grsd.tangent_kernel, grsd.tangent_kernel, grsd.parameter_kernels):
        with pytest.raises(ValueError, match=r"from one call to the next|kept from an earlier call"):
            call(model, X)


class Square(torch.autograd.Function):
    """In NumPy, of which ``torch.vmap`` knows nothing."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * torch.from_numpy(ctx.saved_tensors[0].numpy() * gradient.numpy())


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(5))

    def forward(self, x):
        return Square.apply(torch.einsum("f,nf->nf", self.scale, x))


class NoWayBack(Square):
    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no way back\nand more of it")


def test_what_torch_cannot_batch_is_done_one_by_one_and_said():
    model = Scaled().double()
    before = state(model)
    message = r"tangent_kernel\(model, ...\): torch cannot .* one backward pass per output, 30 of them"
    with pytest.warns(UserWarning, match=message):
        kernel = grsd.tangent_kernel(model, X)
    assert state(model) == before
    rows = torch.diag_embed(2 * model.scale.detach() * X**2).flatten(0, 1)
    assert torch.allclose(kernel, rows @ rows.T / len(X), rtol=1e-12)


def test_what_torch_cannot_differentiate_is_said():
    model = Does(lambda y, x: NoWayBack.apply(y)).double()
    before = state(model)
    message = r"tangent_kernel\(model, ...\): torch cannot differentiate it here: no way back$"
    with pytest.raises(RuntimeError, match=message):
        grsd.tangent_kernel(model, X)
    assert state(model) == before

"""Refusals: the message, and that the model is exactly as it was."""

import copy

import pytest
import torch
from torch import nn

import grsd
from grsd.support.checks import resolve_device

X, Y = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)


def net(**changes):
    return grsd.Perceptron(5, 3, width=8, depth=2, **changes)


def frozen():
    model = net()
    return model.requires_grad_(False)


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(5, 3), function

    def forward(self, x):
        return self.function(self.layer(x))


BATCH = [
    (lambda: "net", X, Y, r"expected a torch.nn.Module, got str"),
    (frozen, X, Y, r"no parameter with requires_grad=True"),
    (net, X.numpy(), Y, r"expected a torch.Tensor, got ndarray; use torch.as_tensor"),
    (net, X[:0], Y, r"expected a batch of shape \(N, ...\), N >= 1, got \(0, 5\)"),
    (net, X / 0, Y, r"inputs\): found NaN or infinity"),
    (
        lambda: Returns(lambda y: (y, y)),
        X,
        Y,
        r"one tensor, it returned tuple; take one of 0 \(6, 3\), 1 \(6, 3\): model = grsd.output\(model, 0\)$",
    ),
    (
        lambda: Returns(lambda y: y[:3]),
        X,
        Y,
        r"map 6 samples to an output of shape \(6, C\) or \(6,\), it gave \(3, 3\)$",
    ),
    (
        lambda: Returns(lambda y: y[..., None]),
        X,
        Y,
        r"\(6, 3, 1\); flatten it: torch.nn.Sequential\(model, torch.nn.Flatten\(\)\)$",
    ),
    (lambda: Returns(lambda y: y.log()), X, Y, r"the model's output contains NaN or infinity"),
    (lambda: Returns(lambda y: y.to(torch.complex128)), X, Y, r"must be real floating point, it is torch.complex128"),
    (net, X, Y[:, 0], r"expected exactly the output's shape \(6, 3\), got \(6,\); nothing is broadcast"),
    (net, X, Y[:, :1], r"expected exactly the output's shape \(6, 3\), got \(6, 1\)"),
    (net, X, torch.arange(6), r"class labels need loss='cross-entropy'"),
    (net, X, Y.tolist(), r"targets\): expected a torch.Tensor, got list"),
    (net, X, Y / 0, r"targets\): found NaN or infinity"),
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("call", ["gradient_flow", "tangent_kernel_and_rate"])
@pytest.mark.parametrize(("build", "inputs", "targets", "message"), BATCH)
def test_a_bad_batch_is_refused_in_one_line(call, build, inputs, targets, message):
    model = build()
    before = copy.deepcopy(model.state_dict()) if isinstance(model, nn.Module) else {}
    arguments = (model, inputs, targets) + (([1.0],) if call == "gradient_flow" else ())
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        getattr(grsd, call)(*arguments)
    assert str(caught.value).startswith(f"{call}(")
    assert "\n" not in str(caught.value)
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("mps", r"f\(device='mps'\): MPS has no float64"),
        ("tpu?", r"f\(device=...\): expected 'auto', 'cpu' or 'cuda', got 'tpu\?'"),
        ("meta", r"expected 'auto', 'cpu' or 'cuda', got 'meta'"),
    ],
)
def test_devices_refused(device, message):
    with pytest.raises(ValueError, match=message):
        resolve_device("f", device, net())


def test_devices_resolved(monkeypatch):
    assert resolve_device("f", None, net()).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("f", "auto", net()).type == "cpu"
    with pytest.raises(ValueError, match=r"f\(device='cuda'\): no CUDA device here"):
        resolve_device("f", "cuda", net())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("f", "auto", net()).type == "cuda"


@pytest.mark.parametrize("call", ["gradient_flow", "tangent_kernel_and_rate"])
def test_dtype_refused(call):
    arguments = (net(), X, Y) + (([1.0],) if call == "gradient_flow" else ())
    with pytest.raises(TypeError, match=r"expected torch.float32 or torch.float64, got torch.float16"):
        getattr(grsd, call)(*arguments, dtype=torch.float16)


class Normalized(nn.Module):
    """Batch norm in training mode: couples samples and writes to its buffers."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(5, 3), nn.BatchNorm1d(3, affine=False)

    def forward(self, x):
        return self.norm(self.layer(x))


@pytest.mark.parametrize("call", ["gradient_flow", "tangent_kernel_and_rate"])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5)), "gives another output each time"),
        (Normalized(), "changes 'norm.running_mean'"),
    ],
)
def test_training_mode_is_refused(call, model, message):
    before = copy.deepcopy(model.state_dict())
    arguments = (model, X, Y) + (([1.0],) if call == "gradient_flow" else ())
    with pytest.raises(ValueError, match=rf"{message} when it is called .* call model.eval\(\) first"):
        getattr(grsd, call)(*arguments)
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)
    assert model.training

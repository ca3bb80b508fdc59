"""The linearized network: against scipy, a model that is linear, and one that is really lazy."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import grsd

GENERATOR = torch.Generator().manual_seed(0)
X, Z, Y = (torch.randn(shape, dtype=torch.float64, generator=GENERATOR) for shape in ((6, 5), (4, 5), (6, 3)))


def test_against_scipy():
    model = grsd.Perceptron(5, 3, width=8, depth=2).double()
    kernel = grsd.tangent_kernel(model, X).numpy()
    between = grsd.tangent_kernel(model, Z, others=X).numpy()
    with torch.no_grad():
        train, test = model(X).reshape(-1).numpy(), model(Z).reshape(-1).numpy()
    y = Y.reshape(-1).numpy()
    times = [0.0, 0.5, 4.0, 30.0]
    solved = solve_ivp(
        lambda t, f: -np.concatenate([kernel, between]) @ (f[:18] - y),
        (0, 30), np.concatenate([train, test]), t_eval=times, rtol=1e-10, atol=1e-12,
    )  # fmt: skip
    found = grsd.linearized_flow(model, X, Y, [*times, np.inf], others=Z)
    assert found.sizes == {"time": 5, "sample": 6, "output": 3, "other": 4}
    assert np.allclose(found.outputs.values[:4].reshape(4, -1), solved.y[:18].T, atol=1e-8)
    assert np.allclose(found.other_outputs.values[:4].reshape(4, -1), solved.y[18:].T, atol=1e-8)
    assert np.allclose(found.loss, np.square(found.outputs.values - Y.numpy()).sum((1, 2)) / 12)
    limit = test - between @ np.linalg.solve(kernel, train - y)
    assert np.allclose(found.other_outputs.values[4].reshape(-1), limit, atol=1e-7)
    assert float(found.loss[4]) < 1e-20


def test_a_linear_model_is_its_own_linearization():
    """And the limit is the regression of least norm: fewer parameters than outputs leave an error."""
    model = nn.Linear(5, 3).double()
    top = float(torch.linalg.eigvalsh(grsd.tangent_kernel(model, X))[-1])
    flow = grsd.gradient_flow(model, X, Y, [1 / top, 5 / top], tolerance=1e-6)
    found = grsd.linearized_flow(model, X, Y, [*flow.times, np.inf], others=Z)
    for number, snapshot in enumerate(flow.snapshots):
        with torch.no_grad():
            outputs, others = snapshot.model(X), snapshot.model(Z)
        assert np.allclose(found.outputs[number], outputs, atol=1e-4)
        assert np.allclose(found.other_outputs[number], others, atol=1e-4)
        assert torch.allclose(grsd.linear_outputs(model, snapshot.model, Z), others, rtol=1e-12)
        assert torch.allclose(grsd.linear_outputs(model, snapshot.model.state_dict(), Z, batch=1), others, rtol=1e-12)
    many, answers = torch.cat([X, 2 * Z]), torch.cat([Y, Y[:4]])
    solution = torch.linalg.lstsq(torch.cat([many, torch.ones(10, 1).double()], 1), answers).solution
    regression = torch.cat([Z, torch.ones(4, 1).double()], 1) @ solution
    assert np.allclose(
        grsd.linearized_flow(model, many, answers, [np.inf], others=Z).other_outputs[0], regression, atol=1e-9
    )


class Scaled(nn.Module):
    """alpha times a network minus its copy at the start: lazy for a large alpha (Chizat, Oyallon, Bach 2019)."""

    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha
        self.moving, self.start = (grsd.Perceptron(5, 3, width=8, depth=2) for _ in range(2))
        self.start.requires_grad_(False)

    def forward(self, x):
        return self.alpha * (self.moving(x) - self.start(x))


def test_a_lazy_network_follows_its_linearization_and_another_does_not():
    errors = {}
    for alpha in (1.0, 100.0):
        model = Scaled(alpha).double()
        top = float(torch.linalg.eigvalsh(grsd.tangent_kernel(model, X))[-1])
        flow = grsd.gradient_flow(model, X, Y, [4 / top], tolerance=1e-4)
        after = flow.snapshots[-1].model
        with torch.no_grad():
            truth = after(Z)
        closed = torch.from_numpy(grsd.linearized_flow(model, X, Y, flow.times, others=Z).other_outputs.values[0])
        for name, found in {"flow": closed, "outputs": grsd.linear_outputs(model, after, Z)}.items():
            errors[alpha, name] = float((found - truth).norm() / truth.norm())
    for name in ("flow", "outputs"):
        assert errors[100.0, name] < 0.01
        assert errors[1.0, name] > 5 * errors[100.0, name]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: grsd.linearized_flow(m, X, Y, [2.0, 1.0]), r"linearized_flow\(times\): expected increasing times"),
        (lambda m: grsd.linearized_flow(m, X, Y, [-1.0]), r"linearized_flow\(times\): expected increasing times >= 0"),
        (lambda m: grsd.linearized_flow(m, X, Y[:, :2], [1.0]), r"linearized_flow\(..., targets\): expected exactly"),
        (lambda m: grsd.linearized_flow(m, X, Y, [1.0], others=X[:, :2]), r"tangent_kernel\(others=...\): expected"),
        (lambda m: grsd.linear_outputs(m, nn.Linear(5, 3), X), r"linear_outputs\(state=...\): expected the param"),
        (lambda m: grsd.linear_outputs(m, {"a": Y}, X), r"linear_outputs\(state=...\): the state does not"),
    ],
)  # fmt: skip
def test_refusals_of_linearizations(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(grsd.Perceptron(5, 3, width=8, depth=2))

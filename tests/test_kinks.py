"""M' where no difference of the whole batch is a derivative, as in a ResNet of hundreds of samples: parts decide."""

import pytest
import torch
from models import dense
from torch import nn

import grsd
from grsd.jacobian import verify
from grsd.kernel.computation import KernelComputation

SAMPLES = 100
X, Y = (torch.randn(SAMPLES, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (6, 2))


class Bent(nn.Module):
    """A network with so many kinks that some unit of some sample is always at one.

    ``detached``: of so many samples M' is not dM/dt. ``least``: fewer samples at once are refused.
    """

    def __init__(self, detached=0, least=1, classes=2):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, classes))
        largest = X[:, 0].sort(descending=True).values
        self.bound = float(largest[detached - 1 : detached + 1].mean()) if 0 < detached < SAMPLES else 9.0 - detached
        self.least = least

    def forward(self, x):
        if len(x) < self.least:
            raise ValueError("too few samples")
        outputs = self.layers(x)
        size = (9 + outputs.square().sum(1, keepdim=True)).sqrt()
        return outputs / torch.where(x[:, :1] > self.bound, size.detach(), size)


class Squeezed(Bent):
    """Outputs (N,), of one sample alone ()."""

    def forward(self, x):
        return super().forward(x).squeeze()


@pytest.fixture(autouse=True)
def whole(monkeypatch):
    """What the differences of the whole batch have said; None: they are no derivative."""
    monkeypatch.setattr(verify, "STEPS", (3e-3, 3e-4))
    monkeypatch.setattr(verify, "SHARP", 2e-4)
    compared, said = verify.ExpectedRate._compared, []

    def spy(check, *given):
        answer = compared(check, *given)
        said.append(answer[0])
        return answer

    monkeypatch.setattr(verify.ExpectedRate, "_compared", spy)
    return said


@pytest.mark.parametrize("detached", [1, SAMPLES])
def test_a_wrong_derivative_of_any_sample_is_refused(whole, detached):
    with pytest.raises(RuntimeError, match="not dM/dt"):
        grsd.tangent_kernel_and_rate(Bent(detached), X, Y)
    assert whole[0] is None


def test_right_networks_are_not_refused(whole):
    model = Bent()
    _, rate = grsd.tangent_kernel_and_rate(model, X, Y)
    assert whole == [None]
    few = grsd.tangent_kernel_and_rate(model, X[:20], direction=_flow(model))[1] * 20 / SAMPLES
    assert torch.allclose(rate[:40, :40], few, rtol=1e-10, atol=1e-12)


def _flow(model):
    (loss := (model.double()(X) - Y).square().sum() / (2 * SAMPLES)).backward()
    assert loss > 0
    return {name: -p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("make", [lambda: Bent(least=2), lambda: Squeezed(classes=1)], ids=["two", "squeezed"])
def test_networks_that_take_no_single_sample_are_not_refused(whole, make):
    targets = Y[:, 0] if isinstance(make(), Squeezed) else Y
    kernel, rate = grsd.tangent_kernel_and_rate(make(), X, targets)
    assert whole == [None]
    expected = dense(make().double(), X, targets)
    for found, right in zip((kernel, rate), expected, strict=False):
        assert torch.allclose(found, right, rtol=1e-9, atol=1e-11)


def test_wrong_blocks_between_samples_are_refused(whole):
    computation = KernelComputation("computation", Bent(), X, Y, torch.float64, None, None, rate=True)
    rate = computation.total()[1]
    check = verify.ExpectedRate(
        computation.network, computation.inputs, computation.expected.probe, computation.along, computation.batch
    )
    blocks = rate.view(SAMPLES, 2, SAMPLES, 2)
    own = torch.arange(SAMPLES)
    right = blocks[own, :, own].clone()
    assert check.disagreement(rate) is None
    blocks *= 0.9
    blocks[own, :, own] = right
    assert "not dM/dt" in check.disagreement(rate)
    assert whole[-1] is None


class Tokens(nn.Module):
    """Its curves are no smaller than its tolerance over the second step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.first = nn.Embedding(20, 16), nn.Linear(16, 80)
        self.second, self.readout = nn.Linear(80, 80), nn.Linear(80, 2)

    def forward(self, x):
        hidden = torch.relu(self.first(self.embedding(x).mean(1)))
        outputs = self.readout(torch.relu(self.second(hidden)))
        return outputs / (9 + outputs.square().sum(1, keepdim=True)).sqrt()


def test_curves_are_told_from_a_wrong_derivative(whole):
    generator = torch.Generator().manual_seed(0)
    tokens, targets = torch.randint(20, (60, 5), generator=generator), Y[:60]
    _, rate = grsd.tangent_kernel_and_rate(Tokens(), tokens, targets)
    assert whole == [None]
    assert torch.allclose(rate, dense(Tokens().double(), tokens, targets)[1], rtol=1e-9, atol=1e-12)

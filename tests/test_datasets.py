import pytest
import torch
from sklearn.datasets import load_digits

from grsd.datasets import digits


def test_digits_are_the_real_ones():
    data = digits(1797)
    assert data.inputs.shape == (1797, 64)
    assert data.inputs.dtype == torch.float64
    assert data.inputs.mean(0).abs().max() < 1e-12
    assert data.inputs.square().mean().item() == pytest.approx(1)
    counts = (data.targets > 0).sum(0)
    expected = torch.bincount(torch.as_tensor(load_digits().target))
    assert torch.equal(counts, expected)
    assert torch.allclose(data.targets.sum(1), torch.zeros(1797, dtype=torch.float64), atol=1e-12)


def test_tasks_agree_and_draws_are_nested():
    one_hot, parity = digits(50, seed=4), digits(50, task="parity", seed=4)
    assert torch.equal(one_hot.inputs, parity.inputs)
    even = one_hot.targets.argmax(1) % 2 == 0
    assert torch.equal(parity.targets[:, 0], torch.where(even, 1.0, -1.0).double())
    assert torch.equal(digits(20, seed=4).inputs, one_hot.inputs[:20])
    assert not torch.equal(digits(20, seed=5).inputs, one_hot.inputs[:20])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 1798}, "the set has 1797 samples, got 1798"),
        ({"samples": 0}, "expected a whole number of at least 1, got 0"),
        ({"task": "odd"}, "expected 'one-hot' or 'parity', got 'odd'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        digits(**arguments)

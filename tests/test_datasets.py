import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from grsd.datasets import digits, patches


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


def test_patches_are_tiles_of_the_photographs():
    """One tile cut by hand from each photograph; differences of pixels survive centring up to the set's mean tile."""
    data = patches(8480)
    order = torch.randperm(8480, generator=torch.Generator().manual_seed(0))
    inputs = torch.empty_like(data.inputs)
    inputs[order] = data.inputs
    sign = torch.empty_like(data.targets)
    sign[order] = data.targets
    images = [image.astype(float).mean(-1) for image in load_sample_images().images]
    cut = [image[8 * r : 8 * r + 8, 8 * c : 8 * c + 8].ravel() for image in images for r, c in ((0, 3), (9, 70))]
    places = [3, 9 * 80 + 70, 4240 + 3, 4240 + 9 * 80 + 70]
    tiles = np.array(cut) - np.mean(cut, axis=1, keepdims=True)
    found = inputs[places].numpy()
    ratio = np.diff(found, axis=0) / np.diff(tiles, axis=0)
    assert np.ptp(ratio[np.abs(np.diff(tiles, axis=0)) > 1]) < 1e-9
    assert sign[places].ravel().tolist() == [1, 1, -1, -1]
    assert inputs.square().mean().item() == pytest.approx(1)
    assert inputs.mean(0).abs().max() < 1e-12
    assert inputs.mean(1).abs().max() < 1e-12


def test_the_hidden_pixel_is_not_among_the_inputs():
    """Nor given away by their mean: its neighbours tell much of it, no linear map tells it exactly."""
    data = patches(2000, task="pixel", seed=1)
    assert data.inputs.shape == (2000, 63)
    solution = torch.linalg.lstsq(data.inputs, data.targets).solution
    left = (data.inputs @ solution - data.targets).square().mean()
    assert 0.1 < left < 0.5
    assert torch.equal(patches(30, task="pixel", seed=1).inputs, data.inputs[:30])
    assert data.targets.square().mean().item() == pytest.approx(1, rel=0.2)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 8481}, "the set has 8480 samples, got 8481"),
        ({"task": "parity"}, "expected 'photograph' or 'pixel', got 'parity'"),
    ],
)
def test_refusals_of_patches(arguments, message):
    with pytest.raises(ValueError, match=message):
        patches(**arguments)

import hashlib
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression

from grsd.datasets import DataNotFound, dataset, digits, generated, mnist1d, patches, power_law, prose, text


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


def test_mnist1d_follows_its_procedure_step_by_step():
    """Each sample by a loop over the published steps, from the same random numbers."""
    digit, chance, normal = (np.random.default_rng(part) for part in np.random.SeedSequence(6).spawn(3))
    labels = np.concatenate([digit.permuted(np.arange(10)[None], axis=1)[0] for _ in range(3)])
    signals, found = generated._signals(30, 6)
    assert found.tolist() == labels.tolist()
    for signal, label in zip(signals, labels, strict=True):
        pad, size, shift, slant = chance.random(4)
        smooth, white = normal.standard_normal((2, 72))
        shape = np.array(generated.TEMPLATES[label], float)
        shape = (shape - shape.mean()) / shape.std()
        shape = np.append((shape - shape[0]) / 6 + 1e-8, np.zeros(36 + int(25 * pad)))
        x = np.interp(np.linspace(0, 1, 72), np.linspace(0, 1, len(shape)), shape) * (1 + 0.4 * (size - 0.5))
        x = np.roll(x, int(48 * shift))
        x = np.where(x != 0, x, gaussian_filter(0.25 * smooth, 2)) + 0.02 * white
        x = x - 0.75 * (slant - 0.5) * np.linspace(-0.5, 0.5, 72)
        assert signal == pytest.approx(np.interp(np.linspace(0, 1, 40), np.linspace(0, 1, 72), x), abs=1e-12)


def test_mnist1d_is_as_hard_as_published():
    """Logistic regression tells 32 % of 1000 unseen signals (Greydanus and Kobak); three standard errors are 4.4 %."""
    data = mnist1d(5000, seed=1)
    assert data.inputs.square().mean().item() == pytest.approx(1, abs=0.02)
    assert data.inputs.mean().item() == pytest.approx(0, abs=0.02)
    assert torch.equal(mnist1d(13, seed=1).inputs, data.inputs[:13])
    assert not torch.equal(mnist1d(13, seed=2).inputs, data.inputs[:13])
    assert torch.equal(mnist1d(20, seed=1, task="parity").targets.sum(), torch.tensor(0.0).double())
    signals, labels = data.inputs.numpy(), data.targets.argmax(1).numpy()
    known = LogisticRegression(max_iter=300).fit(signals[:4000], labels[:4000])
    assert known.score(signals[4000:], labels[4000:]) == pytest.approx(0.32, abs=0.044)


def letters(data):
    mean, scale = text._reference()
    windows = data.inputs.reshape(len(data.inputs), text.WINDOW, len(text.ALPHABET)).numpy() * scale + mean
    assert np.allclose(np.sort(windows)[..., :-1], 0, atol=1e-12)
    return ["".join(text.ALPHABET[place] for place in window.argmax(1)) for window in windows]


def test_prose_is_read_in_windows():
    """Windows and next characters stand in the text; it is English, and a linear map tells more than the commonest."""
    data = prose(4000, seed=2)
    whole = text.text()
    following = [text.ALPHABET[place] for place in data.targets.argmax(1)]
    assert all(window + after in whole for window, after in zip(letters(data), following, strict=True))
    assert sum(whole.count(f" {word} ") for word in ("the", "of", "is", "and")) > 2500
    assert torch.equal(prose(9, seed=2).inputs, data.inputs[:9])
    consonant = prose(4000, seed=2, task="consonant").targets[:, 0]
    assert [after in "bcdfghjklmnpqrstvwxz" for after in following] == (consonant > 0).tolist()
    assert abs(consonant.mean()) < 0.1
    assert data.inputs.square().mean().item() == pytest.approx(1, abs=0.01)
    known = torch.linalg.lstsq(data.inputs[:3000], data.targets[:3000], driver="gelsd").solution
    right = (data.inputs[3000:] @ known).argmax(1) == data.targets[3000:].argmax(1)
    assert right.double().mean() > 0.25 > max(map(following.count, set(following))) / 4000


def test_a_python_without_its_help_texts(monkeypatch):
    content = dataset["prose"].load().source.content
    assert content() == hashlib.sha256(text.text().encode()).hexdigest()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr(text, "text", text.text.__wrapped__)
    assert content() == "not there"
    line = r"^prose: this Python's help texts \(pydoc_data.topics\) have 0 characters of prose, expected 1000"
    with pytest.raises(DataNotFound, match=line):
        dataset["prose"].load().source.require()


def test_a_power_law_is_registered_as_it_was():
    """The teacher's formula, from the same draws."""
    data = power_law(300, features=20, a=1.2, r=0.4, seed=3)
    k = torch.arange(1, 21, dtype=torch.float64)
    z = data.inputs / (k**-0.6 * (20 / (k**-1.2).sum()).sqrt())
    teacher = k**-0.7
    assert torch.allclose(data.targets, (z @ (teacher / teacher.norm()))[:, None])
    assert dataset["power-law"].load() is power_law
    with pytest.raises(ValueError, match=r"^power_law\(task=...\): expected one of \('linear',\), got 'parity'"):
        power_law(5, task="parity")

"""MNIST-1D: ten shapes of twelve points, distorted at random into signals of forty."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from grsd.datasets.data import Data
from grsd.datasets.registry import dataset
from grsd.datasets.sampling import CLASSES, checked, class_targets
from grsd.support.pinned import pinned
from grsd.support.values import seed_of

TASKS = ("one-hot", "parity")
MOST = 100_000
# The published templates of the digits 0 to 9.
TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
POINTS, LONGEST, LENGTH = 12, 72, 40
PADDING = (36, 60)
SCALE, SHEAR, SHIFTS = 0.4, 0.75, 48
SMOOTH_NOISE, NOISE, SMOOTHING = 0.25, 0.02, 2.0
REFERENCE = 5000  # samples of seed 0 whose mean and scale are everyone's


@dataset("mnist1d", tasks=TASKS, most=MOST)
@pinned(1)
def mnist1d(samples: int = 100, *, task: str = "one-hot", seed: int = 0) -> Data:
    """Draw MNIST-1D: signals of 40 points, d = 40, made from a template of each digit (no download).

    A template of 12 points is padded with 36 to 60 zeros, stretched to 72 points, scaled, shifted in a circle, given
    smooth noise where it is zero and white noise everywhere, sheared, and read at 40 points, with the constants of the
    source. The samples are not those of the published file. Inputs have the mean and the variance of 5000 samples
    subtracted and divided out, so that |x|^2 / 40 averages one.

    Args:
        samples: N, up to 100,000; each ten in a row are the ten digits in random order.
        task: ``"one-hot"``: C = 10 class indicators, centred (minus 1/10); ``"parity"``: C = 1, +1 for even digits,
            -1 for odd.
        seed: seed of the draw; the first N of a larger draw with the same seed are the same samples.

    Source: S. Greydanus, D. Kobak, Scaling Down Deep Learning with MNIST-1D (arXiv 2011.14439); templates and
    constants from its code, Apache 2.0. Errors: ``ValueError`` for N outside 1..100,000 or an unknown task.
    """
    checked("mnist1d", samples, MOST, task, TASKS)
    seed = seed_of("mnist1d", "seed", seed)
    signals, labels = _signals(samples, seed)
    mean, scale = _reference()
    targets = class_targets(torch.from_numpy(labels), task)
    return Data(torch.from_numpy((signals - mean) / scale), targets, f"MNIST-1D, {task}, N={samples}, seed={seed}")


@cache
@pinned(1)
def _reference() -> tuple[float, float]:
    """Return mean and standard deviation over all points of the reference samples."""
    signals, _ = _signals(REFERENCE, 0)
    return float(signals.mean()), float(signals.std())


def _templates() -> np.ndarray:
    """Return the templates (10, 12): each of variance one, then from 0 at its first point, then a sixth."""
    shapes = np.array(TEMPLATES, dtype=float)
    shapes = shapes / shapes.std(1, keepdims=True)
    return (shapes - shapes[:, :1]) / 6


def _signals(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return signals (N, 40) before centring, and their digits (N,)."""
    digits, chances, normals = (np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(3))
    tens = -(-samples // CLASSES)
    labels = digits.permuted(np.tile(np.arange(CLASSES), (tens, 1)), axis=1).ravel()[:samples]
    pad, size, shift, slant = chances.random((samples, 4)).T
    smooth, white = np.moveaxis(normals.standard_normal((samples, 2, LONGEST)), 1, 0)
    padded = np.zeros((samples, LONGEST))
    padded[:, :POINTS] = _templates()[labels] + 1e-8  # only what is padded is exactly zero
    low, high = PADDING
    lengths = POINTS + low + np.floor(pad * (high - low + 1)).astype(int)
    signals = _read(padded, LONGEST, lengths) * (1 + SCALE * (size - 0.5))[:, None]
    places = np.arange(LONGEST) - np.floor(shift * SHIFTS).astype(int)[:, None]
    signals = np.take_along_axis(signals, places % LONGEST, axis=1)
    signals = np.where(signals == 0, gaussian_filter1d(SMOOTH_NOISE * smooth, SMOOTHING, axis=1), signals)
    signals = signals + NOISE * white - SHEAR * (slant - 0.5)[:, None] * np.linspace(-0.5, 0.5, LONGEST)
    return _read(signals, LENGTH, np.full(samples, LONGEST)), labels


def _read(signals: np.ndarray, points: int, lengths: np.ndarray) -> np.ndarray:
    """Read the first ``lengths`` values of each row at equally spaced points, linearly between neighbours."""
    places = np.linspace(0, 1, points) * (lengths[:, None] - 1)
    before = np.minimum(places.astype(int), lengths[:, None] - 2)
    share = places - before
    left, right = (np.take_along_axis(signals, where, axis=1) for where in (before, before + 1))
    return left * (1 - share) + right * share

"""Small real data that ships inside packages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from sklearn.datasets import load_digits
from torch import Tensor

from grsd.checks import whole

DIGITS = 1797
TASKS = ("one-hot", "parity")


@dataclass(frozen=True)
class Data:
    """A full batch. ``inputs`` (N, d) and ``targets`` (N, C) are float64 on the CPU; ``name`` says what they are."""

    inputs: Float64[Tensor, "samples features"]
    targets: Float64[Tensor, "samples outputs"]
    name: str


def digits(samples: int = 100, *, task: str = "one-hot", seed: int = 0) -> Data:
    """Handwritten digits, 8 x 8 pixels: the optical recognition set that ships in scikit-learn (no download).

    Inputs are centred and scaled with the whole set's mean and one common scale, so that |x|^2 / 64 averages one.

    Args:
        samples: N, up to 1797, drawn without replacement.
        task: ``"one-hot"``: C = 10 class indicators, centred (minus 1/10); ``"parity"``: C = 1, +1 for even digits,
            -1 for odd.
        seed: seed of the draw; the first N of a larger draw with the same seed are the same samples.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository (1998).
    Errors: ``ValueError`` for N outside 1..1797 or an unknown task.
    """
    if whole("digits", "samples", samples, 1) > DIGITS:
        raise ValueError(f"digits(samples=...): the set has {DIGITS} samples, got {samples}")
    if task not in TASKS:
        raise ValueError(f"digits(task=...): expected 'one-hot' or 'parity', got {task!r}")
    pixels, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    pixels = pixels.double() - pixels.double().mean(0)
    pixels = pixels / pixels.square().mean().sqrt()
    drawn = torch.randperm(DIGITS, generator=torch.Generator().manual_seed(seed))[:samples]
    labels = labels[drawn].long()
    if task == "parity":
        targets = (1.0 - 2.0 * (labels % 2)).double()[:, None]
    else:
        targets = torch.nn.functional.one_hot(labels, 10).double() - 0.1
    return Data(pixels[drawn], targets, f"digits, {task}, N={samples}, seed={seed}")

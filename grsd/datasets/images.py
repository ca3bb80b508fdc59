"""Small real images that ship inside packages.

They are computed on one thread under torch's usual switches: the last bits of a mean depend on the number of threads.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import Float64
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor

from grsd.datasets.data import Data
from grsd.datasets.registry import dataset
from grsd.datasets.sampling import checked, class_targets, drawn, scaled
from grsd.support.pinned import pinned
from grsd.support.values import seed_of

DIGITS = 1797
TASKS = ("one-hot", "parity")
SIDE = 8
PATCHES = 8480
PATCH_TASKS = ("photograph", "pixel")
HIDDEN = 36


@dataset("digits", tasks=TASKS, most=DIGITS)
@pinned(1)
def digits(samples: int = 100, *, task: str = "one-hot", seed: int = 0) -> Data:
    """Return handwritten digits of 8 x 8 pixels: the optical recognition set of scikit-learn (no download).

    Inputs are centred and scaled with the whole set's mean and one common scale, so that |x|^2 / 64 averages one.

    Args:
        samples: N, up to 1797, drawn without replacement.
        task: ``"one-hot"``: C = 10 class indicators, centred (minus 1/10); ``"parity"``: C = 1, +1 for even digits,
            -1 for odd.
        seed: seed of the draw; the first N of a larger draw with the same seed are the same samples.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository (1998).
    Errors: ``ValueError`` for N outside 1..1797 or an unknown task.
    """
    checked("digits", samples, DIGITS, task, TASKS)
    seed = seed_of("digits", "seed", seed)
    pixels, labels = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    chosen = drawn(DIGITS, samples, seed)
    targets = class_targets(labels[chosen].long(), task)
    return Data(scaled(pixels.double())[chosen], targets, f"digits, {task}, N={samples}, seed={seed}")


@dataset("patches", tasks=PATCH_TASKS, most=PATCHES)
@pinned(1)
def patches(samples: int = 100, *, task: str = "photograph", seed: int = 0) -> Data:
    """Return grey patches of 8 x 8 pixels: tiles of the two sample photographs of scikit-learn (no download).

    The mean over the visible pixels of a patch is subtracted from it, so that brightness alone tells nothing. Then
    inputs are centred and scaled with the whole set's mean and one common scale, so that |x|^2 / d averages one.

    Args:
        samples: N, up to 8480, drawn without replacement.
        task: ``"photograph"``: d = 64, C = 1, +1 for a patch of china.jpg, -1 for one of flower.jpg, half the set each;
            ``"pixel"``: the pixel in row 4, column 4 (from 0) is hidden, d = 63; C = 1, its value minus that mean,
            centred and scaled to variance one over the set.
        seed: seed of the draw; the first N of a larger draw with the same seed are the same samples.

    Source: scikit-learn's sample images, 427 x 640, CC BY 2.0: china.jpg by danielbuechele, flower.jpg by vultilion.
    Errors: ``ValueError`` for N outside 1..8480 or an unknown task.
    """
    checked("patches", samples, PATCHES, task, PATCH_TASKS)
    seed = seed_of("patches", "seed", seed)
    pixels, chosen = _tiles(), drawn(PATCHES, samples, seed)
    seen = [place for place in range(SIDE**2) if task != "pixel" or place != HIDDEN]
    pixels = pixels - pixels[:, seen].mean(1, keepdim=True)
    if task == "pixel":
        targets = scaled(pixels[:, [HIDDEN]])
    else:
        targets = torch.from_numpy(np.repeat([1.0, -1.0], PATCHES // 2))[:, None]
    return Data(scaled(pixels[:, seen])[chosen], targets[chosen], f"patches, {task}, N={samples}, seed={seed}")


@cache
@pinned(1)
def _tiles() -> Float64[Tensor, "samples pixels"]:
    """Return the patches in grey levels, first photograph first; rows left over at the lower edge are not used."""
    grey = torch.stack([torch.from_numpy(image.copy()).double().mean(-1) for image in load_sample_images().images])
    return grey.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).reshape(PATCHES, SIDE**2)

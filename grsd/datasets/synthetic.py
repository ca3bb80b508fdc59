"""Random data with a power-law spectrum."""

from __future__ import annotations

import numpy as np
import torch

from grsd.datasets.data import Data
from grsd.datasets.registry import dataset
from grsd.support.pinned import pinned
from grsd.support.values import choice, fits_memory, positive, seed_of, whole_number

DECAYS = (1e-3, 50.0)
TASKS = ("linear",)
MOST = 100_000


@dataset("power-law", tasks=TASKS, most=MOST)
@pinned(1)
def power_law(
    samples: int = 100,
    *,
    features: int = 512,
    a: float = 1.5,
    r: float = 0.5,
    task: str = "linear",
    seed: int = 0,
) -> Data:
    """Draw Gaussian inputs whose variances fall as k^-a, and a linear teacher whose power in input k falls as k^-(1+r).

    With independent standard normal z_k, k = 1 .. d (``features``): inputs are x_k = s k^(-a/2) z_k, with the one scale
    s for which |x|^2 / d averages one, so that their covariance has eigenvalues s^2 k^-a. The single output (C = 1,
    task ``"linear"``) is y = t sum_k k^(-(1+r)/2) z_k, with the t for which its variance is one. The first N of a
    larger draw with the same seed are the same samples. No download.

    Source: the regression of ``grsd.solvable.regression``, as a data set for networks. Errors: ``ValueError`` for an
    unknown task and numbers that are not positive.
    """
    choice("power_law", "task", task, TASKS)
    shape = whole_number("power_law", "samples", samples, 1), whole_number("power_law", "features", features, 1)
    fits_memory("power_law", "samples, features", shape[0] * shape[1])
    seed = seed_of("power_law", "seed", seed)
    rank = np.arange(1, features + 1, dtype=float)
    spread = rank ** (-positive("power_law", "a", a, *DECAYS) / 2)
    teacher = rank ** (-(1 + positive("power_law", "r", r, *DECAYS)) / 2)
    drawn = np.random.default_rng(seed).standard_normal(shape)
    inputs = drawn * spread * np.sqrt(features / (spread @ spread))
    targets = drawn @ (teacher / np.sqrt(teacher @ teacher))
    name = f"power law, a={a:g}, r={r:g}, N={samples}, seed={seed}"
    return Data(torch.from_numpy(inputs), torch.from_numpy(targets)[:, None], name)

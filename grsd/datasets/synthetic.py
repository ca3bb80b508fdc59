"""Random data with a power-law spectrum."""

from __future__ import annotations

import numpy as np
import torch

from grsd.datasets.data import Data
from grsd.support.pinned import pinned
from grsd.support.values import fits_memory, positive, seed_of, whole_number

DECAYS = (1e-3, 50.0)


@pinned(1)
def power_law(samples: int = 100, *, features: int = 512, a: float = 1.5, r: float = 0.5, seed: int = 0) -> Data:
    """Draw Gaussian inputs whose variances fall as k^-a, and a linear teacher whose power in input k falls as k^-(1+r).

    Inputs are x_k = k^(-a/2) z_k times one scale, so that |x|^2 / features averages one. The single output is the sum
    of k^(-(1+r)/2) z_k, scaled to variance one. The first N of a larger draw with the same seed are the same samples.
    Source: the regression of ``grsd.solvable.regression``, as a data set for networks. Errors: ``ValueError`` for
    numbers that are not positive.
    """
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

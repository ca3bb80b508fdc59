"""Shares made of products of different runs, with a standard error that is nearly right near a share of zero too.

Where the share is zero, the sum over pairs of runs has no part that is linear in single runs, and the delete-one
jackknife gives twice the variance. In planted ensembles of 24 runs its standard error is 45 to 50 % too large there,
this one 25 to 35 %, and within 5 % where the share is well above its error. The distribution is skewed: an upper limit
at 95 % lies below a true share of .04 in up to 10 % of ensembles instead of 2.5 %.
"""

from __future__ import annotations

import math

import numpy as np


def crossed_values(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    r"""Return one number per run (R,), with the mean and the standard error of D = sum_{i!=j} A_ij / sum_{i!=j} B_ij.

    Args: A and B, Gram matrices (R, R) of R >= 4 runs.

    With H = A - D B, without its diagonal, and h_i its row sums, the variance of D is that of a mean over pairs,

    .. math:: \frac{R (R - 1)}{(R - 2)(R - 3)} \; \frac{4 \sum_i h_i^2 - 2 \sum_{ij} H_{ij}^2}{(\sum_{i \ne j}
              B_{ij})^2} ,

    where sum h_i^2, whose expectation is never below that of sum H_ij^2, counts as at least that; without this it would
    be unbiased up to the error of D. The numbers are D plus a multiple of h_i.
    """
    runs = len(numerator)
    pairs = ~np.eye(runs, dtype=bool)
    total = float(denominator[pairs].sum())
    share = float(numerator[pairs].sum()) / total
    departures = np.where(pairs, numerator - share * denominator, 0.0)
    rows = departures.sum(1)
    square, own = float(np.square(departures).sum()), float(np.square(rows).sum())
    if own == 0:
        return np.full(runs, share)
    variance = runs * (runs - 1) / ((runs - 2) * (runs - 3)) * (4 * max(own, square) - 2 * square) / total**2
    return share + rows * math.sqrt(variance * runs * (runs - 1) / own)

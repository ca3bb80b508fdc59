r"""The stability theorem on a grid: the defect of shift invariance, and the worst curve for a given defect.

Theorem 2. Let g be bounded on an interval. If for every shift tau there is A(tau) with
|g(s + tau) - g(s) - A(tau)| <= epsilon, then sup|g - l| <= epsilon for some affine l. On n cells of equal width the
worst distance is (1 - 1/n) epsilon (this project's computation; the theorem is Whitney's inequality with constant 1/2,
Burkill 1952, Whitney 1957; Skof 2013 for Cauchy's equation on an interval).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog
from scipy.sparse import lil_array

from grsd.support.arguments import vector
from grsd.support.values import said, whole_number

MOST = 200


def shift_defect(g: Float[np.ndarray, " points"], *, furthest: int | None = None) -> float:
    """Return epsilon of a curve on an even grid: the largest over shifts k of half the spread of g_{i+k} - g_i.

    ``furthest``: the largest shift, in cells; all by default. epsilon is dimensionless if g is a logarithm. With shifts
    up to T on an interval of length L the theorem's bound is epsilon * ceil(L / T).
    """
    g = vector("shift_defect", "g", g, 2)
    furthest = (
        len(g) - 1 if furthest is None else min(whole_number("shift_defect", "furthest", furthest, 1), len(g) - 1)
    )
    return float(max(np.ptp(g[k:] - g[:-k]) for k in range(1, furthest + 1)) / 2)


def worst_curve(cells: int, middle: int | None = None) -> tuple[float, Float[np.ndarray, " points"]]:
    """Return (distance, g): the curve on ``cells`` + 1 points with shift defect 1 that bends most at point ``middle``.

    A linear program maximizes the Chebyshev distance of the two end points and the middle one, |g_m - chord| / 2. The
    largest over all m is the worst of all curves: any other three points span a smaller grid, and the bound grows with
    the grid. Default: the best m. Cost: a program of 2 n unknowns and n^2 constraints for each m.
    """
    if whole_number("worst_curve", "cells", cells, 2) > MOST:
        raise ValueError(f"worst_curve(cells=...): expected at most {MOST}, got {said(cells)}: constraints grow as n^2")
    if middle is not None and whole_number("worst_curve", "middle", middle, 1) >= cells:
        raise ValueError(f"worst_curve(middle=...): expected less than the {cells} cells, got {said(middle)}")
    choices = range(1, cells) if middle is None else [middle]
    pairs = [(i, k) for k in range(1, cells + 1) for i in range(cells + 1 - k)]
    size = 2 * cells + 1
    matrix, limits = lil_array((2 * len(pairs), size)), np.ones(2 * len(pairs))
    for row, (i, k) in enumerate(pairs):
        for sign, at in ((1.0, 2 * row), (-1.0, 2 * row + 1)):
            matrix[at, i + k], matrix[at, i], matrix[at, cells + k] = sign, -sign, -sign
    best = (-1.0, np.zeros(cells + 1))
    fixed = [(0, 0), *[(None, None)] * (size - 1)]
    for m in choices:
        share = m / cells
        cost = np.zeros(size)
        cost[m], cost[0], cost[cells] = -0.5, 0.5 * (1 - share), 0.5 * share
        found = linprog(cost, matrix.tocsr(), limits, bounds=fixed, method="highs")
        if found.status:
            raise ValueError(f"the linear program has no solution: {found.message}")
        if -found.fun > best[0]:
            best = (float(-found.fun), found.x[: cells + 1])
    return best

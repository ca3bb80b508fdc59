r"""Quadrature rules from one tridiagonal matrix: what the steps not taken may still bring.

After m steps T and beta_m are known and alpha_{m+1} is not. T itself is Gauss's rule. Each alpha_{m+1} gives another
one, which agrees with all that was seen and has a node wherever it is asked to be: of all measures with these moments
it puts the most weight there (Chebyshev, Markov, Stieltjes). With the node at 0 it is Radau's rule, which errs to the
other side of Gauss's: their mean is the best guess, and how far the others are from it is what it may be wrong by.
Source: Golub, Some modified matrix eigenvalue problems (1973), for alpha_{m+1}; its rate is this project's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grsd.decomposition import Spectrum
from grsd.krylov.tridiagonal import Tridiagonal

ABOVE = 1e-10
MOST = 128


@dataclass(frozen=True)
class QuadratureRule:
    """<e, p(M) e> is taken for <start, p(matrix) start>; ``rate``: of the matrix, or None, while ``start`` stays."""

    matrix: Float[Tensor, "k k"]
    rate: Float[Tensor, "k k"] | None
    start: Float[Tensor, " k"]

    def spectrum(self, floor: float) -> Spectrum:
        values, vectors = torch.linalg.eigh(self.matrix)
        return Spectrum(values, vectors, None if self.rate is None else vectors.T @ self.rate @ vectors, floor)


def gauss(steps: Tridiagonal) -> QuadratureRule:
    start = steps.matrix.new_zeros(len(steps.matrix))
    start[0] = steps.norm
    return QuadratureRule(steps.matrix, steps.rate, start)


def with_node(steps: Tridiagonal, node: float) -> QuadratureRule:
    """One step more, of which ``node``, no eigenvalue of T, is an eigenvalue that stays where it is."""
    matrix, rate, beta = steps.matrix, steps.rate, steps.left
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    y = torch.linalg.solve(matrix - node * identity, beta * identity[-1])
    alpha = node + beta * float(y[-1])
    if rate is not None:
        alpha_rate = 2 * steps.left_rate * float(y[-1]) - float(y @ rate @ y)
        rate = _bordered(rate, steps.left_rate, alpha_rate)
    return QuadratureRule(_bordered(matrix, beta, alpha), rate, torch.cat([gauss(steps).start, matrix.new_zeros(1)]))


def best(steps: Tridiagonal, floor: float) -> QuadratureRule:
    """The mean of Gauss's and of Radau's rule; the latter's node is at -``floor``, below any T that rounding leaves."""
    one = gauss(steps)
    if not steps.left:
        return one
    other = with_node(steps, -floor)
    rate = None if one.rate is None else torch.block_diag(one.rate, other.rate)
    return QuadratureRule(
        torch.block_diag(one.matrix, other.matrix), rate, torch.cat([one.start, other.start]) / math.sqrt(2)
    )


def alternatives(steps: Tridiagonal, floor: float, low: float, smoothing: float) -> list[QuadratureRule]:
    """Gauss's, and those with a node above e^``low``, one a smoothing, or at an end, all others between the ends.

    The upper end is the largest Ritz value and its residual, the lower one -``floor``.
    """
    theta, vectors = torch.linalg.eigh(steps.matrix)
    reach = (steps.left * vectors[-1]).abs()
    top = float(theta[-1] + torch.maximum(reach[-1], ABOVE * theta[-1]))
    count = math.ceil(max(0.0, math.log(top) - low) / smoothing)
    places = {"dtype": theta.dtype, "device": theta.device}
    grid = torch.linspace(low, math.log(top), min(count + 1, MOST), **places)[:-1].exp()
    x = torch.cat([theta.new_tensor([-floor, top]), grid])
    alpha = x + (reach.square() / (theta - x[:, None])).sum(1)
    possible = x[(alpha >= alpha[0]) & (alpha <= alpha[1])]
    return [gauss(steps), *(with_node(steps, float(node)) for node in possible)]


def _bordered(matrix: Tensor, beside: float, corner: float) -> Tensor:
    size = len(matrix)
    out = torch.block_diag(matrix, matrix.new_full((1, 1), corner))
    out[size, size - 1] = out[size - 1, size] = beside
    return out

r"""Quadrature rules from one tridiagonal matrix: which results are still possible after m Lanczos steps.

After m steps T and beta_m are known, but alpha_{m+1} is not. T itself is Gauss's rule. Each value of alpha_{m+1} gives
a further rule that agrees with all steps so far and has a node at a prescribed place: of all measures with these
moments it puts the most weight there (Chebyshev, Markov, Stieltjes). With the node at 0 it is Radau's rule, whose error
has the opposite sign of Gauss's: the mean of both is the best estimate, and the distance of the other rules from it
measures its error. Source: Golub, Some modified matrix eigenvalue problems (1973), for alpha_{m+1}; its rate is this
project's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grsd.decomposition import Spectrum
from grsd.krylov.tridiagonal import Tridiagonal

LEAST_RESIDUAL = 1e-10  # of the largest Ritz value
MOST_NODES = 128


@dataclass(frozen=True)
class QuadratureRule:
    """Approximates <e, p(M) e> by <start, p(matrix) start>; ``rate``: of ``matrix`` at a fixed ``start``, or None."""

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
    """The rule of one more step with an eigenvalue fixed at ``node``, which is no eigenvalue of T."""
    matrix, rate, beta = steps.matrix, steps.rate, steps.beta
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    y = torch.linalg.solve(matrix - node * identity, beta * identity[-1])
    alpha = node + beta * float(y[-1])
    if rate is not None:
        alpha_rate = 2 * steps.beta_rate * float(y[-1]) - float(y @ rate @ y)
        rate = _bordered(rate, steps.beta_rate, alpha_rate)
    start = torch.cat([gauss(steps).start, matrix.new_zeros(1)])
    return QuadratureRule(_bordered(matrix, beta, alpha), rate, start)


def best(steps: Tridiagonal, floor: float) -> QuadratureRule:
    """The mean of Gauss's and Radau's rules; Radau's node is -``floor``, below all eigenvalues of the rounded T."""
    one = gauss(steps)
    if not steps.beta:
        return one
    other = with_node(steps, -floor)
    rate = None if one.rate is None else torch.block_diag(one.rate, other.rate)
    start = torch.cat([one.start, other.start]) / math.sqrt(2)
    return QuadratureRule(torch.block_diag(one.matrix, other.matrix), rate, start)


def alternatives(steps: Tridiagonal, floor: float, low: float, smoothing: float) -> list[QuadratureRule]:
    """Gauss's rule, plus rules with one prescribed node: at either end of the spectrum, or on a grid above e^``low``
    with one node per ``smoothing``. All their nodes lie between the ends.

    The upper end is the largest Ritz value plus its residual, the lower end is -``floor``.
    """
    theta, vectors = torch.linalg.eigh(steps.matrix)
    residual = (steps.beta * vectors[-1]).abs()
    top = float(theta[-1] + torch.maximum(residual[-1], LEAST_RESIDUAL * theta[-1]))
    count = math.ceil(max(0.0, math.log(top) - low) / smoothing)
    places = {"dtype": theta.dtype, "device": theta.device}
    grid = torch.linspace(low, math.log(top), min(count + 1, MOST_NODES), **places)[:-1].exp()
    x = torch.cat([theta.new_tensor([-floor, top]), grid])
    alpha = x + (residual.square() / (theta - x[:, None])).sum(1)
    possible = x[(alpha >= alpha[0]) & (alpha <= alpha[1])]
    return [gauss(steps), *(with_node(steps, float(node)) for node in possible)]


def _bordered(matrix: Tensor, beside: float, corner: float) -> Tensor:
    size = len(matrix)
    out = torch.block_diag(matrix, matrix.new_full((1, 1), corner))
    out[size, size - 1] = out[size - 1, size] = beside
    return out

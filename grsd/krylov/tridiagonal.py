r"""Lanczos with full reorthogonalization, and the exact derivative of its tridiagonal matrix.

From v_1 = e / |e| the recurrence M v_j = beta_{j-1} v_{j-1} + alpha_j v_j + beta_j v_{j+1} gives the tridiagonal T with
<e, p(M) e> = |e|^2 <1, p(T) 1> for polynomials p of degree below 2 m. If M changes and e does not, the derivative of T
follows from differentiating each line of the recurrence, reorthogonalization included. Source: Golub and Meurant,
Matrices, Moments and Quadrature (2010), for T; its derivative is this project's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grsd.jacobian.operators import Operator, Products, Vector
from grsd.support.arguments import tensor
from grsd.support.host import read
from grsd.support.values import flag, instance, said, whole_number


@dataclass(frozen=True)
class Tridiagonal:
    """T (m, m) in the Krylov basis of a vector, its ``rate`` T' or None; float64, on the CPU.

    ``norm``: of that vector. ``beta``: beta_m, the norm of the part of M v_m outside the basis; 0 if the basis is
    invariant. ``beta_rate``: its rate, or 0 without a rate. ``basis``: the orthonormal rows v_1 to v_{m+1}, to v_m if
    the basis is invariant or m = D; None unless asked for.
    """

    matrix: Float[Tensor, "m m"]
    rate: Float[Tensor, "m m"] | None
    norm: float
    beta: float
    beta_rate: float
    basis: Float[Tensor, "k D"] | None = None

    def __repr__(self) -> str:
        rate = "without" if self.rate is None else "with"
        return f"Tridiagonal(m={len(self.matrix)}, norm={self.norm:.3g}, beta={self.beta:.3g}, {rate} rate)"

    def first(self, steps: int) -> Tridiagonal:
        """The result after the first ``steps`` < m steps, without the basis."""
        here, beside = (slice(steps), slice(steps)), (steps - 1, steps)
        rate, beta_rate = (None, 0.0) if self.rate is None else (self.rate[here], float(self.rate[beside]))
        return Tridiagonal(self.matrix[here], rate, self.norm, float(self.matrix[beside]), beta_rate)


def lanczos(
    operator: Products, start: Vector, steps: int, *, rate: bool = True, keep_basis: bool = False
) -> Tridiagonal:
    """Take ``steps`` steps from ``start`` != 0, or fewer if the Krylov space ends earlier.

    ``operator``: an ``Operator``; without ``rate`` ``Products`` are enough. ``keep_basis``: return the basis too.
    Memory: D m numbers, twice as many with ``rate``. Cost: one ``product`` (with ``rate`` one ``product_and_rate``) per
    step, and 4 D m^2 operations, 12 D m^2 with the rate.

    Errors: ``TypeError`` or ``ValueError`` for what is no operator, no vector of its dimension, or zero.
    """
    flag("lanczos", "rate", rate)
    flag("lanczos", "keep_basis", keep_basis)
    wanted = "an operator such as grsd.krylov.KernelOperator"
    instance("lanczos", "operator", operator, Operator if rate else Products, wanted)
    start = tensor("lanczos", "start", start).detach()
    if start.shape != (operator.dimension,) or not bool(start.any()):
        wanted = f"a vector of shape ({operator.dimension},) that is not zero"
        raise ValueError(f"lanczos(start=...): expected {wanted}, got {said(start)}")
    if (own := getattr(operator, "dtype", start.dtype)) != start.dtype:
        raise TypeError(f"lanczos(start=...): expected the operator's {own}, got {start.dtype}")
    whole_number("lanczos", "steps", steps, 1)
    size, norm = operator.dimension, start.norm()
    steps, least = min(steps, size), rounding(size, start.dtype)
    basis = start.new_zeros(steps + keep_basis, size)
    moved = start.new_zeros(steps, size) if rate else None
    alpha, beta, alpha_rate, beta_rate = torch.zeros(4, steps, dtype=torch.float64, device="cpu")
    nothing = start.new_zeros(())
    basis[0] = start / norm
    for j in range(steps):
        v = basis[: j + 1]
        if moved is None:
            w = operator.product(v[j])
        else:
            dv = moved[: j + 1]
            w, dw = operator.product_and_rate(v[j], dv[j])
        along, turning = [], []
        for _ in range(2):  # twice is enough to remove rounding errors (Kahan and Parlett)
            h = v @ w
            if moved is not None:
                dh = dv @ w + v @ dw
                dw = dw - dh @ v - h @ dv
                turning.append(dh[j])
            w = w - h @ v
            along.append(h[j])
        length = w.norm()
        u = w / length
        outside = nothing if moved is None else u @ dw
        found = read([length, outside, *along, *turning])
        alpha[j], alpha_rate[j] = sum(found[2:4]), sum(found[4:])
        if j + 1 == size or found[0] <= least * float(alpha.abs().max()):
            steps = j + 1
            break
        beta[j], beta_rate[j] = found[:2]
        if j + 1 < len(basis):
            basis[j + 1] = u
        if j + 1 < steps and moved is not None:
            moved[j + 1] = (dw - outside * u) / length
    matrix = _symmetric(alpha[:steps], beta[: steps - 1])
    change = None if moved is None else _symmetric(alpha_rate[:steps], beta_rate[: steps - 1])
    kept = basis[: steps + bool(beta[steps - 1] > 0)] if keep_basis else None
    return Tridiagonal(matrix, change, float(norm), float(beta[steps - 1]), float(beta_rate[steps - 1]), kept)


def rounding(size: int, dtype: torch.dtype) -> float:
    """The share of the largest eigenvalue of a (``size``, ``size``) matrix that rounding errors may reach.

    In float64 size * eps, the worst case. In float32, where the worst case would leave nothing at sizes in the
    millions, 10 sqrt(size) * eps: independent errors add up to sqrt(size) * eps.
    """
    worst = size if dtype == torch.float64 else min(size, 10 * math.sqrt(size))
    return worst * torch.finfo(dtype).eps


def _symmetric(diagonal: Tensor, beside: Tensor) -> Tensor:
    return torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)

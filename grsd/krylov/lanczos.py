r"""Lanczos with full reorthogonalization, and the exact derivative of what it makes.

From v_1 = e / |e| the recurrence M v_j = beta_{j-1} v_{j-1} + alpha_j v_j + beta_j v_{j+1} gives the tridiagonal T with
<e, p(M) e> = |e|^2 <1, p(T) 1> for polynomials p of degree below 2 m. Its derivative while M changes and e does not is
that of the recurrence, line by line, reorthogonalization included. Source: Golub and Meurant, Matrices, Moments and
Quadrature (2010), for T; the derivative is this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grsd.krylov.operator import Operator, Vector


@dataclass(frozen=True)
class Tridiagonal:
    """T (m, m) in Krylov's basis of ``start``, its ``rate`` T' or None, and ``norm`` = |start|; float64, on the CPU.

    ``left``: beta_m, what M v_m has outside of the basis; 0 where the space is exhausted and T is exact.
    """

    matrix: Float[Tensor, "m m"]
    rate: Float[Tensor, "m m"] | None
    norm: float
    left: float


def lanczos(operator: Operator, start: Vector, steps: int, *, rate: bool = True) -> Tridiagonal:
    """``steps`` steps from ``start``, or fewer where the Krylov space is exhausted before.

    Memory: D x m numbers, twice that with ``rate``. Cost: one product a step, with the rate one ``product_and_rate``,
    and 8 D m^2 operations (24 with the rate).
    """
    size = operator.dimension
    steps, eps = min(steps, size), torch.finfo(start.dtype).eps
    norm = start.norm()
    basis, moved = (start.new_zeros(steps, size) for _ in range(2)) if rate else (start.new_zeros(steps, size), None)
    basis[0] = start / norm
    columns = [torch.zeros(4, steps, dtype=torch.float64)]
    alpha, beta, alpha_rate, beta_rate = columns[0]
    for j in range(steps):
        v = basis[: j + 1]
        if rate:
            dv = moved[: j + 1]
            w, dw = operator.product_and_rate(v[j], dv[j])
        else:
            w = operator.product(v[j])
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            h = v @ w
            if rate:
                dh = v @ dw
                dh += dv @ w
                dw = dw - dh @ v
                dw -= h @ dv
                alpha_rate[j] += float(dh[j])
            w = w - h @ v
            alpha[j] += float(h[j])
        beta[j] = float(w.norm())
        if beta[j] <= size * eps * float(alpha[: j + 1].abs().max()):
            beta[j], steps = 0.0, j + 1
            break
        if j + 1 < steps:
            basis[j + 1] = w / float(beta[j])
        if rate:
            u = w / float(beta[j])
            beta_rate[j] = float(u @ dw)
            if j + 1 < steps:
                moved[j + 1] = (dw - float(beta_rate[j]) * u) / float(beta[j])
    return Tridiagonal(
        _symmetric(alpha[:steps], beta[: steps - 1]),
        _symmetric(alpha_rate[:steps], beta_rate[: steps - 1]) if rate else None,
        float(norm),
        float(beta[steps - 1]),
    )


def _symmetric(diagonal: Tensor, off: Tensor) -> Tensor:
    return torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)

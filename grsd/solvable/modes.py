"""Helpers that the exact models share: sums over all modes, rotated samples, diagonal matrices."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from grsd.support.arguments import vector
from grsd.support.values import number
from grsd.theory.characteristics import NODES, WEIGHTS


def mode_quadrature(
    last: float, direct: int = 1000, *, panel: float = 0.5
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return (log k, weight): nodes for a sum over the modes k = 1, 2, ... up to log k = ``last`` < 700.

    The first ``direct`` modes are summed one by one; the rest are integrated from ``direct`` + 1/2 by Gauss-Legendre
    panels in log k, for terms that are smooth over a ``panel``. Starting at the midpoint causes a relative error of
    about 1 / (24 direct^2) of the term.
    """
    counted = math.floor(min(direct, math.exp(last) * (1 + 1e-12)))
    log_k = np.log(np.arange(1, counted + 1))
    first = math.log(counted + 0.5)
    if last <= first:
        return log_k, np.ones(counted)
    edges = np.linspace(first, last, 2 + int((last - first) / panel))
    half = np.diff(edges)[:, None] / 2
    inner = ((edges[:-1, None] + half) + half * NODES).ravel()
    return np.concatenate([log_k, inner]), np.concatenate([np.ones(counted), (half * WEIGHTS).ravel() * np.exp(inner)])


def rotation(size: int, seed: int) -> Float[Tensor, "n n"]:
    """Return a random orthogonal matrix in float64; the same seed gives the same matrix."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(size, size, generator=generator, dtype=torch.float64, device="cpu")
    return torch.linalg.qr(drawn)[0]


def diagonal_matrices(
    eigenvalues: Float[np.ndarray, " D"], rate: Float[np.ndarray, " D"], error: Float[np.ndarray, " D"]
) -> tuple[Float[Tensor, "D D"], Float[Tensor, "D D"], Float[Tensor, " D"]]:
    """Return (M, M', e) of modes that do not rotate, in float64, for ``grsd.spectrum`` and ``grsd.energy_budget``."""
    m, rate, error = (torch.as_tensor(array, dtype=torch.float64, device="cpu") for array in (eigenvalues, rate, error))
    return torch.diag(m), torch.diag(rate), error


def not_negative(call: str, name: str, value: float) -> float:
    """Return ``value`` as a float if it is finite and not negative; raise ``ValueError`` otherwise."""
    return number(call, name, value, 0.0)


def time_array(call: str, times: object) -> Float[np.ndarray, " T"]:
    """Return times as a float64 array of shape (T,); raise ``ValueError`` unless finite and not negative."""
    return vector(call, "times", times, low=0.0, wanted="finite times >= 0 of shape (T,)")

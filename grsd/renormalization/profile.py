r"""The flow of the coupling profile under block spin.

Where K_ab = kappa(a-b) e^{(b-1)(s_a+s_b)/2} and E_a ~ e^{gamma s_a}, merging pairs of shells gives a law again, with

.. math:: \kappa_{2h}(k) = \frac{e^{\beta h/2}\,[\kappa(2k-1) + \kappa(2k+1)] + (1 + e^{\beta h})\,\kappa(2k)}{1 + e^{\gamma h}},
          \qquad \beta = b - 1 + \gamma ,

up to the common factor that the shift of the shells' middles brings. A short-ranged profile flows to nearest
neighbours. This project's computation; the fixed point's existence is what arXiv 2512.18209 calls renormalizability.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from grsd.checks import positive


def coarser_profile(
    kappa: Float[np.ndarray, " k_max"], width: float, exponent: float, growth: float
) -> Float[np.ndarray, " half"]:
    """kappa(1), kappa(2), ... at width 2h from those at width h; 1 / time.

    ``kappa``: kappa(1) .. kappa(K) at width h, zero beyond; ``exponent``: b; ``growth``: gamma. Returns the (K + 1) // 2
    values that can differ from zero. Exact under the law.
    """
    kappa = np.asarray(kappa, dtype=float)
    if kappa.ndim != 1 or not kappa.size:
        raise ValueError(f"coarser_profile(kappa): expected kappa(1), kappa(2), ..., got shape {kappa.shape}")
    h = positive("coarser_profile", "width", width)
    beta = exponent - 1 + growth
    count = (len(kappa) + 1) // 2
    padded = np.concatenate([[0.0], kappa, np.zeros(2)])
    k = 2 * np.arange(1, count + 1)
    neighbours = np.exp(beta * h / 2) * (padded[k - 1] + padded[k + 1])
    return (neighbours + (1 + np.exp(beta * h)) * padded[k]) / (1 + np.exp(growth * h))


def profile_flow(
    kappa: Float[np.ndarray, " k_max"], width: float, exponent: float, growth: float, steps: int
) -> list[Float[np.ndarray, " k"]]:
    """The profile at h, 2h, 4h, ..., each divided by its kappa(1)."""
    flow = [np.asarray(kappa, dtype=float)]
    for step in range(steps):
        flow.append(coarser_profile(flow[-1], width * 2**step, exponent, growth))
    return [profile / profile[0] for profile in flow]

"""Cases for conditions 1 and 2: built to hold, built to break, and the perceptrons compared."""

from __future__ import annotations

import torch

from grsd.networks import Perceptron
from grsd.spectrum import Spectrum

PERCEPTRONS = {
    "residual": {"residual": True},
    "residual, whole branches": {"residual": True, "branch_scale": 1.0},
    "critical": {},
    "super-critical": {"weight_scale": 1.5},
    "sub-critical": {"weight_scale": 0.7},
    "Gaussian linear": {"activation": "identity"},
    "orthogonal linear": {"activation": "identity"},
}


def perceptron(kind: str, depth: int, seed: int, *, width: int = 64, features: int = 64, outputs: int = 10) -> Perceptron:
    """One of ``PERCEPTRONS``: tanh units and 1/sqrt(depth) branches unless its name says otherwise.

    "orthogonal linear" has random orthogonal matrices between its hidden layers, so that every gain is exactly one
    (dynamical isometry: Saxe, McClelland and Ganguli, arXiv 1312.6120). Errors: ``ValueError`` for another name.
    """
    if kind not in PERCEPTRONS:
        raise ValueError(f"perceptron(kind=...): expected one of {list(PERCEPTRONS)}, got {kind!r}")
    network = Perceptron(features, outputs, width=width, depth=depth, seed=seed, **PERCEPTRONS[kind])
    if kind == "orthogonal linear":
        with torch.no_grad():
            for layer in network.hidden[1:]:
                layer.weight.copy_(torch.linalg.qr(layer.weight.double())[0])
    return network


def planted_signs(
    modes: int = 200, *, aligned: float = 0.0, seed: int = 0
) -> tuple[Spectrum, torch.Tensor]:
    """A spectrum with its rate, and the error: M' of independent signs, or with a share of pairs made to agree.

    Eigenvalues are log-uniform on [1e-4, 1], g_u is normal and M'_uv = sqrt(lambda_u lambda_v) times a symmetric
    matrix of normal numbers, of which a share ``aligned`` (0 to 1) takes the sign of g_u g_v (lambda_u - lambda_v): all
    those pairs send energy the same way, up. Then z_c is N(0, 1) for 0, and about sqrt(2 n_pair / pi) for 1.
    """
    if not 0 <= aligned <= 1:
        raise ValueError(f"planted_signs(aligned=...): expected a share between 0 and 1, got {aligned!r}")
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    values = torch.exp(-torch.rand(modes, **draw).sort(descending=True).values * 9.2)
    g = torch.randn(modes, **draw)
    free = torch.randn(modes, modes, **draw).triu()
    chosen = torch.rand(modes, modes, **draw) < aligned
    agreeing = free.abs() * torch.sign(g[:, None] * g * (values[:, None] - values))
    free = torch.where(chosen, agreeing, free).triu(1)
    rate = (free + free.T) * (values[:, None] * values).sqrt()
    floor = modes * torch.finfo(torch.float64).eps * float(values[-1])
    return Spectrum(values, torch.eye(modes, dtype=torch.float64), rate, floor), g

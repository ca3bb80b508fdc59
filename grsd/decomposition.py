"""One decomposition of the kernel: eigenvalues, eigenvectors, the rate in the eigenbasis, the precision floor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grsd.checks import DTYPES

SYMMETRY = 1e-6


@dataclass(frozen=True)
class Spectrum:
    """M phi_u = lambda_u phi_u.

    Attributes:
        eigenvalues: lambda (D,), ascending; units 1 / time.
        eigenvectors: (D, D), column u is phi_u.
        rate: M'_uv = <phi_u, M' phi_v> (D, D), or None; units 1 / time^2.
        floor: D * eps * lambda_max; eigenvalues under it mean nothing.
    """

    eigenvalues: Float[Tensor, " D"]
    eigenvectors: Float[Tensor, "D D"]
    rate: Float[Tensor, "D D"] | None
    floor: float

    @property
    def dimension(self) -> int:
        return self.eigenvalues.shape[0]


def spectrum(kernel: Float[Tensor, "D D"], rate: Float[Tensor, "D D"] | None = None) -> Spectrum:
    """Decompose M once and rotate M' into its eigenbasis.

    Args: symmetric tensors of the same shape, dtype (float32 or float64) and device; M positive semidefinite.
    Cost: one symmetric eigendecomposition, and two matrix products where a rate is given.
    Errors: ``ValueError`` for another shape, NaN, asymmetry, a negative eigenvalue beyond rounding, or M = 0.
    """
    for name, matrix in {"kernel": kernel, "rate": rate}.items():
        if matrix is None:
            continue
        if not isinstance(matrix, Tensor):
            raise TypeError(f"spectrum({name}=...): expected a torch.Tensor, got {type(matrix).__name__}")
        if matrix.dtype not in DTYPES or (matrix.dtype, matrix.device) != (kernel.dtype, kernel.device):
            raise TypeError(
                f"spectrum({name}=...): expected float32 or float64, one dtype and device for both, got {matrix.dtype} "
                f"on {matrix.device} beside a kernel of {kernel.dtype} on {kernel.device}"
            )
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape != kernel.shape or not matrix.numel():
            raise ValueError(
                f"spectrum({name}=...): expected a square matrix (D, D), the same for kernel and rate, got "
                f"{tuple(matrix.shape)} beside a kernel of {tuple(kernel.shape)}"
            )
        scale = float(matrix.abs().max())
        if not scale < float("inf"):
            raise ValueError(f"spectrum({name}=...): found NaN or infinity")
        asymmetry = float((matrix - matrix.T).abs().max())
        if asymmetry > SYMMETRY * scale:
            raise ValueError(
                f"spectrum({name}=...): the matrix is not symmetric, it differs from its transpose by {asymmetry:.2g} "
                f"beside entries up to {scale:.2g}; if that is rounding, pass (K + K.T) / 2"
            )
    eigenvalues, eigenvectors = torch.linalg.eigh(kernel)
    top = float(eigenvalues[-1])
    floor = kernel.shape[0] * torch.finfo(kernel.dtype).eps * top
    if top <= 0:
        raise ValueError("spectrum(kernel=...): the largest eigenvalue is not positive; nothing can be learned")
    if float(eigenvalues[0]) < -10 * floor:
        raise ValueError(
            f"spectrum(kernel=...): expected a positive semidefinite matrix, got an eigenvalue "
            f"{float(eigenvalues[0]):.3g} beside the largest {top:.3g}"
        )
    rotated = None if rate is None else eigenvectors.T @ (rate @ eigenvectors)
    return Spectrum(eigenvalues, eigenvectors, rotated, floor)

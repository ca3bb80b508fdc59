"""One decomposition of the kernel: eigenvalues, eigenvectors, the rate in the eigenbasis, the precision floor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grsd.support.arguments import tensor
from grsd.support.values import positive

SYMMETRY = 1e-6


@dataclass(frozen=True)
class Spectrum:
    """M phi_u = lambda_u phi_u.

    Attributes:
        eigenvalues: lambda (D,), ascending; units 1 / time.
        eigenvectors: (D, D), column u is phi_u.
        rate: M'_uv = <phi_u, M' phi_v> (D, D), or None; units 1 / time^2.
        floor: D * eps * lambda_max; eigenvalues under it mean nothing.

    Errors: ``TypeError`` or ``ValueError`` for other shapes, NaN, eigenvalues that do not ascend, or a floor that
    is not positive and under the largest of them.
    """

    eigenvalues: Float[Tensor, " D"]
    eigenvectors: Float[Tensor, "D D"]
    rate: Float[Tensor, "D D"] | None
    floor: float

    def __repr__(self) -> str:
        values = self.eigenvalues
        rate = "with" if self.rate is not None else "without"
        span = f"eigenvalues {float(values[0]):.3g} to {float(values[-1]):.3g}"
        return f"Spectrum(D={len(values)}, {span}, precision floor {self.floor:.3g}, {rate} rate)"

    def __post_init__(self) -> None:
        values = tensor("Spectrum", "eigenvalues", self.eigenvalues)
        if values.ndim != 1 or not values.numel():
            raise ValueError(f"Spectrum(eigenvalues=...): expected shape (D,), got {tuple(values.shape)}")
        square = {"eigenvectors": self.eigenvectors} | ({} if self.rate is None else {"rate": self.rate})
        for name, matrix in square.items():
            tensor("Spectrum", name, matrix)
            if matrix.shape != (len(values), len(values)):
                raise ValueError(f"Spectrum({name}=...): expected {(len(values),) * 2}, got {tuple(matrix.shape)}")
            if (matrix.dtype, matrix.device) != (values.dtype, values.device):
                raise TypeError(
                    f"Spectrum({name}=...): expected {values.dtype} on {values.device}, as the eigenvalues, got "
                    f"{matrix.dtype} on {matrix.device}"
                )
        if bool((values.diff() < 0).any()):
            raise ValueError("Spectrum(eigenvalues=...): expected ascending eigenvalues")
        if not positive("Spectrum", "floor", self.floor) < float(values[-1]):
            raise ValueError(f"Spectrum(floor=...): expected less than the largest eigenvalue, got {self.floor!r}")
        for name, found in {"eigenvalues": values, **square}.items():
            object.__setattr__(self, name, found.detach())

    @property
    def dimension(self) -> int:
        return self.eigenvalues.shape[0]


def spectrum(kernel: Float[Tensor, "D D"], rate: Float[Tensor, "D D"] | None = None) -> Spectrum:
    """Decompose M once and rotate M' into its eigenbasis.

    Args: symmetric tensors of the same shape, dtype (float32 or float64) and device; M positive semidefinite.
    Cost: one symmetric eigendecomposition, and two matrix products if a rate is given.
    Errors: ``ValueError`` for another shape, NaN, asymmetry, a negative eigenvalue beyond rounding, M = 0, or numbers
    that leave the range of the dtype.
    """
    for name, matrix in {"kernel": kernel, "rate": rate}.items():
        if matrix is None and name == "rate":
            continue
        tensor("spectrum", name, matrix)
        if (matrix.dtype, matrix.device) != (kernel.dtype, kernel.device):
            raise TypeError(
                f"spectrum({name}=...): expected one dtype and device for both, got {matrix.dtype} on {matrix.device} "
                f"beside a kernel of {kernel.dtype} on {kernel.device}"
            )
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape != kernel.shape or not matrix.numel():
            raise ValueError(
                f"spectrum({name}=...): expected a square matrix (D, D), the same for kernel and rate, got "
                f"{tuple(matrix.shape)} beside a kernel of {tuple(kernel.shape)}"
            )
        scale = float(matrix.abs().max())
        asymmetry = float((matrix - matrix.T).abs().max())
        if asymmetry > SYMMETRY * scale:
            raise ValueError(
                f"spectrum({name}=...): the matrix is not symmetric, it differs from its transpose by {asymmetry:.2g} "
                f"beside entries up to {scale:.2g}; if that is rounding, pass (K + K.T) / 2"
            )
    range_of = torch.finfo(kernel.dtype)
    eigenvalues, eigenvectors = torch.linalg.eigh(kernel.detach())
    top = float(eigenvalues[-1])
    floor = kernel.shape[0] * range_of.eps * top
    if top <= 0:
        raise ValueError("spectrum(kernel=...): the largest eigenvalue is not positive; nothing can be learned")
    if not range_of.tiny <= floor < float("inf"):
        raise ValueError(
            f"spectrum(kernel=...): the largest eigenvalue, {top:.3g}, or rounding beside it leaves the range of "
            f"{kernel.dtype}; choose other units of time"
        )
    if float(eigenvalues[0]) < -10 * floor:
        raise ValueError(
            f"spectrum(kernel=...): expected a positive semidefinite matrix, got an eigenvalue "
            f"{float(eigenvalues[0]):.3g} beside the largest {top:.3g}"
        )
    rotated = None if rate is None else eigenvectors.T @ (rate.detach() @ eigenvectors)
    if rotated is not None and not bool(torch.isfinite(rotated).all()):
        raise ValueError(
            f"spectrum(rate=...): in the eigenbasis it leaves the range of {rate.dtype}; choose other units of time"
        )
    return Spectrum(eigenvalues, eigenvectors, rotated, floor)

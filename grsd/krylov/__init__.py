"""Shell energies, dissipations and fluxes by Krylov methods, for kernels that do not fit into memory."""

from grsd.jacobian.operators import CrossProducts, DenseOperator, KernelOperator, KernelProducts, Operator, Products
from grsd.krylov.spectrum import KrylovSpectrum, krylov_spectrum
from grsd.krylov.tridiagonal import Tridiagonal, lanczos

__all__ = [
    "CrossProducts",
    "DenseOperator",
    "KernelOperator",
    "KernelProducts",
    "KrylovSpectrum",
    "Operator",
    "Products",
    "Tridiagonal",
    "krylov_spectrum",
    "lanczos",
]

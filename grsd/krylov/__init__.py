"""Shell energies, dissipations and fluxes where M does not fit into memory: Krylov's route."""

from grsd.jacobian.operators import DenseOperator, KernelOperator, Operator
from grsd.krylov.lanczos import Tridiagonal, lanczos
from grsd.krylov.spectrum import KrylovSpectrum, krylov_spectrum

__all__ = [
    "DenseOperator",
    "KernelOperator",
    "KrylovSpectrum",
    "Operator",
    "Tridiagonal",
    "krylov_spectrum",
    "lanczos",
]

"""Shell energies, dissipations and fluxes where M does not fit into memory: Krylov's route."""

from grsd.jacobian.operators import DenseOperator, KernelOperator, Operator
from grsd.krylov.spectrum import KrylovSpectrum, krylov_spectrum
from grsd.krylov.tridiagonal import Tridiagonal, lanczos

__all__ = [
    "DenseOperator",
    "KernelOperator",
    "KrylovSpectrum",
    "Operator",
    "Tridiagonal",
    "krylov_spectrum",
    "lanczos",
]

import pytest
import torch

import grsd


def random_kernel(d=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    j, k = (torch.randn(d, d, generator=generator, dtype=torch.float64) for _ in range(2))
    return j @ j.T / d, k + k.T


def test_decomposition_and_rotated_rate():
    kernel, rate = random_kernel()
    found = grsd.spectrum(kernel, rate)
    v = found.eigenvectors
    assert torch.allclose(v @ torch.diag(found.eigenvalues) @ v.T, kernel, atol=1e-13)
    assert torch.allclose(v @ found.rate @ v.T, rate, atol=1e-12)
    assert (found.eigenvalues.diff() >= 0).all()
    assert found.floor == pytest.approx(30 * 2.220446e-16 * float(found.eigenvalues[-1]), rel=1e-6)
    assert found.dimension == 30
    assert grsd.spectrum(kernel).rate is None


def test_floor_follows_the_precision():
    kernel, _ = random_kernel()
    assert grsd.spectrum(kernel.float()).floor > 1e8 * grsd.spectrum(kernel).floor


@pytest.mark.usefixtures("as_users_run_it")
def test_refusals():
    kernel, rate = random_kernel()
    with pytest.raises(ValueError, match=r"spectrum\(rate=...\): expected a square matrix .* got \(29, 29\)"):
        grsd.spectrum(kernel, rate[:-1, :-1])
    with pytest.raises(ValueError, match=r"spectrum\(kernel=...\): the matrix is not symmetric"):
        grsd.spectrum(kernel + torch.triu(torch.ones_like(kernel), 1))
    with pytest.raises(ValueError, match=r"spectrum\(kernel=...\): found NaN"):
        grsd.spectrum(kernel * float("nan"))
    with pytest.raises(ValueError, match="positive semidefinite matrix, got an eigenvalue"):
        grsd.spectrum(kernel - torch.eye(30, dtype=torch.float64))
    with pytest.raises(ValueError, match="nothing can be learned"):
        grsd.spectrum(kernel * 0)
    with pytest.raises(TypeError, match=r"spectrum\(kernel=...\): expected float32 or float64, .* got torch.float16"):
        grsd.spectrum(kernel.half())

"""Tangent kernels of any torch module: exact, checked, within a memory limit."""

from grsd.kernel.tangent import memory_estimate, parameter_kernels, tangent_kernel, tangent_kernel_and_rate

__all__ = ["memory_estimate", "parameter_kernels", "tangent_kernel", "tangent_kernel_and_rate"]

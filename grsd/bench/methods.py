"""The kernel by this package, and by a plain Jacobian of ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from grsd.kernel import tangent_kernel, tangent_kernel_and_rate

Method = Callable[[nn.Module, Tensor, Tensor, str | None], Tensor]


def grsd_kernel(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Tensor:
    return tangent_kernel(model, inputs, dtype=inputs.dtype, memory_limit=memory_limit)


def grsd_kernel_and_rate(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Tensor:
    return tangent_kernel_and_rate(model, inputs, targets, dtype=inputs.dtype, memory_limit=memory_limit)[0]


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def product(rows: Sequence[Tensor]) -> Tensor:
    """J J^T from the rows of each parameter."""
    kernel = rows[0] @ rows[0].T
    for part in rows[1:]:
        kernel.addmm_(part, part.T)
    return kernel


def torch_jacrev(model: nn.Module, inputs: Tensor, targets: Tensor, memory_limit: str | None) -> Tensor:
    """One Jacobian for each sample by ``vmap(jacrev)``, then one product summed over parameters.

    Attention is unfused: the fused functions have no batching rule and are slower here.
    """
    parameters = trained(model)
    buffers = dict(model.named_buffers())

    def one(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, p | buffers, (x[None],)).reshape(-1)

    with sdpa_kernel(SDPBackend.MATH):
        jacobian = vmap(jacrev(one), (None, 0))(parameters, inputs)
    return product([part.reshape(part.shape[:2].numel(), -1) for part in jacobian.values()]) / len(inputs)


METHODS: dict[str, Method] = {
    "grsd": grsd_kernel,
    "grsd, with rate": grsd_kernel_and_rate,
    "torch.func jacrev": torch_jacrev,
}

"""Everything about a model, its inputs and torch's settings that a call must leave as it was."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _bytes(tensor: Tensor) -> tuple:
    if isinstance(tensor, nn.parameter.UninitializedTensorMixin) or tensor.device.type == "meta":
        return (str(tensor.dtype),)
    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    return str(tensor.dtype), str(tensor.device), tuple(dense.shape), dense.resolve_conj().numpy().tobytes()


def state(model: nn.Module, *inputs: Tensor) -> dict[str, object]:
    """To be compared with ==."""
    return {
        "values": {name: _bytes(value) for name, value in [*model.named_parameters(), *model.named_buffers()]},
        "parameters": [(name, id(p), p.requires_grad, p.grad is None) for name, p in model.named_parameters()],
        "modules": [
            (
                *(len(hooks) for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)),
                m.training,
                {key: id(value) for key, value in vars(m).items()},
            )
            for m in model.modules()
        ],
        "inputs": [_bytes(tensor) for tensor in inputs],
        "torch": (
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        ),
    }

"""States of a network: modules, or modules with a state dict."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from grsd.support.values import said

State = nn.Module | tuple[nn.Module, Mapping[str, Tensor]]


def module_of(call: str, name: str, state: object) -> nn.Module:
    """Return the module in that state; a module given with a state dict is copied.

    Errors: ``TypeError`` for what is no state, ``ValueError`` if a state dict does not fit its module.
    """
    if isinstance(state, nn.Module):
        return state
    pair = state if isinstance(state, tuple | list) and len(state) == 2 else (None, None)
    if not isinstance(pair[0], nn.Module) or not isinstance(pair[1], Mapping):
        raise TypeError(f"{call}({name}=...): expected a torch.nn.Module or (module, state_dict), got {said(state)}")
    try:
        module = copy.deepcopy(pair[0])
        module.load_state_dict(pair[1])
    except Exception as error:  # a module may raise anything when it is copied or loaded
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"{call}({name}=...): the state does not fit its module ({text})") from None
    return module

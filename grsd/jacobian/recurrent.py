"""Recurrent layers composed of linear layers, so that each linear call is seen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Tensor], State]
SWITCH = threading.RLock()  # of cuDNN


def _lstm_step(x: Tensor, state: State, hidden: Tensor) -> State:
    i, f, g, o = (x + hidden).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru_step(x: Tensor, state: State, hidden: Tensor) -> State:
    (r, z, n), (hr, hz, hn) = x.chunk(3, -1), hidden.chunk(3, -1)
    z = torch.sigmoid(z + hz)
    return ((1 - z) * torch.tanh(n + torch.sigmoid(r + hr) * hn) + z * state[0],)


def _tanh_step(x: Tensor, state: State, hidden: Tensor) -> State:
    return (torch.tanh(x + hidden),)


def _relu_step(x: Tensor, state: State, hidden: Tensor) -> State:
    return (torch.relu(x + hidden),)


def _one_direction(
    step: Step, x: Tensor, state: State, weights: Sequence[Tensor], biases: bool
) -> tuple[Tensor, State]:
    """(outputs (T, N, H), the last state) of one layer in one direction; x: (T, N, features)."""
    bias = weights[2:4] if biases else (None, None)
    projection = weights[2 + 2 * biases :]
    outputs = []
    for now in F.linear(x, weights[0], bias[0]):
        h, *rest = step(now, state, F.linear(state[0], weights[1], bias[1]))
        state = (F.linear(h, projection[0]) if projection else h, *rest)
        outputs.append(state[0])
    return torch.stack(outputs), state


def without_cudnn(function: Callable) -> Callable:
    """The function by torch's own kernels: those of cuDNN have a backward pass in training mode alone.

    The switch is the whole process's. Threads take turns, so that none restores what another has set.
    """

    def called(*args: object, **kwargs: object) -> object:
        cudnn = torch.backends.cudnn
        with SWITCH:
            before = cudnn.enabled
            cudnn.enabled = False
            try:
                return function(*args, **kwargs)
            finally:
                cudnn.enabled = before

    return called


def _layers(step: Step, function: Callable) -> Callable:
    def run(*args: object) -> tuple[Tensor, ...]:
        """(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)."""
        packed = isinstance(args[3], (list, tuple))
        if packed or (args[5] > 0 and args[6]):
            with torch._C.DisableTorchFunction():
                return without_cudnn(function)(*args)
        x, hx, params, biases, depth, _, _, both_ways, batch_first = args
        states = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
        x = x.transpose(0, 1) if batch_first else x
        each, last = len(params) // (depth * (1 + both_ways)), []
        for layer in range(depth):
            ways = []
            for way in range(1 + both_ways):
                place = layer * (1 + both_ways) + way
                weights, start = params[place * each : (place + 1) * each], tuple(part[place] for part in states)
                out, end = _one_direction(step, x.flip(0) if way else x, start, weights, biases)
                ways.append(out.flip(0) if way else out)
                last.append(end)
            x = torch.cat(ways, -1) if both_ways else ways[0]
        ends = tuple(torch.stack(part) for part in zip(*last, strict=True))
        return (x.transpose(0, 1) if batch_first else x, *ends)

    return run


def _cell(step: Step) -> Callable:
    def run(
        input: Tensor,
        hx: Tensor | State,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor | State:
        state = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
        found = step(F.linear(input, w_ih, b_ih), state, F.linear(state[0], w_hh, b_hh))
        return found if len(found) > 1 else found[0]

    return run


LAYERS: dict[Callable, Callable] = {
    torch.lstm: _layers(_lstm_step, torch.lstm),
    torch.gru: _layers(_gru_step, torch.gru),
    torch.rnn_tanh: _layers(_tanh_step, torch.rnn_tanh),
    torch.rnn_relu: _layers(_relu_step, torch.rnn_relu),
}
CELLS: dict[Callable, Callable] = {
    torch.lstm_cell: _cell(_lstm_step),
    torch.gru_cell: _cell(_gru_step),
    torch.rnn_tanh_cell: _cell(_tanh_step),
    torch.rnn_relu_cell: _cell(_relu_step),
}

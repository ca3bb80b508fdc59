"""Recurrent layers as the linear layers that they are made of, so that these are seen one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Tensor], State]


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


def _layers(step: Step, function: Callable) -> Callable:
    def run(
        input: Tensor,
        hx: Tensor | State,
        params: Sequence[Tensor],
        has_biases: object,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool = False,
    ) -> tuple[Tensor, ...]:
        if not isinstance(has_biases, bool) or (dropout > 0 and train):  # a packed sequence, or chance
            with torch._C.DisableTorchFunction():
                rest = (num_layers, dropout, train, bidirectional)
                packed = not isinstance(has_biases, bool)
                return function(input, hx, params, has_biases, *rest, *(() if packed else (batch_first,)))
        states = hx if isinstance(hx, tuple) else (hx,)
        directions = 1 + bidirectional
        each = len(params) // (num_layers * directions)
        x, last = input.transpose(0, 1) if batch_first else input, []
        for layer in range(num_layers):
            ways = []
            for way in range(directions):
                place = layer * directions + way
                weights, start = params[place * each : (place + 1) * each], tuple(part[place] for part in states)
                out, end = _one_direction(step, x.flip(0) if way else x, start, weights, has_biases)
                ways.append(out.flip(0) if way else out)
                last.append(end)
            x = torch.cat(ways, -1) if bidirectional else ways[0]
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

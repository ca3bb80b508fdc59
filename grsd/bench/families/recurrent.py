"""Recurrent networks, state spaces, and networks defined by a loop."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from grsd.bench.families.family import Family, Net, cast, raw


class Unrolled(nn.Module):
    """A cell along time, by a Python loop."""

    def __init__(self, cell: type[nn.Module], here: int = 4, width: int = 5) -> None:
        super().__init__()
        self.cell, self.readout = cell(here, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.cell.hidden_size)
        state = (h, h) if isinstance(self.cell, nn.LSTMCell) else h
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.readout(state[0] if isinstance(state, tuple) else state)


class Packed(nn.Module):
    """Sequences of different lengths, which the inputs define, sorted and packed."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.readout = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        lengths = 2 + (x[:, :3, 0] > 0).sum(1).cpu()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.body(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.readout(hidden.sum(1))


class S4D(nn.Module):
    """A diagonal state space model: its kernel of complex powers is convolved by FFT."""

    def __init__(self) -> None:
        super().__init__()
        self.log_dt, self.c, self.d = raw(3), raw(3, 2, 2), raw(3)
        self.log_a, self.imaginary = nn.Parameter(torch.full((3, 2), math.log(0.5))), raw(3, 2, scale=2)
        self.readout = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        a = torch.complex(-self.log_a.exp(), self.imaginary)
        dt_a = a * self.log_dt.exp()[:, None]
        c = torch.view_as_complex(self.c) * (dt_a.exp() - 1) / a
        powers = torch.exp(dt_a[..., None] * torch.arange(steps, device=x.device))
        kernel = 2 * torch.einsum("hn,hnl->hl", c, powers).real
        u = x.transpose(1, 2)
        y = torch.fft.irfft(torch.fft.rfft(u, 2 * steps) * torch.fft.rfft(kernel, 2 * steps), 2 * steps)[..., :steps]
        return self.readout(F.gelu(y + u * self.d[:, None]).mean(2))


class Selective(nn.Module):
    """Mamba: a scan whose steps depend on the inputs; raw parameters in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 8, bias=False), nn.Linear(4, 2, bias=False)
        self.convolve = nn.Conv1d(4, 4, 2, padding=1, groups=4)
        self.select, self.step = nn.Linear(4, 1 + 2 * 3, bias=False), nn.Linear(1, 4)
        self.a_log = nn.Parameter(torch.log(torch.arange(1.0, 4)).repeat(4, 1))
        self.d, self.narrow = nn.Parameter(torch.ones(4)), True

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.into(x).chunk(2, -1)
        u = F.silu(self.convolve(u.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        step, b, c = self.select(u).split([1, 3, 3], -1)
        dt, a = F.softplus(self.step(step)), -torch.exp(cast(self, self.a_log))
        dt, wide, b, c = (cast(self, part) for part in (dt, u, b, c))
        state, outputs = wide.new_zeros(len(x), 4, 3), []
        for t in range(x.shape[1]):
            state = torch.exp(dt[:, t, :, None] * a) * state + (dt[:, t] * wide[:, t])[..., None] * b[:, t, None]
            outputs.append(torch.einsum("ndk,nk->nd", state, c[:, t]))
        y = torch.stack(outputs, 1) + wide * cast(self, self.d)
        return self.out(y.to(x.dtype) * F.silu(gate)).mean(1)


class QRNN(nn.Module):
    """QRNN: gates by a causal convolution, then forget-pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve, self.readout = nn.Conv1d(3, 12, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        z, f, o = self.convolve(F.pad(x.transpose(1, 2), (1, 0))).chunk(3, 1)
        z, f, o = z.tanh(), f.sigmoid(), o.sigmoid()
        h = torch.zeros_like(z[..., 0])
        for t in range(x.shape[1]):
            h = f[..., t] * h + (1 - f[..., t]) * z[..., t]
        return self.readout(o[..., -1] * h)


class Flow(nn.Module):
    """A neural ODE by Runge-Kutta steps, which are fixed or adapted to each sample."""

    def __init__(self, adaptive: bool) -> None:
        super().__init__()
        self.field, self.readout = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)), nn.Linear(4, 2)
        self.adaptive = adaptive

    def fixed(self, h: Tensor) -> Tensor:
        dt = 0.25
        for _ in range(4):
            k1 = self.field(h)
            k2 = self.field(h + dt / 2 * k1)
            k3 = self.field(h + dt / 2 * k2)
            h = h + dt / 6 * (k1 + 2 * k2 + 2 * k3 + self.field(h + dt * k3))
        return h

    def adapted(self, h: Tensor) -> Tensor:
        """Heun's steps; ``left``: the remaining time of each sample."""
        left, dt = torch.ones_like(h[:, :1]), torch.full_like(h[:, :1], 0.3)
        while bool((left > 0).any()):
            dt = torch.minimum(dt, left)
            k1 = self.field(h)
            k2 = self.field(h + dt * k1)
            error = dt * (k2 - k1).square().sum(1, keepdim=True).sqrt() / 2
            good = (error < 0.02) & (left > 0)
            h = torch.where(good, h + dt / 2 * (k1 + k2), h)
            left = torch.where(good, left - dt, left)
            dt = torch.where(left > 0, dt * (0.9 * (0.02 / error).sqrt()).clamp(0.3, 2), dt)
        return h

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.adapted(x) if self.adaptive else self.fixed(x))


class Equilibrium(nn.Module):
    """The fixed point of a contraction, iterated to convergence, or ``steps`` times."""

    def __init__(self, steps: int | None) -> None:
        super().__init__()
        self.into, self.inner, self.readout = nn.Linear(5, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 3)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.into(x), x.new_zeros(len(x), 6)
        if self.steps is not None:
            for _ in range(self.steps):
                z = torch.tanh(u + 0.3 * self.inner(z))
            return self.readout(z)
        for _ in range(200):
            z, before = torch.tanh(u + 0.3 * self.inner(z)), z
            if float((z - before).detach().abs().max()) < 1e-15:
                break
        return self.readout(z)


def recurrent(body: nn.Module) -> nn.Module:
    """A module of torch on (N, T, F) and a readout of its last position."""
    width = body.hidden_size * (2 if body.bidirectional else 1)
    return Net(lambda m, x: m.readout(m.body(x)[0][:, -1]), body=body, readout=nn.Linear(width, 2))


def learned_start() -> nn.Module:
    return Net(
        lambda m, x: m.readout(m.body(x, m.start.expand(1, len(x), 5).contiguous())[1][0]),
        body=nn.GRU(4, 5, batch_first=True),
        start=raw(5),
        readout=nn.Linear(5, 2),
    )


RECURRENT = {
    "recurrent cell": Family(lambda: Unrolled(nn.GRUCell), (3, 4), 2),
    "lstm cell, 50 steps": Family(lambda: Unrolled(nn.LSTMCell), (50, 4), 2, slow=True),
    "elman cell": Family(lambda: Unrolled(nn.RNNCell), (3, 4), 2),
    "rnn": Family(lambda: recurrent(nn.RNN(4, 5, batch_first=True)), (3, 4), 2),
    "rnn, relu": Family(lambda: recurrent(nn.RNN(4, 5, batch_first=True, nonlinearity="relu")), (3, 4), 2),
    "lstm": Family(lambda: recurrent(nn.LSTM(4, 5, batch_first=True)), (3, 4), 2),
    "lstm, projected": Family(
        lambda: Net(lambda m, x: m.body(x)[0][:, -1], body=nn.LSTM(4, 5, batch_first=True, proj_size=2)), (3, 4), 2
    ),
    "gru": Family(lambda: recurrent(nn.GRU(4, 5, batch_first=True)), (3, 4), 2),
    "lstm, both ways, two layers": Family(
        lambda: recurrent(nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True)), (3, 4), 2
    ),
    "lstm, transposed to time first": Family(
        lambda: Net(
            lambda m, x: m.readout(m.body(x.transpose(0, 1))[0][-1]), body=nn.LSTM(4, 5), readout=nn.Linear(5, 2)
        ),
        (3, 4),
        2,
    ),
    "gru, learned first state": Family(learned_start, (3, 4), 2),
    "packed sequences": Family(Packed, (5, 3), 2),
    "state space by fft": Family(S4D, (6, 3), 2),
    "selective scan, float32": Family(Selective, (4, 3), 2),
    "qrnn": Family(QRNN, (4, 3), 2),
    "neural ode, fixed steps": Family(lambda: Flow(False), (4,), 2),
    "neural ode, adaptive steps": Family(lambda: Flow(True), (4,), 2),
    "equilibrium, fixed steps": Family(lambda: Equilibrium(20)),
    "equilibrium, until it stands still": Family(lambda: Equilibrium(None), slow=True),
}

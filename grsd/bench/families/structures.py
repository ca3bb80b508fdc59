"""Networks on graphs, sets and spectra: fixed indices, distances, sorting, Fourier transforms, routing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grsd.bench.families.family import Family, Net, raw

EDGES = ((0, 1, 2, 3, 3, 0), (1, 2, 3, 0, 1, 2))


class GCN(nn.Module):
    """Graph convolutions on one graph with a dense, normalized adjacency matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 3)
        adjacency = torch.eye(4)
        adjacency[EDGES] = adjacency.T[EDGES] = 1
        degree = adjacency.sum(1).rsqrt()
        self.register_buffer("adjacency", degree[:, None] * adjacency * degree)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.adjacency @ self.first(x))
        return (self.adjacency @ self.second(h)).mean(1)


class GAT(nn.Module):
    """Graph attention: scores of neighbours; all others are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.here, self.there, self.out = nn.Linear(3, 5), raw(5), raw(5), nn.Linear(5, 3)
        mask = torch.eye(4, dtype=torch.bool)
        mask[EDGES] = True
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x)
        scores = F.leaky_relu((h @ self.here)[:, :, None] + (h @ self.there)[:, None], 0.2)
        weights = scores.masked_fill(~self.mask, float("-inf")).softmax(-1)
        return self.out(F.elu(weights @ h)).mean(1)


class Messages(nn.Module):
    """Messages along edges, summed into fresh tensors in place, by ``index_add_`` or ``scatter_add_``."""

    def __init__(self, scatter: bool) -> None:
        super().__init__()
        self.message, self.update, self.scatter = nn.Linear(6, 4), nn.Linear(7, 3), scatter
        self.register_buffer("edges", torch.tensor(EDGES))

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.edges
        messages = torch.tanh(self.message(torch.cat([x[:, source], x[:, target]], -1)))
        total = torch.zeros(len(x), x.shape[1], 4, dtype=x.dtype, device=x.device)
        if self.scatter:
            total.scatter_add_(1, target[None, :, None].expand_as(messages), messages)
        else:
            total.index_add_(1, target, messages)
        return self.update(torch.cat([x, total], -1)).tanh().mean(1)


class Capsules(nn.Module):
    """Capsules: votes are routed by agreement, in three rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.votes = raw(3, 2, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        votes = torch.einsum("nid,jide->nije", x, self.votes.expand(3, -1, -1, -1))
        logits = votes.new_zeros(votes.shape[:3])
        for _ in range(3):
            total = (logits.softmax(2)[..., None] * votes).sum(1)
            norm = total.square().sum(-1, keepdim=True)
            squashed = norm / (1 + norm) * total / (norm + 1e-9).sqrt()
            logits = logits + (votes * squashed[:, None]).sum(-1)
        return squashed.norm(dim=-1)


class Spectral(nn.Module):
    """A Fourier layer: complex weights, stored as pairs of real numbers, mix the low frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.weight, self.readout = nn.Linear(1, 3), raw(3, 3, 3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x[..., None]).transpose(1, 2)
        low = torch.fft.rfft(h)[..., :3]
        mixed = torch.einsum("nik,iok->nok", low, torch.view_as_complex(self.weight))
        h = h + torch.fft.irfft(F.pad(mixed, (0, h.shape[-1] // 2 + 1 - 3)), h.shape[-1])
        return self.readout(torch.tanh(h).mean(2))


def radial(distance: str) -> nn.Module:
    """Gaussian bumps about learned centres, by ``torch.cdist`` or written out."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        d = torch.cdist(x, m.centres) if distance == "cdist" else (x[:, None] - m.centres).square().sum(-1).sqrt()
        return m.readout(torch.exp(-((m.width.exp() * d) ** 2)))

    return Net(forward, centres=raw(6, 5, scale=2), width=raw(6), readout=nn.Linear(6, 3))


def sort_pool(k: int | None) -> nn.Module:
    """Features sorted over the elements of a set, or their largest values."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = m.phi(x)
        return m.out((h.sort(1).values if k is None else h.topk(k, 1).values).flatten(1))

    return Net(forward, phi=nn.Sequential(nn.Linear(3, 4), nn.Tanh()), out=nn.Linear(4 * (k or 3), 3))


def set_attention() -> nn.Module:
    return Net(
        lambda m, x: m.out(torch.einsum("nt,ntd->nd", m.score(x).squeeze(-1).softmax(1), m.value(x)).tanh()),
        score=nn.Linear(3, 1),
        value=nn.Linear(3, 5),
        out=nn.Linear(5, 3),
    )


def solved() -> nn.Module:
    """The solution of a linear system that a layer computes from each sample."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        a = m.make(x).view(-1, 3, 3)
        return torch.linalg.solve(torch.eye(3, dtype=x.dtype, device=x.device) + a @ a.mT, m.right(x))

    return Net(forward, make=nn.Linear(5, 9), right=nn.Linear(5, 3))


def eigenvalues() -> nn.Module:
    """Eigenvalues of the symmetric matrix that a layer computes from each sample."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        a = m.make(x).view(-1, 3, 3)
        return torch.linalg.eigvalsh(a + a.mT)

    return Net(forward, make=nn.Linear(5, 9))


STRUCTURES = {
    "graph convolution": Family(GCN, (4, 3)),
    "graph attention": Family(GAT, (4, 3)),
    "messages by index_add": Family(lambda: Messages(False), (4, 3)),
    "messages by scatter_add": Family(lambda: Messages(True), (4, 3)),
    "capsules": Family(Capsules, (2, 4)),
    "fourier layer": Family(Spectral, (8,), 2),
    "radial basis by cdist": Family(lambda: radial("cdist")),
    "radial basis": Family(lambda: radial("differences")),
    "cosine similarity": Family(
        lambda: Net(
            lambda m, x: m.cosine(m.net(x)[:, None], m.centres),
            net=nn.Sequential(nn.Linear(5, 6), nn.Tanh()),
            centres=raw(3, 6),
            cosine=nn.CosineSimilarity(dim=-1),
        )
    ),
    "sort pooling": Family(lambda: sort_pool(None), (3, 3)),
    "the largest two": Family(lambda: sort_pool(2), (3, 3)),
    "attention pooling": Family(set_attention, (3, 3)),
    "running sum over features": Family(
        lambda: Net(lambda m, x: torch.tanh(m.inner(x)).cumsum(-1), inner=nn.Linear(5, 3))
    ),
    "running product over features": Family(
        lambda: Net(lambda m, x: torch.sigmoid(m.inner(x)).cumprod(-1), inner=nn.Linear(5, 3))
    ),
    "log-sum-exp": Family(lambda: Net(lambda m, x: m.inner(x).view(-1, 3, 4).logsumexp(-1), inner=nn.Linear(5, 12))),
    "linear system": Family(solved),
    "eigenvalues": Family(eigenvalues),
    "adaptive pools, bicubic": Family(
        lambda: Net(
            lambda m, x: (
                F.interpolate(m.conv(x).tanh(), scale_factor=2, mode="bicubic").square().mean((2, 3))
                + F.adaptive_max_pool2d(m.conv(x), 1).flatten(1)
            ),
            conv=nn.Conv2d(2, 3, 3, padding=1),
        ),
        (2, 4, 4),
    ),
    "outer product": Family(
        lambda: Net(
            lambda m, x: m.out(torch.einsum("ni,nj->nij", m.a(x), m.b(x)).flatten(1)),
            a=nn.Linear(5, 3),
            b=nn.Linear(5, 3),
            out=nn.Linear(9, 3),
        )
    ),
}

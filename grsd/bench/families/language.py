"""Networks of tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grsd.bench.families.attention import Block, Own
from grsd.bench.families.family import Family, Net, cast, randomized, raw


class Language(nn.Module):
    """A transformer encoder: tokens, positions, output weights tied to the embedding, the last position read out."""

    def __init__(self, norm_first: bool = True) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(7, 8, padding_idx=0), nn.Embedding(5, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.readout = nn.Linear(8, 7, bias=False)
        self.readout.weight = self.token.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x) + self.position(torch.arange(x.shape[1], device=x.device))
        return self.readout(self.encoder(h)[:, -1])


class GPT(nn.Module):
    """Causal blocks, output weights tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(7, 8), nn.Embedding(6, 8)
        self.blocks = nn.ModuleList(Block(8, Own(8, 2, causal=True), 16) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 7, bias=False)
        self.head.weight = self.token.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x) + self.position.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))[:, -1]


class FloatNorm(nn.Module):
    """Root mean square of x.float(), cast back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.narrow = nn.Parameter(torch.rand(width) + 0.5), True

    def forward(self, x: Tensor) -> Tensor:
        h = cast(self, x)
        return self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x)


class Llama(nn.Module):
    """FloatNorm, rotary positions turned in float32, grouped-query attention, SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Embedding(7, 8), nn.Linear(8, 3, bias=False)
        self.norm1, self.norm2, self.norm3 = FloatNorm(8), FloatNorm(8), FloatNorm(8)
        self.query, self.key, self.value = (nn.Linear(8, n, bias=False) for n in (8, 4, 4))
        self.out = nn.Linear(8, 8, bias=False)
        self.gate, self.up, self.down = (nn.Linear(*shape, bias=False) for shape in ((8, 12), (8, 12), (12, 8)))
        self.narrow = True
        angles = torch.outer(torch.arange(6), 100.0 ** (-torch.arange(0, 4, 2) / 4)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turned(self, x: Tensor) -> Tensor:
        h, (cos, sin) = cast(self, x), (cast(self, part[: x.shape[2]]) for part in (self.cos, self.sin))
        left, right = h.chunk(2, -1)
        return (h * cos + torch.cat([-right, left], -1) * sin).type_as(x)

    def attention(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (layer(x).view(n, t, -1, 4).transpose(1, 2) for layer in (self.query, self.key, self.value))
        k, v = (part.repeat_interleave(2, 1) for part in (self.turned(k), v))
        h = F.scaled_dot_product_attention(self.turned(q), k, v, is_causal=True)
        return self.out(h.transpose(1, 2).reshape(n, t, -1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x)
        h = h + self.attention(self.norm1(h))
        g = self.norm2(h)
        h = h + self.down(F.silu(self.gate(g)) * self.up(g))
        return self.head(self.norm3(h)[:, -1])


class Bert(nn.Module):
    """Token types, padding masked out of the attention by large negative numbers, a pooler."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position, self.kind = nn.Embedding(7, 8, padding_idx=0), nn.Embedding(5, 8), nn.Embedding(2, 8)
        self.norm, self.block = nn.LayerNorm(8), Block(8, Own(8, 2, fused=False))
        self.pooler, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        h = self.norm(self.token(x) + self.position(place) + self.kind((place > 2).long())[None])
        mask = (x == 0)[:, None, None].to(h.dtype) * torch.finfo(torch.float32).min
        return self.head(torch.tanh(self.pooler(self.block(h, mask)[:, 0])))


class T5(nn.Module):
    """Relative positions in buckets, embedded and added to the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.bias, self.block = nn.Embedding(7, 8), nn.Embedding(5, 2), Block(8, Own(8, 2, fused=False))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        buckets = (place[:, None] - place).clamp(-2, 2) + 2
        return self.head(self.block(self.token(x), self.bias(buckets).permute(2, 0, 1)[None]).mean(1))


class ALiBi(nn.Module):
    """ALiBi: scores minus a fixed slope times the distance."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.block, self.head = nn.Embedding(7, 8), Block(8, Own(8, 2)), nn.Linear(8, 3)
        self.register_buffer("slopes", torch.tensor([0.5, 0.25]))

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        bias = -self.slopes[:, None, None] * (place[:, None] - place).abs()
        bias = bias.masked_fill(place[:, None] < place, float("-inf"))
        return self.head(self.block(self.token(x), bias[None])[:, -1])


def bag(mode: str) -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(9, 4, mode=mode), nn.Tanh(), nn.Linear(4, 3))


LANGUAGE = {
    "embedding": Family(
        lambda: nn.Sequential(nn.Embedding(6, 4, padding_idx=1), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)),
        (3,),
        2,
        tokens=6,
        samples=5,
    ),
    "short embedding": Family(
        lambda: nn.Sequential(nn.Embedding(50, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)),
        (2,),
        2,
        tokens=50,
        samples=7,
    ),
    "transformer, tied output": Family(Language, (5,), 7, tokens=7),
    "transformer, norms last": Family(lambda: Language(norm_first=False), (3,), 7, tokens=7, samples=3),
    "gpt": Family(GPT, (5,), 7, tokens=7),
    "llama": Family(Llama, (5,), tokens=7),
    "float32 norm": Family(
        lambda: nn.Sequential(nn.Linear(5, 6), FloatNorm(6), nn.SiLU(), nn.Linear(6, 3)),
    ),
    "bert": Family(lambda: randomized(Bert()), (5,), tokens=7),
    "t5": Family(T5, (5,), tokens=7),
    "alibi": Family(ALiBi, (5,), tokens=7),
    "embedding bag, mean": Family(lambda: bag("mean"), (4,), tokens=9),
    "embedding bag, max": Family(lambda: bag("max"), (4,), tokens=9),
    "embedding bag, sum": Family(lambda: bag("sum"), (4,), tokens=9),
    "raw table, indexed": Family(
        lambda: Net(lambda m, x: m.table[x].tanh().flatten(1) @ m.out, table=raw(7, 4), out=raw(12, 3)),
        (3,),
        tokens=7,
    ),
    "one-hot tokens": Family(
        lambda: Net(
            lambda m, x: m.out(torch.tanh(F.one_hot(x, 7).to(m.inner.weight.dtype) @ m.inner.weight)).mean(1),
            inner=nn.Linear(4, 7, bias=False),
            out=nn.Linear(4, 3),
        ),
        (3,),
        tokens=7,
    ),
}

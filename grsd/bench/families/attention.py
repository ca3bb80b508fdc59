"""Attention of every kind, on vectors and images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grsd.bench.families.family import Family, Net, randomized, raw


class Attention(nn.Module):
    """``nn.MultiheadAttention`` of (N, T, 4), to itself or to something else."""

    def __init__(self, batch_first: bool = True, cross: bool = False, **options) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first, **options)
        self.batch_first, self.cross, self.readout = batch_first, cross, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.batch_first else x.transpose(0, 1)
        other = torch.tanh(h) if self.cross else h
        h = self.attention(h, other, other, need_weights=self.cross)[0]
        return self.readout(h.mean(1 if self.batch_first else 0))


class Own(nn.Module):
    """Attention of one linear layer, by ``scaled_dot_product_attention`` or written out; ``bias``: added to scores."""

    def __init__(self, width: int, heads: int, fused: bool = True, causal: bool = False) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.fused, self.causal = heads, fused, causal

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5
            h = (scores if bias is None else scores + bias).softmax(-1) @ v
        return self.out(h.transpose(1, 2).reshape(n, t, d))


class Block(nn.Module):
    """x plus attention of its norm, plus a perceptron of the norm of that sum."""

    def __init__(self, width: int, attention: nn.Module, hidden: int = 8) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), attention
        self.perceptron = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, *bias: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), *bias)
        return x + self.perceptron(self.norm2(x))


class ViT(nn.Module):
    """Patches by a strided convolution, a class token, positions as a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token, self.position = nn.Conv2d(2, 8, 2, 2), raw(1, 1, 8), raw(1, 5, 8)
        self.blocks = nn.Sequential(Block(8, Own(8, 2)), Block(8, Own(8, 2)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), h], 1) + self.position
        return self.head(self.norm(self.blocks(h))[:, 0])


class Windows(nn.Module):
    """Swin: attention in shifted windows folded into the batch, a table of relative biases read by an index."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.table = nn.Conv2d(2, 4, 1), Block(4, Own(4, 2, fused=False)), raw(9, 2)
        where = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        offset = where[:, :, None] - where[:, None] + 1
        self.register_buffer("index", offset[0] * 3 + offset[1])
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table[self.index.view(-1)].view(4, 4, -1).permute(2, 0, 1)
        h = torch.roll(self.embed(x), (-1, -1), (2, 3))
        n, c, height, width = h.shape
        h = h.view(n, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
        return self.head(self.block(h, bias[None]).reshape(n, -1, c).mean(1))


class CachedBias(nn.Module):
    """LeViT: in evaluation mode the indexed biases are cached at the first call.

    ``place``: an attribute, a dict by device, or a list.
    """

    def __init__(self, place: str) -> None:
        super().__init__()
        self.attention, self.biases, self.head, self.place = Own(4, 2), raw(2, 3, scale=2), nn.Linear(4, 3), place
        self.register_buffer("index", (torch.arange(3)[:, None] - torch.arange(3)).abs())
        self.kept, self.cache, self.items = None, {}, []

    def bias(self, device: torch.device) -> Tensor:
        if self.place == "attribute":
            if self.kept is None:
                self.kept = self.biases[:, self.index]
            return self.kept
        if self.place == "dict":
            if str(device) not in self.cache:
                self.cache[str(device)] = self.biases[:, self.index]
            return self.cache[str(device)]
        if not self.items:
            self.items.append(self.biases[:, self.index])
        return self.items[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.attention(x, self.bias(x.device)[None])).mean(1))


class Linformer(nn.Module):
    """Keys and values projected along positions."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.along_k, self.along_v, self.head = nn.Linear(4, 12), raw(2, 5), raw(2, 5), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        k, v = self.along_k @ k, torch.einsum("kt,ntd->nkd", self.along_v, v)
        return self.head((torch.softmax(q @ k.transpose(1, 2) / 2, -1) @ v).tanh().mean(1))


class LinearAttention(nn.Module):
    """Attention by elu + 1 features, causal by a running sum over positions."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.qkv, self.head, self.causal = nn.Linear(4, 12), nn.Linear(4, 3), causal

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        kv, total = torch.einsum("ntd,nte->ntde", k, v), k
        if self.causal:
            kv, total = kv.cumsum(1), total.cumsum(1)
        else:
            kv, total = kv.sum(1, keepdim=True), total.sum(1, keepdim=True)
        h = torch.einsum("ntd,ntde->nte", q, kv.expand(-1, x.shape[1], -1, -1)) / (q * total).sum(-1, keepdim=True)
        return self.head(h.tanh().mean(1))


class Perceiver(nn.Module):
    """Learned latents that attend to the inputs, then to themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.up = raw(2, 8), nn.Linear(4, 8)
        self.cross, self.own = nn.MultiheadAttention(8, 2, batch_first=True), Block(8, Own(8, 2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, latents = self.up(x), self.latents.expand(len(x), -1, -1)
        return self.head(self.own(latents + self.cross(latents, h, h, need_weights=False)[0]).mean(1))


class Mixer(nn.Module):
    """One perceptron along positions and one along channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.head = nn.LayerNorm(4), nn.LayerNorm(4), nn.Linear(4, 3)
        self.tokens = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 5))
        self.channels = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).mT).mT
        return self.head((x + self.channels(self.norm2(x))).mean(1))


def encoder(norm_first: bool, batch_first: bool = True, nested: bool = False) -> nn.Module:
    """``nn.TransformerEncoder``, which uses fused kernels in evaluation mode."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=batch_first, norm_first=norm_first)
    return Net(
        lambda m, x: m.head(m.body(x if batch_first else x.transpose(0, 1)).mean(1 if batch_first else 0)),
        body=nn.TransformerEncoder(layer, 1, enable_nested_tensor=nested),
        head=nn.Linear(8, 3),
    )


def decoder() -> nn.Module:
    """The second half of the sequence decoded, causally, from the first."""
    layer = nn.TransformerDecoderLayer(8, 2, 12, 0.0, batch_first=True)

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        memory, target = x.chunk(2, 1)
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], device=x.device, dtype=x.dtype)
        return m.head(m.body(target, memory, tgt_mask=mask, tgt_is_causal=True)[:, -1])

    return Net(forward, body=nn.TransformerDecoder(layer, 1), head=nn.Linear(8, 3))


ATTENTION = {
    "attention": Family(Attention, (3, 4), 2),
    "attention, sequence first, as many positions as samples": Family(lambda: Attention(batch_first=False), (4, 4), 2),
    "cross attention, bias rows": Family(lambda: Attention(cross=True, add_bias_kv=True), (3, 4), 2),
    "attention, other widths of keys and values": Family(
        lambda: Net(
            lambda m, x: m.attention(x, m.key(x), m.value(x), need_weights=False)[0].mean(1),
            attention=nn.MultiheadAttention(4, 2, kdim=3, vdim=5, batch_first=True),
            key=nn.Linear(4, 3),
            value=nn.Linear(4, 5),
        ),
        (3, 4),
        4,
    ),
    "scaled dot product": Family(lambda: Net(lambda m, x: m.own(x).mean(1), own=Own(4, 2)), (3, 4), 4),
    "scaled dot product, causal": Family(
        lambda: Net(lambda m, x: m.own(x).tanh().mean(1), own=Own(4, 2, causal=True)), (3, 4), 4
    ),
    "transformer encoder": Family(lambda: encoder(False), (3, 8)),
    "transformer encoder, norms first, sequence first": Family(lambda: encoder(True, False), (3, 8)),
    "transformer encoder, nested tensors on": Family(lambda: encoder(False, nested=True), (3, 8)),
    "transformer decoder": Family(decoder, (4, 8)),
    "vision transformer": Family(ViT, (2, 4, 4)),
    "window attention, relative table": Family(Windows, (2, 4, 4)),
    "cached bias, attribute": Family(lambda: CachedBias("attribute"), (3, 4)),
    "cached bias, dict": Family(lambda: CachedBias("dict"), (3, 4)),
    "cached bias, list": Family(lambda: CachedBias("list"), (3, 4)),
    "cached bias, attribute, filled before": Family(lambda: CachedBias("attribute"), (3, 4), called=True),
    "cached bias, dict, filled before": Family(lambda: CachedBias("dict"), (3, 4), called=True),
    "cached bias, list, filled before": Family(lambda: CachedBias("list"), (3, 4), called=True),
    "linformer": Family(Linformer, (5, 4)),
    "linear attention": Family(lambda: LinearAttention(False), (3, 4)),
    "linear attention, causal": Family(lambda: LinearAttention(True), (3, 4)),
    "perceiver": Family(Perceiver, (4, 4)),
    "mlp-mixer": Family(lambda: randomized(Mixer()), (5, 4)),
}

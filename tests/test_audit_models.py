"""The audit of models that are not in the library: a ResNet, a wrapped language model, an LSTM, a graph network."""

import pytest
import torch
from test_audit import checked
from torch import nn

import grsd

pytestmark = pytest.mark.long
SMALL = {"seeds": 3, "samples": 6, "budget": 0.3, "fall": 0.5, "progress": False}


class Block(nn.Module):
    def __init__(self, width, out, stride):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or width != out:
            self.downsample = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(out)) + identity)


def resnet():
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    body = nn.Sequential(Block(4, 4, 1), Block(4, 8, 2))
    return nn.Sequential(stem, body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.c_attn, self.c_proj, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = (part.view(n, t, self.heads, -1).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1))
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(out.transpose(1, 2).reshape(n, t, width))


class Output:
    def __init__(self, logits):
        self.logits = logits


class Language(nn.Module):
    """In the style of GPT-2: tied weights, positions, pre-norm blocks; it returns an object with logits."""

    def __init__(self, vocabulary=7, width=12, length=5):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(width), Attention(width, 2), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        x = x + self.attn(self.ln_1(x))
        return Output(self.head(self.ln_f(x + self.mlp(self.ln_2(x)))))


class LastLogits(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Language()

    def forward(self, ids):
        return self.model(ids).logits[:, -1]


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Graphs(nn.Module):
    """Two rounds of messages on graphs of five nodes: features and adjacency side by side, (N, 5, 3 + 5)."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, batch):
        x, adjacency = batch[..., :3], batch[..., 3:]
        passing = adjacency / adjacency.sum(-1, keepdim=True)
        x = torch.tanh(self.second(passing @ torch.tanh(self.first(passing @ x))))
        return self.head(x.mean(1))


def graphs(samples, generator):
    edges = (torch.rand(samples, 5, 5, generator=generator) < 0.4).double()
    adjacency = ((edges + edges.transpose(1, 2)) > 0).double() + torch.eye(5).double()
    return torch.cat([torch.randn(samples, 5, 3, generator=generator).double(), adjacency], -1)


@pytest.mark.parametrize(
    ("make", "inputs", "targets", "loss"),
    [
        (resnet, lambda g: torch.randn(8, 3, 8, 8, generator=g), torch.arange(8) % 3, "cross-entropy"),
        (LastLogits, lambda g: torch.randint(0, 7, (8, 5), generator=g), torch.arange(8) % 7, "cross-entropy"),
        (Sequence, lambda g: torch.randn(8, 6, 3, generator=g), torch.eye(2)[torch.arange(8) % 2], "mse"),
        (Graphs, lambda g: graphs(8, g), torch.linspace(-1, 1, 8)[:, None], "mse"),
    ],
    ids=["resnet", "gpt-2", "lstm", "graphs"],
)
def test_a_strangers_model(make, inputs, targets, loss):
    found = checked(grsd.audit(make, inputs(torch.Generator().manual_seed(0)), targets, loss=loss, **SMALL))
    assert found.document["numbers"]["fallen"]["value"] > 0
    assert len(found.document["conditions"]) == 7


def test_a_language_model_without_a_wrapper_is_told_what_to_do():
    ids = torch.randint(0, 7, (8, 5), generator=torch.Generator().manual_seed(0))
    line = r"gives Output; in the function that makes it, take one of 'logits' \(4, 5, 7\): model = grsd.output"
    with pytest.raises(TypeError, match=line):
        grsd.audit(Language, ids, torch.arange(8) % 7, loss="cross-entropy", **SMALL)

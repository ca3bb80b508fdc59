"""Audits that are committed: what lazy, a running clock and transport look like, on networks that anybody can make.

To add one, write a line into ``GALLERY``: its name, and a function that returns the audit.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from grsd.auditing.asked import Audit, audit
from grsd.datasets import digits
from grsd.networks import Perceptron, ResNet, StateSpace, Transformer
from grsd.solvable import DiagonalNet
from grsd.solvable.chain import LinearChain
from grsd.support.files import write_atomically
from grsd.support.folders import project

FOLDER = "data/audits"
SEEDS = range(4000, 4008)
CHAIN = LinearChain(beta=0.4, start=0.12, modes=48, outputs=1, lowest=-12.0)
DIAGONAL = DiagonalNet(4, a=1.5, d=0.5, start=1e-3, modes=20)
JITTER = 0.1


def cnn() -> nn.Module:
    """Return a small convolutional network for digits of 8 x 8 pixels, given flat."""
    plain = {"device": "cpu", "dtype": torch.float32}
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1, **plain),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, **plain),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10, **plain),
    )


def parity(kind: Callable[..., nn.Module], **settings: object) -> Audit:
    """Audit networks of a ``kind`` in ``grsd.networks`` on the parity of digits."""
    data = digits(64, task="parity")

    def make(seed: int) -> nn.Module:
        return kind(64, 1, seed=seed, **settings)

    return audit(make, data.inputs, data.targets, seeds=SEEDS, samples=48, conditions=False, progress=False)


def wide(scale: float = 100.0) -> Audit:
    """Audit a perceptron whose outputs, less those at the start, are multiplied by ``scale``: nearly a linear model.

    The limit is that of Chizat, Oyallon and Bach (arXiv 1812.07956).
    """
    data = digits(48, task="parity")

    class Scaled(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.inner = Perceptron(64, 1, width=48, depth=2, residual=False, seed=seed)
            self.start = copy.deepcopy(self.inner).requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return scale * (self.inner(x) - self.start(x))

    return audit(Scaled, data.inputs, data.targets, seeds=SEEDS, samples=48, conditions=False, progress=False)


def two_layers(seeds: object = SEEDS) -> Audit:
    """Audit two linear layers from a small start on a hard power-law task: c = (1 - beta) / (1 + beta) = .43."""
    _, inputs, targets = CHAIN.problem()

    def make(seed: int) -> nn.Module:
        return replace(CHAIN, seed=seed).problem()[0]

    options = {"conditions": False, "fall": 4.5, "progress": False}
    return audit(make, inputs, targets, seeds=seeds, **options)


def diagonal(seeds: object = SEEDS) -> Audit:
    """Audit a diagonal linear net of depth 4 from a small start, whose modes grow one after the other."""
    module, inputs, targets = DIAGONAL.problem()
    weights = module.state_dict()

    def make() -> nn.Module:
        made = DIAGONAL.problem()[0]
        made.load_state_dict({name: w * torch.exp(JITTER * torch.randn_like(w)) for name, w in weights.items()})
        return made

    return audit(make, inputs, targets, seeds=seeds, conditions=False, progress=False)


def convolutions() -> Audit:
    """Audit the CNN on digits with cross-entropy."""
    data = digits(64)
    labels = data.targets.argmax(1)
    options = {"loss": "cross-entropy", "seeds": SEEDS, "samples": 24, "conditions": False, "progress": False}
    return audit(cnn, data.inputs, labels, **options)


GALLERY: dict[str, Callable[[], Audit]] = {
    "scaled-perceptron": wide,
    "two-linear-layers": two_layers,
    "diagonal-net": diagonal,
    "residual-perceptron": lambda: parity(Perceptron, width=48, depth=16, residual=True),
    "plain-perceptron": lambda: parity(Perceptron, width=48, depth=16, residual=False),
    "small-cnn": convolutions,
    "resnet": lambda: parity(ResNet, width=8, depth=3),
    "resnet-no-skips": lambda: parity(ResNet, width=8, depth=3, skips=False),
    "transformer": lambda: parity(Transformer, width=12, depth=2),
    "state-space": lambda: parity(StateSpace, width=12, depth=4),
}


def write(name: str) -> Path:
    """Make the audit ``name`` again and write its JSON and its figure. Errors: ``ValueError`` for an unknown name."""
    from grsd.plotting.audits import course
    from grsd.plotting.style import svg_of

    if name not in GALLERY:
        raise ValueError(f"gallery: expected one of {', '.join(GALLERY)}, got {name!r:.60}")
    document = GALLERY[name]().document
    document["question"]["model"] = name
    folder = project() / FOLDER
    write_atomically(folder / f"{name}.svg", svg_of(course(document)))
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return write_atomically(folder / f"{name}.json", text.encode())


def audits() -> dict[str, dict[str, object]]:
    """Return the committed audits by name, in the gallery's order."""
    folder = project() / FOLDER
    there = {path.stem: path for path in folder.glob("*.json")}
    return {name: json.loads(there[name].read_text()) for name in GALLERY if name in there}

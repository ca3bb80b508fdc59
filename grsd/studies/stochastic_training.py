"""Notebook 11: the same network trained in several ways, and what moves energy between its shells."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from grsd.datasets.data import Data
from grsd.datasets.registry import dataset
from grsd.evidence import Measurement
from grsd.kernel import tangent_kernel
from grsd.networks.registry import architecture
from grsd.runs import run
from grsd.shells import LogShells
from grsd.training import checkpoint_history

SHELLS = LogShells(math.log(2))
LEVELS = (-0.25, -0.75, -1.25, -1.75, -2.25, -2.75)
LEGS = ("growth", "crossing", "rotation")
BUDGET = ("energy_before", "energy_after", "relaxation", "transport", *LEGS, "laziness", "log_growth", "mask")
LATE = (4, 5)  # the steps from e^-1.75 to e^-2.75
MOST_STEPS = 40_000
CHECKED = 30  # samples of training between two looks at the loss of all samples
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, rate: torch.optim.SGD(parameters, rate, momentum=0.9),
    "adam": torch.optim.Adam,
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """One network trained on the parity of digits, to given losses.

    Args:
        rate: of the optimizer; for "sgd" and "momentum" in units of 1 / lambda_max(0), for momentum its product with
            1 / (1 - mu), so that equal rates learn equally fast.
        batch: samples of a minibatch, drawn without replacement; 0: all samples.
        loss: "mse" with one output, or "cross-entropy" with two.
        levels: logs of the loss over the loss at the start; states are kept where it first falls below each.
    """

    architecture: str = "residual"
    width: int = 48
    depth: int = 16
    data: str = "digits"
    samples: int = 240
    data_seed: int = 0
    optimizer: str = "sgd"
    rate: float = 0.5
    batch: int = 10
    loss: str = "mse"
    levels: tuple[float, ...] = LEVELS
    seed: int = 0

    @property
    def all_samples(self) -> bool:
        return self.batch in (0, self.samples)


@dataclass
class Trainer:
    """A network on its way: ``step`` takes one step of its optimizer on the next minibatch."""

    training: Training
    network: nn.Module
    optimizer: torch.optim.Optimizer
    inputs: Tensor
    targets: Tensor
    generator: torch.Generator

    @classmethod
    def start(cls, training: Training, data: Data | None = None) -> Trainer:
        """The initial network, whose batches follow from its seed; ``data``: in the place of the parity task."""
        if data is None:
            data = dataset[training.data].load()(training.samples, task="parity", seed=training.data_seed)
        outputs = 2 if training.loss == "cross-entropy" else 1
        labels = (data.targets[:, 0] > 0).long()
        settings = {"width": training.width, "depth": training.depth, "seed": training.seed}
        network = architecture[training.architecture].load()(data.inputs.shape[1], outputs, **settings).double()
        top = float(torch.linalg.eigvalsh(tangent_kernel(network, data.inputs))[-1])
        unit = {"sgd": 1 / top, "momentum": 0.1 / top, "adam": 1.0}[training.optimizer]
        optimizer = OPTIMIZERS[training.optimizer](network.parameters(), training.rate * unit)
        targets = labels if outputs == 2 else data.targets
        generator = torch.Generator().manual_seed(training.seed)
        return cls(training, network, optimizer, data.inputs, targets, generator)

    def objective(self, network: nn.Module, chosen: Tensor | None = None) -> Tensor:
        """The mean loss of the chosen samples, or of all."""
        inputs, targets = (part if chosen is None else part[chosen] for part in (self.inputs, self.targets))
        outputs = network(inputs)
        if self.training.loss == "cross-entropy":
            return nn.functional.cross_entropy(outputs, targets)
        return (outputs - targets).square().sum() / (2 * len(inputs))

    def loss(self) -> float:
        with torch.no_grad():
            return float(self.objective(self.network))

    def batches(self) -> Iterator[Tensor | None]:
        """Minibatches without end; None stands for all samples."""
        while True:
            if self.training.all_samples:
                yield None
            else:
                order = torch.randperm(self.training.samples, generator=self.generator, device="cpu")
                yield order[: self.training.batch]

    def states(self) -> Iterator[tuple[int, float]]:
        """Train; stop at the start and at each level, and give (steps so far, loss)."""
        start, steps = self.loss(), 0
        yield steps, start
        each = 1 if self.training.all_samples else max(1, CHECKED // self.training.batch)
        batches = self.batches()
        for level in self.training.levels:
            while not (now := self.loss()) <= start * math.exp(level):
                if steps >= MOST_STEPS or not math.isfinite(now):
                    raise RuntimeError(f"{self.training}: no loss of e^{level:g} after {steps} steps, it is {now:.3g}")
                for _ in range(each):
                    self.optimizer.zero_grad()
                    self.objective(self.network, next(batches)).backward()
                    self.optimizer.step()
                    steps += 1
            yield steps, now


def trained_history(spec: Mapping[str, object]) -> xr.Dataset:
    """The budgets between the states at the levels of a ``Training``, given by its fields.

    Returns: what ``checkpoint_history`` gives of ``BUDGET``, along ``step``; over the states also ``steps``, ``loss``.
    """
    return followed(Trainer.start(Training(**spec)))


def followed(trainer: Trainer) -> xr.Dataset:
    """The budgets between the states at the levels of a network on its way, as ``trained_history``."""
    kept, marks = [], []
    for mark in trainer.states():
        kept.append(copy.deepcopy(trainer.network))
        marks.append(mark)
    budget = checkpoint_history(kept, trainer.inputs, trainer.targets, SHELLS, loss=trainer.training.loss)
    steps, losses = zip(*marks, strict=True)
    return budget[list(BUDGET)].assign(
        steps=("state", np.array(steps), {"long_name": "steps of the optimizer up to the state"}),
        loss=("state", np.array(losses), {"long_name": "loss of all samples"}),
    )


def history(training: Training) -> xr.Dataset:
    """``trained_history`` of a training, kept in files."""
    return run(asdict(training), trained_history, progress=False)


def through(pairs: xr.DataArray) -> np.ndarray:
    """The flux through each boundary (..., boundary) of antisymmetric transport between pairs of shells."""
    net = pairs.sum("shell_from").values
    return net[..., ::-1].cumsum(-1)[..., ::-1][..., 1:]


def growth_share(found: xr.Dataset, steps: tuple[int, ...], tilt: float = 0.0) -> float:
    """The share of the squared flux, over all boundaries of these steps, that growth of the whole kernel gives.

    In each step the kernel grows by what fits the flux best. ``tilt``: a control, which puts growth times lambda^tilt
    in the place of the flux.
    """
    flux, growth = (through(found[name].isel(step=list(steps))) for name in ("transport", "growth"))
    if tilt:
        flux = growth * np.exp(tilt * found.shell_upper.values[:-1])
    along = (flux * growth).sum(1) ** 2 / np.square(growth).sum(1)
    return float(along.sum() / np.square(flux).sum())


def late_and_lazy(spec: Mapping[str, object]) -> xr.Dataset:
    """``growth(seed)``, the growth share late in training, and ``laziness(seed, step, part)`` of several networks.

    ``spec``: ``networks``, whose seeds are 0, 1, ..., and the fields of a ``Training``.
    """
    rest = {name: value for name, value in spec.items() if name != "networks"}
    each = [trained_history(rest | {"seed": seed}) for seed in range(spec["networks"])]
    laziness = xr.concat([one.laziness for one in each], xr.Variable("seed", np.arange(len(each))))
    text = {"long_name": "growth share of the squared flux, late", "units": "1"}
    return laziness.to_dataset().assign(growth=("seed", [growth_share(one, LATE) for one in each], text))


def several(training: Training, networks: int) -> xr.Dataset:
    """``late_and_lazy`` of so many networks of a training, kept in files."""
    return run(asdict(training) | {"networks": networks}, late_and_lazy, progress=False)


@dataclass(frozen=True)
class Shares:
    """The growth share of a training; of two, that of the first minus that of the second, from the same seed."""

    trainings: tuple[Training, ...]
    steps: tuple[int, ...] = LATE
    tilts: tuple[float, ...] = (0.0,)


def shares(protocol: Shares, seed: int) -> float:
    """The largest over the tilts."""
    found = [history(replace(training, seed=seed)) for training in protocol.trainings]
    values = [max(growth_share(one, protocol.steps, tilt) for tilt in protocol.tilts) for one in found]
    return values[0] - sum(values[1:])


WAYS = {
    "flow": Training(batch=0, rate=0.2),
    "gd": Training(batch=0),
    "sgd": Training(),
    "momentum": Training(optimizer="momentum"),
    "adam": Training(optimizer="adam", rate=1e-3, loss="cross-entropy"),
}
CELLS = {(name, way): replace(of, architecture=name) for name in ("residual", "plain") for way, of in WAYS.items()}
SHARE_CLAIMS = {cell: "-".join(("growth-share", *cell)) for cell in CELLS}
# Full batches in small steps to minibatches in large ones, and the two changes one by one.
CONTRASTS = {"noise": ("flow", "sgd"), "batch": ("gd", "sgd"), "step": ("flow", "gd")}
MEASUREMENTS = {
    **{SHARE_CLAIMS[cell]: Measurement(Shares((training,)), shares) for cell, training in CELLS.items()},
    **{
        f"{cause}-lowers-growth-share-{name}": Measurement(Shares((CELLS[name, one], CELLS[name, other])), shares)
        for name in ("residual", "plain")
        for cause, (one, other) in CONTRASTS.items()
    },
    "growth-share-tilted": Measurement(Shares((CELLS["residual", "flow"],), tilts=(-1.0, 1.0)), shares),
}

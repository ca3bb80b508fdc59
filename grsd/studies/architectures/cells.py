"""The networks of notebook 12: families, with skips and without, on two data sets."""

from __future__ import annotations

from dataclasses import dataclass

from grsd.datasets.registry import dataset
from grsd.networks.registry import architecture
from grsd.runs import Spec
from grsd.support.values import said

WITHOUT = "-no-skips"
# (width, depth, samples): sizes at which a run takes a few seconds.
SIZES = {
    "resnet": (8, 3, 100),
    "gated-perceptron": (24, 6, 100),
    "vit": (12, 2, 80),
    "state-space": (12, 3, 100),
    "transformer": (12, 2, 80),
}
TASKS = ("parity", "photograph", "consonant")  # with one output of +1 or -1
CELLS = (
    ("resnet", "digits"),
    ("gated-perceptron", "digits"),
    ("resnet", "patches"),
    ("gated-perceptron", "patches"),
    ("state-space", "digits"),
    ("vit", "digits"),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A family at a depth on a data set, with or without skips."""

    family: str = "resnet"
    skips: bool = True
    data: str = "digits"
    task: str = "parity"
    width: int = 8
    depth: int = 3
    samples: int = 100
    branch_scale: float | None = None
    tolerance: float = 1e-3

    @property
    def name(self) -> str:
        """The registered name of the architecture."""
        return self.family if self.skips else self.family + WITHOUT

    def spec(self, seed: int) -> Spec:
        """The network of one seed, which draws its weights and its samples."""
        scaled = architecture[self.name].facts["branches"]
        return Spec(
            architecture=self.name,
            width=self.width,
            depth=self.depth,
            branch_scale=self.branch_scale if scaled else None,
            data=self.data,
            task=self.task,
            samples=self.samples,
            data_seed=seed,
            tolerance=self.tolerance,
            seed=seed,
        )


def cell(family: str, skips: bool, data: str = "digits", depth: int | None = None) -> Cell:
    """The cell of a family of ``SIZES`` on any registered data set that has one of ``TASKS``."""
    width, usual, samples = SIZES[family]
    sizes = {"width": width, "depth": depth or usual, "samples": samples}
    return Cell(family=family, skips=skips, data=data, task=task_of(data), **sizes)


def task_of(data: str) -> str:
    """The task of ``TASKS`` that a registered data set has. Errors: ``ValueError`` if it is unknown or has none."""
    known = [name for name in dataset.names() if set(TASKS) & set(dataset[name].facts["tasks"])]
    if data not in known:
        raise ValueError(f"cell(data=...): expected one of {', '.join(known)}, got {said(data)}")
    return next(task for task in TASKS if task in dataset[data].facts["tasks"])

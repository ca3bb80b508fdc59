"""The networks of notebook 12: families, with skips and without, on two data sets."""

from __future__ import annotations

from dataclasses import dataclass

from grsd.networks.registry import architecture
from grsd.runs import Spec

WITHOUT = "-no-skips"
# (width, depth, samples): sizes at which a run takes a few seconds.
SIZES = {
    "resnet": (8, 3, 100),
    "gated-perceptron": (24, 6, 100),
    "vit": (12, 2, 80),
    "state-space": (12, 3, 100),
}
DATA = {"digits": "parity", "patches": "photograph"}
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
    """The cell of a family of ``SIZES`` on a data set of ``DATA``."""
    width, usual, samples = SIZES[family]
    sizes = {"width": width, "depth": depth or usual, "samples": samples}
    return Cell(family=family, skips=skips, data=data, task=DATA[data], **sizes)

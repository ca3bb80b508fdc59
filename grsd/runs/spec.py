"""What an experiment is: one frozen value that can be written down, compared and named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import get_type_hints

import torch

from grsd.checks import positive, whole
from grsd.datasets import DIGITS, TASKS, Data, digits
from grsd.networks import ACTIVATIONS, Perceptron
from grsd.pinned import usual_numbers
from grsd.runs.plain import key, plain, text
from grsd.shells import LogShells

CHOICES = {
    "architecture": ("plain", "residual"),
    "activation": tuple(ACTIVATIONS),
    "data": ("digits",),
    "task": TASKS,
    "device": ("auto", "cpu", "cuda"),
    "dtype": ("float64", "float32"),
}
LEAST = {"width": 1, "depth": 1, "samples": 1, "data_seed": 0, "seed": 0}
SEED_LIMIT = 2**63


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One experiment: a perceptron follows gradient flow, and its shells are measured on the way.

    Args:
        architecture: "plain" or "residual"; this, ``width``, ``depth``, ``activation``, ``weight_scale``,
            ``branch_scale`` (residual only) and ``seed`` are those of ``Perceptron``.
        data: "digits"; ``task``, ``samples`` and ``data_seed`` are those of ``digits``.
        times: (first, last, count), log-equally spaced, in units of 1 / lambda_max(0), lambda_max(0) the largest
            eigenvalue of the kernel at the start.
        tolerance: of ``gradient_flow``.
        shell_widths: one or several widths of shells, measured together.
        smoothing: delta of all of them; ``None`` means a fifth of the finest width.
        device: "cpu" or "cuda"; "auto" becomes the one of them that this machine has.
        dtype: of the flow and of what is measured on it, "float64" or "float32".

    Equal specs have equal keys; ``str(spec)`` names what differs from the defaults.
    Errors: ``ValueError`` in one line for a value of the wrong type or range.
    """

    architecture: str = "residual"
    width: int = 64
    depth: int = 8
    activation: str = "tanh"
    weight_scale: float = 1.0
    branch_scale: float | None = None
    data: str = "digits"
    task: str = "one-hot"
    samples: int = 100
    data_seed: int = 0
    times: tuple[float, float, int] = (0.1, 100.0, 10)
    tolerance: float = 1e-4
    shell_widths: tuple[float, ...] = (0.5,)
    smoothing: float | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float64"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"Spec({name}=...): expected one of {', '.join(allowed)}, got {value!r}")
        for name, least in LEAST.items():
            if whole("Spec", name, getattr(self, name), least) >= SEED_LIMIT:
                raise ValueError(f"Spec({name}=...): expected less than 2^63, got {getattr(self, name)}")
        if self.samples > DIGITS:
            raise ValueError(f"Spec(samples=...): {self.data} has {DIGITS} samples, got {self.samples}")
        for name in ("weight_scale", "tolerance", "branch_scale", "smoothing"):
            value = getattr(self, name)
            if value is not None or name in {"weight_scale", "tolerance"}:
                object.__setattr__(self, name, positive("Spec", name, value))
        if self.architecture == "plain" and self.branch_scale is not None:
            raise ValueError("Spec(branch_scale=...): only the residual architecture has branches to scale")
        object.__setattr__(self, "times", self._checked_times())
        object.__setattr__(self, "shell_widths", self._checked_widths())
        if self.device == "auto":
            object.__setattr__(self, "device", "cuda" if torch.cuda.is_available() else "cpu")

    def _checked_times(self) -> tuple[float, float, int]:
        if not isinstance(self.times, Sequence) or isinstance(self.times, str) or len(self.times) != 3:
            raise ValueError(f"Spec(times=...): expected (first, last, count), got {self.times!r:.80}")
        first, last = (positive("Spec", "times", value) for value in self.times[:2])
        if not first < last:
            raise ValueError(f"Spec(times=...): expected first < last, got {self.times!r}")
        return first, last, whole("Spec", "times", self.times[2], 2)

    def _checked_widths(self) -> tuple[float, ...]:
        widths = self.shell_widths
        if not isinstance(widths, Sequence) or isinstance(widths, str) or not widths:
            raise ValueError(f"Spec(shell_widths=...): expected one width or more, got {widths!r:.80}")
        widths = tuple(positive("Spec", "shell_widths", value) for value in widths)
        if len(set(widths)) < len(widths):
            raise ValueError(f"Spec(shell_widths=...): a width stands twice in {widths}")
        return widths

    @property
    def shells(self) -> tuple[LogShells, ...]:
        """The shells to measure, one ``LogShells`` a width."""
        smoothing = min(self.shell_widths) / 5 if self.smoothing is None else self.smoothing
        return tuple(LogShells(width, smoothing) for width in self.shell_widths)

    @property
    def key(self) -> str:
        """sha256 of the fields, exactly: the same in every process."""
        return key(self)

    def batch(self) -> Data:
        """The data to learn."""
        return digits(self.samples, task=self.task, seed=self.data_seed)

    def network(self, data: Data) -> Perceptron:
        """The network at the start, the same whatever the process has set as default dtype or device."""
        with usual_numbers():
            return Perceptron(
                data.inputs.shape[1],
                data.targets.shape[1],
                width=self.width,
                depth=self.depth,
                residual=self.architecture == "residual",
                activation=self.activation,
                weight_scale=self.weight_scale,
                branch_scale=self.branch_scale,
                seed=self.seed,
            )

    def to_dict(self) -> dict[str, object]:
        """Plain values by field name, tuples as lists: what JSON and YAML can hold."""
        return plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Spec:
        """The spec with these fields; ``ValueError`` naming a field that does not exist."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"Spec: no field {name!r}; there are {', '.join(known)}")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})

    def to_json(self) -> str:
        return text(self)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"Spec: expected a JSON object of fields, got {text!r:.80}")
        return cls.from_dict(values)

    def with_seeds(self, seeds: Sequence[int]) -> list[Spec]:
        """This experiment once for each seed of the initial weights."""
        return [replace(self, seed=seed) for seed in seeds]

    def __str__(self) -> str:
        changed = [f for f in fields(self) if f.name == "seed" or getattr(self, f.name) != f.default]
        return f"Spec({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"


def parse(name: str, text: str) -> object:
    """The value of field ``name`` from a command line; numbers of a tuple are separated by commas."""
    kind = str(get_type_hints(Spec)[name]).removeprefix("<class '").removesuffix("'>")
    if "None" in kind and text == "none":
        return None
    if not kind.startswith("tuple"):
        return text if kind == "str" else _number(text, kind)
    parts = text.split(",")
    kinds = ["float", "float", "int"] if name == "times" else ["float"] * len(parts)
    if len(parts) != len(kinds):
        raise ValueError(f"expected {len(kinds)} numbers separated by commas, got {text!r}")
    return tuple(_number(part, kind) for part, kind in zip(parts, kinds, strict=True))


def _number(text: str, kind: str) -> float | int:
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        raise ValueError(f"expected {'a whole number' if kind == 'int' else 'a number'}, got {text!r}") from None

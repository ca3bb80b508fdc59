"""The description of an experiment: one frozen value that can be stored, compared and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, get_type_hints

from grsd.datasets.registry import dataset
from grsd.networks.registry import SETTINGS, architecture
from grsd.runs.plain import key, plain, text
from grsd.support.values import ACTIVATIONS, between, instance, positive, said

if TYPE_CHECKING:
    from torch import nn

    from grsd.datasets import Data
    from grsd.shells import LogShells

MOST_SEED = 2**63 - 1
WHOLE = {
    "width": (1, 10**6, "a layer of that width has 8 TB of weights"),
    "depth": (1, 10**4, "each layer is a module of its own"),
    "data_seed": (0, MOST_SEED, "random generators take 63 bits"),
    "seed": (0, MOST_SEED, "random generators take 63 bits"),
}
FIXED = {"activation": ACTIVATIONS, "device": ("auto", "cpu", "cuda"), "dtype": ("float64", "float32")}
MOST_WEIGHTS = 10**9
MOST_SNAPSHOTS = 10_000
MOST_SHELLS = 1000
E_FOLDS = 40  # range of log eigenvalue that float64 resolves


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One experiment: a network follows gradient flow, and its shells are measured on the way.

    Args:
        architecture: a name registered in ``grsd.networks``, such as "residual" or "plain"; ``width``, ``depth``,
            ``activation``, ``weight_scale``, ``branch_scale`` (None: the architecture's own) and ``seed`` go to it.
        data: a name registered in ``grsd.datasets``, such as "digits"; ``task``, ``samples``, ``data_seed`` go to it.
            Some must be fetched first: ``grsd data fetch cifar10``.
        times: (first, last, count), equally spaced in log time, in units of 1 / lambda_max(0), where lambda_max(0) is
            the largest eigenvalue of the kernel at the start.
        tolerance: of ``gradient_flow``.
        shell_widths: one or several widths of shells, measured together.
        smoothing: delta of all shells; ``None`` means a fifth of the finest width.
        device: "cpu" or "cuda"; "auto" becomes "cuda" if this machine has it, else "cpu".
        dtype: of the flow and of its measurements, "float64" or "float32".

    Equal specs have equal keys; ``str(spec)`` names the fields that differ from the defaults.
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
        for name, allowed in choices().items():
            self._choose(name, allowed)
        known = dataset[self.data].facts
        self._choose("task", known["tasks"], f"a task of {self.data}: ")
        most = known["most"]
        between("Spec(samples=...)", self.samples, 1, most, f"{self.data} has {most} samples")
        for name, bounds in WHOLE.items():
            between(f"Spec({name}=...)", getattr(self, name), *bounds)
        if self.width**2 * self.depth > MOST_WEIGHTS:
            raise ValueError(
                f"Spec(width=...): expected width^2 x depth of at most {MOST_WEIGHTS} (weights, 8 GB in float64), got "
                f"{self.width**2 * self.depth}"
            )
        for name in ("weight_scale", "tolerance", "branch_scale", "smoothing"):
            value = getattr(self, name)
            if value is not None or name in {"weight_scale", "tolerance"}:
                object.__setattr__(self, name, positive("Spec", name, value))
        if self.branch_scale is not None and not architecture[self.architecture].facts["branches"]:
            with_branches = ", ".join(architecture.names(branches=True))
            raise ValueError(f"Spec(branch_scale=...): only these have branches to scale: {with_branches}")
        object.__setattr__(self, "times", self._checked_times())
        object.__setattr__(self, "shell_widths", self._checked_widths())
        if self.device == "auto":
            import torch

            object.__setattr__(self, "device", "cuda" if torch.cuda.is_available() else "cpu")

    def _choose(self, name: str, allowed: Sequence[str], what: str = "one of ") -> None:
        value = getattr(self, name)
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"Spec({name}=...): expected {what}{', '.join(allowed)}, got {said(value)}")

    def _checked_times(self) -> tuple[float, float, int]:
        if not isinstance(self.times, Sequence) or isinstance(self.times, str) or len(self.times) != 3:
            raise ValueError(f"Spec(times=...): expected (first, last, count), got {said(self.times)}")
        first, last = (positive("Spec", "times", value) for value in self.times[:2])
        if not first < last:
            raise ValueError(f"Spec(times=...): expected first < last, got {self.times!r}")
        why = "each is a kernel and its decomposition"
        return first, last, between("Spec(times=...)", self.times[2], 2, MOST_SNAPSHOTS, why)

    def _checked_widths(self) -> tuple[float, ...]:
        widths = self.shell_widths
        if not isinstance(widths, Sequence) or isinstance(widths, str) or not widths:
            raise ValueError(f"Spec(shell_widths=...): expected one width or more, got {said(widths)}")
        widths = tuple(positive("Spec", "shell_widths", value) for value in widths)
        if len(set(widths)) < len(widths):
            raise ValueError(f"Spec(shell_widths=...): a width stands twice in {widths!s:.80}")
        smoothing = min(widths) / 5 if self.smoothing is None else self.smoothing
        shells = sum((E_FOLDS + 16 * smoothing) / width for width in widths)
        if not shells <= MOST_SHELLS:
            raise ValueError(
                f"Spec(shell_widths=...): expected at most {MOST_SHELLS} shells (pairs have a coupling each), "
                f"got about {shells:.0f} over {E_FOLDS} e-folds and 8 smoothings of {smoothing:g} more on either side"
            )
        return widths

    @property
    def shells(self) -> tuple[LogShells, ...]:
        """The shells to measure, one ``LogShells`` per width."""
        from grsd.shells import LogShells

        smoothing = min(self.shell_widths) / 5 if self.smoothing is None else self.smoothing
        return tuple(LogShells(width, smoothing) for width in self.shell_widths)

    @property
    def key(self) -> str:
        """Return sha256 of the exact fields: the same in every process."""
        return key(self)

    def batch(self) -> Data:
        """Return the training data.

        Errors: ``TypeError`` if the registered function returns anything else; ``DataNotFound`` if it needs fetching.
        """
        from grsd.datasets import Data

        batch = dataset[self.data].load()(self.samples, task=self.task, seed=self.data_seed)
        instance("Spec", "data", batch, Data, f"{self.data!r} to return a grsd.datasets.Data")
        return batch

    def network(self, data: Data) -> nn.Module:
        """Return the initialized network; the process's default dtype and device do not change it."""
        from grsd.support.pinned import usual_numbers

        settings = {name: getattr(self, name) for name in SETTINGS}
        with usual_numbers():
            return architecture[self.architecture].load()(data.inputs.shape[1], data.targets.shape[1], **settings)

    def to_dict(self) -> dict[str, object]:
        """Return plain values by field name, as JSON and YAML can hold them; tuples as lists."""
        return plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Spec:
        """Return the spec with these fields. Errors: ``ValueError`` naming a field that does not exist."""
        if not isinstance(values, Mapping):
            raise TypeError(f"Spec.from_dict(values): expected a mapping of fields, got {said(values)}")
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"Spec: no field {name!r}; there are {', '.join(known)}")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})

    def to_json(self) -> str:
        return text(self)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        try:
            values = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise ValueError(f"Spec.from_json(text): expected a JSON object of fields, got {said(text)}")
        return cls.from_dict(values)

    def with_seeds(self, seeds: Sequence[int]) -> list[Spec]:
        """Return this experiment once per seed of the initial weights."""
        if isinstance(seeds, str | bytes) or not isinstance(seeds, Iterable):
            raise TypeError(f"Spec.with_seeds(seeds): expected a sequence of seeds, got {said(seeds)}")
        return [replace(self, seed=seed) for seed in seeds]

    def __str__(self) -> str:
        changed = [f for f in fields(self) if f.name == "seed" or getattr(self, f.name) != f.default]
        return f"Spec({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"


def sources_of(experiment: object) -> tuple[Callable, ...]:
    """Return the registered functions that make the data and network of a ``Spec``, or of a mapping with its fields.

    The fingerprint of a run covers their code.
    """
    if isinstance(experiment, Spec):
        experiment = vars(experiment)
    if not isinstance(experiment, Mapping) or not experiment.keys() >= {"data", "architecture"}:
        return ()
    return dataset[experiment["data"]].load(), architecture[experiment["architecture"]].load()


def choices() -> dict[str, tuple[str, ...]]:
    """Return the allowed values of the fields that are chosen by name; the tasks depend on the data."""
    return {"architecture": architecture.names(), "data": dataset.names(), **FIXED}


def data_of_tasks() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return the data sets that have the same tasks, by these tasks."""
    tasks = dict.fromkeys(entry.facts["tasks"] for entry in dataset.entries.values())
    return {same: dataset.names(tasks=same) for same in tasks}


def parse(name: str, text: str) -> object:
    """Parse the value of field ``name`` from a command line; commas separate the numbers of a tuple."""
    kind = str(get_type_hints(Spec)[name]).removeprefix("<class '").removesuffix("'>")
    if "None" in kind and text == "none":
        return None
    if not kind.startswith("tuple"):
        return text if kind == "str" else _number(text, kind)
    parts = text.split(",")
    kinds = ["float", "float", "int"] if name == "times" else ["float"] * len(parts)
    if len(parts) != len(kinds):
        raise ValueError(f"expected {len(kinds)} numbers separated by commas, got {text!r:.80}")
    return tuple(_number(part, kind) for part, kind in zip(parts, kinds, strict=True))


def _number(text: str, kind: str) -> float | int:
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        raise ValueError(f"expected {'a whole number' if kind == 'int' else 'a number'}, got {text!r:.80}") from None

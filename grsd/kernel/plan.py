"""How a kernel is computed within a memory limit: which units together, how many samples at once, and what that holds.

Three knobs, turned only as far as the limit asks: samples differentiated at once (``batch``), units held at once
(their backward passes are then run again), samples held at once (``tile``; pairs of tiles are then visited).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from grsd.kernel.meter import Line, held_bytes, peak_and_result, through
from grsd.kernel.strips import band_samples, product_samples
from grsd.tangents import GRAM, ROWS, Parts, Unit

LARGEST, SMALLEST = 2**23, 2**16
SAFETY = 0.85  # what convolutions allocate inside themselves is not metered


@dataclass(frozen=True)
class Group:
    """Units differentiated in one pass, ``tile`` samples held and ``batch`` differentiated at once."""

    units: tuple[Unit, ...]
    tile: int
    batch: int


@dataclass(frozen=True)
class Plan:
    """``workspace``: numbers in a slice of rows. ``host``: matrices lie in the host's memory. ``peak``: bytes."""

    groups: tuple[Group, ...]
    workspace: int = LARGEST
    host: bool = False
    peak: int = 0


@dataclass(frozen=True)
class Problem:
    """What decides the memory; ``work(units, count)`` differentiates units on ``count`` samples, one result a unit.

    ``before``: bytes held all along. ``matrices``: how many of D by D.
    """

    samples: int
    classes: int
    width: int
    rate: bool
    matrices: int
    device: torch.device
    before: int
    units: Sequence[Unit]
    work: Callable[[Sequence[Unit], int], Sequence[tuple[Parts, Parts | None]]]

    @property
    def matrix(self) -> int:
        return (self.samples * self.classes) ** 2 * self.width


def free_memory(device: torch.device) -> int:
    """Three quarters of what is free now, in bytes; no bound where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] * 3 // 4
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
    except (AttributeError, ValueError, OSError):
        return 2**62


def whole(units: Sequence[Unit], samples: int) -> Plan:
    """Everything at once, unmeasured: for what is small beyond doubt."""
    return Plan((Group(tuple(units), samples, samples),))


def make_plan(problem: Problem, limit: int) -> Plan:
    """The plan with the fewest repetitions that stays under ``limit`` bytes.

    Where there is none, the most frugal one, its ``peak`` above the limit.
    """
    n = problem.samples
    host = problem.device.type != "cpu" and (problem.matrices + 1) * problem.matrix > limit // 2
    fixed = problem.before + (0 if host else problem.matrices * problem.matrix)
    room = max(0, int(SAFETY * limit) - fixed)
    workspace = min(LARGEST, max(SMALLEST, room // (32 * problem.width)))
    costs = _Costs(problem, workspace)
    everything = tuple(problem.units)
    peak, held = costs.measure(everything)
    total = Line(sum(line.fixed for line in held), sum(line.each for line in held))

    batch = n if costs.group(Group(everything, n, n), peak, total) <= room else peak.most(room - total(n), n)
    if batch >= 1:
        groups = [(Group(everything, n, batch), peak, total)]
    else:
        groups = []
        for units, line in _packed(list(zip(everything, held, strict=True)), n, room // 2):
            own, _ = costs.measure(units)
            tile = n if line(n) <= room // 2 else max(1, line.most(room // 4, n))
            copies = 1 if tile == n else 2
            batch = max(1, own.most(room - copies * line(tile), tile))
            groups.append((Group(units, tile, batch), own, line))
    most = fixed + max(costs.group(*group) for group in groups)
    return Plan(tuple(group for group, _, _ in groups), workspace, host, int(most))


def _packed(units: list[tuple[Unit, Line]], samples: int, room: int) -> list[tuple[tuple[Unit, ...], Line]]:
    """Neighbours together, as long as what they hold fits."""
    packs: list[tuple[tuple[Unit, ...], Line]] = []
    for unit, line in units:
        if packs and packs[-1][1](samples) + line(samples) <= room:
            packs[-1] = ((*packs[-1][0], unit), packs[-1][1] + line)
        else:
            packs.append(((unit,), line))
    return packs


class _Costs:
    def __init__(self, problem: Problem, workspace: int) -> None:
        self.problem, self.workspace = problem, workspace
        self.parts: dict[Unit, tuple[torch.Size, ...]] = {}

    def measure(self, units: tuple[Unit, ...]) -> tuple[Line, list[Line]]:
        """(the peak of differentiating these units, what each then holds), from one sample and two."""
        sizes = []
        for count in (1, min(2, self.problem.samples)):
            peak, results = peak_and_result(lambda count=count: self.problem.work(units, count))
            if count == 1:
                self.parts |= {
                    unit: tuple(part.shape for part in parts) for unit, (parts, _) in zip(units, results, strict=True)
                }
            sizes.append([peak, *(held_bytes(result) for result in results)])
        peak, *held = (through(one, two) for one, two in zip(*sizes, strict=True))
        return peak, held

    def group(self, group: Group, peak: Line, held: Line) -> float:
        """The most bytes that a group holds besides the matrices: while it differentiates, or while it multiplies."""
        copies = 1 if group.tile == self.problem.samples else 2
        stored = copies * held(group.tile)
        collected = stored - held(group.tile) if group.batch >= group.tile else stored
        multiplying = max(self._multiplying(unit, group.tile, copies) for unit in group.units)
        return max(collected + peak(group.batch), stored + self.problem.width * multiplying)

    def _multiplying(self, unit: Unit, tile: int, copies: int) -> float:
        """Numbers made by ``Blocks.add`` at once: backprops by position or slices of rows, and what a strip makes."""
        classes, rate = self.problem.classes, self.problem.rate
        shapes, each = self.parts[unit], 1 + self.problem.rate
        if unit.route == GRAM:
            (_, _, positions, _), q = shapes[0], shapes[1][-1]
            pairs = positions**2
            rows, columns = product_samples(self.problem.device, classes, tile, pairs, self.workspace)
            rows = min(tile, rows)
            band = min(tile, band_samples(rows, tile, pairs, self.workspace))
            gram = max(band * tile, rows * columns) * pairs
            product = rows * columns * classes * (pairs + classes)
            return each * (copies * classes * tile * positions * q + gram + product)
        row = classes * tile
        if unit.route == ROWS:
            rows = min(row * shapes[0][-1], max(row, self.workspace))
            return each * copies * rows
        one = row * shapes[0][1] * shapes[0][3]
        rows = min(one * shapes[1][-1], max(one, self.workspace))
        return rows * (2 * copies + 1 if rate else copies)

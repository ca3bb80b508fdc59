"""How a kernel is computed within a memory limit: which units together, how many samples at once, and what that holds.

Three knobs, turned only as far as the limit asks: samples differentiated at once (``batch``), units held at once
(their backward passes are then run again), samples held at once (``tile``; pairs of tiles are then visited).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from grsd.jacobian import GRAM, ROWS, Network, Parts, Trace, Unit
from grsd.kernel.meter import Line, held_bytes, peak_and_result, through
from grsd.kernel.strips import BLOCK, PAD, band_samples, product_samples, slice_width

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


def crude_bytes(network: Network, reading: Trace, samples: int, rate: bool, apart: bool) -> int:
    """From a reading of a few samples, generously: enough to see that a small problem is small."""
    few = len(reading.outputs)
    classes = reading.outputs.numel() // few
    passed = sum(shape.numel() for shape in reading.shapes) * (classes + 2) * samples // few
    taken = {name for pair in reading.names for name in pair} - reading.elsewhere
    sizes = {name: p.numel() for name, p in network.parameters.items()}
    generic = sum(size for name, size in sizes.items() if name not in taken) * samples * classes
    matrices = (samples * classes) ** 2 * (len(sizes) if apart else 3)
    numbers = matrices + 4 * passed * (3 if rate else 1) + 3 * generic + 4 * sum(sizes.values())
    return numbers * reading.outputs.element_size()


def measured_samples(samples: int) -> tuple[int, int]:
    """On how many of the samples memory is measured: not on a single one, whose parts need not be copied."""
    return (2, 3) if samples > 2 else (1, samples)


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
    room = max(0, int(SAFETY * (limit - fixed)))
    workspace = min(LARGEST, max(SMALLEST, room // (32 * problem.width)))
    costs = _Costs(problem, workspace)
    everything = tuple(problem.units)
    peak, held = costs.measure(everything)

    def whole_tile(batch: int) -> list[Measured]:
        return [(Group(everything, n, batch), peak, held)]

    groups = whole_tile(n)
    if costs.most(groups, problem.before, fixed) > fixed + room:
        groups = whole_tile(max(1, peak.most(fixed + room - problem.before - _total(held)(n), n)))
    if costs.most(groups, problem.before, fixed) > fixed + room:
        groups = []
        for units, lines in _packed(list(zip(everything, held, strict=True)), n, room // 2):
            own, _ = costs.measure(units)
            line = _total(lines)
            tile = n if line(n) <= room // 2 else max(1, line.most(room // 4, n))
            copies = 1 if tile == n else 2
            batch = max(1, own.most(room - copies * line(tile), tile))
            groups.append((Group(units, tile, batch), own, lines))
    most = costs.most(groups, problem.before, fixed)
    return Plan(tuple(group for group, _, _ in groups), workspace, host, int(most))


def _total(lines: Sequence[Line]) -> Line:
    return Line(sum(line.fixed for line in lines), sum(line.each for line in lines))


def _packed(units: list[tuple[Unit, Line]], samples: int, room: int) -> list[tuple[tuple[Unit, ...], list[Line]]]:
    """Neighbours together, as long as what they hold fits."""
    packs: list[tuple[tuple[Unit, ...], list[Line]]] = []
    for unit, line in units:
        if packs and _total([*packs[-1][1], line])(samples) <= room:
            packs[-1] = ((*packs[-1][0], unit), [*packs[-1][1], line])
        else:
            packs.append(((unit,), [line]))
    return packs


Measured = tuple[Group, Line, Sequence[Line]]  # with its peak while it differentiates, and what each unit then holds


class _Costs:
    def __init__(self, problem: Problem, workspace: int) -> None:
        self.problem, self.workspace = problem, workspace
        self.parts: dict[Unit, tuple[torch.Size, ...]] = {}

    def measure(self, units: tuple[Unit, ...]) -> tuple[Line, list[Line]]:
        """(the peak of differentiating these units, what each then holds)."""
        sizes = []
        counts = measured_samples(self.problem.samples)
        for count in counts:
            peak, results = peak_and_result(lambda count=count: self.problem.work(units, count))
            self.parts |= {
                unit: tuple(part.shape for part in parts) for unit, (parts, _) in zip(units, results, strict=True)
            }
            sizes.append([peak, *(held_bytes(result) for result in results)])
            del results
        peak, *held = (through(few, more, counts[0]) for few, more in zip(*sizes, strict=True))
        return peak, held

    def most(self, groups: Sequence[Measured], before: float, fixed: float) -> float:
        """The most bytes held at once: ``before`` until the matrices are needed, ``fixed`` with them."""
        size = self.problem.samples * self.problem.classes
        peaks = [fixed + self.problem.width * BLOCK * (size + PAD)]
        for number, (group, peak, held) in enumerate(groups):
            differentiating, multiplying = self._group(group, peak, held)
            unneeded = number == 0 and group.tile == self.problem.samples
            peaks += [(before if unneeded else fixed) + differentiating, fixed + multiplying]
        return max(peaks)

    def _group(self, group: Group, peak: Line, held: Sequence[Line]) -> tuple[float, float]:
        """What a group holds besides the matrices while it differentiates, and while it multiplies."""
        copies = 1 if group.tile == self.problem.samples else 2
        own = [line(group.tile) for line in held]
        collected = (copies if group.batch < group.tile else copies - 1) * sum(own)
        left, multiplying = copies * sum(own), []
        for unit, size in zip(group.units, own, strict=True):  # each lets go of its parts
            multiplying.append(left + self.problem.width * self._multiplying(unit, group.tile, copies))
            left -= size
        return collected + peak(group.batch), max(multiplying)

    def _multiplying(self, unit: Unit, tile: int, copies: int) -> float:
        """Numbers made by ``Blocks.add`` at once: slices of rows, or Gram matrices and what a strip makes of them."""
        classes, rate = self.problem.classes, self.problem.rate
        shapes, each = self.parts[unit], 1 + self.problem.rate
        if unit.route == ROWS:
            return 0
        if unit.route == GRAM:
            positions = shapes[0][2]
            pairs = positions**2
            rows, columns = product_samples(self.problem.device, classes, tile, pairs, self.workspace)
            rows = min(tile, rows)
            band = min(tile, band_samples(rows, tile, pairs, self.workspace))
            gram = max(band * tile, rows * columns) * pairs
            return each * (gram + rows * columns * classes * (pairs + classes))
        (_, groups, _, p), q = shapes[0], shapes[1][3]
        one = classes * tile * groups * q
        rows = one * slice_width(self.problem.device, p, one, self.workspace)
        return rows * (each * copies + (rate or groups > 1))

"""How a kernel is computed within a memory limit: groups per pass, samples at once, and the memory that this holds.

Three settings are lowered only as far as the limit requires: samples differentiated at once (``batch``), groups per
pass (each pass runs its backward passes again), samples held at once (``tile``; pairs of tiles are then visited).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from grsd.jacobian import ForwardTrace, Network, ParameterGroup, Parts, Route
from grsd.kernel.meter import Line, held_bytes, peak_and_result, through
from grsd.kernel.tiles import MIRROR_PAD, MIRROR_ROWS, gram_samples, product_samples, slice_width
from grsd.kernel.weighted import strip_samples, weighted_samples

LARGEST, SMALLEST = 2**23, 2**16
SAFETY = 0.85  # what convolutions allocate inside themselves is not metered


@dataclass(frozen=True)
class Pass:
    """``groups`` differentiated together: ``tile`` samples are held, ``batch`` samples are differentiated at once."""

    groups: tuple[ParameterGroup, ...]
    tile: int
    batch: int


@dataclass(frozen=True)
class Plan:
    """``workspace``: numbers in a slice of rows. ``host``: matrices lie in the host's memory. ``peak``: bytes."""

    passes: tuple[Pass, ...]
    workspace: int = LARGEST
    host: bool = False
    peak: int = 0


@dataclass(frozen=True)
class Problem:
    """What decides the memory. ``work(groups, count)`` differentiates on ``count`` samples, one result per group.

    ``before``: bytes held throughout. ``matrices``: their number; ``entries``: numbers in each of them, None: D x D.
    ``width``: bytes per number.
    """

    samples: int
    classes: int
    width: int
    rate: bool
    matrices: int
    device: torch.device
    before: int
    groups: Sequence[ParameterGroup]
    work: Callable[[Sequence[ParameterGroup], int], Sequence[tuple[Parts, Parts | None]]]
    entries: int | None = None

    @property
    def matrix(self) -> int:
        return (self.entries or (self.samples * self.classes) ** 2) * self.width


def free_memory(device: torch.device) -> int:
    """Three quarters of the free memory in bytes; 2^62 if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] * 3 // 4
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 3 // 4
    except (AttributeError, ValueError, OSError):
        return 2**62


def crude_bytes(network: Network, trace: ForwardTrace, samples: int, rate: bool, per_parameter: bool) -> int:
    """A generous estimate of the bytes, from a trace of a few samples: it only has to recognise small problems."""
    few = len(trace.outputs)
    classes = trace.outputs.numel() // few
    passed = sum(shape.numel() for shape in trace.shapes) * (classes + 2) * samples // few
    taken = {name for pair in trace.names for name in pair} - trace.elsewhere
    sizes = {name: p.numel() for name, p in network.parameters.items()}
    generic = sum(size for name, size in sizes.items() if name not in taken) * samples * classes
    matrices = (samples * classes) ** 2 * (len(sizes) if per_parameter else 3)
    numbers = matrices + 4 * passed * (3 if rate else 1) + 3 * generic + 4 * sum(sizes.values())
    return numbers * trace.outputs.element_size()


def measured_samples(samples: int) -> tuple[int, int]:
    """Two numbers of samples on which memory is measured; 1 only if there are no more than two samples: the parts of a
    single sample are not copied.
    """
    return (2, 3) if samples > 2 else (1, samples)


def single_pass_plan(groups: Sequence[ParameterGroup], samples: int) -> Plan:
    """All groups and all samples at once, without measuring memory; for problems that are certainly small."""
    return Plan((Pass(tuple(groups), samples, samples),))


def make_plan(problem: Problem, limit: int) -> Plan:
    """The plan with the fewest repetitions that stays under ``limit`` bytes.

    If there is none, the plan with the least memory is returned; its ``peak`` is then above the limit.
    """
    n = problem.samples
    host = problem.device.type != "cpu" and (problem.matrices + 1) * problem.matrix > limit // 2
    fixed = problem.before + (0 if host else problem.matrices * problem.matrix)
    room = max(0, int(SAFETY * (limit - fixed)))
    workspace = min(LARGEST, max(SMALLEST, room // (32 * problem.width)))
    costs = _Costs(problem, workspace)
    everything = tuple(problem.groups)
    peak, held = costs.measure(everything)

    def whole_tile(batch: int) -> list[Measured]:
        return [(Pass(everything, n, batch), peak, held)]

    passes = whole_tile(n)
    if costs.most(passes, problem.before, fixed) > fixed + room:
        passes = whole_tile(max(1, peak.most(fixed + room - problem.before - _total(held)(n), n)))
    if costs.most(passes, problem.before, fixed) > fixed + room:
        passes = []
        for groups, lines in _packed(list(zip(everything, held, strict=True)), n, room // 2):
            own, _ = costs.measure(groups)
            line = _total(lines)
            tile = n if line(n) <= room // 2 else max(1, line.most(room // 4, n))
            copies = 1 if tile == n else 2
            batch = max(1, own.most(room - copies * line(tile), tile))
            passes.append((Pass(groups, tile, batch), own, lines))
    most = costs.most(passes, problem.before, fixed)
    return Plan(tuple(one_pass for one_pass, _, _ in passes), workspace, host, int(most))


def _total(lines: Sequence[Line]) -> Line:
    return Line(sum(line.fixed for line in lines), sum(line.each for line in lines))


def _packed(
    groups: list[tuple[ParameterGroup, Line]], samples: int, room: int
) -> list[tuple[tuple[ParameterGroup, ...], list[Line]]]:
    """Put neighbouring groups together as long as the memory that they hold fits."""
    packs: list[tuple[tuple[ParameterGroup, ...], list[Line]]] = []
    for group, line in groups:
        if packs and _total([*packs[-1][1], line])(samples) <= room:
            packs[-1] = ((*packs[-1][0], group), [*packs[-1][1], line])
        else:
            packs.append(((group,), [line]))
    return packs


Measured = tuple[Pass, Line, Sequence[Line]]  # its peak while differentiating; the bytes each group then holds


class _Costs:
    def __init__(self, problem: Problem, workspace: int) -> None:
        self.problem, self.workspace = problem, workspace
        self.parts: dict[ParameterGroup, tuple[torch.Size, ...]] = {}

    def measure(self, groups: tuple[ParameterGroup, ...]) -> tuple[Line, list[Line]]:
        """(the peak bytes of differentiating these groups, the bytes that each then holds)."""
        sizes = []
        counts = measured_samples(self.problem.samples)
        for count in counts:
            peak, results = peak_and_result(lambda count=count: self.problem.work(groups, count))
            self.parts |= {
                group: tuple(part.shape for part in parts) for group, (parts, _) in zip(groups, results, strict=True)
            }
            sizes.append([peak, *(held_bytes(result) for result in results)])
            del results
        peak, *held = (through(few, more, counts[0]) for few, more in zip(*sizes, strict=True))
        return peak, held

    def most(self, passes: Sequence[Measured], before: float, fixed: float) -> float:
        """The most bytes held at once: ``before`` until the matrices are needed, ``fixed`` with them."""
        size = self.problem.samples * self.problem.classes
        peaks = [fixed + self.problem.width * MIRROR_ROWS * (size + MIRROR_PAD)]
        for number, (one_pass, peak, held) in enumerate(passes):
            differentiating, multiplying = self._pass(one_pass, peak, held)
            unneeded = number == 0 and one_pass.tile == self.problem.samples
            peaks += [(before if unneeded else fixed) + differentiating, fixed + multiplying]
        return max(peaks)

    def _pass(self, one_pass: Pass, peak: Line, held: Sequence[Line]) -> tuple[float, float]:
        """Bytes held besides the matrices while a pass differentiates, and while it multiplies."""
        copies = 1 if one_pass.tile == self.problem.samples else 2
        own = [line(one_pass.tile) for line in held]
        collected = (copies if one_pass.batch < one_pass.tile else copies - 1) * sum(own)
        left, multiplying = copies * sum(own), []
        for group, size in zip(one_pass.groups, own, strict=True):  # each group frees its parts
            multiplying.append(left + self.problem.width * self._multiplying(group, one_pass.tile, copies))
            left -= size
        return collected + peak(one_pass.batch), max(multiplying)

    def _multiplying(self, group: ParameterGroup, tile: int, copies: int) -> float:
        """Numbers that ``KernelAccumulator.add`` holds at once: slices of rows, or Gram matrices and their products."""
        classes, rate = self.problem.classes, self.problem.rate
        shapes, each = self.parts[group], 1 + self.problem.rate
        if group.route == Route.ROWS:
            return 0
        if group.route == Route.GRAM:
            rows, columns = product_samples(self.problem.device, classes, tile, self.workspace)
            rows = min(tile, rows)
            shared = max(rows, min(tile, gram_samples(rows, tile, self.workspace)))
            return each * (shared * tile + rows * columns * classes * (1 + classes))
        if group.route == Route.WEIGHTED:
            (_, _, positions, _), q = shapes[0], shapes[1][4]
            gram = min(tile, strip_samples(positions, tile, self.workspace)) * tile * positions**2
            wide = weighted_samples(classes, positions, q, tile, self.workspace)
            return each * (gram + wide * classes * (positions * q + classes))
        (_, channel_groups, _, p), q = shapes[0], shapes[1][3]
        one = classes * tile * channel_groups * q
        rows = one * slice_width(self.problem.device, p, one, self.workspace)
        return rows * (each * copies + (rate or channel_groups > 1))

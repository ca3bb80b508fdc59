"""J J^T and J' J^T + J J'^T from the parts of each parameter group, summed into the upper halves of the matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from grsd.jacobian import ParameterGroup, Parts, Route, outer_product
from grsd.jacobian.size import grams_fit
from grsd.kernel.tiles import MIRROR_PAD, MIRROR_ROWS, gram_samples, slice_width, tile_pairs
from grsd.kernel.weighted import weighted_blocks

Square = Float[Tensor, "D D"]


def zeros(size: int, dtype: torch.dtype, device: torch.device) -> Square:
    """Zeros (size, size); on a CPU by NumPy, which uses huge pages: torch's cost one page fault per 4 KiB."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros((size, size), str(dtype).removeprefix("torch.")))
    return torch.zeros(size, size, dtype=dtype, device=device)


@dataclass(frozen=True)
class Tile:
    """One group's Jacobian on a range of samples, and its rate if there is one."""

    samples: slice
    parts: Parts
    rates: Parts | None = None

    def __len__(self) -> int:
        return self.samples.stop - self.samples.start

    @property
    def both(self) -> tuple[Parts, ...]:
        return (self.parts,) if self.rates is None else (self.parts, self.rates)


@runtime_checkable
class Accumulates(Protocol):
    """What the shares of parameter groups are added to."""

    def add(self, group: ParameterGroup, here: Tile, there: Tile) -> None:
        """Add one group's share for two tiles."""

    def finish(self) -> list[Tensor]:
        """The finished matrices."""


@dataclass(frozen=True)
class Subtile:
    """Samples ``mine`` of one tile, ``others`` of a second one, and the part of each matrix that they fill."""

    mine: slice
    others: slice
    targets: list[Tensor]


class KernelAccumulator:
    """Accumulates the upper triangle of M (and of M' if ``rate``). Each pair of tiles is visited once; a tile paired
    with itself fills only its upper triangle.

    ``matrices`` (D, D) are allocated when they are first needed and may lie on another device than the parts.
    ``workspace`` bounds the numbers in one slice of rows; a ``small`` problem computes its Gram matrices at once.
    """

    def __init__(
        self,
        samples: int,
        classes: int,
        rate: bool,
        workspace: int,
        small: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.samples, self.classes, self.rate, self.workspace = samples, classes, rate, workspace
        self.small = small
        self.dtype, self.device = dtype, device
        self._asked: object = None
        self._subtiles_of: list[Subtile] = []  # kept, since the next group often has the same tiles

    @cached_property
    def matrices(self) -> list[Square]:
        size = self.samples * self.classes
        return [zeros(size, self.dtype, self.device) for _ in range(1 + self.rate)]

    def add(self, group: ParameterGroup, here: Tile, there: Tile) -> None:
        """Add one group's share for two tiles."""
        if group.route in (Route.GRAM, Route.WEIGHTED):
            if group.route == Route.GRAM and here is there and self._fits_at_once(here):
                self._add_all_groups(here)
                return
            for channel_group in range(here.parts[0].shape[1]):
                if group.route == Route.GRAM:
                    self._add_grams(here, there, channel_group)
                else:
                    self._add_weighted(here, there, channel_group)
            return
        for left, right in _slices(group, here, there, self.workspace):
            left, right = ([part.flatten(0, 1) for part in side] for side in (left, right))
            for subtile in self._subtiles(here, there):
                mine, others = self._rows(subtile.mine), self._rows(subtile.others)
                rows, columns = [part[mine] for part in left], [part[others].T for part in right]
                self._multiply(subtile.targets[0], rows[0], columns[0])
                if here.rates is not None:
                    self._multiply(subtile.targets[1], rows[1], columns[0])
                    self._multiply(subtile.targets[1], rows[0], columns[1])

    def finish(self) -> list[Square]:
        """Mirror the upper triangles in place and return the matrices; nothing may be added afterwards."""
        for matrix in self.matrices:
            buffer = matrix.new_empty(MIRROR_ROWS, len(matrix) + MIRROR_PAD)
            for start in range(0, len(matrix), MIRROR_ROWS):
                rows = matrix[start : start + MIRROR_ROWS, start:]
                square = rows[:, :MIRROR_ROWS].triu_()
                square += square.triu(1).T
                rest = buffer[: len(rows), : max(0, rows.shape[1] - MIRROR_ROWS)].copy_(rows[:, MIRROR_ROWS:])
                matrix[start + MIRROR_ROWS :, start : start + MIRROR_ROWS] = rest.T
        return self.matrices

    def _fits_at_once(self, tile: Tile) -> bool:
        """Whether the Gram matrices of all channel groups are computed at once, the lower halves too."""
        size = len(tile) * self.classes
        fits = self.small and grams_fit(tile.parts[0].shape[1] * size**2)
        return fits and tile.parts[0].device == self.device

    def _add_all_groups(self, tile: Tile) -> None:
        gram, *gram_rate = _pairs(*(a[:, :, 0].transpose(0, 1) for a, _ in tile.both))
        product, *product_rate = _pairs(*(delta[:, 0].flatten(1, 2) for _, delta in tile.both))
        rows = self._rows(tile.samples)

        def added(target: Tensor, product: Tensor, gram: Tensor) -> None:
            each = product.unflatten(1, (len(tile), -1)).unflatten(3, (len(tile), -1)) * gram[:, :, None, :, None]
            target[rows, rows].add_(each.sum(0).flatten(2).flatten(0, 1), alpha=1 / self.samples)

        added(self.matrices[0], product, gram)
        if gram_rate:
            added(self.matrices[1], product_rate[0], gram)
            added(self.matrices[1], product, gram_rate[0])

    def _add_grams(self, here: Tile, there: Tile, channel_group: int) -> None:
        """Products of backprops, each weighted by the product of its two samples' features; one position a sample."""
        left, right = (
            [(a[:, channel_group, 0], delta[channel_group, 0].flatten(0, 1)) for a, delta in tile.both]
            for tile in (here, there)
        )
        rate = here.rates is not None
        subtiles = self._subtiles(here, there, blocked=True)
        room = left[0][1].new_empty(1 + rate, max(subtile.targets[0].numel() for subtile in subtiles))
        for mine, others, sharing in _sharing_gram(subtiles, len(there), self.workspace):
            a, b = ([features[samples] for features, _ in side] for side, samples in ((left, mine), (right, others)))
            grams = [a[0] @ b[0].T]
            if rate:
                grams.append((a[1] @ b[0].T).addmm_(a[0], b[1].T))
            for subtile in sharing:
                here_rows, there_rows = self._rows(subtile.mine), self._rows(subtile.others)
                rows = [delta[here_rows] for _, delta in left]
                columns = [delta[there_rows].T for _, delta in right]
                at = _within(subtile.mine, mine), _within(subtile.others, others)
                weight, *weight_rate = (self._weights(gram[at]) for gram in grams)
                target = subtile.targets
                block, *change = (numbers[: target[0].numel()].view(target[0].shape) for numbers in room)
                torch.mm(rows[0], columns[0], out=block)
                self._put(target[0], block, weight)
                if rate:
                    torch.mm(rows[1], columns[0], out=change[0]).addmm_(rows[0], columns[1])
                    by_sample, still = (part.view(len(weight), self.classes, -1) for part in (change[0], block))
                    by_sample.mul_(weight).addcmul_(still, weight_rate[0])
                    self._add(target[1], change[0])

    def _add_weighted(self, here: Tile, there: Tile, channel_group: int) -> None:
        """Products of weighted backprops, sample by sample; several positions a sample."""
        sides = [[(a[:, channel_group], delta[:, channel_group]) for a, delta in tile.both] for tile in (here, there)]
        same = there is here
        for i, others, blocks in weighted_blocks(*sides, same=same, workspace=self.workspace):
            targets = self._targets(here, there, slice(i, i + 1), others)
            for target, block in zip(targets, blocks, strict=True):
                by_sample = target.view(self.classes, -1, self.classes)
                by_sample.add_(block.transpose(0, 1).to(target.device), alpha=1 / self.samples)

    def _subtiles(self, here: Tile, there: Tile, *, blocked: bool = False) -> list[Subtile]:
        """``blocked``: products go to a scratch buffer first; else they are accumulated directly."""
        device = here.parts[0].device
        blocked |= device != self.device
        asked = (here.samples, there.samples, blocked)
        if self._asked != asked:
            other = None if there is here else len(there)
            pairs = tile_pairs(device, self.classes, len(here), other, self.workspace, blocked=blocked)
            self._asked = asked
            self._subtiles_of = [Subtile(*pair, self._targets(here, there, *pair)) for pair in pairs]
        return self._subtiles_of

    def _targets(self, here: Tile, there: Tile, mine: slice, others: slice) -> list[Tensor]:
        rows, columns = (
            self._rows(slice(tile.samples.start + samples.start, tile.samples.start + samples.stop))
            for tile, samples in ((here, mine), (there, others))
        )
        return [matrix[rows, columns] for matrix in self.matrices]

    def _rows(self, samples: slice) -> slice:
        return slice(samples.start * self.classes, samples.stop * self.classes)

    def _weights(self, gram: Tensor) -> Tensor:
        """(n, m) to (n, 1, m C): each weight is repeated for all classes."""
        return gram[:, None, :, None].expand(-1, -1, -1, self.classes).flatten(2)

    def _multiply(self, target: Tensor, rows: Tensor, columns: Tensor) -> None:
        if target.device == rows.device:
            target.addmm_(rows, columns, alpha=1 / self.samples)
        else:
            target += (rows @ columns).div_(self.samples).to(target.device)

    def _add(self, target: Tensor, block: Tensor) -> None:
        """Add a block over N."""
        if target.device == block.device:
            target.add_(block, alpha=1 / self.samples)
        else:
            target += block.div_(self.samples).to(target.device)

    def _put(self, target: Tensor, block: Tensor, weight: Tensor) -> None:
        """Add block (n C, m C) times weight (n, 1, m C) over N."""
        target, block = (part.view(len(weight), self.classes, -1) for part in (target, block))
        if target.device == block.device:
            target.addcmul_(block, weight, value=1 / self.samples)
        else:
            target += (block * weight).div_(self.samples).to(target.device)


def _sharing_gram(subtiles: list[Subtile], others: int, workspace: int) -> Iterator[tuple[slice, slice, list[Subtile]]]:
    """(samples, other samples, the subtiles within them) that share one Gram matrix of the features."""
    step = gram_samples(subtiles[0].mine.stop, others, workspace)
    runs = [[subtile] for subtile in subtiles]
    if step:
        runs = [list(run) for _, run in groupby(subtiles, lambda subtile: subtile.mine.start // step)]
    for run in runs:
        yield slice(run[0].mine.start, run[-1].mine.stop), slice(run[0].others.start, run[-1].others.stop), run


def _within(samples: slice, span: slice) -> slice:
    return slice(samples.start - span.start, samples.stop - span.start)


def _pairs(values: Tensor, rates: Tensor | None = None) -> list[Tensor]:
    """Gram matrices (G, n, n) of values (G, n, p), and their rates."""
    gram = values @ values.transpose(1, 2)
    if rates is None:
        return [gram]
    change = rates @ values.transpose(1, 2)
    return [gram, change + change.transpose(1, 2)]


def _slices(
    group: ParameterGroup, here: Tile, there: Tile, workspace: int
) -> Iterator[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Rows (n, C, columns) of both tiles, with their rates if there are any, for each slice of the group's features."""
    if group.route == Route.ROWS:
        yield tuple(part for (part,) in here.both), tuple(part for (part,) in there.both)
        return
    a, delta = here.parts
    width = a.shape[-1]
    step = slice_width(a.device, width, delta[..., 0].numel(), workspace)
    for start in range(0, width, step):
        features = slice(start, start + step)
        left = _rows(here, features)
        yield left, (left if here is there else _rows(there, features))


def _rows(tile: Tile, features: slice) -> tuple[Tensor, ...]:
    a, delta = tile.parts
    rows = outer_product(delta, a[..., features])
    if tile.rates is None:
        return (rows,)
    a_rate, delta_rate = tile.rates
    return rows, outer_product(delta_rate, a[..., features]).add_(outer_product(delta, a_rate[..., features]))

"""J J^T and J' J^T + J J'^T from the parts of each unit, summed into the upper halves of sample-major matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from grsd.jacobian import GRAM, ROWS, Parts, Unit, outer_product
from grsd.jacobian.size import grams_fit
from grsd.kernel.strips import BLOCK, PAD, band_samples, slice_width, visits

Square = Float[Tensor, "D D"]


def zeros(size: int, dtype: torch.dtype, device: torch.device) -> Square:
    """On a CPU by NumPy, which asks the system for huge pages: torch's own cost a page fault every 4 KiB."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros((size, size), str(dtype).removeprefix("torch.")))
    return torch.zeros(size, size, dtype=dtype, device=device)


@dataclass(frozen=True)
class Tile:
    """One unit's Jacobian on a range of samples, and its rate where that is asked for."""

    samples: slice
    parts: Parts
    rates: Parts | None = None

    def __len__(self) -> int:
        return self.samples.stop - self.samples.start

    @property
    def both(self) -> tuple[Parts, ...]:
        return (self.parts,) if self.rates is None else (self.parts, self.rates)


@dataclass(frozen=True)
class Strip:
    """Samples ``mine`` of one tile against ``others`` of another, and the part of each matrix that they fill."""

    mine: slice
    others: slice
    targets: list[Tensor]


class Blocks:
    """M, and M' where ``rate``, from the diagonal on: each pair of tiles once, of a tile with itself one triangle.

    ``matrices`` (D, D), made when they are first needed, may lie on another device than the parts. ``workspace`` bounds
    the numbers in one slice of rows; Gram matrices of a ``small`` problem are made without slices.
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
        self._strips_of: list[Strip] = []  # of the last tiles: the next unit's are often the same

    @cached_property
    def matrices(self) -> list[Square]:
        size = self.samples * self.classes
        return [zeros(size, self.dtype, self.device) for _ in range(1 + self.rate)]

    def add(self, unit: Unit, here: Tile, there: Tile) -> None:
        """One unit's share between two tiles."""
        if unit.route == GRAM and here is there and self._fits(here):
            self._add_all_groups(here)
            return
        if unit.route == GRAM:
            for group in range(here.parts[0].shape[1]):
                self._add_grams(here, there, group)
            return
        for left, right in _slices(unit, here, there, self.workspace):
            for strip in self._strips(here, there):
                rows = [part[strip.mine].flatten(0, 1) for part in left]
                columns = [part[strip.others].flatten(0, 1).T for part in right]
                self._multiply(strip.targets[0], rows[0], columns[0])
                if here.rates is not None:
                    self._multiply(strip.targets[1], rows[1], columns[0])
                    self._multiply(strip.targets[1], rows[0], columns[1])

    def finish(self) -> list[Square]:
        """Fill the other half; the blocks are used up."""
        for matrix in self.matrices:
            apart = matrix.new_empty(BLOCK, len(matrix) + PAD)
            for start in range(0, len(matrix), BLOCK):
                rows = matrix[start : start + BLOCK, start:]
                square = rows[:, :BLOCK].triu_()
                square += square.triu(1).T
                rest = apart[: len(rows), : max(0, rows.shape[1] - BLOCK)].copy_(rows[:, BLOCK:])
                matrix[start + BLOCK :, start : start + BLOCK] = rest.T
        return self.matrices

    def _fits(self, tile: Tile) -> bool:
        """Whether all Gram matrices of a tile with one position per sample are made at once."""
        _, groups, positions, _ = tile.parts[0].shape
        size = len(tile) * self.classes
        fits = self.small and grams_fit(groups * size**2)
        return positions == 1 and fits and tile.parts[0].device == self.device

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

    def _add_grams(self, here: Tile, there: Tile, group: int) -> None:
        left = [_by_position(parts, group) for parts in here.both]
        right = left if there is here else [_by_position(parts, group) for parts in there.both]
        rate = here.rates is not None
        pairs = list(product(range(len(left[0][1])), range(len(right[0][1]))))
        strips = self._strips(here, there, len(pairs))
        room = [left[0][1].new_empty(max(strip.targets[0].numel() for strip in strips)) for _ in range(1 + rate)]
        for mine, others, band in _bands(strips, len(there), len(pairs), self.workspace):
            a, b = ([features[samples] for features, _ in side] for side, samples in ((left, mine), (right, others)))
            grams = [_gram(a[0], b[0])]
            if rate:
                grams.append(_gram(a[1], b[0]).add_(_gram(a[0], b[1])))
            for strip in band:
                weight, *weight_rate = (
                    self._weights(gram[_within(strip.mine, mine), :, _within(strip.others, others)]) for gram in grams
                )
                rows = [delta[:, self._rows(strip.mine)] for _, delta in left]
                columns = [delta[:, self._rows(strip.others)].transpose(1, 2) for _, delta in right]
                target = strip.targets
                block, *change = (numbers[: target[0].numel()].view(target[0].shape) for numbers in room)
                for t, s in pairs:
                    torch.mm(rows[0][t], columns[0][s], out=block)
                    self._put(target[0], block, weight[t, s])
                    if rate:
                        torch.mm(rows[1][t], columns[0][s], out=change[0]).addmm_(rows[0][t], columns[1][s])
                        self._put(target[1], change[0], weight[t, s])
                        self._put(target[1], block, weight_rate[0][t, s])

    def _strips(self, here: Tile, there: Tile, positions: int | None = None) -> list[Strip]:
        """``positions``: pairs whose products are held before they are added; else they are made in their place."""
        device = here.parts[0].device
        if device != self.device:
            positions = positions or 1
        asked = (here.samples, there.samples, positions)
        if self._asked != asked:
            other = None if there is here else len(there)
            pairs = visits(device, self.classes, len(here), other, positions, self.workspace)
            self._asked, self._strips_of = asked, [Strip(*pair, self._targets(here, there, *pair)) for pair in pairs]
        return self._strips_of

    def _targets(self, here: Tile, there: Tile, mine: slice, others: slice) -> list[Tensor]:
        rows, columns = (
            self._rows(slice(tile.samples.start + samples.start, tile.samples.start + samples.stop))
            for tile, samples in ((here, mine), (there, others))
        )
        return [matrix[rows, columns] for matrix in self.matrices]

    def _rows(self, samples: slice) -> slice:
        return slice(samples.start * self.classes, samples.stop * self.classes)

    def _weights(self, gram: Tensor) -> Tensor:
        """(n, T, m, S) to (T, S, n, 1, m C), the same for all classes."""
        return gram.permute(1, 3, 0, 2)[:, :, :, None, :, None].expand(-1, -1, -1, 1, -1, self.classes).flatten(4)

    def _multiply(self, target: Tensor, rows: Tensor, columns: Tensor) -> None:
        if target.device == rows.device:
            target.addmm_(rows, columns, alpha=1 / self.samples)
        else:
            target += (rows @ columns).div_(self.samples).to(target.device)

    def _put(self, target: Tensor, block: Tensor, weight: Tensor) -> None:
        """Add block (n C, m C) times weight (n, 1, m C) over N."""
        target, block = (part.view(len(weight), self.classes, -1) for part in (target, block))
        if target.device == block.device:
            target.addcmul_(block, weight, value=1 / self.samples)
        else:
            target += (block * weight).div_(self.samples).to(target.device)


def _bands(
    strips: list[Strip], others: int, positions: int, workspace: int
) -> Iterator[tuple[slice, slice, list[Strip]]]:
    """Strips that share a Gram matrix of the features, with the samples that they span."""
    step = band_samples(strips[0].mine.stop, others, positions, workspace)
    bands = [[strip] for strip in strips]
    if step:
        bands = [list(band) for _, band in groupby(strips, lambda strip: strip.mine.start // step)]
    for band in bands:
        yield slice(band[0].mine.start, band[-1].mine.stop), slice(band[0].others.start, band[-1].others.stop), band


def _within(samples: slice, span: slice) -> slice:
    return slice(samples.start - span.start, samples.stop - span.start)


def _by_position(parts: Parts, group: int) -> tuple[Tensor, Tensor]:
    """Features (n, T, p) and backprops (T, n C, q) of one group."""
    a, delta = parts
    return a[:, group], delta[group].flatten(1, 2)


def _pairs(values: Tensor, rates: Tensor | None = None) -> list[Tensor]:
    """(G, n, p) to Gram matrices (G, n, n), and their rates."""
    gram = values @ values.transpose(1, 2)
    if rates is None:
        return [gram]
    change = rates @ values.transpose(1, 2)
    return [gram, change + change.transpose(1, 2)]


def _gram(a: Tensor, b: Tensor) -> Tensor:
    """(n, T, p) and (m, S, p) to (n, T, m, S)."""
    return (a.flatten(0, 1) @ b.flatten(0, 1).T).view(*a.shape[:2], *b.shape[:2])


def _slices(
    unit: Unit, here: Tile, there: Tile, workspace: int
) -> Iterator[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Rows (n, C, columns), with their rates where there are, of both tiles, over slices of the unit's features."""
    if unit.route == ROWS:
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

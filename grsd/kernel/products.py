"""J J^T and J' J^T + J J'^T from the parts of each unit, summed into the blocks of class-major matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from grsd.tangents import GRAM, ROWS, Parts, Unit

Square = Float[Tensor, "D D"]


@dataclass(frozen=True)
class Tile:
    """One unit's Jacobian on a range of samples, and its rate where that is asked for."""

    samples: slice
    parts: Parts
    rates: Parts | None = None


class Blocks:
    """Half of M, and of M' where ``rate``: each pair of tiles once, a tile with itself for classes c <= d only.

    What is held, V, gives N M = V + V^T. ``matrices`` (C, N, C, N) may lie on another device than the parts;
    ``workspace`` bounds the numbers in one slice of rows.
    """

    def __init__(
        self, samples: int, classes: int, rate: bool, workspace: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.samples, self.classes, self.workspace = samples, classes, workspace
        shape = (classes, samples, classes, samples)
        self.matrices = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(1 + rate)]

    def add(self, unit: Unit, here: Tile, there: Tile) -> None:
        """One unit's share between two tiles."""
        if unit.route == GRAM:
            self._add_grams(here, there)
            return
        for left, right in _slices(unit, here, there, self.workspace):
            for which in range(len(left)):
                rows, others = (torch.cat(left, -1), torch.cat(right[::-1], -1)) if which else (left[0], right[0])
                for c, first in self._upper(here, there):
                    self._multiply(which, c, here, first, there, rows[c], others[first:])

    def finish(self) -> list[Square]:
        """Fill the other halves, divide by N and permute to sample-major rows; the blocks are used up."""
        size, done = self.samples * self.classes, []
        while self.matrices:
            matrix = self.matrices.pop(0)
            for c in range(self.classes):
                for d in range(c + 1):
                    block = (matrix[d, :, c] + matrix[c, :, d].T).div_(self.samples)
                    matrix[d, :, c] = block
                    matrix[c, :, d] = block.T
            done.append(matrix.permute(1, 0, 3, 2).reshape(size, size))
        return done

    def _add_grams(self, here: Tile, there: Tile) -> None:
        (a, delta), (b, eta) = here.parts, there.parts
        positions, others_positions = a.shape[2], b.shape[2]
        wide = self.classes * len(b) * positions * others_positions
        step = max(1, self.workspace // wide)
        for group, start in product(range(a.shape[1]), range(0, len(a), step)):
            few = slice(start, start + step)
            left, right = a[few, group].flatten(0, 1), b[:, group].flatten(0, 1)
            gram = (left @ right.T)[:, None]
            if here.rates is not None:
                left_rate = here.rates[0][few, group].flatten(0, 1)
                right_rate = there.rates[0][:, group].flatten(0, 1)
                gram_rate = (left_rate @ right.T).addmm_(left, right_rate.T)[:, None]
            for c, first in self._upper(here, there):
                rows, others = delta[c, few, group].flatten(0, 1), eta[first:, :, group].flatten(1, 2)
                block = _contract(rows, others)
                if here.rates is not None:
                    rows = torch.cat([rows, here.rates[1][c, few, group].flatten(0, 1)], -1)
                    others = torch.cat([there.rates[1][first:, :, group].flatten(1, 2), others], -1)
                    change = _contract(rows, others).mul_(gram).addcmul_(block, gram_rate)
                    self._put(1, c, here, first, there, _over_positions(change, positions, others_positions), start)
                block = _over_positions(block.mul_(gram), positions, others_positions)
                self._put(0, c, here, first, there, block, start)

    def _upper(self, here: Tile, there: Tile) -> Iterator[tuple[int, int]]:
        return ((c, c if here.samples == there.samples else 0) for c in range(self.classes))

    def _multiply(self, which: int, c: int, here: Tile, first: int, there: Tile, rows: Tensor, others: Tensor) -> None:
        """Add the product of rows (n, k) and others (C - first, m, k), in place where the block has no gaps."""
        target = self.matrices[which]
        if target.device != rows.device or others.shape[1] < self.samples:
            self._put(which, c, here, first, there, _contract(rows, others))
            return
        target = target[c, here.samples]
        if here.samples == there.samples:
            target[:, first].addmm_(rows, others[0].T, alpha=0.5)
            first, others = first + 1, others[1:]
        if len(others):
            target[:, first:].view(len(rows), -1).addmm_(rows, others.flatten(0, 1).T)

    def _put(self, which: int, c: int, here: Tile, first: int, there: Tile, block: Tensor, start: int = 0) -> None:
        """Add rows from ``start`` on of the tile ``here``: (n, C - first, m)."""
        if here.samples == there.samples:
            block[:, 0] /= 2
        target, start = self.matrices[which], start + here.samples.start
        target[c, start : start + len(block), first:, there.samples] += block.to(target.device)


def _contract(rows: Tensor, others: Tensor) -> Tensor:
    """(n, k) and (C, m, k) to (n, C, m)."""
    return (rows @ others.reshape(-1, others.shape[-1]).T).view(len(rows), *others.shape[:2])


def _over_positions(block: Tensor, here: int, there: int) -> Tensor:
    """(n T, C, m S) to (n, C, m)."""
    if here == there == 1:
        return block
    return block.unflatten(2, (-1, there)).unflatten(0, (-1, here)).sum((1, 4))


def _slices(
    unit: Unit, here: Tile, there: Tile, workspace: int
) -> Iterator[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Rows (C, n, columns), with their rates where there are, of both tiles, over slices of the unit's parameters."""
    if unit.route == ROWS:
        width, each = here.parts[0].shape[2], here.parts[0][..., :1].numel()
    else:
        width, each = here.parts[1].shape[4], here.parts[1][..., 0, 0].numel() * here.parts[0].shape[3]
    step = max(1, workspace // each)
    for start in range(0, width, step):
        columns = slice(start, start + step)
        left = _rows(unit, here, columns)
        yield left, (left if here is there else _rows(unit, there, columns))


def _rows(unit: Unit, tile: Tile, columns: slice) -> tuple[Tensor, ...]:
    if unit.route == ROWS:
        return tuple(parts[0][..., columns] for parts in (tile.parts, tile.rates) if parts is not None)
    a, delta = tile.parts
    rows = _outer(delta[..., columns], a)
    if tile.rates is None:
        return (rows,)
    return rows, _outer(tile.rates[1][..., columns], a).add_(_outer(delta[..., columns], tile.rates[0]))


def _outer(delta: Tensor, a: Tensor) -> Tensor:
    """(C, n, G, T, q) and (n, G, T, p) to (C, n, G q p), each class written to its place."""
    classes, samples, groups, _, q = delta.shape
    rows = delta.new_empty(classes, samples * groups, q, a.shape[-1])
    for out, of_class in zip(rows, delta, strict=True):
        torch.bmm(of_class.flatten(0, 1).transpose(1, 2), a.flatten(0, 1), out=out)
    return rows.view(classes, samples, -1)

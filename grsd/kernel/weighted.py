r"""Products of a layer with several positions, without its rows and without products of all pairs of positions.

.. math:: W_{ics}^{(j)} = \sum_t (a_{it} \cdot a_{js})\, \delta_{ict}, \qquad
          M_{(ic)(jd)} = \sum_s W_{ics}^{(j)} \cdot \delta_{jds}

The backprops of sample i are weighted by the products of its features with those of sample j. Per pair of samples this
takes T^2 (p + C q) + C^2 T q multiplications; rows take C^2 p q, products of all backprops T^2 (p + C^2 q).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from grsd.kernel.tiles import GRAM_NUMBERS

WEIGHTED_NUMBERS = 2**20  # weighted backprops at once; they stay in the cache
Side = Sequence[tuple[Tensor, Tensor]]


def weighted_blocks(
    left: Side, right: Side, *, same: bool, workspace: int
) -> Iterator[tuple[int, slice, list[Tensor]]]:
    """(i, samples of the other side, their blocks (n, C, C) of N M, and of N M') for each sample i.

    ``left``, ``right``: features (n, T, p) and backprops (n, C, T, q), and their rates if there are any. ``same``: both
    sides are the same samples; each pair is then visited once.
    """
    samples, classes, positions, q = left[0][1].shape
    others = len(right[0][1])
    width = weighted_samples(classes, positions, q, others, workspace)
    rooms = [left[0][1].new_empty(classes * width * positions * q) for _ in left]
    columns = [delta.flatten(2).transpose(1, 2) for _, delta in right]
    step = strip_samples(positions, others, workspace)
    for first in range(0, samples, step):
        mine, start = slice(first, first + step), first if same else 0
        grams = _grams([a[mine] for a, _ in left], [a[start:] for a, _ in right])
        for i in range(first, min(first + step, samples)):
            for begin in range(i if same else 0, others, width):
                end = min(begin + width, others)
                at = slice((begin - start) * positions, (end - start) * positions)
                features = [gram[i - first, :, at].T.expand(classes, -1, -1) for gram in grams]
                shape = classes, (end - begin) * positions, q
                into = [room[: classes * shape[1] * q].view(shape) for room in rooms]
                weighted = _products(features, [delta[i] for _, delta in left], into)
                rows = [part.view(classes, end - begin, -1).transpose(0, 1) for part in weighted]
                yield i, slice(begin, end), _products(rows, [part[begin:end] for part in columns])


def weighted_samples(classes: int, positions: int, q: int, others: int, workspace: int) -> int:
    """Number of other samples for which the backprops of one sample are weighted at once."""
    return max(1, min(others, min(WEIGHTED_NUMBERS, workspace) // (classes * positions * q)))


def strip_samples(positions: int, others: int, workspace: int) -> int:
    """Number of samples whose products of features with all ``others`` are held at once."""
    return max(1, min(GRAM_NUMBERS, workspace) // (positions**2 * others))


def _grams(left: Sequence[Tensor], right: Sequence[Tensor]) -> list[Tensor]:
    """Products of features, (n, T, m T), and their rates."""
    shape = left[0].shape[:2]
    a, b = ([part.flatten(0, 1) for part in side] for side in (left, right))
    grams = [a[0] @ b[0].T]
    if len(a) > 1:
        grams.append((a[1] @ b[0].T).addmm_(a[0], b[1].T))
    return [gram.view(*shape, -1) for gram in grams]


def _products(left: Sequence[Tensor], right: Sequence[Tensor], into: Sequence[Tensor | None] = (None, None)) -> list:
    """The product of two stacks of matrices, and its rate."""
    found = [torch.bmm(left[0], right[0], out=into[0])]
    if len(left) > 1:
        found.append(torch.bmm(left[1], right[0], out=into[1]).baddbmm_(left[0], right[1]))
    return found

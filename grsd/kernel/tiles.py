"""Pairs of samples: each is visited once, in products large enough to be fast and small enough for a cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch

PRODUCT_ROWS, PRODUCT_COLUMNS = 160, 1280  # on a CPU, so that a product stays in the cache
SMALLEST_TRIANGLE = 40  # rows; smaller triangles are not halved
GPU_PARTS = 16  # into which a tile is divided on a GPU
GRAM_NUMBERS = 2**18  # in one Gram matrix of the features
# Rows transposed per block, and padding so that one column does not map to a single cache set.
MIRROR_ROWS, MIRROR_PAD = 64, 16
SLICE_NUMBERS = 2**21  # in a slice of rows on a CPU; larger slices are no faster

Pair = tuple[slice, slice]


def tile_pairs(
    device: torch.device, classes: int, tile: int, other: int | None, workspace: int, *, blocked: bool
) -> list[Pair]:
    """Slices of the samples of two tiles that cover each pair once; ``other`` None: pairs i <= j of one tile.

    ``tile``, ``other``: numbers of samples. ``blocked``: products go to a scratch buffer first; else they are
    accumulated directly into the matrix.
    """
    if not blocked:
        return list(_triangle(device, classes, tile)) if other is None else [(slice(0, tile), slice(0, other))]
    rows, columns = product_samples(device, classes, other or tile, workspace)
    return [
        (slice(start, min(start + rows, tile)), slice(there, min(there + columns, other or tile)))
        for start in range(0, tile, rows)
        for there in range(0 if other else start, other or tile, columns)
    ]


def product_samples(device: torch.device, classes: int, others: int, workspace: int) -> tuple[int, int]:
    """(samples of one tile, samples of the other tile's ``others``) that are multiplied at once."""
    room = max(1, workspace // classes)
    if device.type == "cpu":
        rows, columns = max(1, PRODUCT_ROWS // classes), max(1, PRODUCT_COLUMNS // classes)
    else:
        rows, columns = max(PRODUCT_ROWS // classes, others // GPU_PARTS, 1), others
    columns = min(columns, others, max(rows, room // rows))
    return max(1, min(rows, room // columns)), columns


def gram_samples(rows: int, others: int, workspace: int) -> int:
    """Number of samples (a multiple of ``rows``) that share one feature Gram matrix; 0: one per product."""
    return min(GRAM_NUMBERS, workspace) // others // rows * rows


def slice_width(device: torch.device, width: int, each: int, workspace: int) -> int:
    """Columns per slice when ``width`` columns of ``each`` numbers are split into the fewest equal slices that fit."""
    room = min(SLICE_NUMBERS, workspace) if device.type == "cpu" else workspace
    slices = max(1, -(-width // max(1, room // each)))
    return -(-width // slices)


def _triangle(device: torch.device, classes: int, samples: int) -> Iterator[Pair]:
    """Rectangles that cover the pairs i <= j < ``samples``, by halving the triangle down to small squares."""
    rows = SMALLEST_TRIANGLE if device.type == "cpu" else max(SMALLEST_TRIANGLE, samples * classes // GPU_PARTS)
    return _halved(0, samples, max(1, rows // classes))


def _halved(start: int, stop: int, leaf: int) -> Iterator[Pair]:
    if stop - start <= leaf:
        yield slice(start, stop), slice(start, stop)
        return
    middle = (start + stop) // 2
    yield slice(start, middle), slice(middle, stop)
    yield from _halved(start, middle, leaf)
    yield from _halved(middle, stop, leaf)

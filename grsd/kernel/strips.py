"""How pairs of samples are visited: each once, in products large enough to be fast and small enough for a cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch

ROWS, COLUMNS = 160, 1280  # of a product on a CPU whose result is used at once: it stays in the cache
LEAF = 80  # rows at which a triangle is no longer halved
PARTS = 16  # of a tile elsewhere
BAND = 2**18  # numbers in one Gram matrix of the features
BLOCK, PAD = 64, 16  # rows mirrored at once, so far apart that a column's entries do not share one set of a cache
SLICE = 2**21  # numbers in a slice of rows on a CPU: more is no faster

Pair = tuple[slice, slice]


def visits(
    device: torch.device, classes: int, tile: int, other: int | None, positions: int | None, workspace: int
) -> list[Pair]:
    """Samples of a tile against those of another, each pair once; ``other`` None: against its own, pairs i <= j.

    ``positions``: pairs of positions whose products are held before they are added; None: they are made in their place.
    """
    if positions is None:
        return list(_triangle(device, classes, tile)) if other is None else [(slice(0, tile), slice(0, other))]
    rows, columns = product_samples(device, classes, other or tile, positions, workspace)
    return [
        (slice(start, min(start + rows, tile)), slice(there, min(there + columns, other or tile)))
        for start in range(0, tile, rows)
        for there in range(0 if other else start, other or tile, columns)
    ]


def product_samples(device: torch.device, classes: int, others: int, positions: int, workspace: int) -> tuple[int, int]:
    """How many samples of a tile are multiplied at once with how many of another's ``others``."""
    room = max(1, workspace // (positions * classes))
    if device.type == "cpu":
        rows, columns = max(1, ROWS // classes), max(1, COLUMNS // classes)
    else:
        rows, columns = max(ROWS // classes, others // PARTS, 1), others
    columns = min(columns, others, max(rows, room // rows))
    return max(1, min(rows, room // columns)), columns


def band_samples(rows: int, others: int, positions: int, workspace: int) -> int:
    """For how many samples, a multiple of ``rows``, one Gram matrix with all others is made; 0: one a product."""
    return min(BAND, workspace) // (positions * others) // rows * rows


def slice_width(device: torch.device, width: int, each: int, workspace: int) -> int:
    """How many of ``width`` columns, of ``each`` numbers, make one of as few even slices as the workspace allows."""
    room = min(SLICE, workspace) if device.type == "cpu" else workspace
    slices = max(1, -(-width // max(1, room // each)))
    return -(-width // slices)


def _triangle(device: torch.device, classes: int, samples: int) -> Iterator[Pair]:
    """Rectangles that hold each pair (i, j), i <= j < ``samples``: halves, and so on down to small squares."""
    rows = LEAF if device.type == "cpu" else max(LEAF, samples * classes // PARTS)
    return _halved(0, samples, max(1, rows // classes))


def _halved(start: int, stop: int, leaf: int) -> Iterator[Pair]:
    if stop - start <= leaf:
        yield slice(start, stop), slice(start, stop)
        return
    middle = (start + stop) // 2
    yield slice(start, middle), slice(middle, stop)
    yield from _halved(start, middle, leaf)
    yield from _halved(middle, stop, leaf)

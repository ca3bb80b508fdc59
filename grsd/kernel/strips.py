"""How pairs of samples are visited: each once, in products large enough to be fast and small enough for a cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch

ROWS = 160  # of a product on a CPU whose result is used at once: it stays in the cache
LEAF = 80  # rows at which a triangle is no longer halved
PARTS = 16  # of a tile elsewhere

Pair = tuple[slice, slice]


def strip_samples(device: torch.device, classes: int, tile: int, pairs: int, workspace: int) -> int:
    """How many samples of a tile are multiplied at once with all of another, ``pairs`` of positions for each two."""
    rows = ROWS if device.type == "cpu" else max(ROWS, tile * classes // PARTS)
    return max(1, min(rows // classes, workspace // (pairs * classes * tile)))


def triangle(samples: int, classes: int, device: torch.device) -> list[Pair]:
    """Rectangles that hold each pair (i, j), i <= j < ``samples``: halves, and so on down to small squares."""
    rows = LEAF if device.type == "cpu" else max(LEAF, samples * classes // PARTS)
    return list(_halved(0, samples, max(1, rows // classes)))


def _halved(start: int, stop: int, leaf: int) -> Iterator[Pair]:
    if stop - start <= leaf:
        yield slice(start, stop), slice(start, stop)
        return
    middle = (start + stop) // 2
    yield slice(start, middle), slice(middle, stop)
    yield from _halved(start, middle, leaf)
    yield from _halved(middle, stop, leaf)


def staircase(samples: int, step: int) -> list[Pair]:
    """The same pairs, ``step`` samples at a time with themselves and all later ones."""
    starts = range(0, samples, step)
    return [(slice(start, min(start + step, samples)), slice(start, samples)) for start in starts]


def rectangle(samples: int, others: int, step: int) -> list[Pair]:
    """All pairs of two tiles, ``step`` samples of the first at a time."""
    return [(slice(start, min(start + step, samples)), slice(0, others)) for start in range(0, samples, step)]

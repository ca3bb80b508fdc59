"""What was differentiated batch by batch, put together as if it had been one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from grsd.jacobian import GRAM, Differentiated, Parts, Unit


def joined(pieces: Iterator[Differentiated], units: Sequence[Unit], samples: int) -> Differentiated:
    """Batches one after another, each copied into its place and let go."""
    piece = next(pieces)
    axes = [[_sample_axis(unit, part) for part in _tensors(own)] for unit, own in zip(units, piece, strict=True)]
    if _tensors(piece[0])[0].shape[axes[0][0]] == samples:
        return piece
    places = [
        [part.new_empty([samples if i == axis else size for i, size in enumerate(part.shape)]) for part, axis in pairs]
        for pairs in (zip(_tensors(unit), own, strict=True) for unit, own in zip(piece, axes, strict=True))
    ]
    sizes = [len(parts) for parts, _ in piece]
    start = 0
    while piece:
        start = _copied(piece, places, axes, start)
        piece = None
        piece = next(pieces, None)
    return [
        (tuple(whole_unit[:size]), tuple(whole_unit[size:]) or None)
        for whole_unit, size in zip(places, sizes, strict=True)
    ]


def _copied(piece: Differentiated, places: list[list[Tensor]], axes: list[list[int]], start: int) -> int:
    """Copy a batch to its place; where the next one starts."""
    for unit, whole_unit, own in zip(piece, places, axes, strict=True):
        for part, place, axis in zip(_tensors(unit), whole_unit, own, strict=True):
            place.narrow(axis, start, part.shape[axis]).copy_(part)
    return start + part.shape[axis]


def _tensors(unit: tuple[Parts, Parts | None]) -> Parts:
    parts, rates = unit
    return parts + (rates or ())


def _sample_axis(unit: Unit, part: Tensor) -> int:
    """Backprops (G, T, N, C, q) whose Grams are made have the samples in between, all other parts in front."""
    return 2 if unit.route == GRAM and part.ndim == 5 else 0

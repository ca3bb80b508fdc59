"""Parts of Jacobians put together: batches of samples into one tile, tiles of several groups into one product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from grsd.jacobian import Differentiated, ParameterGroup, Parts, Route
from grsd.jacobian.size import copies_avoid_calls
from grsd.kernel.products import Accumulates, Tile


def joined(pieces: Iterator[Differentiated], groups: Sequence[ParameterGroup], samples: int) -> Differentiated:
    """The parts of all batches as if they had been one batch; each batch is freed once it is copied to its place."""
    piece = next(pieces)
    axes = [[_sample_axis(group, part) for part in _tensors(own)] for group, own in zip(groups, piece, strict=True)]
    if _tensors(piece[0])[0].shape[axes[0][0]] == samples:
        return piece
    places = [
        [part.new_empty([samples if i == axis else size for i, size in enumerate(part.shape)]) for part, axis in pairs]
        for pairs in (zip(_tensors(group), own, strict=True) for group, own in zip(piece, axes, strict=True))
    ]
    sizes = [len(parts) for parts, _ in piece]
    start = 0
    while piece:
        start = _copied(piece, places, axes, start)
        piece = None
        piece = next(pieces, None)
    return [(tuple(filled[:size]), tuple(filled[size:]) or None) for filled, size in zip(places, sizes, strict=True)]


def merged(
    groups: Sequence[ParameterGroup],
    tiles: list[Tile],
    accumulator_of: Callable[[ParameterGroup], Accumulates],
    small: bool,
) -> Iterator[tuple[ParameterGroup, Tile]]:
    """Each group with its tile; in a ``small`` problem those of one accumulator, route and shape are multiplied as one.

    Tiles are removed from ``tiles``. SLICES and WEIGHTED stay single: their rows are never all held.
    """
    alike: dict[object, list[tuple[ParameterGroup, Tile]]] = {}
    for group in groups:
        own = tiles.pop(0)
        shapes = tuple(part.shape for part in own.parts) if group.route == Route.GRAM else ()
        held = sum(part.numel() for part in own.parts)
        if not small or group.route in (Route.SLICES, Route.WEIGHTED) or not copies_avoid_calls(held):
            yield group, own
        else:
            alike.setdefault((id(accumulator_of(group)), group.route, shapes), []).append((group, own))
    for (_, route, _), members in alike.items():
        group, first = members[0]
        axes = (1, 0) if route == Route.GRAM else (-1,)
        kinds = zip(*(tile.both for _, tile in members), strict=True)
        both = [
            tuple(torch.cat(parts, axis) for parts, axis in zip(zip(*kind, strict=True), axes, strict=True))
            for kind in kinds
        ]
        yield group, Tile(first.samples, *both)


def _copied(piece: Differentiated, places: list[list[Tensor]], axes: list[list[int]], start: int) -> int:
    """Copy a batch to its place; returns the start of the next one."""
    for group, filled, own in zip(piece, places, axes, strict=True):
        for part, place, axis in zip(_tensors(group), filled, own, strict=True):
            place.narrow(axis, start, part.shape[axis]).copy_(part)
    return start + part.shape[axis]


def _tensors(group: tuple[Parts, Parts | None]) -> Parts:
    parts, rates = group
    return parts + (rates or ())


def _sample_axis(group: ParameterGroup, part: Tensor) -> int:
    """The axis of the samples: 2 for the backprops (G, T, N, C, q) of the route GRAM, 0 for all other parts."""
    return 2 if group.route == Route.GRAM and part.ndim == 5 else 0


def of_samples(group: ParameterGroup, tile: Tile, samples: slice) -> Tile | None:
    """The part of a tile that lies within ``samples``; None if it is empty."""
    start, stop = max(tile.samples.start, samples.start), min(tile.samples.stop, samples.stop)
    if start >= stop:
        return None
    first, count = start - tile.samples.start, stop - start

    def within(parts: Parts) -> Parts:
        return tuple(part.narrow(_sample_axis(group, part), first, count) for part in parts)

    return Tile(slice(start, stop), *(within(parts) for parts in tile.both))


def of_classes(group: ParameterGroup, tile: Tile, classes: slice) -> Tile:
    """A tile of some of the outputs alone."""
    axis = {Route.GRAM: 3, Route.WEIGHTED: 2, Route.SLICES: 2, Route.ROWS: 1}[group.route]
    index = (slice(None),) * axis + (classes,)
    return Tile(tile.samples, *((*parts[:-1], parts[-1][index]) for parts in tile.both))

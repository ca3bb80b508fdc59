"""Budgets along a sequence of states, given all at once or one after the other; each kernel is computed once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from grsd.flow.states import State
from grsd.losses import Loss
from grsd.shells.windows import LogShells
from grsd.support.arguments import described
from grsd.training.dense import DenseState, dense_step
from grsd.training.krylov import KrylovState, krylov_step
from grsd.training.labelled import labelled
from grsd.training.reading import Reading

Seen = DenseState | KrylovState


class Recorder:
    """Reads states one after the other on the same samples and gives the budget between each two neighbours.

    Args: as for ``checkpoint_budget``; ``call`` is the name by which refusals call it. With a span in ``shells`` all
    budgets share their shells; without one, each covers the spectra of its own two states.
    Memory: one decomposed kernel between two calls of ``add``.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        shells: LogShells,
        *,
        loss: Loss = "mse",
        method: str = "auto",
        dtype: torch.dtype = torch.float64,
        device: str | torch.device | None = None,
        memory_limit: str | int | None = None,
        steps: int = 80,
        tolerance: float = 0.1,
        batch: int = 1000,
        call: str = "Recorder",
    ) -> None:
        self.reading = Reading(
            call, inputs, targets, shells, loss, method, dtype, device, memory_limit, steps, tolerance, batch
        )
        self.latest: Seen | None = None

    def add(
        self, state: State, *, name: str = "state", parameters: Mapping[str, object] | None = None
    ) -> xr.Dataset | None:
        """Read a state; return the budget since the state before, or ``None`` if it is the first.

        ``name``: what refusals call the state. A state that is refused, or whose kernel fails, leaves no trace: the
        next one is compared with the last that was read. The module is not changed. Errors: as ``checkpoint_budget``.
        """
        described(self.reading.call, parameters)
        if self.reading.route is None:
            self.reading.decide(self.reading.force(name, state).force, 1)
        seen = self.reading.look(name, state)
        found = None
        if self.latest is not None:
            found = budgets_between(self.reading, [self.latest, seen], parameters).isel(step=0, drop=True)
        self.latest = seen
        return found


def budgets_between(reading: Reading, states: Iterable[Seen], parameters: Mapping[str, object] | None) -> xr.Dataset:
    """Return the budgets between neighbouring states along ``step``; without a span ``states`` is a list."""
    low = high = 0.0
    if reading.shells.span is None:
        ranges = [state.range() for state in states]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        if low == math.inf:
            raise ValueError(f"{reading.call}(..., targets): the force is zero in all states; there is none to follow")
    indices = np.array(reading.shells.indices(low, high))
    samples, step = len(reading.inputs), dense_step if reading.route == "dense" else krylov_step
    steps = [step(*pair, reading.shells, indices, samples) for pair in pairwise(states)]
    return labelled(reading, steps, indices, parameters)

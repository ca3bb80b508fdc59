"""The ways to compute one kernel, from the fastest to the one that needs the fewest features of torch."""

from __future__ import annotations

from dataclasses import dataclass

from grsd.jacobian import FORWARD, TWICE, RowMethod


@dataclass(frozen=True)
class Strategy:
    """How a kernel is computed.

    ``factored``: known layers are factored. ``row_method``: for all other parameters. ``by``: forward mode or two
    backward passes for J d.
    """

    factored: bool
    row_method: RowMethod
    by: str


LAST_RESORT = Strategy(False, RowMethod.ONE_OUTPUT, TWICE)
OWN_PARAMETERS = Strategy(False, RowMethod.WHOLE_BATCH, TWICE)  # a graph that ends in the module's own parameters
SLOWER = (
    Strategy(True, RowMethod.WHOLE_BATCH, FORWARD),
    Strategy(True, RowMethod.ONE_OUTPUT, FORWARD),
    OWN_PARAMETERS,
    LAST_RESORT,
)

"""The ways to compute one kernel, from the fastest to the one that needs the fewest features of torch."""

from __future__ import annotations

from dataclasses import dataclass

from grsd.jacobian import FORWARD, TWICE, ForwardTrace, RowMethod, factorable, foreign_leaves, trace_with_graph
from grsd.jacobian.prepare import PreparedModel
from grsd.jacobian.size import evaluated_at_once, rows_are_cheap
from grsd.support.checks import FEW


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
FACTORED = Strategy(True, RowMethod.WHOLE_BATCH, FORWARD)
SLOWER = (FACTORED, Strategy(True, RowMethod.ONE_OUTPUT, FORWARD), OWN_PARAMETERS, LAST_RESORT)


def first_strategy(prepared: PreparedModel, rate: bool) -> Strategy:
    """The fastest strategy of a functional network: known layers are factored, others use the fastest rows.

    Small problems take the rows of all parameters, sample by sample, if this saves passes and products are cheap.
    """
    network, trace = prepared.network, prepared.trace
    if not (network.functional and prepared.small and prepared.samples > 1):
        return FACTORED
    cheap = _rows_are_cheap(prepared, rate)
    if cheap and not trace.vmappable:
        return FACTORED
    # Only a second graph tells which tensors that are no parameters persist.
    factored = not cheap or network.keeps or bool(foreign_leaves(trace.outputs, trace.leaves.values()))
    return Strategy(factored, RowMethod.PER_SAMPLE, FORWARD)


def _rows_are_cheap(prepared: PreparedModel, rate: bool) -> bool:
    """Whether the rows of the parameters that could be factored cost less than factoring; decided by counting."""
    network, trace = prepared.network, prepared.trace
    known = factorable(trace)
    all_known = len(known) == len(network.parameters)
    if all_known and (rate or network.shares):
        return False
    numbers = sum(network.parameters[name].numel() for name in known)
    return rows_are_cheap(prepared.outputs.numel(), numbers, trace.operations, all_known)


def traced_at_once(prepared: PreparedModel) -> bool:
    """Whether the graph of all samples was made before the model was examined."""
    return prepared.small and evaluated_at_once(prepared.inputs)


def layout_trace(prepared: PreparedModel) -> ForwardTrace:
    """A trace with its graph that makes the same calls as the whole batch, on as few samples as possible."""
    few, network, trace = prepared.few, prepared.network, prepared.trace
    if traced_at_once(prepared):
        return trace
    if few is not None and few.leaves is not None and len(few.outputs) >= 4 and few.same_calls(trace):
        return few
    if trace.leaves is not None:
        return trace
    few = trace_with_graph(network, prepared.inputs[:FEW])
    return few if few.same_calls(trace) else trace_with_graph(network, prepared.inputs)

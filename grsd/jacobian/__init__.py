"""The Jacobian of any torch module, parameter by parameter, in the cheapest exact form; and its exact derivative."""

from grsd.jacobian.composed import Composed
from grsd.jacobian.copies import private_copy
from grsd.jacobian.network import Network, Parameters, exact_derivatives
from grsd.jacobian.products import (
    pull_and_rate,
    push,
    push_and_rate,
    push_and_rate_back_and_forth,
    push_back_and_forth,
)
from grsd.jacobian.rows import (
    ALONE,
    CAREFUL,
    TOGETHER,
    Differentiated,
    Direction,
    Parts,
    can_run_alone,
    jacobian,
    outer_product,
)
from grsd.jacobian.trace import FORWARD, TWICE, Trace, foreign_leaves, outputs_and_gradient, pull, read, trace
from grsd.jacobian.units import GRAM, ROWS, SLICES, Unit, factorable, plan_units, random_like

__all__ = [
    "ALONE",
    "CAREFUL",
    "FORWARD",
    "GRAM",
    "ROWS",
    "SLICES",
    "TOGETHER",
    "TWICE",
    "Composed",
    "Differentiated",
    "Direction",
    "Network",
    "Parameters",
    "Parts",
    "Trace",
    "Unit",
    "can_run_alone",
    "exact_derivatives",
    "factorable",
    "foreign_leaves",
    "jacobian",
    "outer_product",
    "outputs_and_gradient",
    "plan_units",
    "private_copy",
    "pull",
    "pull_and_rate",
    "push",
    "push_and_rate",
    "push_and_rate_back_and_forth",
    "push_back_and_forth",
    "random_like",
    "read",
    "trace",
]

"""The Jacobian of any torch module, parameter by parameter, in the cheapest exact form; and its exact derivative."""

from grsd.jacobian.composed import Composed
from grsd.jacobian.copies import private_copy
from grsd.jacobian.groups import ParameterGroup, Route, factorable, plan_groups, random_like
from grsd.jacobian.network import Network, Parameters, exact_derivatives
from grsd.jacobian.products import (
    pull_and_rate,
    push,
    push_and_rate,
    push_and_rate_back_and_forth,
    push_back_and_forth,
)
from grsd.jacobian.rows import (
    Differentiated,
    Direction,
    Parts,
    RowMethod,
    can_vmap_samples,
    jacobian,
    outer_product,
)
from grsd.jacobian.trace import (
    FORWARD,
    TWICE,
    ForwardTrace,
    foreign_leaves,
    outputs_and_gradient,
    pull,
    trace_forward,
    trace_with_graph,
)

__all__ = [
    "FORWARD",
    "TWICE",
    "Composed",
    "Differentiated",
    "Direction",
    "ForwardTrace",
    "Network",
    "ParameterGroup",
    "Parameters",
    "Parts",
    "Route",
    "RowMethod",
    "can_vmap_samples",
    "exact_derivatives",
    "factorable",
    "foreign_leaves",
    "jacobian",
    "outer_product",
    "outputs_and_gradient",
    "plan_groups",
    "private_copy",
    "pull",
    "pull_and_rate",
    "push",
    "push_and_rate",
    "push_and_rate_back_and_forth",
    "push_back_and_forth",
    "random_like",
    "trace_forward",
    "trace_with_graph",
]

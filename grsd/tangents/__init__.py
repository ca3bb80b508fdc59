"""The Jacobian of any torch module, parameter by parameter, in the cheapest exact form; and its exact derivative."""

from grsd.tangents.jacobian import ALONE, CAREFUL, TOGETHER, Parts, can_run_alone, jacobian, outer_product
from grsd.tangents.network import Composed, Network, Parameters, exact_derivatives, private_copy
from grsd.tangents.units import GRAM, ROWS, SLICES, Reading, Unit, plan_units, random_like, read, read_and_pull

__all__ = [
    "ALONE",
    "CAREFUL",
    "GRAM",
    "ROWS",
    "SLICES",
    "TOGETHER",
    "Composed",
    "Network",
    "Parameters",
    "Parts",
    "Reading",
    "Unit",
    "can_run_alone",
    "exact_derivatives",
    "jacobian",
    "outer_product",
    "plan_units",
    "private_copy",
    "random_like",
    "read",
    "read_and_pull",
]

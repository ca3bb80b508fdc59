"""All conditions by name, in the order of the argument: the paper's four, then the consequences claimed for them."""

from __future__ import annotations

from grsd.conditions import (
    closure,
    covariance,
    evolution,
    incoherence,
    interventions,
    invariance,
    locality,
    profile_flow,
    propagation,
)
from grsd.conditions.contract import Condition

CONDITIONS: dict[str, Condition] = {
    condition.name: condition
    for condition in (
        propagation,
        incoherence,
        evolution,
        invariance,
        closure,
        interventions,
        locality,
        covariance,
        profile_flow,
    )
}

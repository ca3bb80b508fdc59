"""Gradient flow: the integrator, and the flow of a network with its snapshots."""

from grsd.flow.chebyshev import StepUnderflow
from grsd.flow.gradient import HISTORY, Descent, Flow, FlowError, Snapshot, gradient_flow, log_times, nearby
from grsd.flow.linearized import linear_outputs, linearized_flow

__all__ = [
    "HISTORY",
    "Descent",
    "Flow",
    "FlowError",
    "Snapshot",
    "StepUnderflow",
    "gradient_flow",
    "linear_outputs",
    "linearized_flow",
    "log_times",
    "nearby",
]

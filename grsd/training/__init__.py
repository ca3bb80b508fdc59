"""Training by any optimizer and loss: the exact budget of the shells between states, from modules or from files."""

from grsd.training.budget import checkpoint_budget, checkpoint_history
from grsd.training.heating import expected_heating
from grsd.training.instantaneous import ForceAndRate, force_and_rate
from grsd.training.monitor import Monitor
from grsd.training.noise import next_state, step_budget, step_budgets
from grsd.training.recorder import Recorder
from grsd.training.series import checkpoints

__all__ = [
    "ForceAndRate",
    "Monitor",
    "Recorder",
    "checkpoint_budget",
    "checkpoint_history",
    "checkpoints",
    "expected_heating",
    "force_and_rate",
    "next_state",
    "step_budget",
    "step_budgets",
]

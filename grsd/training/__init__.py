"""Training by any optimizer and loss: the exact budget of the shells between states, from modules or from files."""

from grsd.losses import Loss, check_loss, fitting_targets, loss_and_force
from grsd.training.budget import checkpoint_budget, checkpoint_history
from grsd.training.heating import expected_heating
from grsd.training.instantaneous import ForceAndRate, force_and_rate
from grsd.training.monitor import Monitor
from grsd.training.noise import next_state, step_budget, step_budgets
from grsd.training.recorder import Recorder
from grsd.training.series import checkpoints

__all__ = [
    "ForceAndRate",
    "Loss",
    "Monitor",
    "Recorder",
    "check_loss",
    "checkpoint_budget",
    "checkpoint_history",
    "checkpoints",
    "expected_heating",
    "fitting_targets",
    "force_and_rate",
    "loss_and_force",
    "next_state",
    "step_budget",
    "step_budgets",
]

"""Experiments."""
from grsd.runs.history import measured_energy_change, shell_history

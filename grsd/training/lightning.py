"""A monitor as a callback of Lightning, which is imported only when one is made: ``pip install lightning``."""

from __future__ import annotations

from grsd.support.values import instance
from grsd.training.monitor import Monitor


def callback(monitor: Monitor) -> object:
    """Return a Lightning ``Callback`` that records at the trainer's global steps, and once more at the end.

    Only the process of rank zero records. Errors: ``TypeError``; ``ImportError`` if there is no Lightning.
    """
    instance("callback", "monitor", monitor, Monitor, "a grsd.Monitor")
    from lightning.pytorch import Callback

    class MonitorCallback(Callback):
        def on_train_start(self, trainer: object, pl_module: object) -> None:
            self._record(trainer)

        def on_train_batch_end(self, trainer: object, pl_module: object, *_: object, **__: object) -> None:
            self._record(trainer)

        def on_train_end(self, trainer: object, pl_module: object) -> None:
            self._record(trainer, now=True)

        def _record(self, trainer: object, now: bool = False) -> None:
            if trainer.is_global_zero:
                monitor.record(trainer.global_step, now=now)

    return MonitorCallback()

"""A monitor as a callback of Hugging Face's Trainer, which is imported only when one is made."""

from __future__ import annotations

from torch import Tensor, nn

from grsd.support.values import instance
from grsd.training.monitor import Monitor


class Logits(nn.Module):
    """A Hugging Face model as a module from tokens to logits, as ``Monitor`` takes it.

    Inputs: token ids (N, T), or ids and attention masks (N, 2, T). Parameters are the model's own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.ndim == 2:
            return self.model(input_ids=tokens).logits
        return self.model(input_ids=tokens[:, 0], attention_mask=tokens[:, 1]).logits


def callback(monitor: Monitor) -> object:
    """Return a ``TrainerCallback`` that records at the trainer's global steps, and once more at the end.

    Only the first process records. Errors: ``TypeError``; ``ImportError`` if there is no transformers.
    """
    instance("callback", "monitor", monitor, Monitor, "a grsd.Monitor")
    from transformers import TrainerCallback

    class MonitorCallback(TrainerCallback):
        def on_train_begin(self, args: object, state: object, control: object, **_: object) -> None:
            self._record(state)

        def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
            self._record(state)

        def on_train_end(self, args: object, state: object, control: object, **_: object) -> None:
            self._record(state, now=True)

        def _record(self, state: object, now: bool = False) -> None:
            if state.is_world_process_zero:
                monitor.record(state.global_step, now=now)

    return MonitorCallback()

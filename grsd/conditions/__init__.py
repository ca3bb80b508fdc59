"""Conditions under which learning renormalizes. Each is a module: ``measure`` one network, ``judge`` an ensemble."""

from typing import TYPE_CHECKING

from grsd.support.lazy import face

if TYPE_CHECKING:
    from grsd.conditions.contract import Condition, Verdict
    from grsd.conditions.registry import CONDITIONS
    from grsd.conditions.specs import of_specs
    from grsd.conditions.strangers import flow_to_loss, judge_models

__all__ = ["CONDITIONS", "Condition", "Verdict", "flow_to_loss", "judge_models", "of_specs"]

__getattr__, __dir__ = face(__name__)

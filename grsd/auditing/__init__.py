"""The audit: one call from anybody's network, or its checkpoints, to a verdict, a report and a file of numbers."""

from typing import TYPE_CHECKING

from grsd.support.lazy import face

if TYPE_CHECKING:
    from grsd.auditing.asked import Audit, audit
    from grsd.auditing.document import schema

__all__ = ["Audit", "audit", "schema"]

__getattr__, __dir__ = face(__name__)

"""Claims, rules and verdicts. Each rule is written before its measurement, and every result stores the rule's hash."""

from grsd.evidence.again import Recheck, recheck
from grsd.evidence.claim import Claim, attempts, claims, of_notebook
from grsd.evidence.findings import MARKS, Finding, findings_list, write_findings
from grsd.evidence.measurement import Measurement
from grsd.evidence.result import Result, confirm, judge, results, write_result
from grsd.evidence.rules import DecisionRule
from grsd.evidence.words import (
    claims_table,
    counted,
    headline_table,
    headlines,
    made_by,
    terminal_lines,
    verdict_lines,
    verdict_of,
    verdict_table,
    wrapped,
)

__all__ = [
    "MARKS",
    "Claim",
    "DecisionRule",
    "Finding",
    "Measurement",
    "Recheck",
    "Result",
    "attempts",
    "claims",
    "claims_table",
    "confirm",
    "counted",
    "findings_list",
    "headline_table",
    "headlines",
    "judge",
    "made_by",
    "of_notebook",
    "recheck",
    "results",
    "terminal_lines",
    "verdict_lines",
    "verdict_of",
    "verdict_table",
    "wrapped",
    "write_findings",
    "write_result",
]

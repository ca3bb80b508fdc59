"""The answers on one screen of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

COLUMNS = 80
SHOWN = ("moved", "growth_share", "clock", "log_growth", "frozen", "growth", "rest")
SHORT = {
    "moved": "kernel's motion / learning",
    "growth_share": "growth's share of flux^2",
    "clock": "clock c, M ~ t^c",
    "log_growth": "growth of M, e-folds",
    "frozen": "energy change: frozen M",
    "growth": "energy change: growth",
    "rest": "energy change: the rest",
}


def interval(number: Mapping[str, object]) -> str:
    """Return "0.12 [0.10, 0.14]", or what is there of it."""
    if number["value"] is None:
        return "not measured"
    if number["low"] is None:
        return f"{number['value']:.3g}"
    return f"{number['value']:.3g} [{number['low']:.3g}, {number['high']:.3g}]"


def farther(ahead: Mapping[str, object]) -> str:
    """Return how many times the time of the runs a forecast reaches."""
    return f"{ahead['times'][-1] / ahead['times'][0]:.2g}"


def screen(document: Mapping[str, object]) -> str:
    """Return the summary as lines of at most 80 characters."""
    asked, verdict = document["question"], document["verdict"]
    units = "sample groups" if asked["unit"] == "groups" else "runs"
    head = f"{asked['model']}: {asked['parameters']} parameters, {asked['samples']} samples, {asked['runs']} {units}"
    lines = [*_wrapped(head), *_wrapped(f"VERDICT {verdict['verdict'].upper()}: {verdict['why']}", "  ")]
    for name in SHOWN:
        if name in document["numbers"]:
            lines.append(f"  {SHORT[name]:<28} {interval(document['numbers'][name])}"[:COLUMNS])
    for answer in document["conditions"]:
        lines.append(f"  {answer['condition']:<14} {answer['verdict']:<14} {interval(answer['number'])}"[:COLUMNS])
    if document["conditions_missing"]:
        lines += _wrapped(f"conditions: {document['conditions_missing']}", "  ")
    ahead = document["forecast"]
    if ahead is None:
        lines += _wrapped(f"no forecast: {document['forecast_missing']}", "  ")
    else:
        ends = f"{ahead['loss'][-1]:.3g} [{ahead['low'][-1]:.3g}, {ahead['high'][-1]:.3g}]"
        lines += _wrapped(f"loss at {farther(ahead)} times the time: {ends}, by {ahead['by']}", "  ")
    for choice in document["choices"]:
        lines += _wrapped(f"{choice['what']}: {choice['chosen']} ({choice['why']})", "  ")
    return "\n".join(lines + [line for text in document["next"][:2] for line in _wrapped(f"next: {text}", "  ")])


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, COLUMNS, initial_indent=indent and "  ", subsequent_indent=indent + "  ")

"""The answers on one screen of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

COLUMNS = 80
SHOWN = ("moved", "growth_share", "clock", "log_growth", "frozen", "growth", "rest")
SHORT = {
    "moved": "kernel's motion / learning",
    "growth_share": "growth's share of flux^2",
    "clock": "clock c: kernel M ~ t^c",
    "log_growth": "growth of M, e-folds",
    "frozen": "energy change: frozen M",
    "growth": "energy change: growth of M",
    "rest": "energy change: the rest",
    "fallen": "fall of the loss, e-folds",
    "position_start": "spectral position, start",
    "position_end": "spectral position, end",
}
WORDS = "M is the tangent kernel, an e-fold a factor of 2.72; the report (.html) explains every word"
ROUNDING = 1e-9  # beside numbers of the order of one


def interval(number: Mapping[str, object]) -> str:
    """Return "0.12 [0.10, 0.14]", or what is there of it."""
    if number["value"] is None:
        return "not measured"
    value, low, high = (
        one if one is None or abs(one) > ROUNDING else 0.0 for one in (number["value"], number["low"], number["high"])
    )
    return f"{value:.3g}" if low is None else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def farther(ahead: Mapping[str, object]) -> str:
    """Return how many times the time of the runs a forecast reaches."""
    return f"{ahead['times'][-1] / ahead['times'][0]:.2g}"


def screen(document: Mapping[str, object]) -> str:
    """Return the summary as lines of at most 80 characters."""
    asked, verdict = document["question"], document["verdict"]
    units = "sample groups" if asked["unit"] == "groups" else "runs"
    head = f"{asked['model']}: {asked['parameters']} parameters, {asked['samples']} samples, {asked['runs']} {units}"
    lines = [*_wrapped(head), *_wrapped(f"VERDICT {verdict['verdict'].upper()}: {verdict['why']}", "  ")]
    lines.append(f"  {'NUMBER':<28} mean over {units} [95 % interval]")
    for name in SHOWN:
        if name in document["numbers"]:
            lines.append(f"  {SHORT[name]:<28} {interval(document['numbers'][name])}"[:COLUMNS])
    if document["conditions"]:
        lines.append(f"  {'CONDITION':<14} {'verdict':<14} its number [95 % interval]")
    for answer in document["conditions"]:
        lines.append(f"  {answer['condition']:<14} {answer['verdict']:<14} {interval(answer['number'])}"[:COLUMNS])
    if document["conditions_missing"]:
        lines += _wrapped(f"conditions: {document['conditions_missing']}", "  ")
    ahead = document["forecast"]
    if ahead is None:
        lines += _wrapped(f"no forecast: {document['forecast_missing']}", "  ")
    else:
        ends = f"{ahead['loss'][-1]:.3g} [{ahead['low'][-1]:.3g}, {ahead['high'][-1]:.3g}]"
        lines += _wrapped(f"loss at {farther(ahead)} times the time of the runs: {ends}, by {ahead['by']}", "  ")
    for choice in document["choices"]:
        lines += _wrapped(f"{choice['what']}: {choice['chosen']} ({choice['why']})", "  ")
    for text in (*(f"next: {text}" for text in document["next"][:2]), f"words: {WORDS}"):
        lines += _wrapped(text, "  ")
    return "\n".join(lines)


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, COLUMNS, initial_indent=indent and "  ", subsequent_indent=indent + "  ")

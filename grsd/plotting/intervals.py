"""Estimates with their intervals, and the thresholds of the rules that judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from grsd.conditions import Verdict
from grsd.evidence import Result, Rule


def bar(
    axes: Axes, place: float, estimate: float, low: float, high: float, *, along: str = "y", **style: object
) -> None:
    """One estimate and its interval at ``place``.

    ``along``: the axis that carries the values, "y" or "x"; ``style``: of ``Axes.errorbar``.
    """
    ends = [[max(estimate - low, 0)], [max(high - estimate, 0)]]
    position = (place, estimate) if along == "y" else (estimate, place)
    axes.errorbar(*position, **{f"{along}err": ends, "capsize": 2, "ls": "none"} | style)


def ends(found: Verdict | Result) -> tuple[float, float, float]:
    """(estimate, low, high) of an ensemble's verdict or of a claim's result."""
    low, high = found.interval if isinstance(found, Verdict) else (found.low, found.high)
    return found.estimate, low, high


def forest(
    axes: Axes,
    results: Sequence[Verdict | Result | Sequence[Verdict | Result]],
    labels: Sequence[str],
    *,
    styles: Sequence[Mapping[str, object]] = (),
    rule: Rule | None = None,
) -> None:
    """One row a result, from the top down, or one row for several of a kind, with its label at the left.

    ``styles``: of ``Axes.errorbar``, one a row; ``rule``: its threshold is drawn (``threshold``).
    """
    rows = [list(row) if isinstance(row, Sequence) else [row] for row in results]
    for number, (row, style) in enumerate(zip(rows, styles or [{"fmt": "o"}] * len(rows), strict=True)):
        for place, found in enumerate(row):
            shift = 0.5 * (place - (len(row) - 1) / 2) / len(row)
            bar(axes, number + shift, *ends(found), along="x", **style)
    if rule is not None:
        threshold(axes, rule, along="x")
    axes.set(yticks=range(len(rows)), yticklabels=list(labels), ylim=(len(rows) - 0.5, -0.5))


def threshold(axes: Axes, rule: Rule, *, along: str = "y", **style: object) -> None:
    """The threshold of a rule as a line across the axis ``along`` that carries the values."""
    draw = axes.axhline if along == "y" else axes.axvline
    draw(rule.threshold, **{"color": "black", "ls": "--", "lw": 1} | style)

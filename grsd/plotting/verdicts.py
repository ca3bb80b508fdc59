"""Intervals against the thresholds of their rules, which are read from the claims."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from grsd.evidence import Claim, Result, claims, results, verdict_lines, verdict_of
from grsd.plotting.intervals import bar, threshold
from grsd.plotting.style import COLOURS

VERDICTS = {
    "holds": (COLOURS["green"], "o"),
    "fails": (COLOURS["red"], "X"),
    "inconclusive": ("#666666", "D"),
    "no power": ("#999999", "d"),
}


def verdict_rows(judged: Mapping[str, tuple[Claim, Result]]) -> Figure:
    """One row a claim (``grsd.evidence.headlines``): the interval over seeds against the threshold of its rule.

    Every row has its own scale; what the rule allows is shaded green.
    """
    figure, rows = plt.subplots(len(judged), 1, figsize=(8.5, 0.55 * len(judged)), squeeze=False)
    for axes, (claim, result) in zip(rows.flat, judged.values(), strict=True):
        at, rule = claim.judged.threshold, claim.judged
        span = max(result.high, at) - min(result.low, at) or 1.0
        low, high = min(result.low, at) - 0.25 * span, max(result.high, at) + 0.25 * span
        allowed = {"at most": (low, at), "at least": (at, high), "contains": (result.low, result.high)}[rule.direction]
        axes.axvspan(*allowed, color=COLOURS["green"], alpha=0.18, lw=0)
        threshold(axes, rule, horizontal=True)
        verdict = verdict_of(claim, result)
        colour, marker = VERDICTS[verdict]
        ends = (result.estimate, result.low, result.high)
        bar(axes, 0, *ends, horizontal=True, fmt=marker, color=colour, markersize=6)
        axes.set(xlim=(low, high), ylim=(-1, 1), yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=7, pad=1)
        axes.spines["left"].set_visible(False)
        axes.text(-0.02, 0.5, claim.headline, transform=axes.transAxes, ha="right", va="center")
        axes.text(1.02, 0.5, verdict, transform=axes.transAxes, ha="left", va="center", color=colour)
    return figure


def show_verdicts(notebook: str) -> None:
    """Print the claims of a notebook, such as "06_log_shift_invariance", with their stored verdicts: two lines each."""
    known = claims()
    mine = {name: claim for name, claim in known.items() if claim.notebook == notebook}
    if not mine:
        raise ValueError(f"show_verdicts(notebook=...): no claim in data/claims is of {notebook!r:.80}")
    print("\n".join(verdict_lines(mine, results(known=known))))

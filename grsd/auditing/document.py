"""The answers as plain values, by the committed schema: every number with its interval, its power and its runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files

import numpy as np
import xarray as xr

from grsd.auditing.answers import Answer, conditions
from grsd.auditing.choices import Plan
from grsd.auditing.finished import labels
from grsd.auditing.followed import Followed
from grsd.auditing.forecasts import Forecast, forecast
from grsd.auditing.question import Question, size_of
from grsd.auditing.shares import shares_of, weights
from grsd.auditing.verdicts import CLOCK, LAZY, Decision, decide
from grsd.support.provenance import provenance
from grsd.training.labelled import PARTS

VERSION = 1
DIGITS = 12  # significant; the rest is rounding of sums
MANY = 100  # seeds that hardly anybody trains
GRID = 12  # places on the axis of the loss


def schema() -> dict[str, object]:
    """Return the JSON schema of the document."""
    return json.loads((files("grsd.auditing") / "schema.json").read_text())


def document(question: Question, planned: Plan, followed: Sequence[Followed]) -> dict[str, object]:
    """Put all answers together."""
    unit = "groups" if planned.groups > 1 else "runs"
    found = [shares_of(one.found["between"]) for one in followed]
    decided = decide(found, unit, timed=not question.runs)
    answers = conditions(followed) if planned.conditions else []
    ahead, why = _ahead(question, planned, followed)
    plain = {
        "schema": VERSION,
        "versions": provenance()["versions"],
        "question": {
            "model": question.name,
            "parameters": question.parameters,
            "mode": question.mode,
            "loss": question.loss
            if isinstance(question.loss, str)
            else getattr(question.loss, "__name__", "a function"),
            "samples": planned.samples * planned.groups,
            "outputs": size_of(question, 1),
            "runs": len(followed),
            "unit": unit,
            "seeds": list(question.seeds) if not question.runs else [],
            "shell_width": question.shell_width,
        },
        "choices": [asdict(choice) for choice in planned.choices],
        "verdict": {"verdict": decided.verdict, "why": decided.why, "more": decided.more},
        "rules": {name: _rule(rule) for name, rule in (("moved", LAZY), ("growth_share", CLOCK))},
        "numbers": {name: asdict(number) for name, number in decided.numbers.items()},
        "conditions": [asdict(answer) for answer in answers],
        "conditions_missing": None if answers else _missing(question, planned),
        "course": _course(followed, question),
        "forecast": None if ahead is None else asdict(ahead),
        "forecast_missing": why,
        "stopped": [one.stopped for one in followed],
        "next": _next(question, planned, decided, answers, followed),
    }
    return _rounded(plain)


def _ahead(question: Question, planned: Plan, followed: Sequence[Followed]) -> tuple[Forecast | None, str | None]:
    """Forecast by the shells, and where too few of them can be read by the loss alone; or say why not."""
    if question.runs:
        return None, "checkpoints carry no time of gradient flow, which a forecast needs"
    squared, why = question.loss == "mse", ""
    for by_shells in [True, False] if squared and planned.conditions else [squared]:
        try:
            return forecast(followed, by_shells), None
        except (ValueError, TypeError) as error:
            why = " ".join(str(error).split())
    return None, why


def _missing(question: Question, planned: Plan) -> str:
    if question.runs:
        return "not asked: they follow gradient flow, and of a finished training only its states are known"
    return (
        "left out as asked" if planned.route == "dense" else "they need the whole kernel, which does not fit the budget"
    )


def _rule(rule: object) -> dict[str, object]:
    return {name: getattr(rule, name) for name in ("statistic", "direction", "threshold", "reason")}


def _course(followed: Sequence[Followed], question: Question) -> dict[str, object]:
    """Return means over runs along log(loss / first loss): the parts of laziness; and each run's loss."""
    runs = [one.found["between"] for one in followed]
    grid = np.linspace(0.0, -min(_fallen(run) for run in runs), GRID + 1) if _learned(runs) else np.zeros(1)
    name = "laziness" if all("laziness" in run for run in runs) else "laziness_rayleigh"
    parts = {part: [_between(run, name, k, grid) for run in runs] for k, part in enumerate(PARTS) if name in runs[0]}
    return {
        "edges": grid.tolist(),
        **{part: _means(parts[part]) if part in parts else [] for part in PARTS},
        "labels": labels(runs[0]) if question.runs else [],
        "times": [] if question.runs else [[float(t) for t in run.time_after.values] for run in runs],
        "losses": [[float(run.loss_before.values[0]), *map(float, run.loss_after.values)] for run in runs],
    }


def _means(rows: Sequence[np.ndarray]) -> list[float | None]:
    stacked = np.array(rows)
    known = np.isfinite(stacked)
    total, count = np.where(known, stacked, 0.0).sum(0), known.sum(0)
    return [float(t / c) if c else None for t, c in zip(total, count, strict=True)]


def _learned(runs: Sequence[xr.Dataset]) -> bool:
    return min(_fallen(run) for run in runs) > 0.05


def _fallen(run: xr.Dataset) -> float:
    return math.log(float(run.loss_before[0]) / float(run.loss_after[-1]))


def _between(run: xr.Dataset, name: str, part: int, grid: np.ndarray) -> np.ndarray:
    """Return a part's mean in each cell of the grid, each step weighted by how much of the cell's fall it makes."""
    weight, values = weights(run), run[name].values[:, part]
    ends = -np.cumsum(weight)
    starts = ends + weight
    inside = np.minimum(starts[None], grid[:-1, None]) - np.maximum(ends[None], grid[1:, None])
    inside = np.where(np.isfinite(values)[None], np.maximum(inside, 0.0), 0.0)
    total = inside.sum(1)
    mixed = inside @ np.where(np.isfinite(values), values, 0.0)
    return np.divide(mixed, total, out=np.full(len(total), np.nan), where=total > 0)


def _next(
    question: Question, planned: Plan, decided: Decision, answers: Sequence[Answer], followed: Sequence[Followed]
) -> list[str]:
    """Say what to try next, most useful first."""
    said = []
    more = [decided.more, *(answer.number.more for answer in answers)]
    wanted = max((one for one in more if one), default=0)
    if decided.more:
        said.append(
            f"The verdict needs about {decided.more} more {'seeds' if planned.groups == 1 else 'sample groups'}."
        )
    if wanted > (decided.more or 0):
        least = len(followed) + wanted
        most = f"more than {MANY}" if least > MANY else f"about {least}"
        said.append(f"To decide every condition that is open here takes {most} seeds.")
    if any("spent" in one.stopped for one in followed):
        more_time = f"A budget of {2 * question.budget:g} minutes lets the flows go on"
        said.append(f"{more_time}: some ended before the loss had fallen far enough.")
    tried = {
        "lazy": "To leave the lazy regime: a smaller scale of the outputs or of the last layer, or a smaller width.",
        "running clock": "The kernel grows as one: compare with other widths, and with skips added or taken away.",
        "transport": "Energy moves between shells: grsd.shell_history and notebook 06 show which shells exchange it.",
    }
    said.append(tried.get(decided.verdict, "Longer training or more samples narrow the intervals."))
    if not question.runs:
        said.append("Audit checkpoints of your own training too: it may differ from gradient flow.")
    return said


def _rounded(value: object) -> object:
    """Return plain values with 12 significant digits, None for what is not finite."""
    if isinstance(value, dict):
        return {str(name): _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    number = float(value)
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None

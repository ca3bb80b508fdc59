"""How many more seeds would decide: the width of an interval falls as one over the square root of their number."""

from __future__ import annotations

import math

from grsd.support.values import between, real, said

MOST = 10**6


def more_seeds(
    estimate: float, interval: tuple[float, float], threshold: float, seeds: int, *, least: int = 0
) -> float:
    """Return how many more seeds would decide, if the estimate stays where it is: then half of all ensembles do.

    Args:
        estimate, interval: the number that is judged, from ``seeds`` seeds. threshold: what the interval must leave.
        least: the smallest number of seeds that decides whatever the interval is.

    Returns: a whole number, 0 if the interval excludes the threshold and the seeds are enough; infinity if no number
    of seeds below a million would do, or if the interval is not finite.
    """
    call = "more_seeds"
    for name, count, lowest in (("seeds", seeds, 1), ("least", least, 0)):
        between(f"{call}({name}=...)", count, lowest, MOST, "an interval does not need them")
    low, high = _pair(call, interval)
    estimate, threshold = real(estimate), real(threshold)
    distance = abs(estimate - threshold)
    half = estimate - low if estimate > threshold else high - estimate
    if not (math.isfinite(half) and math.isfinite(distance)):
        return math.inf
    if half < distance:
        return float(max(0, least - seeds))
    ratio = half / distance if half < MOST * distance else MOST
    wanted = seeds * ratio**2
    return float(max(least, math.floor(wanted) + 1) - seeds) if wanted < MOST else math.inf


def more_seeds_said(
    estimate: float,
    interval: tuple[float, float],
    threshold: float,
    seeds: int,
    *,
    least: int = 0,
    of: str = "seeds",
) -> str:
    """Return half a sentence for an inconclusive answer: "needs about 12 more seeds, if the estimate stays".

    Empty if more seeds would not change the answer. ``of``: what is counted. Other args as ``more_seeds``.
    """
    more = more_seeds(estimate, interval, threshold, seeds, least=least)
    if not isinstance(of, str):
        raise TypeError(f"more_seeds_said(of=...): expected what is counted, such as 'seeds', got {said(of)}")
    if more == 0:
        return ""
    if math.isfinite(more):
        rounded = int(more) if more < 20 else int(float(f"{more:.2g}"))
        return f"needs about {rounded} more {of if rounded > 1 else of.removesuffix('s')}, if the estimate stays"
    if not all(map(math.isfinite, (*_pair("more_seeds", interval), real(estimate)))):
        return ""
    return f"no number of {of} decides, if the estimate stays"


def _pair(call: str, interval: object) -> tuple[float, float]:
    pair = [real(end) for end in interval] if isinstance(interval, tuple | list) else []
    if len(pair) != 2 or pair[0] > pair[1]:
        raise ValueError(f"{call}(interval=...): expected low <= high, got {said(interval)}")
    return pair[0], pair[1]

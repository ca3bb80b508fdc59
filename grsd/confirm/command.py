"""The commands that write forecasts and measure claims."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

from grsd.confirm import conditions, instruments, renormalization, rigidity, scaling
from grsd.evidence import Claim, Measurement, Recheck, Result, claims, confirm, recheck, results, write_result
from grsd.evidence.tables import path_of
from grsd.folders import one_line
from grsd.progress import bar
from grsd.scaling import bottlenecks, networks

MEASUREMENTS = {
    name: measurement
    for part in (instruments, conditions, renormalization, rigidity, scaling)
    for name, measurement in part.MEASUREMENTS.items()
}


def forecast_claims() -> None:
    """Write what the claims on networks are judged by and is not written yet, for their confirmatory seeds.

    Errors: ``FileExistsError`` where all is written already; before anything is computed.
    """
    rule = claims()["forecast-plain-parity"].judged
    seeds = range(rule.first_seed, rule.first_seed + rule.seeds)
    writers = {item.file: partial(networks.forecast_networks, seeds, name) for name, item in networks.DATA.items()}
    writers[bottlenecks.FILE] = partial(bottlenecks.write_theories, seeds)
    missing = [file for file in writers if not path_of(file, networks.FOLDER).exists()]
    for file in missing or writers:
        writers[file]()


def confirm_claims(names: Sequence[str] = (), among: Collection[str] | None = None) -> list[Result]:
    """Measure ``names`` on confirmatory seeds and store the results.

    Without names: the claims, of all or ``among`` these, that have a rule and no result yet.

    Errors: ``ValueError`` for a claim that has no measurement; before anything is measured.
    """
    known = claims()
    if not names:
        stored = results(measurements=MEASUREMENTS)
        missing = [name for name, claim in known.items() if claim.rule and name not in stored]
        names = [name for name in missing if among is None or name in among]
    for name in names:
        _measurement(known, name)
    found = []
    for name in bar(names, desc="claims", unit="claim"):
        found.append(confirm(known[name], _measurement(known, name)))
        write_result(found[-1])
    return found


def check_claims(names: Sequence[str]) -> Iterator[Recheck]:
    """Measure one seed of each stored result of ``names`` with today's code, one after the other.

    Errors: ``ValueError`` for a claim without a measurement or a result, and for results that do not stand
    (``grsd.evidence.results``); before anything is measured.
    """
    known = claims()
    stored = results(measurements=MEASUREMENTS)
    for name in names:
        _measurement(known, name)
        if name not in stored:
            raise ValueError(f"--check: claim {name} has no result yet; grsd claims --confirm {name}")
    return (recheck(known[name], stored[name], _measurement(known, name)) for name in names)


def _measurement(known: Mapping[str, Claim], name: str) -> Measurement:
    if name not in known or known[name].measurement not in MEASUREMENTS:
        raise ValueError(f"no measurement for claim {one_line(repr(name), 80)}; there are {', '.join(MEASUREMENTS)}")
    return MEASUREMENTS[known[name].measurement]

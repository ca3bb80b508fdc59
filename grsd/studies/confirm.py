"""What each judged claim measures, and the commands that write tables, forecasts and results."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import xarray as xr

from grsd.evidence import Claim, Measurement, Recheck, Result, claims, confirm, recheck, results, write_result
from grsd.evidence.source import commit
from grsd.evidence.tables import path_of, save_table
from grsd.studies.power_law_scaling import bottlenecks, forecasts
from grsd.studies.the_whole_chain import exponents as chain_exponents
from grsd.support.folders import one_line
from grsd.support.progress import bar


def gathered(name: str, package: str = "grsd.studies") -> dict[str, Any]:
    """Return all entries of the dictionaries called ``name`` in the files of ``package``, sorted.

    Errors: ``ValueError`` if two files give an entry different values.
    """
    found, places = {}, {}
    for module in walk_packages(import_module(package).__path__, f"{package}."):
        if module.name == __name__:
            continue
        for key, value in getattr(import_module(module.name), name, {}).items():
            if found.setdefault(key, value) is not value:
                raise ValueError(f"{name}: {key!r} stands in {places[key]} and, another one, in {module.name}")
            places.setdefault(key, module.name)
    return dict(sorted(found.items()))


MEASUREMENTS: dict[str, Measurement] = gathered("MEASUREMENTS")
TABLES: dict[str, Callable[[], xr.Dataset]] = gathered("TABLES")


def write_table(name: str) -> None:
    """Compute one of ``TABLES`` and write it to data/tables, with the commit, the command and the seconds that made it.

    Errors: ``ValueError`` for a table that no study makes; before anything is computed.
    """
    if name not in TABLES:
        raise ValueError(f"write_table(name): expected one of {', '.join(TABLES)}, got {one_line(repr(name), 80)}")
    made_by, begun = {"command": f"grsd data {name}.csv", "commit": commit()}, time.perf_counter()
    table = TABLES[name]()
    save_table(table.assign_attrs(made_by, seconds=round(time.perf_counter() - begun, 1)), name)


def forecast_claims() -> None:
    """Compute and store the forecast files that are still missing, for the confirmatory seeds of the network claims.

    Errors: ``FileExistsError`` if all are written already; before anything is computed.
    """
    first, again = (_seeds_of(claim) for claim in ("forecast-plain-parity", "forecast-plain-growth"))
    writers = {of.file: partial(forecasts.forecast_networks, first, of) for of in forecasts.DATA.values()}
    writers |= {of.file: partial(forecasts.forecast_networks, again, of) for of in forecasts.AGAIN.values()}
    writers[bottlenecks.FILE] = partial(bottlenecks.write_theories, first)
    writers[chain_exponents.FILE] = chain_exponents.write_predictions
    missing = [file for file in writers if not path_of(file, forecasts.FOLDER).exists()]
    for file in missing or writers:
        writers[file]()


def _seeds_of(claim: str) -> range:
    rule = claims()[claim].judged
    return range(rule.first_seed, rule.first_seed + rule.seeds)


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
    if name not in known:
        raise ValueError(f"no claim {one_line(repr(name), 80)} in data/claims; grsd claims lists them")
    measured = known[name].measurement
    if measured not in MEASUREMENTS:
        raise ValueError(
            f"claim {name}: nothing measures it; expected an entry {measured!r} in MEASUREMENTS of a file in "
            "grsd/studies"
        )
    return MEASUREMENTS[measured]

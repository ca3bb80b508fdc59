"""The commands that write forecasts and measure claims."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from grsd.confirm import conditions, instruments, renormalization, rigidity, scaling
from grsd.evidence import Result, claims, confirm, results, write_result
from grsd.studies.scaling import bottlenecks, networks
from grsd.support.progress import bar
from grsd.tables import path_of

MEASUREMENTS = {
    name: measurement
    for part in (instruments, conditions, renormalization, rigidity, scaling)
    for name, measurement in part.MEASUREMENTS.items()
}

REPEATED = {
    "initial-incoherence-64": "initial-incoherence",
    "initial-incoherence-one-output-plain-64": "initial-incoherence-one-output-plain",
    "evolution-depth-residual-32": "evolution-depth-residual",
    "invariance-constructed-300": "invariance-constructed",
}
MEASUREMENTS |= {again: MEASUREMENTS[first] for again, first in REPEATED.items()}


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


def confirm_claims(names: Sequence[str] = ()) -> list[Result]:
    """Measure the claims that have a rule and no result yet (or ``names``) on confirmatory seeds; store the results.

    Errors: ``ValueError`` for a claim that has no measurement; before anything is measured.
    """
    known = claims()
    for name in names:
        if name not in known or name not in MEASUREMENTS:
            raise ValueError(f"no measurement for claim {name!r}; there are {', '.join(MEASUREMENTS)}")
    wanted = names or sorted(MEASUREMENTS.keys() - results().keys())
    found = []
    for name in bar(wanted, desc="claims", unit="claim"):
        measurement = MEASUREMENTS[name]
        found.append(confirm(known[name], measurement.measure, measurement.parameters))
        write_result(found[-1])
    return found

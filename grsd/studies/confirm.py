"""What each judged claim measures, and the commands that write forecasts and results."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from grsd.evidence import Result, claims, confirm, results, write_result
from grsd.studies import (
    calibration,
    gradient_propagation,
    initial_incoherence,
    jacobian_evolution,
    log_shift_invariance,
    power_law_scaling,
    renormalization,
    rigidity,
    shell_dynamics,
)
from grsd.studies.power_law_scaling import bottlenecks, forecasts
from grsd.support.progress import bar
from grsd.tables import path_of

STUDIES = (
    shell_dynamics,
    calibration,
    gradient_propagation,
    initial_incoherence,
    jacobian_evolution,
    log_shift_invariance,
    renormalization,
    rigidity,
    power_law_scaling,
)
MEASUREMENTS = {name: measurement for study in STUDIES for name, measurement in study.MEASUREMENTS.items()}
TABLES = {name: make for study in STUDIES for name, make in getattr(study, "TABLES", {}).items()}

REPEATED = {
    "initial-incoherence-64": "initial-incoherence",
    "initial-incoherence-one-output-plain-64": "initial-incoherence-one-output-plain",
    "evolution-depth-residual-32": "evolution-depth-residual",
    "invariance-constructed-300": "invariance-constructed",
}
MEASUREMENTS |= {again: MEASUREMENTS[first] for again, first in REPEATED.items()}


def forecast_claims() -> None:
    """Compute and store the forecast files that are still missing, for the confirmatory seeds of the network claims.

    Errors: ``FileExistsError`` if all are written already; before anything is computed.
    """
    rule = claims()["forecast-plain-parity"].judged
    seeds = range(rule.first_seed, rule.first_seed + rule.seeds)
    writers = {of.file: partial(forecasts.forecast_networks, seeds, of) for of in forecasts.DATA.values()}
    writers[bottlenecks.FILE] = partial(bottlenecks.write_theories, seeds)
    missing = [file for file in writers if not path_of(file, forecasts.FOLDER).exists()]
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
        found.append(confirm(known[name], measurement, measurement.settings))
        write_result(found[-1])
    return found

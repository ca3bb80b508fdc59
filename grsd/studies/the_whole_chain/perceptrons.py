"""The rows of the perceptrons in the table of notebook 10: depth 16, width 48, the parity of digits, read late."""

from __future__ import annotations

import xarray as xr

from grsd.conditions import covariance
from grsd.conditions.matched import frontier_window, widths_of
from grsd.evidence import Result, claims, results
from grsd.evidence.measurement import plain_values
from grsd.evidence.tables import read_table
from grsd.laws import law_test
from grsd.runs import ensemble
from grsd.studies.stages import LATE, REACH, Block
from grsd.studies.the_whole_chain.links import SEEDS, Link, of_verdict, power_link, undefined
from grsd.studies.the_whole_chain.table import COLUMNS, ROWS, dataset_of
from grsd.support.provenance import provenance

PERCEPTRONS = {"residual perceptron": "residual", "plain perceptron": "plain"}
DEPTH = 16
# The stored claim of each link, and what its number is; all are measured on the same networks.
STORED = {
    "C1": ("gradient-norm-growth-{}", "slope of the largest log norm on log depth, 4 to 64, at most .1"),
    "C2": ("initial-incoherence-same-one-{}", "excess coherence at the start, at most .25"),
    "C3": ("evolution-eta-{}", "eta, at most .1"),
    "C4, growth only": (
        "growth-only-late-{}-16",
        "D_0^2, the share of the squared couplings beyond growth, at most .04",
    ),
    "C4, non-trivial": ("beyond-law-{}-16", "D_rest^2 of the law beyond growth, b free, at most .04"),
    "closure": ("closure-clock-{}-late", "R^2 of the law with one clock under interventions, at least .8"),
}


def block_of(name: str) -> Block:
    """The confirmatory networks of one of ``PERCEPTRONS``."""
    return LATE.block(PERCEPTRONS[name], DEPTH, SEEDS.start)


def stored_link(name: str, link: str) -> Link:
    """A link whose claim was judged on these very networks. Errors: ``ValueError`` if it was judged on others."""
    pattern, says = STORED[link]
    claim = pattern.format(PERCEPTRONS[name])
    if claim not in claims():
        return undefined("nothing beyond growth whose law could be judged")
    found: Result = results()[claim]
    if found.protocol["network"] != plain_values(block_of(name).network) or found.seeds != tuple(SEEDS):
        raise ValueError(f"perceptron_table(): the result of {claim} is of other networks than the row {name!r}")
    return Link(found.verdict, found.estimate, found.low, found.high, says, found.values)


def links_of_perceptron(name: str) -> dict[str, Link]:
    """Every link of one of ``PERCEPTRONS`` on the confirmatory seeds."""
    block = block_of(name)
    followed = ensemble(block.specs, threads=1)
    runs = block.measure()
    window = frontier_window(runs, REACH)
    along = covariance.judge(followed, reach=REACH)
    found = {link: stored_link(name, link) for link in STORED}
    return found | {
        "covariance": of_verdict(along, "D^2 along the run, at most .01"),
        "power law": power_link(law_test(widths_of("links", runs), observable="velocity", window=window)),
        "exponent": undefined("the error of digits has no power law in the eigenvalue from which q could be read"),
    }


def perceptron_table() -> xr.Dataset:
    """``verdict``, ``estimate``, ``low``, ``high`` and ``says`` over (network, link); no cell is empty."""
    found = {name: links_of_perceptron(name) for name in PERCEPTRONS}
    return dataset_of(found).assign_attrs(provenance({"seeds": str(list(SEEDS))}))


def whole_table() -> xr.Dataset:
    """The stored rows of all networks, the perceptrons last."""
    stored = [read_table(name) for name in ("10_the_whole_chain-table", "10_the_whole_chain-perceptrons")]
    joined = xr.concat(stored, dim="network", combine_attrs="drop")
    return joined.sel(network=[*ROWS, *PERCEPTRONS], link=list(COLUMNS))


TABLES = {"10_the_whole_chain-perceptrons": perceptron_table}

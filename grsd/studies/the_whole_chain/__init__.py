"""Notebook 10: a network for which the whole chain holds, link by link, and what breaks it."""

from grsd.evidence import Measurement
from grsd.studies.the_whole_chain.broken import BROKEN, Broken, reading_of_seed
from grsd.studies.the_whole_chain.exponents import Predicted, disagreement
from grsd.studies.the_whole_chain.links import FEW_SEEDS, OfChain, value_of_seed
from grsd.studies.the_whole_chain.networks import NETWORKS
from grsd.studies.the_whole_chain.perceptrons import TABLES as PERCEPTRON_TABLES
from grsd.studies.the_whole_chain.table import TABLES as CHAIN_TABLES
from grsd.studies.the_whole_chain.table import WHOLE

TABLES = CHAIN_TABLES | PERCEPTRON_TABLES

CLAIMED = {
    "chain-gradients": ("C1", 24),
    "chain-start": ("C2", 24),
    "chain-evolution": ("C3", FEW_SEEDS),
    "chain-growth": ("C4", 24),
    "chain-closure": ("closure", FEW_SEEDS),
    "chain-covariance": ("covariance", 24),
    "chain-power-law": ("power law", 24),
}
EXPONENTS = {"chain-exponent": WHOLE, "chain-exponent-two-layers": "two layers"}
PREMISES = {
    "chain-broken-start": ("start, large", "gain"),
    "chain-broken-task": ("task, easy (beta 1.5)", "gain"),
    "chain-broken-target": ("target, kinked", "error"),
    "chain-broken-spectrum": ("spectrum of the error, wiggly", "bend"),
    "chain-broken-directions": ("nothing", "random directions"),
}
MEASUREMENTS = {
    **{
        claim: Measurement(OfChain(NETWORKS[WHOLE], link, runs=runs), value_of_seed)
        for claim, (link, runs) in CLAIMED.items()
    },
    **{claim: Measurement(Predicted(name), disagreement) for claim, name in EXPONENTS.items()},
    **{
        claim: Measurement(Broken(BROKEN[name], reading), reading_of_seed)
        for claim, (name, reading) in PREMISES.items()
    },
}

__all__ = ["CLAIMED", "EXPONENTS", "MEASUREMENTS", "PREMISES", "TABLES", "WHOLE"]

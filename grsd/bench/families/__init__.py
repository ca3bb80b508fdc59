"""One table of model families; for each the kernel is exact, or is refused in one line."""

from grsd.bench.families.attention import ATTENTION
from grsd.bench.families.convolutions import CONVOLUTIONS
from grsd.bench.families.coupled import COUPLED
from grsd.bench.families.family import Family, Refusal, wide
from grsd.bench.families.gradients import GRADIENTS
from grsd.bench.families.language import LANGUAGE
from grsd.bench.families.modern import MODERN
from grsd.bench.families.norms import NORMS
from grsd.bench.families.perceptrons import PERCEPTRONS
from grsd.bench.families.plumbing import PLUMBING
from grsd.bench.families.recurrent import RECURRENT
from grsd.bench.families.structures import STRUCTURES

FAMILIES: dict[str, Family] = (
    PERCEPTRONS
    | CONVOLUTIONS
    | ATTENTION
    | LANGUAGE
    | RECURRENT
    | NORMS
    | GRADIENTS
    | PLUMBING
    | STRUCTURES
    | COUPLED
    | MODERN
)

__all__ = ["FAMILIES", "Family", "Refusal", "wide"]

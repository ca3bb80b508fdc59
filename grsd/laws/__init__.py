"""The shell law fitted to an ensemble of energy budgets, and the test that may refuse it.

The law (C4 of arXiv 2512.18209 in this project's operational form) is one of

    u(s) = [r +] c e^{(b-1)(s - s_0)},        K_ab = T_ab / sqrt(E_a E_b) = kappa(a-b) e^{(b-1)((s_a + s_b)/2 - s_0)},

where s_0 is a reference. Over R runs u is the ratio of sums, sum F / sum eps, since a density can come near zero; K is
the mean of the runs' own K, which for sharp shells is bounded by twice the norm of the rotation between the two. Only
runs are independent units: every interval is a delete-one-run jackknife of the whole fit with Student's (or
Hotelling's) quantile on R - 1 degrees of freedom, and the test flips the signs of the residuals of whole runs.
"""

from typing import TYPE_CHECKING

from grsd.support.lazy import face

if TYPE_CHECKING:
    from grsd.laws.alternatives import ALTERNATIVES, Comparison, compare_laws
    from grsd.laws.beyond import VERDICTS, BeyondGrowth, LawBeyond, beyond_growth
    from grsd.laws.coupling import coupling_law
    from grsd.laws.exponent_tests import Exponents, exponents
    from grsd.laws.fit import LawFit
    from grsd.laws.growth_surrogates import growth_power, growth_surrogate
    from grsd.laws.more_seeds import more_seeds_said
    from grsd.laws.resample import resampled
    from grsd.laws.scaling import PowerLawFit, fit_power_law
    from grsd.laws.signflip import OBSERVABLES, LawTest, judge_observed, law_test, observe
    from grsd.laws.slope import loss_slope
    from grsd.laws.velocity import velocity_law

__all__ = [
    "ALTERNATIVES",
    "OBSERVABLES",
    "VERDICTS",
    "BeyondGrowth",
    "Comparison",
    "Exponents",
    "LawBeyond",
    "LawFit",
    "LawTest",
    "PowerLawFit",
    "beyond_growth",
    "compare_laws",
    "coupling_law",
    "exponents",
    "fit_power_law",
    "growth_power",
    "growth_surrogate",
    "judge_observed",
    "law_test",
    "loss_slope",
    "more_seeds_said",
    "observe",
    "resampled",
    "velocity_law",
]

__getattr__, __dir__ = face(__name__)

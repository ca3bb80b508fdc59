"""What a command writes in the README: findings with their stored numbers, and the times of the notebooks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from grsd.evidence.claim import Claim
from grsd.evidence.result import Result
from grsd.evidence.seconds import cpu_seconds_of
from grsd.evidence.words import verdict_of
from grsd.support.files import write_atomically
from grsd.support.folders import read

ROW = re.compile(r"(?m)^(\| \[\d\d_\w+\]\((notebooks/\d\d_\w+\.ipynb)\) \|.*\|)[^|\n]*\|$")
MARKS = ("<!-- findings: written by grsd claims --readme -->", "<!-- end of findings -->")


@dataclass(frozen=True)
class Finding:
    """A headline, a text with fields such as ``{claim-id.estimate:.2f}``, and the verdict that it relies on per claim.

    A field reads ``estimate``, ``low`` or ``high`` of the claim's result, or ``size``, the estimate without its sign.
    """

    headline: str
    text: str
    notebook: str
    verdicts: Mapping[str, str]


FINDINGS = (
    Finding(
        "Late, the kernel of residual networks grows as a whole, and little else moves energy.",
        "Of the squared couplings that the networks have in common, growth leaves "
        "{growth-only-late-residual-16.estimate:.1%} unexplained (95% interval "
        "{growth-only-late-residual-16.low:.1%} to {growth-only-late-residual-16.high:.1%}), and "
        "{growth-only-late-residual-32.estimate:.1%} at depth 32; in plain networks "
        "{growth-only-late-plain-16.estimate:.0%} and {growth-only-late-plain-32.estimate:.0%}. A growing kernel is "
        "log-shift invariant by itself: this invariance is real but trivial.",
        "06_log_shift_invariance",
        {
            "growth-only-late-residual-16": "holds",
            "growth-only-late-residual-32": "holds",
            "growth-only-late-plain-16": "fails",
            "growth-only-late-plain-32": "fails",
        },
    ),
    Finding(
        "Late residual networks have a closed description.",
        "When the energies of the shells are changed by hand, the energy at a boundary times one clock for the whole "
        "spectrum predicts the flux: $R^2$ = {closure-clock-residual-late.estimate:.2f} "
        "({closure-clock-residual-late.low:.2f} to {closure-clock-residual-late.high:.2f}). In plain networks it does "
        "worse than a constant ({closure-clock-plain-late.estimate:.2f}).",
        "07_renormalization",
        {"closure-clock-residual-late": "holds", "closure-clock-plain-late": "fails"},
    ),
    Finding(
        "Neither kind of perceptron meets all four conditions.",
        "In residual networks the kernel changes ever faster in units of $1/t$ (exponent "
        "{evolution-eta-residual.estimate:.2f}; allowed: 0.1), and with one output the initial fluxes are not "
        "incoherent ({initial-incoherence-same-one-residual.estimate:.2f}; allowed: 0.25). In plain networks the "
        "worst gradients grow with depth (exponent {gradient-norm-growth-plain.estimate:.2f}; allowed: 0.1).",
        "10_the_whole_chain",
        {
            "evolution-eta-residual": "fails",
            "initial-incoherence-same-one-residual": "fails",
            "gradient-norm-growth-plain": "fails",
        },
    ),
    Finding(
        "Linear residual networks keep the whole chain, from the conditions to the loss.",
        "The measured exponent of the loss differs by {chain-exponent.estimate:.3f} "
        "({chain-exponent.low:.3f} to {chain-exponent.high:.3f}) from the one that was written down before.",
        "10_the_whole_chain",
        {
            "chain-exponent": "holds",
            "chain-gradients": "holds",
            "chain-start": "holds",
            "chain-evolution": "holds",
            "chain-growth": "holds",
            "chain-closure": "holds",
            "chain-covariance": "holds",
            "chain-power-law": "holds",
        },
    ),
    Finding(
        "Growth is also what improves a forecast of the loss.",
        "Over the next decade of time, on average over two tasks per data set, a kernel that keeps growing forecasts "
        "better than a frozen one, by {forecast-patches-residual-clock.size:.3f} to "
        "{forecast-patches-plain-clock.size:.2f} in mean |log(forecast / loss)|.",
        "09_power_law_scaling",
        {
            "forecast-residual-clock": "holds",
            "forecast-plain-clock": "holds",
            "forecast-patches-residual-clock": "holds",
            "forecast-patches-plain-clock": "holds",
        },
    ),
    Finding(
        "What skip connections change depends on the network.",
        "On digits growth makes up more of the squared flux with skips than without: by "
        "{skips-growth-share-gated-perceptron-digits.estimate:.2f} in gated perceptrons, "
        "{skips-growth-share-state-space-digits.estimate:.2f} in state-space models, "
        "{skips-growth-share-vit-digits.estimate:.2f} in transformers, only "
        "{skips-growth-share-resnet-digits.estimate:.3f} in ResNets. On photographs ResNets show the reverse "
        "({skips-growth-share-resnet-patches.estimate:.3f}). Under Adam only the first two keep a clear difference on "
        "digits. Growth explains {above-control-gated-perceptron-scale-sixteenth.estimate:.2f} more of a gated "
        "perceptron's flux than of a flux without growth when learning is rich, "
        "{above-control-gated-perceptron-scale-sixteen.size:.2f} less when lazy.",
        "12_architectures",
        {
            "skips-growth-share-gated-perceptron-digits": "holds",
            "skips-growth-share-state-space-digits": "holds",
            "skips-growth-share-vit-digits": "holds",
            "skips-growth-share-resnet-digits": "holds",
            "skips-growth-share-resnet-patches": "fails",
            "skips-growth-share-adam-gated-perceptron-digits": "holds",
            "skips-growth-share-adam-state-space-digits": "holds",
            "skips-growth-share-adam-vit-digits": "inconclusive",
            "skips-growth-share-adam-resnet-digits": "inconclusive",
            "above-control-gated-perceptron-scale-sixteenth": "holds",
            "above-control-gated-perceptron-scale-sixteen": "fails",
        },
    ),
)


def findings_list(
    chosen: Mapping[str, Claim], judged: Mapping[str, Result], findings: Sequence[Finding] = FINDINGS
) -> str:
    """Return the findings as a numbered Markdown list with their numbers.

    Errors: ``ValueError`` if a claim has no result or its verdict is not the one that the text relies on.
    """
    numbers = {
        name: SimpleNamespace(estimate=one.estimate, low=one.low, high=one.high, size=abs(one.estimate))
        for name, one in judged.items()
    }
    items = []
    for number, finding in enumerate(findings, 1):
        for name, expected in finding.verdicts.items():
            got = verdict_of(chosen[name], judged[name]) if name in judged else "no result"
            if got != expected:
                raise ValueError(
                    f"--readme: finding {number} relies on claim {name}: expected {expected}, got {got}; "
                    "reword it in grsd/evidence/findings.py"
                )
        text = finding.text.format_map(numbers)
        where = f"[notebook {finding.notebook[:2]}](notebooks/{finding.notebook}.ipynb)"
        items.append(f"{number}. **{finding.headline}** {text} ({where})")
    return "\n".join(items)


def write_findings(
    readme: Path,
    chosen: Mapping[str, Claim],
    judged: Mapping[str, Result],
    findings: Sequence[Finding] = FINDINGS,
) -> None:
    """Put ``findings_list`` between the two marks of a README, and times in its table of the notebooks.

    Errors: ``ValueError`` if a mark is missing.
    """
    text = read(readme)
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise ValueError(f"{readme.name}: expected the marks {MARKS[0]} and {MARKS[1]} around the findings")
    written = f"{before}{begin}\n{findings_list(chosen, judged, findings)}\n{end}{after}"
    write_atomically(readme, with_times(written, readme.parent).encode())


def with_times(text: str, root: Path) -> str:
    """Return the text with the CPU time in the last cell of each row that begins with a link to a notebook.

    The times are rounded to ten seconds; a row stays as it is if its notebook under ``root`` records none.
    """

    def row(found: re.Match[str]) -> str:
        seconds = cpu_seconds_of(root / found[2])
        return found[0] if seconds is None else f"{found[1]} {max(10 * round(seconds / 10), 10)} s |"

    return ROW.sub(row, text)

"""The claims of a notebook with their verdicts, in print."""

from __future__ import annotations

from grsd.evidence import claims, results, verdict_lines


def show_verdicts(notebook: str) -> None:
    """Print the claims of a notebook, such as "06_log_shift_invariance", with their stored verdicts: two lines each."""
    known = claims()
    mine = {name: claim for name, claim in known.items() if claim.notebook == notebook}
    if not mine:
        raise ValueError(f"show_verdicts(notebook=...): no claim in data/claims is of {notebook!r:.80}")
    print("\n".join(verdict_lines(mine, results(known=known))))

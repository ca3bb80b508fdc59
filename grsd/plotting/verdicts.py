"""The claims of a notebook with their verdicts, as a table."""

from __future__ import annotations

from grsd.evidence import claims, results, verdict_lines, verdict_table, wrapped


class Verdicts:
    """Claims with their stored verdicts: a Markdown table in a notebook, lines of 80 columns elsewhere."""

    def __init__(self, notebook: str) -> None:
        known = claims()
        self._mine = {name: claim for name, claim in known.items() if claim.notebook == notebook}
        if not self._mine:
            raise ValueError(
                "show_verdicts(notebook=...): expected the name of a file in data/claims without .yaml, such as "
                f"'06_log_shift_invariance', got {notebook!r:.80}"
            )
        self._judged = results(known=known)

    def _repr_markdown_(self) -> str:
        return verdict_table(self._mine, self._judged)

    def __repr__(self) -> str:
        lines = zip(verdict_lines(self._mine, self._judged), ("  ", "    ") * len(self._mine), strict=True)
        return "\n".join(part for line, indent in lines for part in wrapped(line, indent))


def show_verdicts(notebook: str) -> Verdicts:
    """Return the claims of a notebook, such as "06_log_shift_invariance", with their stored verdicts, to be shown.

    Errors: ``ValueError`` if no claim belongs to that notebook.
    """
    return Verdicts(notebook)

"""Which networks a notebook trains, known before it runs: from its parameters alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from grsd.plan import NotebookRun, Refused, defaults_in
from grsd.runs import Spec
from grsd.studies.stages import quick
from grsd.support.values import instance

QUICK = ("06", "07", "08")  # these train the cells of a quick stage; the others train inside their own job


def needed(run: NotebookRun) -> list[Spec]:
    """Return the specs that the notebook of ``run`` reads, without running it; none for a notebook that lists none.

    Errors: ``Refused`` in one line for parameters of which no experiment can be made.
    """
    instance("needed", "run", run, NotebookRun, "a notebook to run, as of grsd.plan.plan")
    if run.notebook.stem[:2] not in QUICK:
        return []
    return specs_of(run.notebook, run.parameters)


def specs_of(notebook: Path, parameters: Mapping[str, object]) -> list[Spec]:
    """Return the specs of a notebook's quick stage: its own parameters, with ``parameters`` in their place."""
    values = defaults_in(notebook) | dict(parameters)
    try:
        stage = quick(
            samples=values["samples"],
            width=values["width"],
            seeds=values["seeds"],
            times=(values["first"], values["last"], values["snapshots"]),
            tolerance=values["tolerance"],
            device=values["device"],
            log_loss=values["log_loss"],
        )
        return [spec for block in stage.cells(values["depths"], 0).values() for spec in block.specs]
    except KeyError as error:
        raise Refused(f"{notebook.stem}: no parameter {error}, of which its runs are made") from None
    except (ValueError, TypeError) as error:
        raise Refused(f"{notebook.stem}: {error}") from None

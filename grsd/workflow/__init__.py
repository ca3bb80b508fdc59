"""The notebooks and their runs as jobs of Snakemake: on the cores of one machine, on its GPUs, or on SLURM."""

from typing import TYPE_CHECKING

from grsd.support.lazy import face

if TYPE_CHECKING:
    from grsd.workflow.command import workflow
    from grsd.workflow.jobs import Jobs, jobs_of
    from grsd.workflow.needs import needed

__all__ = ["Jobs", "jobs_of", "needed", "workflow"]

__getattr__, __dir__ = face(__name__)

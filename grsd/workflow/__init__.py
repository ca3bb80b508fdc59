"""The notebooks and their runs as jobs of Snakemake: on the cores of one machine, on its GPUs, or on SLURM."""

from typing import TYPE_CHECKING

from grsd.support.lazy import face

if TYPE_CHECKING:
    from grsd.workflow.command import workflow
    from grsd.workflow.gpus import GPUS, Gpu, gpu_named, resnet18_table
    from grsd.workflow.jobs import Jobs, jobs_of
    from grsd.workflow.needs import needed
    from grsd.workflow.scale import Cost, predicted, report

__all__ = [
    "GPUS",
    "Cost",
    "Gpu",
    "Jobs",
    "gpu_named",
    "jobs_of",
    "needed",
    "predicted",
    "report",
    "resnet18_table",
    "workflow",
]

__getattr__, __dir__ = face(__name__)

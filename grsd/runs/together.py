"""Compute several runs of one family at once, and store each as if it had been run alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import xarray as xr

from grsd.flow.questions import Course
from grsd.flow.stacked import most
from grsd.flow.together import answered_together
from grsd.runs.compute import described, identity, keep, random_state
from grsd.runs.family import Family, family_of
from grsd.runs.leftovers import WORK
from grsd.runs.spec import Spec
from grsd.runs.store import Scratch, load, unheld
from grsd.runs.training import course, train
from grsd.support.pinned import pinned

Stored = tuple[Path | None, xr.Dataset, float]


def store_together(specs: Sequence[Spec], folder: Path, threads: int) -> list[Stored | Exception | None]:
    """Compute specs of one family at once; return (file, dataset, seconds) of each, as ``obtain`` does.

    Each is stored as soon as it ends, with its own checkpoints on the way, and has the bits that it has alone. The
    exception that ended it stands for one that failed. ``None`` stands for one that is left to ``obtain``: it is stored
    already, another process is computing it, or its network is another one. The seconds are those of the whole batch,
    divided by its runs.
    """
    begun = time.perf_counter()
    with pinned(threads, 0):
        try:
            (folder / WORK).mkdir(parents=True, exist_ok=True)
            family = family_of(specs[0])
        except (MemoryError, torch.OutOfMemoryError, OSError):  # each run raises its own
            family = None
        if family is None:
            return [None] * len(specs)
        courses = [_stored(spec, family, folder, threads, len(specs)) for spec in specs]
        found = answered_together(family.stacked, courses)
    number = sum(isinstance(one, tuple) for one in found)
    each = (time.perf_counter() - begun) / max(1, number)
    return [(*one, each) if isinstance(one, tuple) else one for one in found]


def _stored(
    spec: Spec, family: Family, folder: Path, threads: int, company: int
) -> Course[tuple[Path | None, xr.Dataset] | None]:
    stem, marks = identity(spec, train, threads)
    with unheld(folder / WORK / f"{stem}.lock") as free:
        if not free or load(folder, stem, marks) is not None:
            return None
        with pinned(threads, random_state(spec)):
            member = family.member(spec)
        if member is None:
            return None
        scratch = Scratch(folder / WORK / stem, marks)
        result = yield from course(spec, member, scratch, progress=False, company=company)
        found = keep(described(result, threads).assign_attrs(marks), folder, stem, scratch)
        if found[0] is not None:
            scratch.clear()
        return found


def train_together(specs: Sequence[Spec]) -> list[xr.Dataset]:
    """Return ``train`` of each of ``specs``, those of one family at once; nothing is stored.

    Errors: as ``train``, of the first that fails.
    """
    threads = torch.get_num_threads()
    found: list[xr.Dataset | Exception | None] = [None] * len(specs)
    for task in batches(specs, range(len(specs)), train, threads, 1):
        family = family_of(specs[task[0]]) if len(task) > 1 else None
        flows = {} if family is None else {index: family.member(specs[index]) for index in task}
        members = {index: member for index, member in flows.items() if member is not None}
        if members:
            courses = [course(specs[index], member, None, progress=False) for index, member in members.items()]
            for index, one in zip(members, answered_together(family.stacked, courses), strict=True):
                if isinstance(one, Exception):
                    raise one
                found[index] = one
    return [train(spec, progress=False) if one is None else one for spec, one in zip(specs, found, strict=True)]


def batches(
    specs: Sequence[object], chosen: Sequence[int], function: Callable, threads: int, workers: int
) -> list[list[int]]:
    """Divide the positions ``chosen`` among ``specs`` into tasks: families together, all else one by one."""
    share = math.ceil(len(chosen) / workers)
    families: dict[object, list[int]] = {}
    for index in chosen:
        spec = specs[index]
        alike = replace(spec, seed=0) if function is train and isinstance(spec, Spec) else index
        families.setdefault(alike, []).append(index)
    found = []
    for alike, own in families.items():
        each = min(most(alike.device), share) if len(own) > 1 and _is_family(alike, threads) else 1
        found += [own[start : start + each] for start in range(0, len(own), each)]
    return found


def _is_family(spec: Spec, threads: int) -> bool:
    try:
        with pinned(threads, 0):
            return family_of(spec) is not None
    except (MemoryError, torch.OutOfMemoryError, OSError):  # each run raises its own
        return False

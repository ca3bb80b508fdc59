"""Data sets that are fetched only when the user asks: their files, where they lie, and what is wrong with them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grsd.datasets.registry import DataNotFound
from grsd.support.files import read_file
from grsd.support.folders import one_line
from grsd.support.values import said

VARIABLE = "GRSD_DATA"
LARGEST = 2**30
MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
FASHION = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"


@dataclass(frozen=True)
class File:
    """A file as its publisher serves it. ``sha256``, ``size`` in bytes: ``None`` if the publisher states none."""

    url: str
    sha256: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def refuse(self, payload: bytes, where: str, what: str) -> None:
        """Refuse bytes that are not the published ones. ``what``: what to do. Errors: ``ValueError`` in one line."""
        if self.size is not None and len(payload) < self.size:
            raise ValueError(f"{where} is cut: it has {len(payload)} of {self.size} bytes; {what}")
        if self.sha256 is not None and (found := hashlib.sha256(payload).hexdigest()) != self.sha256:
            raise ValueError(f"{where} is damaged: its sha256 is {found[:12]}..., not {self.sha256[:12]}...; {what}")


@dataclass(frozen=True)
class Remote:
    """A data set of which this machine keeps a copy, if the user fetched one.

    Attributes:
        name: as it is registered.
        shown: what it is.
        samples: number of images in the copy.
        files: what its publisher serves. If these have no known sha256, the copy is a subset of the first file, under
            a name that holds its own sha256.
    """

    name: str
    shown: str
    samples: int
    files: tuple[File, ...]

    @property
    def published(self) -> bool:
        """Whether the publisher's own files are kept, checked against their published sha256."""
        return all(file.sha256 for file in self.files)

    @property
    def folder(self) -> Path:
        return data_folder() / self.name

    def content(self) -> str:
        """Return the sha256 of what is read, as the registry asks (``grsd.datasets.registry.Source``)."""
        if self.published:
            return " ".join(str(file.sha256) for file in self.files)
        return max((kept[1] for kept in self._subsets()), default="not there")

    def require(self) -> None:
        """Return if the copy is there. Its bytes are checked when they are read. Errors: ``DataNotFound``."""
        named, folder = os.environ.get(VARIABLE), data_folder()
        if named and not folder.is_dir():
            raise DataNotFound(f"{self.name}: {VARIABLE} names {one_line(named)}, which is not a folder")
        if missing := next((path for path in self.paths() if not path.is_file()), None):
            raise DataNotFound(
                f"{self.name}: it is not on this machine, there is no {one_line(missing)}; fetch it with: grsd data "
                f"fetch {self.name}"
            )

    def payloads(self) -> list[bytes]:
        """Return the bytes of the copy's files, checked. Errors: ``DataNotFound``; ``ValueError`` if damaged."""
        self.require()
        again = f"fetch it again with: grsd data fetch {self.name}"
        payloads = []
        for path, file in zip(self.paths(), self.kept_files(), strict=True):
            try:
                payload = read_file(path, LARGEST)
            except OSError as error:
                raise ValueError(f"{self.name}: {one_line(path)} cannot be read ({error.strerror})") from None
            file.refuse(payload, f"{self.name}: {one_line(path)}", again)
            payloads.append(payload)
        return payloads

    def kept_files(self) -> tuple[File, ...]:
        """Return the files of the copy, with the sha256 that they must have."""
        if self.published:
            return self.files
        found = max(self._subsets(), key=lambda kept: kept[1], default=None)
        return (File(self.subset_name("*")),) if found is None else (File(found[0].name, found[1]),)

    def paths(self) -> list[Path]:
        return [self.folder / file.name for file in self.kept_files()]

    def subset_name(self, digest: str) -> str:
        return f"{self.name}-{digest}.npz"

    def _subsets(self) -> Iterator[tuple[Path, str]]:
        pattern = re.compile(re.escape(self.subset_name("X")).replace("X", "([0-9a-f]{64})"))
        for path in sorted(self.folder.glob(self.subset_name("*"))):
            if match := pattern.fullmatch(path.name):
                yield path, match[1]


def data_folder() -> Path:
    """Return where fetched data sets lie: $GRSD_DATA, else the user's cache folder. It is not created."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    import pooch

    return Path(pooch.os_cache("grsd"))


def known(name: str) -> Remote:
    """Return the entry of a name. Errors: ``ValueError`` for a set that nobody needs to fetch."""
    if not isinstance(name, str) or name not in SETS:
        raise ValueError(f"fetch: expected one of {', '.join(SETS)} (others need no fetching), got {said(name)}")
    return SETS[name]


SETS = {
    remote.name: remote
    for remote in (
        Remote(
            "cifar10",
            "50000 colour photographs of 32 x 32 in ten classes",
            50_000,
            (
                File(
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    170_052_171,
                ),
            ),
        ),
        Remote(
            "cifar5m",
            "50000 synthetic images like those of CIFAR-10",
            50_000,
            (File("https://storage.googleapis.com/gresearch/cifar5m/part0.npz"),),
        ),
        Remote(
            "mnist",
            "60000 handwritten digits of 28 x 28",
            60_000,
            (
                File(
                    f"{MNIST}train-images-idx3-ubyte.gz",
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                    9_912_422,
                ),
                File(
                    f"{MNIST}train-labels-idx1-ubyte.gz",
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                    28_881,
                ),
            ),
        ),
        Remote(
            "fashion-mnist",
            "60000 grey pictures of clothes, 28 x 28, in ten classes",
            60_000,
            (
                File(
                    f"{FASHION}train-images-idx3-ubyte.gz",
                    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    26_421_880,
                ),
                File(
                    f"{FASHION}train-labels-idx1-ubyte.gz",
                    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                    29_515,
                ),
            ),
        ),
    )
}

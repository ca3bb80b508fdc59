"""Read images and labels from the formats in which data sets are published; nothing in them is executed or unpacked.

Every function takes a file's bytes and returns arrays of uint8: images (N, d), a channel after the other, each row by
row; labels (N,), 0 to 9. Errors: ``ValueError`` in one line that says what the bytes are not.
"""

from __future__ import annotations

import gzip
import io
import math
import tarfile
import zipfile
import zlib

import numpy as np

SIDE, CHANNELS = 32, 3
PIXELS = CHANNELS * SIDE**2
BATCHES = tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6))
UNREADABLE = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, KeyError, RuntimeError)


def read_cifar(archive: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read CIFAR-10's binary version: in each of five members, records of a label and 3072 pixels."""
    batches = []
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
            for name in BATCHES:
                file = members.extractfile(name)
                batches.append(b"" if file is None else file.read())
    except UNREADABLE as error:
        raise ValueError(f"expected CIFAR-10's binary version, a tar.gz with {BATCHES[0]}: {_said(error)}") from None
    if any(len(batch) % (PIXELS + 1) or not batch for batch in batches):
        raise ValueError(f"expected records of {PIXELS + 1} bytes in {BATCHES[0]} and the other four")
    records = np.frombuffer(b"".join(batches), np.uint8).reshape(-1, PIXELS + 1)
    return records[:, 1:], _labels(records[:, 0])


def read_idx(images: bytes, labels: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read MNIST's format: gzip files of a magic number, the sizes, and bytes."""
    pixels, classes = _idx(images, 3), _labels(_idx(labels, 1))
    if len(pixels) != len(classes):
        raise ValueError(f"expected a label for each of {len(pixels)} images, found {len(classes)}")
    return pixels.reshape(len(pixels), -1), classes


def read_cifar5m(part: io.BufferedIOBase, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the first ``samples`` images of a part of CIFAR-5M: an npz with X (n, 32, 32, 3) and Y (n,).

    ``part`` is an open file: only the beginning of its 3 GB is read.
    """
    try:
        with zipfile.ZipFile(part) as archive:
            with archive.open("X.npy") as member:
                shape, fortran, kind = _header(member)
                if len(shape) != 4 or shape[1:] != (SIDE, SIDE, CHANNELS) or fortran or kind != np.uint8:
                    raise ValueError(f"expected X of shape (n, 32, 32, 3) and uint8, found {shape} and {kind}")
                if shape[0] < samples:
                    raise ValueError(f"expected at least {samples} images, found {shape[0]}")
                pixels = np.frombuffer(member.read(samples * PIXELS), np.uint8)
            with archive.open("Y.npy") as member:
                shape, _, kind = _header(member)
                if len(shape) != 1 or shape[0] < samples or kind.kind not in "iu":
                    raise ValueError(f"expected Y of at least {samples} whole numbers, found {shape} and {kind}")
                classes = np.frombuffer(member.read(samples * kind.itemsize), kind)
    except UNREADABLE as error:
        raise ValueError(f"expected a part of CIFAR-5M, an npz with X and Y: {_said(error)}") from None
    if len(pixels) < samples * PIXELS or len(classes) < samples:
        raise ValueError(f"it ends before {samples} images")
    images = pixels.reshape(samples, SIDE, SIDE, CHANNELS).transpose(0, 3, 1, 2).reshape(samples, PIXELS)
    return np.ascontiguousarray(images), _labels(classes)


def write_subset(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Return an npz of ``images`` and ``labels``; equal arrays give equal bytes."""
    file = io.BytesIO()
    np.savez(file, images=images, labels=labels)
    return file.getvalue()


def read_subset(payload: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read what ``write_subset`` wrote."""
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        return arrays["images"], _labels(arrays["labels"])


def _idx(packed: bytes, dimensions: int) -> np.ndarray:
    try:
        content = gzip.decompress(packed)
    except UNREADABLE as error:
        raise ValueError(f"expected a gzip file of the idx format: {_said(error)}") from None
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"expected the idx format with {dimensions} dimensions of bytes, it begins {content[:4]!r}")
    sizes = np.frombuffer(content[4:start], ">u4").tolist()
    if len(content) - start != math.prod(sizes):
        raise ValueError(f"expected {math.prod(sizes)} bytes after the sizes {sizes}, found {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _labels(values: np.ndarray) -> np.ndarray:
    if not set(np.unique(values).tolist()) <= set(range(10)):
        raise ValueError(f"expected labels from 0 to 9, found {values.min()} to {values.max()}")
    return values.astype(np.uint8)


def _header(member: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of an npy file. A header never makes an object: it is a literal of shape, order and dtype."""
    version = np.lib.format.read_magic(member)
    reads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in reads:
        raise ValueError(f"expected an npy file of version 1 or 2, found {version}")
    try:
        return reads[version](member)
    except ValueError as error:
        raise ValueError(f"expected the header of an npy file: {_said(error)}") from None


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__

"""Fetch a data set because the user asks: download it, or take files that lie on this machine already."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from grsd.datasets.readers import read_cifar5m, write_subset
from grsd.datasets.registry import DataNotFound
from grsd.datasets.remote import LARGEST, SETS, VARIABLE, File, Remote, data_folder, known
from grsd.support.files import read_file, write_atomically
from grsd.support.folders import one_line, writable
from grsd.support.progress import headless
from grsd.support.values import said

RETRIES, SECONDS, CHUNK = 2, 30, 2**20


def fetch(name: str, source: str | os.PathLike | None = None) -> Path:
    """Bring a data set to this machine and return its folder; what is there already, and whole, stays.

    This is the only call of the package that reaches the network, and only if ``source`` is ``None``. Everything is
    checked against the published sha256 before it is kept; CIFAR-5M has none, its subset keeps its own.

    Args:
        name: "cifar10", "cifar5m", "mnist" or "fashion-mnist".
        source: a folder that holds the publisher's files, as downloaded elsewhere; ``None``: the publisher.

    Returns: the folder of the set in $GRSD_DATA, else in the user's cache folder.
    Errors: ``ValueError`` for an unknown name, a folder without the files, files that are cut or damaged, and a place
    that cannot be written; ``OSError`` for a download that fails. One line each.
    """
    remote = known(name)
    if source is not None:
        source = _folder(source)
    folder = writable(VARIABLE if os.environ.get(VARIABLE) else "fetch", remote.folder)
    if _whole(remote):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in remote.files:
            if remote.published:
                _keep(remote, file, source)
            else:
                _keep_subset(remote, file, source)
    except OSError as error:
        if error.strerror is None:
            raise
        raise OSError(f"{name}: {one_line(error.filename or folder)} cannot be written: {error.strerror}") from None
    return folder


def listing() -> list[str]:
    """Return a line per data set that can be fetched: what it is, its size, and whether it is here."""
    lines = []
    for remote in SETS.values():
        try:
            remote.require()
            here = "here"
        except DataNotFound:
            here = "not here"
        lines.append(f"{remote.name}: {remote.shown} ({_size(*remote.files)}): {here}")
    return [*lines, f"kept in {one_line(data_folder())}"]


def _whole(remote: Remote) -> bool:
    try:
        remote.payloads()
    except (ValueError, DataNotFound):
        return False
    return True


def _folder(source: str | os.PathLike) -> Path:
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"fetch(source=...): expected a folder's path, got {said(source)}")
    if not os.path.isdir(source):
        raise ValueError(f"--from: there is no folder {one_line(source)}")
    return Path(source)


def _found(remote: Remote, file: File, source: Path) -> Path:
    """Return where ``file`` lies in a folder, or in its part for this set."""
    for path in (source / remote.name / file.name, source / file.name):
        if path.is_file():
            return path
    raise ValueError(f"--from: there is no {file.name} in {one_line(source)}; it comes from {file.url}")


def _keep(remote: Remote, file: File, source: Path | None) -> None:
    path = remote.folder / file.name
    if source is None:
        _download(remote, file, path)
        return
    found = _found(remote, file, source)
    try:
        payload = read_file(found, LARGEST)
    except OSError as error:
        raise ValueError(f"--from: {one_line(found)} cannot be read ({error.strerror})") from None
    file.refuse(payload, f"--from: {one_line(found)}", f"download it again from {file.url}")
    write_atomically(path, payload)


def _keep_subset(remote: Remote, file: File, source: Path | None) -> None:
    """Keep the first images of a file that is too large to keep, and remove what was downloaded for that."""
    path = remote.folder / file.name if source is None else _found(remote, file, source)
    if source is None:
        _download(remote, file, path)
    try:
        with open(path, "rb") as part:
            payload = write_subset(*read_cifar5m(part, remote.samples))
    except ValueError as error:
        raise ValueError(f"{remote.name}: {one_line(path)}: {error}; download it again from {file.url}") from None
    finally:
        if source is None:
            path.unlink(missing_ok=True)
    kept = write_atomically(remote.folder / remote.subset_name(hashlib.sha256(payload).hexdigest()), payload)
    for other in remote.folder.glob(remote.subset_name("*")):
        if other != kept:
            other.unlink()


def _download(remote: Remote, file: File, path: Path) -> None:
    """Download a file through pooch: to a temporary file, checked, then renamed; a few attempts."""
    import pooch
    import requests

    print(f"{remote.name}: downloading {file.url} ({_size(file)})", flush=True)
    pooch.get_logger().setLevel("ERROR")
    digest = None if file.sha256 is None else f"sha256:{file.sha256}"
    names, urls = {file.name: digest}, {file.name: file.url}
    archive = pooch.create(path.parent, base_url="", registry=names, urls=urls, retry_if_failed=RETRIES)
    shown = sys.stderr.isatty() and not headless()
    plain = {"Accept-Encoding": "identity"}  # a server that unpacks on the way would send other bytes
    loader = pooch.HTTPDownloader(progressbar=shown, chunk_size=CHUNK, timeout=SECONDS, headers=plain)
    try:
        archive.fetch(file.name, downloader=loader)
    except requests.RequestException as error:
        raise OSError(
            f"{remote.name}: {file.url} cannot be downloaded: {_reason(error)}; download it elsewhere, then: grsd data "
            f"fetch {remote.name} --from FOLDER"
        ) from None
    except ValueError:
        raise OSError(
            f"{remote.name}: what came from {file.url} is not the published file (its sha256 differs: cut on the way, "
            "or another file); nothing was kept"
        ) from None


def _reason(error: Exception) -> str:
    import requests

    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code} {one_line(response.reason, 40)}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {SECONDS} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke on the way"
    return "no connection"


def _size(*files: File) -> str:
    sizes = [file.size for file in files]
    return "3 GB" if None in sizes else f"{sum(filter(None, sizes)) / 1e6:.0f} MB"

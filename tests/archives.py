"""Tiny archives in the formats of the published data sets, and a server on this machine that hands them out."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from grsd.datasets import remote
from grsd.datasets.readers import BATCHES, PIXELS

SAMPLES = 40


def pictures(pixels, seed=0, samples=SAMPLES):
    """Random images (N, pixels) and labels (N,), all ten of them."""
    chance = np.random.default_rng(seed)
    return chance.integers(0, 256, (samples, pixels), np.uint8), chance.permutation(np.arange(samples) % 10)


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def cifar(images, labels):
    records = np.concatenate([labels[:, None].astype(np.uint8), images], axis=1)
    parts = np.array_split(records, len(BATCHES))
    return tar({name: part.tobytes() for name, part in zip(BATCHES, parts, strict=True)} | {"x/readme.html": b"<html>"})


def idx(values):
    head = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(head + values.astype(np.uint8).tobytes())


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def cifar5m(images, labels):
    upright = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return npz(X=np.ascontiguousarray(upright), Y=labels)


@cache  # a gzip file holds the time at which it was made
def contents():
    """The files of every set that is fetched, by the name of the set, in the order of its entry."""
    grey, names = pictures(784), {}
    for number, name in enumerate(("mnist", "fashion-mnist")):
        grey = pictures(784, number)
        names[name] = [idx(grey[0].reshape(-1, 28, 28)), idx(grey[1])]
    images, labels = pictures(PIXELS)
    more = pictures(PIXELS, 1, SAMPLES + 7)
    return names | {"cifar10": [cifar(images, labels)], "cifar5m": [cifar5m(*more)]}


def entries(address="http://127.0.0.1:9/"):
    """``SETS`` with the tiny files in place of the published ones; nothing listens on port 9."""
    sets = {}
    for name, found in remote.SETS.items():
        payloads = contents()[name]
        files = []
        for file, payload in zip(found.files, payloads, strict=True):
            known = {"sha256": hashlib.sha256(payload).hexdigest(), "size": len(payload)} if file.sha256 else {}
            files.append(remote.File(f"{address}{name}/{file.name}", **known))
        sets[name] = replace(found, samples=SAMPLES, files=tuple(files))
    return sets


@contextmanager
def served(pages):
    """Serve ``pages`` (bytes by path) on 127.0.0.1; yield the address and the list of paths that were asked for.

    A page that is a number is that HTTP error; one that is a pair of bytes and a number promises so many bytes.
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            page = pages.get(self.path, 404)
            if isinstance(page, int):
                self.send_error(page)
                return
            payload, length = page if isinstance(page, tuple) else (page, len(page))
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

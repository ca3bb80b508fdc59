"""Chromium, and what a page did in it: errors, requests that left this machine, pictures that are none."""

import os
import re
import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
PATIENCE = 240_000  # milliseconds; a busy machine is slow, and no test depends on it
HERE = {"127.0.0.1", "localhost", "::1"}


@pytest.fixture(scope="session")
def chromium():
    """The browser; without one the tests are skipped, unless BROWSER_TESTS=required, which .ci/run sets."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        said = f"none of {', '.join(NAMES)} is installed (on Debian: apt-get install chromium)"
        if os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail(said)
        pytest.skip(said)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=OPTIONS.split())
        yield browser
        browser.close()


@pytest.fixture
def watched(chromium):
    """``with watched(color_scheme="dark") as (page, complaints)``: a page, and what went wrong on it."""

    @contextmanager
    def opened(**settings):
        context = chromium.new_context(**settings)
        complaints = []
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        context.route("**/*", lambda route: answer(route, complaints))
        page.on("console", lambda said: said.type == "error" and complaints.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("requestfailed", lambda asked: complaints.append(f"failed: {asked.url} {asked.failure}"))
        yield page, complaints
        context.close()

    return opened


def answer(route, complaints):
    """Let through what stays on this machine; anything else is refused and written down."""
    address = urlsplit(route.request.url)
    if address.scheme in {"file", "data", "blob"} or address.hostname in HERE:
        route.continue_()
    else:
        complaints.append(f"off this machine: {route.request.url}")
        route.abort()


@pytest.fixture(scope="session")
def plain():
    """Drop what a browser says of its own accord; the rest of the complaints are the page's."""
    return lambda complaints, *harmless: [
        said for said in complaints if not any(re.search(pattern, said) for pattern in harmless)
    ]

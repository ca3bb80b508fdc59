"""The book in a browser: no page has an error, a broken link or picture, or a formula left as text."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import grsd
from grsd.evidence import claims
from grsd.evidence.findings import FINDINGS

ROOT = grsd.project()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PHONE = {"width": 390, "height": 844}
SET = """() => MathJax.startup.promise.then(() => {
    const raw = [...document.querySelectorAll('.math')].filter(part => !part.querySelector('mjx-container'));
    const wrong = [...document.querySelectorAll('mjx-merror')];
    const red = [...document.querySelectorAll('mjx-mtext')]
        .filter(part => getComputedStyle(part).color === 'rgb(255, 0, 0)')
        .map(part => 'undefined control sequence: ' + part.closest('.math').textContent.slice(0, 200));
    return [...[...raw, ...wrong].map(part => part.textContent.slice(0, 200)), ...red];
})"""  # a macro that MathJax does not know is no error to it: it sets the name, in red
PICTURES = """() => [...document.images].filter(image => !image.naturalWidth).map(image => image.src)"""
LINKS = """() => [...document.querySelectorAll('a[href]')].map(link => link.href)"""
GROUND = """() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"""


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The pages as the recipe of ``make book`` builds them, elsewhere; a warning of sphinx fails it."""
    folder = tmp_path_factory.mktemp("book")
    (recipe,) = re.findall(r"^book: .*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    line = shlex.split(recipe.replace("$(BIN)/python", sys.executable).replace("build/", f"{folder}/"))
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "book"


def pages(book):
    """All pages but the first at the root, which only leads on."""
    found = sorted(path for path in book.rglob("*.html") if "_static" not in path.parts)
    return [path for path in found if path != book / "index.html"]


def look_at(page, address):
    """Open a page; return what is wrong with its formulas and pictures, and its links."""
    page.goto(address)
    page.wait_for_load_state("load")
    formulas = page.evaluate(SET) if page.locator(".math").count() else []
    return [*formulas, *page.evaluate(PICTURES)], page.evaluate(LINKS)


def leads_nowhere(link):
    """Whether a link to a file of the book has no file, or no such place in it."""
    address = urlsplit(link)
    if address.scheme != "file":
        return address.scheme not in {"https", "http", "mailto"}
    target, place = Path(unquote(address.path)), unquote(address.fragment)
    if not target.is_file():
        return True
    return bool(place) and target.suffix == ".html" and f'id="{place}"' not in target.read_text(encoding="utf-8")


@pytest.mark.long
def test_the_book_has_what_it_promises(book):
    """Every notebook, verdict, figure and public name is on a page."""
    assert {path.stem for path in NOTEBOOKS} <= {path.stem for path in pages(book)}
    certain = (book / "book" / "how_sure.html").read_text(encoding="utf-8")
    assert [name for name in claims() if f">{name}<" not in certain] == []
    shown = (book / "book" / "gallery.html").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "figures").glob("[0-9]*.png") if path.name not in shown] == []
    reference = (book / "book" / "api.html").read_text(encoding="utf-8")
    assert [name for name in grsd.__all__ if f'id="grsd.{name}"' not in reference] == []
    first = (book / "book" / "index.html").read_text(encoding="utf-8")
    assert first.partition("What we found")[2].count("<li><p><strong>") == len(FINDINGS), "the README's findings"
    assert "NBVAL_CHECK_OUTPUT" not in "".join(path.read_text(encoding="utf-8") for path in pages(book))


@pytest.mark.long
@pytest.mark.browser
def test_every_page_is_whole(book, watched):
    """By daylight on a screen: no error, no formula left as text, no picture and no link that leads nowhere."""
    links = set()
    with watched(color_scheme="light", viewport={"width": 1280, "height": 900}) as (page, complaints):
        for path in pages(book):
            wrong, found = look_at(page, path.as_uri())
            assert (path.name, wrong, complaints) == (path.name, [], [])
            links |= set(found)
        page.goto((book / "index.html").as_uri())
        page.wait_for_url("**/book/index.html")
    assert len(links) > 100
    assert [link for link in links if leads_nowhere(link)] == []


@pytest.mark.long
@pytest.mark.browser
def test_every_page_fits_a_phone_in_the_dark(book, watched):
    with watched(color_scheme="dark", viewport=PHONE) as (page, complaints):
        for path in pages(book):
            wrong, _ = look_at(page, path.as_uri())
            width = page.evaluate("() => document.documentElement.scrollWidth")
            assert (path.name, wrong, complaints) == (path.name, [], [])
            assert (path.name, width) == (path.name, PHONE["width"])
            assert max(page.evaluate(GROUND)) < 60, path.name


BROKEN = {
    "off this machine": '<script src="https://example.org/x.js"></script>',
    "console: ": "<script>console.error('as said')</script>",
    "error: ": "<script>nothing.here()</script>",
    "missing.png": '<img src="missing.png">',
    "undefined control sequence": r'<span class="math">\(\nosuchmacro\)</span>',
    "left as text": '<span class="math">left as text</span>',
    "missing.html": '<a href="missing.html">link</a>',
    "#nowhere": '<a href="#nowhere">link</a>',
}


@pytest.mark.long
@pytest.mark.browser
@pytest.mark.parametrize("sign", BROKEN)
def test_a_broken_page_is_seen(book, watched, sign):
    """Each kind of fault, planted in a page of its own."""
    path = book / "broken.html"
    mathjax = '<script src="_static/mathjax/tex-chtml.js"></script>'
    path.write_text(f'<meta charset="utf-8"><link rel="icon" href="data:,">{mathjax}{BROKEN[sign]}', encoding="utf-8")
    try:
        with watched() as (page, complaints):
            wrong, links = look_at(page, path.as_uri())
            wrong += page.evaluate("() => [...document.querySelectorAll('mjx-merror')].map(part => part.title)")
        seen = [*wrong, *complaints, *filter(leads_nowhere, links)]
        assert any(sign in said.lower() for said in seen), seen
    finally:
        path.unlink()


@pytest.mark.long
def test_examples_of_the_reference_run(tmp_path, monkeypatch):
    """The examples of api.md, one after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    line = [sys.executable, "-m", "doctest", "-o", "ELLIPSIS", str(ROOT / "notebooks" / "book" / "api.md")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (ROOT / "notebooks" / "book" / "api.md").read_text().count(">>> ") > 15

"""The words and the figures of a report, of audits that the repository keeps: nothing is computed here."""

import re

import pytest

from grsd.auditing import gallery
from grsd.auditing.answers import CALLED
from grsd.auditing.report import MEANS, WORDS, page
from grsd.auditing.terminal import SHORT, interval, screen
from grsd.auditing.verdicts import Number

DOCUMENTS = gallery.audits()


@pytest.fixture(scope="module")
def report():
    return page(DOCUMENTS["small-cnn"])


def test_figures_take_the_colours_of_the_page(report):
    """No filter, no black that a dark page hides, and a font that every phone has."""
    assert report.count("<svg") == 3
    drawn = "".join(re.findall(r"<svg.*?</svg>", report, re.DOTALL))
    assert "currentColor" in drawn
    assert "var(--blue)" in drawn
    assert not re.search(r"#000000|#0072b2|DejaVu|url\(http", drawn)
    assert "filter:" not in report


def test_only_values_and_verdicts_stand_on_one_line(report):
    """What was chosen, and why, are sentences: on a phone they have to wrap."""
    kept = re.findall(r"<td class=value>(.*?)</td>", report)
    assert len(kept) == len(DOCUMENTS["small-cnn"]["numbers"])
    assert all(re.fullmatch(r"[-+.e\d]+ \[[-+.e\d]+, [-+.e\d]+\]", text) for text in kept)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_number_has_a_name_in_words(name):
    assert set(DOCUMENTS[name]["numbers"]) <= set(SHORT)
    lines = screen(DOCUMENTS[name]).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 40
    assert "  NUMBER                       mean over runs [95 % interval]" in lines
    assert lines[-2:] == [
        "  words: M is the tangent kernel, an e-fold a factor of 2.72; the report (.html)",
        "    explains every word",
    ]


def test_words_are_explained_where_they_are_used(report):
    assert set(MEANS) == {"lazy", "running clock", "transport", "inconclusive"}
    for word in ("tangent kernel M", "shell, energy", "flux", "e-fold", "spectral position", "gradient flow"):
        assert f"<dt>{word}</dt><dd>{WORDS[word]}" in report
    assert "The threshold is 0.1. If the truth lies 0.1 from it, so many seeds decide with probability" in report
    assert "<p class='soft'>The rules. Lazy: what the kernel" in report
    assert not re.search(r"\d\. [a-z]+ at 0\.1|against \.1|judged at", report)


def test_rounding_is_not_shown_as_a_number():
    assert interval({"value": 1e-16, "low": -9e-17, "high": 2e-16}) == "0 [0, 0]"
    assert interval({"value": 0.123456, "low": None, "high": None}) == "0.123"
    assert str(Number("x", 1e-9, -1e-9, 2e-9, 3)) == "0.00 [0.00, 0.00]"


@pytest.mark.parametrize(
    "call", ["velocity_band(budgets)", "invariance.judge(runs)", "evolution.measure", "audit(x=...)"]
)
def test_a_reason_names_no_call_that_the_reader_has_not_written(call):
    assert CALLED.sub("", f"{call}: 0 unmasked values: too few") == "0 unmasked values: too few"
    assert CALLED.sub("", "no boundary: none is kept") == "no boundary: none is kept"

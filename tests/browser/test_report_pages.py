"""The audit's report in a browser: it fits a phone, is legible in light and dark, and asks for nothing."""

import json

import pytest

from grsd.auditing import gallery
from grsd.auditing.report import page

pytestmark = pytest.mark.browser
SIZES = ({"width": 390, "height": 844}, {"width": 1200, "height": 844})
SCHEMES = ("light", "dark")
OUTSIDE = """() => [...document.querySelectorAll('.grsd-audit *')].filter(part => {
    const box = part.getBoundingClientRect();
    return box.right > innerWidth + 1 || box.left < -1;
}).map(part => part.tagName + ': ' + part.textContent.trim().slice(0, 60))"""
FAINT = """() => {
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
        .reduce((sum, c, k) => sum + [.2126, .7152, .0722][k] * c, 0);
    const ground = part => {
        const own = numbers(getComputedStyle(part).backgroundColor);
        return (own[3] === 0 && part.parentElement) ? ground(part.parentElement) : own;
    };
    const parts = [...document.querySelectorAll('.grsd-audit *')].filter(part =>
        !part.closest('style, defs') &&
        [...part.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()));
    const contrast = part => {
        const style = getComputedStyle(part);
        const pair = [numbers(part.closest('svg') ? style.fill : style.color), ground(part)].map(light).sort();
        return (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
    };
    return [parts.length, parts.filter(part => contrast(part) < 4.5).map(part => part.textContent.slice(0, 60))];
}"""
SMALL = """() => Math.min(...[...document.querySelectorAll('.grsd-audit svg text')].map(part =>
    parseFloat(getComputedStyle(part).fontSize) * part.closest('svg').getBoundingClientRect().width
        / part.closest('svg').viewBox.baseVal.width))"""


def documents():
    """Two committed audits, one of which gets conditions, a forecast that is none, and words without an end."""
    found = gallery.audits()
    full = json.loads(json.dumps(found["small-cnn"]))
    number = full["numbers"]["moved"]
    for name in ("propagation", "incoherence", "evolution"):
        why = "grsd.conditions.judge_models('propagation', make, inputs, targets, depths=[4, 8, 16]) " + 60 * "x"
        full["conditions"].append(
            {"condition": name, "asks": "is it so?", "verdict": "not measured", "why": why, "number": number}
        )
    full["question"]["model"] = "a_module_with_a_long_name:and_a_factory_with_a_longer_one"
    return [full, found["two-linear-layers"]]


@pytest.mark.parametrize("size", SIZES, ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_report_fits_and_is_legible(watched, tmp_path, size, scheme):
    with watched(viewport=size, color_scheme=scheme) as (tab, complaints):
        for number, document in enumerate(documents()):
            file = tmp_path / f"{number}.html"
            file.write_text(page(document))
            tab.goto(file.as_uri())
            assert tab.evaluate("() => document.documentElement.scrollWidth") == size["width"]
            assert tab.evaluate(OUTSIDE) == []
            texts, faint = tab.evaluate(FAINT)
            assert texts > 80, "it has read the page's texts"
            assert faint == []
            assert tab.evaluate(SMALL) >= 9, "pixels of the smallest letters of a figure"
        assert complaints == []


def test_a_report_in_a_page_of_another_colour(watched, tmp_path):
    """Jupyter may be light on a dark desktop: a report brings its own ground."""
    from grsd.auditing.report import fragment

    file = tmp_path / "light.html"
    file.write_text(f"<!doctype html><body style='background:white'>{fragment(documents()[0])}</body>")
    with watched(color_scheme="dark") as (tab, complaints):
        tab.goto(file.as_uri())
        texts, faint = tab.evaluate(FAINT)
        assert texts > 80
        assert faint == []
        assert complaints == []

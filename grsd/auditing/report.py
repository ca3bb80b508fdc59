"""The report: one page of HTML with its figures and its style inside, which asks for nothing from anywhere."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from string import Template

from grsd.auditing.terminal import SHORT, farther, interval
from grsd.auditing.verdicts import APART, UNITS

MEANS = {
    "lazy": "The tangent kernel at the start tells the course: each direction of the error decays at its own fixed "
    "rate, and no features are learned that would change these rates.",
    "running clock": "The kernel moves, but as a whole: it only grows. Learning is that of a frozen kernel whose clock "
    "runs ever faster (or slower), and one number, c in M ~ t^c, tells by how much.",
    "transport": "The kernel changes its shape: eigenvalues cross or eigenvectors rotate, and error energy moves "
    "between fast and slow directions. Neither a frozen kernel nor one clock describes this training.",
    "inconclusive": "The runs at hand do not decide between a frozen kernel, one that grows as a whole, and transport.",
}
RULES = {"moved": "Lazy", "growth_share": "Running clock (else transport), if the kernel does move"}
WORDS = {
    "tangent kernel M": "The products of the gradients of any two outputs, of one sample or of two, over the number of "
    "samples. Each of its eigenvectors is a direction of the outputs in which gradient flow reduces the error, and "
    "the eigenvalue is the rate.",
    "shell, energy": "A shell is a band of eigenvalues that lie near each other. Its energy is half of the squared "
    "error in its directions; for other losses than the squared error, of the derivative of the loss by the outputs.",
    "frozen, growth, the rest": "The energies change because the error falls, as with a frozen kernel, and because the "
    "kernel changes: all eigenvalues grow by one factor, or some cross others and eigenvectors rotate.",
    "flux": "Energy that passes from shell to shell because the kernel changes.",
    "e-fold": "A factor of 2.72, one in the natural log.",
    "spectral position": "Where the error lies in the spectrum: the mean of the eigenvalues, weighted by the energy, "
    "over the sum of all eigenvalues.",
    "gradient flow": "Gradient descent with steps so small that smaller ones change nothing.",
}
PHONE = 3.9  # inches of a figure: on a phone its letters keep about the size that they have here
STYLE = """
.grsd-audit{--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;--card:#f6f8fa;--page:#fff;--blue:#0072b2;
font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);
max-width:46rem;margin:0 auto;padding:1rem;overflow-wrap:anywhere}
.grsd-audit h1{font-size:1.4rem;line-height:1.25;margin:.2rem 0}.grsd-audit h2{font-size:1.1rem;margin:1.6rem 0 .4rem}
.grsd-audit .card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.8rem 1rem;
margin:.8rem 0}
.grsd-audit .soft{color:var(--soft);font-size:.9rem}.grsd-audit figure{margin:.6rem 0}
.grsd-audit svg{width:100%;height:auto;max-width:30rem;display:block;fill:currentColor}
.grsd-audit table{border-collapse:collapse;width:100%;font-size:.92rem;color:inherit}
.grsd-audit tr{background:none!important}
.grsd-audit td,.grsd-audit th{border-top:1px solid var(--line);padding:.35rem .5rem .35rem 0;text-align:left;
vertical-align:top}.grsd-audit td:first-child{min-width:8.5rem}.grsd-audit .value{white-space:nowrap}
.grsd-audit dt{font-weight:600}.grsd-audit dd{margin:0 0 .5rem}
@media(max-width:600px){.grsd-audit thead{display:none}.grsd-audit td{display:block;border:0;padding:.1rem 0}
.grsd-audit td:first-child{border-top:1px solid var(--line);padding-top:.5rem;font-weight:600}}
@media(prefers-color-scheme:dark){.grsd-audit{--ink:#e6edf3;--soft:#9aa4af;--line:#30363d;--card:#161b22;--page:#0d1117;
--blue:#56b4e9}}
"""
PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark"><title>$title</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<style>body{margin:0}@media(prefers-color-scheme:dark){body{background:#0d1117}}</style></head>
<body>$body</body></html>
""")


def page(document: Mapping[str, object]) -> str:
    """Return the whole report as a page."""
    title = f"{document['question']['model']}: {document['verdict']['verdict']}"
    return PAGE.substitute(title=escape(title), body=fragment(document))


def fragment(document: Mapping[str, object]) -> str:
    """Return the report as a part of a page, as Jupyter shows it.

    Errors: ``ModuleNotFoundError`` if matplotlib, which draws its figures, is not installed.
    """
    asked, verdict = document["question"], document["verdict"]
    units = "groups of samples" if asked["unit"] == "groups" else "runs"
    how = "gradient flow" if asked["mode"] == "flow" else "the checkpoints of a finished training"
    parts = [
        f"<h1>{escape(asked['model'])}: {escape(verdict['verdict'])}</h1>",
        f'<p class="soft">{asked["parameters"]:,} parameters, {asked["samples"]} samples, loss {escape(asked["loss"])}'
        f", {how}; values are means over {asked['runs']} {units}, with 95 % intervals in brackets.</p>",
        f'<div class="card"><p>{escape(MEANS[verdict["verdict"]])}</p><p>Why: {escape(verdict["why"])}.</p></div>',
        _figures(document),
        "<h2>The numbers</h2>",
        _numbers(document),
        "<h2>Do the conditions hold?</h2>",
        "<p class='soft'>The conditions under which learning moves energy between shells by one law, and what follows "
        "from them.</p>",
        _conditions(document),
        "<h2>What will the loss do?</h2>",
        _forecast(document),
        "<h2>What to try next</h2>",
        _list(document["next"]),
        "<h2>How this was done</h2>",
        _table(("what", "chosen", "why"), [[c["what"], c["chosen"], c["why"]] for c in document["choices"]], ""),
        _rules(document),
        "<h2>The words</h2>",
        f"<dl>{''.join(f'<dt>{escape(word)}</dt><dd>{escape(said)}</dd>' for word, said in WORDS.items())}</dl>",
        f'<p class="soft">{escape(document["versions"])}</p>',
    ]
    return f'<style>{STYLE}</style><div class="grsd-audit">{"".join(parts)}</div>'


def _figures(document: Mapping[str, object]) -> str:
    from grsd.plotting import audits

    where = "on each group of samples" if document["question"]["unit"] == "groups" else "of each run"
    drawn = [
        (audits.numbers, 1.8, "The two numbers that decide, with their 95 % intervals; dashed, the thresholds."),
        (audits.course, 3.0, "What changed the energies of the shells while the loss fell, from left to right."),
        (audits.loss, 2.6, f"The loss {where}, and its forecast where there is one."),
    ]
    return "".join(
        f"<figure>{_svg(draw, document, number, height)}<figcaption class='soft'>{escape(text)}</figcaption></figure>"
        for number, (draw, height, text) in enumerate(drawn)
    )


def _svg(draw: Callable, document: Mapping[str, object], number: int, height: float) -> str:
    """Draw a figure as SVG with texts as texts, the same bytes each time; its ids differ from those of the others.

    What is black or blue takes the colour that the page has for it, so that it is seen on a dark page too.
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    from grsd.plotting.style import STYLE as LOOK

    rc = LOOK | {"svg.fonttype": "none", "svg.hashsalt": f"audit{number}"}
    with mpl.rc_context(rc):
        figure = draw(document, size=(PHONE, height))
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        plt.close(figure)
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    return text.replace("#000000", "currentColor").replace("#0072b2", "var(--blue)")


def _numbers(document: Mapping[str, object]) -> str:
    rows = []
    for name, found in document["numbers"].items():
        sure = "" if found["threshold"] is None else _sure(found, document["question"]["unit"])
        rows.append([SHORT[name], interval(found), f"{_sentence(found['meaning'])} {sure}".strip()])
    return _table(("number", "value [95 %]", "what it is, how sure"), rows)


def _sure(found: Mapping[str, object], unit: str) -> str:
    """Say at which threshold a number is judged, and what so many runs can tell."""
    one, several = UNITS[unit]
    said = f"The threshold is {found['threshold']:g}."
    if found["power"] is not None:
        said += f" If the truth lies {APART:g} from it, so many {several} decide with probability {found['power']:.2f}."
    return (
        f"{said} About {found['more']} more {several if found['more'] > 1 else one} would decide."
        if found["more"]
        else said
    )


def _conditions(document: Mapping[str, object]) -> str:
    if not document["conditions"]:
        return f"<p>{escape(_sentence(document['conditions_missing'] or ''))}</p>"
    rows = [
        [f"{answer['condition']}: {answer['asks']}", answer["verdict"], answer["why"]]
        for answer in document["conditions"]
    ]
    return _table(("condition", "verdict", "why"), rows)


def _forecast(document: Mapping[str, object]) -> str:
    ahead = document["forecast"]
    if ahead is None:
        return f"<p>No forecast: {escape(document['forecast_missing'] or '')}.</p>"
    ends = f"{ahead['loss'][-1]:.3g} [{ahead['low'][-1]:.3g}, {ahead['high'][-1]:.3g}]"
    tried = f"Tried on the last factor of four of time it is wrong by {interval(ahead['error'])} in the log"
    frozen = f", a frozen kernel by {interval(ahead['frozen'])}" if ahead["frozen"]["value"] is not None else ""
    said = f"At {farther(ahead)} times the time a further run has the loss {ends} (95 %), by {escape(ahead['by'])}."
    return f"<p>{said} {tried}{frozen}.</p>"


def _rules(document: Mapping[str, object]) -> str:
    said = [
        f"{RULES[name]}: {rule['statistic']}, {rule['direction']} {rule['threshold']:g}, because {rule['reason']}"
        for name, rule in document["rules"].items()
    ]
    return f"<p class='soft'>The rules. {escape('. '.join(said))}. The picture of shells is of arXiv 2512.18209.</p>"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], second: str = " class=value") -> str:
    """``second``: attributes of the second cell of a row, by default of a value on one line."""
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join(
        f"<tr>{''.join(_cell(text, second if k == 1 else '') for k, text in enumerate(row))}</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str, attributes: str) -> str:
    return f"<td{attributes}>{escape(str(text))}</td>"


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"

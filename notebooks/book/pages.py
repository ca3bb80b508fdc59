"""What the book's pages take from the repository when they are built: findings, verdicts, figures, audits."""

import re
from itertools import groupby

import nbformat

from grsd.evidence import claims, counted, results, verdict_table
from grsd.support.folders import project

MARK = r"<!-- (\w+): written by the book -->"
README = {
    "findings": ("<!-- findings: written by grsd claims --readme -->", "<!-- end of findings -->"),
    "ours": ("## What is the paper's, what is ours\n", "\n## "),
}
PLACES = {
    "notebooks/": "../",
    "figures/": "../../figures/",
    "data/claims/README.md": "rules.md",
    "MIGRATION.md": "migration.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "CITATION.cff": "citation.md",
}


def filled(text, page):
    """Return the text of a page with what its marks name; notebooks have no marks and stay as they are."""
    if not page.startswith("book/"):
        return text
    return re.sub(MARK, lambda mark: WRITTEN[mark[1]](), text)


def notebook(text):
    """Read a stored notebook for a page: cells that only draw or import are folded, marks of tests are left out."""
    found = nbformat.reads(text, as_version=4)
    for cell in found.cells:
        if cell.cell_type != "code":
            continue
        cell.source = cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n")
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
    return found


def plain(app, kind, name, of, options, lines):
    """Keep the bars of |e| in docstrings: reStructuredText takes them for something else."""
    lines[:] = [
        "".join(part if odd % 2 else part.replace("|", r"\|") for odd, part in enumerate(re.split(r"(``.*?``)", line)))
        for line in lines
    ]


def linked(text):
    """Return text of a file at the repository's root, with links as a page of the book has them."""
    for place, page in PLACES.items():
        text = text.replace(f"]({place}", f"]({page}")
    return text


def readme(part):
    """Return a part of the README."""
    begin, end = README[part]
    return linked(file("README.md").partition(begin)[2].partition(end)[0])


def file(name):
    """Return the text of a file of the repository."""
    return (project() / name).read_text(encoding="utf-8")


def verdicts():
    """Return every claim with its verdict, a table for each notebook, and the count."""
    known, judged = claims(), results()
    lines = [f"{len(known)} claims. {counted(known, judged)}.", ""]
    mine = sorted(known.values(), key=lambda claim: claim.notebook or "~")
    for name, chosen in groupby(mine, key=lambda claim: claim.notebook):
        heading = f"[{name}](../{name}.ipynb)" if name else "Not examined yet"
        lines += [f"## {heading}", "", verdict_table({claim.id: claim for claim in chosen}, judged), ""]
    return "\n".join(lines)


def gallery():
    """Return all figures, each a link to its notebook."""
    lines = []
    figures = sorted((project() / "figures").glob("[0-9][0-9]_*.png"))
    for name, mine in groupby(figures, key=lambda path: path.stem.partition("-")[0]):
        shown = pictures(mine, lambda path: f"../{path.stem.partition('-')[0]}.ipynb")
        lines += [f"## [{name}](../{name}.ipynb)", "", *shown]
    return "\n".join(lines)


def audits():
    """Return the pictures of the audits that the repository keeps; nothing where it keeps none."""
    drawn = sorted((project() / "data" / "audits").glob("**/*.[ps][nv]g"))
    found = {path.with_suffix(""): path for path in drawn}.values()  # one of the two formats of a picture
    if not found:
        return ""
    said = "An audit puts the questions of this book to one network. `grsd data FIGURE` says what made a picture."
    return "\n".join(["## Audits", "", said, "", *pictures(found, None)])


def pictures(paths, leads_to):
    """Return lines that show pictures side by side; ``leads_to(path)``: where a click leads, if anywhere."""
    lines = [":::{container} gallery", ""]
    for path in paths:
        what = re.sub(r"^\d\d_\w+-", "", path.stem).replace("-", " ")
        image = f"![{what}](../../{path.relative_to(project()).as_posix()})"
        lines += [f"[{image}]({leads_to(path)})" if leads_to else image, ""]
    return [*lines, ":::", ""]


def glossary():
    """Return the entry of the glossary in the table of contents, where there is a glossary."""
    return "glossary" if (project() / "notebooks" / "book" / "glossary.md").exists() else ""


def parts():
    """Return how many claims are the paper's and how many ours."""
    known = claims().values()
    count = {whose: sum(claim.whose == whose for claim in known) for whose in ("paper", "ours")}
    return f"Of the {len(known)} claims, {count['paper']} are the paper's and {count['ours']} are ours."


WRITTEN = {
    "findings": lambda: readme("findings"),
    "ours": lambda: readme("ours"),
    "changelog": lambda: linked(file("CHANGELOG.md")),
    "contributing": lambda: linked(file("CONTRIBUTING.md")),
    "rules": lambda: linked(file("data/claims/README.md")),
    "migration": lambda: linked(file("data/claims/MIGRATION.md")).replace("](README.md)", "](rules.md)"),
    "verdicts": verdicts,
    "gallery": gallery,
    "audits": audits,
    "glossary": glossary,
    "parts": parts,
}

"""Where committed files come from: one entry for each, and commands that can be given."""

import json
import re
import shlex
import subprocess
import time
from functools import cache
from types import MappingProxyType

import pytest
import xarray as xr

import grsd
from grsd import cli
from grsd.evidence import Claim, DecisionRule, Measurement, claims, confirm, tables, write_result
from grsd.evidence.manifest import Entry, committed, entry_of, listing, manifest, named
from grsd.plan import NotebookRun, plan
from grsd.studies import confirm as studies
from grsd.support.folders import project

ENTRIES = (
    Entry("data/tables/*.csv", command="grsd reproduce --only {number}", seconds=12.0),
    Entry("data/cuda.csv", otherwise="by hand"),
    Entry("data/made.txt", makes="grsd.evidence.manifest:manifest"),
    Entry("figures/*.svg", command="grsd claims --confirm {stem}"),
)


def test_every_committed_file_has_one_entry():
    """And its command is one that the parser takes, of claims and notebooks that there are."""
    found = subprocess.run(["git", "ls-files", "data", "figures"], cwd=project(), capture_output=True, text=True)
    paths = found.stdout.split() or committed(project())
    assert set(paths) <= set(committed(project()))
    entries, known, parser, used = manifest(), claims(), cli._parser(), set()
    parsed = cache(lambda line: parser.parse_args(shlex.split(line)[1:]))
    planned = cache(lambda number, profile: plan(project(), only=[number], profile=profile))
    for path in paths:
        entry = entry_of(path, entries)
        used.add(entry)
        if entry.command is not None:
            options = parsed(entry.command_for(path))
            if options.command == "claims":
                assert all(known[name].rule for name in options.confirm or ())
            if options.command == "reproduce":
                (run,) = planned(*options.only, options.profile)
                assert path.split("/")[-1].startswith(run.notebook.stem)
        if entry.makes is not None:
            assert callable(entry.function(path))
    assert used == set(entries), "an entry that matches nothing"


def test_the_command_that_a_file_records_makes_that_file():
    """Of tables and results: a table's name without .csv may be that of its figure too, and is refused then."""
    root, recorded = project(), {}
    for path in (root / "data/tables").glob("*.csv"):
        recorded[path.relative_to(root).as_posix()] = tables.read_table(path.stem).attrs.get("command")
    assert sum(command is not None for command in recorded.values()) >= 15
    entries = manifest()
    for path, command in recorded.items():
        if command is not None:
            assert named(shlex.split(command)[-1], root, entries) == path
    for path in (root / "data/results").glob("*.json"):
        entry = entry_of(path.relative_to(root).as_posix(), entries)
        assert entry.shown(path.name) == json.loads(path.read_text())["provenance"]["command"]


@pytest.fixture
def here(tmp_path):
    for path in ("data/tables/02_a-b.csv", "data/cuda.csv", "data/runs/x.nc", "figures/02_a-b.svg", "data/.x.part"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


def test_files_and_what_makes_them(here):
    assert listing(here, ENTRIES) == [
        "data/cuda.csv: by hand",
        "data/tables/02_a-b.csv: grsd reproduce --only 02 (12 s)",
        "figures/02_a-b.svg: grsd claims --confirm 02_a-b (seconds unknown)",
    ]
    assert listing(here, ENTRIES[:1])[0] == "data/manifest.yaml: no pattern matches data/cuda.csv; expected exactly one"
    assert named("cuda.csv", here, ENTRIES) == named("cuda", here, ENTRIES) == "data/cuda.csv"
    assert named("data/tables/03_not-there.csv", here, ENTRIES) == "data/tables/03_not-there.csv"
    assert ENTRIES[2].shown("data/made.txt") == "grsd.evidence.manifest:manifest()"
    for name, line in (
        ("02_a-b", "'02_a-b' may be data/tables/02_a-b.csv or figures/02_a-b.svg; name one of them by its path"),
        ("nothing", "no file 'nothing' under data/ or figures/; grsd data lists them"),
        ("data/other/x.csv", "data/manifest.yaml: no pattern matches data/other/x.csv; expected exactly one"),
        ("data/tables/deeper/x.csv", "data/manifest.yaml: no pattern matches data/tables/deeper/x.csv"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(line)}"):
            named(name, here, ENTRIES)
    for path in ("figures/a --forecast.svg", "figures/--forecast.svg", "figures/it's.svg", "figures/.svg"):
        with pytest.raises(ValueError, match=f"^{re.escape(path)}: expected a name of letters, digits and any of "):
            ENTRIES[3].command_for(path)
    with pytest.raises(ValueError, match=r"patterns data/cuda.csv, data/\*.csv all match data/cuda.csv"):
        entry_of("data/cuda.csv", (*ENTRIES, Entry("data/*.csv", otherwise="x")))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "m.yaml: expected a list under 'entries:'"),
        ("entries: [3]", "m.yaml: entry 1: expected a mapping, got 3"),
        ("entries: [{files: a}]", "m.yaml: entry 1 (a): expected one of command, makes, otherwise, and only one"),
        ("entries: [{files: a, command: grsd data, otherwise: b}]", "m.yaml: entry 1 (a): expected one of command"),
        ("entries: [{files: a, command: rm -r}]", "m.yaml: entry 1 (a): command: expected a grsd command, got 'rm -r'"),
        ("entries: [{files: a, makes: 'os:system'}]", "m.yaml: entry 1 (a): makes: expected grsd.MODULE:FUNCTION, got"),
        ("entries: [{files: a, otherwise: b, seconds: long}]", "m.yaml: entry 1 (a): seconds: expected a number or"),
        ("entries: [", "m.yaml: cannot be read as YAML: "),
    ],
)
def test_a_manifest_that_is_none_is_one_line(tmp_path, content, line):
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(line)}") as caught:
        manifest(tmp_path / "m.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"makes: there is no function grsd.nowhere:nothing"):
        Entry("a", makes="grsd.nowhere:nothing").function("a")


def test_one_door(monkeypatch, capsys):
    """``grsd data FILE`` runs the command or calls the function, ``--show`` prints it."""
    assert cli.main(["data", "--show", "data/tables/08_rigidity-distance.csv"]) == 0
    assert capsys.readouterr().out == "grsd.studies.confirm:write_table('08_rigidity-distance')\n"
    made = []
    monkeypatch.setattr("grsd.reproduce.reproduce", lambda **options: made.append(options["only"]) or [])
    monkeypatch.setattr("grsd.studies.confirm.write_table", made.append)
    assert cli.main(["data", "data/tables/08_rigidity-distance.csv"]) == 0
    assert cli.main(["data", "09_power_law_scaling-axes.svg"]) == 0
    monkeypatch.setattr("grsd.bench.krylov.main", lambda: made.append("krylov"))
    assert cli.main(["data", "krylov-against-flow"]) == 0
    assert made == ["08_rigidity-distance", ["09"], "krylov"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "data/benchmarks/krylov-against-flow.csv: made in 0 s by grsd.bench.krylov:main()"
    assert cli.main(["data", "figures/08_not-there.svg"]) == 1
    line = "grsd data: figures/08_not-there.svg: grsd reproduce --only 08 did not make it"
    assert capsys.readouterr().err == f"{line}\n"
    monkeypatch.setattr("grsd.reproduce.reproduce", lambda **_: [NotebookRun(project(), {}, failure="cell In [1]")])
    assert cli.main(["data", "figures/08_rigidity-collapse.svg"]) == 1
    assert cli.main(["data", "cuda.csv"]) == 2
    line = (
        "grsd data: data/cuda.csv: no command makes it: by pytest tests/test_cuda.py, on a machine with a CUDA device"
    )
    assert capsys.readouterr().err == f"{line}\n"
    assert cli.main(["data"]) == 0
    assert "data/results/rigidity.json: grsd claims --confirm rigidity (" in capsys.readouterr().out


def test_seconds_are_shown_where_a_file_records_them(here, monkeypatch):
    """By the writers of results and tables, and by the notebook of a figure; whatever is damaged is unknown."""
    entries = (
        Entry("data/results/*.json", command="grsd claims --confirm {stem}"),
        Entry("data/tables/*.csv", makes="grsd.studies.confirm:write_table({stem})"),
        Entry("figures/*", command="grsd reproduce --only {number}"),
        Entry("data/cuda.csv", otherwise="by hand"),
    )

    def shown(path):
        return next(line for line in listing(here, entries) if line.startswith(f"{path}: ")).partition(" (")[2]

    monkeypatch.setattr(tables, "project", lambda: here)
    rule = DecisionRule("s", "at most", 1.0, "r", seeds=1)
    measured = Measurement(MappingProxyType({}), lambda protocol, seed: time.sleep(0.2) or 0.5)
    path = write_result(confirm(Claim("c", "a claim", "ours", rule=rule), measured), here / "data" / "results")
    assert re.fullmatch(r"0\.[2-9] s\)", shown("data/results/c.json"))
    monkeypatch.setitem(studies.TABLES, "02_a-b", lambda: time.sleep(0.2) or xr.Dataset({"x": ("n", [1])}))
    assert shown("data/tables/02_a-b.csv") == "seconds unknown)"
    studies.write_table("02_a-b")
    assert re.fullmatch(r"0\.[2-9] s\)", shown("data/tables/02_a-b.csv"))
    assert tables.read_table("02_a-b").attrs["command"] == "grsd data 02_a-b.csv"
    assert shown("figures/02_a-b.svg") == "seconds unknown)"
    notebook = here / "notebooks" / "02_a.ipynb"
    notebook.parent.mkdir()
    for text, said in (
        ('{"metadata": {"grsd": {"seconds": 34}}}', "34 s)"),
        ('{"metadata": {"grsd": {"seconds": NaN}}}', "seconds unknown)"),
        ('{"metadata": {"grsd": {"seconds": "34"}}}', "seconds unknown)"),
        ('{"metadata": {}}', "seconds unknown)"),
        ("[", "seconds unknown)"),
    ):
        notebook.write_text(text)
        assert shown("figures/02_a-b.svg") == said
    path.write_text('{"provenance": []}')
    assert shown("data/results/c.json") == "seconds unknown)"
    assert shown("data/cuda.csv") == ""


@pytest.mark.parametrize(
    ("source", "error", "line"),
    [
        ("import not_installed", ModuleNotFoundError, "No module named 'not_installed'"),
        ("from math import nothing", ImportError, "cannot import name 'nothing'"),
        ("main = 3", ValueError, "data/manifest.yaml: a: makes: there is no function grsd.made_up:main"),
    ],
)
def test_a_module_that_fails_is_not_a_missing_function(source, error, line, tmp_path, monkeypatch, capsys):
    (tmp_path / "made_up.py").write_text(source)
    monkeypatch.setattr("grsd.__path__", [*grsd.__path__, str(tmp_path)])
    entry = Entry("a", makes="grsd.made_up:main")
    with pytest.raises(error, match=re.escape(line)):
        entry.function("a")
    monkeypatch.setattr("grsd.evidence.manifest.manifest", lambda: (Entry("data/claims/*.md", makes=entry.makes),))
    if error is ModuleNotFoundError:
        assert cli.main(["data", "data/claims/README.md"]) == 2
        line = "grsd data: not_installed is not installed; grsd data needs it: pip install 'grsd[notebooks]'\n"
        assert capsys.readouterr().err == line

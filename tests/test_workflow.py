"""Jobs of Snakemake: which are due, what makes them due again, and the same bytes as without it."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import slurm
import yaml

from grsd import cli
from grsd.plan import Refused, plan
from grsd.runs import Spec, ensemble, obtain, summary
from grsd.support.folders import project
from grsd.workflow import jobs_of, needed
from grsd.workflow.command import PROFILE
from grsd.workflow.job import GPUS, SLURM, VISIBLE, main, one_gpu
from grsd.workflow.needs import QUICK

PARAMETERS = """samples: int = 12
width: int = 4
depths: list = [1]
seeds: int = 2
first: float = 0.4
last: float = 4.0
snapshots: int = 3
log_loss: float = -0.1
tolerance: float = 1e-2
device: str = "cpu"
"""
READS = """from grsd.runs import ensemble
from grsd.studies.stages import quick
from grsd.support.folders import figures

times = (first, last, snapshots)
stage = quick(
    samples=samples, width=width, seeds=seeds, times=times, tolerance=tolerance, device=device, log_loss=log_loss
)
specs = [spec for block in stage.cells(depths, 0).values() for spec in block.specs]
losses = [float(run.loss[-1]) for run in ensemble(specs, threads=1, workers=1)]
"""
DRAWS = '(figures() / "{name}-losses.txt").write_text(repr(losses));'
SMALL = {"samples": 16, "width": 4, "depths": [1], "seeds": 2, "snapshots": 3, "tolerance": 0.01, "log_loss": -0.1}


@pytest.fixture
def snakemake(monkeypatch):
    """Put Snakemake on the path; without it tests are skipped, unless SNAKEMAKE_TESTS=required, as .ci/run sets."""
    places = [str(Path(sys.executable).parent), os.environ["PATH"], str(project() / "build/snakemake/bin")]
    found = shutil.which("snakemake", path=os.pathsep.join(places))
    if found is None:
        said = "snakemake is not installed; make snakemake puts it into build/snakemake"
        if os.environ.get("SNAKEMAKE_TESTS") == "required":
            pytest.fail(said)
        pytest.skip(said)
    monkeypatch.setenv("PATH", os.pathsep.join([os.environ["PATH"], str(Path(found).parent)]))


def write_notebook(folder, name):
    cells = [nbformat.v4.new_code_cell(text) for text in (PARAMETERS, READS, DRAWS.format(name=name))]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f"{name}.ipynb")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project of two notebooks that train the same four networks."""
    root = tmp_path / "project"
    for folder in ("notebooks", "data/tables"):
        (root / folder).mkdir(parents=True)
    (root / "notebooks/profiles.yaml").write_text("default: {}\ntest: {08_second: {seeds: 3}}\n")
    for name in ("06_first", "08_second"):
        write_notebook(root / "notebooks", name)
    (root / "data/tables/a.csv").write_text("a\n1\n")
    monkeypatch.setenv("GRSD_RUNS", str(tmp_path / "runs"))
    return root


def planned(root, **request):
    return jobs_of(plan(root, **request), root / "build", Path(os.environ["GRSD_RUNS"]), root)


def names(jobs):
    return {name.rpartition("-")[0]: name for name in jobs.notebooks}


def test_a_job_for_each_run_and_notebook_and_the_figures_last(root):
    jobs = planned(root)
    assert len(jobs.runs) == 4, "two architectures, two seeds; both notebooks read the same"
    targets = jobs.missing()
    assert [target.partition("/")[0].partition("-")[0] for target in targets] == [
        *["runs"] * 4,
        *["notebooks"] * 2,
        "figures",
    ]
    assert len(planned(root, profile="test").runs) == 6


def test_a_change_makes_due_what_depends_on_it_and_nothing_else(root):
    before = planned(root)
    more = planned(root, only=["08"], settings=["seeds=3"])
    assert len(more.runs.keys() - before.runs.keys()) == 2, "the new seed of each architecture"
    assert before.runs.keys() <= more.runs.keys()
    assert names(more)["08_second"] != names(before)["08_second"]
    path = root / "notebooks/06_first.ipynb"
    path.write_text(path.read_text().replace("losses = ", "losses = 2 * "))
    after = planned(root)
    assert after.runs == before.runs
    assert names(after)["06_first"] != names(before)["06_first"]
    assert names(after)["08_second"] == names(before)["08_second"]
    assert after.last != before.last
    path.touch()
    assert planned(root).notebooks.keys() == after.notebooks.keys(), "times of files say nothing"


def test_prose_makes_nothing_due_but_imported_code_and_stored_tables_do(root, monkeypatch):
    before = planned(root)
    path = root / "notebooks/06_first.ipynb"
    book = nbformat.read(path, as_version=4)
    book.cells.insert(0, nbformat.v4.new_markdown_cell("More words."))
    nbformat.write(book, path)
    assert names(planned(root)) == names(before)
    other = root / "module.py"
    other.write_text("changed = True\n")
    monkeypatch.setattr("grsd.workflow.jobs.sources", lambda start: (start, other))
    changed = planned(root)
    assert not set(names(changed).values()) & set(names(before).values())
    (root / "data/tables/a.csv").write_text("a\n2\n")
    assert not set(names(planned(root)).values()) & set(names(changed).values())
    assert changed.runs == before.runs


def test_stored_runs_are_not_due_and_damaged_ones_are(root):
    jobs = planned(root)
    stem, spec = next(iter(jobs.runs.items()))
    stored = obtain(spec)[0]
    jobs.check()
    assert f"runs/{stem}" not in jobs.missing()
    assert len(jobs.missing()) == 6
    stored.write_bytes(stored.read_bytes()[:-1])
    jobs.check()
    assert f"runs/{stem}" in jobs.missing()


def test_a_job_makes_one_run_and_its_marker(root, capsys):
    jobs = planned(root)
    path = jobs.write()
    stem, spec = next(iter(jobs.runs.items()))
    assert main([str(path), f"runs/{stem}"]) == 0
    (file,) = jobs.store.glob("*.nc")
    assert (jobs.folder / "runs" / stem).read_text() == file.name
    assert obtain(spec)[2] is None, "stored under the name that the library gives it"
    file.unlink()
    broken = json.loads(path.read_text())
    broken["runs"][stem]["samples"] = 10**9
    path.write_text(json.dumps(broken))
    assert main([str(path), f"runs/{stem}"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"grsd workflow: runs/{stem}: Spec(samples=...): expected")


def test_the_figures_are_collected_and_due_again_if_one_changes(root):
    jobs = planned(root)
    path = jobs.write()
    for name in names(jobs):
        (jobs.folder / name / "figures").mkdir(parents=True)
        (jobs.folder / name / "figures" / f"{name}-a.svg").write_text(name)
    assert main([str(path), jobs.last]) == 0
    figure = jobs.folder / "figures" / "08_second-a.svg"
    assert figure.read_text() == "08_second"
    jobs.check()
    assert jobs.last not in jobs.missing()
    figure.write_text("changed")
    jobs.check()
    assert jobs.last in jobs.missing()


@pytest.mark.parametrize(("visible", "expected"), [(None, ["0", "1"]), ("3,5", ["3", "5"])])
def test_each_job_has_a_gpu_of_its_own(tmp_path, monkeypatch, visible, expected):
    def as_another_process():
        monkeypatch.delenv(SLURM, raising=False)
        monkeypatch.setenv(GPUS, "2")
        monkeypatch.setenv(VISIBLE, visible or "")

    as_another_process()
    with one_gpu(tmp_path, True) as one:
        assert os.environ[VISIBLE] == one
        as_another_process()
        with one_gpu(tmp_path, True) as other:
            assert [one, other] == expected
    as_another_process()
    with one_gpu(tmp_path, True) as again, one_gpu(tmp_path, False) as none:
        assert (again, none) == (expected[0], None)
    monkeypatch.setenv(SLURM, "7")
    with one_gpu(tmp_path, True) as none:
        assert none is None, "SLURM has chosen"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--only", "77"], "grsd workflow: no notebook '77'; there are 06_first, 08_second"),
        (["--cores", "0"], "grsd workflow: --cores: expected "),
        (["--slurm", "nowhere"], "grsd workflow: --slurm nowhere: expected a folder with config.yaml, a profile"),
        (["--set", "samples=0"], "grsd workflow: parameter samples: expected"),
        ([], "grsd workflow: snakemake is not installed: make snakemake, in the clone; or pip install "),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_in_one_line(root, arguments, line, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert cli.main(["workflow", "--project", str(root), *arguments]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(line)
    assert not (root / "build").exists()


def test_a_dry_run_lists_what_is_due(root, capsys):
    assert cli.main(["workflow", "--project", str(root), "-n", "--only", "06"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 runs, 4 of them due; 1 notebooks, 1 of them due"
    assert len(lines) == 7


@pytest.mark.parametrize("number", QUICK)
def test_what_a_notebook_is_said_to_need_is_what_its_cell_asks_for(number):
    (run,) = plan(project(), only=[number], profile="test")
    cells = [cell for cell in nbformat.read(run.notebook, as_version=4).cells if cell.cell_type == "code"]
    code = "\n".join(cell.source for cell in cells if "quick(" in cell.source)
    assert "stage.cells(depths, 0)" in code
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    (quick,) = [call for call in calls if ast.unparse(call.func).endswith("quick")]
    same = ("samples", "width", "seeds", "tolerance", "device", "log_loss")
    expected = {name: name for name in same} | {"times": "(first, last, snapshots)"}
    assert {word.arg: ast.unparse(word.value) for word in quick.keywords} == expected
    values = run.parameters
    specs = needed(run)
    assert {spec.samples for spec in specs} == {values["samples"]}
    assert {spec.depth for spec in specs} == set(values["depths"])
    assert {spec.times[2] for spec in specs} == {values["snapshots"]}
    run.parameters["samples"] = 10**9
    with pytest.raises(Refused, match=r"Spec\(samples=\.\.\.\)"):
        needed(run)


def tables(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*/*.csv")}


def files(folder):
    """When each file was last written."""
    hidden = (".snakemake", "workflow.lock", "gpus")
    paths = [path for path in folder.rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in paths}
    return {name: when for name, when in found.items() if not name.startswith(hidden)}


def workflow(root, *arguments, **more):
    line = [sys.executable, "-m", "grsd.cli", "workflow", "--project", str(root), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=1800, **more)


def stored(root):
    return {path.name for path in Path(os.environ["GRSD_RUNS"]).glob("*.nc")}


def write_profiles(root, changed):
    """Profiles of notebooks 06 to 08, small; ``changed``: parameters of 08."""
    names = [path.stem for path in sorted((root / "notebooks").glob("*.ipynb"))]
    values = {name: SMALL | (changed if name.startswith("08") else {}) for name in names}
    (root / "notebooks/profiles.yaml").write_text(yaml.safe_dump({"default": {}, "test": values}))


@pytest.fixture
def quick_root(tmp_path, monkeypatch):
    """Notebooks 06 to 08 as far as their quick ensembles: imports, parameters and the cell that trains them."""
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    (root / "data").symlink_to(project() / "data")
    for path in sorted((project() / "notebooks").glob("0[678]_*.ipynb")):
        book = nbformat.read(path, as_version=4)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        book.cells = [cell for cell in code if cell in code[:2] or "quick(" in cell.source]
        assert len(book.cells) == 3
        nbformat.write(book, root / "notebooks" / path.name)
    write_profiles(root, {})
    monkeypatch.setenv("GRSD_RUNS", str(tmp_path / "runs"))
    return root


def ran(done, rule):
    """How many jobs of a rule Snakemake started."""
    return len(re.findall(rf"^(?:local)?rule {rule}:", done.stderr, re.MULTILINE))


@pytest.mark.long
def test_the_notebooks_ensembles_through_snakemake(quick_root, snakemake, tmp_path, monkeypatch):
    """Two jobs at a time: killed, resumed, asked again, and with another parameter; the tables byte for byte."""
    asked = ["--cores", "2", "--profile", "test"]
    line = [sys.executable, "-m", "grsd.cli", "workflow", "--project", str(quick_root), *asked]
    with subprocess.Popen(line, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as begun:
        while not stored(quick_root):
            assert begun.poll() is None, "it ended before its first run"
            time.sleep(0.05)
        os.killpg(begun.pid, signal.SIGKILL)
    before = stored(quick_root)
    assert 0 < len(before) < 4, "killed after the first run"
    done = workflow(quick_root, *asked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"4 runs, {4 - len(before)} of them due; 3 notebooks, 3 of them due"
    assert [ran(done, rule) for rule in ("one_run", "notebook", "figures")] == [4 - len(before), 3, 1]
    assert before <= stored(quick_root), "what was there is kept"
    out = quick_root / "build/workflow/test"
    names = sorted(path.stem for path in (quick_root / "notebooks").glob("*.ipynb"))
    byte_for_byte(quick_root, tmp_path, monkeypatch, out, [f"{name}/runs.csv" for name in names], profile="test")
    first, kept = tables(out), files(out)
    write_profiles(quick_root, {"seeds": 3})
    done = workflow(quick_root, *asked)
    assert done.stdout.splitlines()[0] == "6 runs, 2 of them due; 3 notebooks, 1 of them due", "a seed of each kind"
    assert [ran(done, rule) for rule in ("one_run", "notebook", "figures")] == [2, 1, 1]
    made = {name for name, when in files(out).items() if kept.get(name) != when}
    assert "08_rigidity/runs.csv" in made
    others = [name for name in made if "06_" in name or "07_" in name or (name.startswith("runs/") and name in kept)]
    assert others == [], "nothing else is made again"
    assert [name for name, table in tables(out).items() if first[name] != table] == ["08_rigidity/runs.csv"]
    again = workflow(quick_root, *asked)
    assert again.stdout.splitlines() == ["6 runs, 0 of them due; 3 notebooks, 0 of them due"], again.stdout
    assert "Nothing to be done" in again.stderr


def byte_for_byte(root, tmp_path, monkeypatch, out, names, **request):
    """The runs, and the tables of the notebooks, are those of a plain ensemble in another folder."""
    specs = list(planned(root, **request).runs.values())
    monkeypatch.setenv("GRSD_RUNS", str(tmp_path / "plain"))
    table = summary(specs, ensemble(specs, workers=1, progress=False)).encode()
    plain = stored(root)
    monkeypatch.setenv("GRSD_RUNS", str(tmp_path / "runs"))
    assert plain <= stored(root), "a file's name holds the sha256 of its bytes; notebooks may train further networks"
    assert tables(out) == dict.fromkeys(names, table)


def test_continuous_integration_has_snakemake_and_skips_nothing():
    """It makes the environment of exact versions, and there a missing Snakemake fails."""
    root = project()
    assert "SNAKEMAKE_TESTS=required" in (root / ".ci/run").read_text()
    makefile = (root / "Makefile").read_text()
    assert re.search(r"^test-long:.*\n\t-\$\(MAKE\) snakemake\n", makefile, re.MULTILINE), "a failure is passed over"
    lock = (root / "grsd/workflow/snakemake.lock").read_text().splitlines()
    pins = {name: version for name, _, version in (line.partition("==") for line in lock if not line.startswith("#"))}
    assert all(pins.values())
    assert {"snakemake", "snakemake-executor-plugin-slurm"} <= pins.keys()


def test_profile_and_snakefile_are_package_data():
    assert (PROFILE / "config.yaml").is_file()
    assert PROFILE.parents[1].joinpath("Snakefile").is_file()
    assert Spec().device == "cpu", "a job's device is the spec's"


@pytest.mark.long
@pytest.mark.skipif(slurm.unavailable() is not None, reason=str(slurm.unavailable()))
def test_the_same_bytes_on_slurm_with_a_job_cancelled(root, snakemake, tmp_path, monkeypatch):
    profile = tmp_path / "profile"
    profile.mkdir()
    own = (PROFILE / "config.yaml").read_text().replace("mem_mb=4000", "mem_mb=1000")
    waits = "slurm-no-account: true\nslurm-status-command: squeue\nslurm-init-seconds-before-status-checks: 5\n"
    (profile / "config.yaml").write_text(own + waits)
    asked = ["--only", "06", "--slurm", str(profile)]
    with slurm.one_node(tmp_path / "slurm"):
        line = [sys.executable, "-m", "grsd.cli", "workflow", "--project", str(root), *asked]
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as begun:
            slurm.until(lambda: slurm.run("squeue", "--noheader", "--states=RUNNING", "--format=%i"), "no job runs")
            cancelled = slurm.run("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()[0]
            slurm.run("scancel", cancelled)
            said = begun.communicate(timeout=1800)[1]
        before = stored(root)
        assert begun.returncode == 1, said
        done = workflow(root, *asked)
        assert done.returncode == 0, done.stderr
        assert before <= stored(root), "a cancelled job loses nothing"
        assert done.stdout.startswith(f"4 runs, {4 - len(before)} of them due; 1 notebooks, 1 of them due")
    out = root / "build/workflow/default"
    byte_for_byte(root, tmp_path, monkeypatch, out, ["06_first/runs.csv"])

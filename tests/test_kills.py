"""Fifty kills at random moments: the same bytes in the end, nothing torn on the way, nothing left behind."""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from test_full_disk import small_project
from test_runs_kept import OPTIONS

import grsd
from grsd import cli
from grsd.support.files import UNFINISHED

train_module = sys.modules["grsd.runs.training"]
pytestmark = [pytest.mark.long, pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork or kill -9 on this system")]
RUNS, REPRODUCTIONS, TOGETHER = 40, 6, 4
SOURCE = """
import time
import matplotlib.pyplot as plt
from grsd.plotting import savefig
from grsd.evidence.tables import save_table
import xarray as xr
for number in range(6):
    figure, axes = plt.subplots()
    axes.plot(range(number + 2))
    savefig(figure, f"00_first-{number}")
    plt.close(figure)
    save_table(xr.Dataset({"x": ("a", range(100))}), f"00_first-{number}")
    print(number)
"""


def whole(path):
    """Its name, an end or its syntax says that it is not torn."""
    payload = path.read_bytes()
    if path.suffix == ".nc":
        return path.stem.rpartition("-")[2] == hashlib.sha256(payload).hexdigest()
    if path.suffix == ".ipynb":
        return bool(nbformat.reads(payload.decode(), as_version=4).cells)
    ends = {".svg": b"</svg>\n", ".png": b"IEND\xaeB`\x82", ".csv": b"\n"}
    return payload.endswith(ends[path.suffix])


def check_whole(folder):
    for path in folder.rglob("*"):
        if path.is_file() and not UNFINISHED.fullmatch(path.name) and path.suffix not in (".lock", ".yaml", ".json"):
            assert whole(path), path


def unfinished(folder):
    return [path for path in folder.rglob("*") if UNFINISHED.fullmatch(path.name)]


def orphans():
    """Semaphores, as Linux keeps them, whose names hold the number of a process that is no more."""
    found = set()
    for path in Path("/dev/shm").glob("sem.*-*-*"):  # noqa: S108
        number = path.name.split("-")[1]
        if number.isdecimal() and not Path("/proc", number).exists():
            found.add(path.name)
    return found


def forked(command):
    """``grsd`` with these arguments in a process of its own, without the seconds that Python takes to begin."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            cli.main(command)
        os._exit(0)
    return child


def test_runs_killed_anywhere(tmp_path, monkeypatch, capsys):
    """Checkpoints all the time. Each kill leaves whole files; the last call leaves the bytes of a run undisturbed."""
    monkeypatch.setattr(train_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.02)
    command = ["run", *OPTIONS, "--seeds", "0-1", "--workers", "1", "--folder"]
    for place in ("warm", "undisturbed"):
        begun = time.perf_counter()
        assert cli.main([*command, str(tmp_path / place)]) == 0
        span = time.perf_counter() - begun
    expected = sorted(path.name for path in (tmp_path / "undisturbed").glob("*.nc"))
    generator, kills, checkpoints, rounds = random.Random(0), 0, 0, 0  # noqa: S311
    while kills < RUNS:
        folder = tmp_path / f"round-{rounds}"
        rounds += 1
        for _ in range(20):
            child = forked([*command, str(folder)])
            time.sleep(generator.uniform(0.02, 0.3 * span))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            check_whole(folder)
            kills += os.WIFSIGNALED(status)
            checkpoints += bool(list(folder.glob(".work/*/state-*.nc")))
            if not os.WIFSIGNALED(status):
                break
        assert cli.main([*command, str(folder)]) == 0
        assert sorted(path.name for path in folder.glob("*.nc")) == expected
        assert unfinished(folder) == []
        assert list((folder / ".work").iterdir()) == []
    print(f"{kills} kills in {rounds} rounds, {checkpoints} with checkpoints on the disk")
    assert checkpoints > RUNS / 2
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("grsd: ") for line in said)
    assert not any("not used" in line for line in said), "no kill leaves a file that is refused"


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(grsd.__file__).parents[1]), "GRSD_PROGRESS": "0"}


def killed(command, seconds, group):
    """``grsd`` with workers or a kernel of its own, killed alone or with them; whether it was still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "grsd.cli", *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment(),
    )  # fmt: skip
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    alive = process.poll() is None
    if alive:
        (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
    return alive


def test_runs_killed_with_their_workers(tmp_path):
    """The whole group at once, or the parent alone: the workers end with it. Nothing is left among the semaphores."""
    folder, before = tmp_path / "killed", orphans()
    command = ["run", *OPTIONS, "--samples", "40", "--seeds", "0-5", "--workers", "2"]
    generator = random.Random(1)  # noqa: S311
    found = [
        killed([*command, "--folder", str(folder)], generator.uniform(5, 9), number % 2) for number in range(TOGETHER)
    ]
    check_whole(folder) if folder.exists() else None
    assert any(found)
    time.sleep(1)  # a killed worker may hold its lock for an instant
    done = {}
    for place in (folder, tmp_path / "undisturbed"):
        assert cli.main([*command[:-1], "1", "--folder", str(place)]) == 0
        done[place] = sorted(path.name for path in place.glob("*.nc"))
        assert list((place / ".work").iterdir()) == []
        assert unfinished(place) == []
    assert len(set(map(tuple, done.values()))) == 1
    assert orphans() <= before


def printed_by(path):
    """A kernel sends its lines in pieces of any size."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.text for cell in cells for output in cell.outputs)


def test_reproductions_killed_anywhere(tmp_path):
    """Figures, tables and the executed notebook, with the kernel or without it: each whole at each kill."""
    root, generator, kills = small_project(tmp_path / "project", SOURCE), random.Random(2), 0  # noqa: S311
    undisturbed = small_project(tmp_path / "undisturbed", SOURCE)
    begun = time.perf_counter()
    command = [sys.executable, "-m", "grsd.cli", "reproduce", "--project"]
    first = subprocess.run([*command, undisturbed], env=environment(), check=True, capture_output=True, text=True)
    assert first.stderr == ""
    span = time.perf_counter() - begun
    for number in range(REPRODUCTIONS):
        kills += killed(["reproduce", "--project", str(root)], generator.uniform(0.2, 0.7) * span, number % 2)
        check_whole(root)
    assert kills > REPRODUCTIONS / 2
    time.sleep(2)  # a kernel whose parent was killed alone ends by itself
    subprocess.run([*command, root], env=environment(), check=True, capture_output=True)
    assert unfinished(root) == []
    for pattern in ("figures/*", "data/tables/*"):
        mine, yours = (sorted(place.glob(pattern)) for place in (root, undisturbed))
        assert [path.name for path in mine] == [path.name for path in yours] != []
        assert [path.read_bytes() for path in mine] == [path.read_bytes() for path in yours]
    printed = [printed_by(place / "build" / "default" / "00_first.ipynb") for place in (root, undisturbed)]
    assert printed[0] == printed[1] == "".join(f"{number}\n" for number in range(6))

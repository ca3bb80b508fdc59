"""A SLURM of one node on this machine, on loopback only: started for a test and stopped after it."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = Path("/etc/slurm/slurm.conf")  # a job's own srun inherits no other place
KEY, SOCKETS = Path("/etc/munge/munge.key"), Path("/run/munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "sbatch", "squeue", "runuser")
WHERE = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
SECONDS = 600


def unavailable() -> str | None:
    """Why no SLURM can be started here, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=WHERE) is None]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install slurmctld slurmd slurm-client munge"
    if os.geteuid():
        return "only root can start SLURM"
    return f"{CONFIGURATION} is there: this machine has a SLURM of its own" if CONFIGURATION.exists() else None


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def configuration(folder: Path) -> str:
    host = socket.gethostname().partition(".")[0]
    lines = {
        "ClusterName": "local", "SlurmctldHost": f"{host}(127.0.0.1)", "SlurmUser": "root", "SlurmdUser": "root",
        "AuthType": "auth/munge", "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core", "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool", "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid", "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.log", "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none", "MpiDefault": "none", "SlurmctldPort": free_port(),
        "SlurmdPort": free_port(), "ReturnToService": 2,
        "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN",
        "PartitionName": "main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
    }  # fmt: skip
    return "".join(f"{name}={value}\n" for name, value in lines.items())


@contextmanager
def one_node(folder: Path) -> Iterator[None]:
    """Run SLURM during the block; its state and logs lie in ``folder``, and nothing of it is left running."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    had_key, had_munge = KEY.exists(), (SOCKETS / "munge.socket.2").is_socket()
    if not had_key:
        KEY.write_bytes(os.urandom(32))
        shutil.chown(KEY, "munge", "munge")
        KEY.chmod(0o400)
    SOCKETS.mkdir(exist_ok=True)
    shutil.chown(SOCKETS, "munge", "munge")
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.write_text(configuration(folder))
    pids = [folder / "slurmd.pid", folder / "slurmctld.pid"]
    try:
        if not had_munge:
            run("runuser", "-u", "munge", "--", "/usr/sbin/munged", "--force")
            pids.append(SOCKETS / "munged.pid")
        run("slurmctld")
        run("slurmd")
        until(lambda: "idle" in run("sinfo", "--noheader"), "no idle node")
        yield
    finally:
        for file in pids:
            stop(file)
        CONFIGURATION.unlink()
        if not had_key:
            KEY.unlink()


def run(*line: str) -> str:
    # Daemons keep what they inherit, so their output goes to a file: a pipe would stay open.
    if line[0] in ("slurmctld", "slurmd", "runuser"):
        null = subprocess.DEVNULL
        subprocess.run(line, check=True, stdout=null, stderr=null, env=os.environ | {"PATH": WHERE}, timeout=SECONDS)
        return ""
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=SECONDS)
    return done.stdout


def until(there, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not there():
        assert time.monotonic() < end, f"{what} after {SECONDS} s"
        time.sleep(0.5)


def stop(file: Path) -> None:
    """End the process whose number stands in ``file``, and wait for it."""
    if not file.is_file():
        return
    number = int(file.read_text())
    try:
        os.kill(number, 15)
        until(lambda: not Path(f"/proc/{number}").exists() or is_zombie(number), f"{file.name} still runs")
    except ProcessLookupError:
        return


def is_zombie(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True

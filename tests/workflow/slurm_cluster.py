"""A SLURM cluster of one node, this machine, while a command runs: `python -m tests.workflow.slurm_cluster snakemake ...`

Debian's slurm-wlm and munge as root, without systemd, cgroups or accounting; every file but one link is in a folder that is removed.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo")
# SLURM_CONF does not do: the executor plugin takes SLURM's variables from a job's environment, and the `srun` in it looks here
CONFIGURATION = Path("/etc/slurm/slurm.conf")
SETTINGS = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
# squeue must still know jobs that have ended: there is no sacct
MinJobAge=3600
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def reason_against() -> str:
    """Why there can be no cluster on this machine; empty if there can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if missing:
        return f"SLURM is not installed ({', '.join(missing)}); apt-get install slurm-wlm munge"
    if os.geteuid():
        return "daemons of SLURM run as root"
    if CONFIGURATION.exists():
        return f"this machine has a SLURM of its own: {CONFIGURATION}"
    return ""


@contextmanager
def cluster() -> Iterator[Path]:
    """Bring a cluster up, and take it down with all that it wrote. Yields the folder of its logs.

    Raises:
        RuntimeError: if the node is not ready within a minute; with the end of the logs.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    host = socket.gethostname().partition(".")[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    settings = SETTINGS.format(host=host, folder=folder, cpus=os.cpu_count(), memory=memory * 9 // 10)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "slurm.conf").write_text(settings)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        folder.chmod(0o755)
        CONFIGURATION.parent.mkdir(exist_ok=True)
        CONFIGURATION.unlink(missing_ok=True)  # a link that leads nowhere, of a cluster that was killed
        CONFIGURATION.symlink_to(folder / "slurm.conf")
        undo.callback(CONFIGURATION.unlink)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        munged = [f"--{option}={folder}/munge.{suffix}" for option, suffix in files.items()]
        undo.enter_context(_daemon(folder, "munged", "--foreground", "--force", *munged))
        _wait("munge", (folder / "munge.socket").exists, folder)
        undo.enter_context(_daemon(folder, "slurmctld", "-D"))
        undo.enter_context(_daemon(folder, "slurmd", "-D"))
        _wait("the node", lambda: _asked("sinfo", "--noheader", "--format=%T") == "idle", folder)
        yield folder


@contextmanager
def _daemon(folder: Path, *command: str) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"PATH": _path()}, start_new_session=True
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(what: str, ready, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if time.monotonic() > deadline:
            logs = [f"{path.name}:\n{path.read_text()[-2000:]}" for path in folder.glob("*.[lo][ou][gt]")]
            raise RuntimeError(f"{what} of the SLURM cluster is not ready\n" + "\n".join(logs))
        time.sleep(0.2)


def _asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


if __name__ == "__main__":
    if reason := reason_against():
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is taken down
    with cluster():
        sys.exit(subprocess.run(sys.argv[1:]).returncode)

"""Kills at random moments, disks that are full or cannot be written, damaged files, two runs at once."""

import random
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress

import psutil
import pytest

from tests.conftest import Project, copy_project

TINY = """
run: tiny
regression:
  variants: {one_layer: {seeds: 2, steps: 300, batch_size: 512, snapshot_every: 5}}
"""
WEIGHTS = "results/tiny/regression/one_layer/snapshots.safetensors"
RUN = (WEIGHTS, "results/tiny/config.yaml", "--cores", "1", "--configfile", "tiny.yaml")
KILLS = 20
# A script in a process of its own, as in a run of few jobs, or in a fork of one that has the libraries
PROCESSES = pytest.mark.parametrize("forked", [False, True], ids=["own process", "fork"])


def tiny(folder, forked: bool = False) -> Project:
    project = copy_project(folder, forked)
    project.write("tiny.yaml", TINY)
    return project


@contextmanager
def started(project, *arguments):
    """Snakemake in the background, killed with all its jobs at the end."""
    process = subprocess.Popen(
        project.command(*arguments),
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        kill(below(process))
        process.kill()
        process.wait()


def kill(processes):
    """kill -9, unless they have ended by themselves."""
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def below(process, recursive=True):
    """Every process below one, which may have ended."""
    try:
        return psutil.Process(process.pid).children(recursive)
    except psutil.NoSuchProcess:
        return []


def jobs_of(process, forked):
    """The processes of jobs: of forks, not the one that they come from."""
    return [job for server in below(process, recursive=False) for job in below(server)] if forked else below(process)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The bytes of a run that nobody disturbs."""
    project = tiny(tmp_path_factory.mktemp("undisturbed"))
    project.snakemake(*RUN)
    return project.bytes("results/tiny/**/*.*")


def outcome(project):
    return {path: content for path, content in project.bytes("results/tiny/**/*.*").items() if "/wandb/" not in path}


@PROCESSES
def test_twenty_kills_at_random_moments_change_no_byte(tmp_path, undisturbed, forked):
    """A quarter of them end Snakemake and with it its jobs, the others a job alone, which Snakemake tries again."""
    project, chance, killed = tiny(tmp_path, forked), random.Random(0), {"run": 0, "job": 0}
    kinds = chance.sample(["run", "job"], k=KILLS, counts=[KILLS // 4, KILLS - KILLS // 4])
    # Without locks, which only a human should break; `test_faults` has the run with `--unlock`
    again = (*RUN, "--nolock", "--retries", str(KILLS))
    while sum(killed.values()) < KILLS and not (project.folder / WEIGHTS).exists():
        with started(project, *again) as process:
            for kind in kinds[sum(killed.values()) :]:
                deadline = time.monotonic() + 120
                while not (found := jobs_of(process, forked)) and process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                time.sleep(chance.uniform(0, 1.5))  # from the start of the job on
                if process.poll() is not None:
                    break
                killed[kind] += 1
                if kind == "run" or sum(killed.values()) == KILLS:
                    break
                kill(found)
                psutil.wait_procs(found, timeout=10)
    assert min(killed.values()) > 0, killed
    project.snakemake(*again)
    theirs = {path: content for path, content in undisturbed.items() if "/wandb/" not in path}
    assert outcome(project) == theirs


def test_a_second_run_in_the_same_folder_is_turned_away_and_the_first_ends_well(tmp_path, undisturbed):
    project = tiny(tmp_path)
    with started(project, *RUN) as first:
        locks = project.folder / ".snakemake/locks"
        deadline = time.monotonic() + 120
        while not (locks.exists() and any(locks.iterdir())) and time.monotonic() < deadline:
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)  # holds the lock for as long as the second run takes to come
        output = project.snakemake(*RUN, ok=False)
        first.send_signal(signal.SIGCONT)
        assert "Directory cannot be locked" in output
        assert "Traceback" not in output
        assert first.wait(300) == 0
    assert outcome(project) == {path: content for path, content in undisturbed.items() if "/wandb/" not in path}


@contextmanager
def mounted(folder, options):
    """A file system in memory."""
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@PROCESSES
@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount")
@pytest.mark.parametrize(
    ("options", "sentence"), [("size=64k", "No space left on device"), ("ro", "Read-only file system")], ids=["full", "read-only"]
)
def test_a_disk_that_cannot_be_written_is_one_sentence(tmp_path, options, sentence, forked):
    project = tiny(tmp_path, forked)
    project.write("quiet.yaml", "tracking: {mode: disabled}\n")
    with mounted(project.folder / "results", options):
        output = project.snakemake(*RUN, "quiet.yaml", ok=False)
        left = [path for path in (project.folder / "results").rglob("*") if path.is_file()]
    assert sentence in output
    assert "Traceback" not in output
    # What was written is whole, and nothing else is there
    assert {path.name for path in left} <= {"config.yaml", "checkpoint.safetensors"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"regression: [", "Config file is not valid JSON or YAML"),
        (b"- a list\n", "Config file must be given as JSON or YAML with keys at top level"),
        (b"", "Config file must be given as JSON or YAML with keys at top level"),
    ],
    ids=["cut short", "a list", "empty"],
)
def test_a_damaged_configuration_file_is_one_sentence(project, content, sentence):
    (project.folder / "bad.yaml").write_bytes(content)
    output = project.snakemake("--dry-run", "--cores", "1", "--configfile", "bad.yaml", ok=False)
    assert "Traceback" not in output
    assert sentence in output


def test_a_configuration_in_another_encoding_is_one_sentence(tmp_path):
    project = copy_project(tmp_path)
    path = project.folder / "config/config.yaml"
    for encoded in (b"note: \xff\n" + path.read_bytes(), path.read_text().encode("utf-16")):
        path.write_bytes(encoded)
        output = project.snakemake("--dry-run", "--cores", "1", ok=False)
        assert "Traceback" not in output
        assert "config/config.yaml cannot be read as YAML" in output


def test_damaged_records_and_weights_are_named(smoke, tmp_path):
    project = Project(tmp_path / "copy")
    shutil.copytree(smoke.folder, project.folder)
    table, weights = (
        project.folder / f"results/smoke/regression/size_5/{name}" for name in ("statistics.csv", "snapshots.safetensors")
    )
    table.write_text(table.read_text()[:-40])
    weights.write_bytes(weights.read_bytes()[:1000])
    smoke_run = ("--cores", "1", "--configfile", "config/smoke.yaml", "--rerun-triggers", "params", "--keep-going")
    judged = project.snakemake(
        "results/smoke/claims.csv", *smoke_run, "--forcerun", "judge_claims", "--allowed-rules", "judge_claims", ok=False
    )
    assert "RecordsError: results/smoke/regression/size_5/statistics.csv" in judged
    compared = project.snakemake(
        "results/smoke/regression/size_5/alignment.csv",
        *smoke_run,
        "--forcerun",
        "compare_regression",
        "--allowed-rules",
        "compare_regression",
        ok=False,
    )
    assert "CheckpointError: results/smoke/regression/size_5/snapshots.safetensors cannot be read" in compared
    for output in (judged, compared):
        assert "Traceback" not in output

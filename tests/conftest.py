"""Shapes and types of the package are checked at run time in every test that imports it; workflow tests get a project to run."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Before the hook, whose wrappers Numba cannot compile
import activation_descent.regression.kernel
import activation_descent.regression.recursion_kernel  # noqa: F401

install_import_hook("activation_descent", "beartype.beartype")

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "workflow", "config", "profiles", "envs")


@dataclass(frozen=True)
class Project:
    """A copy of the project in a folder of its own, whose library code can be edited."""

    folder: Path

    def environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SNAKEMAKE_", "WANDB_"))}
        return environment | {"PYTHONPATH": str(self.folder / "workflow"), "COLUMNS": "200"}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", *arguments]

    def snakemake(self, *arguments: str, ok: bool = True, timeout: float = 900, **changes) -> str:
        """Run Snakemake in the project's folder for at most `timeout` seconds; returns all that it printed."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment() | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert (done.returncode == 0) is ok, done.stdout
        return done.stdout

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return name

    def bytes(self, *patterns: str) -> dict[str, bytes]:
        """The bytes of all files that match, by path."""
        paths = sorted(path for pattern in patterns for path in self.folder.glob(pattern))
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}


def copy_project(folder: Path, forked: bool = False) -> Project:
    """The project in another folder; `forked`: with scripts in forks from the first job on, as otherwise in runs of many jobs."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part)  # with what Python and Numba have compiled
        else:
            shutil.copy(source, folder / part)
    if forked:
        rules = folder / "workflow/rules/forks.smk"
        text, changed = re.subn(r"^FORKED_FROM = \d+$", "FORKED_FROM = 1", rules.read_text(), flags=re.MULTILINE)
        assert changed == 1
        rules.write_text(text)
    return Project(folder)


@pytest.fixture
def project(tmp_path) -> Project:
    return copy_project(tmp_path)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Project:
    """A project in which the smoke run has been made. Shared: leave its results as they are."""
    project = copy_project(tmp_path_factory.mktemp("smoke"))
    project.snakemake("--cores", "2", "--configfile", "config/smoke.yaml")
    return project

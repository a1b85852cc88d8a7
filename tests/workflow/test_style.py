"""The tools that keep the house in order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def run(*command):
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("snakefmt", "--check", "Snakefile", "workflow"),
    ],
    ids=" ".join,
)
def test_style(command):
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint():
    done = run("snakemake", "--lint")
    assert "Congratulations, your workflow is in a good condition!" in done.stdout + done.stderr


def test_each_rule_has_a_script_of_its_name_and_each_script_a_rule():
    rules = set()
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        rules |= set(re.findall(r"^rule (\w+):", path.read_text(), re.MULTILINE))
    assert rules == {path.stem for path in (ROOT / "workflow/scripts").glob("*.py")}


def test_scripts_are_thin():
    long = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "workflow/scripts").glob("*.py")}
    assert max(long.values()) <= 60, long


def test_conda_environment_installs_the_lock():
    environment = yaml.safe_load((ROOT / "envs/activation-descent.yaml").read_text())
    assert set(environment) == {"name", "channels", "dependencies"}
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    copy = ROOT / ".snakemake/conda"  # where Snakemake puts a copy of the file and builds from
    assert [line.split()[0] for line in pip] == ["-r", "-e"]
    assert [os.path.normpath(copy / line.split()[1]) for line in pip] == [str(ROOT / "envs/requirements.lock"), str(ROOT)]
    lock = (ROOT / "envs/requirements.lock").read_text()
    pinned = [line for line in lock.splitlines() if line and not line.startswith("#")]
    assert all(re.match(r"[A-Za-z0-9_.-]+==\S+", line) for line in pinned)
    assert "torch==2.13.0" in pinned


def test_every_dependency_is_in_the_lock():
    import tomllib

    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[A-Za-z0-9-]+", dependency)[0].lower() for dependency in dependencies}
    lock = {line.split("==")[0].lower() for line in (ROOT / "envs/requirements.lock").read_text().splitlines()}
    assert names <= lock

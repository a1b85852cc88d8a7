"""Jobs on other machines: SLURM for real, on a cluster of one node; kubernetes as far as a dry run goes."""

import importlib.util
import re
import shutil

import pytest
import yaml

from tests.conftest import ROOT, Project
from tests.workflow.slurm_cluster import cluster, reason_against

SHARDS = "shards: {regression: {map_ridge: 2}}\n"
RULES = {
    rule
    for path in (ROOT / "workflow/rules").glob("*.smk")
    for rule in re.findall(r"^(?:use )?rule (?:\w+ as )?(\w+)\b", path.read_text(), re.MULTILINE)
}


def plugin(name):
    return pytest.mark.skipif(
        importlib.util.find_spec(f"snakemake_executor_plugin_{name}") is None, reason=f"pip install -e '.[{name}]'"
    )


@pytest.fixture
def half_done(smoke, tmp_path) -> Project:
    """A copy of the smoke run without the claims, one whole study, and one network of another study."""
    project = Project(tmp_path / "copy")
    shutil.copytree(smoke.folder, project.folder)
    for name in ("claims.csv", "index.html"):
        (project.folder / "results/smoke" / name).unlink()
    for folder in ("reasoning", "regression/map_ridge"):
        shutil.rmtree(project.folder / "results/smoke" / folder)
    return project


@plugin("slurm")
@pytest.mark.skipif(bool(reason_against()), reason=reason_against())
def test_slurm_jobs_end_with_the_bytes_of_a_local_run(smoke, half_done):
    """All of the smoke run would be a hundred jobs of ten seconds each, most of them the start of Snakemake, so a study from its training
    to the claims stands for it, and a network that is trained in two shards."""
    half_done.write("shards.yaml", SHARDS)
    with cluster():
        output = half_done.snakemake(
            "results/smoke/claims.csv",
            *("--profile", "workflow/profiles/slurm", "--configfile", "config/smoke.yaml", "shards.yaml"),
            *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3"),
            *("--seconds-between-status-checks", "3", "--latency-wait", "10"),
        )
    submitted = re.findall(r"rule (\w+):|submitted with SLURM jobid (\d+)", output)
    numbers = {number for _, number in submitted if number}
    assert len(numbers) == 11, (
        output
    )  # 2 shards, their merge, a comparison; 3 trainings, 2 probes and a comparison of a study; the judge
    patterns = ["results/smoke/claims.csv", "results/smoke/reasoning/*.*", "results/smoke/regression/map_ridge/*.*"]
    ours, theirs = half_done.bytes(*patterns), smoke.bytes(*patterns)
    assert len(ours) == 1 + 4 + 4
    assert ours == theirs


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_profiles_name_rules_that_there_are(name):
    profile = yaml.safe_load((ROOT / f"workflow/profiles/{name}/profile.yaml").read_text())
    assert profile["executor"] == name
    assert set(profile["set-threads"]) | set(profile["set-resources"]) <= RULES


@plugin("kubernetes")
def test_kubernetes_would_run_every_job(project, tmp_path):
    local = project.snakemake("--dry-run", "--cores", "2", "--configfile", "config/smoke.yaml")
    remote = project.snakemake(
        *("--dry-run", "--profile", "workflow/profiles/kubernetes", "--configfile", "config/smoke.yaml"),
        *("--default-storage-prefix", str(tmp_path / "storage")),
    )
    table = r"^job +count\n.*?^total +\d+"
    assert re.search(table, remote, re.MULTILINE | re.DOTALL)[0] == re.search(table, local, re.MULTILINE | re.DOTALL)[0]

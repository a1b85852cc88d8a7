"""Jobs on other machines: SLURM for real, on a cluster of one node; kubernetes as far as a dry run goes."""

import importlib.util
import re

import pytest
import yaml

from tests.conftest import ROOT
from tests.workflow.slurm_cluster import cluster, reason_against
from tests.workflow.test_dag import planned

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


@plugin("slurm")
@pytest.mark.skipif(bool(reason_against()), reason=reason_against())
def test_slurm_jobs_end_with_the_bytes_of_a_local_run(smoke, project):
    """The smoke run from its first training to the claims, each job through sbatch, and one network trained in two shards."""
    project.write("shards.yaml", SHARDS)
    target = ("results/smoke/claims.csv", "--configfile", "config/smoke.yaml", "shards.yaml")
    plan = planned(project.snakemake(*target, "--dry-run", "--cores", "2"))
    with cluster():
        output = project.snakemake(
            *target,
            *("--profile", "workflow/profiles/slurm"),
            *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3"),
            *("--seconds-between-status-checks", "3", "--latency-wait", "10"),
            timeout=3600,
        )
    submitted = set(re.findall(r"submitted with SLURM jobid (\d+)", output))
    assert len(submitted) == sum(plan.values()) > 60, output
    assert plan["train_regression_shard"] == 2
    ours, theirs = project.bytes("results/smoke/**/*.csv"), smoke.bytes("results/smoke/**/*.csv")
    assert len(theirs) > 60
    assert {path: content for path, content in ours.items() if path in theirs} == theirs


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

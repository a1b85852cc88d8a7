"""What would run: every configuration, and what a change reruns."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import copy_project

CONDA = """#!/bin/sh
case "$*" in
  "info --json") echo '{"conda_prefix": "/nowhere", "root_prefix": "/nowhere", "platform": "linux-64"}' ;;
  "--version") echo "conda 25.9.1" ;;
  *) echo '{"get": {"channel_priority": "strict"}}' ;;
esac
"""


def planned(output):
    """Rules and how often they would run, from a dry run."""
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", output, re.MULTILINE | re.DOTALL)
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table[1], re.MULTILINE)} if table else {}


@pytest.mark.parametrize(
    (
        "scale",
        "variants",
        "probed",
        "rolled_out",
        "figures",
        "waves",
        "embedded",
        "models",
        "tuned",
        "audited",
        "read",
        "predictive",
        "attentions",
        "bodies",
    ),
    [
        ("config", 31, 11, 2, 20, 2, 3, 3, 3, 1, 1, 3, 5, 4),
        ("smoke", 11, 3, 1, 14, 1, 1, 1, 1, 1, 1, 2, 2, 2),
        ("paper", 35, 11, 2, 20, 2, 3, 9, 9, 7, 5, 5, 5, 4),
    ],
)
def test_dry_run_of_every_configuration(
    project,
    scale,
    variants,
    probed,
    rolled_out,
    figures,
    waves,
    embedded,
    models,
    tuned,
    audited,
    read,
    predictive,
    attentions,
    bodies,
):
    overlay = [] if scale == "config" else ["--configfile", f"config/{scale}.yaml"]
    assert planned(project.snakemake("--dry-run", "--cores", "2", *overlay)) == {
        "all": 1,
        "train_regression": variants,
        "train_regression_learners": 1,
        "compare_regression": variants - 2 * waves - probed,
        "probe_regression": probed - rolled_out,
        "probe_regression_rollout": rolled_out,
        "compare_regression_ladder": 1,
        "compare_regression_sine": waves,
        "compare_regression_updates": 1,
        "compare_regression_sizes": 1,
        "plot_regression": figures,
        "prepare_language_corpus": 1,
        "train_language_model": embedded,
        "probe_language": models,
        "compare_language": models,
        "plot_language": models,
        "plot_language_sizes": 1,
        "plot_language_pretraining": 1,
        "probe_finetuning": tuned,
        "probe_finetuning_inside": audited,
        "probe_finetuning_explicit": 1,
        "train_finetuning_momentum": attentions,
        "compare_finetuning": tuned,
        "compare_finetuning_momentum": 1,
        "plot_finetuning": audited,
        "plot_finetuning_sizes": 1,
        "plot_finetuning_momentum": 1,
        "probe_attention_duality": 1,
        "probe_attention_softmax": 1,
        "probe_attention_controls": 1,
        "probe_attention_heads": models,
        "train_attention_layers": 2,
        "compare_attention": 1,
        "plot_attention": 1,
        "train_attention_toy_problems": 4,
        "compare_attention_toy_problems": 1,
        "plot_attention_toy_problems": 1,
        "train_reasoning_knapsack": 2,
        "train_reasoning_logic": 1,
        "probe_reasoning_knapsack": 1,
        "probe_reasoning_logic": 1,
        "compare_reasoning": 1,
        "plot_reasoning": 1,
        "train_lens_body": bodies,
        "probe_lens": bodies + read,
        "probe_lens_synthetic": 1,
        "train_lens_vision": 1,
        "probe_lens_predictive_coding": predictive + 1,
        "compare_lens": bodies + read,
        "plot_lens": bodies + read,
        "plot_lens_controls": 1,
        "prepare_config": 1,
        "judge_claims": 1,
        "render_page": 1,
    }
    assert not (project.folder / "results").exists()


def test_snakemake_starts_without_torch(project):
    """A dry run checks configuration and claims and lists all jobs; torch would take as long as all of that."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *project.command("--dry-run", "--quiet", "--cores", "1")[1:]],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(re.findall(r"^import time: .*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert {"activation_descent.settings", "activation_descent.claims"} <= loaded
    assert not {"torch", "transformers", "wandb", "scipy", "matplotlib"} & loaded


def test_the_scheduler_sleeps_while_jobs_run(project):
    """It looks for jobs to start when one has ended; Snakemake's limit of starts per second would have it look ever more often."""
    weights = [f"results/smoke/regression/{variant}/snapshots.safetensors" for variant in ("one_layer", "size_5")]
    command = (*weights, "--cores", "1", "--verbose", "--configfile", "config/smoke.yaml")
    assert project.snakemake(*command).count("Resources before job selection") <= len(weights) + 1


@pytest.mark.parametrize(("many", "elsewhere"), [(False, False), (True, False), (True, True)], ids=["few jobs", "many", "temp"])
def test_scripts_of_many_jobs_find_their_libraries_loaded(tmp_path, many, elsewhere):
    """Unless they are to have a folder for temporary files of their own."""
    project = copy_project(tmp_path, many)
    temporary = tmp_path / "temporary" if elsewhere else Path(tempfile.gettempdir())
    temporary.mkdir(exist_ok=True)
    script = project.folder / "workflow/scripts/train_regression.py"
    loaded = "sorted({'torch', 'wandb'} & set(sys.modules)), tempfile.gettempdir()"
    asked = f"import sys\nimport tempfile\n\nprint('loaded', {loaded}, file=sys.__stderr__)\n"
    script.write_text(asked + script.read_text())
    target = "results/smoke/regression/size_5/snapshots.safetensors"
    folder = ("--default-resources", f"tmpdir={temporary}") if elsewhere else ()
    output = project.snakemake(target, "--cores", "1", "--configfile", "config/smoke.yaml", *folder)
    assert f"loaded {['torch', 'wandb'] if many and not elsewhere else []} {temporary}\n" in output
    measured = pd.read_csv(project.folder / "benchmarks/smoke/train_regression/size_5.tsv", sep="\t")
    assert measured["max_rss"].item() > 100  # MB


def test_conda_would_build_the_environment(project):
    """With a conda that only answers: this much can be tested without its channels."""
    conda = project.folder / "bin/conda"
    conda.parent.mkdir()
    conda.write_text(CONDA)
    conda.chmod(0o755)
    output = project.snakemake(
        "--dry-run", "--cores", "2", "--sdm", "conda", PATH=f"{conda.parent}{os.pathsep}{os.environ['PATH']}"
    )
    assert re.search(r"Conda environment .*envs/activation-descent\.yaml will be created", output)
    assert planned(output)["train_regression"] == 31


def dry(smoke, *overlay, **environment):
    configs = ["config/smoke.yaml", *overlay]
    return planned(smoke.snakemake("--dry-run", "--cores", "2", "--configfile", *configs, **environment))


def test_a_second_run_does_nothing(smoke):
    assert dry(smoke) == {}


def test_more_seeds_for_one_variant_rerun_what_depends_on_it(smoke):
    smoke.write("more.yaml", "regression: {variants: {softmax_1: {seeds: 3}}}\n")
    assert dry(smoke, "more.yaml") == {
        "all": 1,
        "train_regression": 1,
        "compare_regression": 1,
        "plot_regression": 1,
        "probe_attention_softmax": 1,  # which reads its head
        "compare_attention": 1,
        "plot_attention": 1,
        "judge_claims": 1,
        "prepare_config": 1,
        "render_page": 1,
    }


def test_another_learning_rate_of_a_sweep_variant_leaves_the_other_figure_alone(smoke):
    smoke.write("rate.yaml", "regression: {variants: {size_5: {learning_rate: 0.002}}}\n")
    plan = dry(smoke, "rate.yaml")
    assert plan["train_regression"] == plan["plot_regression"] == plan["compare_regression_sizes"] == 1
    assert "probe_regression" not in plan


def test_evaluation_settings_do_not_retrain(smoke):
    smoke.write("more.yaml", "regression: {evaluation: {rollout_tasks: 600}}\n")
    plan = dry(smoke, "more.yaml")
    assert "train_regression" not in plan
    assert plan["probe_regression_rollout"] == 1


def test_another_way_of_judging_reruns_the_judge_only(smoke):
    smoke.write("judge.yaml", "claims: {resamples: 500}\n")
    assert set(dry(smoke, "judge.yaml")) == {"all", "judge_claims", "prepare_config", "render_page"}


def test_how_a_job_is_recorded_is_no_reason_to_train_again(smoke):
    smoke.write("quiet.yaml", "tracking: {mode: disabled}\n")
    assert "train_regression" not in dry(smoke, "quiet.yaml")


@pytest.mark.parametrize(
    ("module", "reruns"),
    [
        ("regression/transformer.py", {"train_regression", "compare_regression", "probe_regression"}),
        ("regression/statistics.py", {"compare_regression", "probe_regression", "compare_regression_sizes", "plot_regression"}),
        ("regression/ladder.py", {"compare_regression_ladder"}),
        ("regression/updates.py", {"compare_regression_updates"}),
        ("language/corpus.py", {"train_language_model", "probe_language"}),
        ("language/accuracy.py", {"probe_language"}),
        ("language/statistics.py", {"compare_language"}),
        ("finetuning/audit.py", {"probe_finetuning", "probe_finetuning_inside"}),
        ("finetuning/momentum.py", {"train_finetuning_momentum"}),
        ("finetuning/statistics.py", {"compare_finetuning"}),
        ("claims.py", {"judge_claims"}),
        ("page/page.html.j2", {"render_page"}),
    ],
)
def test_an_edit_to_the_library_reruns_its_users(smoke, module, reruns):
    path = smoke.folder / "workflow/activation_descent" / module
    before = path.read_text()
    try:
        path.write_text(before + ("\nEDITED = 1\n" if path.suffix == ".py" else "\n"))
        plan = set(dry(smoke))
    finally:
        path.write_text(before)
    assert reruns <= plan
    if module == "claims.py":
        assert not plan & {"train_regression", "compare_regression", "probe_regression", "plot_regression"}
    if module == "page/page.html.j2":
        assert plan == {"all", "render_page"}
    if module == "regression/statistics.py":
        assert "train_regression" not in plan
    if module == "regression/ladder.py":
        assert not plan & {"train_regression", "compare_regression", "probe_regression"}


def test_a_touch_or_a_comment_reruns_nothing(smoke):
    path = smoke.folder / "workflow/activation_descent/regression/transformer.py"
    before = path.read_text()
    try:
        path.write_text(before + "\n# a comment\n")
        os.utime(path, (time.time(), time.time()))
        assert dry(smoke) == {}
    finally:
        path.write_text(before)


def test_one_rule_alone_can_be_rerun(smoke):
    target = "results/smoke/regression/size_5/snapshots.safetensors"
    plan = smoke.snakemake(
        target, "--dry-run", "--cores", "2", "--configfile", "config/smoke.yaml", "--forcerun", "train_regression"
    )
    assert planned(plan) == {"train_regression": 1}

"""Bad input, and runs that are killed."""

import os
import signal
import subprocess
import time

import pytest

from tests.conftest import copy_project

KILLABLE = """
run: smoke
regression:
  variants: {one_layer: {seeds: 1, steps: 1000, batch_size: 2048, snapshot_every: 5}}
"""
WEIGHTS = "results/smoke/regression/one_layer/snapshots.safetensors"


@pytest.mark.parametrize(
    ("overlay", "sentence"),
    [
        ("regression: {published: {sedes: 3}}", "bad.yaml: regression.published: unknown key 'sedes'; did you mean 'seeds'?"),
        ("regression: {published: {seeds: 0}}", "bad.yaml: regression.published.seeds: 0 is less than the minimum of 1"),
        (
            "regression: {variants: {one_layer: {context_length: 0}}}",
            "regression.variants.one_layer.context_length: 0 is less than",
        ),
        ("regression: {published: {learning_rate: 1e-3}}", "'1e-3' is text to YAML, not a number"),
        (
            "regression: {figures: {one_layer: {variants: [size_7]}}}",
            "regression.figures.one_layer: there is no variant 'size_7'",
        ),
        ("regression: {variants: {recurrent_2: {layers: 0}}}", "regression.variants.recurrent_2.layers: 0 is less than"),
        ("regression: {variants: {softmax_2: {heads: 0}}}", "regression.variants.softmax_2.heads: 0 is less than"),
        ("regression: {variants: {softmax_2: {heads: 1.5}}}", "regression.variants.softmax_2.heads: 1.5 is not of type integer"),
        (
            "regression: {variants: {untied_5: {activation_clip: true}}}",
            "regression.variants.untied_5.activation_clip: True is not of type number or null",
        ),
        (
            "regression: {variants: {untied_5: {activation_clip: 0}}}",
            "regression.variants.untied_5.activation_clip: 0 is less than or equal to the minimum of 0",
        ),
        (
            "regression: {variants: {fixed_512: {batch_size: 500}}}",
            "regression.variants.fixed_512.dataset_size: 512 is not a multiple of batch_size 500",
        ),
        ("tracking: {mode: maybe}", "bad.yaml: tracking.mode: 'maybe' is not one of"),
        ("run: ../elsewhere", "bad.yaml: run: '../elsewhere' is not allowed"),
    ],
)
def test_a_wrong_configuration_is_one_sentence_before_anything_runs(project, overlay, sentence):
    project.write("bad.yaml", overlay + "\n")
    output = project.snakemake("--cores", "2", "--configfile", "bad.yaml", ok=False)
    assert sentence in output
    assert "Traceback" not in output
    assert not (project.folder / "results").exists()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("metric: loss_ratio}", "metric: los_ratio}", "claim regression-loss: statistic names the metric los_ratio"),
        ('supported: "in [0.996, 1.004]"', 'supported: "close to 1"', "claim regression-loss: 'close to 1' is not a condition"),
        ("id: regression-cosine\n", "id: regression-loss\n", "two claims have the id regression-loss"),
        ("    figure: regression", "    figur: regression", "unknown key 'figur'; did you mean 'figure'?"),
        ("claims:", "claims: [", "claims.yaml cannot be read as YAML"),
    ],
)
def test_wrong_claims_are_one_sentence_before_anything_runs(project, old, new, sentence):
    path = project.folder / "config/claims.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    output = project.snakemake("--cores", "2", ok=False)
    assert sentence in output
    assert "Traceback" not in output
    assert not (project.folder / "results").exists()


def test_an_unwritable_tracking_folder_is_one_sentence_and_other_jobs_go_on(project):
    (project.folder / "results/smoke").mkdir(parents=True)
    (project.folder / "results/smoke/wandb").write_text("a file where a folder should be\n")
    output = project.snakemake(WEIGHTS, "--cores", "1", "--configfile", "config/smoke.yaml", ok=False)
    assert "TrackingError: runs cannot be recorded in results/smoke/wandb: File exists" in output
    assert "Traceback" not in output


def test_a_diverging_variant_stops_alone(project):
    project.write("wild.yaml", "regression: {variants: {size_5: {learning_rate: 1.0e+12}}}\n")
    others = WEIGHTS.replace("one_layer", "recurrent_2")
    output = project.snakemake(
        WEIGHTS.replace("one_layer", "size_5"), others, "--cores", "1", "--configfile", "config/smoke.yaml", "wild.yaml", ok=False
    )
    assert "DivergedError: training of variant size_5 diverged" in output
    assert "Traceback" not in output
    assert (project.folder / others).exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The bytes of a run that nobody kills."""
    project = copy_project(tmp_path_factory.mktemp("undisturbed"))
    project.write("killable.yaml", KILLABLE)
    project.snakemake(WEIGHTS, "--cores", "1", "--configfile", "killable.yaml")
    return project.bytes(WEIGHTS)


@pytest.mark.parametrize("scope", ["snakemake and its job", "snakemake alone"])
def test_a_killed_run_resumes_and_ends_with_the_same_bytes(project, undisturbed, scope):
    arguments = (WEIGHTS, "--cores", "1", "--configfile", "killable.yaml")
    project.write("killable.yaml", KILLABLE)
    with subprocess.Popen(
        project.command(*arguments),
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        checkpoint = project.folder / WEIGHTS.replace("snapshots", "checkpoint")
        deadline = time.monotonic() + 60
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert checkpoint.exists()
        if scope == "snakemake alone":
            os.kill(process.pid, signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
    assert not (project.folder / WEIGHTS).exists()

    project.snakemake("--unlock", *arguments)
    project.snakemake(*arguments)
    if scope == "snakemake and its job":
        assert "resuming" in (project.folder / "logs/smoke/train_regression/one_layer.log").read_text()
    assert not checkpoint.exists()
    assert project.bytes(WEIGHTS) == undisturbed

"""The smoke run from end to end, and what it left behind."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

from activation_descent import claims, records

SMOKE = ("--cores", "2", "--configfile", "config/smoke.yaml")


VARIANTS = {
    *(
        "one_layer",
        "size_5",
        "recurrent_2",
        "softmax_1",
        "layer_norm_2",
        "fixed_128",
        "seeds_two_heads",
    ),
    *("map_ridge", "classic_slot", "sine_layer", "sine_descent"),
}
SIZES = {"default"}
BODIES = {"untied", "tied_loops"}
ATTENTIONS = {"vanilla", "moving_average"}


def test_every_claim_is_judged(smoke):
    table = pd.read_csv(smoke.folder / "results/smoke/claims.csv")
    wanted = [claim["id"] for claim in yaml.safe_load((smoke.folder / "config/claims.yaml").read_text())["claims"]]
    assert tuple(table) == claims.COLUMNS
    assert table["id"].tolist() == wanted
    run = (
        table["statistic"]
        .str.extract(r"\((\w+)\)")[0]
        .isin(VARIANTS | SIZES | ATTENTIONS | {"learners", "updates", "ladder", "sine"})
    )
    trained = table["study"].isin(["regression", "language"])
    tuned = table["study"] == "finetuning"  # two tasks have two draws each
    later = ~trained & ~tuned
    lenses = table["study"] == "lens"
    assert (table["verdict"][~later] == "inconclusive").all()  # two seeds judge nothing, and no model has learned in context
    of_untied = table["statistic"] == "untied_margin (ladder)"  # the ladder is climbed with one network
    assert (table["n"][run & trained & ~of_untied] == 2).all()
    assert table["n"][of_untied].tolist() == [0]
    assert (table["n"][later & ~lenses] > 0).mean() > 0.9  # two softmax heads are not trained, and no head may stand out
    left_out = table["statistic"].str.contains(r"\((?:deep|random_body)\)")
    assert (table["n"][lenses & ~left_out] == 2).all()
    assert (table["n"][lenses & left_out] == 0).all()
    assert table["n"][run & tuned].between(0, 4).all()
    assert (table["n"][run & tuned] > 0).mean() > 0.9  # where nothing was corrected, there is no share of corrections
    assert (table["n"][~run & ~later] == 0).all()  # variants that the smoke run leaves out
    assert table["value"][run & (table["n"] > 0)].notna().all()
    assert run.sum() > 20
    figures = yaml.safe_load((smoke.folder / "config/smoke.yaml").read_text())["regression"]["figures"]
    for figure in table["figure"][run].map(Path):
        left_out = figure.stem in figures and figures[figure.stem] is None
        assert (smoke.folder / "results/smoke" / figure).exists() != left_out


def test_records_keep_the_contract(smoke):
    paths = sorted(smoke.folder.glob("results/smoke/regression/**/*.csv"))
    assert len(paths) == 2 * 9 + 2 * 3 + 2 + 1 + 2 + 2 + 2 + 2
    language = sorted(smoke.folder.glob("results/smoke/language/**/*.csv"))
    assert len(language) == (4 + 1) * len(SIZES)
    tuned = sorted(smoke.folder.glob("results/smoke/finetuning/**/*.csv"))
    assert len(tuned) == 3 * len(SIZES) + 1 + len(ATTENTIONS) + 2
    later = [
        path for study in ("attention", "reasoning", "lens") for path in smoke.folder.glob(f"results/smoke/{study}/**/*.csv")
    ]
    assert len(later) > 15
    for path in (*paths, *language, *tuned, *later):
        records.read(path)


def test_configuration_stands_beside_the_results(smoke):
    saved = yaml.safe_load((smoke.folder / "results/smoke/config.yaml").read_text())
    assert saved["run"] == "smoke"
    assert saved["regression"]["published"]["learning_rate"] == 0.001
    settings = json.loads((smoke.folder / "results/smoke/regression/size_5/config.json").read_text())
    assert settings["input_dim"] == 5


def test_nothing_half_written_is_left(smoke):
    names = [path.name for path in smoke.folder.glob("results/**/*")]
    assert not [name for name in names if name.endswith((".partial", ".lock")) or name.startswith("checkpoint")]


def test_wandb_runs_are_readable_one_for_each_job(smoke):
    folders = sorted((smoke.folder / "results/smoke/wandb").glob("offline-run-*"))
    identities = {folder.name.split("-", 3)[-1] for folder in folders}
    trained = {f"train_regression-{variant}" for variant in VARIANTS} | {"train_regression_learners-learners"}
    trained |= {f"train_language_model-{size}" for size in SIZES}
    trained |= {f"train_finetuning_momentum-{attention}" for attention in ATTENTIONS}
    trained |= {f"train_attention_layers-{attention}" for attention in ("linear", "softmax")}
    trained |= {f"train_attention_toy_problems-{problem}" for problem in ("recall", "induction", "copying", "regression")}
    trained |= {f"train_lens_body-{body}" for body in BODIES} | {"train_lens_vision-digits"}
    trained |= {"train_reasoning_knapsack-encoder", "train_reasoning_knapsack-perceptron", "train_reasoning_logic-logic"}
    assert identities == trained | {f"probe_finetuning-{size}" for size in SIZES} | {"probe_finetuning_inside-default"}
    folder = next(folder for folder in folders if folder.name.endswith("train_regression-one_layer"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(folder)]
    summary = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "training_loss/seed_1" in summary
    assert '"steps"' in summary
    history = subprocess.run([*command[:5], "--json", str(folder)], capture_output=True, text=True, check=True).stdout
    assert '"train_regression"' in history  # the job type
    assert history.count("training_loss/seed_0") >= 5


def test_results_are_the_same_bytes_again(smoke):
    """One figure and everything below it, made anew."""
    variant = "softmax_1"
    patterns = [f"results/smoke/regression/{variant}/*.*", "results/smoke/regression/figures/softmax.svg"]
    before = smoke.bytes(*patterns)
    assert len(before) == 5
    smoke.snakemake(*SMOKE, "--forcerun", f"results/smoke/regression/{variant}/snapshots.safetensors")
    assert smoke.bytes(*patterns) == before
    folders = (smoke.folder / "results/smoke/wandb").glob(f"*-train_regression-{variant}")
    assert len([*folders]) == 1  # the run was replaced


def test_an_embedded_model_and_what_is_measured_on_it_are_the_same_bytes_again(smoke):
    patterns = [
        "results/smoke/language/embedded/default/**/*.*",
        "results/smoke/language/default/*.csv",
        "results/smoke/language/figures/default.svg",
    ]
    before = smoke.bytes(*patterns)
    assert len(before) > 8
    smoke.snakemake(*SMOKE, "--forcerun", "results/smoke/language/embedded/default/model")
    assert smoke.bytes(*patterns) == before


def test_the_audit_is_the_same_bytes_again(smoke):
    patterns = ["results/smoke/finetuning/default/*.csv", "results/smoke/finetuning/figures/default_*.svg"]
    before = smoke.bytes(*patterns)
    assert len(before) == 4 + 6
    files = [f"results/smoke/finetuning/default/{table}.csv" for table in ("audit", "inside")]
    smoke.snakemake(*SMOKE, "--forcerun", *files)
    assert smoke.bytes(*patterns) == before


def test_report(smoke):
    smoke.snakemake(*SMOKE, "--report", "report.html")
    text = (smoke.folder / "report.html").read_text()
    assert "claims.csv" in text
    assert "softmax.svg" in text


def test_benchmark(smoke):
    output = "results/benchmark/regression.csv"
    smoke.snakemake(output, "--cores", "1", "--configfile", "config/smoke.yaml")
    table = records.read(smoke.folder / output)
    assert set(table["metric"]) == {"data_time", "update_time", "step_time", "peak_memory"}
    assert (table["value"] > 0).all()
    assert set(table["variant"]) == VARIANTS


def test_benchmark_of_the_audit(smoke):
    output = "results/benchmark/finetuning.csv"
    smoke.snakemake(output, "--cores", "1", "--configfile", "config/smoke.yaml")
    values = records.read(smoke.folder / output).set_index(["variant", "metric"])["value"]
    assert set(values.index) == {("default", metric) for metric in ("core_time", "control_time", "peak_memory")}
    assert values["default", "control_time"] > values["default", "core_time"] > 0


def test_benchmark_of_the_language_models(smoke):
    output = "results/benchmark/language.csv"
    smoke.snakemake(output, "--cores", "1", "--configfile", "config/smoke.yaml")
    table = records.read(smoke.folder / output)
    wanted = {
        "training_speed",
        "corpus_speed",
        "peak_memory",
        "prefix_reused_time",
        "prefix_repeated_time",
        "prefix_logit_difference",
    }
    assert set(table["metric"]) == wanted
    sizes = {"small", "default", "deep"}
    assert set(table["variant"]) == sizes
    values = table.set_index(["variant", "metric"])["value"]
    for size in sizes:
        assert values[size, "prefix_logit_difference"] < 1e-4
        assert values[size, "prefix_reused_time"] < values[size, "prefix_repeated_time"]
        assert values[size, "corpus_speed"] > 5 * values[size, "training_speed"]  # never the bottleneck

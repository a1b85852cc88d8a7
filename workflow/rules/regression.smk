from activation_descent.shards import shard_of

# An overlay drops a figure by setting it to null
FIGURES = {name: figure for name, figure in config["regression"]["figures"].items() if figure}
# Variants that no figure shows are not run
USED_VARIANTS = sorted({variant for figure in FIGURES.values() for variant in figure["variants"]})
SHARDED_VARIANTS = [variant for variant in config["shards"]["regression"] if variant in USED_VARIANTS]


def of_kind(kind):
    """The figures of one kind."""
    return [name for name, figure in FIGURES.items() if figure["kind"] == kind]


# Sine waves have no learner to be held against but their partner's gradient step, which is a comparison of its own
COMPARED = [variant for variant in USED_VARIANTS if VARIANTS[variant]["tasks"] == "linear"]
ROLLED_OUT = [FIGURES[figure]["variants"][0] for figure in of_kind("one_layer")]
# The figure of a layer that is rolled out shows it away from its training, too
PROBED = [variant for variant in COMPARED if variant in config["regression"]["probed"] or variant in ROLLED_OUT]
SWEEPS = [figure for figure in of_kind("one_layer") if len(FIGURES[figure]["variants"]) > 1]

# Which records of its variants a figure shows, by kind; what has no variants has a file of its own.
SHOWN = {
    "one_layer": ["alignment", "generalisation", "rollout"],
    "depth": ["alignment", "generalisation"],
    "generalisation": ["generalisation"],
    "matrices": ["snapshots"],
    "softmax": ["alignment", "snapshots"],
    "layer_norm": ["alignment", "generalisation"],
    "ladder": ["ladder"],
    "spectra": ["learners"],
    "classic_tokens": ["alignment"],
    "fixed_data": ["alignment"],
    "seed_spread": ["alignment"],
    "linear_maps": ["alignment"],
    "sine": ["sine"],
    "updates": ["updates"],
}


def evaluation_size(variant):
    """Evaluation tasks of a variant: half of the others' where a task has many more entries or passes many more layers."""
    settings, evaluation = VARIANTS[variant], config["regression"]["evaluation"]
    if variant in PROBED and settings["layers"] <= 2:
        return evaluation["tasks"]
    return evaluation["sweep_tasks"] // (2 if settings["input_dim"] > 20 or settings["layers"] > 10 else 1)


def shown_in_figure(wildcards):
    """Inputs of a figure: the records of its variants, or those of a comparison."""
    figure = FIGURES[wildcards.figure]
    inputs = {}
    for table in SHOWN[figure["kind"]]:
        if table in ("learners", "updates"):
            inputs[table] = f"<run>/regression/{table}.csv"
        elif table in ("ladder", "sine"):
            inputs[table] = f"<run>/regression/comparisons/{{figure}}/{table}.csv"
        else:
            # The sweep of the one-layer figure shows the course of training alone
            variants = figure["variants"][:1] if figure["kind"] == "one_layer" and table != "alignment" else figure["variants"]
            suffix = "safetensors" if table == "snapshots" else "csv"
            inputs[table] = collect("<run>/regression/{variant}/{table}.{suffix}", variant=variants, table=table, suffix=suffix)
    return inputs


def regression_records():
    """All tables of records of the study, and which of them claims may read."""
    variants = collect("<run>/regression/{variant}/{table}.csv", variant=COMPARED, table=["alignment", "statistics"])
    probed = collect("<run>/regression/{variant}/{table}.csv", variant=PROBED, table=["generalisation", "probes"])
    rolled_out = collect("<run>/regression/{variant}/{table}.csv", variant=ROLLED_OUT, table=["rollout", "rollout_statistics"])
    sizes = collect("<run>/regression/comparisons/{figure}/sizes.csv", figure=SWEEPS)
    ladder = collect(
        "<run>/regression/comparisons/{figure}/{table}.csv", figure=of_kind("ladder"), table=["ladder", "statistics"]
    )
    sine = collect("<run>/regression/comparisons/{figure}/{table}.csv", figure=of_kind("sine"), table=["sine", "sine_statistics"])
    alone = collect("<run>/regression/{table}.csv", table=["learners", "learners_statistics"])
    updates = collect("<run>/regression/{table}.csv", table=["updates", "updates_statistics"] if of_kind("updates") else [])
    tables = [*variants, *probed, *rolled_out, *sizes, *ladder, *sine, *alone, *updates]
    return tables, [table for table in tables if table.endswith(("statistics.csv", "probes.csv", "sizes.csv"))]


def starts_of(variant):
    """First random start of each shard of a variant, and the one after its last."""
    starts, shards = VARIANTS[variant]["best_of"] or VARIANTS[variant]["seeds"], config["shards"]["regression"][variant]
    parts = [shard_of(starts, shards, shard) for shard in range(shards)]
    return [[part.start, part.stop] for part in parts]


def regression_costs():
    """Benchmark files of the study's jobs."""
    shards = [f"{variant}_{shard}" for variant in SHARDED_VARIANTS for shard in range(config["shards"]["regression"][variant])]
    jobs = {
        "train_regression": [variant for variant in USED_VARIANTS if variant not in SHARDED_VARIANTS],
        "train_regression_shard": shards,
        "merge_regression": SHARDED_VARIANTS,
        "compare_regression": COMPARED,
        "compare_regression_sizes": SWEEPS,
        "compare_regression_ladder": of_kind("ladder"),
        "compare_regression_sine": of_kind("sine"),
        "plot_regression": FIGURES,
    }
    alone = ["train_regression_learners", *(["compare_regression_updates"] if of_kind("updates") else [])]
    named = [f"<run_benchmarks>/{rule}/{name}.tsv" for rule, names in jobs.items() for name in names]
    return named + [f"<run_benchmarks>/{rule}.tsv" for rule in alone]


rule train_regression:
    output:
        weights="<run>/regression/{variant}/snapshots.safetensors",
        config="<run>/regression/{variant}/config.json",
    log:
        "<run_logs>/train_regression/{variant}.log",
    benchmark:
        "<run_benchmarks>/train_regression/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("train_regression"),
        seed=config["seed"],
        training=lambda wildcards: VARIANTS[wildcards.variant],
        runs=subpath(output.weights, ancestor=3),
    message:
        "Train a network: {wildcards.variant}"
    script:
        "../scripts/train_regression.py"


rule train_regression_learners:
    output:
        learners="<run>/regression/learners.csv",
        statistics="<run>/regression/learners_statistics.csv",
    log:
        "<run_logs>/train_regression_learners.log",
    benchmark:
        "<run_benchmarks>/train_regression_learners.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("train_regression_learners"),
        seed=config["seed"],
        fitting=config["regression"]["learners"],
        published=config["regression"]["published"],
        runs=subpath(output.learners, ancestor=2),
    message:
        "Fit the learners that networks are held against"
    script:
        "../scripts/train_regression_learners.py"


rule compare_regression:
    input:
        weights=rules.train_regression.output.weights,
        learners=rules.train_regression_learners.output.learners,
    output:
        alignment="<run>/regression/{variant}/alignment.csv",
        statistics="<run>/regression/{variant}/statistics.csv",
    log:
        "<run_logs>/compare_regression/{variant}.log",
    benchmark:
        "<run_benchmarks>/compare_regression/{variant}.tsv"
    wildcard_constraints:
        variant=one_of(set(COMPARED) - set(PROBED)),
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_regression"),
        seed=config["seed"],
        training=lambda wildcards: VARIANTS[wildcards.variant],
        evaluation=config["regression"]["evaluation"],
        tasks=lambda wildcards: evaluation_size(wildcards.variant),
    message:
        "Hold the network against its learners: {wildcards.variant}"
    script:
        "../scripts/compare_regression.py"


# Networks that are tried away from their training, too, or applied again and again: further outputs of the same job, because to start one
# and to load its libraries takes longer than most comparisons
use rule compare_regression as probe_regression with:
    output:
        alignment="<run>/regression/{variant}/alignment.csv",
        statistics="<run>/regression/{variant}/statistics.csv",
        generalisation="<run>/regression/{variant}/generalisation.csv",
        probes="<run>/regression/{variant}/probes.csv",
    wildcard_constraints:
        variant=one_of(set(PROBED) - set(ROLLED_OUT)),
    message:
        "Hold the network against its learners, and try it away from its training: {wildcards.variant}"


use rule probe_regression as probe_regression_rollout with:
    output:
        alignment="<run>/regression/{variant}/alignment.csv",
        statistics="<run>/regression/{variant}/statistics.csv",
        generalisation="<run>/regression/{variant}/generalisation.csv",
        probes="<run>/regression/{variant}/probes.csv",
        rollout="<run>/regression/{variant}/rollout.csv",
        rollout_statistics="<run>/regression/{variant}/rollout_statistics.csv",
    wildcard_constraints:
        variant=one_of(ROLLED_OUT),
    message:
        "Hold the network against its learners, try it away from its training, and again and again: {wildcards.variant}"


rule compare_regression_sizes:
    input:
        alignment=lambda wildcards: collect("<run>/regression/{size}/alignment.csv", size=FIGURES[wildcards.figure]["variants"]),
    output:
        statistics="<run>/regression/comparisons/{figure}/sizes.csv",
    log:
        "<run_logs>/compare_regression_sizes/{figure}.log",
    benchmark:
        "<run_benchmarks>/compare_regression_sizes/{figure}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_regression_sizes"),
        sizes=lambda wildcards: {size: VARIANTS[size]["input_dim"] for size in FIGURES[wildcards.figure]["variants"]},
        tail_share=config["regression"]["evaluation"]["tail_share"],
    message:
        "Compare layers of several sizes: {wildcards.figure}"
    script:
        "../scripts/compare_regression_sizes.py"


rule compare_regression_ladder:
    input:
        weights=lambda wildcards: collect(
            "<run>/regression/{variant}/snapshots.safetensors", variant=FIGURES[wildcards.figure]["variants"]
        ),
        learners=rules.train_regression_learners.output.learners,
    output:
        ladder="<run>/regression/comparisons/{figure}/ladder.csv",
        statistics="<run>/regression/comparisons/{figure}/statistics.csv",
    log:
        "<run_logs>/compare_regression_ladder/{figure}.log",
    benchmark:
        "<run_benchmarks>/compare_regression_ladder/{figure}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_regression_ladder"),
        seed=config["seed"],
        training=lambda wildcards: {variant: VARIANTS[variant] for variant in FIGURES[wildcards.figure]["variants"]},
        evaluation=config["regression"]["evaluation"],
    message:
        "Set networks on the ladder of learners: {wildcards.figure}"
    script:
        "../scripts/compare_regression_ladder.py"


rule compare_regression_sine:
    input:
        weights=lambda wildcards: collect(
            "<run>/regression/{variant}/snapshots.safetensors", variant=FIGURES[wildcards.figure]["variants"]
        ),
    output:
        sine="<run>/regression/comparisons/{figure}/sine.csv",
        statistics="<run>/regression/comparisons/{figure}/sine_statistics.csv",
    log:
        "<run_logs>/compare_regression_sine/{figure}.log",
    benchmark:
        "<run_benchmarks>/compare_regression_sine/{figure}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_regression_sine"),
        seed=config["seed"],
        training=lambda wildcards: [VARIANTS[variant] for variant in FIGURES[wildcards.figure]["variants"]],
        evaluation=config["regression"]["evaluation"],
    message:
        "Hold a trained layer against a gradient step behind an MLP: {wildcards.figure}"
    script:
        "../scripts/compare_regression_sine.py"


rule compare_regression_updates:
    output:
        updates="<run>/regression/updates.csv",
        statistics="<run>/regression/updates_statistics.csv",
    log:
        "<run_logs>/compare_regression_updates.log",
    benchmark:
        "<run_benchmarks>/compare_regression_updates.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_regression_updates"),
        seed=config["seed"],
        updates=config["regression"]["updates"],
    message:
        "Update the data instead of the weights"
    script:
        "../scripts/compare_regression_updates.py"


rule plot_regression:
    input:
        unpack(shown_in_figure),
    output:
        report(
            "<run>/regression/figures/{figure}.svg",
            caption="../report/regression.rst",
            category="regression",
            labels={"figure": "{figure}"},
        ),
    log:
        "<run_logs>/plot_regression/{figure}.log",
    benchmark:
        "<run_benchmarks>/plot_regression/{figure}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_regression"),
        kind=lambda wildcards: FIGURES[wildcards.figure]["kind"],
        training=lambda wildcards: {variant: VARIANTS[variant] for variant in FIGURES[wildcards.figure]["variants"]},
        evaluation=config["regression"]["evaluation"],
    message:
        "Draw {wildcards.figure}"
    script:
        "../scripts/plot_regression.py"


rule benchmark_regression:
    output:
        "<results>/benchmark/regression.csv",
    log:
        "<logs>/benchmark/regression.log",
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("benchmark_regression"),
        training={variant: VARIANTS[variant] for variant in USED_VARIANTS},
        repeats=10,
    message:
        "Time a training step of each variant"
    script:
        "../scripts/benchmark_regression.py"

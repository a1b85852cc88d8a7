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
# and to load its libraries takes longer than most comparisons, where jobs are not forks (`forks.smk`)
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

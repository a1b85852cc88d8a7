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
        "Train a linear self-attention layer: {wildcards.variant}"
    script:
        "../scripts/train_regression.py"


rule compare_regression:
    input:
        weights=rules.train_regression.output.weights,
    output:
        alignment="<run>/regression/{variant}/alignment.csv",
    log:
        "<run_logs>/compare_regression/{variant}.log",
    benchmark:
        "<run_benchmarks>/compare_regression/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_regression"),
        seed=config["seed"],
        training=lambda wildcards: VARIANTS[wildcards.variant],
        tasks=lambda wildcards: config["regression"]["evaluation"]["tasks" if wildcards.variant in FIGURES else "sweep_tasks"],
    message:
        "Hold the layer against gradient descent: {wildcards.variant}"
    script:
        "../scripts/compare_regression.py"


rule probe_regression:
    input:
        weights=rules.train_regression.output.weights,
        alignment=rules.compare_regression.output.alignment,
    output:
        generalisation="<run>/regression/{variant}/generalisation.csv",
        rollout="<run>/regression/{variant}/rollout.csv",
        statistics="<run>/regression/{variant}/statistics.csv",
    log:
        "<run_logs>/probe_regression/{variant}.log",
    benchmark:
        "<run_benchmarks>/probe_regression/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_regression"),
        seed=config["seed"],
        training=lambda wildcards: VARIANTS[wildcards.variant],
        evaluation=config["regression"]["evaluation"],
    message:
        "Probe the layer away from its training and beside controls: {wildcards.variant}"
    script:
        "../scripts/probe_regression.py"


rule compare_regression_sizes:
    input:
        alignment=lambda wildcards: collect("<run>/regression/{size}/alignment.csv", size=sweep(wildcards)),
    output:
        statistics="<run>/regression/{variant}/sizes.csv",
    log:
        "<run_logs>/compare_regression_sizes/{variant}.log",
    benchmark:
        "<run_benchmarks>/compare_regression_sizes/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_regression_sizes"),
        experiment=lambda wildcards: VARIANTS[wildcards.variant]["experiment"],
        sizes=lambda wildcards: {size: VARIANTS[size]["input_dim"] for size in sweep(wildcards)},
        tail_share=config["regression"]["evaluation"]["tail_share"],
    message:
        "Compare layers of several sizes: {wildcards.variant}"
    script:
        "../scripts/compare_regression_sizes.py"


rule plot_regression:
    input:
        alignment=rules.compare_regression.output.alignment,
        generalisation=rules.probe_regression.output.generalisation,
        rollout=rules.probe_regression.output.rollout,
        sizes=lambda wildcards: collect("<run>/regression/{size}/alignment.csv", size=sweep(wildcards)),
    output:
        report(
            "<run>/regression/figures/{variant}.svg",
            caption="../report/regression.rst",
            category="regression",
            labels={"variant": "{variant}"},
        ),
    log:
        "<run_logs>/plot_regression/{variant}.log",
    benchmark:
        "<run_benchmarks>/plot_regression/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_regression"),
        training=lambda wildcards: VARIANTS[wildcards.variant],
        evaluation=config["regression"]["evaluation"],
        sizes=lambda wildcards: {size: VARIANTS[size]["input_dim"] for size in sweep(wildcards)},
    message:
        "Draw figure 2: {wildcards.variant}"
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
        repeats=30,
    message:
        "Time a training step of each variant"
    script:
        "../scripts/benchmark_regression.py"

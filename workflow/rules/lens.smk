rule train_lens_body:
    input:
        world="<run>/language/corpus/world.json",
    output:
        model="<run>/lens/bodies/{body}/model.safetensors",
        curve="<run>/lens/bodies/{body}/training.csv",
    log:
        "<run_logs>/train_lens_body/{body}.log",
    benchmark:
        "<run_benchmarks>/train_lens_body/{body}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("train_lens_body"),
        seed=config["seed"],
        bodies=BODY,
        mixture=config["language"]["corpus"]["mixture"],
        runs=subpath(output.curve, ancestor=4),
    message:
        "Train small language models for lenses: {wildcards.body}"
    script:
        "../scripts/train_lens_body.py"


rule probe_lens:
    input:
        unpack(lens_subject),
    output:
        lenses="<run>/lens/{variant}/lenses.csv",
        translators="<run>/lens/{variant}/translators.safetensors",
        trajectory="<run>/lens/{variant}/trajectory.json",
    log:
        "<run_logs>/probe_lens/{variant}.log",
    benchmark:
        "<run_benchmarks>/probe_lens/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_lens"),
        seed=config["seed"],
        model=lambda wildcards: MODELS.get(wildcards.variant),
        lens=lambda wildcards: LENSES[wildcards.variant],
        mixture=config["language"]["corpus"]["mixture"],
    message:
        "Fit lenses and read every layer through every lens: {wildcards.variant}"
    script:
        "../scripts/probe_lens.py"


rule probe_lens_synthetic:
    output:
        "<run>/lens/synthetic_statistics.csv",
    log:
        "<run_logs>/probe_lens_synthetic.log",
    benchmark:
        "<run_benchmarks>/probe_lens_synthetic.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_lens_synthetic"),
        seed=config["seed"],
        synthetic=config["lens"]["synthetic"],
    message:
        "Put streams whose answer is known through the lenses"
    script:
        "../scripts/probe_lens_synthetic.py"


rule train_lens_vision:
    output:
        "<run>/lens/vision_statistics.csv",
    log:
        "<run_logs>/train_lens_vision.log",
    benchmark:
        "<run_benchmarks>/train_lens_vision.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("train_lens_vision"),
        seed=config["seed"],
        vision=config["lens"]["vision"],
        runs=subpath(output[0], ancestor=2),
    message:
        "Train image classifiers, the negative control of lenses"
    script:
        "../scripts/train_lens_vision.py"


rule probe_lens_predictive_coding:
    input:
        unpack(predictive_coding_subject),
    output:
        "<run>/lens/{variant}/predictive_coding_statistics.csv",
    log:
        "<run_logs>/probe_lens_predictive_coding/{variant}.log",
    benchmark:
        "<run_benchmarks>/probe_lens_predictive_coding/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_lens_predictive_coding"),
        seed=config["seed"],
        model=lambda wildcards: MODELS.get(wildcards.variant),
        lens=lambda wildcards: LENSES.get(wildcards.variant),
        predictive_coding=config["lens"]["predictive_coding"],
        mixture=config["language"]["corpus"]["mixture"],
    message:
        "Ask whether a forward pass is predictive coding: {wildcards.variant}"
    script:
        "../scripts/probe_lens_predictive_coding.py"


rule compare_lens:
    input:
        rules.probe_lens.output.lenses,
    output:
        "<run>/lens/{variant}/statistics.csv",
    log:
        "<run_logs>/compare_lens/{variant}.log",
    benchmark:
        "<run_benchmarks>/compare_lens/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_lens"),
    message:
        "Compare lenses: {wildcards.variant}"
    script:
        "../scripts/compare_lens.py"


rule plot_lens:
    input:
        lenses=rules.probe_lens.output.lenses,
        trajectory=rules.probe_lens.output.trajectory,
        statistics=rules.compare_lens.output,
    output:
        transfer=report(
            "<run>/lens/figures/{variant}_transfer.svg",
            caption="../report/lens_transfer.rst",
            category="lens",
            labels={"variant": "{variant}", "figure": "transfer"},
        ),
        lenses=report(
            "<run>/lens/figures/{variant}_lenses.svg",
            caption="../report/lens.rst",
            category="lens",
            labels={"variant": "{variant}", "figure": "lenses"},
        ),
        trajectory=report(
            "<run>/lens/figures/{variant}_trajectory.svg",
            caption="../report/lens.rst",
            category="lens",
            labels={"variant": "{variant}", "figure": "trajectory"},
        ),
    log:
        "<run_logs>/plot_lens/{variant}.log",
    benchmark:
        "<run_benchmarks>/plot_lens/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_lens"),
        name=lambda wildcards: lens_name(wildcards.variant),
    message:
        "Draw lenses and their transfer: {wildcards.variant}"
    script:
        "../scripts/plot_lens.py"


rule plot_lens_controls:
    input:
        statistics=collect("<run>/lens/{variant}/statistics.csv", variant=LENSES),
        synthetic=rules.probe_lens_synthetic.output,
        vision=rules.train_lens_vision.output,
        predictive_coding=collect("<run>/lens/{variant}/predictive_coding_statistics.csv", variant=PREDICTIVE),
    output:
        controls=report(
            "<run>/lens/figures/controls.svg",
            caption="../report/lens_controls.rst",
            category="lens",
            labels={"variant": "all", "figure": "controls"},
        ),
        vision=report(
            "<run>/lens/figures/vision.svg",
            caption="../report/lens_controls.rst",
            category="lens",
            labels={"variant": "image classifiers", "figure": "vision"},
        ),
        predictive_coding=report(
            "<run>/lens/figures/predictive_coding.svg",
            caption="../report/lens_predictive_coding.rst",
            category="lens",
            labels={"variant": "all", "figure": "predictive coding"},
        ),
        readability=report(
            "<run>/lens/figures/readability.svg",
            caption="../report/lens_predictive_coding.rst",
            category="lens",
            labels={"variant": "all", "figure": "readability"},
        ),
    log:
        "<run_logs>/plot_lens_controls.log",
    benchmark:
        "<run_benchmarks>/plot_lens_controls.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_lens_controls"),
        models={variant: lens_name(variant) for variant in LENSES},
    message:
        "Draw models beside controls"
    script:
        "../scripts/plot_lens_controls.py"


rule benchmark_lens:
    output:
        "<results>/benchmark/lens.csv",
    log:
        "<logs>/benchmark/lens.log",
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("benchmark_lens"),
        repeats=20,
    message:
        "Time a step of fitting a lens, beside the authors' library where it is installed"
    script:
        "../scripts/benchmark_lens.py"

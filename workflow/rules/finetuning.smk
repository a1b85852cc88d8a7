rule probe_finetuning:
    input:
        model=embedded_model,
    output:
        audit="<run>/finetuning/{variant}/audit.csv",
    log:
        "<run_logs>/probe_finetuning/{variant}.log",
    benchmark:
        "<run_benchmarks>/probe_finetuning/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_finetuning"),
        seed=config["seed"],
        model=lambda wildcards: MODELS[wildcards.variant],
        tasks=lambda wildcards: FINE_TUNED[wildcards.variant]["tasks"],
        noise=config["language"]["corpus"]["mixture"]["noise"],
        pool_size=config["language"]["evaluation"]["pool_size"],
        sampling=config["finetuning"]["sampling"],
        effort=config["finetuning"]["effort"],
        controls=lambda wildcards: wildcards.variant in AUDITED,
        runs=subpath(output[0], ancestor=3),
    message:
        "Fine-tune a language model on its demonstrations, with controls: {wildcards.variant}"
    script:
        "../scripts/probe_finetuning.py"


rule probe_finetuning_inside:
    input:
        model=embedded_model,
    output:
        "<run>/finetuning/{variant}/inside.csv",
    log:
        "<run_logs>/probe_finetuning_inside/{variant}.log",
    benchmark:
        "<run_benchmarks>/probe_finetuning_inside/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_finetuning_inside"),
        seed=config["seed"],
        model=lambda wildcards: MODELS[wildcards.variant],
        tasks=lambda wildcards: FINE_TUNED[wildcards.variant]["tasks"],
        noise=config["language"]["corpus"]["mixture"]["noise"],
        pool_size=config["language"]["evaluation"]["pool_size"],
        sampling=config["finetuning"]["sampling"],
        rates=config["finetuning"]["effort"]["rates"],
        inside=config["finetuning"]["inside"],
        runs=subpath(output[0], ancestor=3),
    message:
        "Look inside the in-context learning of a language model: {wildcards.variant}"
    script:
        "../scripts/probe_finetuning_inside.py"


rule probe_finetuning_explicit:
    output:
        "<run>/finetuning/explicit_statistics.csv",
    log:
        "<run_logs>/probe_finetuning_explicit.log",
    benchmark:
        "<run_benchmarks>/probe_finetuning_explicit.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_finetuning_explicit"),
        seed=config["seed"],
        explicit=config["finetuning"]["explicit"],
    message:
        "Put a layer that is gradient descent through the comparison with fine-tuning"
    script:
        "../scripts/probe_finetuning_explicit.py"


rule train_finetuning_momentum:
    input:
        world="<run>/language/corpus/world.json",
    output:
        "<run>/finetuning/momentum/{attention}.csv",
    log:
        "<run_logs>/train_finetuning_momentum/{attention}.log",
    benchmark:
        "<run_benchmarks>/train_finetuning_momentum/{attention}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("train_finetuning_momentum"),
        seed=config["seed"],
        momentum=FINETUNING["momentum"],
        runs=subpath(output[0], ancestor=3),
    message:
        "Train language models with another attention: {wildcards.attention}"
    script:
        "../scripts/train_finetuning_momentum.py"


rule compare_finetuning:
    input:
        audit=rules.probe_finetuning.output.audit,
        inside=lambda wildcards: rules.probe_finetuning_inside.output if wildcards.variant in AUDITED else [],
    output:
        statistics="<run>/finetuning/{variant}/statistics.csv",
        significance="<run>/finetuning/{variant}/significance.csv",
    log:
        "<run_logs>/compare_finetuning/{variant}.log",
    benchmark:
        "<run_benchmarks>/compare_finetuning/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_finetuning"),
        seed=config["seed"],
        gate=config["language"]["evaluation"]["gate"],
    message:
        "Compare fine-tuning and its controls with in-context learning: {wildcards.variant}"
    script:
        "../scripts/compare_finetuning.py"


rule compare_finetuning_momentum:
    input:
        collect("<run>/finetuning/momentum/{attention}.csv", attention=ATTENTIONS),
    output:
        "<run>/finetuning/momentum_statistics.csv",
    log:
        "<run_logs>/compare_finetuning_momentum.log",
    benchmark:
        "<run_benchmarks>/compare_finetuning_momentum.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_finetuning_momentum"),
    message:
        "Compare kinds of attention with plain softmax attention"
    script:
        "../scripts/compare_finetuning_momentum.py"


rule plot_finetuning:
    input:
        audit=rules.probe_finetuning.output.audit,
        inside=rules.probe_finetuning_inside.output,
        statistics=rules.compare_finetuning.output.statistics,
        significance=rules.compare_finetuning.output.significance,
    output:
        controls=report(
            "<run>/finetuning/figures/{variant}_controls.svg",
            caption="../report/finetuning.rst",
            category="finetuning",
            labels={"variant": "{variant}", "figure": "controls"},
        ),
        layers=report(
            "<run>/finetuning/figures/{variant}_layers.svg",
            caption="../report/finetuning.rst",
            category="finetuning",
            labels={"variant": "{variant}", "figure": "layers"},
        ),
        answers=report(
            "<run>/finetuning/figures/{variant}_answers.svg",
            caption="../report/finetuning.rst",
            category="finetuning",
            labels={"variant": "{variant}", "figure": "answers"},
        ),
        pairs=report(
            "<run>/finetuning/figures/{variant}_pairs.svg",
            caption="../report/finetuning.rst",
            category="finetuning",
            labels={"variant": "{variant}", "figure": "pairs"},
        ),
        inside=report(
            "<run>/finetuning/figures/{variant}_inside.svg",
            caption="../report/finetuning.rst",
            category="finetuning",
            labels={"variant": "{variant}", "figure": "inside"},
        ),
        contrasts=report(
            "<run>/finetuning/figures/{variant}_contrasts.svg",
            caption="../report/finetuning.rst",
            category="finetuning",
            labels={"variant": "{variant}", "figure": "contrasts"},
        ),
    log:
        "<run_logs>/plot_finetuning/{variant}.log",
    benchmark:
        "<run_benchmarks>/plot_finetuning/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_finetuning"),
        name=lambda wildcards: MODELS[wildcards.variant]["name"],
    message:
        "Draw the fine-tuning audit of a language model: {wildcards.variant}"
    script:
        "../scripts/plot_finetuning.py"


rule plot_finetuning_sizes:
    input:
        statistics=collect("<run>/finetuning/{variant}/statistics.csv", variant=FINE_TUNED),
        quiz=collect("<run>/language/{variant}/quiz.csv", variant=FINE_TUNED),
    output:
        report(
            "<run>/finetuning/figures/sizes.svg",
            caption="../report/finetuning.rst",
            category="finetuning",
            labels={"variant": "all sizes"},
        ),
    log:
        "<run_logs>/plot_finetuning_sizes.log",
    benchmark:
        "<run_benchmarks>/plot_finetuning_sizes.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_finetuning_sizes"),
    message:
        "Draw the similarity of fine-tuning against the models' size"
    script:
        "../scripts/plot_finetuning_sizes.py"


rule plot_finetuning_momentum:
    input:
        momentum=rules.compare_finetuning_momentum.output,
        explicit=rules.probe_finetuning_explicit.output,
    output:
        report(
            "<run>/finetuning/figures/momentum.svg",
            caption="../report/finetuning_momentum.rst",
            category="finetuning",
            labels={"variant": "kinds of attention"},
        ),
    log:
        "<run_logs>/plot_finetuning_momentum.log",
    benchmark:
        "<run_benchmarks>/plot_finetuning_momentum.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_finetuning_momentum"),
    message:
        "Draw kinds of attention and the positive control"
    script:
        "../scripts/plot_finetuning_momentum.py"


rule benchmark_finetuning:
    input:
        models=[f"<run>/language/embedded/{EMBEDDED[name]}/model" for name in AUDITED if name in EMBEDDED],
    output:
        "<results>/benchmark/finetuning.csv",
    log:
        "<logs>/benchmark/finetuning.log",
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("benchmark_finetuning"),
        seed=config["seed"],
        models={name: MODELS[name] for name in AUDITED if name in EMBEDDED},
        tasks={name: FINE_TUNED[name]["tasks"] for name in AUDITED},
        noise=config["language"]["corpus"]["mixture"]["noise"],
        pool_size=config["language"]["evaluation"]["pool_size"],
        sampling=config["finetuning"]["sampling"],
        effort=config["finetuning"]["effort"],
    message:
        "Time the comparison with fine-tuning and its controls"
    script:
        "../scripts/benchmark_finetuning.py"

rule probe_attention_duality:
    output:
        numbers="<run>/attention/duality.csv",
        picture="<run>/attention/duality.safetensors",
    log:
        "<run_logs>/probe_attention_duality.log",
    benchmark:
        "<run_benchmarks>/probe_attention_duality.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_attention_duality"),
        seed=config["seed"],
        duality=config["attention"]["duality"],
    message:
        "Hold a trained classifier against its dual form"
    script:
        "../scripts/probe_attention_duality.py"


rule probe_attention_softmax:
    input:
        weights=collect("<run>/regression/{variant}/snapshots.safetensors", variant=READ_LAYERS),
    output:
        identities="<run>/attention/identities.csv",
        readings="<run>/attention/readings.csv",
    log:
        "<run_logs>/probe_attention_softmax.log",
    benchmark:
        "<run_benchmarks>/probe_attention_softmax.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_attention_softmax"),
        seed=config["seed"],
        identities=config["attention"]["identities"],
        training={variant: VARIANTS[variant] for variant in READ_LAYERS},
        tasks=config["attention"]["readings"]["tasks"],
    message:
        "Try every reading of softmax attention as a gradient step"
    script:
        "../scripts/probe_attention_softmax.py"


rule train_attention_layers:
    output:
        weights="<run>/attention/layers/{attention}.safetensors",
        records="<run>/attention/layers/{attention}.csv",
    log:
        "<run_logs>/train_attention_layers/{attention}.log",
    benchmark:
        "<run_benchmarks>/train_attention_layers/{attention}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("train_attention_layers"),
        seed=config["seed"],
        mixture=config["attention"]["mixture"],
        layers=lambda wildcards: ATTENTION["layers"][wildcards.attention],
        runs=subpath(output[0], ancestor=3),
    message:
        "Train layers on mixtures of regression and other sequences: {wildcards.attention}"
    script:
        "../scripts/train_attention_layers.py"


rule probe_attention_heads:
    input:
        model=embedded_model,
    output:
        "<run>/attention/heads/{variant}.csv",
    log:
        "<run_logs>/probe_attention_heads/{variant}.log",
    benchmark:
        "<run_benchmarks>/probe_attention_heads/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_attention_heads"),
        seed=config["seed"],
        model=lambda wildcards: MODELS[wildcards.variant],
        tasks=lambda wildcards: SCANNED[wildcards.variant]["tasks"],
        noise=config["language"]["corpus"]["mixture"]["noise"],
        pool_size=config["language"]["evaluation"]["pool_size"],
        scan=config["attention"]["scan"],
    message:
        "Look for the construction in the heads of a language model: {wildcards.variant}"
    script:
        "../scripts/probe_attention_heads.py"


rule probe_attention_checkpoint:
    output:
        "<run>/attention/checkpoints/{variant}.csv",
    log:
        "<run_logs>/probe_attention_checkpoint/{variant}.log",
    benchmark:
        "<run_benchmarks>/probe_attention_checkpoint/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_attention_checkpoint"),
        seed=config["seed"],
        checkpoint=lambda wildcards: CHECKPOINTS[wildcards.variant],
        scan=config["attention"]["scan"],
    message:
        "Look for the construction in the attention weights of a file: {wildcards.variant}"
    script:
        "../scripts/probe_attention_checkpoint.py"


rule probe_attention_controls:
    input:
        weights=f"<run>/regression/{CONTROL_LAYER}/snapshots.safetensors",
    output:
        "<run>/attention/controls.csv",
    log:
        "<run_logs>/probe_attention_controls.log",
    benchmark:
        "<run_benchmarks>/probe_attention_controls.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_attention_controls"),
        seed=config["seed"],
        training=VARIANTS[CONTROL_LAYER],
        shape=config["attention"]["controls"]["by_hand"],
    message:
        "Look for the construction where it is"
    script:
        "../scripts/probe_attention_controls.py"


rule compare_attention:
    input:
        readings=rules.probe_attention_softmax.output.readings,
        layers=collect("<run>/attention/layers/{attention}.csv", attention=LAYERS),
        heads=collect("<run>/attention/heads/{variant}.csv", variant=SCANNED),
        checkpoints=collect("<run>/attention/checkpoints/{variant}.csv", variant=CHECKPOINTS),
    output:
        "<run>/attention/statistics.csv",
    log:
        "<run_logs>/compare_attention.log",
    benchmark:
        "<run_benchmarks>/compare_attention.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_attention"),
        models=[*SCANNED, *CHECKPOINTS],
        level=config["attention"]["scan"]["level"],
    message:
        "Compare readings, layers and heads"
    script:
        "../scripts/compare_attention.py"


rule plot_attention:
    input:
        picture=rules.probe_attention_duality.output.picture,
        identities=rules.probe_attention_softmax.output.identities,
        readings=rules.probe_attention_softmax.output.readings,
        layers=collect("<run>/attention/layers/{attention}.csv", attention=LAYERS),
        heads=collect("<run>/attention/heads/{variant}.csv", variant=SCANNED),
        checkpoints=collect("<run>/attention/checkpoints/{variant}.csv", variant=CHECKPOINTS),
        controls=rules.probe_attention_controls.output,
    output:
        duality=report(
            "<run>/attention/figures/duality.svg",
            caption="../report/attention_duality.rst",
            category="attention",
            labels={"figure": "dual form"},
        ),
        softmax=report(
            "<run>/attention/figures/softmax.svg",
            caption="../report/attention_softmax.rst",
            category="attention",
            labels={"figure": "softmax as a gradient step"},
        ),
        layers=report(
            "<run>/attention/figures/layers.svg",
            caption="../report/attention_layers.rst",
            category="attention",
            labels={"figure": "layers that were not trained for regression"},
        ),
        heads=report(
            "<run>/attention/figures/heads.svg",
            caption="../report/attention_heads.rst",
            category="attention",
            labels={"figure": "heads"},
        ),
    log:
        "<run_logs>/plot_attention.log",
    benchmark:
        "<run_benchmarks>/plot_attention.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_attention"),
    message:
        "Draw attention as an update"
    script:
        "../scripts/plot_attention.py"

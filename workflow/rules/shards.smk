# Jobs that outgrow a machine, cut as `shards` of the configuration says: the rule of the whole job with a part of its random starts, or
# of its tasks, and a rule that puts the parts together, to the same bytes.
ruleorder: merge_regression > train_regression
ruleorder: merge_finetuning > probe_finetuning
ruleorder: merge_finetuning > probe_finetuning_inside


use rule train_regression as train_regression_shard with:
    output:
        weights=temp("<run>/regression/{variant}/shards/{shard}.safetensors"),
        config=temp("<run>/regression/{variant}/shards/{shard}.json"),
    log:
        "<run_logs>/train_regression/{variant}_{shard}.log",
    benchmark:
        "<run_benchmarks>/train_regression_shard/{variant}_{shard}.tsv"
    params:
        code=code("train_regression"),
        seed=config["seed"],
        training=lambda wildcards: VARIANTS[wildcards.variant],
        starts=lambda wildcards: starts_of(wildcards.variant)[int(wildcards.shard)],
        runs=subpath(output.weights, ancestor=4),
    message:
        "Train a network, shard {wildcards.shard}: {wildcards.variant}"


rule merge_regression:
    input:
        lambda wildcards: collect(
            "<run>/regression/{variant}/shards/{shard}.safetensors",
            variant=wildcards.variant,
            shard=range(config["shards"]["regression"][wildcards.variant]),
        ),
    output:
        weights="<run>/regression/{variant}/snapshots.safetensors",
        config="<run>/regression/{variant}/config.json",
    log:
        "<run_logs>/merge_regression/{variant}.log",
    benchmark:
        "<run_benchmarks>/merge_regression/{variant}.tsv"
    wildcard_constraints:
        variant=one_of(SHARDED_VARIANTS),
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("merge_regression"),
        training=lambda wildcards: VARIANTS[wildcards.variant],
        starts=lambda wildcards: starts_of(wildcards.variant),
    message:
        "Put the random starts of shards together: {wildcards.variant}"
    script:
        "../scripts/merge_regression.py"


use rule probe_finetuning as probe_finetuning_shard with:
    output:
        audit=temp("<run>/finetuning/{variant}/shards/{shard}_audit.csv"),
    log:
        "<run_logs>/probe_finetuning/{variant}_{shard}.log",
    benchmark:
        "<run_benchmarks>/probe_finetuning_shard/{variant}_{shard}.tsv"
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
        shard=lambda wildcards: [int(wildcards.shard), config["shards"]["finetuning"][wildcards.variant]],
        runs=subpath(output[0], ancestor=4),
    message:
        "Fine-tune a language model on its demonstrations, with controls, shard {wildcards.shard}: {wildcards.variant}"


use rule probe_finetuning_inside as probe_finetuning_inside_shard with:
    output:
        temp("<run>/finetuning/{variant}/shards/{shard}_inside.csv"),
    log:
        "<run_logs>/probe_finetuning_inside/{variant}_{shard}.log",
    benchmark:
        "<run_benchmarks>/probe_finetuning_inside_shard/{variant}_{shard}.tsv"
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
        shard=lambda wildcards: [int(wildcards.shard), config["shards"]["finetuning"][wildcards.variant]],
        runs=subpath(output[0], ancestor=4),
    message:
        "Look inside the in-context learning of a language model, shard {wildcards.shard}: {wildcards.variant}"


rule merge_finetuning:
    input:
        lambda wildcards: collect(
            "<run>/finetuning/{variant}/shards/{shard}_{table}.csv",
            variant=wildcards.variant,
            shard=range(config["shards"]["finetuning"][wildcards.variant]),
            table=wildcards.table,
        ),
    output:
        "<run>/finetuning/{variant}/{table}.csv",
    log:
        "<run_logs>/merge_finetuning/{variant}_{table}.log",
    benchmark:
        "<run_benchmarks>/merge_finetuning/{variant}_{table}.tsv"
    wildcard_constraints:
        variant=one_of(SHARDED_MODELS),
        table="audit|inside",
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("merge_finetuning"),
    message:
        "Put the {wildcards.table} of shards together: {wildcards.variant}"
    script:
        "../scripts/merge_finetuning.py"

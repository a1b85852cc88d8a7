rule train_attention_toy_problems:
    output:
        "<run>/attention/toy_problems/{problem}.csv",
    log:
        "<run_logs>/train_attention_toy_problems/{problem}.log",
    benchmark:
        "<run_benchmarks>/train_attention_toy_problems/{problem}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("train_attention_toy_problems"),
        seed=config["seed"],
        toy_problems=config["attention"]["toy_problems"],
        runs=subpath(output[0], ancestor=3),
    message:
        "Train every kind of attention on a toy problem: {wildcards.problem}"
    script:
        "../scripts/train_attention_toy_problems.py"


rule compare_attention_toy_problems:
    input:
        collect("<run>/attention/toy_problems/{problem}.csv", problem=TOY_PROBLEMS),
    output:
        statistics="<run>/attention/toy_statistics.csv",
        approximations="<run>/attention/approximations.csv",
    log:
        "<run_logs>/compare_attention_toy_problems.log",
    benchmark:
        "<run_benchmarks>/compare_attention_toy_problems.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_attention_toy_problems"),
        seed=config["seed"],
        approximation=config["attention"]["approximation"],
    message:
        "Compare linear-time attention with softmax attention"
    script:
        "../scripts/compare_attention_toy_problems.py"


rule plot_attention_toy_problems:
    input:
        scores=collect("<run>/attention/toy_problems/{problem}.csv", problem=TOY_PROBLEMS),
        approximations=rules.compare_attention_toy_problems.output.approximations,
    output:
        report(
            "<run>/attention/figures/toy_problems.svg",
            caption="../report/attention_toy_problems.rst",
            category="attention",
            labels={"figure": "toy problems"},
        ),
    log:
        "<run_logs>/plot_attention_toy_problems.log",
    benchmark:
        "<run_benchmarks>/plot_attention_toy_problems.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_attention_toy_problems"),
    message:
        "Draw linear-time attention on toy problems"
    script:
        "../scripts/plot_attention_toy_problems.py"


rule benchmark_attention:
    output:
        table="<results>/benchmark/attention.csv",
        figure="<results>/benchmark/attention.svg",
    log:
        "<logs>/benchmark/attention.log",
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("benchmark_attention"),
        lengths=[2**exponent for exponent in range(6, 14)],
        features=64,
        repeats=5,
    message:
        "Time every kind of attention against the length"
    script:
        "../scripts/benchmark_attention.py"

rule train_reasoning_knapsack:
    output:
        "<run>/reasoning/{network}/weights.safetensors",
    log:
        "<run_logs>/train_reasoning_knapsack/{network}.log",
    benchmark:
        "<run_benchmarks>/train_reasoning_knapsack/{network}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("train_reasoning_knapsack"),
        seed=config["seed"],
        knapsack=config["reasoning"]["knapsack"]["training"],
        runs=subpath(output[0], ancestor=3),
    message:
        "Train networks on knapsack problems: {wildcards.network}"
    script:
        "../scripts/train_reasoning_knapsack.py"


rule train_reasoning_logic:
    output:
        "<run>/reasoning/logic/weights.safetensors",
    log:
        "<run_logs>/train_reasoning_logic.log",
    benchmark:
        "<run_benchmarks>/train_reasoning_logic.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("train_reasoning_logic"),
        seed=config["seed"],
        logic=config["reasoning"]["logic"],
        runs=subpath(output[0], ancestor=3),
    message:
        "Train encoders on each sampler of SimpleLogic"
    script:
        "../scripts/train_reasoning_logic.py"


rule probe_reasoning_knapsack:
    input:
        encoder="<run>/reasoning/encoder/weights.safetensors",
        perceptron="<run>/reasoning/perceptron/weights.safetensors",
    output:
        answers="<run>/reasoning/knapsack.csv",
        table="<run>/reasoning/table.csv",
    log:
        "<run_logs>/probe_reasoning_knapsack.log",
    benchmark:
        "<run_benchmarks>/probe_reasoning_knapsack.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_reasoning_knapsack"),
        seed=config["seed"],
        knapsack=config["reasoning"]["knapsack"]["training"],
        evaluation=config["reasoning"]["knapsack"]["evaluation"],
    message:
        "Look for dynamic programming in networks that solve knapsack problems"
    script:
        "../scripts/probe_reasoning_knapsack.py"


rule probe_reasoning_logic:
    input:
        rules.train_reasoning_logic.output,
    output:
        "<run>/reasoning/logic.csv",
    log:
        "<run_logs>/probe_reasoning_logic.log",
    benchmark:
        "<run_benchmarks>/probe_reasoning_logic.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_reasoning_logic"),
        seed=config["seed"],
        logic=config["reasoning"]["logic"],
    message:
        "Try encoders on the other sampler of SimpleLogic, and weights by hand on both"
    script:
        "../scripts/probe_reasoning_logic.py"


rule compare_reasoning:
    input:
        answers=rules.probe_reasoning_knapsack.output.answers,
        table=rules.probe_reasoning_knapsack.output.table,
        logic=rules.probe_reasoning_logic.output,
    output:
        "<run>/reasoning/statistics.csv",
    log:
        "<run_logs>/compare_reasoning.log",
    benchmark:
        "<run_benchmarks>/compare_reasoning.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_reasoning"),
    message:
        "Compare networks on knapsack and logic"
    script:
        "../scripts/compare_reasoning.py"


rule plot_reasoning:
    input:
        answers=rules.probe_reasoning_knapsack.output.answers,
        table=rules.probe_reasoning_knapsack.output.table,
        logic=rules.probe_reasoning_logic.output,
    output:
        knapsack=report(
            "<run>/reasoning/figures/knapsack.svg",
            caption="../report/reasoning_knapsack.rst",
            category="reasoning",
            labels={"figure": "knapsack"},
        ),
        table=report(
            "<run>/reasoning/figures/table.svg",
            caption="../report/reasoning_knapsack.rst",
            category="reasoning",
            labels={"figure": "table"},
        ),
        logic=report(
            "<run>/reasoning/figures/logic.svg",
            caption="../report/reasoning_logic.rst",
            category="reasoning",
            labels={"figure": "logic"},
        ),
    log:
        "<run_logs>/plot_reasoning.log",
    benchmark:
        "<run_benchmarks>/plot_reasoning.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_reasoning"),
        largest_weight=config["reasoning"]["knapsack"]["training"]["largest_weight"],
    message:
        "Draw knapsack and logic"
    script:
        "../scripts/plot_reasoning.py"

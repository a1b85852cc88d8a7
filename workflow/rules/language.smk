rule prepare_language_corpus:
    output:
        world="<run>/language/corpus/world.json",
        tokenizer="<run>/language/corpus/tokenizer.json",
        sample="<run>/language/corpus/sample.txt",
    log:
        "<run_logs>/prepare_language_corpus.log",
    benchmark:
        "<run_benchmarks>/prepare_language_corpus.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("prepare_language_corpus"),
        seed=config["seed"],
        corpus=config["language"]["corpus"],
        context_length=config["language"]["training"]["stages"][-1]["length"],
    message:
        "Draw the world that the embedded language models read about"
    script:
        "../scripts/prepare_language_corpus.py"


rule train_language_model:
    input:
        world=rules.prepare_language_corpus.output.world,
    output:
        model=directory("<run>/language/embedded/{size}/model"),
        curve="<run>/language/embedded/{size}/training.csv",
    log:
        "<run_logs>/train_language_model/{size}.log",
    benchmark:
        "<run_benchmarks>/train_language_model/{size}.tsv"
    priority: 1  # the longest jobs of the study first
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("train_language_model"),
        seed=config["seed"],
        training=lambda wildcards: SIZES[wildcards.size],
        corpus=config["language"]["corpus"],
        runs=subpath(output.curve, ancestor=4),
    message:
        "Train an embedded language model: {wildcards.size}"
    script:
        "../scripts/train_language_model.py"


rule probe_language:
    input:
        model=embedded_model,
    output:
        accuracy="<run>/language/{variant}/accuracy.csv",
        quiz="<run>/language/{variant}/quiz.csv",
    log:
        "<run_logs>/probe_language/{variant}.log",
    benchmark:
        "<run_benchmarks>/probe_language/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("probe_language"),
        seed=config["seed"],
        model=lambda wildcards: MODELS[wildcards.variant],
        noise=config["language"]["corpus"]["mixture"]["noise"],
        evaluation=config["language"]["evaluation"],
    message:
        "Measure what a language model learns from its prompt: {wildcards.variant}"
    script:
        "../scripts/probe_language.py"


rule compare_language:
    input:
        accuracy=rules.probe_language.output.accuracy,
        quiz=rules.probe_language.output.quiz,
    output:
        statistics="<run>/language/{variant}/statistics.csv",
        gate="<run>/language/{variant}/gate.csv",
    log:
        "<run_logs>/compare_language/{variant}.log",
    benchmark:
        "<run_benchmarks>/compare_language/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("compare_language"),
        judged=config["language"]["evaluation"]["judged_demonstrations"],
        gate=config["language"]["evaluation"]["gate"],
    message:
        "Compare prompts with demonstrations, labels and facts: {wildcards.variant}"
    script:
        "../scripts/compare_language.py"


rule plot_language:
    input:
        accuracy=rules.probe_language.output.accuracy,
        quiz=rules.probe_language.output.quiz,
        gate=rules.compare_language.output.gate,
    output:
        report(
            "<run>/language/figures/{variant}.svg",
            caption="../report/language.rst",
            category="language",
            labels={"variant": "{variant}"},
        ),
    log:
        "<run_logs>/plot_language/{variant}.log",
    benchmark:
        "<run_benchmarks>/plot_language/{variant}.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_language"),
        name=lambda wildcards: MODELS[wildcards.variant]["name"],
        judged=config["language"]["evaluation"]["judged_demonstrations"],
    message:
        "Draw the curves of a language model: {wildcards.variant}"
    script:
        "../scripts/plot_language.py"


rule plot_language_sizes:
    input:
        statistics=collect("<run>/language/{variant}/statistics.csv", variant=EMBEDDED),
        quiz=collect("<run>/language/{variant}/quiz.csv", variant=EMBEDDED),
    output:
        report(
            "<run>/language/figures/sizes.svg",
            caption="../report/language_sizes.rst",
            category="language",
            labels={"variant": "all sizes"},
        ),
    log:
        "<run_logs>/plot_language_sizes.log",
    benchmark:
        "<run_benchmarks>/plot_language_sizes.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_language_sizes"),
    message:
        "Draw the embedded models against their size"
    script:
        "../scripts/plot_language_sizes.py"


rule plot_language_pretraining:
    input:
        training=collect("<run>/language/embedded/{size}/training.csv", size=USED_SIZES),
    output:
        report(
            "<run>/language/figures/pretraining.svg",
            caption="../report/language_pretraining.rst",
            category="language",
            labels={"variant": "pretraining"},
        ),
    log:
        "<run_logs>/plot_language_pretraining.log",
    benchmark:
        "<run_benchmarks>/plot_language_pretraining.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("plot_language_pretraining"),
        training=SIZES,
    message:
        "Draw the pretraining of the embedded models"
    script:
        "../scripts/plot_language_pretraining.py"


rule benchmark_language:
    output:
        "<results>/benchmark/language.csv",
    log:
        "<logs>/benchmark/language.log",
    conda:
        "../../envs/activation-descent.yaml"
    threads: 1
    params:
        code=code("benchmark_language"),
        training=SIZES,
        corpus=config["language"]["corpus"],
        demonstrations=max(config["language"]["evaluation"]["demonstrations"]),
        repeats=10,
    message:
        "Time pretraining and the reuse of a prompt"
    script:
        "../scripts/benchmark_language.py"

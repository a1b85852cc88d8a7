rule prepare_config:
    output:
        "<run>/config.yaml",
    log:
        "<run_logs>/prepare_config.log",
    localrule: True
    conda:
        "../../envs/activation-descent.yaml"
    params:
        config=config,
    message:
        "Keep the configuration beside the results"
    script:
        "../scripts/prepare_config.py"


rule judge_claims:
    input:
        statistics=collect("<run>/regression/{variant}/statistics.csv", variant=FIGURES),
        sizes=collect(
            "<run>/regression/{variant}/sizes.csv",
            variant=[name for name, sizes in FIGURES.items() if sizes],
        ),
        language=collect("<run>/language/{variant}/statistics.csv", variant=MODELS),
    output:
        report(
            "<run>/claims.csv",
            caption="../report/claims.rst",
            category="claims",
        ),
    log:
        "<run_logs>/judge_claims.log",
    benchmark:
        "<run_benchmarks>/judge_claims.tsv"
    conda:
        "../../envs/activation-descent.yaml"
    params:
        code=code("judge_claims"),
        seed=config["seed"],
        claims=CLAIMS,
        settings=config["claims"],
    message:
        "Judge the claims"
    script:
        "../scripts/judge_claims.py"


rule render_page:
    input:
        claims=rules.judge_claims.output,
        figures=[
            collect("<run>/regression/figures/{variant}.svg", variant=FIGURES),
            collect("<run>/language/figures/{variant}.svg", variant=[*MODELS, "sizes"]),
        ],
        records=[
            rules.judge_claims.input.statistics,
            rules.judge_claims.input.sizes,
            collect("<run>/regression/{variant}/alignment.csv", variant=USED_VARIANTS),
            collect(
                "<run>/regression/{variant}/{table}.csv",
                variant=FIGURES,
                table=["generalisation", "rollout"],
            ),
            collect(
                "<run>/language/{variant}/{table}.csv",
                variant=MODELS,
                table=["accuracy", "quiz", "statistics", "gate"],
            ),
            collect("<run>/language/embedded/{size}/training.csv", size=USED_SIZES),
            rules.prepare_language_corpus.output.sample,
        ],
        config=rules.prepare_config.output,
        costs=[
            "<run_benchmarks>/judge_claims.tsv",
            collect(
                "<run_benchmarks>/{rule}/{variant}.tsv",
                rule=["train_regression", "compare_regression"],
                variant=USED_VARIANTS,
            ),
            collect(
                "<run_benchmarks>/{rule}/{variant}.tsv",
                rule=["probe_regression", "plot_regression"],
                variant=FIGURES,
            ),
            collect("<run_benchmarks>/train_language_model/{size}.tsv", size=USED_SIZES),
            collect(
                "<run_benchmarks>/{rule}/{variant}.tsv",
                rule=["probe_language", "compare_language", "plot_language"],
                variant=MODELS,
            ),
        ],
    output:
        "<run>/index.html",
    log:
        "<run_logs>/render_page.log",
    conda:
        "../../envs/activation-descent.yaml"
    params:
        code=code("render_page"),
        run=config["run"],
        claims=CLAIMS,
    message:
        "Render the page"
    script:
        "../scripts/render_page.py"

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
        statistics=[
            *regression_records()[1],
            *language_records()[1],
            *finetuning_records()[1],
            *attention_records()[1],
            *toy_problem_records()[1],
            *reasoning_records()[1],
            *lens_records()[1],
        ],
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
        statistics=rules.judge_claims.input.statistics,
        figures=[
            *collect("<run>/regression/figures/{figure}.svg", figure=FIGURES),
            *language_figures(),
            *finetuning_figures(),
            *attention_figures(),
            *toy_problem_figures(),
            *reasoning_figures(),
            *lens_figures(),
        ],
        records=[
            *regression_records()[0],
            *language_records()[0],
            *finetuning_records()[0],
            *attention_records()[0],
            *toy_problem_records()[0],
            *reasoning_records()[0],
            *lens_records()[0],
        ],
        corpus=rules.prepare_language_corpus.output.sample if EMBEDDED else [],
        config=rules.prepare_config.output,
        costs=[
            "<run_benchmarks>/judge_claims.tsv",
            *regression_costs(),
            *language_costs(),
            *finetuning_costs(),
            *attention_costs(),
            *toy_problem_costs(),
            *reasoning_costs(),
            *lens_costs(),
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
        document=DOCUMENT,
        drawn_from=drawn_from(),
        options=snakemake_options(),
    message:
        "Render the page"
    script:
        "../scripts/render_page.py"

# The language models that the study looks at, and those of them that are trained here; an overlay drops a model by setting it to null
MODELS = {name: model for name, model in config["language"]["models"].items() if model}
EMBEDDED = {
    name: model["name"].removeprefix("embedded:") for name, model in MODELS.items() if model["name"].startswith("embedded:")
}
USED_SIZES = sorted(set(EMBEDDED.values()))


def embedded_model(wildcards):
    """The folder of an embedded model; nothing for a model from elsewhere."""
    if wildcards.variant in EMBEDDED:
        return f"<run>/language/embedded/{EMBEDDED[wildcards.variant]}/model"
    return []


def language_figures():
    """Figures of the study; those that compare embedded models, if there are any."""
    return collect("<run>/language/figures/{name}.svg", name=[*MODELS, *(["sizes", "pretraining"] if EMBEDDED else [])])


def language_records():
    """All tables of records of the study, and which of them claims may read."""
    studied = collect("<run>/language/{variant}/{table}.csv", variant=MODELS, table=["accuracy", "quiz", "statistics", "gate"])
    trained = collect("<run>/language/embedded/{size}/training.csv", size=USED_SIZES)
    return [*studied, *trained], [table for table in studied if table.endswith("statistics.csv")]


def language_costs():
    """Benchmark files of the study's jobs."""
    jobs = {"train_language_model": USED_SIZES, "probe_language": MODELS, "compare_language": MODELS, "plot_language": MODELS}
    alone = ["prepare_language_corpus", "plot_language_sizes", "plot_language_pretraining"] if EMBEDDED else []
    named = [f"<run_benchmarks>/{rule}/{name}.tsv" for rule, names in jobs.items() for name in names]
    return named + [f"<run_benchmarks>/{rule}.tsv" for rule in alone]

# Models that are fine-tuned, and those of them on which every control is run; an overlay drops one by setting it to null
FINE_TUNED = {name: model for name, model in config["finetuning"]["models"].items() if model and name in MODELS}
AUDITED = [name for name, model in FINE_TUNED.items() if model["controls"]]
SHARDED_MODELS = [name for name in config["shards"]["finetuning"] if name in FINE_TUNED]
ATTENTIONS = FINETUNING["momentum"]["attentions"]


def finetuning_figures():
    """Figures of the study."""
    audited = collect(
        "<run>/finetuning/figures/{name}_{figure}.svg",
        name=AUDITED,
        figure=["controls", "answers", "layers", "pairs", "inside", "contrasts"],
    )
    return [*audited, *collect("<run>/finetuning/figures/{name}.svg", name=["sizes", "momentum"])]


def finetuning_records():
    """All tables of records of the study, and which of them claims may read."""
    tuned = collect("<run>/finetuning/{variant}/{table}.csv", variant=FINE_TUNED, table=["audit", "statistics", "significance"])
    inside = collect("<run>/finetuning/{variant}/inside.csv", variant=AUDITED)
    momentum = collect("<run>/finetuning/momentum/{attention}.csv", attention=ATTENTIONS)
    alone = ["<run>/finetuning/explicit_statistics.csv", "<run>/finetuning/momentum_statistics.csv"]
    judged = [table for table in tuned if table.endswith("statistics.csv")]
    return [*tuned, *inside, *momentum, *alone], [*judged, *alone]


def finetuning_costs():
    """Benchmark files of the study's jobs."""
    cut = [(model, shard) for model in SHARDED_MODELS for shard in range(config["shards"]["finetuning"][model])]
    jobs = {
        "probe_finetuning": [model for model in FINE_TUNED if model not in SHARDED_MODELS],
        "probe_finetuning_shard": [f"{model}_{shard}" for model, shard in cut],
        "probe_finetuning_inside": [model for model in AUDITED if model not in SHARDED_MODELS],
        "probe_finetuning_inside_shard": [f"{model}_{shard}" for model, shard in cut if model in AUDITED],
        "merge_finetuning": [f"{model}_audit" for model in SHARDED_MODELS]
        + [f"{model}_inside" for model in SHARDED_MODELS if model in AUDITED],
        "train_finetuning_momentum": ATTENTIONS,
        "compare_finetuning": FINE_TUNED,
        "plot_finetuning": AUDITED,
    }
    alone = ["probe_finetuning_explicit", "compare_finetuning_momentum", "plot_finetuning_sizes", "plot_finetuning_momentum"]
    named = [f"<run_benchmarks>/{rule}/{name}.tsv" for rule, names in jobs.items() for name in names]
    return named + [f"<run_benchmarks>/{rule}.tsv" for rule in alone]

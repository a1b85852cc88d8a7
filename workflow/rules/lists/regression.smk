from activation_descent.shards import shard_of

# An overlay drops a figure by setting it to null
FIGURES = {name: figure for name, figure in config["regression"]["figures"].items() if figure}
# Variants that no figure shows are not run
USED_VARIANTS = sorted({variant for figure in FIGURES.values() for variant in figure["variants"]})
SHARDED_VARIANTS = [variant for variant in config["shards"]["regression"] if variant in USED_VARIANTS]


def of_kind(kind):
    """The figures of one kind."""
    return [name for name, figure in FIGURES.items() if figure["kind"] == kind]


# Sine waves have no learner to be held against but their partner's gradient step, which is a comparison of its own
COMPARED = [variant for variant in USED_VARIANTS if VARIANTS[variant]["tasks"] == "linear"]
ROLLED_OUT = [FIGURES[figure]["variants"][0] for figure in of_kind("one_layer")]
# The figure of a layer that is rolled out shows it away from its training, too
PROBED = [variant for variant in COMPARED if variant in config["regression"]["probed"] or variant in ROLLED_OUT]
SWEEPS = [figure for figure in of_kind("one_layer") if len(FIGURES[figure]["variants"]) > 1]

# Which records of its variants a figure shows, by kind; what has no variants has a file of its own.
SHOWN = {
    "one_layer": ["alignment", "generalisation", "rollout"],
    "depth": ["alignment", "generalisation"],
    "generalisation": ["generalisation"],
    "matrices": ["snapshots"],
    "softmax": ["alignment", "snapshots"],
    "layer_norm": ["alignment", "generalisation"],
    "ladder": ["ladder"],
    "spectra": ["learners"],
    "classic_tokens": ["alignment"],
    "fixed_data": ["alignment"],
    "seed_spread": ["alignment"],
    "linear_maps": ["alignment"],
    "sine": ["sine"],
    "updates": ["updates"],
}


def evaluation_size(variant):
    """Evaluation tasks of a variant: half of the others' where a task has many more entries or passes many more layers."""
    settings, evaluation = VARIANTS[variant], config["regression"]["evaluation"]
    if variant in PROBED and settings["layers"] <= 2:
        return evaluation["tasks"]
    return evaluation["sweep_tasks"] // (2 if settings["input_dim"] > 20 or settings["layers"] > 10 else 1)


def shown_in_figure(wildcards):
    """Inputs of a figure: the records of its variants, or those of a comparison."""
    figure = FIGURES[wildcards.figure]
    inputs = {}
    for table in SHOWN[figure["kind"]]:
        if table in ("learners", "updates"):
            inputs[table] = f"<run>/regression/{table}.csv"
        elif table in ("ladder", "sine"):
            inputs[table] = f"<run>/regression/comparisons/{{figure}}/{table}.csv"
        else:
            # The sweep of the one-layer figure shows the course of training alone
            variants = figure["variants"][:1] if figure["kind"] == "one_layer" and table != "alignment" else figure["variants"]
            suffix = "safetensors" if table == "snapshots" else "csv"
            inputs[table] = collect("<run>/regression/{variant}/{table}.{suffix}", variant=variants, table=table, suffix=suffix)
    return inputs


def regression_records():
    """All tables of records of the study, and which of them claims may read."""
    variants = collect("<run>/regression/{variant}/{table}.csv", variant=COMPARED, table=["alignment", "statistics"])
    probed = collect("<run>/regression/{variant}/{table}.csv", variant=PROBED, table=["generalisation", "probes"])
    rolled_out = collect("<run>/regression/{variant}/{table}.csv", variant=ROLLED_OUT, table=["rollout", "rollout_statistics"])
    sizes = collect("<run>/regression/comparisons/{figure}/sizes.csv", figure=SWEEPS)
    ladder = collect(
        "<run>/regression/comparisons/{figure}/{table}.csv", figure=of_kind("ladder"), table=["ladder", "statistics"]
    )
    sine = collect("<run>/regression/comparisons/{figure}/{table}.csv", figure=of_kind("sine"), table=["sine", "sine_statistics"])
    alone = collect("<run>/regression/{table}.csv", table=["learners", "learners_statistics"])
    updates = collect("<run>/regression/{table}.csv", table=["updates", "updates_statistics"] if of_kind("updates") else [])
    tables = [*variants, *probed, *rolled_out, *sizes, *ladder, *sine, *alone, *updates]
    return tables, [table for table in tables if table.endswith(("statistics.csv", "probes.csv", "sizes.csv"))]


def starts_of(variant):
    """First random start of each shard of a variant, and the one after its last."""
    starts, shards = VARIANTS[variant]["best_of"] or VARIANTS[variant]["seeds"], config["shards"]["regression"][variant]
    parts = [shard_of(starts, shards, shard) for shard in range(shards)]
    return [[part.start, part.stop] for part in parts]


def regression_costs():
    """Benchmark files of the study's jobs."""
    shards = [f"{variant}_{shard}" for variant in SHARDED_VARIANTS for shard in range(config["shards"]["regression"][variant])]
    jobs = {
        "train_regression": [variant for variant in USED_VARIANTS if variant not in SHARDED_VARIANTS],
        "train_regression_shard": shards,
        "merge_regression": SHARDED_VARIANTS,
        "compare_regression": COMPARED,
        "compare_regression_sizes": SWEEPS,
        "compare_regression_ladder": of_kind("ladder"),
        "compare_regression_sine": of_kind("sine"),
        "plot_regression": FIGURES,
    }
    alone = ["train_regression_learners", *(["compare_regression_updates"] if of_kind("updates") else [])]
    named = [f"<run_benchmarks>/{rule}/{name}.tsv" for rule, names in jobs.items() for name in names]
    return named + [f"<run_benchmarks>/{rule}.tsv" for rule in alone]

# Networks of the regression study that are read again; language models and files whose heads are scanned
READ_LAYERS, CONTROL_LAYER = ATTENTION["readings"]["variants"], ATTENTION["controls"]["one_layer"]
LAYERS = list(ATTENTION["layers"])
SCANNED = {name: model for name, model in ATTENTION["models"].items() if model and name in MODELS}
CHECKPOINTS = {name: checkpoint for name, checkpoint in ATTENTION["checkpoints"].items() if checkpoint}


def attention_figures():
    """Figures of the study."""
    return collect("<run>/attention/figures/{name}.svg", name=["duality", "softmax", "layers", "heads"])


def attention_records():
    """All tables of records of the study, and which of them claims may read."""
    layers = collect("<run>/attention/layers/{attention}.csv", attention=LAYERS)
    heads = collect("<run>/attention/heads/{variant}.csv", variant=SCANNED)
    checkpoints = collect("<run>/attention/checkpoints/{variant}.csv", variant=CHECKPOINTS)
    judged = collect("<run>/attention/{table}.csv", table=["duality", "identities", "controls", "statistics"])
    return ["<run>/attention/readings.csv", *layers, *heads, *checkpoints, *judged], judged


def attention_costs():
    """Benchmark files of the study's jobs."""
    jobs = {
        "train_attention_layers": LAYERS,
        "probe_attention_heads": SCANNED,
        "probe_attention_checkpoint": CHECKPOINTS,
    }
    alone = [
        "probe_attention_duality",
        "probe_attention_softmax",
        "probe_attention_controls",
        "compare_attention",
        "plot_attention",
    ]
    named = [f"<run_benchmarks>/{rule}/{name}.tsv" for rule, names in jobs.items() for name in names]
    return named + [f"<run_benchmarks>/{rule}.tsv" for rule in alone]

# The lens study's own models, trained here, and the subjects that are asked whether they are predictive coding
BODIES = [variant for variant in LENSES if variant not in MODELS]
# What each is and how it is trained
BODY = {key: value for key, value in config["lens"]["bodies"].items() if key != "kinds"}
PREDICTIVE = ["error_correction", *(name for name in config["lens"]["predictive_coding"]["models"] if name in LENSES)]


def lens_name(variant):
    """What figures call a subject."""
    own = {
        "untied": "untied layers",
        "tied_loops": "tied layers, a loss at every loop",
        "tied": "tied layers, a loss at the end",
        "random_body": "frozen random layers",
    }
    return own[variant] if variant in BODIES else MODELS[variant]["name"]


def lens_subject(wildcards):
    """What lenses are fitted to: one of the study's own models, or a language model."""
    if wildcards.variant in BODIES:
        return {
            "body": f"<run>/lens/bodies/{wildcards.variant}/model.safetensors",
            "world": "<run>/language/corpus/world.json",
        }
    return {"model": embedded_model(wildcards)}


def predictive_coding_subject(wildcards):
    """The same with its lenses; the control trains itself and needs none."""
    if wildcards.variant == "error_correction":
        return {}
    return lens_subject(wildcards) | {"translators": f"<run>/lens/{wildcards.variant}/translators.safetensors"}


def lens_figures():
    """Figures of the study."""
    own = collect("<run>/lens/figures/{variant}_{figure}.svg", variant=LENSES, figure=["transfer", "lenses", "trajectory"])
    return [*own, *collect("<run>/lens/figures/{name}.svg", name=["controls", "vision", "predictive_coding", "readability"])]


def lens_records():
    """All tables of records of the study, and which of them claims may read."""
    lenses = collect("<run>/lens/{variant}/lenses.csv", variant=LENSES)
    training = collect("<run>/lens/bodies/{body}/training.csv", body=BODIES)
    judged = [
        *collect("<run>/lens/{variant}/statistics.csv", variant=LENSES),
        *collect("<run>/lens/{variant}/predictive_coding_statistics.csv", variant=PREDICTIVE),
        *collect("<run>/lens/{name}_statistics.csv", name=["synthetic", "vision"]),
    ]
    return [*lenses, *training, *judged], judged


def lens_costs():
    """Benchmark files of the study's jobs."""
    jobs = {
        "train_lens_body": BODIES,
        "probe_lens": LENSES,
        "probe_lens_predictive_coding": PREDICTIVE,
        "compare_lens": LENSES,
        "plot_lens": LENSES,
    }
    alone = ["probe_lens_synthetic", "train_lens_vision", "plot_lens_controls"]
    named = [f"<run_benchmarks>/{rule}/{name}.tsv" for rule, names in jobs.items() for name in names]
    return named + [f"<run_benchmarks>/{rule}.tsv" for rule in alone]

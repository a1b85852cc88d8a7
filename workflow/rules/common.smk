from types import SimpleNamespace

import yaml

from activation_descent.errors import ActivationDescentError
from activation_descent.provenance import source_digest
from activation_descent.settings import (
    check_reasoning,
    check_schema,
    check_shards,
    check_toy_problems,
    resolve_attention,
    resolve_finetuning,
    resolve_language,
    resolve_lens,
    resolve_regression,
)
from activation_descent.shards import shard_of


def read_yaml(path):
    """A YAML file, or one sentence that names it."""
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise WorkflowError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}")


def code(rule):
    """Digest of the library code that a rule's script uses, as a param: an edit there reruns the rule."""
    return source_digest(workflow.source_path(f"../scripts/{rule}.py"))


def config_sources():
    """The configuration files in the order in which they were merged, with their contents."""
    overlays = [str(path) for path in workflow.overwrite_configfiles]
    base = [str(path) for path in workflow.configfiles if str(path) not in overlays]
    return {os.path.relpath(path): read_yaml(path) for path in base + overlays}


def checked_settings():
    """Check configuration and claims before anything runs; returns the resolved variants and the claims file."""
    from activation_descent.claims import check as check_claims
    from activation_descent.page.answer import check as check_answer

    try:
        check_schema(
            config,
            read_yaml(workflow.source_path("../schemas/config.schema.yaml")),
            config_sources(),
        )
        variants = resolve_regression(config["regression"])
        sizes = resolve_language(config["language"])
        finetuning = resolve_finetuning(config["finetuning"], config["language"])
        attention = resolve_attention(config["attention"], variants, config["language"])
        check_toy_problems(config["attention"]["toy_problems"])
        check_reasoning(config["reasoning"])
        lenses = resolve_lens(config["lens"], config["language"])
        check_shards(config["shards"], variants, config["finetuning"]["models"])
        document = read_yaml(workflow.source_path("../../config/claims.yaml"))
        check_schema(
            document,
            read_yaml(workflow.source_path("../schemas/claims.schema.yaml")),
            {"config/claims.yaml": document},
        )
        compared = [name for name, settings in variants.items() if settings["tasks"] == "linear"]
        known = {
            "regression": [*compared, *SUBJECTS, *config["regression"]["figures"]],
            "language": list(config["language"]["models"]),
            "finetuning": [*config["finetuning"]["models"], *EXPLICIT_LAYERS, *finetuning["momentum"]["attentions"]],
            "attention": [
                *ATTENTION_SUBJECTS,
                *compared,
                *config["attention"]["models"],
                *MECHANISMS,
            ],
            "reasoning": SOLVERS,
            "lens": [*lenses, *config["lens"]["models"], *LENS_CONTROLS],
        }
        check_claims(document["claims"], known)
        check_answer(document["answer"], document["claims"])
    except ActivationDescentError as error:
        raise WorkflowError(str(error))
    return variants, sizes, finetuning, attention, lenses, document


# What claims may name besides variants: comparisons of several variants, and learners without a network
SUBJECTS = ["learners", "updates"]
# Layers by hand, the positive and negative controls of the comparison with fine-tuning
EXPLICIT_LAYERS = ["linear", "softmax_1_centred", "random_weights"]
# What the attention study has besides models: the dual form, statements about softmax, layers on mixtures, controls, all models together
ATTENTION_SUBJECTS = [
    "duality",
    "linear_objective",
    "first_order",
    "local_least_squares",
    "hopfield",
    "augmented_state",
    "token_flow",
    "implicit_update",
    *[f"{name}_{others}" for name in ("linear", "softmax") for others in ("dynamics", "markov", "copying")],
    "controls",
    "language_models",
]
# Attention on toy problems, the best of the linear kinds, and no training
MECHANISMS = ["softmax", "efficient", "performer", "elu", "linear", "latent", "linearised", "untrained"]
TOY_PROBLEMS = ["recall", "induction", "copying", "regression"]
# Knapsack, and logic by what a network was trained on
SOLVERS = ["knapsack", "rule_priority", "label_priority", "construction"]
# Synthetic streams, image classifiers, and the model whose layers correct errors
LENS_CONTROLS = [
    "iterative",
    "additive",
    "carried",
    "drifting",
    "inception",
    "inception_residual",
    "tied_residual",
    "error_correction",
]
VARIANTS, SIZES, FINETUNING, ATTENTION, LENSES, DOCUMENT = checked_settings()
CLAIMS = DOCUMENT["claims"]
# An overlay drops a figure by setting it to null
FIGURES = {name: figure for name, figure in config["regression"]["figures"].items() if figure}
# Variants that no figure shows are not run
USED_VARIANTS = sorted({variant for figure in FIGURES.values() for variant in figure["variants"]})
SHARDED_VARIANTS = [variant for variant in config["shards"]["regression"] if variant in USED_VARIANTS]


def of_kind(kind):
    """The figures of one kind."""
    return [name for name, figure in FIGURES.items() if figure["kind"] == kind]


def one_of(names):
    """A wildcard constraint: these names and no other."""
    return "|".join(sorted(names)) or "(?!)"


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


def toy_problem_records():
    """All tables of records of the study, and which of them claims may read."""
    toys = collect("<run>/attention/toy_problems/{problem}.csv", problem=TOY_PROBLEMS)
    return [*toys, "<run>/attention/approximations.csv", *(judged := ["<run>/attention/toy_statistics.csv"])], judged


def toy_problem_figures():
    """Figures of the study."""
    return ["<run>/attention/figures/toy_problems.svg"]


def toy_problem_costs():
    """Benchmark files of the study's jobs."""
    toys = collect("<run_benchmarks>/train_attention_toy_problems/{problem}.tsv", problem=TOY_PROBLEMS)
    alone = ["compare_attention_toy_problems", "plot_attention_toy_problems"]
    return [*toys, *(f"<run_benchmarks>/{rule}.tsv" for rule in alone)]


def reasoning_records():
    """All tables of records of the study, and which of them claims may read."""
    tables = collect("<run>/reasoning/{table}.csv", table=["knapsack", "table", "logic"])
    return [*tables, *(judged := ["<run>/reasoning/statistics.csv"])], judged


def reasoning_figures():
    """Figures of the study."""
    return collect("<run>/reasoning/figures/{figure}.svg", figure=["knapsack", "table", "logic"])


def reasoning_costs():
    """Benchmark files of the study's jobs."""
    knapsack = collect("<run_benchmarks>/train_reasoning_knapsack/{network}.tsv", network=["encoder", "perceptron"])
    alone = ["train_reasoning_logic", "probe_reasoning_knapsack", "probe_reasoning_logic", "compare_reasoning", "plot_reasoning"]
    return [*knapsack, *(f"<run_benchmarks>/{rule}.tsv" for rule in alone)]


# The lens study's own models, trained here, and the subjects that are asked whether they are predictive coding
BODIES = [variant for variant in LENSES if variant not in MODELS]
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


def drawn_from():
    """For each figure the records that it is drawn from, both below the run's folder."""

    def below(path):
        return os.path.relpath(path, os.path.dirname(rules.prepare_config.output[0]))

    of_variants = {rules.plot_language: MODELS, rules.plot_finetuning: AUDITED, rules.plot_lens: LENSES}
    alone = [
        rules.plot_language_sizes,
        rules.plot_language_pretraining,
        rules.plot_finetuning_sizes,
        rules.plot_finetuning_momentum,
        rules.plot_attention,
        rules.plot_attention_toy_problems,
        rules.plot_reasoning,
        rules.plot_lens_controls,
    ]
    found = {}
    for plotted, variants in [*of_variants.items(), *((plotted, [""]) for plotted in alone)]:
        for variant in variants:
            own = {"variant": variant}
            read = [below(path.apply_wildcards(own)) for path in plotted.input]
            found.update({below(figure.apply_wildcards(own)): read for figure in plotted.output})
    for figure in FIGURES:
        read = shown_in_figure(SimpleNamespace(figure=figure)).values()
        paths = [path for table in read for path in ([table] if isinstance(table, str) else table)]
        found[f"regression/figures/{figure}.svg"] = [path.removeprefix("<run>/").format(figure=figure) for path in paths]
    return found


def snakemake_options():
    """What a call of Snakemake needs to be of this run."""
    overlays = " ".join(os.path.relpath(path) for path in workflow.overwrite_configfiles)
    return f"--cores all --configfile {overlays}" if overlays else "--cores all"

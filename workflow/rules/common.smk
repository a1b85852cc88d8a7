from activation_descent.attention import LAYER_KINDS, MECHANISMS, OTHERS, TOY_PROBLEMS
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
    from activation_descent.lens import BODIES as bodies
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
            "finetuning": [*config["finetuning"]["models"], *EXPLICIT_LAYERS, *MOMENTUM],
            "attention": [
                *ATTENTION_SUBJECTS,
                *compared,
                *config["attention"]["models"],
                *TOY_SUBJECTS,
            ],
            "reasoning": SOLVERS,
            "lens": [*bodies, *config["lens"]["models"], *LENS_CONTROLS],
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
# Attention that remembers what it said, and what it is held against
MOMENTUM = ["vanilla", "moving_average", "momentum", "convolution", "recency_bias"]
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
    *[f"{kind}_{others}" for kind in LAYER_KINDS for others in OTHERS],
    "controls",
    "language_models",
]
# Of the toy problems: the best of the linear kinds of attention, and no training
TOY_SUBJECTS = [*MECHANISMS, "linearised", "untrained"]
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


def one_of(names):
    """A wildcard constraint: these names and no other."""
    return "|".join(sorted(names)) or "(?!)"

import yaml

from activation_descent.errors import ActivationDescentError
from activation_descent.provenance import source_digest
from activation_descent.settings import check_schema, resolve_regression


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
    """Check configuration and claims before anything runs; returns the resolved variants and the claims."""
    from activation_descent.claims import check as check_claims

    try:
        check_schema(
            config,
            read_yaml(workflow.source_path("../schemas/config.schema.yaml")),
            config_sources(),
        )
        variants = resolve_regression(config["regression"])
        document = read_yaml(workflow.source_path("../../config/claims.yaml"))
        check_schema(
            document,
            read_yaml(workflow.source_path("../schemas/claims.schema.yaml")),
            {"config/claims.yaml": document},
        )
        check_claims(document["claims"], {"regression": [*variants, *SUBJECTS]})
    except ActivationDescentError as error:
        raise WorkflowError(str(error))
    return variants, document["claims"]


# What claims may name besides variants: comparisons of several variants, and learners without a network
SUBJECTS = ["learners", "updates", *config["regression"]["figures"]]
VARIANTS, CLAIMS = checked_settings()
# An overlay drops a figure by setting it to null
FIGURES = {name: figure for name, figure in config["regression"]["figures"].items() if figure}
# Variants that no figure shows are not run
USED_VARIANTS = sorted({variant for figure in FIGURES.values() for variant in figure["variants"]})
PROBED = [variant for variant in config["regression"]["probed"] if variant in USED_VARIANTS]


def of_kind(kind):
    """The figures of one kind."""
    return [name for name, figure in FIGURES.items() if figure["kind"] == kind]


ROLLED_OUT = [FIGURES[figure]["variants"][0] for figure in of_kind("one_layer")]
SWEEPS = [figure for figure in of_kind("one_layer") if len(FIGURES[figure]["variants"]) > 1]

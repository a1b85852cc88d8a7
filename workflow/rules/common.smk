import yaml

from activation_descent.errors import ActivationDescentError
from activation_descent.provenance import source_digest
from activation_descent.settings import check_schema, resolve_language, resolve_regression


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
        sizes = resolve_language(config["language"])
        document = read_yaml(workflow.source_path("../../config/claims.yaml"))
        check_schema(
            document,
            read_yaml(workflow.source_path("../schemas/claims.schema.yaml")),
            {"config/claims.yaml": document},
        )
        # Only variants with a figure have statistics to judge
        judged = {"regression": list(config["regression"]["figures"]), "language": list(config["language"]["models"])}
        check_claims(document["claims"], judged)
    except ActivationDescentError as error:
        raise WorkflowError(str(error))
    return variants, sizes, document["claims"]


VARIANTS, SIZES, CLAIMS = checked_settings()
FIGURES = config["regression"]["figures"]
# Variants that neither have a figure nor enter a sweep are not run
USED_VARIANTS = sorted({*FIGURES, *(size for sizes in FIGURES.values() for size in sizes)})


def sweep(wildcards):
    """The variants of a figure's sweep over N = d."""
    return FIGURES[wildcards.variant]


# Language models that are trained here, and all that the study looks at
MODELS = list(config["language"]["models"])
EMBEDDED = [variant for variant in MODELS if config["language"]["models"][variant]["name"].startswith("embedded:")]
USED_SIZES = [config["language"]["models"][variant]["name"].removeprefix("embedded:") for variant in EMBEDDED]


def embedded_model(wildcards):
    """The folder of an embedded model; nothing for a model from elsewhere."""
    name = config["language"]["models"][wildcards.variant]["name"]
    return f"<run>/language/embedded/{name.removeprefix('embedded:')}/model" if name.startswith("embedded:") else []

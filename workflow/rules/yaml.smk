import yaml

# Ten times as fast where PyYAML was built with libyaml, and as safe
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path):
    """A YAML file, or one sentence that names it."""
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.load(file, Loader=LOADER)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise WorkflowError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}")

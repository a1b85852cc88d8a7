"""Checked settings: what a configuration may say, in one clear sentence when it says something else."""

import difflib
from collections.abc import Mapping
from typing import Any

from activation_descent.errors import SettingsError


def check_schema(document: Any, schema: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
    """Hold a document against a JSON schema.

    Args:
        document: the merged configuration, or a claims file.
        sources: the files that it was merged from, in the order of merging, each with its content.

    Raises:
        SettingsError: one sentence that names the file and the key of the first fault.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import relevance

    faults = sorted(Draft202012Validator(schema).iter_errors(document), key=lambda e: (list(map(str, e.absolute_path)), str(e)))
    if not faults:
        return
    # A misspelt key is two faults, one unknown and one missing; the unknown one names the mistake
    fault = max(faults, key=lambda fault: (fault.validator == "additionalProperties", *relevance(fault)))
    path = list(fault.absolute_path)
    key = ".".join(map(str, path)) or "the top level"
    raise SettingsError(f"{_origin(path, fault, sources)}: {key}: {_sentence(fault)}")


def _origin(path: list[str | int], fault: Any, sources: Mapping[str, Any]) -> str:
    """The last file that sets the faulty key; what no file sets came from the command line."""
    if fault.validator == "additionalProperties":
        path = [*path, _unknown(fault)[0]]
    for name, content in reversed(sources.items()):
        for step in path:
            try:
                content = content[step]
            except (KeyError, IndexError, TypeError):
                break
        else:
            return name
    return next(iter(sources), "configuration") if fault.validator == "required" else "command line"


def _unknown(fault: Any) -> list[str]:
    return sorted(set(map(str, fault.instance)) - set(fault.schema.get("properties", {})))


def _sentence(fault: Any) -> str:
    match fault.validator:
        case "additionalProperties":
            unknown = _unknown(fault)[0]
            close = difflib.get_close_matches(unknown, fault.schema.get("properties", {}), n=1)
            return f"unknown key '{unknown}'" + (f"; did you mean '{close[0]}'?" if close else "")
        case "type" if isinstance(fault.instance, str) and _is_number(fault.instance):
            return f"'{fault.instance}' is text to YAML, not a number; write it with a decimal point, as in 1.0e-3"
        case "type":
            wanted = fault.validator_value
            wanted = wanted if isinstance(wanted, str) else " or ".join(wanted)
            return f"{fault.instance!r} is not of type {wanted}"
        case "required":
            missing = sorted(set(fault.validator_value) - set(fault.instance))
            return f"key '{missing[0]}' is missing"
        case "pattern":
            return f"{fault.instance!r} is not allowed; {fault.schema.get('description', 'see config/README.md')}"
        case _:
            return fault.message


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def resolve_regression(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The full training settings of each variant: the published values, overlaid with the variant's own.

    Raises:
        SettingsError: if settings that are fine one by one cannot be run together.
    """
    variants = {name: {**study["published"], **own} for name, own in study["variants"].items()}
    for name, settings in variants.items():
        if settings["snapshot_every"] > settings["steps"]:
            raise SettingsError(
                f"configuration: regression.variants.{name}: snapshot_every {settings['snapshot_every']} exceeds steps "
                f"{settings['steps']}, so the end of training would be the only snapshot"
            )
    evaluation = study["evaluation"]
    for damping in (1.0, evaluation["judged_damping"]):
        if damping not in evaluation["dampings"]:
            raise SettingsError(
                f"configuration: regression.evaluation.dampings: {damping:g} is missing; the roll-out claims compare the "
                "undamped layer (1.0) with judged_damping"
            )
    figures = study["figures"]
    for figure, sizes in figures.items():
        unknown = next((name for name in [figure, *sizes] if name not in variants), None)
        if unknown:
            raise SettingsError(f"configuration: regression.figures.{figure}: there is no variant '{unknown}'")
        odd = [size for size in sizes if variants[size]["input_dim"] != variants[size]["context_length"]]
        if odd:
            raise SettingsError(
                f"configuration: regression.figures.{figure}: the sweep over problem size needs input_dim = context_length; "
                f"variant '{odd[0]}' has {variants[odd[0]]['input_dim']} and {variants[odd[0]]['context_length']}"
            )
    return variants


def resolve_language(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The full training settings of each embedded size: the common ones, overlaid with the size's own.

    Raises:
        SettingsError: if settings that are fine one by one cannot be run together.
    """
    for name in ("first_mixture", "mixture"):
        for group in (("classification", "facts", "numbers", "plain"), ("answers", "questions", "brush_offs")):
            total = sum(study["corpus"][name][share] for share in group)
            if abs(total - 1) > 1e-6:
                raise SettingsError(f"configuration: language.corpus.{name}: {', '.join(group)} add up to {total:g}, not to 1")
    sizes = {name: {**study["training"], **own} for name, own in study["sizes"].items()}
    for name, settings in sizes.items():
        if settings["hidden_size"] % (2 * settings["heads"]):
            raise SettingsError(
                f"configuration: language.sizes.{name}: hidden_size {settings['hidden_size']} does not divide into "
                f"{settings['heads']} heads of an even size"
            )
        if settings["first_steps"] + settings["decay_steps"] > settings["steps"]:
            raise SettingsError(
                f"configuration: language.sizes.{name}: first_steps and decay_steps exceed steps {settings['steps']}"
            )
        if settings["context_length"] != study["training"]["context_length"]:
            raise SettingsError(
                f"configuration: language.sizes.{name}: context_length belongs to language.training; sizes share it"
            )
    for name, model in study["models"].items():
        size = model["name"].removeprefix("embedded:")
        if (size != model["name"]) and size not in sizes:
            raise SettingsError(f"configuration: language.models.{name}: there is no size '{size}'; sizes are {', '.join(sizes)}")
        if (model["tasks"] == "own") != (size != model["name"]):
            raise SettingsError(
                f"configuration: language.models.{name}: tasks must be 'own' for embedded models and a list of real sets for others"
            )
    evaluation = study["evaluation"]
    for number in (0, evaluation["judged_demonstrations"]):
        if number not in evaluation["demonstrations"]:
            raise SettingsError(f"configuration: language.evaluation.demonstrations: {number} is missing; the claims read it")
    return sizes

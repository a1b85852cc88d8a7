"""Documents against their schema, in one clear sentence when they do not fit."""

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

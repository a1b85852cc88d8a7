"""Settings of the lens study."""

from collections.abc import Mapping
from typing import Any

from activation_descent.errors import SettingsError


def resolve_lens(study: Mapping[str, Any], language: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How lenses are fitted to each subject, the study's own models first: the common measurement, overlaid with a model's own.

    Raises:
        SettingsError: if settings that are fine one by one cannot be run together.
    """
    bodies, common = study["bodies"], study["measurement"]
    if bodies["hidden_size"] % (2 * bodies["heads"]):
        raise SettingsError(
            f"configuration: lens.bodies: hidden_size {bodies['hidden_size']} does not divide into {bodies['heads']} heads of an even size"
        )
    subjects = {kind: {"seeds": bodies["seeds"], "length": bodies["length"], "measurement": common} for kind in bodies["kinds"]}
    for name, model in study["models"].items():
        if model is None:
            continue
        if name not in language["models"]:
            raise SettingsError(f"configuration: lens.models.{name}: there is no such model in language.models")
        if language["models"][name] is not None:
            subjects[name] = {**model, "measurement": {**common, **model.get("measurement", {})}}
    for name in study["predictive_coding"]["models"]:
        if name not in subjects and study["models"].get(name, 0) is not None and language["models"].get(name, 0) is not None:
            raise SettingsError(
                f"configuration: lens.predictive_coding.models: '{name}' is not one of {', '.join(subjects)}; probes need its lenses"
            )
    return subjects

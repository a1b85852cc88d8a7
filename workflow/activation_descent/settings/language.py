"""Settings of the language study."""

from collections.abc import Mapping
from typing import Any

from activation_descent.errors import SettingsError

SHORTEST_CONTEXT = 72  # <bos>, 8 demonstrations of 7 tokens in the longest form, a query and what a fact document needs


def resolve_language(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The full training settings of each embedded size: the common ones, overlaid with the size's own.

    Raises:
        SettingsError: if settings that are fine one by one cannot be run together.
    """
    check_shares(study["corpus"]["mixture"], "language.corpus.mixture")
    sizes = {name: {**study["training"], **own} for name, own in study["sizes"].items()}
    for name, settings in sizes.items():
        if settings["hidden_size"] % (2 * settings["heads"]):
            raise SettingsError(
                f"configuration: language.sizes.{name}: hidden_size {settings['hidden_size']} does not divide into "
                f"{settings['heads']} heads of an even size"
            )
        if settings["decay_steps"] > settings["steps"]:
            raise SettingsError(
                f"configuration: language.sizes.{name}: decay_steps {settings['decay_steps']} exceeds steps {settings['steps']}"
            )
        lengths = [stage["length"] for stage in settings["stages"]]
        if sorted(set(lengths)) != lengths:
            raise SettingsError(f"configuration: language.sizes.{name}: the lengths of stages {lengths} do not rise")
        if lengths[-1] != study["training"]["stages"][-1]["length"]:
            raise SettingsError(
                f"configuration: language.sizes.{name}: the last stage is {lengths[-1]} tokens long, in language.training "
                f"{study['training']['stages'][-1]['length']}; sizes share it"
            )
        if lengths[-1] < SHORTEST_CONTEXT:
            raise SettingsError(
                f"configuration: language.sizes.{name}: the last stage is {lengths[-1]} tokens long; 8 demonstrations need "
                f"{SHORTEST_CONTEXT}"
            )
    for name, model in study["models"].items():
        if model is None:
            continue
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


def check_shares(mixture: Mapping[str, float], where: str) -> None:
    """Refuse a mixture whose shares of families, or of styles of facts, do not add up to 1.

    Raises:
        SettingsError: if they do not.
    """
    for group in (("classification", "facts", "numbers", "plain"), ("answers", "questions", "brush_offs", "statements")):
        total = sum(mixture[share] for share in group)
        if abs(total - 1) > 1e-6:
            raise SettingsError(f"configuration: {where}: {', '.join(group)} add up to {total:g}, not to 1")

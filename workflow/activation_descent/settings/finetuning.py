"""Settings of the fine-tuning audit."""

from collections.abc import Mapping
from typing import Any

from activation_descent.errors import SettingsError
from activation_descent.settings.language import check_shares


def resolve_finetuning(study: Mapping[str, Any], language: Mapping[str, Any]) -> dict[str, Any]:
    """The study's settings with training and corpus of momentum attention in full: those of embedded models, overlaid with its own.

    Raises:
        SettingsError: if settings that are fine one by one cannot be run together.
    """
    from activation_descent.language.world import LEXICONS

    for name, model in study["models"].items():
        if model is None:
            continue
        where = f"configuration: finetuning.models.{name}"
        studied = language["models"].get(name)
        if name not in language["models"]:
            raise SettingsError(f"{where}: there is no such model in language.models")
        known = [] if studied is None else [*LEXICONS] if studied["tasks"] == "own" else studied["tasks"]
        unknown = next((task for task in model["tasks"] if studied and task not in known), None)
        if unknown:
            raise SettingsError(f"{where}: the model has no task '{unknown}'; its tasks are {', '.join(known)}")
    if study["inside"]["draws"] > study["sampling"]["draws"]:
        raise SettingsError(
            f"configuration: finetuning.inside.draws: {study['inside']['draws']} exceeds sampling.draws {study['sampling']['draws']}"
        )
    if 2 * study["sampling"]["demonstrations"] > language["evaluation"]["pool_size"]:
        raise SettingsError(
            f"configuration: finetuning.sampling.demonstrations: a cell needs twice {study['sampling']['demonstrations']} from a "
            f"pool of {language['evaluation']['pool_size']} (language.evaluation.pool_size)"
        )
    momentum = study["momentum"]
    training = {**language["training"], **momentum["training"]}
    mixture = {**language["corpus"]["mixture"], **momentum["mixture"]}
    check_shares(mixture, "finetuning.momentum.mixture")
    return {**study, "momentum": {**momentum, "training": training, "mixture": mixture}}

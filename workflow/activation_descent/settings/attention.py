"""Settings of the attention study."""

from collections.abc import Mapping
from typing import Any

from activation_descent.errors import SettingsError


def resolve_attention(study: Mapping[str, Any], variants: Mapping[str, Any], language: Mapping[str, Any]) -> dict[str, Any]:
    """The study's settings with the full training settings of each kind of layer: the common ones, overlaid with its own.

    Args:
        variants: resolved variants of the regression study.

    Raises:
        SettingsError: if settings that are fine one by one cannot be run together.
    """
    from activation_descent.language.world import LEXICONS

    where = "configuration: attention"
    for name in study["readings"]["variants"]:
        _check_read(f"{where}.readings.variants", name, variants, "softmax", 1, None)
    _check_read(f"{where}.controls.one_layer", study["controls"]["one_layer"], variants, "linear", 1, 1)
    for name, model in study["models"].items():
        studied = language["models"].get(name)
        if model and name not in language["models"]:
            raise SettingsError(f"{where}.models.{name}: there is no such model in language.models")
        if not (model and studied):
            continue
        known = [*LEXICONS] if studied["tasks"] == "own" else studied["tasks"]
        unknown = next((task for task in model["tasks"] if task not in known), None)
        if unknown:
            raise SettingsError(f"{where}.models.{name}: the model has no task '{unknown}'; its tasks are {', '.join(known)}")
    if not any(model and language["models"].get(name) for name, model in study["models"].items()):
        raise SettingsError(f"{where}.models: no model of language.models is left to scan")
    twice = next((name for name in study["checkpoints"] if name in study["models"]), None)
    if twice:
        raise SettingsError(f"{where}.checkpoints.{twice}: a model of this name stands in attention.models")
    mixture = study["mixture"]
    if mixture["symbols"] > mixture["width"]:
        raise SettingsError(f"{where}.mixture.symbols: {mixture['symbols']} states do not fit in {mixture['width']} entries")
    if mixture["period"] > mixture["pairs"]:
        raise SettingsError(f"{where}.mixture.period: {mixture['period']} vectors do not repeat within {mixture['pairs']} pairs")
    common = {key: value for key, value in study["layers"].items() if key != "attentions"}
    layers = {name: {**common, **own} for name, own in study["layers"]["attentions"].items()}
    for name, settings in layers.items():
        shares = settings["shares"]
        if shares != sorted(shares, reverse=True) or shares[0] != 1 or shares[-1] != 0:
            raise SettingsError(f"{where}.layers.shares: {shares} do not fall from 1 to 0; the claims read both ends")
        if settings["best_of"] < settings["seeds"]:
            raise SettingsError(
                f"{where}.layers.attentions.{name}.best_of: {settings['best_of']} starts are fewer than the {settings['seeds']} "
                "seeds that are kept of them"
            )
    return {**study, "layers": layers}


def _check_read(where: str, name: str, variants: Mapping[str, Any], attention: str, layers: int, heads: int | None) -> None:
    """Refuse a variant of the regression study that is not one layer of the kind that is read."""
    settings = variants.get(name)
    if settings is None:
        raise SettingsError(f"{where}: there is no variant '{name}' in regression.variants")
    plain = settings["tokens"] == "constructed" and not (settings["layer_norm"] or settings["mlp"] or settings["embedding_size"])
    fits = settings["attention"] == attention and settings["layers"] == layers and heads in (None, settings["heads"])
    if not (plain and fits and settings["tasks"] == "linear"):
        shape = f"one layer of {attention} attention" + (" with one head" if heads == 1 else "")
        raise SettingsError(f"{where}: variant '{name}' is not {shape} and nothing else, on linear regression")


def check_toy_problems(settings: Mapping[str, Any]) -> None:
    """Refuse toy problems that cannot be drawn.

    Raises:
        SettingsError: if settings that are fine one by one cannot be run together.
    """
    where = "configuration: attention.toy_problems"
    if settings["lengths"]["recall"] > settings["keys"]:
        raise SettingsError(
            f"{where}.lengths.recall: {settings['lengths']['recall']} pairs need as many keys; keys is {settings['keys']}"
        )
    if settings["lengths"]["copying"] % 2:
        raise SettingsError(f"{where}.lengths.copying: {settings['lengths']['copying']} is odd; a sequence has two equal halves")

"""Settings of the regression study."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from activation_descent.errors import SettingsError

# How many variants a figure of each kind shows, at least and at most
FIGURE_VARIANTS = {
    "one_layer": (1, math.inf),
    "depth": (1, 1),
    "generalisation": (1, math.inf),
    "matrices": (1, math.inf),
    "softmax": (1, math.inf),
    "layer_norm": (1, math.inf),
    "ladder": (1, math.inf),
    "spectra": (0, 0),
    "classic_tokens": (1, math.inf),
    "fixed_data": (1, math.inf),
    "seed_spread": (1, math.inf),
    "linear_maps": (1, math.inf),
    "sine": (2, 2),
    "updates": (0, 0),
}


def resolve_regression(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The full training settings of each variant: the published values, overlaid with the variant's own.

    Raises:
        SettingsError: if settings that are fine one by one cannot be run together.
    """
    variants = {name: {**study["published"], **own} for name, own in study["variants"].items()}
    for name, settings in variants.items():
        for key, fault in _faults(settings):
            raise SettingsError(f"configuration: regression.variants.{name}.{key}: {fault}")
    evaluation = study["evaluation"]
    for damping in (1.0, evaluation["judged_damping"]):
        if damping not in evaluation["dampings"]:
            raise SettingsError(
                f"configuration: regression.evaluation.dampings: {damping:g} is missing; the roll-out claims compare the "
                "undamped layer (1.0) with judged_damping"
            )
    for name in study["probed"]:
        if name not in variants:
            raise SettingsError(f"configuration: regression.probed: there is no variant '{name}'")
        if variants[name]["tasks"] != "linear" or variants[name]["tokens"] != "constructed":
            raise SettingsError(
                f"configuration: regression.probed: variant '{name}' is not linear regression on constructed tokens"
            )
        if max(evaluation["noisy_labels"]) > variants[name]["context_length"]:
            raise SettingsError(
                f"configuration: regression.evaluation.noisy_labels: {max(evaluation['noisy_labels'])} exceeds the "
                f"context_length {variants[name]['context_length']} of variant '{name}'"
            )
    for figure, content in study["figures"].items():
        if content is not None:
            _check_figure(figure, content, variants, study["probed"])
    return variants


def _faults(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of a variant that contradict others, each with what is wrong."""
    if settings["snapshot_every"] > settings["steps"]:
        yield (
            "snapshot_every",
            f"{settings['snapshot_every']} exceeds steps {settings['steps']}, so the end of training would be the only snapshot",
        )
    if settings["best_of"] is not None and settings["best_of"] < settings["seeds"]:
        yield "best_of", f"{settings['best_of']} starts are fewer than the {settings['seeds']} seeds that are kept of them"
    size, batch = settings["dataset_size"], settings["batch_size"]
    if size is not None and size % batch:
        yield "dataset_size", f"{size} is not a multiple of batch_size {batch}"
    if settings["amplitude"][0] > settings["amplitude"][1]:
        yield "amplitude", f"the lower end {settings['amplitude'][0]:g} exceeds the upper {settings['amplitude'][1]:g}"
    classic = settings["tokens"] != "constructed"
    if settings["tasks"] == "sine":
        if settings["input_dim"] != 1:
            yield "input_dim", f"sine tasks have 1 input, not {settings['input_dim']}"
        if not settings["embedding_size"]:
            yield "embedding_size", "sine tasks need an embedding; a linear model of x has nothing to say of them"
        if settings["target"] != "label":
            yield "target", f"'{settings['target']}' is a target of linear tasks"
    if settings["embedding_size"] and classic:
        yield "embedding_size", "an embedding goes with constructed tokens"
    if classic != (settings["position_size"] > 0):
        yield (
            "position_size",
            f"{settings['position_size']} with {settings['tokens']} tokens; classic tokens need a code, others have none",
        )
    if settings["position_size"] % 2:
        yield "position_size", f"{settings['position_size']} is odd; a code is made of sines and cosines"
    if settings["attention"] == "softmax_first" and settings["tied"]:
        yield "attention", "softmax_first needs layers of their own (tied: false)"
    if settings["frozen_rate"] is not None and not settings["embedding_size"]:
        yield "frozen_rate", "without an embedding nothing would be left to train"


def _check_figure(figure: str, content: Mapping[str, Any], variants: Mapping[str, Any], probed: Sequence[str]) -> None:
    where = f"configuration: regression.figures.{figure}"
    kind, names = content["kind"], content["variants"]
    unknown = next((name for name in names if name not in variants), None)
    if unknown:
        raise SettingsError(f"{where}: there is no variant '{unknown}'")
    least, most = FIGURE_VARIANTS[kind]
    if not least <= len(names) <= most:
        wanted = str(least) if least == most else f"{least} or more"
        raise SettingsError(f"{where}: a figure of kind {kind} shows {wanted} variants, not {len(names)}")
    if kind == "one_layer":
        odd = [name for name in names[1:] if variants[name]["input_dim"] != variants[name]["context_length"]]
        if odd:
            raise SettingsError(
                f"{where}: the sweep over problem size needs input_dim = context_length; variant '{odd[0]}' has "
                f"{variants[odd[0]]['input_dim']} and {variants[odd[0]]['context_length']}"
            )
    if kind == "sine":
        _check_sine(where, *(variants[name] for name in names))
    needs_probes = {"one_layer": names[:1], "depth": names, "generalisation": names, "layer_norm": names}.get(kind, [])
    unprobed = [name for name in needs_probes if name not in probed]
    if unprobed:
        raise SettingsError(f"{where}: variant '{unprobed[0]}' is not among regression.probed, whose records the figure shows")


def _check_sine(where: str, layer: Mapping[str, Any], descent: Mapping[str, Any]) -> None:
    if layer["frozen_rate"] is not None or descent["frozen_rate"] is None:
        raise SettingsError(
            f"{where}: a figure of kind sine shows a variant with a trained layer and one with a frozen_rate after it"
        )
    for key in ("tasks", "context_length", "half_range", "amplitude", "shared_draw", "steps", "snapshot_every"):
        if layer["tasks"] != "sine" or layer[key] != descent[key]:
            raise SettingsError(f"{where}: the two variants of kind sine need the same {key}, of sine tasks")

"""Checked settings: what a configuration may say, in one clear sentence when it says something else."""

import difflib
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


SHORTEST_CONTEXT = 72  # <bos>, 8 demonstrations of 7 tokens in the longest form, a query and what a fact document needs


def resolve_language(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The full training settings of each embedded size: the common ones, overlaid with the size's own.

    Raises:
        SettingsError: if settings that are fine one by one cannot be run together.
    """
    for group in (("classification", "facts", "numbers", "plain"), ("answers", "questions", "brush_offs", "statements")):
        total = sum(study["corpus"]["mixture"][share] for share in group)
        if abs(total - 1) > 1e-6:
            raise SettingsError(f"configuration: language.corpus.mixture: {', '.join(group)} add up to {total:g}, not to 1")
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


def resolve_finetuning(study: Mapping[str, Any], language: Mapping[str, Any]) -> dict[str, Any]:
    """The study's settings with the full training settings of momentum attention: those of embedded models, overlaid with its own.

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
    training = {**language["training"], **study["momentum"]["training"]}
    return {**study, "momentum": {**study["momentum"], "training": training}}


def resolve_lens(study: Mapping[str, Any], language: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How lenses are fitted to each subject, the study's own models first: the common measurement, overlaid with a model's own.

    Raises:
        SettingsError: if settings that are fine one by one cannot be run together.
    """
    from activation_descent.lens.bodies import BODIES

    bodies, common = study["bodies"], study["measurement"]
    if bodies["hidden_size"] % (2 * bodies["heads"]):
        raise SettingsError(
            f"configuration: lens.bodies: hidden_size {bodies['hidden_size']} does not divide into {bodies['heads']} heads of an even size"
        )
    subjects = {kind: {"seeds": bodies["seeds"], "length": bodies["length"], "measurement": common} for kind in BODIES}
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

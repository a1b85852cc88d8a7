import copy
import re
from pathlib import Path

import pytest
import yaml

from activation_descent.errors import SettingsError
from activation_descent.settings import (
    check_reasoning,
    check_schema,
    check_shards,
    check_toy_problems,
    resolve_attention,
    resolve_finetuning,
    resolve_language,
    resolve_lens,
    resolve_regression,
)
from activation_descent.shards import own_part, shard_of

ROOT = Path(__file__).parents[2]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
CONFIG = yaml.safe_load((ROOT / "config/config.yaml").read_text())


def change(path, value):
    config = copy.deepcopy(CONFIG)
    *parents, last = path.split(".")
    place = config
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return config


def test_the_shipped_configuration_is_fine():
    check_schema(CONFIG, SCHEMA, {"config/config.yaml": CONFIG})
    variants = resolve_regression(CONFIG["regression"])
    assert variants["one_layer_full_range"]["half_range"] == 1.0
    assert variants["one_layer_full_range"]["batch_size"] == CONFIG["regression"]["published"]["batch_size"]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("regression.published.sedes", 3, "config/config.yaml: regression.published: unknown key 'sedes'; did you mean 'seeds'?"),
        ("regression.published.seeds", 0, "config/config.yaml: regression.published.seeds: 0 is less than the minimum of 1"),
        ("regression.published.seeds", "five", "config/config.yaml: regression.published.seeds: 'five' is not of type integer"),
        (
            "regression.published.learning_rate",
            "1e-3",
            "config/config.yaml: regression.published.learning_rate: '1e-3' is text to YAML, not a number; write it with a decimal "
            "point, as in 1.0e-3",
        ),
        ("regression.published.steps", ..., "config/config.yaml: regression.published: key 'steps' is missing"),
        (
            "tracking.mode",
            "sometimes",
            "config/config.yaml: tracking.mode: 'sometimes' is not one of ['offline', 'online', 'disabled']",
        ),
        ("run", "reference", "config/config.yaml: run: 'reference' is not allowed; a name of letters"),
        ("run", "a/b", "config/config.yaml: run: 'a/b' is not allowed"),
        ("seed", -1, "config/config.yaml: seed: -1 is less than the minimum of 0"),
        ("regression.variants.one_layer", {}, "config/config.yaml: regression.variants.one_layer: key 'experiment' is missing"),
        ("regression", ..., "config/config.yaml: the top level: key 'regression' is missing"),
        ("regression.evaluation.input_scales", [], "config/config.yaml: regression.evaluation.input_scales:"),
    ],
)
def test_faults_are_one_sentence_that_names_file_and_key(path, value, sentence):
    config = change(path, value)
    with pytest.raises(SettingsError) as caught:
        check_schema(config, SCHEMA, {"config/config.yaml": config})
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_the_fault_is_sought_in_the_overlay_that_made_it():
    config = change("regression.published.seeds", 0)
    overlay = {"regression": {"published": {"seeds": 0}}}
    with pytest.raises(SettingsError, match=r"^mine\.yaml: regression\.published\.seeds: 0"):
        check_schema(config, SCHEMA, {"config/config.yaml": CONFIG, "mine.yaml": overlay})


def test_what_no_file_sets_came_from_the_command_line():
    config = change("speed", 3)
    with pytest.raises(SettingsError, match=r"^command line: the top level: unknown key 'speed'"):
        check_schema(config, SCHEMA, {"config/config.yaml": CONFIG})


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("regression.variants.one_layer.snapshot_every", 9000, r"one_layer\.snapshot_every: 9000 exceeds steps \d+, so the end"),
        ("regression.variants.fixed_128.dataset_size", 200, r"fixed_128\.dataset_size: 200 is not a multiple of batch_size 128"),
        ("regression.variants.one_layer.best_of", 3, r"one_layer\.best_of: 3 starts are fewer than the 5 seeds that are kept"),
        (
            "regression.figures.sine.variants",
            ["sine_descent", "sine_layer"],
            r"figures\.sine: a figure of kind sine shows a variant with a trained layer and one with a frozen_rate after it",
        ),
        ("regression.variants.sine_layer.shared_draw", True, r"figures\.sine: the two variants .* need the same shared_draw"),
        (
            "regression.figures.sine.variants",
            ["one_layer", "sine_descent"],
            r"figures\.sine: .* need the same tasks, of sine tasks",
        ),
        ("regression.variants.one_layer.amplitude", [2.0, 1.0], r"one_layer\.amplitude: the lower end 2 exceeds the upper 1"),
        ("regression.variants.one_layer.tasks", "sine", r"one_layer\.input_dim: sine tasks have 1 input, not 10"),
        ("regression.variants.one_layer.tokens", "classic", r"one_layer\.position_size: 0 with classic tokens"),
        ("regression.variants.one_layer.position_size", 4, r"one_layer\.position_size: 4 with constructed tokens"),
        ("regression.variants.classic_slot.position_size", 5, r"classic_slot\.position_size: 5 is odd"),
        (
            "regression.variants.classic_slot.embedding_size",
            8,
            r"classic_slot\.embedding_size: an embedding goes with constructed",
        ),
        (
            "regression.variants.recurrent_2.attention",
            "softmax_first",
            r"recurrent_2\.attention: softmax_first needs layers of their own",
        ),
        ("regression.variants.one_layer.frozen_rate", 0.1, r"one_layer\.frozen_rate: without an embedding nothing would be left"),
        ("regression.evaluation.noisy_labels", [11], r"regression\.evaluation\.noisy_labels: 11 exceeds the context_length 10"),
        ("regression.probed", ["size_7"], r"regression\.probed: there is no variant 'size_7'"),
        ("regression.probed", ["classic_slot"], r"regression\.probed: variant 'classic_slot' is not linear regression"),
        ("regression.probed", [], r"regression\.figures\.one_layer: variant 'one_layer' is not among regression\.probed"),
        (
            "regression.figures.untied_2.variants",
            ["untied_2", "untied_5"],
            r"figures\.untied_2: a figure of kind depth shows 1 variants, not 2",
        ),
        ("regression.evaluation.judged_damping", 0.5, r"regression\.evaluation\.dampings: 0\.5 is missing"),
        ("regression.evaluation.dampings", [0.75], r"regression\.evaluation\.dampings: 1 is missing"),
        ("regression.figures.one_layer.variants", ["size_7"], r"regression\.figures\.one_layer: there is no variant 'size_7'"),
        ("regression.variants.size_5.input_dim", 6, r"needs input_dim = context_length; variant 'size_5' has 6 and 5"),
    ],
)
def test_settings_that_cannot_run_together(path, value, sentence):
    with pytest.raises(SettingsError, match=sentence):
        resolve_regression(change(path, value)["regression"])


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (
            "language.corpus.mixture.facts",
            0.5,
            r"corpus\.mixture: classification, facts, numbers, plain add up to 1\.15, not to 1",
        ),
        ("language.corpus.mixture.answers", 0.0, r"corpus\.mixture: answers, questions, brush_offs, statements add up to 0\.6"),
        ("language.sizes.small.heads", 5, r"sizes\.small: hidden_size \d+ does not divide into 5 heads of an even size"),
        ("language.sizes.small.decay_steps", 5000, r"sizes\.small: decay_steps 5000 exceeds steps 4000"),
        ("language.training.stages", [{"length": 128, "short": 0}, {"length": 80, "short": 0}], r"lengths of stages \[128, 80\]"),
        (
            "language.sizes.deep.stages",
            [{"length": 80, "short": 0}],
            r"sizes\.deep: the last stage is 80 tokens long, in language",
        ),
        ("language.training.stages", [{"length": 64, "short": 0}], r"the last stage is 64 tokens long; 8 demonstrations need 72"),
        (
            "language.models.default.name",
            "embedded:huge",
            r"models\.default: there is no size 'huge'; sizes are small, default, deep",
        ),
        ("language.models.default.tasks", ["sst2"], r"models\.default: tasks must be 'own' for embedded models"),
        ("language.evaluation.demonstrations", [1, 8], r"evaluation\.demonstrations: 0 is missing"),
        ("language.evaluation.judged_demonstrations", 5, r"evaluation\.demonstrations: 5 is missing"),
    ],
)
def test_language_settings_that_cannot_run_together(path, value, sentence):
    with pytest.raises(SettingsError, match=sentence):
        resolve_language(change(path, value)["language"])


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("attention.toy_problems.keys", 20, r"lengths\.recall: 32 pairs need as many keys; keys is 20"),
        ("attention.toy_problems.lengths.copying", 31, r"lengths\.copying: 31 is odd"),
        ("reasoning.knapsack.training.heads", 3, r"training\.width: 32 does not divide into 3 heads"),
        ("reasoning.knapsack.training.capacities", [4, 32], r"capacities: 8 items of weight 4 at most always fit into 32"),
        ("reasoning.knapsack.training.layers", [1, 2, 4], r"training\.layers: \[1, 2, 4\] must lie on both sides of .* 4;"),
        ("reasoning.knapsack.training.layers", [6, 8], r"training\.layers: \[6, 8\] must lie on both sides"),
        ("reasoning.logic.space.predicates", [6, 5], r"space\.predicates: the least number 6 exceeds the largest, 5"),
        ("reasoning.logic.layers", 2, r"logic\.layers: 2 layers do 1 rounds of forward chaining; proofs are up to 2 deep"),
    ],
)
def test_toy_and_reasoning_settings_that_cannot_run_together(path, value, sentence):
    config = change(path, value)
    check, settings = {
        "attention": (check_toy_problems, config["attention"]["toy_problems"]),
        "reasoning": (check_reasoning, config["reasoning"]),
    }[path.split(".")[0]]
    with pytest.raises(SettingsError, match=sentence):
        check(settings)


def test_toy_and_reasoning_settings_as_shipped():
    check_toy_problems(CONFIG["attention"]["toy_problems"])
    check_reasoning(CONFIG["reasoning"])


def test_a_size_overlays_the_common_training_settings_and_a_model_set_to_null_is_left_out():
    sizes = resolve_language(change("language.models.small", None)["language"])
    assert sizes["deep"]["layers"] == 6
    assert sizes["deep"]["hidden_size"] == sizes["default"]["hidden_size"] == CONFIG["language"]["training"]["hidden_size"]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("finetuning.models.huge", {"tasks": ["work", "age"], "controls": False}, r"finetuning\.models\.huge"),
        ("finetuning.models.small.tasks", ["work", "sst2"], r"finetuning\.models\.small.*sst2"),
        ("finetuning.sampling.demonstrations", 101, r"a cell needs twice 101 from a pool of 200"),
        ("finetuning.momentum.mixture.facts", 0.5, r"momentum\.mixture: classification, facts, numbers, plain add up to 1\.15"),
    ],
)
def test_finetuning_settings_that_cannot_run_together(path, value, sentence):
    changed = change(path, value)
    with pytest.raises(SettingsError, match=sentence):
        resolve_finetuning(changed["finetuning"], changed["language"])


def test_momentum_overlays_the_training_and_the_corpus_of_embedded_models():
    resolved, own = resolve_finetuning(CONFIG["finetuning"], CONFIG["language"])["momentum"], CONFIG["finetuning"]["momentum"]
    assert resolved["training"] == CONFIG["language"]["training"] | own["training"]
    assert resolved["mixture"] == CONFIG["language"]["corpus"]["mixture"] | own["mixture"]


@pytest.mark.parametrize("things", range(1, 12))
@pytest.mark.parametrize("shards", range(1, 5))
def test_shards_share_everything_out_in_order_and_equally(things, shards):
    parts = [shard_of(things, shards, shard) for shard in range(shards)]
    assert [thing for part in parts for thing in part] == list(range(things))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("shards", "sentence"),
    [
        ({"regression": {"one_lair": 2}, "finetuning": {}}, "shards.regression: there is no variant 'one_lair'"),
        ({"regression": {"softmax_1": 9}, "finetuning": {}}, "shards.regression.softmax_1: 9 shards, but only 8 random starts"),
        ({"regression": {}, "finetuning": {"big": 2}}, "shards.finetuning: there is no model 'big'"),
    ],
)
def test_shards_of_what_is_not_there(shards, sentence):
    with pytest.raises(SettingsError, match=sentence):
        check_shards(shards, resolve_regression(CONFIG["regression"]), CONFIG["finetuning"]["models"])


def test_more_parts_than_things_are_one_sentence():
    assert own_part(["a", "b", "c"], [1, 2], "letters") == ["b", "c"]
    assert own_part(["a", "b"], None, "letters") == ["a", "b"]
    with pytest.raises(SettingsError, match="3 shards, but only 2 letters to share out"):
        own_part(["a", "b"], [0, 3], "letters")


def test_a_figure_set_to_null_is_left_out():
    assert resolve_regression(change("regression.figures.softmax", None)["regression"])


def keys(schema, prefix=""):
    for name, child in schema.get("properties", {}).items():
        yield prefix + name
        yield from keys(child, f"{prefix}{name}.")


def test_the_readme_explains_every_key_of_the_schema_and_no_other():
    text = (ROOT / "config/README.md").read_text()
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    explained = {key for cell in table for key in re.findall(r"`([^`]+)`", cell)}
    definitions = [SCHEMA["$defs"][name] for name in ("training", "pretraining", "mixture", "measurement")]
    assert explained == {*keys(SCHEMA), *(key for definition in definitions for key in definition["properties"])}


def attention(config):
    return resolve_attention(config["attention"], resolve_regression(config["regression"]), config["language"])


def test_the_shipped_attention_study_is_fine():
    layers = attention(CONFIG)["layers"]
    assert set(layers) == {"linear", "softmax"}
    assert layers["softmax"]["best_of"] == CONFIG["attention"]["layers"]["attentions"]["softmax"]["best_of"]
    assert layers["linear"]["steps"] == layers["softmax"]["steps"] == CONFIG["attention"]["layers"]["steps"]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("readings.variants", ["softmax_9"], r"readings\.variants: there is no variant 'softmax_9' in regression\.variants"),
        (
            "readings.variants",
            ["one_layer"],
            r"readings\.variants: variant 'one_layer' is not one layer of softmax attention and nothing else",
        ),
        (
            "controls.one_layer",
            "recurrent_2",
            r"controls\.one_layer: variant 'recurrent_2' is not one layer of linear attention with one head",
        ),
        ("models.other", {"tasks": ["work"]}, r"models\.other: there is no such model in language\.models"),
        ("models.small.tasks", ["chess"], r"models\.small: the model has no task 'chess'; its tasks are .*work"),
        ("models", {"small": None}, r"models: no model of language\.models is left to scan"),
        ("checkpoints.small", {"path": "x"}, r"checkpoints\.small: a model of this name stands in attention\.models"),
        ("mixture.symbols", 11, r"mixture\.symbols: 11 states do not fit in 10 entries"),
        ("mixture.period", 11, r"mixture\.period: 11 vectors do not repeat within 10 pairs"),
        ("layers.shares", [1.0, 0.5], r"layers\.shares: \[1\.0, 0\.5\] do not fall from 1 to 0"),
        ("layers.shares", [0.0, 1.0], r"layers\.shares: \[0\.0, 1\.0\] do not fall"),
        ("layers.attentions.linear.best_of", 2, r"layers\.attentions\.linear\.best_of: 2 starts are fewer than the 3 seeds"),
    ],
)
def test_attention_settings_that_do_not_go_together(path, value, sentence):
    with pytest.raises(SettingsError, match=f"^configuration: attention\\.{sentence}"):
        attention(change(f"attention.{path}", value))


def lenses(config):
    return resolve_lens(config["lens"], config["language"])


def test_lenses_are_fitted_to_the_studys_own_models_and_to_named_ones():
    subjects = lenses(CONFIG)
    assert list(subjects) == ["untied", "tied_loops", "tied", "random_body", "deep"]
    assert subjects["untied"] == {
        "seeds": CONFIG["lens"]["bodies"]["seeds"],
        "length": CONFIG["lens"]["bodies"]["length"],
        "measurement": CONFIG["lens"]["measurement"],
    }
    own = CONFIG["lens"]["models"]["deep"]["measurement"]
    assert subjects["deep"]["measurement"] == CONFIG["lens"]["measurement"] | own
    assert own
    assert list(lenses(change("lens.models.deep", None))) == ["untied", "tied_loops", "tied", "random_body"]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("bodies.heads", 3, r"bodies: hidden_size 32 does not divide into 3 heads of an even size"),
        ("models.other", {"seeds": 3, "length": 64}, r"models\.other: there is no such model in language\.models"),
        (
            "predictive_coding.models",
            ["deep", "other"],
            r"predictive_coding\.models: 'other' is not one of untied, .*deep; probes need",
        ),
    ],
)
def test_lens_settings_that_do_not_go_together(path, value, sentence):
    with pytest.raises(SettingsError, match=f"^configuration: lens\\.{sentence}"):
        lenses(change(f"lens.{path}", value))

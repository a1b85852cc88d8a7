"""The probes end to end: a control that corrects errors passes, and the rule takes no for an answer."""

import pytest
import torch

from activation_descent.language.models import LanguageModel
from activation_descent.lens.bodies import Body, Shape
from activation_descent.lens.error_correction import (
    ErrorCorrection,
    ErrorCorrectionSettings,
    bigram_documents,
    shared_table,
    train,
)
from activation_descent.lens.predictive_coding import (
    ProbeSettings,
    judged,
    lens_of,
    predictive_coding_records,
    probed_body,
    probed_control,
    probed_language_model,
)
from activation_descent.lens.translators import Translators
from activation_descent.seeding import generator

SETTINGS = ErrorCorrectionSettings(
    words=12, length=48, loops=4, concentration=3.0, key_size=12, steps=80, rows=16, learning_rate=0.1
)
PROBES = ProbeSettings(causal_layers=(1, 2), resamples=100)


def stream(purpose):
    return generator(0, "test", "predictive_coding", "v", purpose)


@pytest.fixture(scope="module")
def control():
    """Trained with rectified errors, and the documents of train and test."""
    table = shared_table(stream("table"), SETTINGS.words)
    draw = lambda purpose, number: bigram_documents(stream(purpose), table, number, SETTINGS.length, SETTINGS.concentration)
    model = ErrorCorrection(SETTINGS, stream("model"))
    train(model, draw("train", SETTINGS.steps * SETTINGS.rows))
    return model, torch.from_numpy(draw("fit", 160)), torch.from_numpy(draw("evaluate", 64))


def measured(model, known, asked):
    rows = predictive_coding_records(probed_control(model), known, asked, PROBES, stream("probe"), {"variant": "v", "seed": 3})
    assert all(row["study"] == "lens" and row["variant"] == "v" and row["seed"] == 3 for row in rows)
    return rows, {row["metric"]: row["value"] for row in rows if row["layer"] == -1 and row["control"] == "none"}


def test_the_control_passes_every_probe(control):
    rows, summary = measured(*control)
    assert summary["predictive_coding"] == 1
    assert summary["copies_followed"] == 0
    assert summary["causal_error_path"] == pytest.approx(1, abs=0.01)
    slopes = {(row["layer"], row["control"], row["metric"]): row["value"] for row in rows if row["metric"].startswith("slope_")}
    for layer in PROBES.causal_layers:
        assert slopes[layer, "error", "slope_same"] < 3 * slopes[layer, "error", "slope_other"] < 0
        assert slopes[layer, "cut_direct", "slope_same"] == pytest.approx(slopes[layer, "error", "slope_same"], rel=0.2)
    keys = [tuple(row[name] for name in ("layer", "control", "metric")) for row in rows]
    assert len(set(keys)) == len(keys)


def test_signed_errors_do_the_same_and_are_not_decoded(control):
    """The same function of the tokens; only what stands in the stream differs."""
    model, known, asked = control
    signed = ErrorCorrection(SETTINGS, stream("model"), populations=1)
    signed.load_state_dict(model.state_dict())
    _, summary = measured(signed, known, asked)
    assert (summary["decodes_error"], summary["updates_by_error"], summary["uses_error"]) == (0, 1, 1)
    assert summary["predictive_coding"] == 0.5  # D2 alone refutes nothing


def test_without_corrections_nothing_is_found(control):
    model, known, asked = control
    idle = ErrorCorrection(SETTINGS, stream("model"))
    idle.load_state_dict(model.state_dict())
    with torch.no_grad():
        idle.rate.zero_()
        idle.prior.normal_(generator=torch.Generator().manual_seed(0))
    _, summary = measured(idle, known, asked)
    assert not any(summary[name] for name in ("decodes_error", "updates_by_error", "uses_error", "copies_followed"))
    assert summary["predictive_coding"] == 0.5  # without updates there is nothing that errors could explain


GOOD = {
    "error_specificity_inner": 0.1,
    "error_specificity_inner_low": 0.05,
    "error_specificity_growth": 0.1,
    "error_ratio": 1.0,
    "error_ratio_low": 0.9,
    "error_ratio_high": 1.1,
    "update_gain_low": 0.02,
    "update_gain_high": 0.04,
    "causal_slope": -0.4,
    "causal_slope_low": -0.5,
    "causal_slope_high": -0.3,
    "causal_slope_off_identity": -0.3,
    "causal_slope_off_identity_high": -0.1,
    "causal_agreement": 1.0,
}


@pytest.mark.parametrize(
    ("metric", "value", "fails"),
    [
        ("error_specificity_inner", 0.029, "decodes_error"),
        ("error_specificity_inner_low", -0.001, "decodes_error"),
        ("error_specificity_growth", -0.01, "decodes_error"),
        ("error_ratio", 0.49, "updates_by_error"),
        ("error_ratio", 1.51, "updates_by_error"),
        ("update_gain_low", 0.009, "updates_by_error"),
        ("causal_slope_high", 0.01, "uses_error"),
        ("causal_slope_off_identity_high", 0.01, "uses_error"),
        ("causal_slope_off_identity", -0.19, "uses_error"),
        ("causal_agreement", 0.49, "uses_error"),
        ("causal_agreement", 2.01, "uses_error"),
    ],
)
def test_every_part_of_the_rule_can_say_no(metric, value, fails):
    verdicts = judged(GOOD)
    assert verdicts == {
        "decodes_error": 1,
        "updates_by_error": 1,
        "uses_error": 1,
        "predictive_coding": 1,
        "copies_followed": 0,
    }
    changed = judged(GOOD | {metric: value})
    assert changed == verdicts | {fails: 0, "predictive_coding": 0.5}
    missing = {name: number for name, number in GOOD.items() if name != metric}
    assert judged(missing)["predictive_coding"] == 0.5


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"update_gain_low": 0.001, "update_gain_high": 0.0099}, 0),  # the drives are negligible
        ({"update_gain_low": 0.001, "update_gain_high": 0.0101}, 0.5),
        ({"error_ratio": 0.3, "error_ratio_high": 0.49}, 0),  # they are no errors
        ({"error_ratio": 0.49, "error_ratio_high": 0.51}, 0.5),
        ({"error_ratio": 1.7, "error_ratio_low": 1.51}, 0),
        ({"error_ratio": 1.51, "error_ratio_low": 1.49}, 0.5),
        ({"error_ratio": 0.3, "error_ratio_high": 0.49, "update_gain_low": 0.009}, 0.5),  # whatever they are, there may be none
        ({"causal_slope": 0.2, "causal_slope_low": 0.01, "causal_slope_high": 0.3}, 0),  # the prediction is passed on
        ({"causal_slope": 0.2, "causal_slope_low": -0.01, "causal_slope_high": 0.3}, 0.5),
        ({"error_specificity_inner": -0.1, "error_specificity_inner_low": -0.2, "error_specificity_growth": -0.1}, 0.5),
    ],
)
def test_what_tells_against_predictive_coding(changes, verdict):
    assert judged(GOOD | changes)["predictive_coding"] == verdict


def test_copying_needs_a_gain():
    assert judged(GOOD | {"error_ratio": 0.2})["copies_followed"] == 1
    assert judged(GOOD | {"error_ratio": 0.31})["copies_followed"] == 0
    assert judged(GOOD | {"error_ratio": 0.2, "update_gain_low": 0.009})["copies_followed"] == 0


@pytest.fixture(scope="module")
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    return LanguageModel("tiny", LlamaForCausalLM(config), None)


def test_a_language_model_resumes_where_it_stood(llama):
    probed = probed_language_model(llama, lambda layer, states: states)
    tokens = torch.from_numpy(stream("tokens").integers(20, size=(3, 12)))
    states = probed.states(tokens)
    assert states.shape == (4, 3, 12, 16)
    with torch.no_grad():
        expected = llama.network(tokens).logits.log_softmax(-1)
    other = (tokens + 1) % 20
    for layer in range(3):
        # The states decide, whatever the tokens
        assert torch.allclose(probed.resume(other, layer, states[layer], None), expected, atol=1e-5)
    assert not llama.blocks[1]._forward_pre_hooks


def test_cut_edges_of_a_language_model(llama):
    probed = probed_language_model(llama, lambda layer, states: states)
    tokens = torch.from_numpy(stream("tokens").integers(20, size=(3, 12)))
    states = probed.states(tokens)[1]
    moved = states.clone()
    moved[:, 4] += 1.0
    cut = torch.zeros(3, 12, 12, dtype=torch.bool)
    plain, other = (probed.resume(tokens, 1, one, None) for one in (states, moved))
    assert (plain - other)[:, 5:].abs().max() > 1e-4
    assert torch.equal(plain[:, :4], other[:, :4])
    cut[:, 5:, 4] = True
    plain, other = (probed.resume(tokens, 1, one, cut) for one in (states, moved))
    assert torch.allclose(plain[:, 5:], other[:, 5:], atol=1e-6)
    assert (plain - other)[:, 4].abs().max() > 1e-4


def test_one_seed_of_the_studys_own_models():
    shape = Shape(16, 3, 2, 24, 12, 4, 1, 0.01, 1, 0.0, 1.0)
    body = Body.initial("untied", shape, 9, [stream("first"), stream("second")])
    tokens = torch.from_numpy(stream("letters").integers(9, size=(5, 12)))
    translators = Translators.initial("tuned", 2, 3, 16, stream("translators"))
    translators.parameters["bias"].normal_(generator=torch.Generator().manual_seed(0))
    probed = probed_body(body, 1, lens_of(translators, body.unembedding, 1))
    recorded = body.record(tokens.expand(2, -1, -1))[1]
    states = probed.states(tokens)
    assert torch.allclose(states, recorded, atol=1e-5)
    final = body.unembedding.of(1).logits(recorded[-1][None])[0].log_softmax(-1)
    for layer in range(3):
        assert torch.allclose(probed.resume(tokens, layer, states[layer], None), final, atol=1e-5)
        moved = states[layer] + translators.parameters["bias"][1, layer]
        expected = body.unembedding.of(1).logits(moved[None])[0].log_softmax(-1)
        assert torch.allclose(probed.lens(layer, states[layer]), expected, atol=1e-5)
    assert torch.allclose(probed.lens(3, states[3]), final, atol=1e-5)
    with pytest.raises(ValueError, match="cannot be cut"):
        probed.resume(tokens, 0, states[0], torch.zeros(5, 12, 12, dtype=torch.bool))
    rows = predictive_coding_records(probed, tokens.repeat(8, 2), tokens.repeat(4, 2), PROBES, stream("probe"), {"variant": "b"})
    assert {row["control"] for row in rows if row["metric"] == "slope_same"} == {
        "error",
        "random_word",
        "off_identity",
        "orthogonal",
    }

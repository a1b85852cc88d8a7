"""Everything that is measured on one subject: batches end to end, streams that do not meet, records that keep the contract."""

import json
import math

import numpy as np
import pytest
import torch

from activation_descent import records
from activation_descent.language.corpus import Corpus, Mixture
from activation_descent.language.pretraining import Pretraining, make_network, save_model
from activation_descent.language.world import make_world
from activation_descent.lens import BODIES, gains, measure, tokens, transfer
from activation_descent.lens.bodies import Body, Letters, Shape
from activation_descent.lens.measure import CARRIED, MODEL, Measurement
from activation_descent.lens.states import batch_of
from activation_descent.lens.statistics import lens_statistics

WORLD = make_world(0, 0.1)
MIXTURE = Mixture(0.5, 0.25, 0.12, 0.13, 0.3, 0.3, 0.4, 0.2, 0.2, 0.2)
SHAPE = Shape(8, 4, 2, 12, 12, 4, 6, 0.01, 2, 0.01, 1.0)
SETTINGS = Measurement(
    optimiser="adam",
    learning_rate=0.01,
    steps=3,
    tokens=48,
    batch_tokens=24,
    calibration_steps=2,
    calibration_rate=0.01,
    evaluation_tokens=72,
    intervention_tokens=48,
    directions=3,
    shown_tokens=5,
)


@pytest.fixture(scope="module")
def letters():
    return Letters(Corpus(WORLD, MIXTURE), WORLD.vocabulary)


def source_of(letters, kind="untied", sharpness=6.0):
    """Untrained models whose predictions differ from place to place, by their sharpness."""
    body = Body.initial(kind, SHAPE, len(letters.alphabet), [np.random.default_rng(seed) for seed in range(2)])
    body.weights["head"] *= sharpness
    return tokens.of_body(body, letters, 0)


@pytest.fixture(scope="module")
def measured(letters):
    source = source_of(letters)
    lenses = measure.fit_lenses(source, SETTINGS, "v")
    return source, lenses, measure.evaluate(source, lenses, SETTINGS)


def test_streams_do_not_meet(letters):
    source = source_of(letters)
    drawn = {
        (purpose, step, seed): rows.tolist()
        for purpose in ("lens", "calibrate", "evaluate", "intervene", "decode")
        for step in range(2)
        for seed, rows in enumerate(source.draw(purpose, step, 3))
    }
    assert len({json.dumps(rows) for rows in drawn.values()}) == len(drawn)
    for kind in BODIES:  # the same for every kind
        assert source_of(letters, kind).draw("evaluate", 1, 3)[1].tolist() == drawn["evaluate", 1, 1]


@pytest.mark.parametrize("together", [1, 48, 2048])
def test_batches_that_are_recorded_together_are_those_recorded_alone(letters, together, monkeypatch):
    """Of three steps with two batches each; the last time fewer are left than would be recorded together."""
    monkeypatch.setattr(measure, "RECORDED", together)
    source = source_of(letters)
    stream = measure.stream_of(source, "lens", SETTINGS, 3, 2)
    for step in range(3):
        batches = list(stream(step))
        assert len(batches) == 2
        for part, batch in enumerate(batches):
            alone = batch_of(source.subject, source.draw("lens", 2 * step + part, 2))
            assert batch.following.tolist() == alone.following.tolist()
            torch.testing.assert_close(batch.states, alone.states)
            torch.testing.assert_close(batch.final, alone.final)


def test_a_control_is_read_by_what_its_gate_asks_for(letters):
    source = source_of(letters)
    lenses = measure.fit_lenses(source, SETTINGS, "tied_loops", names=measure.OF_CONTROLS)
    evaluation = measure.evaluate(source, lenses, SETTINGS)
    rows = [*measure.lens_records(evaluation, 0, "v"), *measure.path_records(source, lenses, SETTINGS, "v")]
    found = records.frame(lens_statistics(records.frame(rows), "v"))
    assert {"calibrated_gain", "shared_information", "rotated_information", "divergence_fall"} <= set(found["metric"])
    assert not {"carried_calibrated_gain", "odd_information", "bias_information"} & set(found["metric"])
    # The lenses that are fitted are those that are fitted among all: layers and kinds do not meet
    everything = measure.fit_lenses(source, SETTINGS, "tied_loops")
    for name in (("tuned", MODEL), ("shared", MODEL)):
        for one, other in zip(
            *(list(own.readers[name].translators.parameters.values()) for own in (lenses, everything)), strict=True
        ):
            torch.testing.assert_close(one, other)


def test_evaluation_in_batches_is_that_of_all_tokens(measured):
    """Three batches of two documents of twelve letters."""
    source, lenses, evaluation = measured
    rows = torch.cat([source.draw("evaluate", step, 2) for step in range(3)], 1)
    batch = batch_of(source.subject, rows)
    np.testing.assert_allclose(evaluation.prior, transfer.prior(batch), atol=1e-6)
    for name in measure.CALIBRATED:
        whole = transfer.matrices(lenses.readers[name], source.subject.unembedding, batch, 6)
        for metric, matrix in whole.items():
            np.testing.assert_allclose(evaluation.matrices[name][metric], matrix, atol=1e-5)
        at_home = whole["divergence"][:, np.arange(4), np.arange(4)]
        np.testing.assert_allclose(evaluation.lenses[name]["divergence"], at_home, atol=1e-5)
    log_p = batch.final.gather(-1, batch.following[..., None])[..., 0].log2()
    np.testing.assert_allclose(evaluation.model.mean(1), -log_p.mean(1), atol=1e-5)


def test_nulls_are_read_through_their_transforms(measured):
    source, lenses, evaluation = measured
    carried = lenses.readers["tuned", CARRIED]
    batch = batch_of(source.subject, torch.cat([source.draw("evaluate", step, 2) for step in range(3)], 1))
    assert not torch.allclose(carried.transform(batch.states)[:, 2], batch.states[:, 2], atol=0.1)
    torch.testing.assert_close(carried.transform(batch.states)[:, 0], batch.states[:, 0])
    assert not np.allclose(evaluation.lenses["tuned", CARRIED]["divergence"], evaluation.lenses["tuned", MODEL]["divergence"])


def test_records_keep_the_contract(measured):
    source, lenses, evaluation = measured
    rows = [*measure.lens_records(evaluation, 0, "v"), *measure.path_records(source, lenses, SETTINGS, "v")]
    table = records.frame(rows)
    records.check(table, "lenses")
    assert set(table["study"]) == {"lens"}
    kl = table[table["metric"] == "lens_kl"]
    assert len(kl) == 2 * 4 * (8 + 3)  # seeds, layers, kinds and nulls
    cells = table[(table["metric"] == "transfer_divergence") & (table["states"] == MODEL)]
    assert len(cells) == 2 * 4 * 4
    assert len(table[table["metric"] == "calibrated_divergence"]) == 2 * 2 * 3  # seeds, streams, pairs (1, 2), (1, 3), (2, 3)
    value = evaluation.matrices["tuned", MODEL]["divergence"][1, 2, 3].mean()
    cell = cells[(cells["seed"] == 1) & (cells["fitted"] == 2) & (cells["layer"] == 3)]
    assert cell["value"].item() == pytest.approx(value)
    influences = table[table["metric"] == "lens_influence"]["value"].to_numpy().reshape(2, 3)
    assert (np.diff(influences, axis=1) <= 0).all()
    assert set(table.loc[table["metric"] == "stimulus_response", "lens"]) == {"tuned", "logit"}


def test_a_model_that_knows_nothing_has_no_gains(letters):
    source = source_of(letters, sharpness=0.01)
    lenses = measure.fit_lenses(source, SETTINGS, "v")
    table = records.frame(measure.lens_records(measure.evaluate(source, lenses, SETTINGS), 0, "v"))
    assert (table.loc[table["metric"] == "prior_kl", "value"] < gains.KNOWING).all()
    assert not table["metric"].str.contains("gain").any()


def test_gains_are_those_of_the_matrices(measured):
    _, _, evaluation = measured
    table = records.frame(measure.lens_records(evaluation, 0, "v"))
    for seed in range(2):
        matrix = evaluation.matrices["tuned", MODEL]["divergence"][seed].mean(-1)
        moved = evaluation.calibrated["tuned", MODEL]["divergence"][seed].mean(-1)
        for metric, wanted in (
            ("forward_gain", gains.forward_gain(matrix)),
            ("calibrated_gain", gains.forward_gain(matrix, moved)),
        ):
            own = table[(table["metric"] == metric) & (table["seed"] == seed) & (table["states"] == MODEL)]["value"]
            assert own.tolist() == ([] if math.isnan(wanted) else [pytest.approx(wanted)])


def test_the_document_in_the_figure(measured):
    source, lenses, _ = measured
    shown = measure.shown_trajectory(source, lenses, SETTINGS)
    document = source.draw("intervene", 0, 1)[0, 0].tolist()
    assert shown.read == [source.words[letter] for letter in document[:5]]
    assert len(shown.top) == 5  # four layers and the model
    assert len(shown.top[0]) == 5


# Language models by name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    stages = ({"length": 32, "short": 0.5},)
    settings = Pretraining(16, 3, 2, 24, 100.0, 0.1, stages, 4, 1.0, 8, 2, 4, 0.01, 2, 0.9, 0.98, 0.01, 1.0, 3, 0.0, 1.0, 1.0)
    network = make_network(settings, len(WORLD.vocabulary), np.random.default_rng(0))
    path = tmp_path_factory.mktemp("model") / "model"
    save_model(network, WORLD, settings, MIXTURE, path)
    return path


def test_an_embedded_model_reads_its_corpus(folder):
    source = tokens.of_model({"name": "embedded:x", "tasks": "own"}, folder, MIXTURE, 0, 2, 20)
    rows = source.draw("evaluate", 3, 4)
    rng = tokens.generator(0, "lens", "tokens", "all", "evaluate", 1, 3)
    assert rows[1].tolist() == Corpus(WORLD, MIXTURE).rows(rng, 4, 20).tolist()
    assert source.words[rows[0, 0, 0]] == "<bos>"
    assert len(source.subject.unembedding.weight) == 2
    lenses = measure.fit_lenses(source, SETTINGS, "x")
    records.check(records.frame(measure.path_records(source, lenses, SETTINGS, "x")), "paths")


def test_another_model_reads_the_texts_of_its_sets(folder, tmp_path):
    data = tmp_path / "sst2"
    data.mkdir()
    for part, words in (("train", "apple cherry"), ("validation", "carrot onion")):
        lines = [
            {"text": f"{words} {number} .", "label_name": name} for number in range(1, 10) for name in ("negative", "positive")
        ]
        (data / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = tokens.of_model({"name": str(folder), "tasks": ["sst2"], "data": str(tmp_path)}, None, MIXTURE, 0, 2, 8)
    train, test = (source.draw(purpose, 0, 6).flatten().tolist() for purpose in ("lens", "evaluate"))
    assert "apple" in {source.words[token] for token in train}
    assert not {"carrot", "onion"} & {source.words[token] for token in train}
    assert not {"apple", "cherry"} & {source.words[token] for token in test}

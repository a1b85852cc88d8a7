"""Training of the embedded models: the course, resumption."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from activation_descent import checkpointing, records
from activation_descent.errors import DivergedError
from activation_descent.language import world as words
from activation_descent.language.corpus import Corpus, Mixture
from activation_descent.language.gate import Gate
from activation_descent.language.network import forward, rotary_tables
from activation_descent.language.pretraining import Job, Pretraining, course_records, save_model, train
from activation_descent.language.world import make_world

WORLD = make_world(0, 0.1)
MIXTURE = Mixture(0.5, 0.25, 0.12, 0.13, 0.3, 0.3, 0.4, 0.2, 0.2, 0.2)
SETTINGS = Pretraining(
    hidden_size=16,
    layers=2,
    heads=2,
    mlp_size=24,
    rotary_base=100.0,
    init_scale=0.1,
    stages=({"length": 20, "short": 0.5}, {"length": 40, "short": 0.0}, {"length": 80, "short": 0.0}),
    stage_steps=4,
    stage_accuracy=0.9,
    steps=16,
    decay_steps=2,
    rows=2,
    learning_rate=0.01,
    warmup_steps=3,
    beta1=0.9,
    beta2=0.98,
    weight_decay=0.01,
    clip_norm=1.0,
    block=2,
    settled=0.02,
    in_context_accuracy=0.95,
    fact_accuracy=0.97,
)


def run(**options):
    settings = options.pop("settings", SETTINGS)
    return train(settings, WORLD, MIXTURE, 0, "tiny", **options)


def test_the_learning_rate_warms_up_and_falls():
    job = Job(SETTINGS, WORLD, MIXTURE, 0, "tiny")
    rates = [job.rate(step, decay_from=10) for step in range(12)]
    assert rates == pytest.approx([0.01 / 3, 0.02 / 3, *[0.01] * 9, 0.005])


def test_short_rows_hold_as_many_tokens_as_long_ones():
    job = Job(SETTINGS, WORLD, MIXTURE, 0, "tiny")
    assert [tuple(job.rows(0, stage).shape) for stage in range(3)] == [(8, 20), (4, 40), (2, 80)]
    assert torch.equal(job.rows(3, 2), job.rows(3, 2))
    assert not torch.equal(job.rows(3, 2), job.rows(4, 2))


def test_the_first_rows_hold_their_share_of_short_documents():
    """In the shortest form "word word label ;" every fourth token is a semicolon."""
    rows = Job(SETTINGS, WORLD, MIXTURE, 0, "tiny").rows(0, 0)
    assert (rows[:4, 4::4] == WORLD.vocabulary.index(";")).all()
    assert not (rows[4:, 4::4] == WORLD.vocabulary.index(";")).all(dim=1).all()


def test_rows_grow_when_a_stage_has_taught_and_at_the_latest_when_it_ends():
    _, course = run()
    assert course.begun.tolist() == [0, 2, 4]  # blocks of 2 steps: stage_steps
    _, course = run(settings=replace(SETTINGS, stage_accuracy=0.0))
    assert course.begun.tolist() == [0, 1, 2]


def test_training_ends_when_the_gate_is_met_and_the_loss_has_settled():
    easy = replace(SETTINGS, stage_accuracy=0.0, in_context_accuracy=0.0, fact_accuracy=0.0, settled=1.0, steps=40)
    seen = []
    _, course = run(settings=easy, report=lambda step, values: seen.append(step))
    assert course.stage == 2
    assert int(course.met) == 4  # two blocks at full length
    assert seen == [2, 4, 6, 8, 10]  # one block of decay_steps
    assert math.isfinite(float(course.curves["training_loss"][4]))
    assert math.isnan(float(course.curves["training_loss"][5]))


def test_training_lowers_the_loss():
    _, course = run(settings=replace(SETTINGS, steps=60, stage_steps=2))
    loss = course.curves["training_loss"]
    assert float(loss[-1]) < float(loss[1]) - 0.5


def test_a_resumed_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    whole, course = run()
    save, saved = checkpointing.save, []

    def interrupted(*arguments):
        save(*arguments)
        saved.append(arguments)
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpointing, "save", interrupted)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=checkpoint)
    assert checkpoint.exists()
    seen = []
    resumed, again = run(checkpoint=checkpoint, report=lambda step, values: seen.append((step, dict(values))))
    assert not checkpoint.exists()
    assert [step for step, _ in seen] == [2, 4, 6, 8, 10, 12, 14, 16]
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)
    for name, curve in course.curves.items():
        assert torch.equal(again.curves[name], curve), name


def test_a_checkpoint_of_other_settings_is_ignored(tmp_path, monkeypatch, capsys):
    checkpoint = tmp_path / "checkpoint.safetensors"
    monkeypatch.setattr(type(checkpoint), "unlink", lambda *_, **__: None)
    run(checkpoint=checkpoint)
    run(checkpoint=checkpoint, settings=replace(SETTINGS, learning_rate=0.02))
    assert "other settings or other code" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_the_job():
    with pytest.raises(DivergedError, match="embedded model tiny diverged"):
        run(settings=replace(SETTINGS, init_scale=float("inf")))


def test_the_saved_folder_is_an_ordinary_one(tmp_path):
    network, _ = run()
    save_model(network, WORLD, SETTINGS, MIXTURE, tmp_path / "model")
    loaded, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "model"),
        AutoTokenizer.from_pretrained(tmp_path / "model"),
    )
    tokens = torch.tensor([tokenizer("input very oak label")["input_ids"]])
    tables = rotary_tables(SETTINGS.context_length, SETTINGS.hidden_size // SETTINGS.heads, SETTINGS.rotary_base)
    assert torch.allclose(loaded(tokens).logits, forward(network, tokens, tables), atol=1e-5)
    kept = dict(loaded.named_parameters())
    for name, parameter in network.named_parameters():
        assert torch.equal(kept.pop(name), parameter)
    assert not kept
    assert not (tmp_path / "model.partial").exists()


def test_course_records_keep_the_contract():
    _, course = run()
    table = records.frame(course_records(course, SETTINGS, "tiny"))
    assert set(table["metric"]) == set(course.curves)
    assert sorted(table["step"].unique()) == [2, 4, 6, 8, 10, 12, 14, 16]


class Oracle:
    """Logits of a reader who knows a document's answers: the gate must call it perfect, and one who always errs hopeless."""

    def __init__(self, right):
        self.right = right

    def __call__(self, network, tokens, tables):
        logits = torch.zeros(*tokens.shape, len(WORLD.vocabulary))
        following = tokens.roll(-1, dims=1)
        return logits.scatter(2, following[..., None], 1.0 if self.right else -1.0)


@pytest.mark.parametrize("right", [True, False])
def test_the_gate_of_one_who_knows_and_of_one_who_errs(monkeypatch, right):
    gate = Gate(Corpus(WORLD, MIXTURE), words.spell_out(words.CLASSIFICATION_TEMPLATES[0], 3), 128, 0)
    assert gate.last - gate.first == 8 * 7  # demonstrations of 7 tokens
    # The documents end before the last label; one who knows sees it
    gate.classification = torch.cat([gate.classification, gate.names.gather(1, gate.label[:, -1:])], dim=1)
    monkeypatch.setattr("activation_descent.language.gate.forward", Oracle(right))
    measured = gate.measure(torch.nn.Identity(), rotary_tables(1, 2, 100.0))
    expected = 1.0 if right else 0.0
    assert measured == {"in_context_accuracy": expected, "zero_shot_accuracy": expected, "fact_accuracy": expected}


def test_where_eight_demonstrations_do_not_fit_the_gate_takes_fewer():
    gate = Gate(Corpus(WORLD, MIXTURE), words.spell_out(words.SHORT_TEMPLATE, 2), 20, 0)
    assert gate.last == 4 * 4 + 2  # four demonstrations of 4 tokens; <bos> is the first of the 19 tokens
    assert gate.classification.shape[1] == gate.last + 1 <= 20


def test_the_gate_asks_for_facts_that_are_told_only():
    corpus = Corpus(WORLD, MIXTURE)
    gate = Gate(corpus, words.spell_out(words.CLASSIFICATION_TEMPLATES[0], 3), 128, 0)
    asked = {WORLD.vocabulary[token] for token in gate.facts.flatten().tolist()}
    assert asked & set(WORLD.values)
    assert gate.answered.any()

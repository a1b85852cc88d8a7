"""Toy problems: what is asked can be known from what came before, by rules that are written out here; networks and their tuning."""

import numpy as np
import pandas as pd
import pytest
import torch

from activation_descent import records
from activation_descent.attention import MECHANISMS, TOY_PROBLEMS, efficient_statistics, toy_problems
from activation_descent.attention.toy_problems import Layer, ToyProblems
from activation_descent.seeding import generator

SETTINGS = ToyProblems(
    lengths={"recall": 6, "induction": 20, "copying": 8, "regression": 7},
    keys=9,
    symbols=5,
    jumps=0.3,
    input_dim=3,
    width=8,
    mlp_width=12,
    random_features=8,
    latents=4,
    rates=(0.003, 0.03),
    seeds=2,
    steps={"recall": 3, "induction": 3, "copying": 3, "regression": 3},
    warmup_steps=1,
    decay_share=0.5,
    batch_size=4,
    tuning_sequences=8,
    evaluation_sequences=16,
)


def drawn(problem, number=50):
    return toy_problems.PROBLEMS[problem](SETTINGS, np.random.default_rng(0), number)


def test_every_problem_has_its_code():
    assert tuple(toy_problems.PROBLEMS) == TOY_PROBLEMS


def test_recall_asks_for_a_key_that_has_been_shown():
    batch = drawn("recall")
    keys, values, queries = batch.inputs.split([9, 5, 9], -1)
    chosen = []
    for sequence in range(50):
        memory = {}
        for t in range(6):
            key = int(keys[sequence, t].argmax())
            assert key not in memory
            memory[key] = int(values[sequence, t].argmax())
            asked = int(queries[sequence, t].argmax())
            assert batch.targets[sequence, t] == memory[asked]
            chosen.append((t, list(memory).index(asked)))
    assert batch.asked.all()
    assert {place for t, place in chosen if t == 5} == set(range(6))


def test_induction_asks_where_the_successor_has_been_seen():
    batch = drawn("induction")
    symbols, before = batch.inputs.split([5, 6], -1)
    known = 0
    for sequence in range(50):
        s = symbols[sequence].argmax(-1).tolist()
        assert batch.targets[sequence, :-1].tolist() == s[1:]
        successor = {}
        for t in range(20):
            here = int(before[sequence, t].argmax())
            if here < 5:  # no jump
                assert here == s[t - 1]
                assert successor.setdefault(here, s[t]) == s[t]
            if batch.asked[sequence, t]:
                assert batch.targets[sequence, t] == successor[s[t]]
                known += 1
    assert known > 200
    jumps = (before.argmax(-1) == 5)[:, 1:].float().mean().item()
    assert jumps == pytest.approx(SETTINGS.jumps, abs=0.05)
    assert not batch.asked[:, 0].any()


def test_induction_without_jumps_has_one_successor():
    settings = ToyProblems(**{**vars(SETTINGS), "jumps": 0.0})
    batch = toy_problems.induction(settings, np.random.default_rng(0), 20)
    s = batch.inputs[..., :5].argmax(-1)
    for sequence in range(20):
        successor = {}
        for t in range(20):
            here, following = int(s[sequence, t]), int(batch.targets[sequence, t])
            assert batch.asked[sequence, t] == (here in successor)
            assert successor.setdefault(here, following) == following


def test_copying_asks_for_the_first_half():
    batch = drawn("copying")
    s = batch.inputs[..., :5].argmax(-1)
    assert torch.equal(s[:, :4], s[:, 4:])
    assert batch.asked[0].tolist() == [False] * 3 + [True] * 4 + [False]
    assert torch.equal(batch.targets[:, 3:7].long(), s[:, :4])
    assert torch.equal(batch.inputs[0, :, 5:], torch.eye(8))


def test_regression_labels_are_linear_with_variance_one():
    batch = drawn("regression", 4000)
    x, y, query = batch.inputs.split([3, 1, 3], -1)
    w = torch.linalg.lstsq(x[:50, :4], y[:50, :4]).solution
    assert torch.allclose((query[:50] @ w)[..., 0], batch.targets[:50], atol=1e-2)
    assert batch.targets.square().mean().item() == pytest.approx(1, abs=0.05)


def test_layer_is_the_same_for_a_mechanism_alone():
    """Each network's answers are those of one network, one sequence at a time."""
    layer, w = Layer("recall", SETTINGS, 0, (0, 1)), None
    inputs = torch.stack([drawn("recall", 3).inputs, drawn("recall", 3).inputs.flip(0)])
    said, w = layer(inputs), layer.weights
    normal = lambda x: torch.nn.functional.layer_norm(x, (8,))
    for network, seed in ((0, 0), (1, 1)):  # softmax attention
        for sequence in range(3):
            x = inputs[seed, sequence] @ w["embedding"][network]
            q, k, v = (normal(x) @ w["query_key_value"][network]).chunk(3, -1)
            logits = (q @ k.T / 8**0.5).masked_fill(torch.ones(6, 6).triu(1) > 0, -torch.inf)
            x = x + logits.softmax(-1) @ v @ w["output"][network]
            x = x + (normal(x) @ w["up"][network] + w["up_bias"][network]).relu() @ w["down"][network]
            assert torch.allclose(
                said[network, sequence], normal(x) @ w["readout"][network] + w["readout_bias"][network], atol=1e-5
            )


def test_mechanisms_start_from_the_same_weights_and_see_the_same_sequences():
    layer = Layer("copying", SETTINGS, 0, (0, 1))
    assert len(layer.weights["embedding"]) == 2 * len(MECHANISMS)
    for name, tensor in layer.weights.named.items():
        own = tensor.view(len(MECHANISMS), 2, *tensor.shape[1:])
        assert torch.equal(own[0], own[-1])
        assert name.endswith("bias") or not torch.equal(own[:, 0], own[:, 1])


@pytest.mark.parametrize("problem", toy_problems.PROBLEMS)
def test_losses_count_what_is_asked_alone(problem):
    layer = Layer(problem, SETTINGS, 0, (0, 1))
    batches = [toy_problems.draw(problem, SETTINGS, 0, "train", seed, 4) for seed in (0, 1)]
    with torch.no_grad():
        found = toy_problems.losses(layer, problem, batches)
        said = layer(torch.stack([batch.inputs for batch in batches]))
    for network in (0, 5):
        batch = batches[network % 2]
        each = []
        for sequence, t in batch.asked.nonzero().tolist():
            answer, target = said[network, sequence, t], batch.targets[sequence, t]
            square = float((answer[0] - target) ** 2)
            each.append(square if problem == "regression" else -float(answer.log_softmax(-1)[int(target)]))
        assert found[network].item() == pytest.approx(np.mean(each), rel=1e-4)


def test_each_network_is_that_of_the_rate_with_the_lowest_loss(monkeypatch):
    """Networks in the order mechanism, seed, rate; the second seed of softmax attention alone does better at the second rate."""

    def mark(weights, at, rates, *_):
        assert list(rates.items())[:3] == [
            ("softmax_seed_0_rate_0.003", 0.003),
            ("softmax_seed_0_rate_0.03", 0.03),
            ("softmax_seed_1_rate_0.003", 0.003),
        ]
        assert list(rates.values()) == [0.003, 0.03] * (2 * len(MECHANISMS))
        with torch.no_grad():
            for tensor in weights.named.values():
                tensor.copy_(torch.arange(len(rates)).view(-1, 1, 1).expand_as(tensor))

    monkeypatch.setattr(toy_problems, "train", mark)
    found = torch.tensor([[1.0, 2.0], [2.0, 1.0], *[[1.0, 2.0]] * (2 * len(MECHANISMS) - 2)]).flatten()
    monkeypatch.setattr(toy_problems, "losses", lambda *args: found)
    layer, rates = toy_problems.train_networks("recall", SETTINGS, 0)
    assert rates == {name: [0.003, 0.03 if name == "softmax" else 0.003] for name in MECHANISMS}
    assert layer.weights["output"][:, 0, 0].tolist() == [0, 3, *range(4, 4 * len(MECHANISMS), 2)]
    assert list(layer.seeds) == [0, 1]


def test_rates_start_from_the_same_weights_and_see_the_same_sequences(monkeypatch):
    def look(weights, at, *_):
        values = at(0).view(len(MECHANISMS), 2, 2)  # mechanism seed rate
        assert torch.allclose(values[..., 0], values[..., 1], rtol=1e-5)
        assert not torch.allclose(values[:, 0], values[:, 1], rtol=1e-3)

    monkeypatch.setattr(toy_problems, "train", look)
    toy_problems.train_networks("induction", SETTINGS, 0)


def test_tuning_training_and_evaluation_share_no_sequences():
    streams = [toy_problems.draw("recall", SETTINGS, 0, purpose, 0, 4).inputs for purpose in ("train", "tune", "evaluate")]
    assert not torch.equal(streams[0], streams[1])
    assert not torch.equal(streams[1], streams[2])


def test_training_learns_a_few_sequences_by_heart(monkeypatch):
    fixed = drawn("induction", 2)
    monkeypatch.setattr(toy_problems, "draw", lambda *args: fixed)
    settings = ToyProblems(**{**vars(SETTINGS), "steps": {"induction": 150}, "rates": (0.01,)})
    layer, _ = toy_problems.train_networks("induction", settings, 0)
    right = toy_problems.scores(layer, "induction", settings, 0)
    assert np.nanmean(right[:2]) > 0.95


def test_scores_are_missing_where_nothing_is_asked():
    found = toy_problems.scores(Layer("copying", SETTINGS, 0, (0, 1)), "copying", SETTINGS, 0)
    assert np.isfinite(found[0]).tolist() == [False] * 3 + [True] * 4 + [False]
    assert ((found[:, 3:7] >= 0) & (found[:, 3:7] <= 1)).all()


# Statistics


def score_table(by_variant):
    """Four places each, of which the last is the last quarter."""
    rows = []
    for variant, problems in by_variant.items():
        for problem, last in problems.items():
            values = np.array([[0.0, 0.0, 0.0, last]])
            rows += efficient_statistics.score_rows(problem, [variant], 1, values)
    return pd.DataFrame(rows)


def test_statistics_by_hand():
    scores = {
        "softmax": {"recall": 1.0, "induction": 0.98, "copying": 0.96, "regression": 0.6},
        "efficient": {"recall": 0.5, "induction": 0.8, "copying": 0.9, "regression": 0.5},
        "linear": {"recall": 0.6, "induction": 0.7, "copying": 0.65, "regression": 0.9},
        "untrained": {"recall": 0.1, "induction": 0.05, "copying": 0.06, "regression": 0.0},
    }
    rows = efficient_statistics.toy_statistics(score_table(scores))
    records.check(records.frame(rows), "statistics")
    found = {(row["variant"], row["metric"]): row["value"] for row in rows}
    assert found["softmax", "worst_toy_accuracy"] == 0.96
    assert found["linearised", "worst_toy_accuracy"] == 0.6  # the best mechanism's worst problem
    assert found["untrained", "best_toy_accuracy"] == 0.1
    assert found["efficient", "toy_accuracy_lost"] == pytest.approx((2.94 - 2.2) / 3)
    assert found["linear", "toy_regression_gain"] == pytest.approx(0.3)
    assert ("softmax", "toy_accuracy_lost") not in found


def test_scores_are_means_of_the_last_quarter_of_what_is_asked():
    values = np.array(
        [[np.nan, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.4, 0.8]]
    )  # eight places, of which two are the last quarter
    table = pd.DataFrame(efficient_statistics.score_rows("copying", ["softmax"], 1, values))
    assert table["length"].tolist() == list(range(3, 11))
    assert efficient_statistics.problem_scores(table).loc[("softmax", 0), "copying"] == pytest.approx(0.6)


def test_performer_exponent_by_hand():
    table = pd.DataFrame([{"variant": "performer", "seed": 0, "level": m, "value": 3 / m**0.5} for m in (16, 64, 256)])
    (row,) = efficient_statistics.approximation_statistics(table)
    assert row["value"] == pytest.approx(-0.5)


def test_distances_from_softmax_attention_by_numpy():
    """The softmax of logits, linear attention and the elu's features by their formulas, on the inputs of each seed."""
    settings = efficient_statistics.Approximation(length=5, features=4, deviation=0.3, random_features=[8, 12], seeds=2)
    rows = efficient_statistics.approximation_records(settings, root=3)
    records.check(records.frame(rows), "approximations")
    found = {(row["variant"], row["level"], row["seed"]): row["value"] for row in rows}
    cells = [("softmax", 0), ("efficient", 0), ("elu", 0), ("linear", 0), ("latent", 0), ("performer", 8), ("performer", 12)]
    assert set(found) == {(*cell, seed) for cell in cells for seed in range(2)}
    for seed in range(2):
        drawn = generator(3, "attention", "approximation", "inputs", "evaluate", seed).standard_normal((3, 5, 4))
        q, k, v = 0.3 * drawn[0], 0.3 * drawn[1], drawn[2]
        logits = q @ k.T / 2
        phi_q, phi_k = (np.where(x > 0, x + 1, np.exp(x)) for x in (q, k))
        said = {"softmax": np.exp(logits), "elu": phi_q @ phi_k.T, "linear": logits}
        exact, elu = (said[name] / said[name].sum(1, keepdims=True) @ v for name in ("softmax", "elu"))
        length = np.linalg.norm(exact)
        assert found["softmax", 0, seed] == 0
        assert found["elu", 0, seed] == pytest.approx(np.linalg.norm(elu - exact) / length)
        assert found["linear", 0, seed] == pytest.approx(np.linalg.norm(logits @ v - exact) / length)

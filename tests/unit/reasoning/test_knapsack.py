"""The dynamic programme against all choices, greedy against a loop, tokens and networks against what they should see."""

from itertools import product

import numpy as np
import pytest
import torch

from activation_descent.reasoning import knapsack, knapsack_probes
from activation_descent.reasoning.knapsack import Knapsack, Problems

SETTINGS = Knapsack(
    items=5,
    largest_weight=4,
    largest_value=3,
    capacities=[3, 6],
    layers=[1, 3],
    seeds=2,
    width=8,
    heads=2,
    mlp_width=8,
    perceptron_width=6,
    steps=3,
    warmup_steps=1,
    decay_share=0.5,
    batch_size=6,
    learning_rate=0.01,
)


def problems(number=40, seed=0):
    return knapsack.draw(SETTINGS, np.random.default_rng(seed), number)


def best_choice(weights, values, capacity):
    choices = [choice for choice in product((0, 1), repeat=len(weights)) if np.dot(choice, weights) <= capacity]
    return max(int(np.dot(choice, values)) for choice in choices)


def test_table_by_hand():
    """Two items of weight 2 and 3, worth 3 and 4."""
    f = knapsack.table(Problems(np.array([[2, 3]]), np.array([[3, 4]])), 5)
    assert f[0].tolist() == [[0, 0, 0, 0, 0, 0], [0, 0, 3, 3, 3, 3], [0, 0, 3, 4, 4, 7]]


def test_every_entry_is_the_best_choice_of_the_first_items():
    drawn = problems()
    f = knapsack.table(drawn, 7)
    for place, (weights, values) in enumerate(zip(drawn.weights, drawn.values, strict=True)):
        for i in range(SETTINGS.items + 1):
            for capacity in range(8):
                assert f[place, i, capacity] == best_choice(weights[:i], values[:i], capacity)


def test_all_choices_at_once():
    drawn = problems()
    found = knapsack_probes._exhaustive(SETTINGS, drawn)
    wanted = [[best_choice(w, v, c) for c in SETTINGS.capacities] for w, v in zip(drawn.weights, drawn.values, strict=True)]
    assert found.tolist() == wanted == knapsack.answers(SETTINGS, drawn).tolist()


def test_greedy_by_hand():
    """Density takes the first item (3 / 1) and then nothing fits but the third; best are the second and third."""
    drawn = Problems(np.array([[1, 3, 2]]), np.array([[3, 8, 4]]))
    assert knapsack.greedy(drawn, 5).tolist() == [11]  # 3 + 8, then 2 does not fit
    assert best_choice([1, 3, 2], [3, 8, 4], 5) == 12
    assert knapsack.greedy(Problems(np.array([[2, 1]]), np.array([[4, 2]])), 2).tolist() == [
        2
    ]  # of equal density the lighter first


def test_greedy_is_never_better_than_the_optimum_and_sometimes_worse():
    drawn = problems(400)
    taken = np.stack([knapsack.greedy(drawn, c) for c in SETTINGS.capacities], 1)
    best = knapsack.answers(SETTINGS, drawn).numpy()
    assert (taken <= best).all()
    assert 0.02 < (taken < best).mean() < 0.5


def test_weights_and_values_are_uniform():
    drawn = problems(4000)
    for entries, largest in ((drawn.weights, 4), (drawn.values, 3)):
        assert np.bincount(entries.ravel())[1:] / entries.size == pytest.approx(np.full(largest, 1 / largest), abs=0.01)


def test_tokens_say_weight_value_place_and_capacity():
    raw = knapsack.tokens(SETTINGS, problems())
    drawn = problems()
    assert raw.shape == (40, 7, 4 + 3 + 5 + 2)
    for item in range(5):
        assert (raw[:, item, :4].argmax(1) + 1).tolist() == drawn.weights[:, item].tolist()
        assert (raw[:, item, 4:7].argmax(1) + 1).tolist() == drawn.values[:, item].tolist()
        assert (raw[:, item, 7:12].argmax(1) == item).all()
        assert (raw[:, item].sum(1) == 3).all()
    assert torch.equal(raw[0, 5:], torch.nn.functional.pad(torch.eye(2), (12, 0)))


@pytest.mark.parametrize("kind", knapsack.NETWORKS)
def test_answers_depend_on_items_and_capacity_alone(kind):
    """A problem's answers do not change with the others in the batch, nor a capacity's with the other capacities."""
    new, logits = knapsack.NETWORKS[kind]
    weights, raw = new(SETTINGS, 0), knapsack.tokens(SETTINGS, problems(8)).expand(4, -1, -1, -1)
    with torch.no_grad():
        said, alone = logits(SETTINGS, weights, raw), logits(SETTINGS, weights, raw[:, :1])
        changed = raw.clone()
        changed[:, 1:, 0] = raw[:, 1:, 1]
        other = logits(SETTINGS, weights, changed)
    assert said.shape == (4, 8, 2, 16)
    assert torch.allclose(said[:, :1], alone, atol=1e-5)
    assert torch.allclose(said[:, :1], other[:, :1], atol=1e-5)
    assert (said[:, 1:] - other[:, 1:]).abs().max() > 1e-3


def test_perceptron_is_the_loop_over_its_layers():
    weights, raw = knapsack.new_perceptrons(SETTINGS, 0), knapsack.tokens(SETTINGS, problems(3))
    with torch.no_grad():
        said = knapsack.perceptron_logits(SETTINGS, weights, raw.expand(4, -1, -1, -1))
        for network, depth in enumerate(SETTINGS.depths):
            for capacity in range(2):
                x = (
                    torch.cat([raw[:, :5, :7].flatten(1), torch.eye(2)[capacity].expand(3, -1)], 1)
                    @ weights["embedding"][network]
                )
                for layer in range(depth):
                    normal = torch.nn.functional.layer_norm(x, (6,))
                    hidden = (normal @ weights[f"{layer}.up"][network] + weights[f"{layer}.up_bias"][network]).relu()
                    x = x + hidden @ weights[f"{layer}.down"][network]
                wanted = torch.nn.functional.layer_norm(x, (6,)) @ weights["readout"][network]
                assert torch.allclose(said[network, :, capacity], wanted, atol=1e-5)


@pytest.mark.parametrize("kind", knapsack.NETWORKS)
def test_training_learns_one_problem_by_heart(kind, monkeypatch):
    drawn = problems(1)
    monkeypatch.setattr(
        knapsack, "draw", lambda settings, rng, number: Problems(drawn.weights.repeat(6, 0), drawn.values.repeat(6, 0))
    )
    settings = Knapsack(**{**vars(SETTINGS), "steps": 80})
    weights = knapsack.train_networks(kind, settings, 0)
    said = knapsack_probes._said(kind, settings, weights, drawn)
    assert (said == knapsack.answers(settings, drawn).numpy()).all()


def test_seeds_share_no_problems_and_depths_do():
    streams = [knapsack_probes.evaluation_problems(SETTINGS, 0, seed, "evaluate", 5).weights for seed in (0, 1)]
    assert (streams[0] != streams[1]).any()
    assert SETTINGS.depths == (3, 3, 1, 1)


# Readouts


def test_readout_finds_a_linear_map_and_nothing_in_noise():
    rng = torch.Generator().manual_seed(0)
    x, at = torch.randn(400, 6, generator=rng), torch.randn(300, 6, generator=rng)
    mix = torch.randn(6, 2, generator=rng)
    noise = torch.randn(700, 1, generator=rng).double()
    fitted, scored = (torch.cat([(part @ mix).double(), own], 1) for part, own in ((x, noise[:400]), (at, noise[400:])))
    found = knapsack_probes.readout(x, fitted, at, scored)
    assert (found[:2] > 0.999).all()
    assert -0.1 < found[2] < 0.05


def test_ridge_is_the_closed_form():
    """One standardised feature: slope (x . y) / (x . x + penalty)."""
    x, y = torch.tensor([[1.0], [2.0], [3.0]]).double(), torch.tensor([[1.0], [0.0], [5.0]]).double()
    # standardised x is -1, 0, 1 (deviation 1 with n - 1), centred y is -1, -2, 3: slope (1 + 3) / (2 + 2)
    predicted = knapsack_probes._ridge(x, y, [2.0], torch.tensor([[4.0]]).double())[0]
    assert predicted.item() == pytest.approx(2.0 + 2.0 * 1.0)


def test_targets_are_the_table_without_its_ends_and_the_answers():
    drawn = problems(3)
    found, f = knapsack_probes._targets(SETTINGS, drawn), knapsack.table(drawn, 6)
    assert found.shape == (3, 4 * 6 + 2)
    assert found[1, 7] == f[1, 2, 2]  # row i = 2, capacity 2
    assert found[:, -2:].tolist() == f[:, -1, [3, 6]].tolist()


def test_records_score_greedy_and_the_programme():
    rows = knapsack_probes.answer_records(SETTINGS, {"encoder": knapsack.new_encoders(SETTINGS, 0)}, 0, 200)
    found = {(row["variant"], row["seed"], row["layers"], row["capacity"], row["metric"]): row["value"] for row in rows}
    assert found["dynamic_programme", 1, 5, 6, "accuracy_of_optimum"] == 1
    assert found["greedy", 0, 0, 3, "hard_accuracy_of_optimum"] == 0
    drawn = knapsack_probes.evaluation_problems(SETTINGS, 0, 0, "evaluate", 200)
    right = [knapsack.greedy(drawn, 3)[i] == best_choice(drawn.weights[i], drawn.values[i], 3) for i in range(200)]
    assert found["greedy", 0, 0, 3, "accuracy_of_optimum"] == pytest.approx(np.mean(right))
    assert {key[2] for key in found if key[0] == "encoder"} == {1, 3}


def test_table_records_of_an_oracle(monkeypatch):
    """Where states are the table itself the readout is exact, with shuffled problems it is nothing."""
    weights = knapsack.new_encoders(SETTINGS, 0)
    monkeypatch.setattr(
        knapsack_probes,
        "_features",
        lambda settings, weights, sets, seed: [tuple(knapsack_probes._targets(settings, drawn).float() for drawn in sets)],
    )
    rows = knapsack_probes.table_records(SETTINGS, weights, weights, 0, knapsack_probes.Evaluation(10, 400, 200))
    found = {(row["condition"], row["seed"]): row["value"] for row in rows if row["metric"] == "table_r_squared"}
    assert found["trained", 0] > 0.99
    assert found["shuffled", 0] < 0.05
    assert found["inputs", 0] < found["trained", 0]

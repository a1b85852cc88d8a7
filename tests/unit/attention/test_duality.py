"""The dual form against hand calculations, torch's optimiser, and conditions under which it must fail."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from activation_descent.attention import duality
from activation_descent.attention.duality import Duality, Layer

SMALL = Duality(seeds=1, hidden=8, epochs=2, batch_size=64, learning_rate=0.1, weight_decay=0.01, test_digits=1397, attended=10)


@pytest.fixture(scope="module")
def trained():
    """Digits, start and training with 400 digits."""
    digits = duality.load_digits(np.random.default_rng(0), SMALL.test_digits)
    start = duality.initial_weights(np.random.default_rng(1), 65, SMALL.hidden)
    return digits, start, duality.train(SMALL, digits, start, np.random.default_rng(2))


def test_the_digits_are_scikit_learns():
    digits = duality.load_digits(np.random.default_rng(0), 500)
    assert digits.training.shape == (1297, 65)
    assert digits.test.shape == (500, 65)
    assert digits.training.min() == 0
    assert digits.training.max() == 1
    assert (digits.test[:, -1] == 1).all()
    # Published counts of the set: 178, 182, 177, 183, 181, 182, 181, 179, 174, 180
    counts = torch.bincount(torch.cat([digits.training_labels, digits.test_labels]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_training_is_torchs_gradient_descent(trained):
    digits, start, training = trained
    network = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)).double()
    with torch.no_grad():
        for module, weight in zip((network[0], network[2]), start, strict=True):
            module.weight.copy_(weight[:, :-1])
            module.bias.copy_(weight[:, -1])
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    batches = training.examples.split([64] * 6 + [16] + [64] * 6 + [16])
    for batch in batches:
        optimiser.zero_grad()
        functional.cross_entropy(network(digits.training[batch][:, :-1]), digits.training_labels[batch]).backward()
        optimiser.step()
    for module, layer in zip((network[0], network[2]), training.layers, strict=True):
        assert torch.allclose(module.weight, layer.trained[:, :-1], atol=1e-12)
        assert torch.allclose(module.bias, layer.trained[:, -1], atol=1e-12)
    assert training.losses[1] < training.losses[0]


def test_every_digit_is_met_once_an_epoch(trained):
    assert (torch.bincount(trained[2].examples) == 2).all()


def test_a_trained_layer_is_its_dual_form(trained):
    """Stated tolerance: 1e-5."""
    digits, _, training = trained
    h = duality.hidden_inputs(training.layers[0].trained, digits.test)
    for layer, x in zip(training.layers, (digits.test, h), strict=True):
        assert torch.allclose(duality.dual_form(layer, x), x @ layer.trained.mT, rtol=0, atol=1e-5)
        assert duality.dual_gap(layer, x) < 1e-12
        assert (layer.trained - layer.initial).abs().max() > 0.05  # it did learn


def test_one_step_by_hand():
    """W_0 = 0, x = (1, 2), error e = (3, -1), eta = .5: W = -.5 e x^T, and for q = (2, 1) W q = -.5 e (x . q) = (-6, 2)."""
    x, e = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, -1.0]]).double()
    layer = Layer(torch.zeros(2, 2).double(), torch.tensor([[-1.5, -3.0], [0.5, 1.0]]).double(), x, -0.5 * e)
    q = torch.tensor([[2.0, 1.0]]).double()
    assert duality.dual_form(layer, q).tolist() == [[-6.0, 2.0]]
    assert (q @ layer.trained.mT).tolist() == [[-6.0, 2.0]]


def test_weight_decay_and_other_error_signals_break_it(trained):
    digits, start, training = trained
    decayed = duality.train(SMALL, digits, start, np.random.default_rng(2), weight_decay=0.01)
    assert duality.dual_gap(decayed.layers[0], digits.test) > 0.01
    layer = training.layers[0]
    dealt = Layer(layer.initial, layer.trained, layer.keys, layer.values.roll(1, dims=0))
    assert duality.dual_gap(dealt, digits.test) > 0.1


def test_contributions_add_up_to_what_training_changed(trained):
    digits, _, training = trained
    h = duality.hidden_inputs(training.layers[0].trained, digits.test[:20])
    outputs = torch.arange(20) % 10
    layer = training.layers[1]
    moved = duality.contributions(training, h, outputs, 400).sum(1)
    changed = h @ (layer.trained - layer.initial).mT
    assert torch.allclose(moved, changed[torch.arange(20), outputs], atol=1e-10)


def test_attention_to_an_example_sums_over_the_times_it_was_met(trained):
    digits, _, training = trained
    attention = duality.attention_to_examples(training, 0, digits.test[:3], 400)
    assert torch.allclose(attention, 2 * digits.test[:3] @ digits.training.mT, atol=1e-10)  # pixels do not change in two epochs


def test_share_of_the_own_class_by_hand():
    attention = torch.tensor([[0.9, 0.1, 0.8, 0.0], [0.0, 0.3, 0.2, 0.1]])
    labels = torch.tensor([1, 1, 0, 0])
    # The two largest: classes (1, 0) of a query of class 1, and (1, 0) of one of class 0
    assert duality.same_class_share(attention, torch.tensor([1, 0]), labels, 2) == 0.5
    assert duality.same_class_share(attention, torch.tensor([1, 0]), labels, 1) == 0.5
    assert duality.same_class_share(attention, torch.tensor([1, 1]), labels, 1) == 1.0


def test_numbers_of_one_seed():
    settings = Duality(1, 32, 8, 32, 0.1, 0.001, 500, 10)
    digits, training, numbers = duality.one_seed(settings, 0, 0)
    assert numbers["dual_gap"] < 1e-5
    assert numbers["dual_decay_gap"] > 0.01
    assert numbers["dual_shuffled_gap"] > 0.1
    assert numbers["test_accuracy"] > 0.9
    assert numbers["own_class_attention_dealt"] < 0.2 < numbers["own_class_attention"]
    again = duality.one_seed(settings, 0, 0)[2]
    assert again == numbers
    assert duality.one_seed(settings, 1, 0)[2] != numbers
    rows = [*duality.duality_rows(numbers, 0)]
    assert {row["metric"] for row in rows} == set(numbers)
    shown = duality.picture(digits, training, 3, 4)
    assert shown["attended_image"].shape == (3, 4, 8, 8)
    assert shown["label"].tolist() == [0, 1, 2]
    assert (shown["attention"].diff(dim=1) <= 0).all()
    assert (shown["contribution"].abs().diff(dim=1) <= 0).all()

"""Influences of single demonstrations against models that really lack them, and orders against prompts in that order."""

import numpy as np
import pytest
import torch

from activation_descent.finetuning import influence
from activation_descent.finetuning.copies import Sequences, subset
from activation_descent.finetuning.descent import Recipe, descend
from activation_descent.finetuning.patching import margin
from activation_descent.language.prompts import next_logits
from tests.unit.finetuning.test_patching import QUERIES, draw, tiny

DEMONSTRATIONS = [[24, 6, 20], [15, 33, 18, 25], [27, 20], [9, 42, 25]]
NEUTRAL, ENDING, LABELS = [3, 3, 21], [1], [20, 25]
TRUTH = torch.tensor([0, 1, 1, 0, 1])


def prompt(model, demonstrations):
    return [*model.begin, *(token for each in demonstrations for token in each + ENDING)]


def margins(model, before):
    return margin(next_logits(model, before, QUERIES)[:, LABELS], TRUTH)


def test_influence_in_context_is_the_margin_lost_with_a_neutral_demonstration():
    model = tiny("xglm")
    found = influence.context_influence(model, DEMONSTRATIONS, NEUTRAL, ENDING, QUERIES, LABELS, TRUTH)
    whole = margins(model, prompt(model, DEMONSTRATIONS))
    for i in range(4):
        without = [*DEMONSTRATIONS[:i], NEUTRAL, *DEMONSTRATIONS[i + 1 :]]
        assert torch.allclose(found[i], whole - margins(model, prompt(model, without)), atol=1e-4)
    nothing = influence.context_influence(model, [NEUTRAL] * 2, NEUTRAL, ENDING, QUERIES, LABELS, TRUTH)
    assert nothing.abs().max() < 1e-5


@pytest.mark.parametrize(("family", "loss"), [("gpt2", "all"), ("gpt2", "label"), ("gpt_neo", "all"), ("llama", "label")])
def test_influence_by_descent_is_that_of_fine_tuning_without_each_demonstration(family, loss):
    """At a small rate one pass over all demonstrations differs from one without the i-th by its influence, up to O(rate^2)."""
    model, rate = tiny(family), 3e-3
    found = influence.descent_influence(model, DEMONSTRATIONS, QUERIES, LABELS, TRUTH, rate, loss)

    def tuned(demonstrations, sign):
        runs = Sequences.of([demonstrations], model.begin)
        deltas = descend(model, runs, subset(model, "key_value"), torch.tensor([sign * rate]), Recipe(loss=loss))
        return influence._margins(model, QUERIES, LABELS, TRUTH, 1, deltas)[0]

    for i in (0, 3):
        rest = DEMONSTRATIONS[:i] + DEMONSTRATIONS[i + 1 :]
        # Descent minus ascent: what is even in the rate drops out
        lost = [tuned(DEMONSTRATIONS, sign) - tuned(rest, sign) for sign in (1.0, -1.0)]
        assert torch.allclose(found[i], (lost[0] - lost[1]) / 2, atol=0.02 * found.abs().max().item())
    twice = influence.descent_influence(model, DEMONSTRATIONS, QUERIES, LABELS, TRUTH, 2 * rate, loss)
    assert torch.allclose(twice, 2 * found, rtol=1e-3, atol=1e-3 * found.abs().max().item())


def test_influences_do_not_depend_on_how_many_are_computed_at_once(monkeypatch):
    model = tiny("gpt2")
    together = influence.descent_influence(model, DEMONSTRATIONS, QUERIES, LABELS, TRUTH)
    monkeypatch.setattr(influence, "TRAINED_AT_ONCE", 1)
    one_by_one = influence.descent_influence(model, DEMONSTRATIONS, QUERIES, LABELS, TRUTH)
    assert torch.allclose(together, one_by_one, rtol=1e-4, atol=1e-5)


def test_halves_that_share_a_profile_are_reliable_and_noise_is_not():
    rng = np.random.default_rng(0)
    truth, slot, label = torch.arange(40) % 2, np.arange(12), np.arange(12) % 2
    profiles = draw(2, 12)
    signal = profiles[truth].T
    assert influence.split_half_reliability(signal, truth, slot, label, rng) == pytest.approx(1)
    noise = [influence.split_half_reliability(draw(12, 40, seed=seed), truth, slot, label, rng, 5) for seed in range(1, 21)]
    # Splits of the same queries; sd of one Spearman correlation with 9 free ranks is 1/3, of the mean over 20 x 2 about .06
    assert abs(np.mean(noise)) < 0.25
    mixed = influence.split_half_reliability(signal + 3 * draw(12, 40, seed=1), truth, slot, label, rng)
    assert 0.1 < mixed < 0.98


def test_a_profile_that_is_place_and_label_alone_is_no_reliability():
    slot, label = np.arange(12), np.arange(12) % 2
    truth = torch.zeros(10, dtype=torch.long)
    place = torch.from_numpy(slot + 100.0 * label).float()[:, None].expand(-1, 10)
    noisy = place + 1e-3 * draw(12, 10)
    found = influence.split_half_reliability(noisy, truth, slot, label, np.random.default_rng(0))
    assert np.isnan(found) or abs(found) < 0.5


def test_orders_in_context_are_prompts_in_that_order():
    model, orders = tiny("llama"), torch.tensor([[0, 1, 2, 3], [2, 0, 3, 1], [0, 1, 2, 3]])
    found = influence.context_orders(model, DEMONSTRATIONS, ENDING, QUERIES, LABELS, orders)
    assert found.shape == (3, 5, 2)
    for place, order in enumerate(orders.tolist()):
        expected = next_logits(model, prompt(model, [DEMONSTRATIONS[i] for i in order]), QUERIES)[:, LABELS]
        assert torch.allclose(found[place], expected, atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_orders_of_fine_tuning_are_learned_in_that_order():
    model, orders = tiny("llama"), torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    rates = torch.full((2,), 0.1)

    def fine_tune(runs):
        return descend(model, runs, subset(model, "key_value"), rates[: len(runs.tokens)])

    found = influence.descent_orders(model, DEMONSTRATIONS, QUERIES, LABELS, orders, fine_tune)
    alone = influence.descent_orders(model, DEMONSTRATIONS[::-1], QUERIES, LABELS, orders[:1], fine_tune)
    assert torch.allclose(found[1], alone[0], atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-3)  # one step for each demonstration: their order matters
    still = influence.descent_orders(model, DEMONSTRATIONS, QUERIES, LABELS, orders, lambda runs: {})
    assert torch.allclose(still[0], next_logits(model, model.begin, QUERIES)[:, LABELS], atol=1e-4)

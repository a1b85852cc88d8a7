"""Context distillation against changes of parameters that are known."""

import numpy as np
import pytest
import torch

from activation_descent.finetuning import distillation
from activation_descent.finetuning.copies import Sequences, norms, scaled, subset
from activation_descent.finetuning.descent import row_losses
from activation_descent.finetuning.distillation import Lesson
from tests.unit.finetuning.test_patching import QUERIES, TUNING, draw, prompt_of, tiny

DEMONSTRATIONS = [[24, 6, 20], [15, 33, 18, 25], [27, 20]]


def queries(model, *rows):
    return Sequences.of(rows, model.begin)


def random_queries(number, seed):
    return torch.randint(2, 50, (number, 4), generator=torch.Generator().manual_seed(seed)).tolist()


def known_change(model, runs=2, size=0.05):
    """A small random change of keys and values of each run."""
    return {
        name: size * mask * draw(runs, *mask.shape, seed=i) for i, (name, mask) in enumerate(subset(model, "key_value").items())
    }


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_a_lesson_holds_what_attentions_add_to_the_stream_with_and_without_the_prompt(family):
    model = tiny(family)
    prompts = [prompt_of(model), [*model.begin, 9, 8, 7]]
    found = distillation.lesson(model, queries(model, QUERIES, TUNING[:5]), prompts)
    assert found.start.shape == found.target.shape == (2, 5, model.layers, model.width)
    for run, asked in enumerate((QUERIES, TUNING[:5])):
        for place, query in enumerate(asked):
            for before, outputs in ((model.begin, found.start), (prompts[run], found.target)):
                expected = model.record(torch.tensor([[*before, *query]])).attention_output[:, 0, -1]
                assert torch.allclose(outputs[run, place], expected, atol=1e-4)


def test_distance_is_in_units_of_the_target():
    target = draw(2, 3, 2, 4)
    taught = Lesson(queries(tiny("gpt2"), QUERIES[:3], QUERIES[:3]), 2 * target, target)
    assert torch.allclose(distillation.distance(taught.start, taught), torch.ones(2))
    moved = target.clone()
    moved[0, 1, 1] = 0
    assert torch.allclose(distillation.distance(moved, taught), torch.tensor([1 / 6, 0]))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_known_change_is_recovered_on_other_queries(family):
    model = tiny(family)
    change = known_change(model)
    lessons = [queries(model, random_queries(40, seed), random_queries(40, seed + 1)) for seed in (0, 2)]
    train, held_out = (distillation.lesson_of_change(model, asked, change) for asked in lessons)
    found = distillation.distil(model, train, steps=120, rate=0.01, settled=0.0)
    assert found.losses[:, -1].max() < 0.01 * found.losses[:, 0].min()
    reached = distillation.reached(model, held_out, found.deltas)
    assert reached.share.min() > 0.9
    assert reached.similarity.min() > 0.95
    swapped = {name: delta.flip(0) for name, delta in found.deltas.items()}
    assert distillation.reached(model, held_out, swapped).share.max() < 0.5  # each run has learned its own change
    # The change itself is what the line search stops at, with steps of 2^(1/3)
    scale = distillation.line_search(model, train, change)
    assert torch.allclose(scale.log2(), torch.zeros(2), atol=1 / 6 + 0.05)
    assert distillation.reached(model, held_out, scaled(change, scale)).share.min() > 0.95
    whole = distillation.reached(model, held_out, change)
    assert torch.allclose(whole.share, torch.ones(2), atol=1e-4)
    assert torch.allclose(whole.similarity, torch.ones(2, model.layers).double(), atol=1e-4)
    # Distillation goes along the change (a random direction has a cosine of .03 with it), against it nothing is gained
    assert distillation.direction_cosine(found.deltas, change).min() > 0.15
    assert distillation.direction_cosine(swapped, change).abs().max() < 0.1
    assert torch.equal(distillation.line_search(model, train, scaled(change, -1.0)), torch.zeros(2))


def test_runs_are_distilled_each_by_itself(monkeypatch):
    model = tiny("gpt2")
    taught = distillation.lesson_of_change(model, queries(model, QUERIES, TUNING[:5]), known_change(model))
    together = distillation.distil(model, taught, 20, 0.01, 0.0)
    monkeypatch.setattr(distillation, "TRAINED_AT_ONCE", 1)
    apart = distillation.distil(model, taught, 20, 0.01, 0.0)
    for name, delta in together.deltas.items():
        assert torch.allclose(delta, apart.deltas[name], atol=1e-3)
    assert torch.allclose(together.losses, apart.losses, rtol=1e-3)
    assert together.steps == apart.steps == 20


def test_distillation_changes_keys_and_values_alone():
    model = tiny("gpt2")
    before = {name: value.clone() for name, value in model.network.named_parameters()}
    taught = distillation.lesson_of_change(model, queries(model, QUERIES), known_change(model, 1))
    found = distillation.distil(model, taught, 20, 0.01, 0.0)
    masks = subset(model, "key_value")
    assert set(found.deltas) == set(masks)
    for name, mask in masks.items():
        assert (found.deltas[name][0][mask == 0] == 0).all()
        assert (found.deltas[name][0][mask == 1] != 0).float().mean() > 0.5
    assert all(torch.equal(value, before[name]) for name, value in model.network.named_parameters())


def test_distillation_stops_when_little_is_gained():
    model = tiny("gpt2")
    taught = distillation.lesson_of_change(model, queries(model, QUERIES), known_change(model, 1))
    settled = distillation.distil(model, taught, 100, 0.01, settled=1.1)  # more than there is to gain
    assert settled.steps == 20
    assert torch.isnan(settled.losses[:, 20:]).all()
    assert torch.isfinite(settled.losses[:, :20]).all()
    later = distillation.distil(model, taught, 100, 0.01, settled=0.05)
    gains = [
        (later.losses[0, max(0, i - 21)] - later.losses[0, i - 1]) / later.losses[0, 0] for i in range(20, later.steps + 1, 20)
    ]
    assert 20 < later.steps < 100
    assert gains[-1] < 0.05 <= min(gains[:-1])


def test_a_run_without_anything_to_learn_does_not_keep_the_others():
    model = tiny("gpt2")
    change = known_change(model)
    for delta in change.values():
        delta[1] = 0
    taught = distillation.lesson_of_change(model, queries(model, QUERIES, QUERIES), change)
    found = distillation.distil(model, taught, 100, 0.01, settled=1.1)
    assert found.steps == 20
    share = distillation.reached(model, taught, found.deltas).share
    assert share[0] > 0
    assert not torch.isfinite(share[1])


def test_descent_direction_is_the_negative_gradient_of_the_mean_loss():
    model = tiny("gpt2")
    runs = Sequences.of([DEMONSTRATIONS, DEMONSTRATIONS[::-1]], model.begin)
    found = distillation.descent_direction(model, runs)
    tokens, lengths = runs.tokens[0], runs.lengths[0]
    row_losses(model.logits(tokens), tokens, lengths, runs.context, "all").mean().backward()
    for name, mask in subset(model, "key_value").items():
        expected = -mask * model.network.get_parameter(name).grad
        assert torch.allclose(found[name][0], expected, atol=1e-5)
        assert torch.allclose(found[name][1], expected, atol=1e-5)  # the mean knows no order
    assert norms(found).min() > 0


def test_cosines_of_directions():
    model = tiny("gpt2")
    first, second = (distillation.gaussian_direction(model, 3, np.random.default_rng(seed)) for seed in (0, 1))
    assert torch.allclose(distillation.direction_cosine(first, scaled(first, 2.0)), torch.ones(3).double(), atol=1e-6)
    assert torch.allclose(distillation.direction_cosine(first, scaled(first, -0.1)), -torch.ones(3).double(), atol=1e-6)
    free = sum(mask.sum() for mask in subset(model, "key_value").values()).item()
    assert distillation.direction_cosine(first, second).abs().max() < 5 / free**0.5
    for name, mask in subset(model, "key_value").items():
        assert (first[name][:, mask == 0] == 0).all()

"""Networks side by side: each is what it would be alone."""

import math

import numpy as np
import pytest
import torch

from activation_descent.errors import CheckpointError, DivergedError
from activation_descent.side_by_side import Schedule, Shape, Weights, dense, train

SHAPES = {"first": Shape((3, 4), 1.0), "deep": Shape((4, 2), 0.5, 2), "bias": Shape((1, 2))}


def weights(seeds=(0, 1, 2)):
    return Weights(SHAPES, [np.random.default_rng(seed) for seed in seeds])


def distance(made):
    """A loss whose minimum is another one for each network."""
    return torch.stack([(made["first"][i] - float(i)).square().sum() for i in range(len(made["first"]))])


def test_weights_start_with_their_spread_and_biases_at_zero():
    made = Weights({"wide": Shape((200, 200), 0.5), "bias": Shape((1, 7))}, [np.random.default_rng(0)])
    assert made["wide"].std().item() == pytest.approx(0.5, rel=0.01)
    assert not made["bias"].any()


def test_networks_have_their_own_start_and_layers_belong_to_the_first():
    made = weights()
    assert made["first"].shape == (3, 3, 4)
    assert made["deep"].shape == (2, 4, 2)
    assert torch.equal(made["first"][1], weights((5, 1))["first"][1])
    assert not torch.equal(made["first"][0], made["first"][1])


def test_named_weights_and_the_flat_ones_are_the_same_memory():
    made = weights()
    with torch.no_grad():
        made.flat.fill_(2.0)
    assert all((made[name] == 2).all() for name in SHAPES)


def test_adam_is_pytorchs():
    made, alone = weights(), weights()
    parameters = [alone[name].detach().clone().requires_grad_() for name in SHAPES]
    optimiser = torch.optim.Adam(parameters, lr=0.01, betas=(0.9, 0.98), eps=1e-8)
    x = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))

    def loss(first, deep, bias):
        said = dense(dense(x, first)[:2], deep, bias[:2])
        return said.square().sum() + dense(x, first)[2].sin().sum()

    for step in range(5):
        loss(*(made[name] for name in SHAPES)).backward()
        made.adam(0.01, step)
        optimiser.zero_grad()
        loss(*parameters).backward()
        optimiser.step()
    for name, parameter in zip(SHAPES, parameters, strict=True):
        assert torch.allclose(made[name], parameter, atol=1e-6)


def test_each_network_has_its_own_rate():
    made = weights()
    before = made["first"].detach().clone()
    train(made, lambda step: distance(made), {"a": 0.0, "b": 0.01, "c": 0.02}, Schedule(1, 0, 0.0))
    moved = (made["first"] - before).abs()
    # The first step of Adam is as long as the rate
    assert torch.equal(moved[0], torch.zeros_like(moved[0]))
    assert torch.allclose(moved[1], torch.full_like(moved[1], 0.01), atol=1e-5)
    assert torch.allclose(moved[2], torch.full_like(moved[2], 0.02), atol=1e-5)


def test_schedule_rises_and_falls_in_a_line():
    schedule = Schedule(steps=100, warmup_steps=10, decay_share=0.5)
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(9) == schedule.factor(30) == 1
    assert schedule.factor(75) == pytest.approx(0.5)
    assert schedule.factor(99) == pytest.approx(0.02)


def test_training_resumes_with_the_same_bytes(tmp_path):
    schedule, rates = Schedule(9, 2, 0.5), {"a": 0.01, "b": 0.02, "c": 0.03}
    whole = weights()
    train(whole, lambda step: distance(whole) * (step + 1), rates, schedule, block=2)

    cut, checkpoint = weights(), tmp_path / "checkpoint.safetensors"

    def stops(step):
        if step == 5:
            raise KeyboardInterrupt
        return distance(cut) * (step + 1)

    with pytest.raises(KeyboardInterrupt):
        train(cut, stops, rates, schedule, checkpoint, {"a": 1}, block=2)
    resumed, seen = weights(), []

    def goes_on(step):
        seen.append(step)
        return distance(resumed) * (step + 1)

    told = []
    train(resumed, goes_on, rates, schedule, checkpoint, {"a": 1}, lambda step, values: told.append((step, *values)), block=2)
    assert seen == [4, 5, 6, 7, 8]
    assert told == [(step, "training_loss/a", "training_loss/b", "training_loss/c") for step in (2, 4, 6, 8, 9)]
    assert torch.equal(resumed.flat, whole.flat)
    assert not checkpoint.exists()


def test_a_loss_that_is_not_finite_ends_training():
    made, lost = weights(), torch.tensor([0, math.nan, math.nan])
    with pytest.raises(DivergedError, match="the loss of second is no longer finite at step 2:"):
        train(made, lambda step: distance(made) + lost, {"first": 0.1, "second": 0.1, "third": 0.1}, Schedule(4, 0, 0.0), block=2)


def test_weights_come_back_from_a_file_of_the_same_networks(tmp_path):
    made, path = weights(), tmp_path / "weights.safetensors"
    made.save(path)
    other = weights((7, 8, 9))
    other.load(path)
    assert torch.equal(other.flat, made.flat)
    with pytest.raises(CheckpointError, match="cannot be read"):
        weights((0, 1, 2, 3)).load(path)

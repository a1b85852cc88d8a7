"""Layers against the regression study's network and automatic differentiation; a layer by hand that is a gradient step."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from activation_descent.attention import LAYER_KINDS, OTHERS, layers, transfer
from activation_descent.attention.layers import Layers, Network, Trained
from activation_descent.attention.mixtures import Mixture, Sequences, autoregressive, regression
from activation_descent.errors import DivergedError
from activation_descent.regression.learners import optimal_rate
from activation_descent.regression.transformer import Architecture, predict

MIXTURE = Mixture(width=4, pairs=6, half_range=0.5, noise=0.1, symbols=3, concentration=0.3, period=3)
SETTINGS = Layers(
    seeds=2,
    best_of=3,
    shares=(1.0, 0.5, 0.0),
    others=OTHERS,
    steps=6,
    batch_size=16,
    learning_rate=0.01,
    decay_share=0.4,
    clip_norm=1.0,
    init_scale=0.1,
    block=3,
    tasks=500,
)


def random_layer(seed=0, scale=0.5):
    return scale * torch.from_numpy(np.random.default_rng(seed).standard_normal((4, 8, 8)))


def descent_layer(rate):
    """W_Q W_K^T = diag(I, 0) and W_V W_P = rate diag(0, I)."""
    first, second = torch.zeros(8, 8).double(), torch.zeros(8, 8).double()
    first[:4, :4], second[4:, 4:] = torch.eye(4), torch.eye(4)
    return torch.stack([first, first, second, rate * second])


@pytest.mark.parametrize("attention", LAYER_KINDS)
def test_a_layer_is_the_regression_studys_network(attention):
    layer = random_layer()
    sequences, _ = regression(np.random.default_rng(1), MIXTURE, 20, np.float64)
    said = predict(layer.flatten(), sequences.tokens.permute(2, 1, 0), Architecture(features=8, attention=attention))
    assert torch.allclose(-layers.update(layer[None], attention, sequences)[0, :, -1], said, atol=1e-12)


@pytest.mark.parametrize("attention", LAYER_KINDS)
def test_pairs_that_are_not_visible_change_nothing(attention):
    batch = autoregressive("dynamics", np.random.default_rng(0), MIXTURE, 8, 3, np.float64)
    other = batch.tokens.clone()
    other[:, 3:-1] = 7
    first, second = (
        layers.update(random_layer()[None], attention, Sequences(tokens, batch.visible, batch.target))
        for tokens in (batch.tokens, other)
    )
    assert torch.equal(first, second)
    alone = Sequences(torch.cat([batch.tokens[:, :3], batch.tokens[:, -1:]], 1), torch.ones(8, 3, dtype=torch.bool), batch.target)
    assert torch.allclose(first, layers.update(random_layer()[None], attention, alone), atol=1e-12)


@pytest.mark.parametrize("attention", LAYER_KINDS)
def test_networks_side_by_side_are_networks_alone(attention):
    whole = layers.train(SETTINGS, MIXTURE, attention, 0)
    alone = layers.train(replace(SETTINGS, shares=(1.0,)), MIXTURE, attention, 0)
    assert len(alone.networks) == 2
    for network, weights in zip(alone.networks, alone.weights, strict=True):
        assert torch.allclose(whole.weights[whole.networks.index(network)], weights, atol=1e-5)
    assert len(whole.networks) == 2 * (1 + 3 + 3)
    assert (whole.weights - whole.initial).abs().amax((1, 2, 3)).min() > 1e-3
    again = layers.train(SETTINGS, MIXTURE, attention, 0)
    assert torch.equal(again.weights, whole.weights)


def test_networks_see_their_share():
    networks = layers.networks_of(SETTINGS)
    assert len(networks) == 3 * (1 + 3 + 3)
    shares = {}
    for step in range(30):
        batch = layers.draw_batch(SETTINGS, MIXTURE, "linear", networks, 0, step)
        for network, target in zip(networks, batch.target, strict=True):
            shares.setdefault(network.share, []).append((target[:, 1:] == 0).all(1).double().mean().item())
    assert np.mean(shares[1.0]) == 1
    # Of the others none ends in a target of zeros but a chain in its first symbol, one of four
    assert 0.5 <= np.mean(shares[0.5]) < 0.6
    assert np.mean(shares[0.0]) < 0.12


def test_a_training_that_was_cut_short_ends_in_the_same_numbers(tmp_path):
    whole = layers.train(SETTINGS, MIXTURE, "softmax", 0)
    checkpoint = tmp_path / "layers.safetensors"

    def stop(step, losses):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layers.train(SETTINGS, MIXTURE, "softmax", 0, checkpoint, report=stop)
    assert checkpoint.exists()
    drawn = []
    plain = layers.draw_batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "draw_batch", lambda *given: drawn.append(given[-1]) or plain(*given))
        resumed = layers.train(SETTINGS, MIXTURE, "softmax", 0, checkpoint)
    assert drawn == [3, 4, 5]
    assert torch.equal(resumed.weights, whole.weights)
    assert [*tmp_path.iterdir()] == []


def test_the_best_starts_are_kept():
    networks = layers.networks_of(replace(SETTINGS, shares=(1.0, 0.0), others=("copying",)))
    kept = [*layers._kept(SETTINGS, networks, [3.0, 1.0, 2.0, 0.1, 0.3, 0.2])]
    assert kept == [(1, 0), (2, 1), (3, 0), (5, 1)]


def test_training_lowers_the_loss_and_reports_it():
    reports = []
    settings = replace(SETTINGS, steps=120, block=40, learning_rate=0.02)
    layers.train(settings, MIXTURE, "linear", 0, report=lambda step, losses: reports.append((step, losses)))
    assert [step for step, _ in reports] == [40, 80, 120]
    assert set(reports[0][1]) == {
        "training_loss/regression_1",
        *(f"training_loss/{k}_{p}" for k in OTHERS for p in ("0.5", "0")),
    }
    for name in reports[0][1]:
        assert reports[-1][1][name] < reports[0][1][name]


def test_a_training_that_diverges_says_so():
    with pytest.raises(DivergedError, match=r"training of linear layers diverged before step 3; lower attention\.layers"):
        layers.train(replace(SETTINGS, learning_rate=1e20), MIXTURE, "linear", 0)


# On regression prompts


@pytest.mark.parametrize("attention", LAYER_KINDS)
def test_prediction_and_model_by_automatic_differentiation(attention):
    layer, prompts = random_layer(2), transfer.draw_prompts(MIXTURE, 0, "evaluate", 30)
    readout = torch.from_numpy(np.random.default_rng(3).standard_normal(8))
    found = transfer.answer(layer, attention, prompts, readout)
    tokens = prompts.sequences.tokens.clone().requires_grad_()
    sequences = Sequences(tokens, prompts.sequences.visible, prompts.sequences.target)
    said = (tokens[:, -1] + layers.update(layer[None], attention, sequences)[0]) @ readout
    (slope,) = torch.autograd.grad(said.sum(), tokens)
    assert torch.allclose(found.prediction, said, atol=1e-12)
    assert torch.allclose(found.model, slope[:, -1, :4].T, atol=1e-12)


def test_readout_by_numpy():
    layer, prompts = random_layer(2), transfer.draw_prompts(MIXTURE, 0, "tune", 200)
    states = transfer.final_state(layer, "softmax", prompts.sequences).numpy()
    expected, *_ = np.linalg.lstsq(states, prompts.tasks.target.numpy(), rcond=None)
    assert transfer.fitted_readout(layer, "softmax", prompts).numpy() == pytest.approx(expected, abs=1e-8)


def as_trained(layer, share=0.0, others=OTHERS):
    networks = [Network(share, kind, 0) for kind in others]
    untrained = torch.stack([random_layer(5)] * len(networks))
    return Trained(networks, torch.stack([layer] * len(networks)), untrained)


def test_a_gradient_step_by_hand_is_one():
    rate = optimal_rate(4, 6, 0.5)
    settings = replace(SETTINGS, tasks=4000)
    table = pd.DataFrame(transfer.transfer_records(settings, MIXTURE, "linear", as_trained(descent_layer(rate), 0.5), 0))
    values = table.groupby(["control", "metric"])["value"].first()
    assert values["own_readout", "transfer_loss_ratio"] == pytest.approx(1, abs=1e-9)
    assert values["own_readout", "transfer_cosine"] == pytest.approx(1, abs=1e-6)
    assert values["own_readout", "transfer_difference"] == pytest.approx(0, abs=1e-9)
    # A readout from a sample of 4,000 is off by a hundredth or so
    assert values["refitted", "transfer_loss_ratio"] == pytest.approx(1, abs=0.02)
    assert values["refitted", "transfer_cosine"] > 0.99
    assert values["untrained", "transfer_cosine"] < 0.8
    assert values["untrained", "transfer_loss_ratio"] > 1.2


def test_a_readout_makes_up_for_scale_and_place_but_not_for_another_matrix():
    layer = descent_layer(-0.01)
    rotated = layer.clone()
    rotated[3] = rotated[3] @ torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).standard_normal((8, 8))))[0]
    wrong = layer.clone()
    wrong[0, :4, :4] = torch.from_numpy(np.random.default_rng(1).standard_normal((4, 4)))
    tune, prompts = (transfer.draw_prompts(MIXTURE, 0, purpose, 4000) for purpose in ("tune", "evaluate"))
    descent = transfer.answer(descent_layer(1.0), "linear", prompts, transfer.own_readout(MIXTURE))

    def cosine(layer):
        said = transfer.answer(layer, "linear", prompts, transfer.fitted_readout(layer, "linear", tune))
        return transfer.align(said, descent).cosine

    assert cosine(layer) > 0.99
    assert cosine(rotated) > 0.99
    assert cosine(wrong) < 0.9


def test_regression_alone_is_the_end_of_every_mixture():
    trained = Trained([Network(1.0, "", 0)], descent_layer(1.0)[None], random_layer(5)[None])
    table = pd.DataFrame(transfer.transfer_records(SETTINGS, MIXTURE, "linear", trained, 0))
    assert set(table["variant"]) == {f"linear_{kind}" for kind in OTHERS}
    assert set(table["control"]) == {"own_readout", "refitted", "untrained"}


# On their own sequences


def test_a_unit_step_in_loops():
    batch = autoregressive("dynamics", np.random.default_rng(0), MIXTURE, 10, dtype=np.float64)
    for tokens, visible, said in zip(batch.tokens, batch.visible, transfer.unit_step(batch), strict=True):
        weight = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
        loss = sum(0.5 * (pair[4:] - weight @ pair[:4]).square().sum() for pair in tokens[:-1][visible])
        (slope,) = torch.autograd.grad(loss, weight)
        assert torch.allclose(-slope @ tokens[-1, :4], said, atol=1e-12)


def test_a_gradient_step_by_hand_on_its_growing_context():
    settings = replace(SETTINGS, tasks=3000)
    trained = as_trained(descent_layer(1.0))
    table = pd.DataFrame(transfer.growing_records(settings, MIXTURE, "linear", trained, 0))
    losses = table[table["metric"] == "growing_loss"].pivot_table(
        index=["variant", "context_length"], columns="learner", values="value"
    )
    assert len(losses) == 3 * 6
    cosines = table[table["metric"] == "growing_cosine"]["value"]
    assert cosines.min() > 1 - 1e-9
    # Before a list repeats there is nothing to copy: |target|^2 / 2 has the mean d r^2 / 6
    assert losses.loc[("linear_copying", 1), "none"] == pytest.approx(4 * 0.25 / 6, rel=0.05)
    assert losses.loc[("linear_copying", 6), "gradient_descent"] < 0.8 * losses.loc[("linear_copying", 6), "none"]
    dynamics = losses.loc["linear_dynamics"]
    assert dynamics["gradient_descent"].iloc[-1] < 0.8 * dynamics["gradient_descent"].iloc[0]
    assert math.isclose(dynamics["none"].iloc[0], 4 * 0.25 / 6, rel_tol=0.06)

"""Image classifiers: shapes, what a variant shares, and the measures at both ends of the scale."""

import numpy as np
import pytest
import torch

from activation_descent.errors import DivergedError
from activation_descent.lens.vision import (
    STAGES,
    VARIANTS,
    WIDTH,
    Classifier,
    Trained,
    VisionSettings,
    digits,
    lens_metrics,
    probe_accuracy,
    train,
    train_seed,
    vision_records,
)
from activation_descent.seeding import generator

SETTINGS = VisionSettings(
    epochs=1,
    batch=100,
    learning_rate=0.01,
    test_share=1 / 3,
    lens_steps=60,
    lens_rate=0.01,
    calibration_steps=40,
    probe_penalty=1.0,
)


def stream(purpose):
    return generator(0, "test", "vision", "v", purpose)


def test_digits_are_split_by_class_and_meet_in_no_image():
    known, asked = digits(1 / 3, 0)
    assert (len(known.labels), len(asked.labels)) == (1198, 599)
    assert known.images.shape[1:] == (1, 8, 8)
    assert (known.images.min(), known.images.max()) == (0, 1)
    share = torch.bincount(known.labels) / (torch.bincount(known.labels) + torch.bincount(asked.labels))
    assert share.numpy() == pytest.approx(np.full(10, 2 / 3), abs=0.01)
    total = torch.cat([known.images, asked.images]).flatten(1).unique(dim=0)
    assert len(total) > 1790  # 1,797 images, a few of them twice
    assert not torch.equal(digits(1 / 3, 1)[0].labels, known.labels)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_stage_is_as_wide_as_the_next(variant):
    network = Classifier(variant, stream("network"))
    with torch.no_grad():
        features = network.features(torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
        assert features.shape == (STAGES + 1, 7, WIDTH)
        assert network.logits(features[-1]).shape == (7, 10)
    stages = {id(stage) for stage in network.stages}
    assert len(stages) == (1 if variant == "tied_residual" else STAGES)
    assert len(network.stages) == STAGES


def test_a_residual_network_adds_and_the_other_replaces():
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for variant in VARIANTS:
        network = Classifier(variant, stream("network"))
        with torch.no_grad():
            for parameter in network.stages.parameters():
                parameter.zero_()
            features = network.features(images)
        expected = features[0] if network.residual else torch.zeros(3, WIDTH)
        assert torch.equal(features[-1], expected)


def test_a_stage_is_its_four_branches():
    """The fused convolution against the branches one by one."""
    network = Classifier("inception", stream("network"))
    stage = network.stages[0]
    h = torch.from_numpy(stream("h").standard_normal((2, WIDTH, 4, 4)).astype(np.float32))
    functional = torch.nn.functional
    with torch.no_grad():
        found = stage(h)
        x = functional.group_norm(h, 4, stage.norm.weight, stage.norm.bias)
        weight, bias = stage.entry.weight, stage.entry.bias
        one, three, five = (functional.conv2d(x, weight[part], bias[part]) for part in (slice(8), slice(8, 16), slice(16, 24)))
        # Groups of the inner normalisation do not reach across branches
        three, five = (functional.relu(functional.group_norm(branch, 2)) for branch in (three, five))
        pooled = stage.pooled(functional.max_pool2d(x, 3, 1, 1))
        expected = torch.cat([one, stage.three(three), stage.five(five), pooled], 1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_probe_reads_what_is_linear_and_nothing_from_noise():
    rng = stream("probe")
    labels = torch.from_numpy(rng.integers(3, size=900))
    centres = torch.tensor([[0.0, 4.0], [4.0, 0.0], [-4.0, -4.0]])
    noise = torch.from_numpy(rng.standard_normal((900, 2)).astype(np.float32))
    split = lambda features: (features[:600], labels[:600], features[600:], labels[600:], 1.0)
    assert probe_accuracy(*split(centres[labels] + noise)) > 0.97
    assert probe_accuracy(*split(noise)) < 0.45


def test_training_learns_and_reports_and_the_tied_network_too():
    known, asked = digits(1 / 3, 0)
    for variant in ("inception", "tied_residual"):
        network, losses = Classifier(variant, stream("network")), []
        quick = VisionSettings(5, 64, 0.008, 1 / 3, 1, 0.01, 1, 1.0)
        train(network, known, quick, stream("train"), lambda epoch, loss: losses.append((epoch, loss)))  # noqa: B023
        assert [epoch for epoch, _ in losses] == [1, 2, 3, 4, 5]
        assert losses[-1][1] < 0.6 * losses[0][1]
        with torch.no_grad():
            # Also in evaluation, where a shared BatchNorm would fail
            right = network.eval().logits(network.features(asked.images)[-1]).argmax(1) == asked.labels
        assert right.double().mean() > 0.7


def test_divergence_is_reported():
    network = Classifier("inception", stream("network"))
    with torch.no_grad():
        network.head.bias.fill_(torch.nan)
    with pytest.raises(DivergedError, match="epoch 1"):
        train(network, digits(1 / 3, 0)[0], SETTINGS, stream("train"))


def made(kind):
    """A network's head over features of its own: `constant`, the same at all stages; `fresh`, unrelated at each."""
    known, asked = digits(1 / 3, 0)
    network = Classifier("inception", stream("network"))
    rng = stream(kind)
    codes = [torch.from_numpy(rng.standard_normal((10, WIDTH)).astype(np.float32)) for _ in range(STAGES + 1)]
    if kind == "constant":
        codes = codes[:1] * (STAGES + 1)
    spread = np.linspace(2.0, 0.2, STAGES + 1)
    parts = []
    for part in (known, asked):
        noise = torch.from_numpy(rng.standard_normal((STAGES + 1, len(part.labels), WIDTH)).astype(np.float32))
        noise *= torch.from_numpy(spread.astype(np.float32))[:, None, None]
        parts.append(torch.stack([code[part.labels] for code in codes]) + noise)
    with torch.no_grad():
        network.head.weight.copy_(codes[-1])
    return Trained(network, known, asked, *parts)


def test_one_code_that_gets_clearer_is_shared_and_fresh_codes_gain_nothing():
    one, other = (lens_metrics(kind, [made(kind)], SETTINGS, 0)[0] for kind in ("constant", "fresh"))
    assert one["prior_kl"] > 1
    assert one["shared_information"] > 0.9
    assert one["shared_information"] > one["rotated_information"] + 0.1
    assert one["calibrated_gain"] > 0.5
    assert other["calibrated_gain"] < 0


def test_a_network_that_knows_nothing_has_no_ratios():
    blank = made("constant")
    with torch.no_grad():
        blank.network.head.weight.zero_()
    (found,) = lens_metrics("blank", [blank], SETTINGS, 0)
    assert found == {"prior_kl": pytest.approx(0, abs=1e-6)}


def test_records_of_a_variant():
    seen = []
    rows = list(vision_records("inception_residual", SETTINGS, 0, 2, lambda epoch, values: seen.append(epoch)))
    assert seen == [1, 2]
    assert {row["seed"] for row in rows} == {0, 1}
    value = {(row["seed"], row["metric"], row["layer"]): row["value"] for row in rows}
    assert len(value) == len(rows)
    for seed in (0, 1):
        gain = value[seed, "probe_accuracy", STAGES] - value[seed, "probe_accuracy", 0]
        assert value[seed, "probe_accuracy_gain", -1] == pytest.approx(gain)
    again = train_seed("inception_residual", SETTINGS, 0, 1)
    with torch.no_grad():
        right = again.network.logits(again.test_features[-1]).argmax(1) == again.test.labels
    assert value[1, "image_accuracy", -1] == right.double().mean().item()

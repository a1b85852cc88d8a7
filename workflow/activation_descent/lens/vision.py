"""The lens measures on image classifiers, the negative control: probes that get better with depth where nothing is shared.

A small convolutional network reads scikit-learn's digits (8 x 8 pixels, ten classes). Each of six stages has the form of an Inception
block (Szegedy et al. 2015), four branches of 8 channels side by side, so that all stages are 32 channels wide and one lens fits all:

    1 x 1  |  1 x 1, 3 x 3  |  1 x 1, 5 x 5  |  max pooling, 1 x 1

    inception             h <- relu(stage(h))               no skip connections, no common stream
    inception_residual    h <- h + stage(h)
    tied_residual         h <- h + stage(h), one stage applied six times

Features h_l are the means over the image after each stage, h_0 those of the stem; the head is LayerNorm and a linear map. Normalisation
is by groups: BatchNorm, when shared by the applications of one stage, meets other statistics at each and collapses in evaluation.
Without the LayerNorm the growth of h alone would make a lens of one stage fail at the next.

Probe accuracy that rises with depth is a published fact of such networks (Alain and Bengio 2016, Inception v3).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor, nn

from activation_descent.adam import Adam
from activation_descent.errors import DivergedError
from activation_descent.lens import STUDY
from activation_descent.records import Row
from activation_descent.seeding import generator

EXPERIMENT = "vision"
VARIANTS = ("inception", "inception_residual", "tied_residual")
CLASSES, WIDTH, BRANCH, STAGES = 10, 32, 8, 6
GROUPS = 4
PARTS = 3  # of the training images, which lenses read in turn

Images = Float[Tensor, "image channel y x"]


@dataclass(frozen=True)
class VisionSettings:
    """How networks are trained, and what lenses are fitted with; `config/README.md` explains each setting."""

    epochs: int
    batch: int
    learning_rate: float
    test_share: float
    lens_steps: int
    lens_rate: float
    calibration_steps: int
    probe_penalty: float


# Data


@dataclass(frozen=True)
class Digits:
    """Images with values from 0 to 1 and their classes."""

    images: Images
    labels: Int[Tensor, " image"]


def digits(test_share: float, seed: int) -> tuple[Digits, Digits]:
    """Train and test images, split by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    parts = train_test_split(data.images, data.target, test_size=test_share, stratify=data.target, random_state=seed)
    images = [torch.from_numpy(part.astype(np.float32) / 16)[:, None] for part in parts[:2]]
    labels = [torch.from_numpy(part.astype(np.int64)) for part in parts[2:]]
    return Digits(images[0], labels[0]), Digits(images[1], labels[1])


# Networks


class Stage(nn.Module):
    """Four branches side by side. Maps of 1 x 1 that read the same input are one convolution."""

    def __init__(self, rng: np.random.Generator):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, WIDTH)
        self.entry = _convolution(rng, WIDTH, 3 * BRANCH, 1)
        self.inner = nn.GroupNorm(GROUPS, 2 * BRANCH)
        self.three = _convolution(rng, BRANCH, BRANCH, 3)
        self.five = _convolution(rng, BRANCH, BRANCH, 5)
        self.pooled = _convolution(rng, WIDTH, BRANCH, 1)

    def forward(self, h: Images) -> Images:
        """The four branches on normalised features, one behind the other along the channels."""
        h = self.norm(h)
        one, rest = self.entry(h).split([BRANCH, 2 * BRANCH], 1)
        before_three, before_five = F.relu(self.inner(rest)).chunk(2, 1)
        pooled = self.pooled(F.max_pool2d(h, 3, 1, 1))
        return torch.cat([one, self.three(before_three), self.five(before_five), pooled], 1)


class Classifier(nn.Module):
    """Stem, stages and head of one of `VARIANTS`."""

    def __init__(self, variant: str, rng: np.random.Generator):
        super().__init__()
        self.residual = variant != "inception"
        self.stem = _convolution(rng, 1, WIDTH, 3)
        stages = [Stage(rng) for _ in range(1 if variant == "tied_residual" else STAGES)]
        self.stages = nn.ModuleList(stages * (STAGES // len(stages)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = _linear(rng, WIDTH, CLASSES)

    def features(self, images: Images) -> Float[Tensor, "depth image feature"]:
        """h_0 to h_L, means over the image. The stem halves it, 4 x 4 positions are left."""
        h = F.max_pool2d(F.relu(self.stem(images)), 2)
        found = [h.mean((2, 3))]
        for stage in self.stages:
            h = h + stage(h) if self.residual else F.relu(stage(h))
            found.append(h.mean((2, 3)))
        return torch.stack(found)

    def logits(self, feature: Float[Tensor, "image feature"]) -> Float[Tensor, "image kind"]:
        """LayerNorm and linear map of the last features."""
        return self.head(self.norm(feature))


def _convolution(rng: np.random.Generator, inputs: int, outputs: int, size: int) -> nn.Conv2d:
    module = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    _fill(rng, module, inputs * size**2)
    return module


def _linear(rng: np.random.Generator, inputs: int, outputs: int) -> nn.Linear:
    module = nn.Linear(inputs, outputs)
    _fill(rng, module, inputs)
    return module


def _fill(rng: np.random.Generator, module: nn.Module, inputs: int) -> None:
    """Normal weights with variance 2 / inputs (He et al. 2015)."""
    with torch.no_grad():
        drawn = rng.standard_normal(module.weight.shape, dtype=np.float32) * math.sqrt(2 / inputs)
        module.weight.copy_(torch.from_numpy(drawn))
        module.bias.zero_()


def train(
    network: Classifier,
    data: Digits,
    settings: VisionSettings,
    rng: np.random.Generator,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Adam on the classes, with a rate that falls to zero in a line.

    Args:
        report: called after each epoch with its mean loss in nats.

    Raises:
        DivergedError: if the loss is no longer finite.
    """
    batches = len(data.labels) // settings.batch
    adam = Adam(network.parameters())
    for epoch in range(settings.epochs):
        order, total = torch.from_numpy(rng.permutation(len(data.labels))), 0.0
        for place, chosen in enumerate(order[: batches * settings.batch].view(batches, -1)):
            done = (epoch + place / batches) / settings.epochs
            loss = F.cross_entropy(network.logits(network.features(data.images[chosen])[-1]), data.labels[chosen])
            loss.backward()
            adam.step(settings.learning_rate * (1 - done))
            total += loss.item()
        if not math.isfinite(total):
            raise DivergedError(f"training of an image classifier diverged in epoch {epoch + 1}")
        report(epoch + 1, total / batches)


# Measurements


def probe_accuracy(
    train_features: Float[Tensor, "image feature"],
    train_labels: Int[Tensor, " image"],
    test_features: Float[Tensor, "other feature"],
    test_labels: Int[Tensor, " other"],
    penalty: float,
) -> float:
    """Accuracy on test images of logistic regression on standardised features.

    Args:
        penalty: inverse of scikit-learn's C.
    """
    from sklearn.linear_model import LogisticRegression

    mean, spread = train_features.mean(0), train_features.std(0).clamp(min=1e-6)
    model = LogisticRegression(C=1 / penalty, max_iter=500)
    model.fit(((train_features - mean) / spread).numpy(), train_labels.numpy())
    return float(model.score(((test_features - mean) / spread).numpy(), test_labels.numpy()))


@dataclass
class Trained:
    """One network and its features of train and test images."""

    network: Classifier
    train: Digits
    test: Digits
    train_features: Float[Tensor, "depth image feature"]
    test_features: Float[Tensor, "depth other feature"]


def train_seed(
    variant: str, settings: VisionSettings, root: int, seed: int, report: Callable[[int, float], None] = lambda epoch, loss: None
) -> Trained:
    """Train one network; all variants of a seed see the same split of the images."""
    split = int(generator(root, STUDY, EXPERIMENT, "all", "split", seed).integers(2**31))
    known, asked = digits(settings.test_share, split)
    network = Classifier(variant, generator(root, STUDY, EXPERIMENT, variant, "initialise", seed))
    network = network.to(memory_format=torch.channels_last)  # a quarter faster
    train(network, known, settings, generator(root, STUDY, EXPERIMENT, variant, "train", seed), report)
    with torch.no_grad():
        return Trained(network, known, asked, network.features(known.images), network.features(asked.images))


def vision_records(
    variant: str,
    settings: VisionSettings,
    root: int,
    seeds: int,
    report: Callable[[int, Mapping[str, float]], None] = lambda epoch, values: None,
) -> Iterator[Row]:
    """Accuracy of network and probes, and what lenses say, of all seeds of one variant.

    Args:
        report: called after each epoch of each seed with its loss.
    """
    every = []
    for seed in range(seeds):
        tell = lambda epoch, loss, seed=seed: report(seed * settings.epochs + epoch, {f"training_loss/seed_{seed}": loss})
        every.append(train_seed(variant, settings, root, seed, tell))
    base = {"study": STUDY, "experiment": EXPERIMENT, "variant": variant, "step": 0}
    for seed, one in enumerate(every):
        row = base | {"seed": seed, "layer": -1}
        with torch.no_grad():
            right = one.network.logits(one.test_features[-1]).argmax(1) == one.test.labels
        yield row | {"metric": "image_accuracy", "value": float(right.double().mean())}
        accuracies = [
            probe_accuracy(known, one.train.labels, asked, one.test.labels, settings.probe_penalty)
            for known, asked in zip(one.train_features, one.test_features, strict=True)
        ]
        for stage, accuracy in enumerate(accuracies):
            yield row | {"layer": stage, "metric": "probe_accuracy", "value": accuracy}
        yield row | {"metric": "probe_accuracy_gain", "value": accuracies[-1] - accuracies[0]}
    for seed, metrics in enumerate(lens_metrics(variant, every, settings, root)):
        for metric, value in metrics.items():
            yield base | {"seed": seed, "layer": -1, "metric": metric, "value": value}


def lens_metrics(variant: str, every: Sequence[Trained], settings: VisionSettings, root: int) -> list[dict[str, float]]:
    """Of each seed: `prior_kl` (K0), `shared_information` (S), `rotated_information` (S_rot), `forward_gain` (FG) and `calibrated_gain`.

    Lenses of all seeds are fitted side by side. A ratio that does not exist (K0 below .05 bits, no improvement to share out) is left out.
    """
    from activation_descent.lens import gains, nulls, transfer
    from activation_descent.lens.readout import Batch, Unembedding, readings
    from activation_descent.lens.translators import Fit, Reader, Translators, fit

    unembedding = Unembedding(
        torch.stack([one.network.head.weight * one.network.norm.weight for one in every]).detach(),
        torch.stack([one.network.head.bias + one.network.head.weight @ one.network.norm.bias for one in every]).detach(),
        "layer",
        every[0].network.norm.eps,
    )
    seeds = len(every)
    known, asked = (
        _batch(
            Batch, [getattr(one, f"{part}_features") for one in every], [getattr(one, part).labels for one in every], unembedding
        )
        for part in ("train", "test")
    )

    def batches(step: int) -> Iterator[Batch]:
        chosen = slice(step % PARTS, None, PARTS)  # images stand in random order
        yield Batch(known.states[:, :, chosen], known.final[:, chosen], known.following[:, chosen])

    rng = generator(root, STUDY, EXPERIMENT, variant, "lenses")
    own = lambda states: states
    rotated = nulls.rotated(nulls.rotations(rng, seeds, STAGES, WIDTH))
    readers = {
        name: Reader(Translators.initial(kind, seeds, STAGES, WIDTH, rng), transform)
        for name, kind, transform in (("tuned", "tuned", own), ("shared", "shared", own), ("rotated", "shared", rotated))
    }
    fit(readers, unembedding, batches, Fit("adam", settings.lens_rate, settings.lens_steps))
    only = {"tuned": readers["tuned"]}
    calibration = transfer.calibrate(only, unembedding, batches, Fit("adam", settings.lens_rate, settings.calibration_steps))
    rows = asked.states.shape[2]
    matrix = transfer.matrices(readers["tuned"], unembedding, asked, rows)["divergence"].mean(-1)
    moved = transfer.calibrated(readers["tuned"], calibration["tuned"], unembedding, asked, rows)["divergence"].mean(-1)
    read = {
        name: readings(reader.translators(reader.transform(asked.states)), unembedding, asked)["divergence"]
        .double()
        .mean(-1)
        .numpy()
        for name, reader in readers.items()
    }
    found = []
    for seed, prior in enumerate(transfer.prior(asked).tolist()):
        metrics = {"prior_kl": prior}
        if prior >= gains.KNOWING:
            metrics["shared_information"] = gains.shared_information(prior, read["shared"][seed], read["tuned"][seed])
            metrics["rotated_information"] = gains.shared_information(prior, read["rotated"][seed], read["tuned"][seed])
            metrics["forward_gain"] = gains.forward_gain(matrix[seed])
            metrics["calibrated_gain"] = gains.forward_gain(matrix[seed], moved[seed])
        found.append({name: value for name, value in metrics.items() if math.isfinite(value)})
    return found


def _batch(make: Callable, features: list[Tensor], labels: list[Tensor], unembedding: Any) -> Any:
    """States and predictions of all seeds' images; what "follows" is the class."""
    states = torch.stack(features)
    final = unembedding.logits(states[:, -1:])[:, 0].softmax(-1)
    return make(states[:, :-1], final, torch.stack(labels))

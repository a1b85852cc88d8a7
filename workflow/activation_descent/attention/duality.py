"""The dual form of a layer that was trained by gradient descent (Irie et al. 2022, equation 6; the idea is Aizerman et al.'s, 1964).

A linear layer y = W x inside any network, trained by plain gradient descent with the rate eta, meets training inputs x_1, .., x_T at
which the loss has the derivatives e_t by its output. Each adds -eta e_t x_t^T to the weights, and what the trained layer says is

    W x = W_0 x - eta sum_t e_t (x_t . x):

its initial weights, and unnormalised linear attention over everything that it was trained on, with the training inputs as keys and the
error signals -eta e_t as values. A training example that is met again has a key and a value for each time. Data update = weight update
(`regression.updates`) is the case of one layer in which the data, too, are linear in what is learned.

The classifier here has two such layers, a ReLU between them, and biases, whose keys are 1. All arithmetic is in float64.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float, Int
from torch import Tensor

from activation_descent.attention import STUDY
from activation_descent.records import Row
from activation_descent.seeding import generator

EXPERIMENT = VARIANT = "duality"
CLASSES = 10
SHOWN = 6  # training digits of each kind in the figure

Weights = tuple[Float[Tensor, "hidden pixel"], Float[Tensor, "class hidden_and_one"]]  # biases are their last columns


@dataclass(frozen=True)
class Duality:
    """How the classifier is trained, and what is looked at.

    Attributes:
        hidden: ReLU units.
        epochs, batch_size, learning_rate: of gradient descent on the mean cross-entropy of a batch.
        weight_decay: of the counterexample, whose updates are no longer a sum over training inputs.
        test_digits: digits that are held out.
        attended: training digits that a prediction is said to look at, those with the largest attention.
    """

    seeds: int
    hidden: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    test_digits: int
    attended: int


@dataclass(frozen=True)
class Digits:
    """scikit-learn's digits, 8 x 8 pixels between 0 and 1, with a last input that is 1."""

    training: Float[Tensor, "example pixel"]
    training_labels: Int[Tensor, " example"]
    test: Float[Tensor, "test pixel"]
    test_labels: Int[Tensor, " test"]


@dataclass(frozen=True)
class Layer:
    """What one layer has met: `T` training inputs, with repetitions, and what it was told at each.

    Attributes:
        initial, trained: W_0 and W.
        keys: x_t.
        values: -eta e_t.
    """

    initial: Float[Tensor, "output input"]
    trained: Float[Tensor, "output input"]
    keys: Float[Tensor, "time input"]
    values: Float[Tensor, "time output"]


@dataclass(frozen=True)
class Training:
    """A trained classifier.

    Attributes:
        layers: the hidden and the output layer.
        examples: which training digit was met at each time.
        losses: mean cross-entropy of each epoch, in nats.
    """

    layers: tuple[Layer, Layer]
    examples: Int[Tensor, " time"]
    losses: list[float]


def load_digits(rng: np.random.Generator, test_digits: int) -> Digits:
    """The digits in random order, the last of them held out."""
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    order = rng.permutation(len(labels))
    x = with_one(torch.from_numpy(images[order] / 16))
    y = torch.from_numpy(labels[order].astype(np.int64))
    held = len(y) - test_digits
    return Digits(x[:held], y[:held], x[held:], y[held:])


def with_one(x: Float[Tensor, "example feature"]) -> Float[Tensor, "example feature+1"]:
    """Inputs of a layer with a bias: a last entry of 1."""
    return F.pad(x, (0, 1), value=1.0)


def initial_weights(rng: np.random.Generator, pixels: int, hidden: int) -> Weights:
    """He et al.'s (2015) normal numbers; no bias at first."""

    def normal(outputs: int, inputs: int) -> Tensor:
        weight = torch.from_numpy(rng.standard_normal((outputs, inputs))) * (2 / inputs) ** 0.5
        weight[:, -1] = 0
        return weight

    return normal(hidden, pixels), normal(CLASSES, hidden + 1)


def hidden_inputs(first: Float[Tensor, "hidden pixel"], x: Float[Tensor, "example pixel"]) -> Float[Tensor, "example hidden+1"]:
    """What the output layer reads."""
    return with_one((x @ first.mT).relu())


def train(settings: Duality, digits: Digits, start: Weights, rng: np.random.Generator, weight_decay: float = 0.0) -> Training:
    """Plain gradient descent, batch after batch, keeping what both layers meet.

    Args:
        weight_decay: lambda; weights shrink by eta lambda at each step.
    """
    (first, second), rate = start, settings.learning_rate
    met: list[tuple[Tensor, ...]] = []
    losses = []
    for _ in range(settings.epochs):
        total = 0.0
        for batch in torch.from_numpy(rng.permutation(len(digits.training_labels))).split(settings.batch_size):
            x, label = digits.training[batch], digits.training_labels[batch]
            before = (x @ first.mT).requires_grad_()
            h = with_one(before.relu())
            said = h @ second.mT
            loss = F.cross_entropy(said, label)
            error_1, error_2 = torch.autograd.grad(loss, (before, said))
            total += loss.item() * len(batch)
            h = h.detach()
            first = (1 - rate * weight_decay) * first - rate * error_1.mT @ x
            second = (1 - rate * weight_decay) * second - rate * error_2.mT @ h
            met.append((batch, x, -rate * error_1, h, -rate * error_2))
        losses.append(total / len(digits.training_labels))
    examples, keys_1, values_1, keys_2, values_2 = (torch.cat(part) for part in zip(*met, strict=True))
    layers = (Layer(start[0], first, keys_1, values_1), Layer(start[1], second, keys_2, values_2))
    return Training(layers, examples, losses)


# The dual form


def linear_attention(
    queries: Float[Tensor, "query input"], keys: Float[Tensor, "time input"], values: Float[Tensor, "time output"]
) -> Float[Tensor, "query output"]:
    """Unnormalised: `sum_t (x . x_t) v_t`."""
    return queries @ keys.mT @ values


def dual_form(layer: Layer, x: Float[Tensor, "query input"]) -> Float[Tensor, "query output"]:
    """What the trained layer says, without its trained weights."""
    return x @ layer.initial.mT + linear_attention(x, layer.keys, layer.values)


def dual_gap(layer: Layer, x: Float[Tensor, "query input"]) -> float:
    """Largest difference of a trained layer and its dual form, in standard deviations of what training has changed."""
    trained = x @ layer.trained.mT
    return ((dual_form(layer, x) - trained).abs().max() / (trained - x @ layer.initial.mT).std()).item()


# Which training digits a prediction looks at


def attention_to_examples(
    training: Training, layer: int, x: Float[Tensor, "query input"], number: int
) -> Float[Tensor, "query example"]:
    """Attention of each input of a layer to each of the `number` training digits: `x . x_t`, summed over the times it was met."""
    scores = x @ training.layers[layer].keys.mT
    return torch.zeros(len(x), number, dtype=x.dtype).index_add_(1, training.examples, scores)


def contributions(
    training: Training, x: Float[Tensor, "query hidden_and_one"], outputs: Int[Tensor, " query"], number: int
) -> Float[Tensor, "query example"]:
    """What each training digit adds to one output of the last layer for each input: attention times error signal."""
    layer = training.layers[1]
    scores = (x @ layer.keys.mT) * layer.values[:, outputs].mT
    return torch.zeros(len(x), number, dtype=x.dtype).index_add_(1, training.examples, scores)


def same_class_share(
    attention: Float[Tensor, "query example"],
    classes: Int[Tensor, " query"],
    labels: Int[Tensor, " example"],
    attended: int,
) -> float:
    """Share of the `attended` training digits with the largest attention that have the query's class."""
    looked_at = labels[attention.topk(attended, dim=1).indices]
    return (looked_at == classes[:, None]).double().mean().item()


# Records


def one_seed(settings: Duality, root: int, seed: int) -> tuple[Digits, Training, dict[str, float]]:
    """A trained classifier and its numbers.

    dual_gap, both layers' largest; dual_decay_gap, with weight decay; dual_shuffled_gap, error signals dealt anew among the training
    inputs; test_accuracy; own_class_attention at the output layer, that at the pixels, at an untrained hidden layer, and with the
    training digits' labels dealt anew.
    """

    def stream(purpose: str) -> np.random.Generator:
        return generator(root, STUDY, EXPERIMENT, VARIANT, purpose, seed)

    digits = load_digits(stream("split"), settings.test_digits)
    start = initial_weights(stream("initialise"), digits.training.shape[1], settings.hidden)
    training = train(settings, digits, start, stream("train"))
    decayed = train(settings, digits, start, stream("train"), settings.weight_decay)
    number, labels = len(digits.training_labels), digits.training_labels
    inputs = (digits.test, hidden_inputs(training.layers[0].trained, digits.test))
    said = inputs[1] @ training.layers[1].trained.mT
    predicted = said.argmax(1)

    def own_class(layer: int, x: Tensor, labels: Tensor = labels) -> float:
        return same_class_share(attention_to_examples(training, layer, x, number), predicted, labels, settings.attended)

    untrained = hidden_inputs(start[0], digits.test) @ hidden_inputs(start[0], digits.training).mT
    order = torch.from_numpy(stream("permute").permutation(len(training.examples)))
    dealt = torch.from_numpy(stream("permute").permutation(number))
    layer = training.layers[1]
    shuffled = Layer(layer.initial, layer.trained, layer.keys, layer.values[order])
    decayed_inputs = (digits.test, hidden_inputs(decayed.layers[0].trained, digits.test))
    numbers = {
        "dual_gap": max(dual_gap(*pair) for pair in zip(training.layers, inputs, strict=True)),
        "dual_decay_gap": min(dual_gap(*pair) for pair in zip(decayed.layers, decayed_inputs, strict=True)),
        "dual_shuffled_gap": dual_gap(shuffled, inputs[1]),
        "test_accuracy": (predicted == digits.test_labels).double().mean().item(),
        "own_class_attention": own_class(1, inputs[1]),
        "own_class_attention_pixels": own_class(0, inputs[0]),
        "own_class_attention_untrained": same_class_share(untrained, predicted, labels, settings.attended),
        "own_class_attention_dealt": own_class(1, inputs[1], labels[dealt]),
    }
    return digits, training, numbers


def picture(digits: Digits, training: Training, shown: int, attended: int) -> dict[str, Tensor]:
    """The first test digit of each of `shown` classes, and the training digits that its prediction looks at.

    Returns:
        `image`, `label`, `predicted` of each; `attended_image`, `attended_label` and `attention` of the training digits with the
        largest attention, over the mean of all; `pushing_image`, `pushing_label` and `contribution` of those that move the predicted
        class's output most, in either direction.
    """
    first = [int((digits.test_labels == label).nonzero()[0]) for label in range(shown)]
    x, number = digits.test[first], len(digits.training_labels)
    h = hidden_inputs(training.layers[0].trained, x)
    predicted = (h @ training.layers[1].trained.mT).argmax(1)
    attention = attention_to_examples(training, 1, h, number)
    moved = contributions(training, h, predicted, number)
    most, pushing = attention.topk(attended, dim=1).indices, moved.abs().topk(attended, dim=1).indices
    images = digits.training[:, :-1].reshape(number, 8, 8)
    return {
        "image": x[:, :-1].reshape(shown, 8, 8),
        "label": digits.test_labels[first],
        "predicted": predicted,
        "attended_image": images[most],
        "attended_label": digits.training_labels[most],
        "attention": attention.gather(1, most) / attention.mean(1, keepdim=True),
        "pushing_image": images[pushing],
        "pushing_label": digits.training_labels[pushing],
        "contribution": moved.gather(1, pushing),
    }


def duality_rows(numbers: Mapping[str, float], seed: int) -> Iterator[Row]:
    """Numbers of one seed as rows of records."""
    for metric, value in numbers.items():
        base = {"study": STUDY, "experiment": EXPERIMENT, "variant": VARIANT, "seed": seed}
        yield base | {"metric": metric, "value": value}

"""Sine waves behind a perceptron: the step by hand, and the comparison of two networks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from activation_descent import records
from activation_descent.plotting import style
from activation_descent.regression import alignment, sine, training, transformer
from activation_descent.regression.figures import sine as sine_figure

from .test_training import SETTINGS

LAYER = replace(
    SETTINGS,
    tasks="sine",
    input_dim=1,
    context_length=6,
    half_range=5.0,
    embedding_size=8,
    clip_norm=100.0,
    init_scale=0.5,
    learning_rate=0.01,
    steps=8,
    snapshot_every=4,
)
DESCENT = replace(LAYER, frozen_rate=0.01)
PAIR = (LAYER, DESCENT)


@pytest.fixture(scope="module")
def trained():
    return tuple(training.train(settings, 0, name) for settings, name in zip(PAIR, ("layer", "descent"), strict=True))


@pytest.fixture(scope="module")
def table(trained):
    return records.frame(sine.sine_records(PAIR, trained, 300, 0, "waves"))


def gelu(x):
    """jax's default, the tanh approximation."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_a_frozen_network_is_a_gradient_step_on_its_features(trained):
    """One task at a time in numpy: embed, fit by one gradient step from W = 0, and take off the query's own label."""
    tasks = alignment.evaluation_tasks(DESCENT, 0, "waves", "evaluate", 5)
    vector = trained[1].snapshots[0, -1].double()
    named = {name: tensor.numpy() for name, tensor in transformer.unpack(vector, DESCENT.architecture).items()}
    said = alignment.answer_of_network(vector, tasks, DESCENT.architecture).prediction.numpy()
    by_hand = sine.step_by_hand(vector, tasks, DESCENT).numpy()
    for task in range(5):
        e = tasks.tokens[..., task].numpy().T @ named["embedding"]  # token width
        hidden = gelu(e @ named["embedding_in"] + named["embedding_in_bias"])
        e = e + hidden @ named["embedding_out"] + named["embedding_out_bias"]
        x, y, x_q, y_q = e[:-1, :-1], e[:-1, -1], e[-1, :-1], e[-1, -1]
        w = -0.01 * sum((0 - y_i) * x_i for x_i, y_i in zip(x, y, strict=True))  # gradient of sum (w x_i - y_i)^2 / 2 at w = 0
        assert said[task] == pytest.approx(w @ x_q - y_q, abs=1e-6)  # the frozen rate is stored in single precision
        assert by_hand[task] == pytest.approx(w @ x_q - y_q, abs=1e-12)


def test_slope_correlation_by_hand():
    """Slopes (3, 4) and (4, 3) have a cosine of 24/25, and the same signs."""
    first, second = (alignment.Answer(torch.zeros(2), torch.tensor([slopes])) for slopes in ([3.0, 4.0], [4.0, 3.0]))
    assert sine.slope_correlation(first, second) == pytest.approx(24 / 25)
    assert alignment.align(first, second).cosine == pytest.approx(1)


def test_the_slope_is_the_derivative_by_the_query(trained):
    tasks = alignment.evaluation_tasks(LAYER, 0, "waves", "evaluate", 4)
    vector, step = trained[0].snapshots[0, -1], 1e-6
    slope = alignment.answer_of_network(vector, tasks, LAYER.architecture).model[0]
    ends = []
    for shift in (-step, step):
        tokens = tasks.tokens.clone()
        tokens[0, -1] += shift
        ends.append(transformer.predict(vector.double(), tokens, LAYER.architecture))
    assert torch.allclose(slope, (ends[1] - ends[0]) / (2 * step), rtol=1e-4, atol=1e-7)


def test_functions_pass_through_the_predictions_that_losses_are_made_of(trained, table):
    """At the query of an example task, the drawn function is the network's prediction there."""
    tasks = alignment.evaluation_tasks(LAYER, 0, "waves", "evaluate", 300)
    functions = table[table["level"].notna()]
    for example in range(sine.EXAMPLES):
        rows = functions[functions["condition"] == f"example {example + 1}"]
        context = rows[rows["learner"] == "label"].sort_values("level")
        order = tasks.tokens[0, :-1, example].argsort()
        assert context["level"].tolist() == pytest.approx(tasks.tokens[0, :-1, example][order].tolist())
        assert context["value"].tolist() == pytest.approx(tasks.tokens[1, :-1, example][order].tolist())
        for kind, settings, each in zip(("transformer", "gradient_descent"), PAIR, trained, strict=True):
            said = alignment.answer_of_network(each.snapshots[0, -1], tasks, settings.architecture).prediction[example].item()
            line = rows[(rows["learner"] == kind) & (rows["metric"] == "function_after")].sort_values("level")
            there = np.interp(tasks.tokens[0, -1, example].item(), line["level"], line["value"])
            assert there == pytest.approx(said, abs=2e-3 * max(1.0, line["value"].abs().max()))


def test_records_keep_the_contract_and_statistics_read_the_last_part(trained, table):
    records.check(table, "sine")
    numbers = sine.sine_statistics(table, PAIR, trained, 300, 0, "waves", 0.5)
    assert set(numbers) <= set(records.METRICS)
    assert all(len(values) == 2 for values in numbers.values())
    losses = table[(table["metric"] == "loss") & (table["step"] == 8)].pivot_table(
        index="seed", columns="learner", values="value"
    )
    zero = 0.5 * alignment.evaluation_tasks(LAYER, 0, "waves", "evaluate", 300).target.square().mean().item()
    gap = (losses["transformer"] - losses["gradient_descent"]) / (zero - losses["gradient_descent"])
    assert numbers["sine_loss_gap"] == pytest.approx(gap.to_numpy())
    assert (numbers["sine_construction_difference"] < 1e-5).all()


def test_a_network_is_its_own_ceiling(trained):
    """With the same frozen network on both sides every distance vanishes, save for the control with another task."""
    _, descent = trained
    same = training.Trained(descent.steps, descent.snapshots[:1].repeat(2, 1, 1), descent.losses, descent.start_losses)
    table = records.frame(sine.sine_records((DESCENT, DESCENT), (same, same), 300, 0, "waves"))
    numbers = sine.sine_statistics(table, (DESCENT, DESCENT), (same, same), 300, 0, "waves", 0.5)
    assert numbers["sine_loss_gap"] == pytest.approx(0)
    assert numbers["sine_cosine_margin"] == pytest.approx(0, abs=1e-12)
    ends = table[table["step"] == 8].groupby("metric")["value"]
    for metric in ("model_cosine", "slope_correlation"):
        assert ends.get_group(metric).tolist() == pytest.approx([1] * 4, abs=1e-4)
    assert (numbers["other_task_sine_cosine"] < 0.99).all()


def test_the_figure_names_both_networks(table):
    settings = {"layer": vars(LAYER), "descent": vars(DESCENT)}
    with style():
        figure = sine_figure.draw({"sine": table}, settings, {}, {})
    panels = figure.axes
    assert len(panels) == 5
    assert all(panel.get_title(loc="left") and panel.get_xlabel() and panel.get_ylabel() for panel in panels)
    labels = [label.get_text() for label in panels[0].get_legend().get_texts()]
    assert labels == [
        "context",
        "MLP, trained layer, before",
        "MLP, trained layer, after",
        "MLP, gradient step, before",
        "MLP, gradient step, after",
    ]

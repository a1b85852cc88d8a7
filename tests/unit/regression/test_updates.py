"""Updates of data against updates of weights: numbers by hand, in closed form, or from torch's own modules and optimiser."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from activation_descent.plotting import style
from activation_descent.regression import updates
from activation_descent.regression.figures import updates as update_figure
from activation_descent.seeding import generator

SMALL = updates.Updates(
    seeds=2, tasks=4, steps=6, linear_sizes=((2, 3, 4), (3, 1, 5)), input_dim=3, context_length=4, widths=(8, 32), rate=0.5
)


def stream(purpose, step=0):
    return generator(0, "test", "updates", "v", purpose, step=step)


def both(learner, width=16, tasks=8, rate=0.5, steps=20):
    """f(x_q; W_t) and -y_q^t of a network."""
    problems = updates.draw_problems(stream("evaluate"), tasks, 5, 1, 6)
    f, start = updates.network(learner, stream("initialise", width), tasks, 5, width)
    eta = updates.stable_rate(f, start, problems, rate)
    trained, _ = updates.weight_update(f, start, problems, eta, steps)
    return trained, -updates.data_update(f, start, problems, eta, steps)


def scalar(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1)


def test_two_steps_of_a_linear_model_by_hand():
    # W_0 = 1, one example (2, 6), x_q = 3, eta = .1. Weights: dW = .1 * 4 * 2 = .8, then .1 * 2.4 * 2 = .48.
    # Data: y = 6 - .8 * 2 = 4.4, y_q = -3 - .8 * 3 = -5.4; then dW = .1 * 2.4 * 2 = .48, y_q = -5.4 - 1.44.
    problems = updates.Problems(scalar(2.0, 3.0), scalar(6.0))
    start = (scalar(1.0),)
    arguments = (lambda weights, x: x @ weights[0].mT, start, problems, scalar(0.1), 2)
    trained, losses = updates.weight_update(*arguments)
    assert trained.flatten().tolist() == pytest.approx([3.0, 5.4, 6.84])
    assert losses.tolist() == pytest.approx([8.0, 0.5 * 2.4**2, 0.5 * 1.44**2])
    assert updates.data_update(*arguments).flatten().tolist() == pytest.approx([-3.0, -5.4, -6.84])
    # A query whose target starts at 0 never learns of W_0 x_q = 3
    assert updates.data_update(*arguments, query_start=torch.zeros(1, 1).double()).flatten().tolist() == pytest.approx(
        [0.0, -2.4, -3.84]
    )


def test_two_steps_of_two_linear_layers_by_hand():
    # f = b a x, a = b = 1, one example (1, 2), x_q = 1, eta = .1: both weights move by .1 to f = 1.21, for either update.
    # Weights: a = b = 1.1 + .1 * .79 * 1.1 = 1.1869. Data: y = 2 - .21, dW = .1 * .79, y_q = -1.21 - (1.079^2 - 1).
    problems = updates.Problems(scalar(1.0, 1.0), scalar(2.0))
    arguments = (lambda weights, x: x @ weights[0].mT @ weights[1].mT, (scalar(1.0), scalar(1.0)), problems, scalar(0.1), 2)
    assert updates.weight_update(*arguments)[0].flatten().tolist() == pytest.approx([1.0, 1.21, 1.1869**2])
    assert updates.data_update(*arguments).flatten().tolist() == pytest.approx([-1.0, -1.21, -1.21 - (1.079**2 - 1)])


@pytest.mark.parametrize(("d", "outputs", "n"), [(1, 1, 1), (2, 3, 4), (10, 1, 10), (5, 2, 30), (12, 8, 45), (20, 5, 10)])
def test_data_update_is_weight_update_for_a_linear_model(d, outputs, n):
    problems = updates.draw_problems(stream("evaluate"), 5, d, outputs, n)
    f, start = updates.linear_model(stream("initialise"), 5, d, outputs)
    eta = updates.stable_rate(f, start, problems, 0.5)
    trained, losses = updates.weight_update(f, start, problems, eta, 50)
    targets = updates.data_update(f, start, problems, eta, 50)
    assert (trained[0].abs() > 1e-3).any()  # W_0 is not 0
    assert losses[-1] < 0.5 * losses[0]
    assert torch.allclose(targets, -trained, rtol=0, atol=1e-6)
    # Closed form with S = sum_i x_i x_i^T / N: the context's answers follow y + (I - eta K)^t (W_0 X - y)
    for task in range(5):
        x, y, w = problems.points[task, :-1].numpy(), problems.labels[task].numpy(), start[0][task].numpy()
        decay = np.eye(d) - eta[task].item() * x.T @ x / n
        drive = eta[task].item() * y.T @ x / n
        for _ in range(50):
            w = w @ decay + drive
        assert -targets[-1, task].numpy() == pytest.approx(w @ problems.points[task, -1].numpy(), abs=1e-10)


def test_rate_of_a_linear_model_is_relative_to_the_largest_eigenvalue():
    problems = updates.draw_problems(stream("evaluate"), 4, 3, 2, 7)
    f, start = updates.linear_model(stream("initialise"), 4, 3, 2)
    x = problems.points[:, :-1].numpy()
    largest = [np.linalg.eigvalsh(each.T @ each / 7)[-1] for each in x]
    assert updates.stable_rate(f, start, problems, 0.5).flatten().numpy() == pytest.approx(0.5 / np.array(largest))


def kernel(start, x, phi, slope):
    """The tangent kernel of one task's hidden layer, written out: output weights' part and input weights' part."""
    a, b = start[0].numpy(), start[1].numpy()[0]
    z = x @ a.T / math.sqrt(x.shape[1])
    return (phi(z) @ phi(z).T + x @ x.T / x.shape[1] * ((slope(z) * b) @ (slope(z) * b).T)) / len(b)


@pytest.mark.parametrize(
    ("learner", "phi", "slope"),
    [
        ("tanh", np.tanh, lambda z: 1 - np.tanh(z) ** 2),
        ("relu", lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
        ("deep_linear", lambda z: z, np.ones_like),
        ("readout", np.tanh, np.zeros_like),
    ],
)
def test_small_steps_on_data_are_descent_with_the_first_kernel(learner, phi, slope):
    """For eta -> 0 the data update is gradient descent on the linearised network: f_q + eta/N sum_s k_q (I - eta K/N)^s (y - f)."""
    problems = updates.draw_problems(stream("evaluate"), 3, 5, 1, 6)
    f, start = updates.network(learner, stream("initialise"), 3, 5, 12)
    eta = updates.stable_rate(f, start, problems, 1e-4)
    targets = updates.data_update(f, start, problems, eta, 30)
    before = f(start, problems.points)[..., 0].numpy()
    for task in range(3):
        layers = [w[task] for w in start]
        if learner == "readout":  # its input layer stands in the function; the stream's first numbers are its weights
            first = stream("initialise").standard_normal((3, 12, 5))[task]
            layers.insert(0, torch.from_numpy(first))
        k = kernel(layers, problems.points[task].numpy(), phi, slope)
        rate = eta[task].item()
        assert rate == pytest.approx(1e-4 / np.linalg.eigvalsh(k[:-1, :-1] / 6)[-1])
        residual, change = problems.labels[task, :, 0].numpy() - before[task, :-1], 0.0
        for _ in range(30):
            change += rate / 6 * k[-1, :-1] @ residual
            residual = residual - rate / 6 * k[:-1, :-1] @ residual
        assert -targets[-1, task, 0].item() - before[task, -1] == pytest.approx(change, rel=5e-3)


@pytest.mark.parametrize(
    ("learner", "layer"), [("tanh", torch.nn.Tanh), ("relu", torch.nn.ReLU), ("deep_linear", torch.nn.Identity)]
)
def test_both_loops_against_torch_modules(learner, layer):
    """One task, with `torch.nn` for the network and `torch.optim.SGD` for the steps."""
    problems = updates.draw_problems(stream("evaluate"), 1, 5, 1, 6)
    f, start = updates.network(learner, stream("initialise"), 1, 5, 12)
    eta = updates.stable_rate(f, start, problems, 1.0)
    x, y = problems.points[0], problems.labels[0]

    class Scale(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, z):
            return z * self.factor

    module = torch.nn.Sequential(
        Scale(1 / math.sqrt(5)),
        torch.nn.Linear(5, 12, bias=False),
        layer(),
        Scale(1 / math.sqrt(12)),
        torch.nn.Linear(12, 1, bias=False),
    ).double()

    def reset():
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), start, strict=True):
                parameter.copy_(value[0])

    def step(labels):
        optimiser = torch.optim.SGD(module.parameters(), lr=eta.item())
        optimiser.zero_grad()
        (0.5 * torch.nn.functional.mse_loss(module(x[:-1]), labels)).backward()
        optimiser.step()

    reset()
    trained = [module(x[-1:]).item()]
    for _ in range(12):
        step(y)
        trained.append(module(x[-1:]).item())
    reset()
    before = module(x).detach()
    targets = torch.cat([y, -before[-1:]])
    history = [targets[-1].item()]
    for _ in range(12):
        reset()
        step(targets[:-1])
        targets = targets - (module(x).detach() - before)
        history.append(targets[-1].item())
    assert updates.weight_update(f, start, problems, eta, 12)[0].flatten().tolist() == pytest.approx(trained, abs=1e-10)
    assert updates.data_update(f, start, problems, eta, 12).flatten().tolist() == pytest.approx(history, abs=1e-10)


@pytest.mark.parametrize("learner", updates.ACTIVATIONS)
def test_the_first_step_is_the_same_for_every_model_and_the_second_only_for_a_linear_one(learner):
    trained, said = both(learner)
    assert (trained[1] - trained[0]).abs().mean() > 0.01
    assert torch.allclose(said[:2], trained[:2], rtol=0, atol=1e-12)
    second = (said[2] - trained[2]).abs().max()
    assert second > 1e-4 if learner in updates.BOTH_LAYERS else second < 1e-12


def test_a_network_whose_output_layer_alone_trains_is_a_linear_model():
    trained, said = both("readout", steps=50)
    assert torch.allclose(said, trained, rtol=0, atol=1e-6)
    assert (trained[-1] - trained[0]).abs().mean() > 0.1


@pytest.mark.parametrize("learner", updates.BOTH_LAYERS)
def test_the_gap_shrinks_with_the_width_at_least_as_its_bound(learner):
    """256 times the width: O(width^-1/2) is a factor of 16; 32 tasks leave a gap's mean uncertain by less than 2."""
    narrow, wide = ((a - b)[-1].abs().mean().item() for a, b in (both(learner, w, tasks=32) for w in (8, 2048)))
    assert wide < narrow / 8


def test_problems_and_weights_have_variance_one():
    problems = updates.draw_problems(stream("evaluate"), 4000, 10, 2, 5)
    assert problems.labels.var().item() == pytest.approx(1.0, abs=0.06)  # five standard errors of 8,000 teachers
    f, start = updates.linear_model(stream("initialise"), 4000, 10, 2)
    assert f(start, problems.points).var().item() == pytest.approx(1.0, abs=0.06)


def test_records_hold_each_number_once_and_again():
    table = pd.DataFrame(updates.update_records(SMALL, 0))
    assert not table.drop(columns="value").duplicated().any()
    assert table["value"].notna().all()
    # 2 seeds, 6 steps, 3 metrics; 2 sizes shifted and not, 4 networks of 2 widths
    assert len(table) == 2 * 6 * 3 * (2 * 2 + 4 * 2)
    pd.testing.assert_frame_equal(table, pd.DataFrame(updates.update_records(SMALL, 0)))
    other = pd.DataFrame(updates.update_records(SMALL, 1))
    gaps = (table["metric"] == "update_gap") & table["learner"].isin(updates.BOTH_LAYERS) & (table["step"] > 1)
    assert (table["value"] != other["value"])[gaps].all()
    by_seed = table[gaps].set_index([*table.columns.drop(["value", "seed"]), "seed"])["value"].unstack()
    assert (by_seed[0] != by_seed[1]).all()


def test_statistics_of_a_run():
    found = updates.update_statistics(pd.DataFrame(updates.update_records(SMALL, 0)))
    assert all(len(values) == 2 for values in found.values())
    for metric in ("linear_update_gap", "readout_update_gap", "first_step_update_gap"):
        assert found[metric].max() < 1e-12
    # |W_0 x_q| of a normal variable of variance 1, the largest of 16
    assert found["unshifted_update_gap"].min() > 0.5
    assert found["largest_update_loss_ratio"].max() < 1


def power_law(exponents, widths=(16, 64, 256), scale=2.0):
    """A table in which each network's gap is scale * width^exponent at the last of two steps and 9 at the first."""
    rows = [
        {"seed": seed, "step": step, "learner": learner, "width": width, "metric": metric, "value": value}
        for learner, by_seed in exponents.items()
        for seed, exponent in enumerate(by_seed)
        for width in widths
        for step, value in ((1, 9.0), (2, scale * width**exponent))
        for metric in ("update_gap", "update_difference", "update_loss_ratio")
    ]
    for learner in ("linear", "readout", "unshifted"):
        rows += [{**row, "learner": learner, "width": 0, "value": 1e-15} for row in rows if row["learner"] == "tanh"]
    return pd.DataFrame(rows).drop_duplicates(["seed", "step", "learner", "width", "metric"])


def test_statistics_by_hand():
    found = updates.update_statistics(power_law({"tanh": (-1.0, -0.9), "relu": (-0.75, -0.8), "deep_linear": (-1.0, -0.5)}))
    assert found["update_gap_slope"] == pytest.approx([-0.75, -0.5])
    assert found["tanh_update_gap"] == pytest.approx([2 / 16, 2 * 16**-0.9])
    assert found["relu_update_gap"] == pytest.approx([2 / 8, 2 * 16**-0.8])
    assert found["wide_update_gap"] == pytest.approx([2 * 256**-0.75, 2 / 16])
    assert found["first_step_update_gap"] == pytest.approx([9.0, 9.0])  # of all models; "unshifted" does not count
    assert found["largest_update_loss_ratio"] == pytest.approx([2 * 16**-0.75, 2 / 4])


def test_one_width_has_no_slope():
    with pytest.raises(ValueError, match="two widths"):
        updates.update_statistics(power_law({learner: (-1.0,) for learner in updates.BOTH_LAYERS}, widths=(16,)))


def test_settings_from_lists():
    listed = {"seeds": 2, "tasks": 4, "steps": 6, "linear_sizes": [[2, 3, 4], [3, 1, 5]], "input_dim": 3, "context_length": 4}
    assert updates.Updates.from_settings(listed | {"widths": [8, 32], "rate": 0.5}) == SMALL


def test_the_figure_tells_the_slopes():
    slopes = {"tanh": (-1.0, -1.0), "relu": (-0.75, -0.75), "deep_linear": (-1.0, -1.0)}
    with style():
        figure = update_figure.draw({"updates": power_law(slopes)}, {}, {}, {})
    panels = figure.axes
    assert [label.get_text() for label in panels[2].get_legend().get_texts()] == [
        "ReLU network, slope −0.75",
        "tanh network, slope −1.00",
        "two linear layers, slope −1.00",
    ]
    assert all(panel.get_title(loc="left") and panel.get_xlabel() and panel.get_ylabel() for panel in panels)

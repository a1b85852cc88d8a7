import numpy as np
import pytest
import torch
from scipy.stats import kstest, uniform

from activation_descent.regression.closed_forms import uniform_moments
from activation_descent.regression.tasks import (
    fill_uniform,
    linear_tasks,
    other_distribution_tasks,
    sine_tasks,
    with_noisy_labels,
)
from activation_descent.seeding import generator


def tasks(number=4000, **changes):
    settings = {"input_dim": 10, "context_length": 10, "half_range": 0.5, "dtype": float} | changes
    return linear_tasks(generator(0, "test", "tasks", "v", "draw"), number, **settings)


@pytest.mark.parametrize("half_range", [0.5, 1.0])
def test_inputs_have_the_moments_of_the_uniform_distribution(half_range):
    x = tasks(half_range=half_range).inputs
    variance, fourth = uniform_moments(half_range)
    assert x.min() >= -half_range
    assert x.max() <= half_range
    # 400,000 draws: relative standard errors of .14 % and .21 %
    assert x.square().mean().item() == pytest.approx(variance, rel=0.007)
    assert x.pow(4).mean().item() == pytest.approx(fourth, rel=0.011)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [200_001, 200_000])
def test_uniform_numbers_are_uniform_and_independent(dtype, size):
    out = np.full(size, np.nan, dtype)
    fill_uniform(generator(0, "test", "tasks", "v", "uniform"), out, 0.5)
    assert kstest(out, uniform(-0.5, 1.0).cdf).pvalue > 0.001
    assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 5 / np.sqrt(size)  # the two halves of a word
    assert len(np.unique(out)) > 0.98 * size  # float32 has 2^24 values here and more near zero


def test_moments_by_hand():
    assert uniform_moments(1.0) == (1 / 3, 1 / 5)
    assert uniform_moments(0.5) == (1 / 12, 1 / 80)


def test_labels_are_linear_in_the_inputs_with_one_weight_a_task():
    batch = tasks(number=50, context_length=25)
    x, y = batch.inputs.permute(2, 1, 0), batch.labels.T.unsqueeze(-1)
    weight = torch.linalg.lstsq(x, y).solution
    assert torch.allclose(x @ weight, y, atol=1e-12)
    assert torch.allclose((batch.query * weight.squeeze(-1).T).sum(0), batch.target, atol=1e-12)


def test_weights_are_standard_normal():
    x, y = tasks(number=4000, context_length=25).inputs, tasks(number=4000, context_length=25).labels
    weight = torch.linalg.lstsq(x.permute(2, 1, 0), y.T.unsqueeze(-1)).solution
    assert weight.mean().item() == pytest.approx(0, abs=5 / np.sqrt(40000))
    assert weight.var().item() == pytest.approx(1, abs=5 * np.sqrt(2 / 40000))


def test_weight_scale_scales_the_labels():
    assert torch.allclose(tasks(weight_scale=3.0).labels, 3 * tasks().labels)


def test_the_query_is_last_and_has_no_label():
    batch = tasks(number=5)
    assert batch.tokens.shape == (11, 11, 5)
    assert (batch.tokens[-1, -1] == 0).all()
    assert (batch.target != 0).all()


@pytest.mark.parametrize(
    "change", [{"number": 0}, {"input_dim": 0}, {"context_length": 0}, {"half_range": 0.0}, {"weight_scale": -1.0}]
)
def test_impossible_sizes_are_refused(change):
    with pytest.raises(ValueError, match="need"):
        tasks(**change)


def waves(shared):
    rng = generator(0, "test", "tasks", "v", "sine")
    return sine_tasks(rng, 20_000, 200, 5.0, (0.1, 0.5), shared, float)


@pytest.mark.parametrize("shared", [False, True])
def test_sine_waves_have_their_amplitudes_and_phases(shared):
    """a and rho recovered by least squares on sin x and cos x: y = a cos(rho) sin x + a sin(rho) cos x."""
    batch = waves(shared)
    x, y = batch.inputs[0].T[:500], batch.labels.T[:500]
    basis = torch.stack([x.sin(), x.cos()], dim=-1)  # task example 2
    solution = torch.linalg.lstsq(basis, y.unsqueeze(-1)).solution.squeeze(-1)
    a, rho = solution.norm(dim=1), torch.atan2(solution[:, 1], solution[:, 0])
    assert torch.allclose((basis @ solution.unsqueeze(-1)).squeeze(-1), y, atol=1e-9)
    assert a.min() > 0.1
    assert a.max() < 0.5
    assert rho.min() > 0
    assert rho.max() < np.pi
    correlation = np.corrcoef(a, rho)[0, 1]
    assert correlation == pytest.approx(1.0) if shared else abs(correlation) < 5 / np.sqrt(500)


def test_zero_predictor_on_the_published_sine_waves():
    """0.5 E[a^2] E[sin^2(x + rho)]: the authors' tasks have a loss of .0267 for the zero predictor."""
    assert 0.5 * waves(True).target.square().mean().item() == pytest.approx(0.0267, rel=0.06)  # 20,000 tasks, 5 SE


def test_other_distributions_are_a_third_each_and_have_the_asked_for_norm():
    batch = other_distribution_tasks(generator(0, "test", "tasks", "v", "other"), 6000, 10, 10, 2.0)
    x = batch.inputs
    assert torch.allclose(x.norm(dim=(0, 1)), torch.full((6000,), 2.0, dtype=torch.float64))
    exponential = (x >= 0).all(0).all(0).double().mean().item()
    assert exponential == pytest.approx(1 / 3, abs=5 * np.sqrt(2 / 9 / 6000))
    weight = torch.linalg.solve(x.permute(2, 1, 0), batch.labels.T.unsqueeze(-1)).squeeze(-1).T
    assert ((weight * batch.query).sum(0) - batch.target).abs().median() < 1e-9


@pytest.mark.parametrize("number", [0, 4, 10])
def test_noisy_labels_replace_as_many_as_asked(number):
    clean = tasks(number=3000)
    noisy = with_noisy_labels(generator(0, "test", "tasks", "v", "noise"), clean, number)
    changed = clean.labels != noisy.labels
    assert (changed.sum(0) == number).all()
    assert torch.equal(noisy.inputs, clean.inputs)
    assert torch.equal(noisy.target, clean.target)
    assert (noisy.tokens[-1, -1] == 0).all()
    if number == 4:
        assert noisy.labels[changed].std().item() == pytest.approx(1.0, rel=5 / np.sqrt(2 * 12000))
        assert changed.double().mean(1).numpy() == pytest.approx(np.full(10, 0.4), abs=5 * np.sqrt(0.24 / 3000))

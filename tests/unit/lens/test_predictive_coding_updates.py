"""D1 and D3: what regression of updates says of predictions whose law is known."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)

from activation_descent.lens import update_regression
from activation_descent.lens.error_correction import bigram_documents, shared_table
from activation_descent.lens.update_regression import COLUMNS, CONTROLS, DRIVES, KERNELS, kernels, products, readability, regress
from activation_descent.seeding import generator

WORDS, LENGTH, LAYERS, NOISE = 20, 64, 4, 0.05


def stream(purpose):
    return generator(0, "test", "update_regression", "v", purpose)


def synthetic_predictions(tokens, first, kernels, layers, error_share, noise):
    """Log-probabilities at each layer of `c += sum_k eta_k alpha^k (e(x_{s+1}) - error_share p_s) + noise`.

    Args:
        first: c before the first layer.
        kernels: pairs of eta and alpha, whose rows are positions t and whose columns positions s < t.
        error_share: lambda; 1 corrects errors, 0 copies what followed.
        noise: draws what is added at each layer.
    """
    following = F.pad(F.one_hot(tokens[:, 1:], first.shape[-1]).to(first.dtype), (0, 0, 0, 1))
    found = [first]
    for _ in range(layers):
        error = following - error_share * found[-1].softmax(-1)
        found.append(found[-1] + sum(rate * kernel @ error for rate, kernel in kernels) + noise(first.shape))
    return torch.stack(found).log_softmax(-1)


def made(rates, error_share, purpose="made", rows=48):
    """Tokens and predictions of a stream that obeys the law with known rates of the kernels."""
    rng = stream(purpose)
    tokens = torch.from_numpy(bigram_documents(rng, shared_table(rng, WORDS), rows, LENGTH, 3.0))
    first = torch.from_numpy(rng.standard_normal((WORDS, WORDS)))[tokens]
    every = [(rate, kernel.double()) for rate, kernel in zip(rates, kernels(tokens).values(), strict=True)]
    noise = lambda shape: NOISE * torch.from_numpy(rng.standard_normal(shape))
    return tokens, synthetic_predictions(tokens, first, every, LAYERS, error_share, noise)


def fitted(tokens, log_p, layer, other_context=False, controls=CONTROLS):
    unigram = (torch.bincount(tokens.flatten(), minlength=WORDS) + 1).double().log()
    return regress(products(log_p, tokens, layer, unigram, other_context).sum((0, 1)), controls)


def test_synthetic_predictions_by_hand():
    tokens = torch.tensor([[0, 1, 0]])
    kernel = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0.5, 0.5, 0]]])
    first = torch.zeros(1, 3, 2)
    copied = synthetic_predictions(tokens, first, [(2.0, kernel)], 1, 0.0, lambda shape: torch.zeros(shape))
    corrected = synthetic_predictions(tokens, first, [(2.0, kernel)], 1, 1.0, lambda shape: torch.zeros(shape))
    # What followed position 0 is word 1, what followed position 1 is word 0; p is 1/2 throughout
    assert torch.allclose(copied[1, 0], torch.tensor([[0.0, 0], [0, 2], [1, 1]]).log_softmax(-1))
    assert torch.allclose(corrected[1, 0], torch.tensor([[0.0, 0], [-1, 1], [0, 0]]).log_softmax(-1))
    assert torch.allclose(copied[0, 0], torch.full((3, 2), math.log(0.5)))


@pytest.mark.parametrize("layer", range(1, LAYERS))
@pytest.mark.parametrize("error_share", [1.0, 0.0, 0.5])
def test_lambda_of_the_law_is_found(error_share, layer):
    """1 for predictive coding, 0 for copying; the specification's tolerance."""
    found = fitted(*made((0.8, 0.0), error_share), layer)
    assert found.error_ratio[0].item() == pytest.approx(error_share, abs=0.05)
    assert found.weights[0].item() == pytest.approx(0.8, abs=0.05)
    assert found.weights[2:].abs().max() < 0.1
    assert found.gain > 0.2
    assert found.kernel_gain[0] > 5 * found.kernel_gain[1]


def test_each_kernel_has_its_own_lambda():
    found = fitted(*made((0.6, 0.9), 1.0), 2)
    assert found.weights.numpy() == pytest.approx([0.6, -0.6, 0.9, -0.9], abs=0.06)
    assert found.error_ratio.numpy() == pytest.approx([1, 1], abs=0.05)


def test_another_documents_context_explains_little():
    tokens, log_p = made((0.8, 0.0), 1.0)
    own, other = fitted(tokens, log_p, 2), fitted(tokens, log_p, 2, other_context=True)
    assert abs(other.weights[0]) < 0.2 * own.weights[0]
    # Predictions at the same word say something of it in whatever document, hence not nothing
    assert other.gain < 0.25 * own.gain


def test_no_drive_no_gain():
    found = fitted(*made((0.0, 0.0), 1.0), 1)
    assert abs(found.gain) < 0.001
    # In units in which the law's rates are about 1
    assert found.weights.abs().max() < 0.02


def test_halves_of_documents_add_up_to_the_columns_products():
    """One document, by plain loops over positions and words."""
    tokens, log_p = made((0.8, 0.3), 1.0, rows=2)
    unigram = torch.linspace(-1, 1, WORDS).double()
    found = products(log_p, tokens, 1, unigram)[0]
    x, p, alpha = tokens[0].tolist(), log_p[1, 0].exp(), {name: kernel[0] for name, kernel in kernels(tokens).items()}
    halves = [np.zeros((len(COLUMNS), len(COLUMNS))) for _ in range(2)]
    positions = range(update_regression.FIRST_POSITION, LENGTH)
    for t in positions:
        rows = {name: np.zeros(WORDS) for name in DRIVES}
        for name in KERNELS:
            for s in range(t):
                weight = alpha[name][t, s].item()
                rows[f"{name}_followed"][x[s + 1]] += weight
                rows[f"{name}_predicted"] += weight * p[s].numpy()
        rows |= {
            "own": log_p[1, 0, t].numpy(),
            "own_probability": p[t].numpy(),
            "token": np.eye(WORDS)[x[t]],
            "unigram": unigram.numpy(),
            "first": log_p[0, 0, t].numpy(),
            "update": (log_p[2] - log_p[1])[0, t].numpy(),
        }
        columns = np.stack([rows[name] - rows[name].mean() for name in COLUMNS])
        halves[t >= positions.start + len(positions) // 2] += columns @ columns.T
    assert found.numpy() == pytest.approx(np.stack(halves), abs=1e-5)


def test_kernels_by_hand():
    found = kernels(torch.tensor([[3, 1, 3, 3]]))
    assert found["same"][0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0.5, 0, 0.5, 0]]
    third = pytest.approx(1 / 3)
    assert found["uniform"][0].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0], [third, third, third, 0]]
    other = kernels(torch.tensor([[3, 1, 3, 3]]), torch.tensor([[1, 3, 3, 1]]))
    assert other["same"][0].tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0.5, 0.5, 0]]


def test_regression_agrees_with_scikit_learn():
    from sklearn.linear_model import Ridge

    rng = stream("ridge")
    mixed = rng.standard_normal((len(COLUMNS), len(COLUMNS)))
    data = rng.standard_normal((500, len(COLUMNS))) @ mixed
    found = regress(torch.from_numpy(data.T @ data))
    names = [COLUMNS.index(name) for name in (*DRIVES, *CONTROLS)]
    x, y = data[:, names], data[:, -1]
    length = np.sqrt((x**2).sum(0))
    full, alone = (Ridge(alpha=1e-4, fit_intercept=False).fit((x / length)[:, use], y) for use in (slice(None), slice(4, None)))
    assert found.weights.numpy() == pytest.approx(full.coef_[:4] / length[:4], rel=1e-6)
    left = [
        np.square(y - model.predict((x / length)[:, use])).sum() for model, use in ((full, slice(None)), (alone, slice(4, None)))
    ]
    assert found.gain.item() == pytest.approx((left[1] - left[0]) / np.square(y).sum(), abs=1e-9)


def test_readability_by_hand():
    """Two words; p^0 even, p^1 certain in all but one place."""
    log_p = torch.tensor([[0.5, 0.5], [0.8, 0.2]], dtype=torch.float64).log()[:, None, None].expand(2, 1, 3, 2)
    found = readability(log_p, torch.tensor([[0, 0, 1]]))
    assert found["divergence"].tolist() == pytest.approx([0.8 * math.log2(1.6) + 0.2 * math.log2(0.4), 0])
    assert found["cross_entropy"].tolist() == pytest.approx([1, -(math.log2(0.8) + math.log2(0.2)) / 2])
    assert found["accuracy"].tolist() == pytest.approx([0.5, 0.5])

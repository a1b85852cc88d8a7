"""The free numbers of the learners that networks are held against, fitted on a stream of fresh contexts.

The loss of a learner with many steps grows with a high power of the largest eigenvalue, so that a fit on ten thousand fixed contexts
does well on them and without bound worse on others; and GD++ with a pair of numbers a step has several local optima (the authors'
single start ends at .104 for two steps, the optimum is .092). Hence fresh contexts at every step, clipped gradients, several starts, a
choice among them on contexts of its own, and losses that are reported on others again.

What is minimised is the mean over contexts of the expected loss of each, relative to that of w = 0. Above `BOUND` a context counts by
its logarithm: a divergence pushes the numbers back whatever its size, and does not drown all other contexts.

Every learner is fitted for inputs U(-0.5, 0.5); for another range h its rates and gammas are divided by (2 h)^2.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.regression.closed_forms import PUBLISHED_GAMMAS, optimal_rate, uniform_moments
from activation_descent.regression.recursion import Spectra, newton_residuals, residuals, ridge_residuals, spectra, task_losses
from activation_descent.seeding import generator

HALF_RANGE = 0.5
BOUND = 100.0  # times the loss of w = 0: about the loss of a prediction that is clipped at 10, as the published networks are
LADDER = ("gradient_descent", "gradient_descent_per_step", "gd_plus_plus", "gd_plus_plus_per_layer")


@dataclass(frozen=True)
class Fitting:
    """How learners are fitted; values in `config/config.yaml`.

    Attributes:
        seeds: replications, each with a stream and starts of its own; all are judged on the same contexts.
        steps_of: K for each family.
        context_lengths: N at which GD++ with two steps is fitted, too, in `steps_elsewhere` steps.
        starts: of each learner but gradient descent with one rate, whose loss is convex in it.
        steps, batch_size, learning_rate, clip_norm: of Adam on the logarithms; the rate falls to zero along a cosine, and the clip is
            on the gradient of each start.
        selection_tasks, evaluation_tasks: contexts on which a start is chosen, and on which its losses are reported.
    """

    seeds: int
    input_dim: int
    context_length: int
    steps_of: Mapping[str, Sequence[int]]
    context_lengths: Sequence[int]
    starts: int
    steps: int
    steps_elsewhere: int
    batch_size: int
    learning_rate: float
    clip_norm: float
    selection_tasks: int
    evaluation_tasks: int


@dataclass(frozen=True)
class Fitted:
    """A learner with its numbers, all for the same input range.

    Attributes:
        rates, gammas: of each step; rates are per example, eta / N. The last gamma moves no prediction and is 0 where it would be
            a number of its own.
        loss: mean over the held-out contexts, none of which counts more than `BOUND` times the loss of w = 0.
        mean_loss, median_loss: without that bound. The mean of a deep learner may hang on a single context.
    """

    learner: str
    rates: tuple[float, ...]
    gammas: tuple[float, ...]
    loss: float
    mean_loss: float
    median_loss: float


def free_numbers(learner: str, steps: int) -> int:
    """How many numbers are fitted; the gamma of the last step moves no prediction."""
    return {
        "gradient_descent": 1,
        "gradient_descent_per_step": steps,
        "gd_plus_plus": 2 if steps > 1 else 1,
        "gd_plus_plus_per_layer": 2 * steps - 1,
        "newton": 1,
        "ridge": 1,
        "least_squares": 0,
    }[learner]


def starting_points(
    learner: str, steps: int, starts: int, input_dim: int, context_length: int, rng: np.random.Generator
) -> Float[Tensor, "start number"]:
    """Logarithms of the numbers from which the fits of a learner start.

    With L a little above the edge of the spectrum, Var(x) (sqrt N + sqrt d)^2:

    - a rate a step: the inverses of Chebyshev's points between L and a lower end that differs from start to start;
    - GD++: `steps` times the best rate of one step or less, and a gamma that takes six tenths off the largest inputs, give or take;
    - a pair a step: gammas and rates that grow eightfold from step to step. With 4 / (3 L), 12 / L, .., growing ninefold, the residual at
      l = L sin^2 t would be sin(3^K t) / (3^K sin t), because sin 3t = 3 sin t (1 - 4/3 sin^2 t), but an error of one step would grow
      ninefold, too. Every second start grows less and is scattered.

    Raises:
        ValueError: if the learner has no steps to fit.
    """
    variance, _ = uniform_moments(HALF_RANGE)
    edge = variance * (math.sqrt(context_length) + math.sqrt(input_dim)) ** 2
    best = math.log(optimal_rate(input_dim, context_length, HALF_RANGE))
    match learner:
        case "gradient_descent":
            numbers = np.array([[best]])
        case "gradient_descent_per_step":
            top, low = 1.3, 1.3 * np.exp(-rng.uniform(1, 4, (starts, 1)))
            points = (top + low) / 2 + (top - low) / 2 * np.cos(np.pi * (np.arange(steps) + 0.5) / steps)
            numbers = -np.log(edge * points)
        case "gd_plus_plus":
            rates = best + math.log(steps) - rng.uniform(0, 1, starts)
            numbers = np.stack([rates, math.log(0.6 / edge) + rng.uniform(-0.3, 0.3, starts)], axis=1)
        case "gd_plus_plus_per_layer":
            first = np.log(4 / 3 / (edge * np.linspace(1.3, 1.8, starts)))
            is_regular = np.arange(starts) % 2 == 0
            growth = math.log(8) * np.where(is_regular, 1.0, rng.uniform(0.3, 1.0, starts))
            scatter = np.where(is_regular, 0.0, 0.3) * rng.standard_normal((2, steps, starts))
            pairs = first + growth * np.arange(steps)[:, None]
            numbers = np.concatenate([pairs + scatter[0], (pairs - np.abs(scatter[1]))[:-1]]).T
        case _:
            raise ValueError(f"{learner!r} is none of {', '.join(LADDER)}")
    return torch.from_numpy(numbers)


def rates_and_gammas(
    learner: str, steps: int, numbers: Float[Tensor, "start number"]
) -> tuple[Float[Tensor, "start step"], Float[Tensor, "start step"]]:
    """The rates and gammas of each step that a learner's free numbers stand for."""
    zero = numbers.new_zeros(len(numbers), 1)
    match learner:
        case "gradient_descent":
            return numbers.expand(-1, steps), zero.expand(-1, steps)
        case "gradient_descent_per_step":
            return numbers, zero.expand(-1, steps)
        case "gd_plus_plus":
            return numbers[:, :1].expand(-1, steps), numbers[:, 1:].expand(-1, steps)
    return numbers[:, :steps], torch.cat([numbers[:, steps:], zero], dim=1)


class _BoundedLoss(torch.autograd.Function):
    """Mean bounded loss of each start, relative to that of w = 0, with the compiled gradient."""

    @staticmethod
    def forward(ctx, rates: Tensor, gammas: Tensor, eigenvalues: Tensor) -> Tensor:
        from activation_descent.regression.recursion_kernel import bounded_loss

        rates, gammas = rates.contiguous(), gammas.contiguous()
        loss, *gradients = torch.empty_like(rates[:, 0]), torch.empty_like(rates), torch.empty_like(gammas)
        numbers = (each.numpy() for each in (eigenvalues, rates, gammas))
        bounded_loss(*numbers, BOUND, loss.numpy(), *(gradient.numpy() for gradient in gradients))
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        by_rates, by_gammas = ctx.saved_tensors
        return gradient[:, None] * by_rates, gradient[:, None] * by_gammas, None


def fit(
    fitting: Fitting,
    families: Mapping[str, Sequence[int]],
    context_length: int,
    root: int,
    seed: int,
    selection: Float[Tensor, "input selection"],
    held_out: Float[Tensor, "input evaluation"],
) -> list[Fitted]:
    """Fit several families at one N, all starts side by side on the same stream of contexts.

    Args:
        families: for each learner the numbers of steps to fit it for.
        selection, held_out: eigenvalues of the contexts on which starts are chosen and losses are reported, from `judging_contexts`.
    """
    jobs = []
    for learner, counts in families.items():
        for steps in counts:
            rng = generator(root, "regression", "learners", f"N{context_length}-{learner}-{steps}", "learners-start", seed)
            logarithms = starting_points(learner, steps, fitting.starts, fitting.input_dim, context_length, rng)
            jobs.append((learner, steps, logarithms.requires_grad_()))
    moments = [(torch.zeros_like(logarithms), torch.zeros_like(logarithms), torch.zeros(())) for _, _, logarithms in jobs]
    rates = [fitting.learning_rate / steps for _, steps, _ in jobs]
    count = fitting.steps if context_length == fitting.context_length else fitting.steps_elsewhere
    for step in range(count):
        rng = generator(root, "regression", "learners", f"N{context_length}", "learners-fit", seed, step)
        eigenvalues = spectra(rng, fitting.batch_size, fitting.input_dim, context_length, HALF_RANGE)
        losses = [_BoundedLoss.apply(*rates_and_gammas(*job[:2], job[2].exp()), eigenvalues) for job in jobs]
        gradients = torch.autograd.grad(torch.cat(losses).sum(), [logarithms for _, _, logarithms in jobs])
        for (_, _, logarithms), gradient, rate, moment in zip(jobs, gradients, rates, moments, strict=True):
            norms = gradient.norm(dim=1, keepdim=True)  # each start by itself
            _adam(logarithms, gradient * (fitting.clip_norm / norms.clamp(min=fitting.clip_norm)), rate, *moment)
        fall = (1 + math.cos(math.pi * (step + 1) / count)) / (1 + math.cos(math.pi * step / count))
        rates = [fall * rate for rate in rates]
    chosen = []
    for learner, steps, logarithms in jobs:
        numbers = rates_and_gammas(learner, steps, logarithms.detach().exp())
        best = _BoundedLoss.apply(*numbers, selection).argmin()
        rates, gammas = (tuple(each[best].tolist()) for each in numbers)
        chosen.append(Fitted(learner, rates, gammas, *held_out_losses(rates, gammas, held_out)))
    return chosen


@torch.no_grad()
def _adam(numbers: Tensor, gradient: Tensor, rate: float, mean: Tensor, mean_square: Tensor, step: Tensor) -> None:
    """One step of Adam, in place, by the library's function: its class takes two seconds to set up."""
    from torch.optim.adam import adam

    options = {"amsgrad": False, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "eps": 1e-8, "maximize": False}
    adam([numbers], [gradient], [mean], [mean_square], [], [step], lr=rate, **options)


def judging_contexts(
    fitting: Fitting, context_length: int, root: int
) -> tuple[Float[Tensor, "input selection"], Float[Tensor, "input evaluation"]]:
    """Eigenvalues of the contexts on which starts are chosen, and of those on which losses are reported: the same for every seed."""

    def draw(purpose: str, number: int) -> Spectra:
        rng = generator(root, "regression", "learners", f"N{context_length}", purpose)
        return spectra(rng, number, fitting.input_dim, context_length, HALF_RANGE)

    return draw("learners-select", fitting.selection_tasks), draw("learners-evaluate", fitting.evaluation_tasks)


def held_out_losses(rates: Sequence[float], gammas: Sequence[float], contexts: Spectra) -> tuple[float, float, float]:
    """Bounded mean, mean and median of the expected losses of contexts."""
    zero = 0.5 * uniform_moments(HALF_RANGE)[0] * len(contexts)
    losses = task_losses(residuals(contexts, rates, gammas), HALF_RANGE).nan_to_num(math.inf, posinf=math.inf)
    return losses.clamp(max=BOUND * zero).mean().item(), losses.mean().item(), losses.median().item()


def learner_records(
    fitting: Fitting, root: int, report: Callable[[int, dict[str, float]], None] = lambda seed, losses: None
) -> Iterator[dict[str, Any]]:
    """Numbers and losses of every learner, seed by seed, and condition numbers of the contexts at each N.

    Args:
        report: called after each seed with the number of seeds done and the loss of each learner.
    """
    base = {"study": "regression", "experiment": "learners", "variant": "learners", "input_dim": fitting.input_dim}
    fits = {fitting.context_length: fitting.steps_of}
    fits |= {n: {"gd_plus_plus": [2]} for n in fitting.context_lengths if n != fitting.context_length}
    judging = {n: judging_contexts(fitting, n, root) for n in fits}
    for seed in range(fitting.seeds):
        losses = {}
        for n, families in fits.items():
            for fitted in fit(fitting, families, n, root, seed, *judging[n]):
                steps = len(fitted.rates)
                row = base | {"seed": seed, "context_length": n, "learner": fitted.learner, "layers": steps, "layer": 0}
                losses[f"loss/{fitted.learner}-{steps}-N{n}"] = fitted.loss
                yield row | {"metric": "learner_loss", "value": fitted.loss}
                yield row | {"metric": "learner_mean_loss", "value": fitted.mean_loss}
                yield row | {"metric": "learner_median_loss", "value": fitted.median_loss}
                yield row | {"metric": "learner_free_numbers", "value": free_numbers(fitted.learner, steps)}
                for step in range(steps):
                    yield row | {"layer": step + 1, "metric": "learner_rate", "value": fitted.rates[step]}
                    yield row | {"layer": step + 1, "metric": "learner_gamma", "value": fitted.gammas[step]}
        report(seed + 1, losses)
    yield from condition_records(fitting, root)


def condition_records(fitting: Fitting, root: int) -> Iterator[dict[str, Any]]:
    """Figure 13: the spectrum of S at each N, and how one contraction of GD++ changes its condition number.

    An eigenvalue l becomes f(l) = l (1 - gamma l)^2 = l - 2 gamma l^2 + gamma^2 l^3. `level` is gamma; the condition number is the
    median over contexts of the largest over the smallest eigenvalue.
    """
    base = {"study": "regression", "experiment": "learners", "variant": "learners", "input_dim": fitting.input_dim}
    for n in fitting.context_lengths:
        rng = generator(root, "regression", "learners", f"N{n}", "learners-conditions")
        eigenvalues = spectra(rng, fitting.selection_tasks, fitting.input_dim, n, HALF_RANGE)
        row = base | {"learner": "none", "layers": 0, "layer": 0, "context_length": n}
        yield row | {"metric": "smallest_eigenvalue", "value": eigenvalues.min().item()}
        yield row | {"metric": "largest_eigenvalue", "value": eigenvalues.max().item()}
        for gamma in np.linspace(0, 2 * PUBLISHED_GAMMAS.get(n, 1.8 / n), 41):
            contracted = eigenvalues * (1 - gamma * eigenvalues).square()
            condition = (contracted.max(0).values / contracted.min(0).values).median().item()
            yield row | {"level": gamma, "metric": "condition_number", "value": condition}


def read_fitted(records: pd.DataFrame, learner: str, steps: int, context_length: int, half_range: float) -> Fitted:
    """A learner from its records, for inputs of another range if need be; the seed with the lowest loss.

    Raises:
        ValueError: if the records do not hold the learner.
    """
    rows = records[(records["learner"] == learner) & (records["layers"] == steps) & (records["context_length"] == context_length)]
    losses = rows[rows["metric"] == "learner_loss"]
    if losses.empty:
        raise ValueError(f"{learner} with {steps} steps at N = {context_length} was not fitted; add it to regression.learners")
    best = losses.loc[losses["value"].idxmin(), "seed"]
    scale = (half_range / HALF_RANGE) ** 2
    numbers = rows[rows["seed"] == best].sort_values("layer").groupby("metric")["value"].apply(list)
    return Fitted(
        learner,
        tuple(rate / scale for rate in numbers["learner_rate"]),
        tuple(gamma / scale for gamma in numbers["learner_gamma"]),
        *(numbers[metric][0] * scale for metric in ("learner_loss", "learner_mean_loss", "learner_median_loss")),
    )


def best_newton_alpha(eigenvalues: Spectra, steps: int) -> float:
    """The alpha of `newton_residuals` with the lowest mean bounded loss on these contexts.

    Newton converges on all of them below 2 / l^2 with l their largest eigenvalue; the best alpha of a few steps lies above that.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_alpha: float) -> float:
        relative = newton_residuals(eigenvalues, math.exp(log_alpha), steps).square().mean(0)
        return torch.where(relative > BOUND, BOUND * (1 + (relative / BOUND).log()), relative).mean().item()

    # One number, but 2^K is steep: a grid finds the valley, the search its bottom
    grid = -2 * eigenvalues[-1].median().log().item() + np.linspace(-2, 2, 41)
    start = int(np.argmin([loss(each) for each in grid]))
    bounds = (grid[max(start - 1, 0)], grid[min(start + 1, len(grid) - 1)])
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def best_ridge_penalty(eigenvalues: Spectra, penalties: Sequence[float]) -> float:
    """The penalty with the lowest mean loss on these contexts. Without noise it is the smallest."""
    return min(penalties, key=lambda penalty: task_losses(ridge_residuals(eigenvalues, penalty), HALF_RANGE).mean().item())


def learner_statistics(records: pd.DataFrame) -> dict[str, np.ndarray]:
    """What claims read of the fits, one value for each seed.

    gamma_error: largest |gamma / published gamma - 1| over N, two steps of GD++. ladder_violations: pairs of neighbours on the ladder
    gradient descent, a rate a step, GD++, GD++ with a pair a step in which the freer learner does not have the lower loss, over all K
    that have both.
    """
    plus_plus = records[(records["learner"] == "gd_plus_plus") & (records["layers"] == 2) & (records["layer"] == 1)]
    gammas = plus_plus[plus_plus["metric"] == "learner_gamma"].pivot_table(index="seed", columns="context_length", values="value")
    errors = [np.abs(gammas[n] / published - 1) for n, published in PUBLISHED_GAMMAS.items() if n in gammas]
    losses = records[records["metric"] == "learner_loss"]
    losses = losses[losses["context_length"] == losses["context_length"].min()]
    wide = losses.pivot_table(index=["seed", "layers"], columns="learner", values="value")
    violations = pd.Series(0, index=sorted(losses["seed"].unique()))
    for tighter, freer in pairwise(LADDER):
        both = wide[[tighter, freer]].dropna()
        violations = violations.add((both[freer] >= both[tighter]).groupby("seed").sum(), fill_value=0)
    return {
        "gamma_error": np.max(errors, axis=0),
        "ladder_violations": violations.to_numpy(dtype=float),
    }

"""What trained networks say about knapsack problems, and whether their states hold the table of the dynamic programme.

The table is sought by linear readouts of all states of a layer, fitted on some problems and scored on others: in trained encoders, in
the same encoders before training, in the raw inputs, and in trained ones with the tables of other problems. Entries f(i, c) for a part
of the items are what only the programme needs; a network that has found another way to the answer has no use for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.reasoning import STUDY, knapsack
from activation_descent.reasoning import encoder as encoders
from activation_descent.reasoning.knapsack import EXPERIMENT, Knapsack, Problems
from activation_descent.records import Row
from activation_descent.seeding import generator
from activation_descent.side_by_side import Weights

PENALTIES = (0.1, 1.0, 10.0, 100.0)  # of ridge regression, chosen on a part of the fitting problems
BATCH = 200  # problems at once


@dataclass(frozen=True)
class Evaluation:
    """Problems to score answers on, and to fit and to score readouts on."""

    problems: int
    fitting_problems: int
    scoring_problems: int


def evaluation_problems(settings: Knapsack, root: int, seed: int, purpose: str, number: int) -> Problems:
    """Problems of a stream that no training has seen."""
    return knapsack.draw(settings, generator(root, STUDY, EXPERIMENT, "problems", purpose, seed), number)


# Answers


def answer_records(settings: Knapsack, networks: Mapping[str, Weights], root: int, number: int) -> list[Row]:
    """Accuracy of each network, and of taking the densest items first, by capacity: overall and where the latter is wrong."""
    rows: list[Row] = []
    for seed in range(settings.seeds):
        problems = evaluation_problems(settings, root, seed, "evaluate", number)
        wanted = knapsack.answers(settings, problems).numpy()
        taken = np.stack([knapsack.greedy(problems, capacity) for capacity in settings.capacities], 1)
        rows += _accuracies(settings, "greedy", seed, 0, taken == wanted, taken < wanted)
        rows += _accuracies(
            settings, "dynamic_programme", seed, settings.items, _exhaustive(settings, problems) == wanted, taken < wanted
        )
        for kind, weights in networks.items():
            said = _said(kind, settings, weights, problems)
            for place, depth in enumerate(settings.depths):
                if place % settings.seeds == seed:
                    rows += _accuracies(settings, kind, seed, depth, said[place] == wanted, taken < wanted)
    return rows


def _said(kind: str, settings: Knapsack, weights: Weights, problems: Problems) -> np.ndarray:
    raw, (_, logits) = knapsack.tokens(settings, problems), knapsack.NETWORKS[kind]
    with torch.no_grad():
        return torch.cat(
            [logits(settings, weights, part.expand(len(settings.depths), -1, -1, -1)).argmax(-1) for part in raw.split(BATCH)], 1
        ).numpy()


def _exhaustive(settings: Knapsack, problems: Problems) -> np.ndarray:
    """The best of all 2^n choices: what the dynamic programme is held against."""
    choices = (np.arange(2**settings.items)[:, None] >> np.arange(settings.items)) & 1
    load, worth = problems.weights @ choices.T, problems.values @ choices.T  # (problem, choice)
    return np.stack([np.where(load <= capacity, worth, 0).max(1) for capacity in settings.capacities], 1)


def _accuracies(settings: Knapsack, variant: str, seed: int, layers: int, right: np.ndarray, hard: np.ndarray) -> list[Row]:
    base = {"study": STUDY, "experiment": EXPERIMENT, "variant": variant, "seed": seed, "layers": layers}
    return [
        base | {"capacity": capacity, "metric": metric, "value": float(own.mean())}
        for place, capacity in enumerate(settings.capacities)
        for metric, own in (("accuracy_of_optimum", right[:, place]), ("hard_accuracy_of_optimum", right[hard[:, place], place]))
    ]


# The table


def table_records(settings: Knapsack, trained: Weights, untrained: Weights, root: int, evaluation: Evaluation) -> list[Row]:
    """R squared of readouts of the table by layer of the deepest encoders: of rows i = 2 to n / 2, of the answers, and of each entry."""
    rows: list[Row] = []
    for seed in range(settings.seeds):
        sets = [
            evaluation_problems(settings, root, seed, purpose, number)
            for purpose, number in (("fit", evaluation.fitting_problems), ("score", evaluation.scoring_problems))
        ]
        targets = [_targets(settings, problems) for problems in sets]
        order = generator(root, STUDY, EXPERIMENT, "problems", "shuffle", seed).permutation(evaluation.fitting_problems)
        features = {
            "trained": _features(settings, trained, sets, seed),
            "untrained": _features(settings, untrained, sets, seed),
            "inputs": [tuple(knapsack.tokens(settings, p)[:, : settings.items].flatten(1) for p in sets)],
        }
        features["shuffled"] = features["trained"]
        for condition, layers in features.items():
            for layer, (fitting, scoring) in enumerate(layers):
                fitted = targets[0][torch.from_numpy(order)] if condition == "shuffled" else targets[0]
                found = readout(fitting, fitted, scoring, targets[1])
                base = {
                    "study": STUDY,
                    "experiment": "table",
                    "variant": "encoder",
                    "seed": seed,
                    "condition": condition,
                    "layer": layer,
                }
                rows += _summaries(settings, base, found)
    return rows


def _summaries(settings: Knapsack, base: Row, found: Float[Tensor, " target"]) -> list[Row]:
    entries, answers = found[: -len(settings.capacities)].view(settings.items - 1, -1), found[-len(settings.capacities) :]
    rows = [base | {"metric": "answer_r_squared", "value": float(answers.mean())}]
    rows.append(base | {"metric": "table_r_squared", "value": float(entries[1 : settings.items // 2].mean())})
    rows += [
        base | {"row": i + 1, "capacity": c + 1, "metric": "entry_r_squared", "value": float(entries[i, c])}
        for i in range(entries.shape[0])
        for c in range(entries.shape[1])
    ]
    return rows


def _targets(settings: Knapsack, problems: Problems) -> Float[Tensor, "problem target"]:
    """f(i, c) for i = 1 to n - 1 and every c, then the answers."""
    f = torch.from_numpy(knapsack.table(problems, max(settings.capacities)))
    return torch.cat([f[:, 1:-1, 1:].flatten(1), f[:, -1, list(settings.capacities)]], 1).double()


def _features(settings: Knapsack, weights: Weights, sets: Sequence[Problems], seed: int) -> list[tuple[Tensor, ...]]:
    """All states of each layer of the deepest encoder of a seed, for each set of problems."""
    alone = replace(settings.encoder, layers=settings.encoder.layers[:1])
    own = {name: tensor[seed : seed + 1] for name, tensor in weights.named.items()}
    found = []
    for problems in sets:
        with torch.no_grad():
            x = encoders.embed(own, alone, knapsack.tokens(settings, problems)[None])
            found.append([state[0].flatten(1) for state in encoders.run(own, alone, x, settings.items)])
    return list(zip(*found, strict=True))


def readout(
    fitting: Float[Tensor, "problem feature"],
    fitted: Float[Tensor, "problem target"],
    scoring: Float[Tensor, "score feature"],
    scored: Float[Tensor, "score target"],
) -> Float[Tensor, " target"]:
    """R squared on the scoring problems of ridge regression, whose penalty is the best on the last quarter of the fitting problems."""
    fitting, scoring = fitting.double(), scoring.double()
    quarter = len(fitting) // 4
    tried = _ridge(fitting[:-quarter], fitted[:-quarter], PENALTIES, fitting[-quarter:])
    held_out = torch.stack([_r_squared(predicted, fitted[-quarter:]).mean() for predicted in tried])
    return _r_squared(_ridge(fitting, fitted, [PENALTIES[int(held_out.argmax())]], scoring)[0], scored)


def _ridge(x: Tensor, y: Tensor, penalties: Sequence[float], at: Tensor) -> list[Tensor]:
    """Predictions of ridge regression on standardised features, for each penalty, from one decomposition of the Gram matrix."""
    mean, spread = x.mean(0), x.std(0).clamp(min=1e-6)
    x, at, centre = (x - mean) / spread, (at - mean) / spread, y.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x)
    seen, wanted = at @ vectors, vectors.T @ (x.T @ (y - centre))
    return [seen @ (wanted / (values[:, None] + penalty)) + centre for penalty in penalties]


def _r_squared(predicted: Tensor, wanted: Tensor) -> Float[Tensor, " target"]:
    return 1 - (predicted - wanted).square().mean(0) / wanted.var(0, correction=0).clamp(min=1e-12)

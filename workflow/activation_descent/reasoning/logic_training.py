"""Encoders that could reason, trained on one sampler of SimpleLogic and tried on the other (Zhang et al. 2022, section 4).

The architecture is the one in which the reasoning weights are written (`logic_construction`). As published, every depth of proof counts the
same in training and tests, and what can be proved as much as what cannot.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Bool, Float
from torch import Tensor

from activation_descent.reasoning import SAMPLERS, STUDY, simple_logic
from activation_descent.reasoning import encoder as encoders
from activation_descent.reasoning.encoder import Encoder
from activation_descent.reasoning.logic_construction import construct, logic_encoder
from activation_descent.reasoning.simple_logic import FIRST_PREDICATE, Problems, Space
from activation_descent.records import Row
from activation_descent.seeding import generator
from activation_descent.side_by_side import Report, Schedule, Weights, train

EXPERIMENT = "simple_logic"
BATCH = 200  # problems at once
UNPROVABLE = -1


@dataclass(frozen=True)
class Logic:
    """Problems, networks and training.

    Attributes:
        space: as in `simple_logic.Space`, by name.
        layers: of the networks, and of the construction.
        tied: one layer's weights for all layers, as the construction has; published networks have layers of their own.
        seeds: of each sampler.
        pool: training problems of each sampler and seed, renamed at random at each step.
        batch_size: problems of a step.
        evaluation: problems of each sampler and seed.
    """

    space: Mapping[str, Any]
    layers: int
    tied: bool
    seeds: int
    pool: int
    steps: int
    warmup_steps: int
    decay_share: float
    batch_size: int
    learning_rate: float
    evaluation: int

    @property
    def problems(self) -> Space:
        """What problems are drawn from."""
        return Space(**self.space)

    @property
    def encoder(self) -> Encoder:
        """The seeds of rule priority, then those of label priority."""
        return logic_encoder(self.problems, (self.layers,) * (self.seeds * len(SAMPLERS)), self.tied)


def draw(settings: Logic, root: int, sampler: str, purpose: str, seed: int, number: int) -> Problems:
    """Problems of a sampler from the stream of a purpose."""
    rng = generator(root, STUDY, EXPERIMENT, sampler, purpose, seed)
    return simple_logic.draw(settings.problems, sampler, rng, number)


def depth_weights(problems: Problems) -> Float[np.ndarray, " depth"]:
    """The weight of a question by its depth, in the last place that of what cannot be proved: half of all for those, half shared evenly by
    the depths of proof that there are.
    """
    asked = problems.depth[problems.asked]
    depths = [depth for depth in np.unique(asked) if depth != UNPROVABLE]
    weights = np.zeros(asked.max() + 2)
    weights[UNPROVABLE] = 0.5 / max((asked == UNPROVABLE).sum(), 1)
    for depth in depths:
        weights[depth] = 0.5 / len(depths) / (asked == depth).sum()
    return weights


def new_networks(settings: Logic, root: int) -> Weights:
    """Fresh networks; both samplers of a seed start from the same weights."""
    rngs = [generator(root, STUDY, EXPERIMENT, "encoder", "initialise", seed) for _ in SAMPLERS for seed in range(settings.seeds)]
    return Weights(settings.encoder.shapes(), rngs)


def logits(encoder: Encoder, weights: Weights, space: Space, raw: Tensor) -> Float[Tensor, "network problem predicate"]:
    """What the networks say of every predicate; above 0 is proved."""
    predicates = slice(FIRST_PREDICATE, FIRST_PREDICATE + space.most)
    states = encoders.run(weights, encoder, encoders.embed(weights, encoder, raw), raw.shape[2], read=predicates)
    return encoders.read(weights, encoder, states[-1])[..., 0]


def train_networks(
    settings: Logic,
    root: int,
    checkpoint: Path | None = None,
    code: str = "",
    report: Report = lambda step, values: None,
) -> Weights:
    """Train the networks of all samplers and seeds side by side, by balanced cross-entropy.

    Args:
        checkpoint, report: as in `side_by_side.train`.
        code: digest of the code, part of a checkpoint's identity.

    Raises:
        DivergedError: if a loss is no longer finite.
        CheckpointError: if the checkpoint is damaged.
    """
    space, encoder, weights = settings.problems, settings.encoder, new_networks(settings, root)
    cells = [(sampler, seed) for sampler in SAMPLERS for seed in range(settings.seeds)]
    pools = [draw(settings, root, sampler, "train", seed, settings.pool) for sampler, seed in cells]
    # Problems whose questions weigh more are drawn more often, so that rare depths are in every batch and no question outweighs it
    by_depth = [depth_weights(pool) for pool in pools]
    chances = [(own[pool.depth] * pool.asked).sum(1) for own, pool in zip(by_depth, pools, strict=True)]
    below = [np.cumsum(chance / chance.sum()) for chance in chances]

    def losses(step: int) -> Float[Tensor, " network"]:
        raw, label, weight = [], [], []
        for (sampler, seed), pool, own, chance, ends in zip(cells, pools, by_depth, chances, below, strict=True):
            rng = generator(root, STUDY, EXPERIMENT, sampler, "batches", seed, step)
            chosen = np.searchsorted(ends[:-1], rng.random(settings.batch_size), side="right")
            batch = simple_logic.renamed(pool[chosen], rng)
            raw.append(simple_logic.tokens(space, batch))
            label.append(torch.from_numpy(batch.depth >= 0))
            weight.append(torch.from_numpy(own[batch.depth] * batch.asked / chance[chosen, None]))
        said = logits(encoder, weights, space, torch.stack(raw))
        each = F.binary_cross_entropy_with_logits(said, torch.stack(label).float(), reduction="none")
        return (each * torch.stack(weight).float()).sum(2).mean(1)

    schedule = Schedule(settings.steps, settings.warmup_steps, settings.decay_share)
    identity = {"root": root, "code": code} | {name: str(value) for name, value in asdict(settings).items()}
    rates = {f"{sampler}_seed_{seed}": settings.learning_rate for sampler, seed in cells}
    train(weights, losses, rates, schedule, checkpoint, identity, report)
    return weights


# Evaluation


def accuracy_records(settings: Logic, weights: Weights, root: int) -> list[Row]:
    """Accuracy by training sampler, test sampler and depth of proof; also that of the reasoning weights, and of them with a layer less."""
    space = settings.problems
    built = {"construction": construct(space, settings.layers), "shallow_construction": construct(space, settings.layers - 1)}
    rows: list[Row] = []
    for sampler in SAMPLERS:
        for seed in range(settings.seeds):
            problems = draw(settings, root, sampler, "evaluate", seed, settings.evaluation)
            raw = simple_logic.tokens(space, problems)
            said = {name: _proved(encoder, own, space, raw)[0] for name, (encoder, own) in built.items()}
            trained = _proved(settings.encoder, weights, space, raw)
            said |= {name: trained[place * settings.seeds + seed] for place, name in enumerate(SAMPLERS)}
            for variant, proved in said.items():
                base = {"study": STUDY, "experiment": EXPERIMENT, "variant": variant, "seed": seed, "sampler": sampler}
                rows += [base | found for found in accuracies(problems, proved)]
    return rows


def _proved(encoder: Encoder, weights: Weights, space: Space, raw: Tensor) -> Bool[np.ndarray, "network problem predicate"]:
    networks = len(encoder.layers)
    with torch.no_grad():
        parts = [logits(encoder, weights, space, part.expand(networks, -1, -1, -1)) > 0 for part in raw.split(BATCH)]
    return torch.cat(parts, 1).numpy()


def accuracies(problems: Problems, proved: Bool[np.ndarray, "problem predicate"]) -> list[Row]:
    """Balanced accuracy, and that of each depth of proof (-1 for what cannot be proved)."""
    right = proved == (problems.depth >= 0)
    weights = depth_weights(problems)[problems.depth] * problems.asked
    found: list[Row] = [{"metric": "balanced_accuracy", "value": float((right * weights).sum())}]
    for depth in np.unique(problems.depth[problems.asked]):
        own = (problems.depth == depth) & problems.asked
        found.append({"depth": int(depth), "metric": "depth_accuracy", "value": float(right[own].mean())})
    return found

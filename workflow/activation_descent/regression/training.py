"""Training a layer on a stream of fresh tasks (von Oswald et al. 2022, appendix A.12; the authors' code).

All seeds of a variant advance side by side, one block of steps at a time: the loss curves grow together, and one checkpoint holds the
whole job. Each step's tasks come from a stream of their own, so a run that resumes at a block's end meets the same tasks as one that
was never interrupted, and ends with the same bytes.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from activation_descent import checkpointing
from activation_descent.errors import CheckpointError, DivergedError
from activation_descent.regression.tasks import Tasks, linear_tasks
from activation_descent.regression.transformer import MATRICES, Weights, initialise, one_layer_gradient
from activation_descent.seeding import generator

STUDY = "regression"


@dataclass(frozen=True)
class Training:
    """What a variant trains on and how; the published values and their sources stand in `config/config.yaml`."""

    experiment: str
    seeds: int
    input_dim: int
    context_length: int
    half_range: float
    weight_scale: float
    steps: int
    batch_size: int
    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    clip_norm: float
    init_scale: float
    snapshot_every: int


@dataclass
class Trained:
    """The course of a training job.

    Attributes:
        steps: the steps after which a snapshot was taken, 0 first.
        snapshots: the weights then.
        losses: mean training loss over the steps since the snapshot before; a fresh batch at each step, so it estimates the
            population loss of the moving weights. Not a number at step 0.
    """

    steps: list[int]
    snapshots: Float[Tensor, "seed snapshot matrix feature feature"]
    losses: Float[Tensor, "seed snapshot"]


def save_trained(trained: Trained, settings: Training, weights: Path, config: Path) -> None:
    """Write a job's outcome as safetensors beside its settings as JSON, each whole or not at all."""
    partial = weights.with_name(weights.name + ".partial")
    tensors = {"steps": torch.tensor(trained.steps), "snapshots": trained.snapshots, "losses": trained.losses}
    save_file(tensors, partial)
    os.replace(partial, weights)
    partial = config.with_name(config.name + ".partial")
    partial.write_text(json.dumps(asdict(settings), indent=2) + "\n")
    os.replace(partial, config)


def load_trained(settings: Training, weights: Path) -> Trained:
    """Read what `save_trained` wrote.

    Raises:
        CheckpointError: if the file is damaged or its shapes are not those of the settings.
    """
    try:
        tensors = load_file(weights)
        trained = Trained(tensors["steps"].tolist(), tensors["snapshots"], tensors["losses"])
    except Exception as error:
        raise CheckpointError(f"{weights} cannot be read ({error}); delete it to train again") from error
    features = settings.input_dim + 1
    expected = (settings.seeds, len(trained.steps), len(MATRICES), features, features)
    if tuple(trained.snapshots.shape) != expected:
        raise CheckpointError(f"{weights} holds snapshots of shape {tuple(trained.snapshots.shape)}, not {expected}; delete it")
    return trained


def training_tasks(settings: Training, root: int, variant: str, seed: int, step: int, out: np.ndarray | None = None) -> Tasks:
    """The batch of one training step, from the stream "train"; `out` as in `linear_tasks`."""
    rng = generator(root, STUDY, settings.experiment, variant, "train", seed, step)
    return linear_tasks(
        rng,
        settings.batch_size,
        settings.input_dim,
        settings.context_length,
        settings.half_range,
        settings.weight_scale,
        out=out,
    )


def batch_array(settings: Training) -> np.ndarray:
    """Room for the tokens of one batch."""
    return np.empty((settings.input_dim + 1, settings.context_length + 1, settings.batch_size), np.float32)


def clip_by_global_norm(gradient: Tensor, clip_norm: float) -> Tensor:
    """optax's rule: scale the gradient to `clip_norm` when it is longer, leave it otherwise. In place."""
    return gradient.mul_(clip_norm / max(gradient.norm().item(), clip_norm))


class Job:
    """The replications of one variant: their weights side by side, and one optimiser for all of them.

    AdamW without decay, as in the authors' code, works on each number alone, so that one call for all seeds does what a call for each
    would do.
    """

    def __init__(self, settings: Training, root: int, variant: str):
        self.settings, self.root, self.variant = settings, root, variant

        def initial(seed: int) -> Weights:
            rng = generator(root, STUDY, settings.experiment, variant, "initialise", seed)
            return initialise(rng, settings.input_dim, settings.init_scale)

        self.weights = torch.stack([initial(seed) for seed in range(settings.seeds)])  # seed matrix feature feature
        self.weights.grad = torch.zeros_like(self.weights)
        self.optimiser = torch.optim.Adam(
            [self.weights],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            fused=True,
        )
        # Adam makes its state at the first step; made here it can be restored before any step.
        self.moments = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(self.weights),
            "exp_avg_sq": torch.zeros_like(self.weights),
        }
        self.optimiser.state[self.weights] = self.moments

    def advance(self, steps: Sequence[int]) -> Float[Tensor, " seed"]:
        """Train every seed through `steps`; returns the mean loss of each.

        Raises:
            DivergedError: if a mean is not finite.
        """
        settings = self.settings
        batch = batch_array(settings)
        total = torch.zeros(settings.seeds, dtype=torch.float64)
        for step in steps:
            for seed in range(settings.seeds):
                tasks = training_tasks(settings, self.root, self.variant, seed, step, batch)
                loss, gradient = one_layer_gradient(self.weights[seed], tasks)
                self.weights.grad[seed] = clip_by_global_norm(gradient, settings.clip_norm)
                total[seed] += loss
            self.optimiser.step()
        means = total / len(steps)
        for seed, mean in enumerate(means.tolist()):
            if not math.isfinite(mean):
                raise DivergedError(
                    f"training of variant {self.variant} diverged: the loss of seed {seed} is {mean} between steps {steps[0]} and "
                    f"{steps[-1] + 1}; lower learning_rate or clip_norm"
                )
        return means


def train(
    settings: Training,
    root: int,
    variant: str,
    checkpoint: Path | None = None,
    code: str = "",
    report: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
) -> Trained:
    """Train every seed of one variant.

    Args:
        root: the configuration's `seed`.
        checkpoint: a file that is rewritten after each block and removed at the end. If it exists and was written by the same
            settings and the same code, training resumes from it; any other is ignored.
        code: a digest of the program.
        report: called after each block with the step and a loss for each seed, earlier blocks of a resumed run included.

    Raises:
        DivergedError: if a loss is no longer finite.
        CheckpointError: if the checkpoint is damaged.
    """
    with checkpointing.alone(checkpoint):
        job = Job(settings, root, variant)
        ends = [*range(0, settings.steps, settings.snapshot_every), settings.steps]
        identity = json.dumps({"root": root, "variant": variant, "code": code, **asdict(settings)}, sort_keys=True)
        trained = Trained(
            ends,
            torch.zeros(settings.seeds, len(ends), *job.weights.shape[1:]),
            torch.full((settings.seeds, len(ends)), torch.nan, dtype=torch.float64),
        )
        trained.snapshots[:, 0] = job.weights
        done = checkpointing.restore(checkpoint, identity, _state(job, trained))
        for block, (start, end) in enumerate(pairwise(ends), start=1):
            if block > done:
                trained.losses[:, block] = job.advance(range(start, end))
                trained.snapshots[:, block] = job.weights
                checkpointing.save(checkpoint, identity, _state(job, trained), block)
            report(end, {f"training_loss/seed_{i}": loss for i, loss in enumerate(trained.losses[:, block].tolist())})
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
    return trained


def _state(job: Job, trained: Trained) -> dict[str, Tensor]:
    return {"weights": job.weights, **job.moments, "snapshots": trained.snapshots, "losses": trained.losses}

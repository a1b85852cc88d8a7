"""Training a network on a stream of fresh tasks (von Oswald et al. 2022, appendix A.12; the authors' code).

All seeds of a variant advance side by side, one block of steps at a time: the loss curves grow together, and one checkpoint holds the
whole job. Each step's tasks come from a stream of their own, so a run that resumes at a block's end meets the same tasks as one that
was never interrupted, and ends with the same bytes.
"""

import json
import math
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
from activation_descent.files import whole
from activation_descent.regression import STUDY
from activation_descent.regression.closed_forms import optimal_rate
from activation_descent.regression.constructions import gradient_descent_layer
from activation_descent.regression.gradients import losses_and_gradients
from activation_descent.regression.learners import gradient_descent_model, predict, ridge_model
from activation_descent.regression.tasks import Tasks, linear_tasks, sine_tasks
from activation_descent.regression.transformer import Architecture, Vector, initialise, shapes, unpack
from activation_descent.seeding import generator


@dataclass(frozen=True)
class Training:
    """What a variant trains on and how; the published values and their sources stand in `config/config.yaml`.

    `init_scale` is that of one layer: a network of K layers starts from init_scale / K, as in the authors' code.
    """

    experiment: str
    seeds: int
    best_of: int | None
    tasks: str
    input_dim: int
    context_length: int
    half_range: float
    weight_scale: float
    amplitude: Sequence[float]
    shared_draw: bool
    dataset_size: int | None
    target: str
    ridge_penalty: float
    layers: int
    heads: int
    tied: bool
    attention: str
    layer_norm: bool
    mlp: bool
    activation_clip: float | None
    tokens: str
    position_size: int
    embedding_size: int
    frozen_rate: float | None
    steps: int
    batch_size: int
    learning_rate: float
    decay_share: float
    beta1: float
    beta2: float
    epsilon: float
    clip_norm: float
    init_scale: float
    snapshot_every: int

    @property
    def starts(self) -> int:
        """Random starts that are trained, of which `seeds` are kept."""
        return self.best_of or self.seeds

    @property
    def architecture(self) -> Architecture:
        """The network that these settings name."""
        return Architecture(
            features=self.input_dim + 1,
            layers=self.layers,
            heads=self.heads,
            tied=self.tied,
            attention=self.attention,
            layer_norm=self.layer_norm,
            mlp=self.mlp,
            activation_clip=self.activation_clip,
            tokens=self.tokens,
            position_size=self.position_size,
            embedding_size=self.embedding_size,
        )


@dataclass
class Trained:
    """The course of a training job, of the starts that are kept.

    Attributes:
        steps: the steps after which a snapshot was taken, 0 first.
        snapshots: the weights then.
        losses: mean training loss over the steps since the snapshot before; a fresh batch at each step, so it estimates the
            population loss of the moving weights. Not a number at step 0.
        start_losses: the last of these losses for every random start, those that are not kept included.
    """

    steps: list[int]
    snapshots: Float[Tensor, "seed snapshot parameter"]
    losses: Float[Tensor, "seed snapshot"]
    start_losses: Float[Tensor, " start"]


def save_trained(trained: Trained, settings: Training, weights: Path, config: Path) -> None:
    """Write a job's outcome as safetensors beside its settings as JSON, each whole or not at all."""
    with whole(weights) as partial:
        save_file(vars(trained) | {"steps": torch.tensor(trained.steps)}, partial)
    with whole(config) as partial:
        partial.write_text(json.dumps(asdict(settings), indent=2) + "\n")


def load_trained(settings: Training, weights: Path, replications: int | None = None) -> Trained:
    """Read what `save_trained` wrote.

    Args:
        replications: that the file holds, if not the `seeds` of the settings.

    Raises:
        CheckpointError: if the file is damaged or its shapes are not those of the settings.
    """
    try:
        tensors = load_file(weights)
        trained = Trained(**tensors | {"steps": tensors["steps"].tolist()})
    except Exception as error:
        raise CheckpointError(f"{weights} cannot be read ({error}); delete it to train again") from error
    parameters = sum(math.prod(shape) for shape in shapes(settings.architecture).values())
    expected = (settings.seeds if replications is None else replications, len(trained.steps), parameters)
    if tuple(trained.snapshots.shape) != expected:
        raise CheckpointError(f"{weights} holds snapshots of shape {tuple(trained.snapshots.shape)}, not {expected}; delete it")
    return trained


def training_tasks(settings: Training, root: int, variant: str, seed: int, step: int, out: np.ndarray | None = None) -> Tasks:
    """The batch of one training step, from the stream "train"; `out` as in `linear_tasks`."""
    rng = generator(root, STUDY, settings.experiment, variant, "train", seed, step)
    return draw_tasks(settings, root, variant, rng, settings.batch_size, out=out)


def draw_tasks(
    settings: Training,
    root: int,
    variant: str,
    rng: np.random.Generator,
    number: int,
    dtype: type = np.float32,
    context_length: int | None = None,
    input_scale: float = 1.0,
    weight_scale: float = 1.0,
    out: np.ndarray | None = None,
) -> Tasks:
    """Tasks of a variant's distribution, with its targets.

    Args:
        context_length: N if it differs from training.
        input_scale, weight_scale: factors on the training range of the inputs and of the weights.
    """
    length, half_range = context_length or settings.context_length, settings.half_range * input_scale
    if settings.tasks == "sine":
        amplitude = (settings.amplitude[0] * weight_scale, settings.amplitude[1] * weight_scale)
        return sine_tasks(rng, number, length, half_range, amplitude, settings.shared_draw, dtype)
    tasks = linear_tasks(
        rng, number, settings.input_dim, length, half_range, settings.weight_scale * weight_scale, dtype=dtype, out=out
    )
    model = target_model(settings, root, variant, tasks)
    return tasks if model is None else Tasks(tasks.tokens, predict(model, tasks))


def target_model(settings: Training, root: int, variant: str, tasks: Tasks) -> Float[Tensor, "input task"] | None:
    """The model of the context whose answers a variant is trained to give; None for the true labels.

    "descent": one gradient step. "ridge": ridge regression. "matrix": `C sum_i y_i x_i` with a random matrix C, which is as long as
    a gradient step's model but has no gradient in it.
    """
    rate = optimal_rate(settings.input_dim, settings.context_length, settings.half_range)
    match settings.target:
        case "label":
            return None
        case "descent":
            return gradient_descent_model(tasks, [rate])
        case "ridge":
            return ridge_model(tasks, settings.ridge_penalty)
        case "matrix":
            rng = generator(root, STUDY, settings.experiment, variant, "matrix")
            matrix = torch.from_numpy(rng.standard_normal((settings.input_dim, settings.input_dim))).to(tasks.tokens)
            return matrix @ gradient_descent_model(tasks, [rate / math.sqrt(settings.input_dim)])
    raise ValueError(f"target {settings.target!r} is none of label, descent, ridge, matrix")


def batch_array(settings: Training, starts: int) -> np.ndarray | None:
    """Room for the tokens of one batch of linear tasks for each start, that need not be kept."""
    if settings.tasks != "linear" or settings.dataset_size is not None:
        return None
    return np.empty((starts, settings.input_dim + 1, settings.context_length + 1, settings.batch_size), np.float32)


def clip_by_global_norm(gradient: Vector, clip_norm: float) -> Vector:
    """optax's rule for each start: scale the gradient to `clip_norm` when it is longer, leave it otherwise. In place."""
    return gradient.mul_(clip_norm / gradient.norm(dim=-1, keepdim=True).clamp(min=clip_norm))


def rate_at(settings: Training, step: int) -> float:
    """The learning rate of a step: constant, then falling in a line to zero over the last `decay_share` of training."""
    decaying = settings.decay_share * settings.steps
    return settings.learning_rate * min(1.0, (settings.steps - step) / decaying if decaying else 1.0)


class Job:
    """The replications of one variant: their weights side by side, and one optimiser for all of them.

    AdamW without decay, as in the authors' code, works on each number alone. Each start is a tensor of its own to it: the last numbers of
    a tensor, which fill no vector of the processor, are rounded in another way, and would depend on who trains beside them.
    """

    def __init__(self, settings: Training, root: int, variant: str, device: str = "cpu", starts: range | None = None):
        self.settings, self.root, self.variant = settings, root, variant
        self.starts = range(settings.starts) if starts is None else starts
        self.architecture = settings.architecture

        def initial(seed: int) -> Vector:
            rng = generator(root, STUDY, settings.experiment, variant, "initialise", seed)
            vector = initialise(rng, self.architecture, settings.init_scale / settings.layers)
            if settings.frozen_rate is not None:
                layer = gradient_descent_layer(self.architecture.width - 1, settings.frozen_rate, dtype=torch.float32)
                unpack(vector, self.architecture)["attention"][:] = layer
            return vector

        self.weights = torch.stack([initial(seed) for seed in self.starts]).to(device)  # start parameter
        self.batch = batch_array(settings, len(self.starts))
        self.dataset: dict[tuple[int, int], Tasks] = {}
        self.moments = {
            "step": torch.zeros(len(self.starts), device=device),
            "exp_avg": torch.zeros_like(self.weights),
            "exp_avg_sq": torch.zeros_like(self.weights),
        }

    def tasks(self, seed: int, step: int) -> Tasks:
        """The tasks of one step: fresh ones, or the step's batch of a fixed set."""
        settings = self.settings
        if settings.dataset_size is None:
            room = None if self.batch is None else self.batch[seed - self.starts.start]
            return training_tasks(settings, self.root, self.variant, seed, step, room)
        batch = (seed, step % (settings.dataset_size // settings.batch_size))
        if batch not in self.dataset:
            self.dataset[batch] = training_tasks(settings, self.root, self.variant, *batch)
        return self.dataset[batch]

    def adam(self, gradients: Float[Tensor, "seed parameter"], rate: float) -> None:
        """One step of Adam, by the library's function: its class costs a second or two to set up, as long as a short training."""
        from torch.optim.adam import adam

        adam(
            [*self.weights],
            [*gradients],
            [*self.moments["exp_avg"]],
            [*self.moments["exp_avg_sq"]],
            [],
            [*self.moments["step"]],
            fused=True,
            amsgrad=False,
            beta1=self.settings.beta1,
            beta2=self.settings.beta2,
            lr=rate,
            weight_decay=0.0,
            eps=self.settings.epsilon,
            maximize=False,
        )

    def advance(self, steps: Sequence[int]) -> Float[Tensor, " seed"]:
        """Train every seed through `steps`; returns the mean loss of each.

        Raises:
            DivergedError: if a mean is not finite.
        """
        settings = self.settings
        total = torch.zeros(len(self.starts), dtype=torch.float64)
        for step in steps:
            tasks = (self.tasks(seed, step) for seed in self.starts)
            losses, gradients = losses_and_gradients(self.weights, self.architecture, tasks)
            if settings.frozen_rate is not None:
                unpack(gradients, self.architecture)["attention"].zero_()
            self.adam(clip_by_global_norm(gradients, settings.clip_norm), rate_at(settings, step))
            total += losses
        means = total / len(steps)
        for seed, mean in zip(self.starts, means.tolist(), strict=True):
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
    device: str = "cpu",
    report: Callable[[int, dict[str, float]], None] = lambda step, losses: None,
    starts: range | None = None,
) -> Trained:
    """Train every random start of one variant, and keep the best.

    Args:
        root: the configuration's `seed`.
        checkpoint: a file that is rewritten after each block and removed at the end. If it exists and was written by the same
            settings and the same code, training resumes from it; any other is ignored.
        code: a digest of the program.
        device: where to train, as torch names it; "auto" for a GPU if there is one.
        report: called after each block with the step and a loss for each start, earlier blocks of a resumed run included.
        starts: a shard of the random starts to train alone, of which none is left out (`merge` does that).

    Raises:
        DivergedError: if a loss is no longer finite.
        CheckpointError: if the checkpoint is damaged.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_flush_denormal(True)  # deep networks start from products of tiny numbers, which are slow below 1e-38
    with checkpointing.alone(checkpoint):
        job = Job(settings, root, variant, device, starts)
        ends = [*range(0, settings.steps, settings.snapshot_every), settings.steps]
        identity = {"root": root, "variant": variant, "code": code, "shard": [*job.starts], **asdict(settings)}
        identity = json.dumps(identity, sort_keys=True)
        losses = torch.full((len(job.starts), len(ends)), torch.nan, dtype=torch.float64)
        trained = Trained(ends, torch.zeros(len(job.starts), len(ends), job.weights.shape[1]), losses, losses[:, -1])
        trained.snapshots[:, 0] = job.weights.cpu()
        done = checkpointing.restore(checkpoint, identity, _state(job, trained))
        for block, (start, end) in enumerate(pairwise(ends), start=1):
            if block > done:
                trained.losses[:, block] = job.advance(range(start, end))
                trained.snapshots[:, block] = job.weights.cpu()
                checkpointing.save(checkpoint, identity, _state(job, trained), block)
            means = zip(job.starts, trained.losses[:, block].tolist(), strict=True)
            report(end, {f"training_loss/seed_{seed}": loss for seed, loss in means})
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
    return best(trained, settings.seeds if starts is None else len(starts))


def merge(shards: Sequence[Trained], number: int) -> Trained:
    """The outcome of one job from those of its shards, in their order.

    Args:
        number: of random starts to keep.
    """
    snapshots, losses, start_losses = (
        torch.cat([getattr(shard, part) for shard in shards]) for part in ("snapshots", "losses", "start_losses")
    )
    return best(Trained(shards[0].steps, snapshots, losses, start_losses), number)


def best(trained: Trained, number: int) -> Trained:
    """The `number` random starts with the lowest training loss at the end, in their order."""
    kept = trained.start_losses.argsort(stable=True)[:number].sort().values
    return Trained(trained.steps, trained.snapshots[kept], trained.losses[kept], trained.start_losses.clone())


def _state(job: Job, trained: Trained) -> dict[str, Tensor]:
    return {"weights": job.weights, **job.moments, "snapshots": trained.snapshots, "losses": trained.losses}

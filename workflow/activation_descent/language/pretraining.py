"""Pretraining: next-token prediction on the corpus, until the model learns in context, knows its facts and its loss has settled.

Rows grow in stages, from short ones, most of them documents of classification in their shortest form, to the mixture at full length; a
stage ends when the model learns from its documents in context (length warm-up; Press et al. 2021 and Li et al. 2022 train larger models
so). Before a model has learned where to look, its attention spreads over all that it has read, and the few words that matter count the less
the longer the row is: in rows of 32 tokens it learns from some 1.5 million tokens, in rows of 128 not from 5 million. When the gate is met
and the loss has settled, the learning rate falls to zero and training ends. Each step's documents come from a stream of their own, so a run
that resumes meets the same documents as one that was never interrupted, and ends with the same bytes.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from activation_descent import checkpointing
from activation_descent.adam import Adam
from activation_descent.errors import DivergedError
from activation_descent.language import STUDY
from activation_descent.language import world as words
from activation_descent.language.corpus import Corpus, Mixture
from activation_descent.language.gate import Gate
from activation_descent.language.network import Network, Shape, next_token_loss, rotary_tables
from activation_descent.language.world import World, make_tokenizer, save_world
from activation_descent.records import write_text
from activation_descent.seeding import generator

EXPERIMENT = "pretraining"
Report = Callable[[int, Mapping[str, float]], None]
Stream = Callable[..., np.random.Generator]


@dataclass(frozen=True)
class Pretraining:
    """What an embedded model is and how it is trained; `config/README.md` explains each setting."""

    hidden_size: int
    layers: int
    heads: int
    mlp_size: int
    rotary_base: float
    init_scale: float
    stages: Sequence[Mapping[str, int | float]]
    stage_steps: int
    stage_accuracy: float
    steps: int
    decay_steps: int
    rows: int
    learning_rate: float
    warmup_steps: int
    beta1: float
    beta2: float
    weight_decay: float
    clip_norm: float
    block: int
    settled: float
    in_context_accuracy: float
    fact_accuracy: float

    @property
    def context_length(self) -> int:
        """Tokens of a row at full length."""
        return int(self.stages[-1]["length"])


@dataclass
class Course:
    """Curves of a training job, one number for each finished block.

    Attributes:
        curves: by name; not a number for blocks that are still to come.
        begun: for each stage the block with which it began, -1 as long as it has not.
        met: the block after which the learning rate began to fall, 0 as long as it has not.
    """

    curves: dict[str, Tensor]
    begun: Tensor
    met: Tensor

    @property
    def stage(self) -> int:
        """The stage that has begun last."""
        return int((self.begun >= 0).sum()) - 1

    @classmethod
    def empty(cls, blocks: int, stages: int) -> "Course":
        """Before the first block; the first stage has begun."""
        names = ("training_loss", "in_context_accuracy", "zero_shot_accuracy", "fact_accuracy")
        curves = {name: torch.full((blocks,), torch.nan, dtype=torch.float64) for name in names}
        begun = torch.full((stages,), -1)
        begun[0] = 0
        return cls(curves, begun, torch.zeros((), dtype=torch.long))


def make_network(settings: Pretraining, vocabulary: int, rng: np.random.Generator) -> Network:
    """A network with normal weights of standard deviation `init_scale`."""
    shape = Shape(vocabulary, settings.hidden_size, settings.mlp_size, settings.layers, settings.heads)
    network = Network(shape)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 2:
                drawn = rng.standard_normal(parameter.shape, dtype=np.float32) * np.float32(settings.init_scale)
                parameter.copy_(torch.from_numpy(drawn))
    return network


class Job:
    """One model on its way: weights, optimiser and corpus.

    Args:
        stream: the random streams of another study's job, by variant, purpose and step.
        attends: what its blocks attend with, in place of softmax attention; trained with the network.
    """

    def __init__(
        self,
        settings: Pretraining,
        world: World,
        mixture: Mixture,
        root: int,
        size: str,
        stream: Stream | None = None,
        attends: nn.ModuleList | None = None,
    ):
        self.settings, self.size, self.attends = settings, size, attends
        self.stream = stream or partial(generator, root, STUDY, EXPERIMENT)
        self.corpus = Corpus(world, mixture)
        self.network = make_network(settings, len(world.vocabulary), self.stream(size, "initialise"))
        head_dim = settings.hidden_size // settings.heads
        self.tables = rotary_tables(settings.context_length, head_dim, settings.rotary_base)
        self.parameters = [*self.network.parameters(), *(attends.parameters() if attends else ())]
        self.adam = Adam(self.parameters, (settings.beta1, settings.beta2), settings.weight_decay)

    def rows(self, step: int, stage: int) -> Tensor:
        """The documents of one step, from the stream "train": as many tokens in short rows as in those of full length."""
        settings = self.settings
        rng = self.stream("corpus", "train", step=step)
        length = int(settings.stages[stage]["length"])
        number = settings.rows * settings.context_length // length
        short = round(settings.stages[stage]["short"] * number)
        parts = [self.corpus.short(rng, short, length), self.corpus.rows(rng, number - short, length)]
        return torch.from_numpy(np.concatenate(parts))

    def rate(self, step: int, decay_from: int) -> float:
        """The learning rate: a linear warm-up, then constant, then a linear fall to zero once the gate is met."""
        settings = self.settings
        falling = 1.0 if step < decay_from else 1 - (step - decay_from) / settings.decay_steps
        return settings.learning_rate * min(1.0, (step + 1) / settings.warmup_steps) * falling

    def advance(self, steps: range, stage: int, decay_from: int) -> float:
        """Train through `steps`, with a learning rate that falls from step `decay_from` on; returns the mean loss.

        Args:
            stage: which of `settings.stages` to read.

        Raises:
            DivergedError: if it is not finite.
        """
        total = 0.0
        for step in steps:
            loss = next_token_loss(self.network, self.rows(step, stage), self.tables, self.attends)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
            self.adam.step(self.rate(step, decay_from))
            total += loss.item()
        mean = total / len(steps)
        if not math.isfinite(mean):
            raise DivergedError(
                f"training of the embedded model {self.size} diverged: its loss is {mean} before step {steps[-1] + 1}"
            )
        return mean


def train(
    settings: Pretraining,
    world: World,
    mixture: Mixture,
    root: int,
    size: str,
    checkpoint: Path | None = None,
    code: str = "",
    report: Report = lambda step, values: None,
) -> tuple[Network, Course]:
    """Train one embedded model.

    Args:
        root: the configuration's `seed`.
        checkpoint: rewritten after each block, removed at the end; see `checkpointing`.
        code: a digest of the program.
        report: called after each block with the step and the curves' values, earlier blocks of a resumed run included.

    Raises:
        DivergedError: if the loss is no longer finite.
        CheckpointError: if the checkpoint is damaged.
    """
    with checkpointing.alone(checkpoint):
        job = Job(settings, world, mixture, root, size)
        gates = stage_gates(job.corpus, settings, root)
        blocks = math.ceil(settings.steps / settings.block)
        course = Course.empty(blocks, len(settings.stages))
        identity = json.dumps(
            {
                "root": root,
                "size": size,
                "code": code,
                "world": asdict(world),
                "settings": [*map(asdict, (settings, mixture))],
            },
            sort_keys=True,
        )
        state = {**job.adam.state(), **course.curves, "begun": course.begun, "met": course.met}
        done = checkpointing.restore(checkpoint, identity, state)
        for block in range(blocks):
            start, end = block * settings.block, min((block + 1) * settings.block, settings.steps)
            met = int(course.met)
            decay_from = min(met * settings.block if met else settings.steps, settings.steps - settings.decay_steps)
            end = min(end, decay_from + settings.decay_steps)
            if start >= end:
                break
            if block >= done:
                stage = course.stage
                loss = job.advance(range(start, end), stage, decay_from)
                values = {"training_loss": loss, **gates[stage].measure(job.network, job.tables)}
                for name, value in values.items():
                    course.curves[name][block] = value
                learned = values["in_context_accuracy"] >= settings.stage_accuracy
                long = (block + 1 - int(course.begun[stage])) * settings.block >= settings.stage_steps
                if stage + 1 < len(gates) and (learned or long):
                    course.begun[stage + 1] = block + 1
                if not met and _ready(course, settings, block):
                    course.met.fill_(block + 1)
                checkpointing.save(checkpoint, identity, state, block + 1)
            report(end, {name: float(curve[block]) for name, curve in course.curves.items()})
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
    return job.network, course


def stage_gates(corpus: Corpus, settings: Pretraining, root: int) -> list[Gate]:
    """What each stage is watched by: the first by documents in the shortest form, the others by those of the study."""
    short = words.spell_out(words.SHORT_TEMPLATE, words.SHORT_TEXT)
    full = words.spell_out(words.CLASSIFICATION_TEMPLATES[0], max(words.TEXT_LENGTHS))
    lengths = [int(stage["length"]) for stage in settings.stages]
    return [Gate(corpus, full if place or len(lengths) == 1 else short, length, root) for place, length in enumerate(lengths)]


def _ready(course: Course, settings: Pretraining, block: int) -> bool:
    """Whether the gate is met on the tuning documents and the loss has settled: fell by less than the share `settled` in a block."""
    loss = course.curves["training_loss"]
    return (
        0 <= int(course.begun[-1]) < block  # two blocks of full length
        and float(course.curves["in_context_accuracy"][block]) >= settings.in_context_accuracy
        and float(course.curves["fact_accuracy"][block]) >= settings.fact_accuracy
        and float(loss[block]) >= (1 - settings.settled) * float(loss[block - 1])
    )


def course_records(course: Course, settings: Pretraining, size: str) -> Iterator[dict[str, Any]]:
    """The curves as rows of records, one for each finished block."""
    for metric, curve in course.curves.items():
        for block, value in enumerate(curve.tolist()):
            if math.isfinite(value):
                step = min((block + 1) * settings.block, settings.steps)
                yield {"study": STUDY, "experiment": EXPERIMENT, "variant": size, "step": step, "metric": metric, "value": value}


def as_library_model(network: Network, settings: Pretraining) -> nn.Module:
    """The `LlamaForCausalLM` with a network's weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **asdict(network.config),
        max_position_embeddings=settings.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": settings.rotary_base},
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    weights = network.state_dict()
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    return model


def save_model(network: Network, world: World, settings: Pretraining, mixture: Mixture, folder: Path) -> None:
    """Write an ordinary Hugging Face folder, with the world beside it, whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    as_library_model(network, settings).save_pretrained(partial)
    make_tokenizer(world, settings.context_length).save_pretrained(partial)
    save_world(world, partial / "world.json")
    write_text(json.dumps({**asdict(settings), "mixture": asdict(mixture)}, indent=2) + "\n", partial / "training.json")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)

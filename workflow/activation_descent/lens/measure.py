"""Fit lenses to one subject, and measure what they read: the records of one variant.

Streams of tokens never meet: "lens" fits translators, "calibrate" the scale and shift of each pair, "evaluate" is what every number is
about, "intervene" what interventions are tried on. Each seed reads tokens of its own, the same for every kind of model.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from activation_descent.lens import CARRIED, MODEL, ROTATED, STUDY, causal_basis, gains, nulls, trajectories, transfer
from activation_descent.lens.gains import Matrix
from activation_descent.lens.readout import Batch, readings
from activation_descent.lens.states import Recorded, Subject, Tokens, batch_of
from activation_descent.lens.tokens import Source
from activation_descent.lens.transfer import Calibration
from activation_descent.lens.translators import KINDS, Fit, Reader, Stream, Translators, fit
from activation_descent.records import Row
from activation_descent.seeding import generator

EXPERIMENT = "lenses"
RECORDED = 2048  # tokens of a seed that a subject reads at once, where batches are smaller

Name = tuple[str, str]
# Which kind reads which states: the model's own, and the two nulls
READ: tuple[Name, ...] = (*((kind, MODEL) for kind in KINDS), ("shared", ROTATED), ("tuned", CARRIED), ("shared", CARRIED))
# What a control is read by: no more than its gate and its place beside the models ask for
OF_CONTROLS: tuple[Name, ...] = (("logit", MODEL), ("tuned", MODEL), ("shared", MODEL), ("shared", ROTATED))
CALIBRATED = (("tuned", MODEL), ("tuned", CARRIED))


@dataclass(frozen=True)
class Measurement:
    """What lenses are fitted and measured with; `config/README.md` explains each setting. Tokens are those of one seed."""

    optimiser: str
    learning_rate: float
    steps: int
    tokens: int
    batch_tokens: int
    calibration_steps: int
    calibration_rate: float
    evaluation_tokens: int
    intervention_tokens: int
    directions: int
    shown_tokens: int


@dataclass
class Lenses:
    """What was fitted on a subject."""

    readers: dict[Name, Reader]
    calibrations: dict[Name, Calibration]
    course: list[dict[Name, float]]


def stream_of(source: Source, purpose: str, settings: Measurement, steps: int, batches: int = 1) -> Stream:
    """The batches of each step, for steps in their order. Those of several steps are recorded together: small products cost more."""
    rows = max(1, settings.batch_tokens // source.length)
    together = max(1, RECORDED // (rows * source.length))

    def recorded() -> Iterator[Batch]:
        for first in range(0, steps * batches, together):
            places = range(first, min(first + together, steps * batches))
            read = batch_of(source.subject, torch.cat([source.draw(purpose, place, rows) for place in places], 1))
            yield from read.parts(len(places))

    found = recorded()
    return lambda step: islice(found, batches)


def make_readers(subject: Subject, seeds: int, rng: np.random.Generator, names: Sequence[Name] = READ) -> dict[Name, Reader]:
    """Untrained translators; nulls with bases of their own for each seed."""
    width = subject.unembedding.weight.shape[-1]
    rotated = nulls.rotated(nulls.rotations(rng, seeds, subject.layers, width))
    carried = nulls.carried_along(nulls.rotations(rng, seeds, subject.layers, width))
    transforms = {MODEL: lambda states: states, ROTATED: rotated, CARRIED: carried}
    return {
        (kind, states): Reader(Translators.initial(kind, seeds, subject.layers, width, rng), transforms[states])
        for kind, states in names
    }


def fit_lenses(
    source: Source,
    settings: Measurement,
    variant: str,
    report: Callable[[int, Mapping[Name, float]], None] = lambda step, losses: None,
    names: Sequence[Name] = READ,
) -> Lenses:
    """Fit translators, then the scales and shifts of those of each layer's own.

    Args:
        report: called after each step with the loss of each reader, in nats.
        names: kinds, and the states that they read.
    """
    subject = source.subject
    readers = make_readers(subject, source.seeds, generator(source.root, STUDY, EXPERIMENT, variant, "initialise"), names)
    batches = max(1, settings.tokens // max(settings.batch_tokens, source.length))
    fitting = Fit(settings.optimiser, settings.learning_rate, settings.steps, batches)
    course = fit(readers, subject.unembedding, stream_of(source, "lens", settings, settings.steps, batches), fitting, report)
    chosen = {name: readers[name] for name in CALIBRATED if name in readers}
    calibration = Fit("adam", settings.calibration_rate, settings.calibration_steps)
    tuning = stream_of(source, "calibrate", settings, settings.calibration_steps)
    return Lenses(readers, transfer.calibrate(chosen, subject.unembedding, tuning, calibration), course)


# Measurements


@dataclass
class Evaluation:
    """Numbers in bits for each document of the evaluation tokens.

    Attributes:
        prior: K0 of each seed.
        model: cross-entropy of the model's own predictions.
        lenses: KL and cross-entropy at each layer, of every kind of translator.
        matrices: of translators of each layer's own on every layer, see `transfer.matrices`.
        calibrated: the same with scale and shift.
    """

    prior: Float64[np.ndarray, " seed"]
    model: Float64[np.ndarray, "seed row"]
    lenses: dict[Name, dict[str, Float64[np.ndarray, "seed layer row"]]]
    matrices: dict[Name, dict[str, Matrix]]
    calibrated: dict[Name, dict[str, Matrix]]


def evaluate(source: Source, lenses: Lenses, settings: Measurement) -> Evaluation:
    """Everything that is a mean over the evaluation tokens, which are read in batches."""
    parts, mean, entropy, tokens = [], 0.0, 0.0, 0
    rows = max(1, settings.batch_tokens // source.length)
    for step in range(max(1, settings.evaluation_tokens // (rows * source.length))):
        batch = batch_of(source.subject, source.draw("evaluate", step, rows))
        parts.append(_evaluate(source.subject, lenses, batch, rows))
        mean, entropy = mean + batch.final.double().sum(1), entropy - batch.negative_entropy.double().sum(1)
        tokens += batch.final.shape[1]
    average = mean / tokens
    prior = (-torch.special.xlogy(average, average).sum(-1) - entropy / tokens) / math.log(2)
    return Evaluation(prior.numpy(), *_join(parts))


def _evaluate(subject: Subject, lenses: Lenses, batch: Batch, rows: int) -> tuple:
    unembedding = subject.unembedding
    by_row = partial(transfer.by_row, rows=rows)
    read = {
        name: {
            metric: by_row(values)
            for metric, values in readings(reader.translators(reader.transform(batch.states)), unembedding, batch).items()
        }
        for name, reader in lenses.readers.items()
    }
    own = batch.final.gather(-1, batch.following[..., None])[..., 0].log() / -math.log(2)
    matrices = {name: transfer.matrices(lenses.readers[name], unembedding, batch, rows) for name in lenses.calibrations}
    moved = {
        name: transfer.calibrated(lenses.readers[name], calibration, unembedding, batch, rows)
        for name, calibration in lenses.calibrations.items()
    }
    return by_row(own[:, None])[:, 0], read, matrices, moved


def _join(parts: list[Any]) -> Any:
    """Batches of documents end to end, through tuples and dictionaries of arrays whose last axis is the document."""
    first = parts[0]
    if isinstance(first, dict):
        return {key: _join([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(_join([part[place] for part in parts]) for place in range(len(first)))
    return np.concatenate(parts, -1)


def lens_records(evaluation: Evaluation, root: int, variant: str) -> Iterator[Row]:
    """Rows of records: K0, the model's own cross-entropy, every lens at every layer, every cell of the matrices, forward gains.

    A seed whose model knows no more than mean frequencies (K0 < .05 bits) has no ratios, and a pair without improvement no part in them.
    """
    for seed, prior in enumerate(evaluation.prior.tolist()):
        base = {"study": STUDY, "experiment": EXPERIMENT, "variant": variant, "seed": seed}
        yield base | {"metric": "prior_kl", "value": prior}
        yield base | {"metric": "model_cross_entropy", "value": evaluation.model[seed].mean()}
        for (kind, states), read in evaluation.lenses.items():
            for metric, values in read.items():
                for layer, value in enumerate(values[seed].mean(-1).tolist()):
                    yield base | {
                        "lens": kind,
                        "states": states,
                        "layer": layer,
                        "metric": {"divergence": "lens_kl", "cross_entropy": "lens_cross_entropy"}[metric],
                        "value": value,
                    }
        for name, matrices in evaluation.matrices.items():
            kind, states = name
            cells = base | {"lens": kind, "states": states}
            found = {f"transfer_{metric}": matrix[seed] for metric, matrix in matrices.items()}
            found |= {f"calibrated_{metric}": matrix[seed] for metric, matrix in evaluation.calibrated[name].items()}
            for metric, matrix in found.items():
                for fitted, applied, value in gains.cells(matrix.mean(-1)):
                    yield cells | {"fitted": fitted, "layer": applied, "metric": metric, "value": value}
            if prior < gains.KNOWING:
                continue
            rng = generator(root, STUDY, EXPERIMENT, variant, f"bootstrap/{states}", seed)
            yield from _gains(found, cells, rng)


def _gains(found: Mapping[str, Float64[np.ndarray, "fitted applied row"]], base: Row, rng: np.random.Generator) -> Iterator[Row]:
    """Forward gains with their intervals over documents."""
    for name, metric in (("", "divergence"), ("_cross_entropy", "cross_entropy")):
        for prefix, moved in (("forward_gain", None), ("calibrated_gain", found[f"calibrated_{metric}"])):
            matrix = found[f"transfer_{metric}"]
            value = gains.forward_gain(matrix.mean(-1), None if moved is None else moved.mean(-1))
            if math.isnan(value):
                continue
            yield base | {"metric": f"{prefix}{name}", "value": value}
            low, high = gains.forward_gain_interval(matrix, moved, rng)
            yield base | {"metric": f"{prefix}{name}_low", "value": low}
            yield base | {"metric": f"{prefix}{name}_high", "value": high}


def path_records(source: Source, lenses: Lenses, settings: Measurement, variant: str) -> Iterator[Row]:
    """Progress, differences between layers, stimulus and response, and the causal basis of the middle layer."""
    subject, number = source.subject, max(2, settings.intervention_tokens // source.length)
    tokens = source.draw("intervene", 0, number)
    recorded = subject.record(tokens)
    batch = batch_of(subject, tokens)
    unembedding, tuned = subject.unembedding, lenses.readers["tuned", MODEL].translators
    shared, logit = lenses.readers["shared", MODEL].translators, lenses.readers["logit", MODEL].translators

    def rows(metric: str, values: Tensor, **columns: Any) -> Iterator[Row]:
        """A row for each seed and layer, or step, or block."""
        for (seed, place), value in np.ndenumerate(values.double().numpy()):
            base = {"study": STUDY, "experiment": "paths", "variant": variant, "seed": seed, "layer": place}
            yield base | columns | {"metric": metric, "value": float(value)}

    final = recorded[:, -1, :, :-1].flatten(1, 2)
    for metric, values in trajectories.progress(shared, unembedding, batch, final).items():
        yield from rows(metric, values, lens="shared")
    for metric, values in trajectories.steps_between(tuned, unembedding, batch).items():
        yield from rows(metric, values, lens="tuned")
    places = [
        generator(source.root, STUDY, "paths", "all", "position", seed).integers(tokens.shape[2], size=number)
        for seed in range(source.seeds)
    ]
    position = torch.from_numpy(np.stack(places))
    both = {"tuned": tuned, "logit": logit}
    for name, values in trajectories.stimulus_response(subject, both, tokens, recorded, position).items():
        yield from rows("stimulus_response", values, lens=name)
    yield from _basis_records(subject, tuned, tokens, recorded, batch, settings.directions, rows)


def _basis_records(
    subject: Subject, tuned: Translators, tokens: Tokens, recorded: Recorded, batch: Batch, number: int, rows: Callable
) -> Iterator[Row]:
    from scipy.stats import spearmanr

    layer, directions, energies = subject.layers // 2, [], []
    for seed in range(len(recorded)):
        own = tuned.one(layer).of(seed)
        found = causal_basis.extract(batch.states[seed, layer], own, subject.unembedding.of(seed), number)
        directions.append(found[0])
        energies.append(torch.from_numpy(found[1]))
    on_lens = torch.stack(energies)
    on_model = causal_basis.model_influence(subject, tokens, layer, recorded[:, layer], batch.final, torch.stack(directions))
    yield from rows("lens_influence", on_lens / math.log(2), lens="tuned")
    yield from rows("model_influence", on_model / math.log(2), lens="tuned")
    ranks = [spearmanr(a, b).statistic for a, b in zip(on_lens.numpy(), on_model.numpy(), strict=True)]
    yield from rows("causal_fidelity", torch.tensor(ranks)[:, None], lens="tuned")


def shown_trajectory(source: Source, lenses: Lenses, settings: Measurement) -> trajectories.Trajectory:
    """The beginning of one evaluation document."""
    tokens = source.draw("intervene", 0, 1)
    tuned = lenses.readers["tuned", MODEL].translators
    batch = batch_of(source.subject, tokens)
    length = min(settings.shown_tokens, source.length - 1)
    return trajectories.trajectory(tuned, source.subject.unembedding, batch, tokens[0, 0], source.words, length)

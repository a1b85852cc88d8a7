"""Forward gain on synthetic streams: what the metric says where the truth is known."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from activation_descent.lens import STUDY, gains, nulls, transfer
from activation_descent.lens.readout import readings
from activation_descent.lens.translators import Fit, Reader, Translators, fit
from activation_descent.seeding import generator

EXPERIMENT = "synthetic"


@dataclass(frozen=True)
class Trial:
    """How lenses are fitted to a synthetic stream.

    Attributes:
        samples: of a step.
        evaluation: samples that every number is about.
    """

    seeds: int
    steps: int
    calibration_steps: int
    samples: int
    evaluation: int
    learning_rate: float = 0.02
    calibration_rate: float = 0.02


def stream_rows(kind: str, shape: nulls.Synthetic, trial: Trial, root: int) -> Iterator[dict[str, Any]]:
    """Rows of records of one stream: K at each layer, shared_information, forward_gain and calibrated_gain, for each seed."""
    stream = partial(generator, root, STUDY, EXPERIMENT, kind)
    world = nulls.World.draw(kind, shape, stream("initialise"), trial.seeds)
    unembedding = world.unembedding
    readers = {
        name: Reader(Translators.initial(name, trial.seeds, shape.layers, shape.width, stream(name)))
        for name in ("tuned", "shared")
    }
    fit(readers, unembedding, world.stream(partial(stream, "lens"), trial.samples), Fit("adam", trial.learning_rate, trial.steps))
    calibration = transfer.calibrate(
        {"tuned": readers["tuned"]},
        unembedding,
        world.stream(partial(stream, "calibrate"), trial.samples),
        Fit("adam", trial.calibration_rate, trial.calibration_steps),
    )
    batch = world.batch(stream("evaluate"), trial.evaluation)
    prior = transfer.prior(batch)
    own = transfer.matrices(readers["tuned"], unembedding, batch, 1)["divergence"][..., 0]
    moved = transfer.calibrated(readers["tuned"], calibration["tuned"], unembedding, batch, 1)["divergence"][..., 0]
    shared = readings(readers["shared"].translators(batch.states), unembedding, batch)["divergence"].double().mean(-1).numpy()
    for seed in range(trial.seeds):
        base = {"study": STUDY, "experiment": EXPERIMENT, "variant": kind, "seed": seed}
        at_home = gains.diagonal(own[seed])
        for layer, value in enumerate(at_home.tolist()):
            yield base | {"layer": layer, "metric": "lens_kl", "value": value}
        found = {
            "shared_information": gains.shared_information(prior[seed], shared[seed], at_home),
            "forward_gain": gains.forward_gain(own[seed]),
            "calibrated_gain": gains.forward_gain(own[seed], moved[seed]),
        }
        for metric, value in found.items():
            if not math.isnan(value):
                yield base | {"metric": metric, "value": value}

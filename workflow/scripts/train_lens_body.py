"""Train all seeds of one kind of the lens study's small language models; a wandb run shows their losses."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.language.corpus import Corpus, Mixture
from activation_descent.language.world import load_world
from activation_descent.lens import STUDY, bodies
from activation_descent.tracking import Progress, log_to, track

REPORTS = 20  # points of a curve

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, kind = snakemake.params, snakemake.wildcards.body
settings = {key: value for key, value in params.bodies.items() if key != "seeds"}
shape, world = bodies.Shape(**settings), load_world(Path(snakemake.input.world))
letters = bodies.Letters(Corpus(world, Mixture(**params.mixture)), world.vocabulary)
progress = Progress(f"{snakemake.rule} {kind}", shape.steps)
config = {"seed": params.seed, "kind": kind, **params.bodies, "mixture": params.mixture}
curve = []

# From the configuration and not from params: how a job is recorded is no reason to train again
with track(snakemake.config["tracking"], Path(params.runs), STUDY, snakemake.rule, kind, config) as log:

    def report(step, losses):
        log(step, losses)
        progress(step, losses)
        row = {"study": STUDY, "experiment": "bodies", "variant": kind, "step": step, "metric": "training_loss"}
        curve.extend(row | {"seed": seed, "value": loss} for seed, loss in enumerate(losses.values()))

    body = bodies.train(kind, shape, letters, params.seed, params.bodies["seeds"], max(1, shape.steps // REPORTS), report)
    bodies.save(body, Path(snakemake.output.model))
    records.write(records.frame(curve), snakemake.output.curve)

"""Train one embedded language model on the corpus; a wandb run shows its curves while they grow."""

from dataclasses import asdict
from pathlib import Path

import torch

from activation_descent import records
from activation_descent.language import STUDY, pretraining
from activation_descent.language.corpus import Mixture
from activation_descent.language.world import load_world
from activation_descent.tracking import Progress, log_to, track

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, size = snakemake.params, snakemake.wildcards.size
settings = pretraining.Pretraining(**params.training)
mixture = Mixture(**params.corpus["mixture"])
world = load_world(Path(snakemake.input.world))
progress = Progress(f"{snakemake.rule} {size}", settings.steps)
config = {"seed": params.seed, "size": size, **asdict(settings), "mixture": asdict(mixture)}

# From the configuration and not from params: how a job is recorded is no reason to train again
with track(snakemake.config["tracking"], Path(params.runs), STUDY, snakemake.rule, size, config) as log:

    def report(step, values):
        log(step, values)
        watched = {name: value for name, value in values.items() if name != "training_loss"}
        progress(step, {"training_loss": values["training_loss"]}, watched)

    curve = Path(snakemake.output.curve)
    checkpoint = curve.with_name("checkpoint.safetensors")
    network, course = pretraining.train(settings, world, mixture, params.seed, size, checkpoint, params.code, report)
    pretraining.save_model(network, world, settings, mixture, Path(snakemake.output.model))
    records.write(records.frame(pretraining.course_records(course, settings, size)), curve)

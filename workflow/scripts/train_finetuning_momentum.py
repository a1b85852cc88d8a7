"""Train language models with one kind of attention, and measure perplexity and in-context accuracy; a wandb run shows the loss."""

from dataclasses import asdict
from pathlib import Path

import torch

from activation_descent import records
from activation_descent.finetuning import STUDY, momentum, momentum_training
from activation_descent.language.corpus import Mixture
from activation_descent.language.pretraining import Pretraining
from activation_descent.language.world import load_world
from activation_descent.tracking import Progress, log_to, track

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, attention = snakemake.params, snakemake.wildcards.attention
settings, mixture = Pretraining(**params.momentum["training"]), Mixture(**params.momentum["mixture"])
world = load_world(Path(snakemake.input.world))
seeds, evaluation = params.momentum["seeds"], momentum.Evaluation(**params.momentum["evaluation"])
progress = Progress(f"{snakemake.rule} {attention}", settings.steps)
config = {"seed": params.seed, "attention": attention, "seeds": seeds, **asdict(settings), "mixture": asdict(mixture)}

# From the configuration and not from params: how a job is recorded is no reason to train again
with track(snakemake.config["tracking"], Path(params.runs), STUDY, snakemake.rule, attention, config) as log:

    def report(step, values):
        log(step, values)
        progress(step, values)

    output = Path(snakemake.output[0])
    checkpoint = output.with_name(f"{attention}.checkpoint.safetensors")
    jobs = momentum_training.train(attention, settings, world, mixture, params.seed, seeds, checkpoint, params.code, report)
    rows = momentum.momentum_records(attention, jobs, evaluation, params.seed)
    records.write(records.frame(rows), output)

"""Train encoders on each sampler of SimpleLogic; a wandb run shows the loss of each."""

from dataclasses import asdict
from pathlib import Path

import torch

from activation_descent.reasoning import STUDY, logic_training
from activation_descent.tracking import Progress, log_to, track

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
settings = logic_training.Logic(**params.logic)
progress = Progress(snakemake.rule, settings.steps)

# From the configuration and not from params: how a job is recorded is no reason to train again
config = {"seed": params.seed, **asdict(settings)}
with track(snakemake.config["tracking"], Path(params.runs), STUDY, snakemake.rule, "logic", config) as log:

    def report(step, values):
        log(step, values)
        progress(step, values)

    output = Path(snakemake.output[0])
    checkpoint = output.with_name("checkpoint.safetensors")
    logic_training.train_networks(settings, params.seed, checkpoint, params.code, report).save(output)

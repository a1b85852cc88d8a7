"""Train encoders, or perceptrons, of every depth on knapsack problems; a wandb run shows the loss of each."""

from dataclasses import asdict
from pathlib import Path

import torch

from activation_descent.reasoning import STUDY, knapsack
from activation_descent.tracking import Progress, log_to, track

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, kind = snakemake.params, snakemake.wildcards.network
settings = knapsack.Knapsack(**params.knapsack)
progress = Progress(f"{snakemake.rule} {kind}", settings.steps)

# From the configuration and not from params: how a job is recorded is no reason to train again
config = {"seed": params.seed, "network": kind, **asdict(settings)}
with track(snakemake.config["tracking"], Path(params.runs), STUDY, snakemake.rule, kind, config) as log:

    def report(step, values):
        log(step, values)
        progress(step, values)

    output = Path(snakemake.output[0])
    checkpoint = output.with_name("checkpoint.safetensors")
    weights = knapsack.train_networks(kind, settings, params.seed, checkpoint, params.code, report)
    weights.save(output)

"""Train layers of one kind of attention on mixtures, and hold them against gradient steps; a wandb run shows the losses."""

import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from activation_descent import records
from activation_descent.attention import STUDY, layers, transfer
from activation_descent.attention.mixtures import Mixture
from activation_descent.tracking import Progress, log_to, track

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, attention = snakemake.params, snakemake.wildcards.attention
settings, mixture = layers.Layers.from_settings(params.layers), Mixture(**params.mixture)
progress = Progress(f"{snakemake.rule} {attention}", settings.steps)
config = {"seed": params.seed, "attention": attention, **asdict(settings), "mixture": asdict(mixture)}

# From the configuration and not from params: how a job is recorded is no reason to train again
with track(snakemake.config["tracking"], Path(params.runs), STUDY, snakemake.rule, attention, config) as log:

    def report(step, losses):
        log(step, losses)
        progress(step, losses)

    output = Path(snakemake.output.weights)
    checkpoint = output.with_name(f"{attention}.checkpoint.safetensors")
    trained = layers.train(settings, mixture, attention, params.seed, checkpoint, params.code, report)

partial = output.with_name(output.name + ".partial")
save_file({"weights": trained.weights.contiguous(), "initial": trained.initial.contiguous()}, partial)
os.replace(partial, output)
rows = [*transfer.transfer_records(settings, mixture, attention, trained, params.seed)]
rows += transfer.growing_records(settings, mixture, attention, trained, params.seed)
records.write(records.frame(rows), snakemake.output.records)

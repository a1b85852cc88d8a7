"""Train image classifiers and put them through probes and lenses; a wandb run shows their losses."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.lens import STUDY, vision
from activation_descent.tracking import Progress, log_to, track

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
seeds, settings = params.vision["seeds"], vision.VisionSettings(**{k: v for k, v in params.vision.items() if k != "seeds"})
total = len(vision.VARIANTS) * seeds * settings.epochs
progress, rows = Progress(snakemake.rule, total), []

with track(snakemake.config["tracking"], Path(params.runs), STUDY, snakemake.rule, "digits", dict(params.vision)) as log:
    for place, variant in enumerate(vision.VARIANTS):

        def report(epoch, losses, variant=variant, before=place * seeds * settings.epochs):
            log(before + epoch, {f"{variant}/{name}": loss for name, loss in losses.items()})
            progress(before + epoch, losses)

        rows += vision.vision_records(variant, settings, params.seed, seeds, report)
records.write(records.frame(rows), snakemake.output[0])

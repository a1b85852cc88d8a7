"""Time the comparison with fine-tuning and its controls on one thread, for each task and draw."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.finetuning import benchmark
from activation_descent.finetuning.cells import Sampling
from activation_descent.finetuning.interventions import Effort
from activation_descent.language.prompts import speakers_of
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
rows = []
for variant, folder in zip(params.models, snakemake.input.models, strict=True):
    model, tasks = params.models[variant], params.tasks[variant]
    speakers = speakers_of(model, Path(folder), params.noise, params.seed, params.pool_size, tasks)
    rows += benchmark.measure(speakers, Sampling(**params.sampling), Effort.from_settings(params.effort), params.seed, variant)
records.write(records.frame(rows), snakemake.output[0])

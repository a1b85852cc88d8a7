"""Score the heads of one language model for the construction of a gradient step, and read what they add on prompts."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.attention import language_heads
from activation_descent.attention.circuits import circuits_of_model
from activation_descent.language.prompts import speakers_of
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
folder = Path(snakemake.input.model) if snakemake.input.get("model") else None
speakers = speakers_of(params.model, folder, params.noise, params.seed, params.pool_size, params.tasks)
scan = language_heads.Scan(**params.scan)
print(f"{variant}: {circuits_of_model(speakers[0].model).notes}")
rows = [*language_heads.model_records(speakers[0].model, scan, params.seed, variant)]
rows += language_heads.reading_records(speakers, scan, params.seed, variant)
records.write(records.frame(rows), snakemake.output[0])

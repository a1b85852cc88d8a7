"""Score the heads of a file with attention weights for the construction of a gradient step."""

import os
from pathlib import Path

import torch

from activation_descent import records
from activation_descent.attention import language_heads
from activation_descent.attention.circuits import circuits_of_checkpoint
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
path = Path(os.path.expandvars(params.checkpoint["path"])).expanduser()
circuits = circuits_of_checkpoint(path, params.checkpoint.get("heads"))
print(f"{variant}: {circuits.notes}")
scan = language_heads.Scan(**params.scan)
rows = language_heads.checkpoint_records(circuits, scan, params.seed, variant)
records.write(records.frame(rows), snakemake.output[0])

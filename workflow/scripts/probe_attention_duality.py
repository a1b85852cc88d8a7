"""Train a classifier on scikit-learn's digits, hold it against its dual form, and keep what a prediction looks at."""

import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from activation_descent import records
from activation_descent.attention import duality
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
settings, root = duality.Duality(**snakemake.params.duality), snakemake.params.seed
rows = []
for seed in range(settings.seeds):
    digits, training, numbers = duality.one_seed(settings, root, seed)
    rows += duality.duality_rows(numbers, seed)
    if seed == 0:
        shown = duality.picture(digits, training, duality.CLASSES, duality.SHOWN)
records.write(records.frame(rows), snakemake.output.numbers)
partial = Path(snakemake.output.picture + ".partial")
save_file({name: tensor.contiguous() for name, tensor in shown.items()}, partial)
os.replace(partial, snakemake.output.picture)

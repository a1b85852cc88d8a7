"""Forward gain on synthetic streams whose answer is known."""

import torch

from activation_descent import records
from activation_descent.lens import nulls, synthetic
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
trial, rows = synthetic.Trial(**params.synthetic), []
for kind in nulls.SYNTHETIC:
    rows += synthetic.stream_rows(kind, nulls.Synthetic(), trial, params.seed)
    print(f"{kind}: done")
records.write(records.frame(rows), snakemake.output[0])

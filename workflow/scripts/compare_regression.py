"""Hold every snapshot of one variant's layers against gradient descent on the same tasks."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.regression.alignment import alignment_records
from activation_descent.regression.training import Training, load_trained
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
training = Training(**params.training)
trained = load_trained(training, Path(snakemake.input.weights))
rows = alignment_records(training, params.tasks, params.seed, snakemake.wildcards.variant, trained)
records.write(records.frame(rows), snakemake.output.alignment)

"""Score heads that hold the construction: by hand, and trained on regression."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.attention import language_heads
from activation_descent.regression.training import Training, load_trained
from activation_descent.regression.transformer import unpack
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
training = Training(**params.training)
snapshots = load_trained(training, Path(snakemake.input.weights)).snapshots
one_layer = unpack(snapshots[:, -1], training.architecture)["attention"][:, 0, 0]
rows = language_heads.control_records(one_layer, params.seed, tuple(params.shape))
records.write(records.frame(rows), snakemake.output[0])

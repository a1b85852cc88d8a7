"""Check every statement that softmax attention is a gradient step, and read the trained softmax layers of the regression study by them."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.attention import softmax_gradients, softmax_layers
from activation_descent.regression.training import Training, load_trained
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
identities = softmax_gradients.identity_records(softmax_gradients.Identities(**params.identities), params.seed)
records.write(records.frame(identities), snakemake.output.identities)
rows = []
for (variant, settings), path in zip(params.training.items(), snakemake.input.weights, strict=True):
    training = Training(**settings)
    trained = load_trained(training, Path(path))
    rows += softmax_layers.reading_records(training, params.seed, variant, trained, params.tasks)
records.write(records.frame(rows), snakemake.output.readings)

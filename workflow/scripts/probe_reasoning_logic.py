"""Try encoders, trained and built by hand, on both samplers of SimpleLogic."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.reasoning import logic_training
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
settings = logic_training.Logic(**params.logic)
weights = logic_training.new_networks(settings, params.seed)
weights.load(Path(snakemake.input[0]))
records.write(records.frame(logic_training.accuracy_records(settings, weights, params.seed)), snakemake.output[0])

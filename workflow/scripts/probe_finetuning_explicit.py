"""The positive control of the comparison: a layer that is gradient descent by construction, its softmaxes, and random weights."""

import torch

from activation_descent import records
from activation_descent.finetuning.explicit import Control, explicit_records
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
control = Control(**snakemake.params.explicit)
records.write(records.frame(explicit_records(control, snakemake.params.seed)), snakemake.output[0])

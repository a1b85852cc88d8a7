"""Time pretraining of each size on one thread, and what reusing the demonstrations' keys and values saves."""

import torch

from activation_descent import records
from activation_descent.language import benchmark
from activation_descent.language.corpus import Mixture
from activation_descent.language.pretraining import Pretraining
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
mixture = Mixture(**params.corpus["mixture"])
rows = []
for size, settings in params.training.items():
    rows += benchmark.measure(
        Pretraining(**settings), mixture, params.corpus["held_out_facts"], size, params.demonstrations, params.repeats
    )
records.write(records.frame(rows), snakemake.output[0])

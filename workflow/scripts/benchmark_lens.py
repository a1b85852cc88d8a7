"""Time a step of fitting lenses on one thread, beside the authors' library where it is installed."""

import torch

from activation_descent import records
from activation_descent.lens import benchmark
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
records.write(records.frame(benchmark.measure(snakemake.params.repeats)), snakemake.output[0])

"""What each kind of attention gains on plain softmax attention with the same seed."""

from activation_descent import records
from activation_descent.finetuning.statistics import momentum_statistics
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
records.write(records.frame(momentum_statistics(records.read(list(snakemake.input)))), snakemake.output[0])

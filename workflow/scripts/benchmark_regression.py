"""Time a training step of each variant on one thread, split into drawing the tasks and updating the weights."""

from activation_descent import records
from activation_descent.regression.benchmark import step_times
from activation_descent.regression.training import Training
from activation_descent.tracking import log_to

log_to(snakemake.log[0], snakemake.threads)
rows = []
for variant, settings in snakemake.params.training.items():
    rows += step_times(Training(**settings), variant, snakemake.params.repeats)
records.write(records.frame(rows), snakemake.output[0])

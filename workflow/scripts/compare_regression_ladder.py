"""Set networks of one depth on the ladder of learners, on the same held-out tasks."""

from pathlib import Path

from activation_descent import records
from activation_descent.regression import ladder, statistics
from activation_descent.regression.training import Training, load_trained
from activation_descent.tracking import log_to

log_to(snakemake.log[0], snakemake.threads)
params, figure = snakemake.params, snakemake.wildcards.figure
settings = {variant: Training(**training) for variant, training in params.training.items()}
trained = {
    variant: load_trained(settings[variant], Path(path)) for variant, path in zip(settings, snakemake.input.weights, strict=True)
}
learners = records.read(snakemake.input.learners)
counts = (params.evaluation["tuning_tasks"], params.evaluation["tasks"])
table = records.frame(ladder.ladder_records(settings, trained, learners, *counts, params.seed, figure))
records.write(table, snakemake.output.ladder)
rows = statistics.rows(ladder.ladder_statistics(table, settings), "ladder", figure, step=0)
records.write(records.frame(rows), snakemake.output.statistics)

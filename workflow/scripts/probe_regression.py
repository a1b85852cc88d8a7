"""Try the trained networks of one variant on other inputs, weights, distributions, contexts and labels."""

from pathlib import Path

from activation_descent import records
from activation_descent.regression import alignment, probes, statistics
from activation_descent.regression.training import Training, load_trained
from activation_descent.tracking import log_to

log_to(snakemake.log[0], snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
training = Training(**params.training)
evaluation = alignment.Evaluation.from_settings(params.evaluation)
trained = load_trained(training, Path(snakemake.input.weights))
learners = records.read(snakemake.input.learners)

table = records.frame(probes.generalisation_records(training, evaluation, params.seed, variant, trained, learners))
records.write(table, snakemake.output.generalisation)
numbers = statistics.generalisation_statistics(table)
rows = statistics.rows(numbers, training.experiment, variant, training.steps)
records.write(records.frame(rows), snakemake.output.statistics)

"""Hold networks with a trained layer behind a perceptron against networks with a gradient step there."""

from pathlib import Path

from activation_descent import records
from activation_descent.regression import sine, statistics
from activation_descent.regression.training import Training, load_trained
from activation_descent.tracking import log_to

log_to(snakemake.log[0], snakemake.threads)
params, figure = snakemake.params, snakemake.wildcards.figure
training = tuple(Training(**settings) for settings in params.training)
trained = tuple(load_trained(settings, Path(path)) for settings, path in zip(training, snakemake.input.weights, strict=True))
number, share = params.evaluation["sweep_tasks"], params.evaluation["tail_share"]
table = records.frame(sine.sine_records(training, trained, number, params.seed, figure))
records.write(table, snakemake.output.sine)
numbers = sine.sine_statistics(table, training, trained, number, params.seed, figure, share)
rows = statistics.rows(numbers, training[0].experiment, figure, training[0].steps)
records.write(records.frame(rows), snakemake.output.statistics)

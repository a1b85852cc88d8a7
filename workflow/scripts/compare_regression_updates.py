"""Update the data instead of the weights: a linear model, and networks with a hidden layer."""

from activation_descent import records
from activation_descent.regression import statistics
from activation_descent.regression.updates import Updates, update_records, update_statistics
from activation_descent.tracking import log_to

log_to(snakemake.log[0], snakemake.threads)
updates = Updates.from_settings(snakemake.params.updates)
table = records.frame(update_records(updates, snakemake.params.seed))
records.write(table, snakemake.output.updates)
rows = statistics.rows(update_statistics(table), "updates", "updates", updates.steps)
records.write(records.frame(rows), snakemake.output.statistics)

"""Compare layers that were trained at N = d of several sizes, each with gradient descent at its size."""

from activation_descent import records
from activation_descent.regression import statistics
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
params = snakemake.params
alignments = records.read(list(snakemake.input.alignment))
numbers = statistics.size_statistics(alignments, params.sizes, params.tail_share)
rows = statistics.rows(numbers, "problem_size", snakemake.wildcards.figure, step=0)
records.write(records.frame(rows), snakemake.output.statistics)

"""Hold linear-time attention against softmax attention: on random inputs, and on the toy problems."""

import torch

from activation_descent import records
from activation_descent.attention import efficient_statistics as statistics
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
approximation = statistics.Approximation(**snakemake.params.approximation)
distances = records.frame(statistics.approximation_records(approximation, snakemake.params.seed))
records.write(distances, snakemake.output.approximations)
scores = records.read(list(snakemake.input))
rows = [*statistics.toy_statistics(scores), *statistics.approximation_statistics(distances)]
records.write(records.frame(rows), snakemake.output.statistics)

"""Time each kind of attention against the length on one thread, and draw it."""

import torch

from activation_descent import plotting, records
from activation_descent.attention import efficient_benchmark
from activation_descent.attention.efficient_figures import draw_costs
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
table = records.frame(efficient_benchmark.measure(params.lengths, params.features, params.repeats))
records.write(table, snakemake.output.table)
with plotting.style():
    plotting.save(draw_costs(table), snakemake.output.figure)

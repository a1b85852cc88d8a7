"""Draw kinds of attention against softmax attention, and the positive control of the comparison."""

from activation_descent import plotting, records
from activation_descent.finetuning.model_figures import draw_momentum
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
with plotting.style():
    momentum, explicit = records.read(snakemake.input.momentum), records.read(snakemake.input.explicit)
    plotting.save(draw_momentum(momentum, explicit), snakemake.output[0])

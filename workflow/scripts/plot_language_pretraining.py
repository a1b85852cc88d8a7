"""Draw the pretraining of the embedded models."""

from activation_descent import plotting, records
from activation_descent.language.figures import draw_pretraining
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
with plotting.style():
    plotting.save(draw_pretraining(records.read(snakemake.input.training), snakemake.params.training), snakemake.output[0])

"""Draw the statistics of the embedded models against their number of parameters."""

from activation_descent import plotting, records
from activation_descent.language.figures import draw_sizes
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
with plotting.style():
    figure = draw_sizes(records.read(snakemake.input.statistics), records.read(snakemake.input.quiz))
    plotting.save(figure, snakemake.output[0])

"""Draw the statistics of the embedded models against their number of parameters."""

from activation_descent import plotting, records
from activation_descent.language.figures import sizes_figure
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
statistics, quiz = records.read(list(snakemake.input.statistics)), records.read(list(snakemake.input.quiz))
plotting.save(sizes_figure(statistics, quiz), snakemake.output[0])

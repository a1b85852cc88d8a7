"""Draw linear-time attention against softmax attention on toy problems."""

from activation_descent import plotting, records
from activation_descent.attention.efficient_figures import draw_toy_problems
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
with plotting.style():
    scores, distances = records.read(list(snakemake.input.scores)), records.read(snakemake.input.approximations)
    plotting.save(draw_toy_problems(scores, distances), snakemake.output[0])

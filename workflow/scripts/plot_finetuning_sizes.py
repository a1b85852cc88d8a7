"""Draw similarity against size."""

from activation_descent import plotting, records
from activation_descent.finetuning.model_figures import draw_sizes
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
quiz = records.read(list(snakemake.input.quiz))
parameters = quiz[quiz["metric"] == "parameters"].set_index("variant")["value"].to_dict()
with plotting.style():
    plotting.save(draw_sizes(records.read(list(snakemake.input.statistics)), parameters), snakemake.output[0])

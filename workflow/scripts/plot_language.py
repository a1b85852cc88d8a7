"""Draw accuracy against demonstrations and what follows a question, for one language model."""

from activation_descent import plotting, records
from activation_descent.language.figures import model_figure
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
accuracy, quiz = records.read(snakemake.input.accuracy), records.read(snakemake.input.quiz)
plotting.save(model_figure(snakemake.wildcards.variant, accuracy, quiz), snakemake.output[0])

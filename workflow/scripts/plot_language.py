"""Draw accuracy against demonstrations, each task, and what follows a question, for one language model."""

from activation_descent import plotting, records
from activation_descent.language.figures import draw_model
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
accuracy, quiz, gate = (records.read(snakemake.input[table]) for table in ("accuracy", "quiz", "gate"))
with plotting.style():
    plotting.save(draw_model(snakemake.params.name, accuracy, quiz, gate, snakemake.params.judged), snakemake.output[0])

"""Probe the trained layers of one variant away from their training, roll them out, and put the controls beside them."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.regression import alignment, statistics
from activation_descent.regression.training import Training, load_trained
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
variant = snakemake.wildcards.variant
training = Training(**snakemake.params.training)
evaluation = alignment.Evaluation.from_settings(snakemake.params.evaluation)
trained = load_trained(training, Path(snakemake.input.weights))
run = (training, evaluation, snakemake.params.seed, variant, trained)

generalisation = records.frame(alignment.generalisation_records(*run))
rollout = records.frame(alignment.rollout_records(*run))
numbers = {
    **statistics.course_statistics(records.read(snakemake.input.alignment), training, evaluation, trained),
    **statistics.generalisation_statistics(generalisation, training),
    **statistics.rollout_statistics(rollout, evaluation.judged_damping),
    **statistics.control_statistics(*run),
}

records.write(generalisation, snakemake.output.generalisation)
records.write(rollout, snakemake.output.rollout)
rows = statistics.rows(numbers, training.experiment, variant, training.steps)
records.write(records.frame(rows), snakemake.output.statistics)

"""Hold networks of one variant against the learners, on the same tasks, beside controls; if asked to, away from training, too."""

from pathlib import Path

from activation_descent import records
from activation_descent.regression import alignment, probes, statistics
from activation_descent.regression.training import Training, load_trained
from activation_descent.tracking import log_to

log_to(snakemake.log[0], snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
training = Training(**params.training)
evaluation = alignment.Evaluation.from_settings(params.evaluation)
trained = load_trained(training, Path(snakemake.input.weights))
learners = records.read(snakemake.input.learners)

rows = list(alignment.alignment_records(training, params.tasks, params.seed, variant, trained, learners))
if training.tokens != "constructed":
    rows += probes.copying_records(training, params.tasks, params.seed, variant, trained)
table = records.frame(rows)
records.write(table, snakemake.output.alignment)
numbers = {
    **statistics.course_statistics(table, evaluation.tail_share),
    **statistics.weight_statistics(training, trained, evaluation.tail_share),
    **statistics.control_statistics(training, params.tasks, evaluation.tuning_tasks, params.seed, variant, trained, learners),
}
rows = statistics.rows(numbers, training.experiment, variant, training.steps)
records.write(records.frame(rows), snakemake.output.statistics)

if path := snakemake.output.get("generalisation"):
    table = records.frame(probes.generalisation_records(training, evaluation, params.seed, variant, trained, learners))
    records.write(table, path)
    rows = statistics.rows(statistics.generalisation_statistics(table), training.experiment, variant, training.steps)
    records.write(records.frame(rows), snakemake.output.probes)

if path := snakemake.output.get("rollout"):
    table = records.frame(probes.rollout_records(training, evaluation, params.seed, variant, trained))
    records.write(table, path)
    numbers = statistics.rollout_statistics(table, evaluation.judged_damping)
    rows = statistics.rows(numbers, training.experiment, variant, training.steps)
    records.write(records.frame(rows), snakemake.output.rollout_statistics)

"""Fit the free numbers of the learners that networks are held against."""

from dataclasses import asdict
from pathlib import Path

from activation_descent import records
from activation_descent.regression import STUDY, statistics
from activation_descent.regression.fitting import Fitting, learner_records, learner_statistics
from activation_descent.tracking import Progress, log_to, track

log_to(snakemake.log[0], snakemake.threads)
fitting = Fitting(**snakemake.params.fitting)
progress = Progress(snakemake.rule, fitting.seeds)
config = {"seed": snakemake.params.seed, **asdict(fitting)}

# From the configuration and not from params: how a job is recorded is no reason to fit again
with track(snakemake.config["tracking"], Path(snakemake.params.runs), STUDY, snakemake.rule, "learners", config) as log:

    def report(seed, losses):
        log(seed, losses)
        progress(seed, losses)

    table = records.frame(learner_records(fitting, snakemake.params.seed, report))
    records.write(table, snakemake.output.learners)
    rows = statistics.rows(learner_statistics(table), "learners", "learners", fitting.steps)
    records.write(records.frame(rows), snakemake.output.statistics)

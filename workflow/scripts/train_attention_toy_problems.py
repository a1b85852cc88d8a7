"""Train one layer of each kind of attention on a toy problem, and score it by place; a wandb run shows the losses."""

from dataclasses import asdict
from pathlib import Path

import torch

from activation_descent import records
from activation_descent.attention import MECHANISMS, STUDY, toy_problems
from activation_descent.attention.efficient_statistics import score_rows
from activation_descent.tracking import Progress, log_to, track

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, problem = snakemake.params, snakemake.wildcards.problem
settings = toy_problems.ToyProblems(**params.toy_problems)
progress = Progress(f"{snakemake.rule} {problem}", settings.steps[problem])
output = Path(snakemake.output[0])

# From the configuration and not from params: how a job is recorded is no reason to train again
config = {"seed": params.seed, "problem": problem, **asdict(settings)}
with track(snakemake.config["tracking"], Path(params.runs), STUDY, snakemake.rule, problem, config) as log:

    def report(step, values):
        log(step, values)
        progress(step, values)

    checkpoint = output.with_suffix(".checkpoint.safetensors")
    layer, rates = toy_problems.train_networks(problem, settings, params.seed, checkpoint, params.code, report)
    print(f"learning rates: {rates}")
    untrained = toy_problems.Layer(problem, settings, params.seed, range(settings.seeds))
    rows = score_rows(problem, MECHANISMS, settings.seeds, toy_problems.scores(layer, problem, settings, params.seed))
    before = toy_problems.scores(untrained, problem, settings, params.seed)[: settings.seeds]
    rows += score_rows(problem, ["untrained"], settings.seeds, before)
    records.write(records.frame(rows), output)

"""Score trained networks on knapsack problems, and look for the table of the dynamic programme in their states."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.reasoning import knapsack, knapsack_probes
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
settings, evaluation = knapsack.Knapsack(**params.knapsack), knapsack_probes.Evaluation(**params.evaluation)
networks = {kind: new(settings, params.seed) for kind, (new, _) in knapsack.NETWORKS.items()}
for kind, weights in networks.items():
    weights.load(Path(snakemake.input[kind]))

answers = knapsack_probes.answer_records(settings, networks, params.seed, evaluation.problems)
records.write(records.frame(answers), snakemake.output.answers)
untrained = knapsack.new_encoders(settings, params.seed)
table = knapsack_probes.table_records(settings, networks["encoder"], untrained, params.seed, evaluation)
records.write(records.frame(table), snakemake.output.table)

"""Look inside in-context learning: linearised attention, parts of updates, error signals, doses, influences, orders, the oracle."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch

from activation_descent import records
from activation_descent.finetuning import STUDY, cells, inside, protocol
from activation_descent.language.prompts import speakers_of
from activation_descent.shards import own_part
from activation_descent.tracking import log_to, track

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
part = f"_{snakemake.wildcards.shard}" if params.get("shard") else ""
folder = Path(snakemake.input.model) if snakemake.input.get("model") else None
speakers = speakers_of(params.model, folder, params.noise, params.seed, params.pool_size, params.tasks)
sampling = replace(cells.Sampling(**params.sampling), draws=params.inside["draws"])
depth = inside.Depth(**{key: value for key, value in params.inside.items() if key != "draws"})

rows, done = [], 0
config = {"seed": params.seed, "model": params.model, "sampling": params.sampling, "inside": params.inside}
# From the configuration and not from params: how a job is recorded is no reason to run it again
with track(snakemake.config["tracking"], Path(params.runs), STUDY, snakemake.rule, variant + part, config) as log:
    groups = [*cells.draw_cells(speakers, sampling, params.seed)]
    for group in own_part(groups, params.get("shard"), "groups of tasks with equally many classes"):
        ran = protocol.run_protocol(group, params.rates)
        for (control, metric), found in itertools.groupby(
            inside.inside_records(ran, depth, params.seed, variant), key=lambda row: (row["control"], row["metric"])
        ):
            rows += (own := [*found])
            done += 1
            log(done, {f"{control} {metric}": mean(row["value"] for row in own)})
        print(f"{variant}: {', '.join(sorted(set(group.tasks)))}", file=sys.__stderr__, flush=True)
records.write(records.frame(rows), snakemake.output[0])

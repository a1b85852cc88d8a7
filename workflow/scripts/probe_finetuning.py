"""Hold in-context learning against fine-tuning on the same demonstrations, and against every control where the variant is audited."""

import itertools
import sys
from pathlib import Path
from statistics import mean

import torch

from activation_descent import records
from activation_descent.finetuning import STUDY, audit, cells, protocol
from activation_descent.finetuning.interventions import Effort
from activation_descent.language.prompts import speakers_of
from activation_descent.shards import own_part
from activation_descent.tracking import log_to, track

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
part = f"_{snakemake.wildcards.shard}" if params.get("shard") else ""
folder = Path(snakemake.input.model) if snakemake.input.get("model") else None
speakers = speakers_of(params.model, folder, params.noise, params.seed, params.pool_size, params.tasks)
effort = Effort.from_settings(params.effort)

rows, done = [], 0
config = {
    "seed": params.seed,
    "model": params.model,
    "sampling": params.sampling,
    "effort": params.effort,
    "controls": params.controls,
}
# From the configuration and not from params: how a job is recorded is no reason to run it again
with track(snakemake.config["tracking"], Path(params.runs), STUDY, snakemake.rule, variant + part, config) as log:
    groups = [*cells.draw_cells(speakers, cells.Sampling(**params.sampling), params.seed)]
    for group in own_part(groups, params.get("shard"), "groups of tasks with equally many classes"):
        ran = protocol.run_protocol(group, effort.rates)
        parts = [audit.protocol_records(ran, params.seed, variant)]
        if params.controls:
            parts.append(audit.control_records(ran, speakers, effort, params.seed, variant))
        for control, found in itertools.groupby(itertools.chain(*parts), key=lambda row: row["control"]):
            rows += (own := [*found])
            similarities = [
                row["value"] for row in own if row["metric"] == "raw" and row.get("position") == "query" and "layer" not in row
            ]
            if similarities:
                done += 1
                log(done, {control: mean(similarities)})
                print(f"{variant}: {control}, raw similarity {mean(similarities):.3f}", file=sys.__stderr__, flush=True)
records.write(records.frame(rows), snakemake.output.audit)

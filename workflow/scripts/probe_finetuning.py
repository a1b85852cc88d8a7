"""Hold in-context learning against fine-tuning on the same demonstrations, and against every control where the variant is audited."""

from pathlib import Path

import torch

from activation_descent import records
from activation_descent.finetuning import audit, cells, protocol
from activation_descent.finetuning.interventions import Effort
from activation_descent.language.prompts import speakers_of
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
folder = Path(snakemake.input.model) if snakemake.input.get("model") else None
speakers = speakers_of(params.model, folder, params.noise, params.seed, params.pool_size, params.tasks)
effort = Effort.from_settings(params.effort)

rows = []
for group in cells.draw_cells(speakers, cells.Sampling(**params.sampling), params.seed):
    done = protocol.run_protocol(group, effort.rates)
    print(f"{', '.join(sorted(set(group.tasks)))}: protocol")
    rows += audit.protocol_records(done, params.seed, variant)
    if params.controls:
        rows += audit.control_records(done, speakers, effort, params.seed, variant)
        print(f"{', '.join(sorted(set(group.tasks)))}: controls")
records.write(records.frame(rows), snakemake.output.audit)

"""Look inside in-context learning: linearised attention, parts of updates, error signals, doses, influences, orders, the oracle."""

from dataclasses import replace
from pathlib import Path

import torch

from activation_descent import records
from activation_descent.finetuning import cells, inside, protocol
from activation_descent.language.prompts import speakers_of
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, variant = snakemake.params, snakemake.wildcards.variant
folder = Path(snakemake.input.model) if snakemake.input.get("model") else None
speakers = speakers_of(params.model, folder, params.noise, params.seed, params.pool_size, params.tasks)
sampling = replace(cells.Sampling(**params.sampling), draws=params.inside["draws"])
depth = inside.Depth(**{key: value for key, value in params.inside.items() if key != "draws"})

rows = []
for group in cells.draw_cells(speakers, sampling, params.seed):
    done = protocol.run_protocol(group, params.rates)
    rows += inside.inside_records(done, depth, params.seed, variant)
    print(f"{', '.join(sorted(set(group.tasks)))}: done")
records.write(records.frame(rows), snakemake.output[0])

"""Draw the lenses of one subject: their transfer between layers, what they read, and one document."""

import json
from pathlib import Path

from activation_descent import plotting, records
from activation_descent.lens import figures
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
name, table = snakemake.params.name, records.read(snakemake.input.lenses)
trajectory = json.loads(Path(snakemake.input.trajectory).read_text(encoding="utf-8"))
with plotting.style():
    statistics = records.read(list(snakemake.input.statistics))
    plotting.save(figures.draw_transfer(name, table, statistics), snakemake.output.transfer)
    plotting.save(figures.draw_lenses(name, table), snakemake.output.lenses)
    plotting.save(figures.draw_trajectory(name, trajectory), snakemake.output.trajectory)

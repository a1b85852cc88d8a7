"""Render the page: the answer, claims, figures, what ran and what it cost, links to the records."""

import os
from pathlib import Path

import pandas as pd

from activation_descent import provenance
from activation_descent.page import costs, figures, render
from activation_descent.records import write_text
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
output, params = Path(snakemake.output[0]), snakemake.params
claims = pd.read_csv(snakemake.input.claims[0], keep_default_na=False, na_values={"value": "", "ci_low": "", "ci_high": ""})
html = render.render(
    params.run,
    claims,
    params.document,
    render.find_records(snakemake.input.statistics, output),
    render.Command(output.parent.as_posix(), params.options),
    figures.read_figures(snakemake.input.figures, output, claims, params.drawn_from),
    sorted(os.path.relpath(path, output.parent) for path in snakemake.input.records),
    Path(snakemake.input.config[0]).read_text(encoding="utf-8"),
    provenance.what_ran(Path(snakemake.scriptdir)),
    costs.read_costs(snakemake.input.costs, list(params.document["studies"])),
)
write_text(html, output)

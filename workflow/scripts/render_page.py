"""Render the page: claims, figures, what ran, links to the records."""

import os
from pathlib import Path

import pandas as pd

from activation_descent import page, provenance
from activation_descent.records import write_text
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
output = Path(snakemake.output[0])
claims = pd.read_csv(snakemake.input.claims[0], keep_default_na=False, na_values={"value": "", "ci_low": "", "ci_high": ""})
html = page.render(
    snakemake.params.run,
    claims,
    {claim["id"]: claim["threshold"] for claim in snakemake.params.claims},
    page.read_figures(snakemake.input.figures, output, claims),
    sorted(os.path.relpath(path, output.parent) for path in snakemake.input.records),
    Path(snakemake.input.config[0]).read_text(encoding="utf-8"),
    provenance.what_ran(Path(snakemake.scriptdir)),
    page.read_costs(snakemake.input.costs),
)
write_text(html, output)

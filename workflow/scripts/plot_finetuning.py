"""Draw the audit of one language model: controls, layers, answers, and the inside."""

from activation_descent import plotting, records
from activation_descent.finetuning import figures
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
name, audit, inside = snakemake.params.name, records.read(snakemake.input.audit), records.read(snakemake.input.inside)
with plotting.style():
    for draw, table in (("controls", audit), ("layers", audit), ("answers", audit), ("inside", inside)):
        plotting.save(getattr(figures, f"draw_{draw}")(name, table), snakemake.output[draw])

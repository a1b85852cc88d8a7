"""Draw the audit of one language model: controls, layers, answers, pairs of changes, the inside, and all contrasts."""

from activation_descent import plotting, records
from activation_descent.finetuning import figures
from activation_descent.finetuning.inside_figures import draw_inside
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
name = snakemake.params.name
audit, inside, statistics, significance = (
    records.read(snakemake.input[table]) for table in ("audit", "inside", "statistics", "significance")
)
with plotting.style():
    for draw, table in (("controls", audit), ("layers", audit), ("answers", audit), ("pairs", audit)):
        plotting.save(getattr(figures, f"draw_{draw}")(name, table), snakemake.output[draw])
    plotting.save(draw_inside(name, inside), snakemake.output.inside)
    plotting.save(figures.draw_contrasts(name, statistics, significance), snakemake.output.contrasts)

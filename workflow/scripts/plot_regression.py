"""Draw one figure of the study from the records, or the weights, of its variants."""

from pathlib import Path

from activation_descent import plotting, records
from activation_descent.regression.figures import DRAW
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
params = snakemake.params
tables = {name: records.read(paths) for name, paths in snakemake.input.items() if name != "snapshots"}
snapshots = {}
if paths := snakemake.input.get("snapshots"):  # most figures need no weights, and spare the time to load what reads them
    from activation_descent.regression.training import Training, load_trained

    snapshots = {
        variant: load_trained(Training(**settings), Path(path))
        for (variant, settings), path in zip(params.training.items(), paths, strict=True)
    }
with plotting.style():
    figure = DRAW[params.kind](tables, params.training, params.evaluation, snapshots)
    plotting.save(figure, snakemake.output[0])

"""Put the random starts of a variant together that shards have trained, and keep the best."""

from pathlib import Path

from activation_descent.regression.training import Training, load_trained, merge, save_trained
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
settings = Training(**snakemake.params.training)
shards = [
    load_trained(settings, Path(weights), len(range(*starts)))
    for weights, starts in zip(snakemake.input, snakemake.params.starts, strict=True)
]
save_trained(merge(shards, settings.seeds), settings, Path(snakemake.output.weights), Path(snakemake.output.config))

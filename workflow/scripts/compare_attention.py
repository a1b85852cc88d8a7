"""What the claims read of readings, layers and heads."""

from activation_descent import records
from activation_descent.attention import statistics
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
params = snakemake.params
readings, layers = records.read(snakemake.input.readings), records.read(list(snakemake.input.layers))
heads = records.read([*snakemake.input.heads, *snakemake.input.checkpoints])
rows = [
    *statistics.reading_statistics(readings),
    *statistics.reading_statistics(heads),
    *statistics.transfer_statistics(layers),
    *statistics.head_statistics(heads, params.models),
    *statistics.above_null_statistics(heads, params.models, params.level),
]
records.write(records.frame(rows), snakemake.output[0])

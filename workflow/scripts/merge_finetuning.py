"""Put the numbers of a language model together that shards have measured."""

from activation_descent import records
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
records.merge(list(snakemake.input), snakemake.output[0])

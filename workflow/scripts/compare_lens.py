"""What the claims read of one subject: one number for each seed."""

from activation_descent import records
from activation_descent.lens.statistics import lens_statistics
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
table = records.read(snakemake.input[0])
records.write(records.frame(lens_statistics(table, snakemake.wildcards.variant)), snakemake.output[0])

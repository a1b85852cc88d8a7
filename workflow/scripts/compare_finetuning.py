"""What the claims read of one language model, one number for each task and draw; and tests of every contrast."""

from activation_descent import records
from activation_descent.finetuning import STUDY, significance, statistics
from activation_descent.seeding import generator
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
variant, audit = snakemake.wildcards.variant, records.read(snakemake.input.audit)
rng = generator(snakemake.params.seed, STUDY, "statistics", variant, "bootstrap")
numbers = statistics.protocol_statistics(audit)
numbers["layer_sign_consistency"] = statistics.sign_consistency(audit, rng)
if inside := snakemake.input.get("inside"):
    numbers |= statistics.audit_statistics(audit) | statistics.inside_statistics(records.read(inside))
tests = significance.significance_records(numbers, audit, variant, rng)
records.write(records.frame(tests), snakemake.output.significance)
numbers |= statistics.gates(numbers, snakemake.params.gate, rng)
records.write(records.frame(statistics.statistic_rows(numbers, variant)), snakemake.output.statistics)

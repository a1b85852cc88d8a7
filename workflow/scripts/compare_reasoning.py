"""What the claims on knapsack and logic read."""

from activation_descent import records
from activation_descent.reasoning import statistics
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
answers, table, logic = (records.read(str(snakemake.input[name])) for name in ("answers", "table", "logic"))
rows = [*statistics.knapsack_statistics(answers), *statistics.table_statistics(table), *statistics.logic_statistics(logic)]
records.write(records.frame(rows), snakemake.output[0])

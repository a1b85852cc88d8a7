"""Draw knapsack, the table of its dynamic programme, and logic."""

from activation_descent import plotting, records
from activation_descent.reasoning import figures
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
answers, table, logic = (records.read(str(snakemake.input[name])) for name in ("answers", "table", "logic"))
with plotting.style():
    plotting.save(figures.draw_knapsack(answers, snakemake.params.largest_weight), snakemake.output.knapsack)
    plotting.save(figures.draw_table(table), snakemake.output.table)
    plotting.save(figures.draw_logic(logic), snakemake.output.logic)

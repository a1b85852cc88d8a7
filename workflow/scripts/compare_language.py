"""What the claims read of one language model, and whether it has in-context learning on each of its tasks."""

from activation_descent import records
from activation_descent.language import statistics
from activation_descent.tracking import log_to

log_to(snakemake.log[0])
params, variant = snakemake.params, snakemake.wildcards.variant
accuracy, quiz = records.read(snakemake.input.accuracy), records.read(snakemake.input.quiz)
numbers = {
    **statistics.accuracy_statistics(accuracy, params.judged, params.gate),
    **statistics.quiz_statistics(quiz, params.judged),
}
records.write(records.frame(statistics.rows(numbers, variant)), snakemake.output.statistics)
gate = statistics.gate_table(accuracy, params.judged, params.gate)
records.write(records.frame(statistics.gate_rows(gate, variant)), snakemake.output.gate)
print(gate.to_string(index=False))

def reasoning_records():
    """All tables of records of the study, and which of them claims may read."""
    tables = collect("<run>/reasoning/{table}.csv", table=["knapsack", "table", "logic"])
    return [*tables, *(judged := ["<run>/reasoning/statistics.csv"])], judged


def reasoning_figures():
    """Figures of the study."""
    return collect("<run>/reasoning/figures/{figure}.svg", figure=["knapsack", "table", "logic"])


def reasoning_costs():
    """Benchmark files of the study's jobs."""
    knapsack = collect("<run_benchmarks>/train_reasoning_knapsack/{network}.tsv", network=["encoder", "perceptron"])
    alone = ["train_reasoning_logic", "probe_reasoning_knapsack", "probe_reasoning_logic", "compare_reasoning", "plot_reasoning"]
    return [*knapsack, *(f"<run_benchmarks>/{rule}.tsv" for rule in alone)]

def toy_problem_records():
    """All tables of records of the study, and which of them claims may read."""
    toys = collect("<run>/attention/toy_problems/{problem}.csv", problem=TOY_PROBLEMS)
    return [*toys, "<run>/attention/approximations.csv", *(judged := ["<run>/attention/toy_statistics.csv"])], judged


def toy_problem_figures():
    """Figures of the study."""
    return ["<run>/attention/figures/toy_problems.svg"]


def toy_problem_costs():
    """Benchmark files of the study's jobs."""
    toys = collect("<run_benchmarks>/train_attention_toy_problems/{problem}.tsv", problem=TOY_PROBLEMS)
    alone = ["compare_attention_toy_problems", "plot_attention_toy_problems"]
    return [*toys, *(f"<run_benchmarks>/{rule}.tsv" for rule in alone)]

"""Metrics of the attention study."""

from activation_descent.records.metric import Metric

METRICS = {
    # Linear-time attention in place of softmax, on toy problems
    "toy_score": Metric(
        "1", "accuracy at one place of a sequence; for regression the share of the labels' variance that is explained"
    ),
    "worst_toy_accuracy": Metric(
        "1", "the least of the accuracies of recall, induction and copying, each over the last quarter of its places"
    ),
    "best_toy_accuracy": Metric("1", "the largest of them"),
    "recall_accuracy": Metric("1", "accuracy of associative recall with the most pairs, over the last quarter of its places"),
    "toy_accuracy_lost": Metric(
        "1", "accuracy of softmax attention minus that of a mechanism, mean over recall, induction and copying"
    ),
    "toy_regression_gain": Metric(
        "1", "share of variance explained in regression minus that of softmax attention, with the most examples"
    ),
    "softmax_error": Metric("1", "|attention - softmax attention| / |softmax attention| on random inputs, Frobenius"),
    "performer_exponent": Metric("1", "d log softmax_error / d log random features"),
    "attention_time": Metric("ms", "one head on one sequence, single thread, fastest repeat"),
    "attention_memory": Metric("MB", "tensors alive at the same time, inputs left out, at most"),
    "attention_time_exponent": Metric("1", "d log time / d log length over the longer half of the lengths"),
    "attention_memory_exponent": Metric("1", "d log memory / d log length over the longer half of the lengths"),
    "crossover_length": Metric("tokens", "length from which a mechanism takes less time than softmax attention", finite=False),
}

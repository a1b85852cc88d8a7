"""Metrics of the reasoning study."""

from activation_descent.records.metric import Metric

METRICS = {
    # Knapsack. Hard problems are those where taking the densest items first is not optimal
    "accuracy_of_optimum": Metric("1", "share of problems whose optimal value is said"),
    "hard_accuracy_of_optimum": Metric("1", "the same of hard problems"),
    "table_r_squared": Metric(
        "1", "R squared of a linear readout of f(i, c), mean over i = 2 to n / 2 and all c, on other problems"
    ),
    "answer_r_squared": Metric("1", "R squared of a linear readout of the optimal values"),
    "entry_r_squared": Metric("1", "R squared of a linear readout of one entry f(i, c)"),
    "above_capacity_accuracy": Metric("1", "hard problems right at the smallest capacity, with the fewest layers that exceed it"),
    "accuracy_lost_below_capacity": Metric(
        "1", "accuracy at the smallest capacity with the fewest layers above it minus with the most that are not"
    ),
    "accuracy_gained_by_depth": Metric("1", "accuracy at the smallest capacity with the most layers minus with the fewest"),
    "above_weight_accuracy": Metric(
        "1", "hard problems right at the largest capacity, with the most layers (more than the largest weight)"
    ),
    "perceptron_accuracy": Metric("1", "above_capacity_accuracy of perceptrons with as many layers"),
    "gain_on_perceptron": Metric(
        "1", "accuracy of encoders minus that of perceptrons, at the smallest capacity, with layers above it"
    ),
    "programme_accuracy": Metric("1", "share of problems where the dynamic programme agrees with trying all choices"),
    "greedy_accuracy": Metric("1", "share of problems that taking the densest items first solves, at the smallest capacity"),
    "table_gain": Metric("1", "table_r_squared minus that of the untrained encoder, at the layer where this is most"),
    "table_gain_on_inputs": Metric("1", "largest table_r_squared over layers minus that of the raw inputs"),
    "answer_readout": Metric("1", "answer_r_squared of the last layer"),
    "answer_gain": Metric("1", "answer_readout minus that of the untrained encoder"),
    "shuffled_readout": Metric("1", "largest table_r_squared over layers with the tables of other problems"),
    # SimpleLogic
    "depth_accuracy": Metric(
        "1", "share of questions of one depth of proof that are answered right; -1: those that cannot be proved"
    ),
    "balanced_accuracy": Metric("1", "mean of that of what cannot be proved and of the mean over depths"),
    "own_sampler_accuracy": Metric("1", "balanced_accuracy on the sampler that a network was trained on"),
    "other_sampler_accuracy": Metric("1", "balanced_accuracy on the other one"),
    "lost_on_other_sampler": Metric(
        "1", "balanced_accuracy on the other sampler of networks trained on it minus that of this one"
    ),
    "worst_depth_accuracy": Metric("1", "least depth_accuracy of the reasoning weights over depths and samplers"),
    "too_shallow_accuracy": Metric("1", "depth_accuracy of the deepest proofs with a layer fewer than they need"),
}

"""Metrics of the attention study."""

from activation_descent.records.metric import Metric

PARTS = {
    "symmetry": "|sym|^2 / |.|^2",
    "positivity": "positive eigenvalues of the symmetric part / all, in absolute value",
    "flatness": "(sum s)^2 / (r sum s^2) over the singular values that hold 90 % of the energy",
}
READINGS = {
    "linear": "(i) linear attention",
    "first_order": "(i') softmax to first order: a step on centred least squares, and the mean value",
    "gaussian": "(ii) kernel regression on the distance of query and key",
    "from_state": "(ii) the step on local least squares from the state",
    "hopfield": "(iii) the gradient of the energy of the query",
    "error": "descent on the loss: the model's own, or the gradient step of a regression task",
    "exact": "positive control: attention itself",
    "elsewhere": "negative control: what the head says at other tokens, or to other tasks",
}

METRICS = {
    # The dual form of a trained classifier
    "dual_gap": Metric("1", "largest difference of a trained layer and its dual form / standard deviation of what was learned"),
    "dual_decay_gap": Metric("1", "negative control: the same after training with weight decay"),
    "dual_shuffled_gap": Metric("1", "negative control: the same with error signals dealt anew among training inputs"),
    "test_accuracy": Metric("1", "of the classifier, on digits that it was not trained on"),
    "own_class_attention": Metric(
        "1", "of the ten training digits with the largest attention of the output layer, the share of the predicted class"
    ),
    "own_class_attention_pixels": Metric("1", "the same at the first layer, which sees the pixels"),
    "own_class_attention_untrained": Metric("1", "the same at a hidden layer before training"),
    "own_class_attention_dealt": Metric("1", "negative control: with the labels dealt anew; chance is .1"),
    # Softmax attention as a gradient step; gaps are relative
    "identity_gap": Metric("1", "largest gap between attention and the step that a statement says it is"),
    "counterexample_gap": Metric("1", "median gap where a condition of the statement does not hold"),
    "shared_gradient_gap": Metric("1", "largest gap between attention and the first steps on three losses of one slope at zero"),
    "uncentred_gap": Metric("1", "median gap between softmax attention's derivative and linear attention, means not taken off"),
    "remainder_order": Metric("1", "the power of the query's length by which the first-order form fails"),
    "shared_rate_gap": Metric("1", "median gap when the step has the rate of another query"),
    # Readings of trained heads
    "reading_r_squared": Metric("1", "of a head's updates by a reading, at the rate that fits other prompts", finite=False),
    "reading_cosine": Metric("1", "of all updates of a head and all that a reading predicts"),
    **{f"{name}_reading": Metric("1", f"median of reading_r_squared over heads: {what}") for name, what in READINGS.items()},
    "best_reading": Metric("1", "the largest of the readings' medians, controls left out"),
    "first_order_over_linear": Metric("1", "first_order_reading minus linear_reading", finite=False),
    "descent_reading": Metric("1", "R^2 of all heads of a layer together by the gradient step of the regression task"),
    # Layers on mixtures
    "transfer_loss_ratio": Metric("1", "loss on regression prompts / loss of one gradient step on the same prompts"),
    "transfer_cosine": Metric("1", "cosine of a layer's model of a prompt with the gradient step's, mean over prompts"),
    "transfer_difference": Metric("1", "distance of the two models, mean over prompts"),
    "growing_loss": Metric("1", "half the squared error of the next vector, mean over sequences"),
    "growing_cosine": Metric("1", "cosine of the answers of a layer and of a gradient step on its context, mean over sequences"),
    "never_cosine": Metric("1", "transfer_cosine of a layer that saw no regression, with a readout fitted"),
    "never_loss_ratio": Metric("1", "its transfer_loss_ratio"),
    "always_cosine": Metric("1", "positive control: transfer_cosine of a layer that saw nothing else"),
    "always_loss_ratio": Metric("1", "its transfer_loss_ratio"),
    "untrained_layer_cosine": Metric("1", "negative control: transfer_cosine of a layer before training"),
    "growing_loss_ratio": Metric("1", "growing_loss over all context lengths / that of one gradient step on the same context"),
    "growing_none_ratio": Metric("1", "the same of an answer of zero"),
    "growing_step_cosine": Metric("1", "growing_cosine, mean over context lengths"),
    # Heads. qk: M = W_Q W_K^T; ov: -B = -W_V W_O
    **{
        f"{name}_{side}": Metric("1", f"of {what}: {meaning}")
        for name, meaning in PARTS.items()
        for side, what in (("qk", "M"), ("ov", "-B"))
    },
    "separation": Metric("1", "1 - overlap of the leading singular directions of M and B"),
    "head_score": Metric("1", "the least of these: 1 for the construction of a gradient step, in whatever basis"),
    "head_p": Metric("1", "how often the best head of a model with the same spectra in random bases scores as high"),
    "null_score": Metric("1", "95 % point of the best head's score in random bases"),
    "crossed_score": Metric("1", "95 % point of the best score when every M goes with another head's B"),
    "crossed_p": Metric("1", "how often that is as high as the model's best score"),
    "hopfield_tie": Metric("1", "cosine of B^T and M: 1 where a head's update is the gradient of its energy"),
    "hopfield_tie_p": Metric("1", "how often the largest |tie| in random bases is as large"),
    "null_tie": Metric("1", "95 % point of the largest |tie| in random bases"),
    "best_head_score": Metric("1", "the largest score of a model's heads"),
    "best_head_excess": Metric("1", "best_head_score minus null_score"),
    "crossed_excess": Metric("1", "best_head_score minus crossed_score"),
    "best_tie_score": Metric("1", "the largest |hopfield_tie| of a model's heads"),
    "untrained_score": Metric("1", "negative control: best_head_score of untrained networks of the same shape, their mean"),
    "untrained_excess": Metric("1", "their best_head_excess, the mean"),
    "by_hand_score": Metric("1", "positive control: score of heads by hand under a random rotation"),
    "one_layer_score": Metric("1", "positive control: score of linear layers that were trained on regression"),
    "tied_tie": Metric("1", "positive control: hopfield_tie of heads whose B is a multiple of M^T"),
    "heads_above_null": Metric("1", "heads of a model whose head_p is at most the level of significance"),
    "above_null_error": Metric(
        "1", "of such a head: reading_r_squared of its updates by descent on the model's loss", finite=False
    ),
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

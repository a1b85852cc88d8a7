"""Metrics of the regression study."""

from activation_descent.records.metric import Metric

_LOSS = "0.5 * squared error"
_TAIL = "mean over the snapshots in the last part of training (`tail_share`)"

METRICS = {
    # Curves of the regression study (von Oswald et al. 2022, section 3; definitions from the authors' `analyse`)
    "training_loss": Metric(_LOSS, "mean loss on the training batches since the snapshot before"),
    "loss": Metric(_LOSS, "mean loss of a learner on the evaluation tasks", finite=False),
    "median_loss": Metric(_LOSS, "median loss of a learner on the evaluation tasks", finite=False),
    "model_cosine": Metric("1", "mean cosine of the network's model and the reference's, d prediction / d query"),
    "model_difference": Metric("L2 norm", "mean distance of the network's model from the reference's"),
    "prediction_difference": Metric("label", "mean absolute difference of the network's prediction and the reference's"),
    "slope_correlation": Metric("1", "cosine over tasks of the slopes d prediction / d x_q of a network and the reference"),
    "function_before": Metric("label", "prediction of an example task at the query x = level, before the first layer"),
    "function_after": Metric("label", "prediction of an example task at the query x = level; of learner label: the context"),
    "own_token_sensitivity": Metric("1", "norm of the mean derivative of the first layer's output at a token by that token"),
    "next_token_sensitivity": Metric("1", "norm of the mean derivative of the first layer's output at a token by the next token"),
    "other_token_sensitivity": Metric("1", "norm of the mean derivative of the first layer's output at a token by another token"),
    # One number for each seed: what the claims read. Without a learner's name in it a metric is about gradient descent.
    "final_loss": Metric(_LOSS, f"loss of the network; {_TAIL}"),
    "loss_ratio": Metric("1", f"loss of the network / loss of K gradient steps on the same tasks; {_TAIL}"),
    "median_loss_ratio": Metric(
        "1", "median loss of the trained network over tasks / median loss of one gradient step on the same tasks"
    ),
    "descent_loss_excess": Metric("1", f"loss of K gradient steps / loss of the network - 1; {_TAIL}"),
    "final_model_cosine": Metric("1", f"model_cosine; {_TAIL}"),
    "final_model_difference": Metric("L2 norm", f"model_difference; {_TAIL}"),
    "final_prediction_difference": Metric("label", f"prediction_difference; {_TAIL}"),
    "plus_plus_loss_ratio": Metric("1", f"loss of the network / loss of K steps of GD++; {_TAIL}"),
    "final_plus_plus_model_cosine": Metric("1", f"model_cosine with GD++; {_TAIL}"),
    "final_plus_plus_model_difference": Metric("L2 norm", f"model_difference from GD++; {_TAIL}"),
    "final_plus_plus_prediction_difference": Metric("label", f"prediction_difference from GD++; {_TAIL}"),
    "final_target_model_cosine": Metric("1", f"model_cosine with the map that the network was trained to give; {_TAIL}"),
    "final_target_model_difference": Metric("L2 norm", f"model_difference from that map; {_TAIL}"),
    "final_target_prediction_difference": Metric("label", f"prediction_difference from that map; {_TAIL}"),
    "steps_to_descent": Metric("steps", "first snapshot with a loss within 2 % of gradient descent's", finite=False),
    "step_size_error": Metric("1", f"|eta of the layer / eta of gradient descent - 1|; {_TAIL}"),
    "learned_rate": Metric("1", f"eta / N in the weights of a recurrent network; {_TAIL}"),
    "learned_gamma": Metric("1", f"gamma in the weights of a recurrent network; {_TAIL}"),
    "off_diagonal_cancellation": Metric(
        "1", f"root mean square of the off-diagonal of eta_h W_KQ^h, mean over heads / that of their sum; {_TAIL}"
    ),
    "copying": Metric("1", f"next_token_sensitivity - other_token_sensitivity; {_TAIL}"),
    "sine_loss_gap": Metric(
        "1",
        f"(loss of MLP and trained layer - loss of MLP and gradient step) / (loss of a zero prediction - the latter); {_TAIL}",
    ),
    "sine_cosine_margin": Metric(
        "1", f"model_cosine of MLP and trained layer with MLP and gradient step, minus that of two of the latter; {_TAIL}"
    ),
    "interpolation_excess": Metric(
        _LOSS, f"loss halfway between trained and constructed weights, minus the trained network's loss; {_TAIL}"
    ),
    "problem_size_gap": Metric(
        "1", "largest |loss of the layer / loss of one gradient step - 1| over layers trained at N = d of several sizes"
    ),
    "rollout_final_loss": Metric(_LOSS, "loss after the last iteration of the damped roll-out of the layer", finite=False),
    "rollout_rises": Metric("iterations", "iterations of the damped roll-out of the layer that raise the loss"),
    "rescaled_loss_excess": Metric("1", "relative rise of the layer's loss when its step is halved"),
    "rescaled_cosine_change": Metric("1", "|change of model_cosine| when the layer's step is halved"),
    "largest_input_loss_ratio": Metric(
        "1", "loss of the network / loss of gradient descent at the largest input scale", finite=False
    ),
    **{
        f"{prefix}{condition}_gap": Metric(
            "1", f"{control}largest |loss of the network{before} / loss of {learner} - 1| over {levels}", finite=False
        )
        for condition, levels in {
            "context_length": "context lengths",
            "input_scale": "input scales",
            "weight_scale": "weight scales",
            "distribution_scale": "norms of inputs of other distributions",
            "noisy_labels": "numbers of noisy labels",
        }.items()
        for prefix, control, before, learner in (
            ("", "", "", "gradient descent with its trained-for rates"),
            ("plus_plus_", "", "", "GD++ with its trained-for rates"),
            ("untrained_", "negative control: ", " before training", "gradient descent with its trained-for rates"),
        )
    },
    # Learners, the ladder, and updates of data
    "learner_loss": Metric(
        _LOSS,
        "population loss of a fitted learner on held-out contexts, none of which counts more than 100 times the loss of w = 0",
    ),
    "learner_mean_loss": Metric(_LOSS, "as learner_loss, without the bound on single contexts", finite=False),
    "learner_median_loss": Metric(_LOSS, "median over held-out contexts of a fitted learner's loss"),
    "learner_free_numbers": Metric("1", "numbers of a learner that were fitted"),
    "learner_rate": Metric("1", "eta / N of a step of a fitted learner, for inputs U(-0.5, 0.5)"),
    "learner_gamma": Metric("1", "gamma of a step of a fitted learner, for inputs U(-0.5, 0.5)"),
    "smallest_eigenvalue": Metric("1", "smallest eigenvalue of sum_i x_i x_i^T over all contexts"),
    "largest_eigenvalue": Metric("1", "largest eigenvalue of sum_i x_i x_i^T over all contexts"),
    "condition_number": Metric("1", "median over contexts of the condition number after one contraction with gamma = level"),
    "gamma_error": Metric("1", "largest |gamma of GD++ with two steps / published gamma - 1| over N"),
    "ladder_violations": Metric(
        "1", "neighbours on the ladder of learners whose losses do not fall with the free numbers, over all K"
    ),
    "recurrent_margin": Metric("1", "recurrent network: cosine with GD++ minus the largest cosine with another learner"),
    "untied_margin": Metric(
        "1", "untied network: cosine with GD++ (a pair a step) minus the largest cosine with another learner"
    ),
    "recurrent_freedom_gain": Metric("1", "recurrent network: cosine with GD++ minus cosine with gradient descent"),
    "untied_freedom_gain": Metric("1", "untied network: cosine with GD++ (a pair a step) minus cosine with gradient descent"),
    "update_gap": Metric("1", "mean |prediction by data updates - by weight updates| / mean |change by weight updates|"),
    "update_difference": Metric("label sd", "largest |prediction by data updates - by weight updates|"),
    "update_loss_ratio": Metric("1", "loss of the context by weight updates / loss before the first"),
    "linear_update_gap": Metric("label sd", "linear model: largest update_difference over steps and sizes"),
    "relu_update_gap": Metric("1", "ReLU network: update_gap after the last step at the smallest width"),
    "tanh_update_gap": Metric("1", "tanh network: update_gap after the last step at the smallest width"),
    "deep_linear_update_gap": Metric("1", "two linear layers: update_gap after the last step at the smallest width"),
    "wide_update_gap": Metric("1", "update_gap after the last step at the largest width, the worst network"),
    "update_gap_slope": Metric("1", "slope of log update_gap after the last step against log width, the shallowest network"),
    # Controls: what the gates read
    "construction_loss_ratio": Metric("1", "positive control: loss_ratio of the layers constructed by hand"),
    "construction_cosine": Metric("1", "positive control: model_cosine of the layers constructed by hand"),
    "construction_difference": Metric("L2 norm", "positive control: model_difference of the layers constructed by hand"),
    "plus_plus_construction_cosine": Metric("1", "positive control: cosine of GD++ and its layers constructed by hand"),
    "untrained_loss_ratio": Metric("1", "negative control: loss_ratio of the network before training"),
    "untrained_cosine": Metric("1", "negative control: model_cosine of the network before training"),
    "untrained_difference": Metric("L2 norm", "negative control: model_difference of the network before training"),
    "untrained_prediction_difference": Metric("label", "negative control: prediction_difference before training"),
    "other_task_cosine": Metric("1", "negative control: cosine of the network's model and gradient descent's on another task"),
    "least_squares_cosine": Metric("1", "another algorithm: cosine of the network's model and the least-squares model"),
    "untrained_sine_loss_gap": Metric("1", "negative control: sine_loss_gap of the network before training"),
    "other_task_sine_cosine": Metric(
        "1", "negative control: model_cosine of MLP and trained layer with MLP and gradient step on another task"
    ),
    "sine_construction_difference": Metric("label", "positive control: largest |network with a gradient step - step by hand|"),
    "untrained_problem_size_gap": Metric("1", "negative control: problem_size_gap of the layers before training"),
    "tuned_rate_ratio": Metric("1", "rate that is best on the tuning tasks / closed-form optimal rate"),
    "gradient_descent_loss_ratio": Metric("1", "loss of K gradient steps on the evaluation tasks / population loss"),
    "gradient_descent_rollout_loss": Metric(_LOSS, "rollout_final_loss of gradient descent itself", finite=False),
    "gradient_descent_undamped_growth": Metric(
        "1", "loss of gradient descent's undamped roll-out at iteration 20 / loss before the first", finite=False
    ),
    "readout_update_gap": Metric("label sd", "positive control: largest update_difference where only the output layer trains"),
    "first_step_update_gap": Metric("label sd", "positive control: largest update_difference of all models after one step"),
    "unshifted_update_gap": Metric("label sd", "negative control: linear_update_gap with a query target that starts at 0"),
    "largest_update_loss_ratio": Metric("1", "did training train: largest update_loss_ratio after the last step"),
}

"""Metrics of the lens study."""

from activation_descent.records.metric import Metric

METRICS = {
    # What lenses read, in bits: of language models and of image classifiers
    "prior_kl": Metric("bits", "K0: mean KL of a model's predictions to their own mean, what it knows beyond mean frequencies"),
    "shared_information": Metric(
        "1", "S: share of what lenses of each layer's own read that one lens for all layers reads", finite=False
    ),
    "forward_gain": Metric("1", "FG: share of later layers' improvement that an earlier layer's lens sees", finite=False),
    "calibrated_gain": Metric("1", "FG_cal: the same with a scale and a shift for each pair of layers", finite=False),
    # Predictive coding (D1 to D4). layer: a state of the stream, 0 before the first block; -1: all layers together, or none. _low, _high:
    # ends of the 95 % interval over documents. control: what stands in the place of the error, of the context or of the move
    **{
        f"{name}{suffix}": Metric(unit, f"{meaning}{end}")
        for name, unit, meaning in (
            ("error_specificity_inner", "1", "error_specificity, mean over the states between the first and the last"),
            ("error_ratio", "1", "lambda = -b-/b+ of the leading kernel, layers together; 1: errors, 0: copies of what followed"),
            ("update_gain", "1", "share of the updates' variance that drives add to controls, layers together"),
            ("causal_slope", "logits", "slope_same of the error, mean over layers"),
            ("causal_slope_off_identity", "logits", "the same without the directions in which tokens differ on average"),
        )
        for suffix, end in (("", ""), ("_low", ", lower end"), ("_high", ", upper end"))
    },
    "read_divergence": Metric("bits", "D1: KL(p_L || lens) at a state"),
    "read_cross_entropy": Metric("bits", "D1: of the next token by the lens at a state"),
    "read_accuracy": Metric("1", "D1: how often the lens at a state has the next token right"),
    "decoding_base": Metric("1", "D2: R^2 of what tokens alone tell of a target (control)"),
    "decoding_gain": Metric("1", "D2: what the state at s + 1 adds to it"),
    "error_specificity": Metric(
        "1", "D2: decoding_gain of -log p_s(x_{s+1}) minus that of another word's, if that is above zero"
    ),
    "error_specificity_growth": Metric("1", "D2: error_specificity_inner minus error_specificity of state 0"),
    **{
        f"{kernel}_{part}": Metric("1", f"D3: {meaning}, kernel over {where}")
        for kernel, where in (("same", "positions of the same word"), ("uniform", "all earlier positions"))
        for part, meaning in (
            ("followed", "b+, weight of what followed"),
            ("predicted", "b-, weight of what was predicted"),
            ("gain", "share of the updates' variance that this kernel's drives add to controls"),
        )
    },
    "drive_gain": Metric("1", "D3: share of the updates' variance that all drives add to controls"),
    "leading_kernel": Metric("1", "D3: the kernel with the larger gain, 0: same, 1: uniform"),
    "other_context_gain": Metric("1", "D3, null: update_gain with the context of another document"),
    "uniformity_positions": Metric("1", "D3: b+ in the second half of documents / b+ in the first", finite=False),
    "uniformity_layers": Metric("1", "D3: smallest b+ of a layer / largest", finite=False),
    "slope_same": Metric("logits", "D4: change of a word's centred final logit by that of p_s(word), where x_t = x_s"),
    "slope_other": Metric("logits", "D4: the same where x_t is another word"),
    "slope_agreement": Metric("1", "D4: slope of the responses by what D3's weights predict", finite=False),
    "causal_agreement": Metric("1", "D4: slope_agreement, mean over layers", finite=False),
    "causal_error_path": Metric("1", "D4: share of causal_slope that is gone when s + 1 cannot attend to s", finite=False),
    "decodes_error": Metric("1", "D2 holds: 1 or 0"),
    "updates_by_error": Metric("1", "D3 holds: 1 or 0"),
    "uses_error": Metric("1", "D4 holds: 1 or 0"),
    "predictive_coding": Metric("1", "D2, D3 and D4 hold: 1 or 0"),
    "copies_followed": Metric("1", "D3: lambda below .3 with a gain of at least .01: 1 or 0"),
    # Image classifiers, the negative control. layer: a stage, 0 the stem; -1: the network
    "test_accuracy": Metric("1", "of the network on test images"),
    "probe_accuracy": Metric("1", "of logistic regression on a stage's features, on test images"),
    "probe_accuracy_gain": Metric("1", "probe_accuracy of the last stage minus that of the stem"),
    "rotated_information": Metric("1", "S_rot: shared_information with every layer in a basis of its own", finite=False),
}

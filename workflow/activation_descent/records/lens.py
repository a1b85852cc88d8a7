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
    **{
        f"{name}{end}": Metric("1", f"{meaning}{said}", finite=False)
        for name, meaning in (
            ("forward_gain", "FG"),
            ("calibrated_gain", "FG_cal"),
            ("forward_gain_cross_entropy", "FG by cross-entropy with the token that followed in the place of KL"),
            ("calibrated_gain_cross_entropy", "FG_cal by cross-entropy with the token that followed in the place of KL"),
        )
        for end, said in (("_low", ", lower end of its 95 % interval over documents"), ("_high", ", upper end"))
    },
    "forward_gain_cross_entropy": Metric(
        "1", "FG by cross-entropy with the token that followed in the place of KL", finite=False
    ),
    "calibrated_gain_cross_entropy": Metric(
        "1", "FG_cal by cross-entropy with the token that followed in the place of KL", finite=False
    ),
    # Lenses of language models. layer: h_l, what enters block l + 1, from 0; fitted: the layer whose translator reads it
    "model_cross_entropy": Metric("bits", "of the next token by the model's own predictions"),
    "lens_kl": Metric("bits", "K: KL(p_L || lens) at a layer"),
    "lens_cross_entropy": Metric("bits", "of the next token by the lens at a layer"),
    "transfer_divergence": Metric("bits", "T: KL(p_L || prediction) of the lens of one layer on the states of another"),
    "transfer_cross_entropy": Metric("bits", "of the next token by it"),
    "transfer_native": Metric(
        "bits", "KL(the layer's own lens || the other's) on the same states, the form in Belrose et al.'s code"
    ),
    "calibrated_divergence": Metric("bits", "transfer_divergence with a scale and a shift for each pair of layers"),
    "calibrated_cross_entropy": Metric("bits", "transfer_cross_entropy with a scale and a shift for each pair of layers"),
    "progress": Metric("1", "Aitchison cosine of a step with the way that is left to p_L, one lens for all layers"),
    "progress_null": Metric("1", "the same with the step of another token"),
    "step_kl": Metric("bits", "KL(prediction of the next layer || prediction of this one), tuned lens"),
    "step_improved": Metric("1", "share of tokens that a step brings nearer to p_L by KL"),
    "stimulus_response": Metric("1", "Aitchison cosine of the lens's and the model's response when a token's update is replaced"),
    "lens_influence": Metric(
        "bits", "KL of the middle layer's lens when a direction of the causal basis is erased; layer: its rank"
    ),
    "model_influence": Metric("bits", "KL of the model's prediction when the same direction is erased"),
    "causal_fidelity": Metric("1", "rank correlation of lens_influence and model_influence"),
    # Statistics of lenses, one number a seed
    "divergence_fall": Metric("1", "(K at the embeddings - K at the last layer) / K0"),
    "shared_cost": Metric("bits", "K of one lens for all layers minus K of lenses of each layer's own, mean over layers"),
    "common_information": Metric("1", "S - S_rot", finite=False),
    "carried_information": Metric("1", "S when every update is written in a basis of its own and carried along", finite=False),
    "odd_information": Metric("1", "S_odd: of a lens fitted to even layers on odd ones", finite=False),
    "later_information": Metric("1", "the same of a lens fitted to the first half of the layers on the others", finite=False),
    **{
        f"{kind}_information": Metric("1", f"what {meaning} reads of what lenses of each layer's own read", finite=False)
        for kind, meaning in (
            ("logit", "the logit lens"),
            ("bias", "a bias for each layer"),
            ("shared_bias", "one map with a bias for each layer"),
            ("low_rank", "a low-rank map for each layer, together as large as one map,"),
        )
    },
    **{
        f"carried_{name}": Metric(
            "1", f"{name} when every update is written in a basis of its own and carried along", finite=False
        )
        for name in ("forward_gain", "calibrated_gain", "forward_gain_cross_entropy", "calibrated_gain_cross_entropy")
    },
    "mean_penalty": Metric("bits", "transfer penalty by cross-entropy, mean over pairs of layers"),
    "penalty_share": Metric(
        "1", "transfer penalties by KL / what the right lenses know beyond mean frequencies, sums over pairs", finite=False
    ),
    "forward_penalty_share": Metric("1", "the same from earlier to later layers, without the embeddings", finite=False),
    "gaining_cells": Metric("1", "share of these pairs whose improvement exceeds the penalty"),
    "penalty_distance": Metric("1", "rank correlation of the transfer penalty with the distance of the layers"),
    "stimulus_response_tuned": Metric("1", "stimulus_response of the tuned lens, mean over blocks"),
    "stimulus_response_logit": Metric("1", "the same of the logit lens"),
    "lens_step_time": Metric(
        "ms/step", "fitting the lenses of all layers on the same recorded states, single thread, fastest repeat"
    ),
    "lens_loss_difference": Metric("nats", "largest difference of losses between two implementations over the timed steps"),
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
    "predictive_coding": Metric(
        "1", "1: D2, D3 and D4 hold; 0: D3 or D4 tells against it; 1/2: neither (`lens.predictive_coding.judged`)"
    ),
    "copies_followed": Metric("1", "D3: lambda below .3 with a gain of at least .01: 1 or 0"),
    # Image classifiers, the negative control. layer: a stage, 0 the stem; -1: the network
    "image_accuracy": Metric("1", "of the network on test images"),
    "probe_accuracy": Metric("1", "of logistic regression on a stage's features, on test images"),
    "probe_accuracy_gain": Metric("1", "probe_accuracy of the last stage minus that of the stem"),
    "rotated_information": Metric("1", "S_rot: shared_information with every layer in a basis of its own", finite=False),
}

"""Metrics of the fine-tuning audit."""

from activation_descent.records.metric import Metric

METRICS = {
    # The fine-tuning audit (Dai et al. 2022 and their critics). ICL, FT, ZSL: with demonstrations, fine-tuned on them, without either.
    # Similarities are means over queries and layers unless a layer is named
    "rate": Metric("1", "learning rate of FT, chosen on tuning queries"),
    "cross_entropy": Metric("nats", "of the queries' own labels among the label words"),
    "margin": Metric("nats", "log odds of the queries' own labels among the label words"),
    "recovered": Metric("1", "Rec2FTP: of the queries that ZSL has wrong and FT right, the share that ICL has right"),
    "recovered_by_chance": Metric("1", "of the queries that ZSL has wrong, the share that ICL has right"),
    "recovery_phi": Metric("1", "correlation of FT right and ICL right over the queries that ZSL has wrong"),
    "normalised": Metric("1", "SimAOU as published: cosine of the changes of normalised attention outputs, ICL and FT"),
    "floor": Metric("1", "what of it two unrelated changes of this size reach, 1/2 sqrt((1 - c1)(1 - c2))"),
    "raw": Metric("1", "cosine of the changes of attention outputs without normalisation"),
    "partial": Metric("1", "cosine of their parts orthogonal to ZSL's output"),
    "projected": Metric("1", "raw without what lies along the label words' unembeddings and the mean changes"),
    "shuffled": Metric("1", "raw with the change of another query"),
    "icl_cosine": Metric("1", "cosine of ICL's and ZSL's outputs"),
    "ft_cosine": Metric("1", "cosine of FT's and ZSL's outputs"),
    "icl_movement": Metric("1", "|change by ICL| / |ZSL's output|"),
    "ft_movement": Metric("1", "|change by FT| / |ZSL's output|"),
    "random_uniform": Metric("1", "normalised with U[0, 1)^d in the place of FT's change, the authors' baseline"),
    "random_gaussian": Metric("1", "the same with an isotropic change"),
    **{
        f"attention_{name}{suffix}": Metric("1", f"{meaning}{centring}")
        for name, meaning in {
            "before": "SimAM: cosine of the attention logits of ICL and ZSL",
            "after": "SimAM: cosine of the attention logits of ICL and FT",
            "delta": "cosine of the changes of attention logits, ICL and FT",
        }.items()
        for suffix, centring in (("", ""), ("_centred", ", each row's mean taken off"))
    },
    "attention_before_variation": Metric("1", "total variation of ICL's and ZSL's attention to the query's own tokens"),
    "attention_after_variation": Metric("1", "total variation of ICL's and FT's attention to the query's own tokens"),
    "kendall": Metric(
        "1", "rank correlation of ICL's attention to the demonstrations' tokens with products of queries, as published"
    ),
    "kendall_random": Metric("1", "the same with random weights"),
    "kendall_inputs": Metric("1", "the same with products of the updated layers' inputs, the weights of FT's dual form"),
    "kendall_mismatched": Metric("1", "the same with another query's"),
    "diagonal_dominance": Metric("1", "cosine of changes in the same layer minus that in different ones"),
    "delta_norm": Metric("1", "length of a change of parameters"),
    "target_reached": Metric("1", "1 if a change reaches FT's tuning loss, else 0; then it is as long as FT's"),
    "gradient_alignment": Metric("1", "cosine of a change of parameters with the negative gradient"),
    "changed_in_float16": Metric("1", "share of the trained weights that move at all in float16"),
    "label_null": Metric("1", "raw of label contrasts with that of another draw"),
    "label_margin": Metric("nats", "margin of ICL with the demonstrations' own labels minus that with wrong ones"),
    "patched_gain": Metric("1", "share of ICL's gain in margin that is left when attention to the demonstrations is replaced"),
    "patched_r_squared": Metric(
        "1", "share of the heads' changes that the replacement gives, by attention to the demonstrations"
    ),
    "part_similarity": Metric("1", "cosine of a part of ICL's change with FT's"),
    "part_null": Metric("1", "the same with FT's change of another query"),
    "part_length": Metric("1", "|part| / |ICL's change|"),
    "error_alignment": Metric("1", "mean cosine of values and negative gradients by the heads' outputs"),
    "error_excess": Metric("1", "error_alignment minus its mean under permutations among tokens of the same place"),
    "error_p": Metric("1", "one-sided p of error_excess"),
    "dose_slope": Metric("1", "d log |direct part| / d log r when demonstrations are shown r times; 1 for a sum, 0 for a mean"),
    "dose_kernel_slope": Metric("1", "the slope that shared attention predicts without a free parameter"),
    "dose_direction": Metric("1", "cosine of the direct part for the largest r and for r = 1"),
    "dose_mass_r_squared": Metric("1", "how well shared attention predicts the change of attention on them", finite=False),
    "dose_kernel_r_squared": Metric("1", "how well shared attention predicts the change of length", finite=False),
    "dose_additive_r_squared": Metric("1", "how well a sum predicts it", finite=False),
    "influence_correlation": Metric(
        "1", "rank correlation over demonstrations of their influence in ICL and FT, place and label out"
    ),
    "influence_reliability": Metric("1", "the same of ICL with two fillers in the place of the one left out"),
    "influence_split_half": Metric("1", "the same of the means over two halves of the queries in ICL"),
    "token_overlap": Metric("1", "share of the ten most probable words of ICL and of another that both have"),
    "overlap_cosine": Metric("1", "OCS, additive form: cosine of their probabilities, less for words that differ"),
    "order_sensitivity": Metric("probability", "Sen: standard deviation of the label words' probabilities over orders, summed"),
    "order_sensitivity_normalised": Metric("1", "spread over orders / movement from ZSL"),
    "order_correlation": Metric("1", "correlation over orders of the margins of ICL and FT"),
    "oracle_share": Metric("1", "share of ICL's change that distilled keys and values give on held-out queries"),
    "oracle_similarity": Metric("1", "raw of the distilled change with ICL's"),
    "oracle_alignment": Metric("1", "cosine of the distilled change of parameters with a direction"),
    "pair_similarity": Metric("1", "raw of any two changes (control and reference) of those that improve as much"),
    **{
        f"recovered_{name}": Metric("queries", f"that ZSL gets wrong, right {what}")
        for name, what in {
            "both": "in FT and ICL",
            "fine_tuned": "in FT alone",
            "in_context": "in ICL alone",
            "neither": "in neither",
        }.items()
    },
    "error_consistency": Metric("1", "Cohen's kappa of being right, with ICL"),
    "logit_agreement": Metric("1", "correlation of label logits' differences with ICL's, ZSL's out of both"),
    "line_share": Metric("1", "share of ICL's change that the best step along a direction gives on held-out queries"),
    # What the claims read of it: one number for each task and draw. over: what is named taken off
    "fine_tuned_accuracy": Metric("1", "accuracy of FT"),
    "fine_tuning_gain": Metric("1", "accuracy of FT minus that of ZSL"),
    "recovered_over_chance": Metric("1", "recovered minus recovered_by_chance"),
    "published_similarity": Metric("1", "normalised, at the authors' position"),
    **{
        f"published_over_{name}": Metric("1", f"normalised, at the authors' position, minus {what}")
        for name, what in {
            "random": "that of the authors' random baseline",
            "floor": "its floor",
            "ascent": "that of gradient ascent at the same rate",
            "untrained": "that of an untrained network",
        }.items()
    },
    "attention_gain": Metric("1", "attention_after minus attention_before, at the authors' position"),
    "attention_centred_gain": Metric("1", "the same of centred logits, at the predicting token"),
    "attention_variation_gain": Metric("1", "attention_before_variation minus attention_after_variation"),
    "kendall_over_random": Metric("1", "kendall minus kendall_random, at the authors' position"),
    "kendall_errors": Metric("1", "kendall_inputs, each weight times its token's error signal of the values"),
    "kendall_over_mismatched": Metric("1", "kendall_inputs minus kendall_mismatched"),
    "raw_similarity": Metric("1", "raw of FT"),
    "partial_similarity": Metric("1", "partial of FT"),
    "odd_similarity": Metric("1", "half of raw of FT minus raw of ascent: what turns with the sign of the step"),
    "projected_similarity": Metric("1", "projected of FT"),
    "similarity_over_shuffled": Metric("1", "raw minus shuffled"),
    "gaussian_similarity": Metric("1", "negative control: raw of isotropic changes as long as FT's (C0)"),
    **{
        f"over_{name}": Metric("1", f"raw of FT minus raw of {what}")
        for name, what in {
            "evolution": "changes that were evolved to the same loss without a gradient (C2)",
            "parameters": "the best other set of parameters, trained to the same loss (C3)",
            "other_tasks": "FT on another task's texts (C4)",
            "wrong_labels": "FT on wrong labels (C5)",
            "other_demonstrations": "FT on other demonstrations of the task (C7)",
            "unrelated_text": "FT with the model behind an unrelated text (C11)",
        }.items()
    },
    "over_other_pairs": Metric("1", "pair_similarity of ICL and FT minus the mean of all other pairs"),
    "logit_agreement_below_ceiling": Metric("1", "logit_agreement of ICL on other demonstrations minus that of FT"),
    "logit_agreement_over_others": Metric(
        "1", "logit_agreement of FT minus that of the best other change to the same loss (C2, C3)"
    ),
    "best_over_published_step": Metric("1", "raw of the best other way to fine-tune, at the same loss, minus raw of FT"),
    "evolution_alignment": Metric("1", "|gradient_alignment| of evolved changes"),
    "evolution_reached": Metric("1", "target_reached of evolved changes"),
    "label_contrast": Metric("1", "raw of what own labels change against wrong ones, ICL and FT"),
    "label_contrast_over_null": Metric("1", "label_contrast minus label_null"),
    "in_context_ceiling": Metric("1", "raw of ICL on two disjoint sets of demonstrations"),
    "fine_tuned_ceiling": Metric("1", "raw of FT on two disjoint sets of demonstrations"),
    "ceilings": Metric("1", "the smaller one of the means of the two ceilings"),
    "corrected_similarity": Metric("1", "raw of ICL and FT on disjoint demonstrations / root of the product of the ceilings"),
    "layer_sign_consistency": Metric("1", "share of a task's layers whose raw is above zero, its interval included"),
    **{
        f"{form}_gain": Metric("1", f"patched_gain of {what}")
        for form, what in {
            "exact": "the exact decomposition: positive control, 1",
            "linear_attention": "linear attention, the form of Dai et al.",
            "first_order": "softmax to first order in the query",
            "constant": "the same output for all queries",
            "affine": "the best affine map of the query",
        }.items()
    },
    "linear_attention_over_constant": Metric("1", "patched_r_squared of linear attention minus that of a constant"),
    "binding": Metric("1", "patched_r_squared of linear attention minus that with keys permuted among tokens"),
    "direct_over_dilution": Metric(
        "1", "part_similarity of the demonstrations' values minus that of the attention they take away"
    ),
    "direct_over_null": Metric("1", "part_similarity of the demonstrations' values minus part_null"),
    "error_signal_excess": Metric("1", "error_excess for the loss of all tokens"),
    "label_error_signal_excess": Metric("1", "error_excess for the loss of the labels"),
    "contrast_error_signal_excess": Metric("1", "error_excess of what wrong labels change in both"),
    "overlap_below_reordered": Metric("1", "token_overlap of ICL with ICL in another order minus that with FT"),
    "oracle_ceiling": Metric("1", "positive control: oracle_alignment where a step along the gradient was distilled"),
    # What the audit can tell, of each contrast (control) and each layer
    "p_value": Metric("1", "two-sided sign-flip test over tasks and draws"),
    "p_holm": Metric("1", "the same, corrected for all contrasts"),
    "p_equivalence": Metric(
        "1", "two one-sided tests: a small one says that the contrast lies within .02 of zero (.04 for maps)"
    ),
    "detectable_effect": Metric("1", "smallest mean that a paired t-test finds with a power of .8"),
    "p_max_t": Metric("1", "of a layer's raw, corrected for all layers"),
    "recovery_odds_ratio": Metric("1", "of the pooled corrections of FT and ICL", finite=False),
    "p_recovery": Metric("1", "Fisher's exact test of the same"),
    "recovered_low": Metric("1", "lower end of Wilson's 95 % interval of pooled Rec2FTP"),
    "recovered_high": Metric("1", "upper end of the same"),
    "influence_over_half": Metric("1", "influence_correlation minus half of influence_reliability"),
    "order_sensitivity_log_ratio": Metric("1", "log of order_sensitivity_normalised of ICL / that of FT"),
    "gradient_line_share": Metric("1", "line_share of the gradient on the demonstrations"),
    "gradient_alignment_over_wrong_labels": Metric("1", "oracle_alignment of the gradient minus that of the one on wrong labels"),
    "explicit_similarity": Metric("1", "raw of a layer by hand, one gradient step in context and Dai et al.'s FT"),
    "explicit_odd_similarity": Metric("1", "its part that turns with the sign of the rate"),
    "explicit_shuffled_similarity": Metric("1", "negative control: the same with FT on shuffled labels"),
    "perplexity": Metric("1", "of evaluation documents"),
    "perplexity_gain": Metric("nats", "log perplexity of softmax attention minus that of another attention, same seed"),
    "momentum_rate": Metric("1", "eta of an attention with momentum, mean over the heads of a layer"),
    "final_accuracy": Metric("1", "in-context accuracy with the most demonstrations"),
    "gain_over_convolution": Metric("nats", "perplexity_gain minus that of the convolution, same seed"),
    "gain_over_moving_average": Metric("nats", "perplexity_gain minus that of the moving average, same seed"),
    "accuracy_gain": Metric("1", "in-context accuracy of another attention minus that of softmax attention, same seed"),
}

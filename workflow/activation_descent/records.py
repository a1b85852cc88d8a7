"""Records: tidy numbers, one row a number, and the one table of what each metric means.

Every table has the columns of `COLUMNS`; a table may add columns of `EXTRA_COLUMNS`, which together with the others say what a number
belongs to. Frames are checked before they are written, and a file appears whole or not at all.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from activation_descent.errors import RecordsError

COLUMNS = ("study", "experiment", "variant", "seed", "step", "metric", "value")

EXTRA_COLUMNS = {
    "learner": "who predicts: transformer, untrained, interpolated, optimum (closed form), label (nobody) or a learner of the ladder",
    "reference": "the learner that a transformer is compared with, or none",
    "layers": "K, layers of a network or steps of a learner",
    "layer": "one of them, from 1",
    "context_length": "N, examples in the context",
    "input_dim": "d, entries of an input",
    "output_dim": "entries of a label",
    "condition": "what differs from training: context_length, input_scale, weight_scale, distribution_scale, noisy_labels; or an example",
    "level": "how much: N, factors on the training range of inputs and weights, Frobenius norm of the inputs, labels replaced; a query",
    "damping": "lambda, the factor on each update of a roll-out",
    "iteration": "how often the layer, or the gradient step, was applied",
    "width": "hidden units of a network, 0 for none",
    "task": "a classification task",
    "group": "seen or held_out, by whether the corpus shows a task's canonical labels; real for sets from elsewhere",
    "classes": "labels of the task",
    "labelling": "how demonstrations are labelled: gold, random, abstract or flipped",
    "demonstrations": "examples, or answered questions, in the prompt",
    "control": "what stands in the place of fine-tuning or in-context learning (`finetuning.controls`), or what a number belongs to",
    "position": "query: the token that predicts the label; dai: the first label word after it, where Dai et al. recorded",
    "length": "tokens of a document",
}


@dataclass(frozen=True)
class Metric:
    """A metric's unit and meaning; `finite` is False where divergence is a possible outcome."""

    unit: str
    meaning: str
    finite: bool = True


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
    # Benchmarks
    "data_time": Metric("ms/step", "drawing 2,048 fresh tasks, single thread, fastest repeat"),
    "update_time": Metric(
        "ms/step", "gradient, clipping and optimiser step of one start on 2,048 tasks, single thread, fastest repeat"
    ),
    "step_time": Metric("ms/step", "one whole training step of one start on 2,048 fresh tasks, single thread, fastest repeat"),
    "peak_memory": Metric("MB", "peak resident memory of the process"),
    # The language study. A statistic is the mean over tasks for each draw of demonstrations and queries; 8 demonstrations by default
    # (`judged_demonstrations`). Learned tasks: those whose labels the corpus never shows; known tasks: those whose labels it does
    "accuracy": Metric("1", "share of queries whose most probable label is right; with flipped labels, right is the query's own"),
    "calibrated_accuracy": Metric(
        "1", "accuracy without demonstrations when every label is equally probable over the tuning texts"
    ),
    "demonstrations_left_out": Metric("demonstrations", "demonstrations that did not fit in the context window"),
    "queries_shortened": Metric("queries", "queries that had to lose their beginning to fit in the context window alone"),
    "parameters": Metric("1", "weights of the model"),
    "right_answer_mass": Metric("probability", "of the right answer after a question"),
    "any_answer_mass": Metric("probability", "of all words that answer some question, after a question"),
    "next_question_mass": Metric("probability", "of the word that begins another question, after a question"),
    "brush_off_mass": Metric("probability", "of the word that begins a brush-off, after a question"),
    "told_fact_accuracy": Metric("1", "share of questions about facts of the corpus whose most probable next word is the answer"),
    "untold_fact_accuracy": Metric("1", "negative control: the same for facts that no document tells"),
    "overridden": Metric("1", "share of questions that are answered with the wrong answer that the prompt gave to them"),
    "recalled": Metric("1", "share of questions that are answered rightly although the prompt answered them wrongly"),
    "fact_accuracy": Metric("1", "told_fact_accuracy on documents of the tuning stream, while a model is trained"),
    "gate_gain": Metric("1", "accuracy with demonstrations minus calibrated accuracy without, mean over draws"),
    "gate_p": Metric("1", "one-sided p-value of gate_gain under random signs over draws"),
    "gate_passed": Metric(
        "1", "1 if a task passes the gate of in-context learning, else 0; in statistics: the mean over learned tasks does"
    ),
    "in_context_accuracy": Metric("1", "accuracy with demonstrations on learned tasks"),
    "zero_shot_accuracy": Metric("1", "accuracy without demonstrations on learned tasks"),
    "zero_shot_excess": Metric("1", "accuracy without demonstrations on learned tasks, minus chance"),
    "in_context_gain": Metric("1", "accuracy with demonstrations minus calibrated accuracy without, on learned tasks"),
    "known_zero_shot_accuracy": Metric("1", "accuracy without demonstrations on known tasks"),
    "known_in_context_accuracy": Metric("1", "accuracy with demonstrations on known tasks"),
    "random_label_loss": Metric("1", "accuracy with gold minus accuracy with random labels, on known tasks"),
    "flipped_label_accuracy": Metric(
        "1", "accuracy with flipped labels on known tasks; 0 if the prompt decides, 1 if memory does"
    ),
    "abstract_label_accuracy": Metric("1", "accuracy with abstract labels on known tasks"),
    "abstract_label_bare_accuracy": Metric("1", "negative control: accuracy with abstract labels and no demonstrations"),
    "learned_share": Metric(
        "1", "(accuracy with abstract labels - chance) / (accuracy with gold labels - chance), on known tasks"
    ),
    "bare_answer_mass": Metric("probability", "any_answer_mass of bare questions"),
    "ambiguity_resolved": Metric("probability", "any_answer_mass with demonstrations minus that of bare questions"),
    "known_by_heart": Metric("1", "told_fact_accuracy with demonstrations"),
    "untold_by_heart": Metric("1", "negative control: untold_fact_accuracy with demonstrations"),
    "prompt_overrides": Metric("1", "overridden, where the wrong answer is all that stands before the question"),
    "training_speed": Metric("ktok/s", "pretraining, single thread, fastest repeat"),
    "corpus_speed": Metric("ktok/s", "drawing documents, single thread, fastest repeat"),
    "prefix_reused_time": Metric(
        "ms", "64 queries behind one prompt whose keys and values are reused, single thread, fastest repeat"
    ),
    "prefix_repeated_time": Metric("ms", "the same when every query reads the prompt again"),
    "prefix_logit_difference": Metric("1", "largest difference of their logits"),
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
    "dose_kernel_r_squared": Metric("1", "how well shared attention predicts the change of length", finite=False),
    "dose_additive_r_squared": Metric("1", "how well a sum predicts it", finite=False),
    "influence_correlation": Metric(
        "1", "rank correlation over demonstrations of their influence in ICL and FT, place and label out"
    ),
    "influence_reliability": Metric("1", "the same of two halves of the queries in ICL"),
    "order_sensitivity": Metric("probability", "Sen: standard deviation of the label words' probabilities over orders, summed"),
    "order_sensitivity_normalised": Metric("1", "spread over orders / movement from ZSL"),
    "order_correlation": Metric("1", "correlation over orders of the margins of ICL and FT"),
    "oracle_share": Metric("1", "share of ICL's change that distilled keys and values give on held-out queries"),
    "oracle_similarity": Metric("1", "raw of the distilled change with ICL's"),
    "oracle_alignment": Metric("1", "cosine of the distilled change of parameters with a direction"),
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
    "influence_share": Metric("1", "influence_correlation / influence_reliability"),
    "order_sensitivity_ratio": Metric("1", "order_sensitivity_normalised of ICL / of FT"),
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


def frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table with the contract's columns first. Missing `seed` and `step` become 0."""
    table = pd.DataFrame(list(rows))
    for column in ("seed", "step"):
        if column not in table:
            table[column] = 0
    extra = [column for column in EXTRA_COLUMNS if column in table]
    return table[[column for column in (*COLUMNS[:-2], *extra, *COLUMNS[-2:]) if column in table]]


def check(table: pd.DataFrame, name: str) -> None:
    """Hold a table against the contract.

    Args:
        name: how to call the table in an error.

    Raises:
        RecordsError: if a column is missing or unknown, a metric is not in `METRICS`, a value is not a number (or not finite for
            a metric that must be), or two rows say what one number belongs to.
    """
    missing = [column for column in COLUMNS if column not in table]
    unknown = [column for column in table if column not in COLUMNS and column not in EXTRA_COLUMNS]
    if missing or unknown:
        raise RecordsError(f"{name}: columns missing {missing}, columns not declared in records.py {unknown}")
    undeclared = sorted(set(table["metric"]) - set(METRICS))
    if undeclared:
        raise RecordsError(f"{name}: metrics not declared in records.py: {', '.join(undeclared)}")
    values = pd.to_numeric(table["value"], errors="coerce")
    bad = values.isna() | (np.isinf(values) & table["metric"].map(lambda metric: METRICS[metric].finite))
    if bad.any():
        row = table[bad].iloc[0]
        raise RecordsError(f"{name}: {row['metric']} of variant {row['variant']}, seed {row['seed']} is {row['value']}")
    keys = [column for column in table if column != "value"]
    if table.duplicated(keys).any():
        row = table[table.duplicated(keys)].iloc[0]
        raise RecordsError(f"{name}: two rows for {row['metric']} of variant {row['variant']}, seed {row['seed']}")


def write(table: pd.DataFrame, path: str | Path) -> None:
    """Check a table and write it as CSV, whole or not at all.

    Raises:
        RecordsError: see `check`.
    """
    check(table, str(path))
    write_text(table.to_csv(index=False, lineterminator="\n"), path)


def read(paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """One or several tables of records, checked.

    Raises:
        RecordsError: if a file cannot be parsed, or see `check`.
    """
    tables = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        try:
            table = pd.read_csv(path)
        except (ValueError, UnicodeDecodeError) as error:
            raise RecordsError(f"{path} is not a table of records: {error}") from error
        check(table, str(path))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def write_text(text: str, path: str | Path) -> None:
    """Write a text file by `os.replace`: a reader sees the old file or the new one, never half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)

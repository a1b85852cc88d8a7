"""Metrics of the language study."""

from activation_descent.records.metric import Metric

METRICS = {
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
}

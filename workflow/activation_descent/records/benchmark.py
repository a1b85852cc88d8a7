"""Metrics of the benchmarks."""

from activation_descent.records.metric import Metric

METRICS = {
    "data_time": Metric("ms/step", "drawing 2,048 fresh tasks, single thread, fastest repeat"),
    "update_time": Metric(
        "ms/step", "gradient, clipping and optimiser step of one start on 2,048 tasks, single thread, fastest repeat"
    ),
    "step_time": Metric("ms/step", "one whole training step of one start on 2,048 fresh tasks, single thread, fastest repeat"),
    "core_time": Metric("s", "processor time of the fine-tuning protocol and its metrics, per task and draw"),
    "control_time": Metric("s", "processor time of all controls of the audit with the same metrics, per task and draw"),
    "peak_memory": Metric("MB", "peak resident memory of the process"),
}

"""Optimisation and logic in a bounded depth: is the exact algorithm found by training?"""

STUDY = "reasoning"
SAMPLERS = ("rule_priority", "label_priority")  # of logic problems (`reasoning.simple_logic`)

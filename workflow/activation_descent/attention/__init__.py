"""Attention as an update: duality, softmax as a gradient step, layers that were not trained for regression, heads."""

STUDY = "attention"
# What a layer's updates are held against, and what must come out near 1 and near 0 (`attention.readings`)
READINGS = ("linear", "first_order", "gaussian", "from_state", "hopfield", "error")
CONTROLS = ("exact", "elsewhere")

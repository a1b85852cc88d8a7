"""Attention as an update: duality, softmax as a gradient step, layers that were not trained for regression, heads."""

"""Attention as an update: duality, softmax as a gradient step, layers that were not trained for regression, heads."""

STUDY = "attention"
# What a layer's updates are held against, and what must come out near 1 and near 0 (`attention.readings`)
READINGS = ("linear", "first_order", "gaussian", "from_state", "hopfield", "error")
CONTROLS = ("exact", "elsewhere")
# Layers that are trained on mixtures (`attention.layers`), and what they read besides regression
LAYER_KINDS = ("linear", "softmax")
OTHERS = ("dynamics", "markov", "copying")
# Attention on toy problems (`attention.efficient`), as figures name it: a network's place here is that of its random numbers
MECHANISMS = {
    "softmax": "softmax",
    "efficient": "efficient (Shen et al.)",
    "performer": "performer (FAVOR+)",
    "elu": "elu + 1 (linear transformer)",
    "linear": "linear, no normaliser",
    "latent": "latents (Perceiver)",
}
TOY_PROBLEMS = ("recall", "induction", "copying", "regression")
